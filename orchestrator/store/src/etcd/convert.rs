//! Between our types and etcd's.

use bytes::Bytes;
use etcd_client::{
    Compare as EtcdCompare, CompareOp, Event as EtcdEvent, EventType, GetOptions, KeyValue as EtcdKeyValue,
    PutOptions, ResponseHeader, Txn as EtcdTxn, TxnOp, TxnOpResponse, TxnResponse,
};

use crate::{
    Classes, Compare, Event, KeyRange, KeyValue, LeaseId, Op, RangeMode, Revision, StorageClass, StoreError,
    Txn, TxnResult,
};

/// Start and end of a range. etcd's smallest key is one zero byte, which as an end means "no bound".
pub(super) fn range(range: &KeyRange) -> (Vec<u8>, Vec<u8>) {
    let or_zero = |bytes: &Bytes| if bytes.is_empty() { vec![0] } else { bytes.to_vec() };
    (or_zero(&range.start), or_zero(&range.end))
}

/// One page of a range.
pub(super) fn page(mode: RangeMode, limit: usize, at: Option<Revision>) -> GetOptions {
    let options = GetOptions::new().with_revision(at.unwrap_or(0) as i64);
    match mode {
        RangeMode::All => options.with_limit(limit as i64),
        RangeMode::KeysOnly => options.with_limit(limit as i64).with_keys_only(),
        RangeMode::CountOnly => options.with_count_only(),
    }
}

/// A transaction; events without a lease of their own go under `event_lease`.
pub(super) fn txn(txn: &Txn, classes: &Classes, event_lease: Option<LeaseId>) -> EtcdTxn {
    let compare = |Compare::ModRevision { key, equals }: &Compare| {
        EtcdCompare::mod_revision(&key[..], CompareOp::Equal, *equals as i64)
    };
    let change = |op: &Op| match op {
        Op::Put { key, value, lease } => {
            let lease = lease.or_else(|| event_lease.filter(|_| classes.of(key) == StorageClass::Event));
            TxnOp::put(&key[..], &value[..], lease.map(|LeaseId(id)| PutOptions::new().with_lease(id)))
        }
        Op::Delete { key } => TxnOp::delete(&key[..], None),
    };
    EtcdTxn::new()
        .when(txn.compare.iter().map(compare).collect::<Vec<_>>())
        .and_then(txn.then.iter().map(change).collect::<Vec<_>>())
        .or_else(txn.or_else_get.iter().map(|key| TxnOp::get(&key[..], None)).collect::<Vec<_>>())
}

/// How it ended.
pub(super) fn txn_result(response: &TxnResponse) -> TxnResult {
    let revision = revision(response.header());
    if response.succeeded() {
        return TxnResult::Committed { revision };
    }
    let found = |response| match response {
        TxnOpResponse::Get(mut get) => get.take_kvs().into_iter().next().map(key_value),
        _ => None,
    };
    TxnResult::Conflict { current: response.op_responses().into_iter().map(found).collect(), revision }
}

/// etcd does not say which lease it has not found.
pub(super) fn name_lease(error: StoreError, txn: &Txn) -> StoreError {
    let named = txn.then.iter().find_map(|op| if let Op::Put { lease, .. } = op { *lease } else { None });
    match (error, named) {
        (StoreError::LeaseNotFound { .. }, Some(lease)) => StoreError::LeaseNotFound { lease },
        (error, _) => error,
    }
}

/// A key without copying its bytes.
pub(super) fn key_value(kv: EtcdKeyValue) -> KeyValue {
    let (create, modified, version) = (kv.create_revision(), kv.mod_revision(), kv.version());
    let (key, value) = kv.into_key_value();
    KeyValue {
        key: key.into(),
        value: value.into(),
        create_revision: create.unsigned_abs(),
        mod_revision: modified.unsigned_abs(),
        version: version.unsigned_abs(),
    }
}

/// An event; `None` for one without a key, which etcd does not send.
pub(super) fn event(event: &EtcdEvent) -> Option<Event> {
    let kv = event.kv()?;
    let prev = event.prev_kv().cloned().map(key_value);
    Some(match event.event_type() {
        EventType::Put => Event::Put { kv: key_value(kv.clone()), prev },
        EventType::Delete => Event::Delete {
            key: Bytes::copy_from_slice(kv.key()),
            prev,
            revision: kv.mod_revision().unsigned_abs(),
        },
    })
}

/// The store's revision when it answered.
pub(super) fn revision(header: Option<&ResponseHeader>) -> Revision {
    header.map_or(0, |header| header.revision().unsigned_abs())
}
