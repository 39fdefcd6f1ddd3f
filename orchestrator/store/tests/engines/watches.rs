//! Watching: replay, order, ranges, progress, slow readers.

use std::collections::BTreeMap;

use futures::{FutureExt, StreamExt};
use store::{Event, KeyRange, Op, StoreError, WatchItem};

use crate::rig::{Rig, commit, delete, next, next_events, put};

pub async fn history_is_replayed_in_order(rig: Rig) {
    let store = rig.open().await;
    let first = put(&*store, "/a", "1").await;
    put(&*store, "/a", "2").await;
    let third = delete(&*store, "/a").await;
    put(&*store, "/a", "3").await;
    for (from, expected) in [
        (0, vec!["/a=1<-", "/a=2<1", "-/a<2", "/a=3<-"]),
        (first, vec!["/a=1<-", "/a=2<1", "-/a<2", "/a=3<-"]),
        (third, vec!["-/a<2", "/a=3<-"]),
    ] {
        let mut watch = store.watch(KeyRange::key("/a"), from).await.expect("watches");
        for expected in expected {
            assert_eq!(next_events(&mut watch).await, expected);
        }
    }
    let mut watch = store.watch(KeyRange::key("/a"), third).await.expect("watches");
    put(&*store, "/a", "4").await;
    for expected in ["-/a<2", "/a=3<-", "/a=4<3"] {
        assert_eq!(next_events(&mut watch).await, expected, "replay and what follows are one");
    }
}

pub async fn a_transaction_is_one_item(rig: Rig) {
    let store = rig.open().await;
    let revision = put(&*store, "/b", "0").await;
    let mut watch = store.watch(KeyRange::prefix("/"), revision + 1).await.expect("watches");
    commit(&*store, vec![Op::put("/c", "1"), Op::delete("/b"), Op::put("/a", "1")]).await;
    assert_eq!(next_events(&mut watch).await, "/c=1<-, -/b<0, /a=1<-");
    let mut part = store.watch(KeyRange::key("/a"), 1).await.expect("watches");
    assert_eq!(next_events(&mut part).await, "/a=1<-");
}

pub async fn only_the_range_is_seen(rig: Rig) {
    let store = rig.open().await;
    let mut watch = store.watch(KeyRange::prefix("/pods/"), 1).await.expect("watches");
    for key in ["/pod", "/pods", "/pods/a", "/pods0", "/services/a", "/pods/b"] {
        put(&*store, key, "x").await;
    }
    assert_eq!(next_events(&mut watch).await, "/pods/a=x<-");
    assert_eq!(next_events(&mut watch).await, "/pods/b=x<-");
    let error = store.watch(KeyRange { start: "b".into(), end: "a".into() }, 1).await.err();
    assert!(matches!(error, Some(StoreError::Invalid { .. })));
}

