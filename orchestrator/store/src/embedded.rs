//! The embedded engine: an SQLite log, an index and the recent history in memory, for a single server.
//!
//! `log` and `record` are what is on disk, `recent` what may be lost; `index` and `history` are what reads and watches see;
//! `writer` with `stage`, `ephemeral` and `sweep` is the only one that changes any of them. Values of durable keys are not
//! kept in memory: the API server caches them, once is enough.

mod ephemeral;
mod history;
mod index;
mod lock;
mod log;
mod recent;
mod record;
mod shared;
mod stage;
mod sweep;
mod watch;
mod writer;

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use tokio::{
    sync::{Semaphore, mpsc, oneshot, watch as channel},
    task::spawn_blocking,
    time::sleep_until,
};

use self::{
    ephemeral::Ephemerals,
    history::History,
    index::{Index, Place, Version},
    lock::DirectoryLock,
    log::{Log, Meta, Readers},
    recent::{Recent, RecentKey},
    record::Record,
    shared::Shared,
    stage::Outcome,
    sweep::Sweeper,
    watch::Watch,
    writer::{Command, Writer},
};
use crate::{
    KeyRange, LeaseId, RangeMode, RangeOptions, RangeResult, Revision, StorageClass, Store, StoreConfig,
    StoreError, Txn, TxnResult, WatchStream, metrics::Metrics, validate,
};

/// Commands that may wait; writers beyond wait for a place, in their order.
const QUEUE_COMMANDS: usize = 1024;

/// Bytes of transactions that may wait, in KiB: two dozen of the biggest, thousands of usual ones.
const QUEUE_KIB: usize = 32 << 10;

/// Ranges of many keys read at a time: more only compete for the same cores and connections.
const WIDE_READS: usize = 4;

/// Compactions are minutes apart: two in the middle of one request are none.
const CONFLICT_ATTEMPTS: usize = 3;

/// The shortest lease: below, keepalives come too late in the best of cases.
const LEASE_TTL_MIN: Duration = Duration::from_secs(1);

/// An open embedded store.
pub(crate) struct EmbeddedStore {
    shared: Arc<Shared>,
    commands: mpsc::Sender<Command>,
    queue: Arc<Semaphore>,
    wide_reads: Semaphore,
    path: PathBuf,
}

// === impl EmbeddedStore ===

impl EmbeddedStore {
    /// Opens the store in a directory, which is made when it is not there.
    pub async fn open(path: &Path, config: &StoreConfig, metrics: Arc<Metrics>) -> Result<Self, StoreError> {
        let (send, receive) = mpsc::channel(QUEUE_COMMANDS);
        let (next_end, ends) = channel::channel(None);
        let opening = Opening { path: path.to_owned(), config: config.clone(), metrics, receive, next_end };
        let writer = spawn_blocking(move || opening.open()).await.map_err(|_| StoreError::Closed)??;
        let shared = writer.shared.clone();
        thread::Builder::new().name("store-writer".into()).spawn(move || writer.run()).map_err(|error| {
            StoreError::Open {
                path: path.display().to_string(),
                reason: format!("no thread for the writer: {error}"),
            }
        })?;
        tokio::spawn(expire(ends, send.downgrade()));
        Ok(Self {
            shared,
            commands: send,
            queue: Arc::new(Semaphore::new(QUEUE_KIB)),
            wide_reads: Semaphore::new(WIDE_READS),
            path: path.to_owned(),
        })
    }

    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> Command,
    ) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).await.map_err(|_| StoreError::Closed)?;
        answer.await.map_err(|_| StoreError::Closed)?
    }

    fn check_open(&self) -> Result<(), StoreError> {
        if self.commands.is_closed() { Err(StoreError::Closed) } else { Ok(()) }
    }

    /// A single key whose value is at hand is read without leaving the caller's thread.
    fn range_at_once(
        &self,
        range: &KeyRange,
        options: &RangeOptions,
    ) -> Option<Result<RangeResult, StoreError>> {
        let single = range.end.len() == range.start.len() + 1
            && range.end.starts_with(&range.start)
            && range.end.ends_with(&[0]);
        if !single {
            return None;
        }
        if options.mode != RangeMode::All {
            return Some(self.shared.range(range, options));
        }
        let (scan, revision) = match self.shared.index.scan(range, options.revision, 1) {
            Ok(scanned) => scanned,
            Err(error) => return Some(Err(error)),
        };
        let items =
            scan.found.iter().map(|found| self.shared.load_from_memory(found)).collect::<Option<Vec<_>>>()?;
        Some(Ok(RangeResult { items, more: false, count: scan.count, revision }))
    }

    /// The values of a conflict; `None` when they have changed since in a way that only asking again tells.
    async fn current(
        &self,
        found: Vec<Option<index::Found>>,
    ) -> Result<Option<Vec<Option<crate::KeyValue>>>, StoreError> {
        let mut current = Vec::with_capacity(found.len());
        for found in found {
            let Some(found) = found else {
                current.push(None);
                continue;
            };
            if let Some(kv) = self.shared.load_from_memory(&found) {
                current.push(Some(kv));
                continue;
            }
            let shared = self.shared.clone();
            let loaded =
                spawn_blocking(move || shared.load(&[found])).await.map_err(|_| StoreError::Closed)??;
            let Some(kv) = loaded.and_then(|mut loaded| loaded.pop()) else { return Ok(None) };
            current.push(Some(kv));
        }
        Ok(Some(current))
    }

    async fn txn_once(&self, txn: Txn, size: usize) -> Result<Option<TxnResult>, StoreError> {
        let permits = (size / 1024 + 1) as u32;
        let queued = self.queue.clone().acquire_many_owned(permits).await.map_err(|_| StoreError::Closed)?;
        match self.ask(|reply| Command::Txn { txn, reply, _queued: queued }).await? {
            Outcome::Committed { revision } => Ok(Some(TxnResult::Committed { revision })),
            Outcome::Conflict { found, revision } => {
                let current = self.current(found).await?;
                Ok(current.map(|current| TxnResult::Conflict { current, revision }))
            }
        }
    }
}

