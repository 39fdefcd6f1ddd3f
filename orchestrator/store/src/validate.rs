//! What both engines refuse, so that neither takes what the other would not.

use std::collections::HashSet;

use crate::{
    class::{Classes, StorageClass},
    error::StoreError,
    types::{Compare, KeyRange, Op, Txn},
};

/// etcd takes requests of 1.5 MiB with all that surrounds the values, and so much less fits into one of them.
pub(crate) const REQUEST_BYTES_MAX: usize = (3 << 19) - (16 << 10);

/// etcd's default for the operations of a transaction.
pub(crate) const TXN_OPS_MAX: usize = 128;

/// Four times the longest key that names and namespaces of Kubernetes can make.
const KEY_BYTES_MAX: usize = 4096;

/// Checks a transaction before an engine sees it; its bytes.
pub(crate) fn txn(txn: &Txn, classes: &Classes) -> Result<usize, StoreError> {
    let compared = txn.compare.iter().map(|Compare::ModRevision { key, .. }| key);
    let changed = || txn.then.iter().map(Op::key);
    let mut size = 0;
    for key in compared.chain(changed()).chain(&txn.or_else_get) {
        check_key(key)?;
        size += key.len();
    }
    size += txn.then.iter().map(value_bytes).sum::<usize>();
    if size > REQUEST_BYTES_MAX {
        return Err(StoreError::TooLarge { size, limit: REQUEST_BYTES_MAX });
    }
    for (what, count) in
        [("conditions", txn.compare.len()), ("changes", txn.then.len()), ("keys", txn.or_else_get.len())]
    {
        if count > TXN_OPS_MAX {
            return Err(invalid(format!(
                "{count} {what} in one transaction, at most {TXN_OPS_MAX} are possible"
            )));
        }
    }
    let mut seen = HashSet::new();
    if let Some(twice) = changed().find(|key| txn.then.len() > 1 && !seen.insert(*key)) {
        return Err(invalid(format!("{} is changed twice in one transaction", twice.escape_ascii())));
    }
    txn.then.iter().try_for_each(|op| check_lease(op, classes))?;
    Ok(size)
}

/// Checks what is to be watched.
pub(crate) fn watch(range: &KeyRange) -> Result<(), StoreError> {
    if range.is_empty() { Err(invalid("the range to watch is empty".into())) } else { Ok(()) }
}

fn value_bytes(op: &Op) -> usize {
    match op {
        Op::Put { value, .. } => value.len(),
        Op::Delete { .. } => 0,
    }
}

fn check_key(key: &[u8]) -> Result<(), StoreError> {
    match key.len() {
        0 => Err(invalid("a key is empty".into())),
        1..=KEY_BYTES_MAX => Ok(()),
        size => Err(StoreError::TooLarge { size, limit: KEY_BYTES_MAX }),
    }
}

/// Leases end with the process in the embedded engine; a durable key under one would come back without it.
fn check_lease(op: &Op, classes: &Classes) -> Result<(), StoreError> {
    match op {
        Op::Put { key, lease: Some(_), .. } if classes.of(key) == StorageClass::Durable => {
            Err(invalid(format!("{} is durable and cannot have a lease", key.escape_ascii())))
        }
        _ => Ok(()),
    }
}

fn invalid(reason: String) -> StoreError {
    StoreError::Invalid { reason }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::LeaseId;

    fn check(then: Vec<Op>) -> Result<usize, StoreError> {
        txn(&Txn { then, ..Txn::default() }, &Classes::new([("e/", StorageClass::Event)]))
    }

    #[test]
    fn accepts_and_refuses() {
        assert_eq!(check(vec![Op::put("a", "12"), Op::delete("b")]), Ok(4));
        let leased =
            |key: &'static str| Op::Put { key: key.into(), value: "".into(), lease: Some(LeaseId(1)) };
        assert!(check(vec![leased("e/1")]).is_ok());
        for (then, says) in [
            (vec![Op::put("", "")], "empty"),
            (vec![Op::put("a", ""), Op::delete("a")], "twice"),
            (vec![leased("d/1")], "durable"),
            (vec![Op::put("a", vec![0; REQUEST_BYTES_MAX])], "at most"),
            (vec![Op::delete("k".repeat(5000))], "5000"),
            ((0..200).map(|number| Op::delete(number.to_string())).collect(), "200 changes"),
        ] {
            let error = check(then).expect_err(says).to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
