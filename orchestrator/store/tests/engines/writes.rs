//! Revisions, versions and transactions.

use store::{Compare, Op, StoreError, Txn, TxnResult};

use crate::rig::{Rig, commit, delete, get, list, put};

pub async fn keys_have_their_revisions(rig: Rig) {
    let store = rig.open().await;
    let created = put(&*store, "/a", "1").await;
    let updated = put(&*store, "/a", "2").await;
    assert!(updated > created);
    let kv = get(&*store, "/a").await.expect("exists");
    assert_eq!(
        (kv.create_revision, kv.mod_revision, kv.version, &kv.value[..]),
        (created, updated, 2, &b"2"[..])
    );
    let deleted = delete(&*store, "/a").await;
    assert!(deleted > updated && get(&*store, "/a").await.is_none());
    let again = put(&*store, "/a", "3").await;
    let kv = get(&*store, "/a").await.expect("exists");
    assert_eq!((kv.create_revision, kv.mod_revision, kv.version), (again, again, 1));
    assert_eq!(store.revision().await, Ok(again));
}

pub async fn nothing_to_do_takes_no_revision(rig: Rig) {
    let store = rig.open().await;
    let before = put(&*store, "/a", "1").await;
    assert_eq!(commit(&*store, vec![]).await, before);
    assert_eq!(delete(&*store, "/absent").await, before);
    assert_eq!(store.revision().await, Ok(before));
}

pub async fn several_keys_change_at_one_revision(rig: Rig) {
    let store = rig.open().await;
    let first = put(&*store, "/service", "old").await;
    put(&*store, "/gone", "x").await;
    let txn = Txn {
        compare: vec![Compare::unchanged("/service", first), Compare::absent("/claim")],
        then: vec![Op::put("/service", "new"), Op::put("/claim", "10.96.0.7"), Op::delete("/gone")],
        or_else_get: vec![],
    };
    let TxnResult::Committed { revision } = store.txn(txn.clone()).await.expect("commits") else {
        panic!("the conditions hold")
    };
    assert_eq!(list(&*store, "/", None).await, ["/claim=10.96.0.7", "/service=new"]);
    for key in ["/service", "/claim"] {
        assert_eq!(get(&*store, key).await.expect("exists").mod_revision, revision);
    }
    let TxnResult::Conflict { current, .. } = store.txn(txn).await.expect("answers") else {
        panic!("the conditions do not hold any more")
    };
    assert_eq!(current, []);
    assert_eq!(store.revision().await, Ok(revision), "a conflict changes nothing");
}

pub async fn a_conflict_says_what_is_there(rig: Rig) {
    let store = rig.open().await;
    let revision = put(&*store, "/a", "1").await;
    let later = put(&*store, "/b", "2").await;
    let txn = Txn {
        compare: vec![Compare::absent("/a")],
        then: vec![Op::put("/a", "x")],
        or_else_get: vec!["/b".into(), "/absent".into(), "/a".into()],
    };
    let result = store.txn(txn).await.expect("answers");
    let TxnResult::Conflict { current, revision: at } = result else { panic!("{result:?}") };
    assert_eq!(at, later);
    let seen: Vec<_> =
        current.iter().map(|kv| kv.as_ref().map(|kv| (&kv.value[..], kv.mod_revision))).collect();
    assert_eq!(seen, [Some((&b"2"[..], later)), None, Some((&b"1"[..], revision))]);

    let stale = Txn { compare: vec![Compare::unchanged("/a", revision - 1)], ..Txn::default() };
    assert!(matches!(store.txn(stale).await, Ok(TxnResult::Conflict { .. })));
}

pub async fn senseless_requests_are_refused(rig: Rig) {
    let store = rig.open().await;
    let send = async |then| store.txn(Txn { then, ..Txn::default() }).await;
    assert!(matches!(send(vec![Op::put("", "x")]).await, Err(StoreError::Invalid { .. })));
    assert!(matches!(
        send(vec![Op::put("/a", "x"), Op::delete("/a")]).await,
        Err(StoreError::Invalid { .. })
    ));
    assert!(matches!(send(vec![Op::put("/a", vec![0; 2 << 20])]).await, Err(StoreError::TooLarge { .. })));
    assert!(get(&*store, "/a").await.is_none());
    // The biggest that is allowed works in both engines.
    let Err(StoreError::TooLarge { limit, .. }) = send(vec![Op::put("/a", vec![0; 2 << 20])]).await else {
        panic!("too large")
    };
    put(&*store, "/big", vec![7; limit - "/big".len()]).await;
    assert_eq!(get(&*store, "/big").await.expect("exists").value.len(), limit - "/big".len());
}

pub async fn any_bytes_are_keys_and_values(rig: Rig) {
    let store = rig.open().await;
    put(&*store, "/empty", "").await;
    assert_eq!(get(&*store, "/empty").await.expect("exists").value.len(), 0);
    let key = vec![0xff, 0, 0xfe];
    let all: Vec<u8> = (0..=255).collect();
    commit(&*store, vec![Op::put(key.clone(), all.clone())]).await;
    let result = store.range(store::KeyRange::key(key), store::RangeOptions::default()).await.expect("reads");
    assert_eq!(result.items[0].value, all);
    let everything =
        store.range(store::KeyRange::prefix(""), store::RangeOptions::default()).await.expect("reads");
    assert_eq!(everything.count, 2);
}