#[async_trait]
impl Store for EmbeddedStore {
    async fn range(&self, range: KeyRange, options: RangeOptions) -> Result<RangeResult, StoreError> {
        self.check_open()?;
        if let Some(result) = self.range_at_once(&range, &options) {
            return result;
        }
        let _permit = self.wide_reads.acquire().await.map_err(|_| StoreError::Closed)?;
        let shared = self.shared.clone();
        spawn_blocking(move || shared.range(&range, &options)).await.map_err(|_| StoreError::Closed)?
    }

    async fn txn(&self, txn: Txn) -> Result<TxnResult, StoreError> {
        let size = validate::txn(&txn, &self.shared.classes)?;
        for _ in 0..CONFLICT_ATTEMPTS {
            // A conflict changed nothing, so that it can be asked again when a compaction took away what it found.
            if let Some(result) = self.txn_once(txn.clone(), size).await? {
                return Ok(result);
            }
        }
        let reason =
            format!("{}: what a conflict found cannot be read, again and again", self.path.display());
        Err(StoreError::Unavailable { reason })
    }

    async fn watch(&self, range: KeyRange, from: Revision) -> Result<WatchStream, StoreError> {
        validate::watch(&range)?;
        self.check_open()?;
        Ok(Watch::new(self.shared.clone(), range, from)?.boxed())
    }

    async fn revision(&self) -> Result<Revision, StoreError> {
        self.check_open()?;
        Ok(self.shared.index.current())
    }

    async fn request_progress(&self) -> Result<(), StoreError> {
        self.check_open()?;
        // Reads see a revision a moment before the history publishes it.
        self.shared.history.request_progress(self.shared.index.current());
        Ok(())
    }

    fn progress_is_reliable(&self) -> bool {
        true
    }

    async fn lease_grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        let ttl = ttl.max(LEASE_TTL_MIN);
        self.ask(|reply| Command::Grant { ttl, reply }).await
    }

    async fn lease_keepalive(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.ask(|reply| Command::KeepAlive { lease, reply }).await
    }

    async fn lease_revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.ask(|reply| Command::Revoke { lease, reply }).await
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        self.ask(|reply| Command::Compact { revision, reply }).await
    }

    async fn close(&self) {
        let (reply, closed) = oneshot::channel();
        if self.commands.send(Command::Close { reply }).await.is_ok() {
            // Dropped instead of answered when somebody else closes at the same time.
            let _ = closed.await;
        }
    }

    fn describe(&self) -> String {
        format!("embedded:{}", self.path.display())
    }
}

