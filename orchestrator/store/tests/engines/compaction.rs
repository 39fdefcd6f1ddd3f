//! Giving up history.

use store::{KeyRange, Op, RangeOptions, StoreError};

use crate::rig::{Rig, commit, delete, list, next, next_events, put};

pub async fn old_revisions_are_refused(rig: Rig) {
    let store = rig.open().await;
    let first = put(&*store, "/a", "1").await;
    let second = put(&*store, "/a", "2").await;
    put(&*store, "/a", "3").await;
    store.compact(second).await.expect("compacts");
    assert_eq!(
        list(&*store, "/", Some(second)).await,
        ["/a=2"],
        "the compacted revision itself stays readable"
    );
    let options = RangeOptions { revision: Some(first), ..RangeOptions::default() };
    let error = store.range(KeyRange::prefix("/"), options).await.expect_err("gone");
    assert_eq!(error, StoreError::Compacted { requested: first, oldest: second });
    assert!(
        matches!(store.compact(second).await, Err(StoreError::Compacted { .. })),
        "twice is once too often"
    );
    assert!(matches!(store.compact(second + 1000).await, Err(StoreError::FutureRevision { .. })));
}

pub async fn what_lives_survives(rig: Rig) {
    let mut rig = rig;
    let store = rig.open().await;
    commit(
        &*store,
        vec![Op::put("/both/stays", "1"), Op::put("/both/goes", "1"), Op::put("/both/changes", "1")],
    )
    .await;
    put(&*store, "/once", "1").await;
    for number in 0..500 {
        put(&*store, "/often", number.to_string()).await;
    }
    put(&*store, "/both/changes", "2").await;
    delete(&*store, "/both/changes").await;
    let last = delete(&*store, "/both/goes").await;
    store.compact(last).await.expect("compacts");
    let expected = ["/both/stays=1", "/often=499", "/once=1"];
    assert_eq!(list(&*store, "/", None).await, expected);
    // What comes next is not disturbed by the removal, which goes on meanwhile.
    put(&*store, "/both/goes", "again").await;
    delete(&*store, "/both/goes").await;
    store.close().await;
    if let Some(etcd) = &mut rig.etcd {
        etcd.kill();
        etcd.restart();
    }
    let store = rig.open().await;
    assert_eq!(list(&*store, "/", None).await, expected, "nothing comes back after a restart");
}

pub async fn watches_of_old_revisions_are_refused(rig: Rig) {
    let store = rig.open().await;
    let first = put(&*store, "/a", "1").await;
    put(&*store, "/a", "2").await;
    let third = put(&*store, "/a", "3").await;
    let mut open = store.watch(KeyRange::key("/a"), third + 1).await.expect("watches");
    store.compact(third).await.expect("compacts");
    let error = match store.watch(KeyRange::key("/a"), first).await {
        Ok(mut watch) => next(&mut watch).await.expect_err("gone"),
        Err(error) => error,
    };
    assert!(
        matches!(error, StoreError::Compacted { requested, oldest } if requested == first && oldest > first),
        "{error}"
    );
    put(&*store, "/a", "4").await;
    assert_eq!(next_events(&mut open).await, "/a=4<3", "a watcher that is ahead goes on");
    let mut later = store.watch(KeyRange::key("/a"), third + 1).await.expect("watches");
    assert_eq!(next_events(&mut later).await, "/a=4<3");
}