pub async fn all_watchers_see_one_order(rig: Rig) {
    const WRITERS: usize = 8;
    const WRITES: usize = 50;
    let store = rig.open().await;
    let start = store.revision().await.expect("reads") + 1;
    let watchers: Vec<_> = (0..4)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move {
                let mut watch = store.watch(KeyRange::prefix("/k/"), start).await.expect("watches");
                let mut seen = Vec::new();
                while seen.len() < WRITERS * WRITES {
                    if let WatchItem::Events { revision, events } = next(&mut watch).await.expect("no error")
                    {
                        seen.extend(events.into_iter().map(|event| (revision, event)));
                    }
                }
                seen
            })
        })
        .collect();
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let store = store.clone();
            tokio::spawn(async move {
                for write in 0..WRITES {
                    put(&*store, &format!("/k/{}", (writer + write) % 5), format!("{writer}.{write}")).await;
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.expect("writes");
    }
    let mut orders = Vec::new();
    for watcher in watchers {
        orders.push(watcher.await.expect("watches"));
    }
    assert!(orders[0].is_sorted_by(|(one, _), (other, _)| one < other), "revisions grow");
    check_chain(&orders[0]);
    assert!(orders.iter().all(|order| *order == orders[0]));
}

/// Every event's former state is the one before it: nothing is missing between.
fn check_chain(events: &[(u64, Event)]) {
    let mut last = BTreeMap::new();
    for (_, event) in events {
        let Event::Put { kv, prev } = event else { panic!("no deletes: {event:?}") };
        assert_eq!(prev.as_ref(), last.get(&kv.key));
        last.insert(kv.key.clone(), kv.clone());
    }
}

pub async fn the_future_can_be_watched(rig: Rig) {
    let store = rig.open().await;
    let revision = put(&*store, "/a", "1").await;
    let mut watch = store.watch(KeyRange::key("/a"), revision + 3).await.expect("watches");
    for value in ["2", "3", "4"] {
        put(&*store, "/a", value).await;
    }
    assert_eq!(next_events(&mut watch).await, "/a=4<3");
}

pub async fn progress_follows_requests(rig: Rig) {
    let store = rig.open().await;
    let mut busy = store.watch(KeyRange::prefix("/busy/"), 1).await.expect("watches");
    let mut quiet = store.watch(KeyRange::prefix("/quiet/"), 1).await.expect("watches");
    for number in 0..10 {
        put(&*store, &format!("/busy/{number}"), "x").await;
    }
    let current = store.revision().await.expect("reads");
    if !store.progress_is_reliable() {
        assert!(matches!(store.request_progress().await, Err(StoreError::Unsupported { .. })));
        return;
    }
    store.request_progress().await.expect("asks");
    let WatchItem::Progress { revision } = next(&mut quiet).await.expect("no error") else {
        panic!("nothing happened")
    };
    assert!(revision >= current);
    let mut seen = 0;
    loop {
        match next(&mut busy).await.expect("no error") {
            WatchItem::Events { .. } => seen += 1,
            WatchItem::Progress { revision } if revision >= current => break,
            WatchItem::Progress { .. } => {}
        }
    }
    assert_eq!(seen, 10, "progress comes after the events that it covers");
    assert!(quiet.next().now_or_never().is_none(), "it is answered once");
}

/// Fills what lies between a writer and a watcher that does not read.
const SLOW_WRITES: usize = 600;
const SLOW_BYTES: usize = 64 << 10;

pub async fn a_slow_watcher_loses_nothing(rig: Rig) {
    let store = rig.open().await;
    let mut watch = store.watch(KeyRange::prefix("/s/"), 1).await.expect("watches");
    for number in 0..SLOW_WRITES {
        put(&*store, &format!("/s/{number:04}"), vec![0; SLOW_BYTES]).await;
    }
    for number in 0..SLOW_WRITES {
        let WatchItem::Events { events, .. } = next(&mut watch).await.expect("no error") else { continue };
        assert_eq!(events[0].key(), format!("/s/{number:04}").as_bytes());
    }
}

pub async fn a_watcher_overtaken_by_compaction_ends(rig: Rig) {
    let store = rig.open().await;
    let mut watch = store.watch(KeyRange::key("/s"), 1).await.expect("watches");
    let mut last = 0;
    for number in 0..SLOW_WRITES {
        let mut value = vec![0; SLOW_BYTES];
        value[..8].copy_from_slice(&number.to_le_bytes());
        last = put(&*store, "/s", value).await;
    }
    store.compact(last).await.expect("compacts");
    let mut expected = 0_usize;
    let error = loop {
        match watch.next().await.expect("ends with an error") {
            Ok(WatchItem::Progress { .. }) => {}
            Ok(WatchItem::Events { events, .. }) => {
                let Event::Put { kv, .. } = &events[0] else { panic!("no deletes") };
                assert_eq!(kv.value[..8], expected.to_le_bytes(), "nothing is skipped before the end");
                expected += 1;
            }
            Err(error) => break error,
        }
    };
    assert!(matches!(error, StoreError::Compacted { .. }), "{error}");
    assert!(expected < SLOW_WRITES, "it was slow");
    assert!(watch.next().await.is_none(), "an error is the last item");
}
