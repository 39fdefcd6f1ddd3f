//! Makes stores to test: an embedded one in a temporary directory, or one over an etcd process of its own.

use std::{path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::StreamExt;
use prometheus::Registry;
use store::{
    Classes, EngineConfig, Event, KeyRange, KeyValue, Op, RangeOptions, Revision, StorageClass, Store,
    StoreConfig, StoreError, Txn, TxnResult, WatchItem, WatchStream,
};
use tempfile::TempDir;

use crate::etcd::Etcd;

/// Keys with this prefix are events, and live for [`EVENT_TTL`].
pub const EVENTS: &str = "/events/";

/// Keys with this prefix are leases.
pub const LEASES: &str = "/leases/";

/// Short enough for a test to await, long enough to be there when looked at.
pub const EVENT_TTL: Duration = Duration::from_secs(2);

/// Whatever should happen happens within this time, on the slowest machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Something to open stores on.
pub struct Rig {
    pub directory: TempDir,
    pub etcd: Option<Etcd>,
    pub event_ttl: Duration,
}

impl Rig {
    /// The embedded engine.
    pub fn embedded() -> Self {
        Self { directory: temporary(), etcd: None, event_ttl: EVENT_TTL }
    }

    /// An etcd of its own.
    pub fn etcd() -> Self {
        let directory = temporary();
        let etcd = Etcd::start(directory.path());
        Self { directory, etcd: Some(etcd), event_ttl: EVENT_TTL }
    }

    /// Where the embedded store lies.
    pub fn path(&self) -> PathBuf {
        self.directory.path().join("store")
    }

    pub fn config(&self) -> StoreConfig {
        let engine = match &self.etcd {
            Some(etcd) => EngineConfig::Etcd { endpoints: vec![etcd.url()] },
            None => EngineConfig::Embedded { path: self.path() },
        };
        StoreConfig { classes: classes(), event_ttl: self.event_ttl, ..StoreConfig::new(engine) }
    }

    /// Opens the store; its metrics are thrown away.
    pub async fn open(&self) -> Arc<dyn Store> {
        self.try_open().await.expect("opens")
    }

    pub async fn try_open(&self) -> Result<Arc<dyn Store>, StoreError> {
        store::open(self.config(), &Registry::new()).await
    }
}

pub fn classes() -> Classes {
    Classes::new([(EVENTS, StorageClass::Event), (LEASES, StorageClass::Lease)])
}

pub fn temporary() -> TempDir {
    tempfile::Builder::new().prefix("bowsprit-store-").tempdir().expect("a temporary directory")
}

/// Puts one key.
pub async fn put(store: &dyn Store, key: &str, value: impl Into<Bytes>) -> Revision {
    commit(store, vec![Op::put(key.to_owned(), value)]).await
}

/// Deletes one key.
pub async fn delete(store: &dyn Store, key: &str) -> Revision {
    commit(store, vec![Op::delete(key.to_owned())]).await
}

/// Changes keys without a condition.
pub async fn commit(store: &dyn Store, then: Vec<Op>) -> Revision {
    match store.txn(Txn { then, ..Txn::default() }).await.expect("commits") {
        TxnResult::Committed { revision } => revision,
        TxnResult::Conflict { .. } => panic!("no condition, no conflict"),
    }
}

/// One key as it is now.
pub async fn get(store: &dyn Store, key: &str) -> Option<KeyValue> {
    let result = store.range(KeyRange::key(key.to_owned()), RangeOptions::default()).await.expect("reads");
    result.items.into_iter().next()
}

/// The keys and values of a prefix, at a revision or now, as `key=value`.
pub async fn list(store: &dyn Store, prefix: &str, revision: Option<Revision>) -> Vec<String> {
    let options = RangeOptions { revision, ..RangeOptions::default() };
    let result = store.range(KeyRange::prefix(prefix.to_owned()), options).await.expect("reads");
    result.items.iter().map(|kv| format!("{}={}", text(&kv.key), text(&kv.value))).collect()
}

pub fn text(bytes: &Bytes) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The next item of a watch.
pub async fn next(watch: &mut WatchStream) -> Result<WatchItem, StoreError> {
    let item = tokio::time::timeout(PATIENCE, watch.next()).await.expect("an item in time");
    item.expect("the watch goes on")
}

/// The next events of a watch, described; progress is passed over.
pub async fn next_events(watch: &mut WatchStream) -> String {
    loop {
        match next(watch).await.expect("no error") {
            WatchItem::Progress { .. } => {}
            WatchItem::Events { revision, events } => {
                assert!(events.iter().all(|event| event.revision() == revision), "{events:?}");
                return events.iter().map(describe).collect::<Vec<_>>().join(", ");
            }
        }
    }
}

/// `key=value<former`, or `-key<former`.
fn describe(event: &Event) -> String {
    let former = event.prev().map_or("-".to_owned(), |prev| text(&prev.value));
    match event {
        Event::Put { kv, .. } => format!("{}={}<{former}", text(&kv.key), text(&kv.value)),
        Event::Delete { key, .. } => format!("-{}<{former}", text(key)),
    }
}

/// Awaits that a key is gone, by its delete event.
pub async fn await_delete(store: &dyn Store, key: &str, from: Revision) -> Revision {
    let mut watch = store.watch(KeyRange::key(key.to_owned()), from).await.expect("watches");
    loop {
        if let WatchItem::Events { revision, events } = next(&mut watch).await.expect("no error")
            && events.iter().any(|event| matches!(event, Event::Delete { .. }))
        {
            return revision;
        }
    }
}
