//! Reading: at revisions, in pages, keys and counts alone.

use store::{KeyRange, Op, RangeMode, RangeOptions, StoreError};

use crate::rig::{Rig, commit, delete, list, put};

pub async fn each_revision_reads_as_it_was(rig: Rig) {
    let store = rig.open().await;
    let first = put(&*store, "/a", "1").await;
    let second = commit(&*store, vec![Op::put("/a", "2"), Op::put("/b", "1")]).await;
    let third = delete(&*store, "/a").await;
    let fourth = put(&*store, "/a", "3").await;
    put(&*store, "/a", "4").await;
    assert_eq!(list(&*store, "/", Some(first)).await, ["/a=1"]);
    assert_eq!(list(&*store, "/", Some(second)).await, ["/a=2", "/b=1"]);
    assert_eq!(list(&*store, "/", Some(third)).await, ["/b=1"]);
    assert_eq!(list(&*store, "/", Some(fourth)).await, ["/a=3", "/b=1"]);
    assert_eq!(list(&*store, "/", None).await, ["/a=4", "/b=1"]);

    let future = RangeOptions { revision: Some(fourth + 1000), ..RangeOptions::default() };
    let error = store.range(KeyRange::prefix("/"), future).await.expect_err("not yet");
    assert_eq!(error, StoreError::FutureRevision { requested: fourth + 1000, current: fourth + 1 });
}

pub async fn limits_count_and_page(rig: Rig) {
    let store = rig.open().await;
    for key in ["/a", "/b", "/c", "/d", "/e", "/other"] {
        put(&*store, key, key.to_owned()).await;
    }
    let range = KeyRange { start: "/a".into(), end: "/f".into() };
    let page = |revision| RangeOptions { revision, limit: 2, ..RangeOptions::default() };
    let first = store.range(range.clone(), page(None)).await.expect("reads");
    assert_eq!((first.items.len(), first.more, first.count), (2, true, 5));
    delete(&*store, "/c").await;
    let rest = range.after(&first.items[1].key);
    let second = store.range(rest.clone(), page(Some(first.revision))).await.expect("reads");
    assert_eq!(second.items.iter().map(|kv| &kv.key[..]).collect::<Vec<_>>(), [b"/c", b"/d"]);
    assert_eq!((second.more, second.count, second.revision), (true, 3, first.revision));
    let last = store.range(rest.after(b"/d"), page(Some(first.revision))).await.expect("reads");
    assert_eq!((last.items.len(), last.more, last.count), (1, false, 1));
    let exact =
        store.range(range, RangeOptions { limit: 4, ..RangeOptions::default() }).await.expect("reads");
    assert_eq!((exact.items.len(), exact.more), (4, false), "a limit that fits exactly cuts nothing");
    let none = store.range(KeyRange { start: "/z".into(), end: "/a".into() }, RangeOptions::default()).await;
    assert_eq!(none.map(|none| none.count), Ok(0));
}

pub async fn a_long_listing_is_one_state(rig: Rig) {
    /// More than a page of either engine.
    const KEYS: usize = 1500;
    let store = rig.open().await;
    for chunk in (0..KEYS).collect::<Vec<_>>().chunks(100) {
        commit(&*store, chunk.iter().map(|number| Op::put(format!("/n/{number:05}"), "0")).collect()).await;
    }
    // Pairs of keys change together: no listing may see one without the other.
    let writer = {
        let store = store.clone();
        tokio::spawn(async move {
            for round in 1..200_usize {
                let value = round.to_string();
                let ends =
                    vec![Op::put("/n/00000", value.clone()), Op::put(format!("/n/{:05}", KEYS - 1), value)];
                commit(&*store, ends).await;
            }
        })
    };
    while !writer.is_finished() {
        let result = store.range(KeyRange::prefix("/n/"), RangeOptions::default()).await.expect("reads");
        assert_eq!((result.items.len(), result.count), (KEYS, KEYS as u64));
        assert_eq!(result.items[0].value, result.items[KEYS - 1].value);
        assert!(result.items.iter().all(|kv| kv.mod_revision <= result.revision));
    }
    writer.await.expect("writes");
}

pub async fn modes_return_what_they_say(rig: Rig) {
    let store = rig.open().await;
    let revision = put(&*store, "/a", "1").await;
    put(&*store, "/b", "2").await;
    let read = async |mode, limit| {
        let options = RangeOptions { mode, limit, ..RangeOptions::default() };
        store.range(KeyRange::prefix("/"), options).await.expect("reads")
    };
    let keys = read(RangeMode::KeysOnly, 1).await;
    assert_eq!((keys.items[0].value.len(), keys.items[0].mod_revision, keys.more), (0, revision, true));
    let count = read(RangeMode::CountOnly, 1).await;
    assert_eq!((count.items.len(), count.count, count.more), (0, 2, false));
}