/// Tells the writer when something has ended by itself. Nothing wakes up while nothing ends.
async fn expire(mut ends: channel::Receiver<Option<Instant>>, commands: mpsc::WeakSender<Command>) {
    loop {
        let next = *ends.borrow_and_update();
        let ended = async {
            match next {
                Some(at) => sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        let changed = tokio::select! {
            () = ended => {
                let Some(commands) = commands.upgrade() else { return };
                if commands.send(Command::Expire).await.is_err() {
                    return;
                }
                drop(commands);
                // The writer answers every Expire by telling what ends next.
                ends.changed().await
            }
            changed = ends.changed() => changed,
        };
        if changed.is_err() {
            return;
        }
    }
}

/// What opening takes; it reads the whole log, on a thread that may wait.
struct Opening {
    path: PathBuf,
    config: StoreConfig,
    metrics: Arc<Metrics>,
    receive: mpsc::Receiver<Command>,
    next_end: channel::Sender<Option<Instant>>,
}

// === impl Opening ===

impl Opening {
    fn open(self) -> Result<Writer, StoreError> {
        let Self { path, config, metrics, receive, next_end } = self;
        let start = Instant::now();
        let lock = DirectoryLock::acquire(&path)?;
        let log_path = path.join("log.db");
        let (log, meta) = Log::open(&log_path)?;
        let index = Index::new(config.classes.clone());
        let last = replay(&log, &index)?.max(meta.reserved);
        let mut ephemerals = Ephemerals::new(config.event_ttl);
        let (recent, keys) = Recent::open(&path.join("recent.db"))?;
        restore(&index, &mut ephemerals, &config, keys);
        index.compact(meta.compacted);
        index.forget([], last);
        index.apply([], last);
        tracing::info!(
            path = %path.display(), keys = index.live(), revision = last, seconds = start.elapsed().as_secs_f64(),
            "the embedded store is open"
        );
        metrics.revision.set(last as i64);
        metrics.compacted_revision.set(meta.compacted as i64);
        metrics.keys.set(index.live() as i64);
        metrics.disk_bytes.set(log.bytes()? as i64);
        let Meta { compacted, swept, .. } = meta;
        let shared = Shared {
            index,
            history: History::new(last),
            readers: Readers::new(&log_path),
            classes: config.classes,
            metrics,
        };
        Ok(Writer {
            shared: Arc::new(shared),
            log,
            recent,
            ephemerals,
            sweeper: Sweeper::resume(compacted, swept),
            last,
            // Nothing is reserved beyond what may have been used: the first write reserves, and a full disk can be read.
            reserved: last,
            failed: None,
            full: false,
            commands: receive,
            next_end,
            lock,
        })
    }
}

/// Fills the index from the log; its last revision.
fn replay(log: &Log, index: &Index) -> Result<Revision, StoreError> {
    /// Rows applied at a time. Until then each is held in memory whole.
    const ROWS: usize = 64;
    let mut last = 0;
    let mut rows = 0;
    let mut versions = Vec::new();
    log.replay(|revision, records| {
        last = revision;
        versions.extend((0..).zip(records).filter_map(|(number, record)| version(revision, number, record)));
        rows += 1;
        if rows % ROWS == 0 {
            index.apply(versions.drain(..), last);
        }
    })?;
    index.apply(versions, last);
    Ok(last)
}

fn version(mod_revision: Revision, number: u32, record: Record) -> Option<(Bytes, Version)> {
    match record {
        Record::Put { key, create_revision, version, .. } => {
            Some((key, Version { mod_revision, create_revision, version, place: Place::Log(number) }))
        }
        Record::Delete { key, .. } => Some((
            key,
            Version { mod_revision, create_revision: 0, version: 0, place: Place::Deleted(number) },
        )),
        Record::Removed => None,
    }
}

/// Adds events and leases as they were. Of a key that the log knows as well, the newer state counts.
fn restore(index: &Index, ephemerals: &mut Ephemerals, config: &StoreConfig, keys: Vec<RecentKey>) {
    let now = Instant::now();
    let mut newest: HashMap<Bytes, Version> = HashMap::with_capacity(keys.len());
    for RecentKey { key, value, create_revision, mod_revision, version, age } in keys {
        if index.newest(&key).is_some_and(|known| known.mod_revision > mod_revision) {
            continue;
        }
        let bytes = key.len() + value.len();
        if config.classes.of(&key) == StorageClass::Event {
            ephemerals.event_written(&key, mod_revision, bytes, age, now);
        } else {
            ephemerals.kept_written(&key, bytes);
        }
        newest.insert(
            key,
            Version { mod_revision, create_revision, version, place: Place::Memory(Arc::new(value)) },
        );
    }
    index.apply(newest, 0);
}
