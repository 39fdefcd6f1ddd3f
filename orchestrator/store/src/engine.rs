//! The trait that both engines implement; `Arc<dyn Store>` is all that the API server knows.

use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;

use crate::{KeyRange, LeaseId, RangeOptions, RangeResult, Revision, StoreError, Txn, TxnResult, WatchItem};

/// A watch: ends after the first error, and unregisters when dropped. Interruptions of the connection are bridged
/// inside the engine, without loss or duplication, so an error is final: list and watch anew.
pub type WatchStream = BoxStream<'static, Result<WatchItem, StoreError>>;

/// A sorted map with one revision sequence, in the shape of etcd.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Reads keys; without a revision, linearizably: it sees every write acknowledged before the call.
    async fn range(&self, range: KeyRange, options: RangeOptions) -> Result<RangeResult, StoreError>;

    /// Compares and changes several keys at one revision. Returns when the changes are durable and visible to reads.
    async fn txn(&self, txn: Txn) -> Result<TxnResult, StoreError>;

    /// Watches a range from a revision on, which is the first one delivered; it may lie in the future.
    /// [`StoreError::Compacted`], here or as the stream's last item, when that history is gone. A watcher that reads
    /// slowly is delayed and, once history passes it, ended with that error; nothing is ever skipped.
    async fn watch(&self, range: KeyRange, from: Revision) -> Result<WatchStream, StoreError>;

    /// The current revision, linearizably: not older than any write acknowledged before the call.
    async fn revision(&self) -> Result<Revision, StoreError>;

    /// Makes every open watch emit [`WatchItem::Progress`] with at least the revision that was current at the call.
    /// [`StoreError::Unsupported`] where [`Self::progress_is_reliable`] is false.
    async fn request_progress(&self) -> Result<(), StoreError>;

    /// Whether progress can be requested. False with etcd before 3.4.31 and 3.5.13, which answer too early: consistent
    /// reads must then go to the store instead of a cache.
    fn progress_is_reliable(&self) -> bool;

    /// Makes a lease that ends `ttl` after its last keepalive, and takes its keys with it. Leases and their keys need
    /// not survive a restart of the embedded engine.
    async fn lease_grant(&self, ttl: Duration) -> Result<LeaseId, StoreError>;

    /// Starts the lease's time anew.
    async fn lease_keepalive(&self, lease: LeaseId) -> Result<(), StoreError>;

    /// Ends the lease now and deletes its keys.
    async fn lease_revoke(&self, lease: LeaseId) -> Result<(), StoreError>;

    /// Gives up the history before `revision`: reads at `revision` and later still work, watches from later ones too.
    async fn compact(&self, revision: Revision) -> Result<(), StoreError>;

    /// Finishes what was accepted and releases files and connections. Later calls answer [`StoreError::Closed`].
    async fn close(&self);

    /// Which engine, where: for logs and status, not for decisions.
    fn describe(&self) -> String;
}
