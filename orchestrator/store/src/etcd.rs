//! The etcd engine: the same trait over a real etcd, 3.4 or later.
//!
//! One HTTP/2 connection a member carries everything. Requests have a deadline and say whether a write may have happened;
//! watches bridge any interruption by resuming after the last revision delivered.

mod connect;
mod convert;
mod failure;
mod watch;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use etcd_client::{Client, GetOptions, KvClient};
use futures::StreamExt;
use parking_lot::Mutex;
use tokio::{sync::watch as channel, time::timeout};

use self::{failure::Kind, watch::EtcdWatch};
use crate::{
    Classes, KeyRange, LeaseId, Op, RangeMode, RangeOptions, RangeResult, Revision, StorageClass, Store,
    StoreConfig, StoreError, Txn, TxnResult, WatchStream, metrics::Metrics, validate,
};

/// etcd itself gives up after 7 s at most; an etcd that is silent for longer hangs.
const REQUEST_DEADLINE: Duration = Duration::from_secs(8);

/// Keys with values in one response: half a megabyte of usual objects.
const PAGE_VALUES: usize = 500;

/// Keys alone in one response.
const PAGE_KEYS: usize = 10_000;

/// A page of the biggest objects. tonic's own limit of 4 MiB is meant for strangers; this is our etcd.
const RESPONSE_BYTES_MAX: usize = 1 << 30;

/// Events share a lease for so much of their time to live, and for so many events, as in Kubernetes: a lease each would
/// cost etcd more than the event.
const EVENT_LEASE_SHARE: u32 = 20;
const EVENT_LEASE_KEYS: u32 = 1000;

/// An etcd cluster.
pub(crate) struct EtcdStore {
    client: Client,
    endpoints: Arc<str>,
    classes: Classes,
    event_ttl: Duration,
    event_lease: Mutex<Option<EventLease>>,
    progress_is_reliable: bool,
    /// Counts requests for progress; every watch follows it.
    progress: channel::Sender<u64>,
    /// The newest compaction that was heard of.
    compacted: Arc<AtomicU64>,
    closed: AtomicBool,
    metrics: Arc<Metrics>,
}

/// A lease that events share.
#[derive(Clone, Copy, Debug)]
struct EventLease {
    id: LeaseId,
    granted: Instant,
    keys: u32,
}

// === impl EtcdStore ===

impl EtcdStore {
    /// Connects, and asks who answers.
    pub async fn open(
        endpoints: &[String],
        config: &StoreConfig,
        metrics: Arc<Metrics>,
    ) -> Result<Self, StoreError> {
        let (client, version) = connect::connect(endpoints, config.etcd_tls.as_ref()).await?;
        let endpoints: Arc<str> = endpoints.join(",").into();
        let progress_is_reliable = connect::progress_is_reliable(&version);
        tracing::info!(%endpoints, version, "connected to etcd");
        if !progress_is_reliable {
            tracing::warn!(
                version,
                "this etcd answers progress requests too early; consistent reads go to etcd instead of the cache until it is 3.4.31, 3.5.13 or later"
            );
        }
        Ok(Self {
            client,
            endpoints,
            classes: config.classes.clone(),
            event_ttl: config.event_ttl,
            event_lease: Mutex::default(),
            progress_is_reliable,
            progress: channel::Sender::new(0),
            compacted: Arc::default(),
            closed: AtomicBool::new(false),
            metrics,
        })
    }

    /// Awaits an answer of etcd, within the deadline.
    async fn call<T>(
        &self,
        kind: Kind,
        answer: impl Future<Output = Result<T, etcd_client::Error>>,
    ) -> Result<T, StoreError> {
        if self.closed.load(Ordering::Relaxed) {
            return Err(StoreError::Closed);
        }
        match timeout(REQUEST_DEADLINE, answer).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(failure::store_error(&self.endpoints, kind, &error)),
            Err(_) => Err(failure::silent(&self.endpoints, kind, REQUEST_DEADLINE)),
        }
    }

    fn kv(&self) -> KvClient {
        self.client.kv_client().max_decoding_message_size(RESPONSE_BYTES_MAX)
    }

    async fn get(
        &self,
        range: &KeyRange,
        options: GetOptions,
    ) -> Result<etcd_client::GetResponse, StoreError> {
        let (start, end) = convert::range(range);
        let mut kv = self.kv();
        let response = self.call(Kind::Read, kv.get(start, Some(options.with_range(end)))).await?;
        self.seen(convert::revision(response.header()));
        Ok(response)
    }

    fn seen(&self, revision: Revision) {
        self.metrics.revision.set(self.metrics.revision.get().max(revision as i64));
    }

    /// etcd's errors do not say which revisions they mean.
    async fn explain(&self, error: StoreError, requested: Revision) -> StoreError {
        match error {
            StoreError::Compacted { .. } => {
                let oldest = self.compacted.load(Ordering::Relaxed).max(requested + 1);
                StoreError::Compacted { requested, oldest }
            }
            StoreError::FutureRevision { .. } => {
                StoreError::FutureRevision { requested, current: self.revision().await.unwrap_or(0) }
            }
            other => other,
        }
    }

    async fn range_in_pages(
        &self,
        range: KeyRange,
        options: &RangeOptions,
    ) -> Result<RangeResult, StoreError> {
        let page = if options.mode == RangeMode::All { PAGE_VALUES } else { PAGE_KEYS };
        let mut result = RangeResult::default();
        let mut rest = range;
        let mut at = options.revision;
        loop {
            let wanted = match options.limit {
                0 => page,
                limit => page.min(limit - result.items.len()),
            };
            let mut response = self.get(&rest, convert::page(options.mode, wanted, at)).await?;
            if at.is_none() || result.revision == 0 {
                result.revision = at.unwrap_or(convert::revision(response.header()));
                result.count = response.count().unsigned_abs();
                at = Some(result.revision);
            }
            result.items.extend(response.take_kvs().into_iter().map(convert::key_value));
            result.more = response.more() && options.mode != RangeMode::CountOnly;
            match result.items.last() {
                Some(last) if result.more && (options.limit == 0 || result.items.len() < options.limit) => {
                    rest = rest.after(&last.key);
                }
                _ => return Ok(result),
            }
        }
    }

    async fn commit(&self, txn: &Txn, event_lease: Option<LeaseId>) -> Result<TxnResult, StoreError> {
        let request = convert::txn(txn, &self.classes, event_lease);
        let mut kv = self.kv();
        let response = self.call(Kind::Write, kv.txn(request)).await?;
        let result = convert::txn_result(&response);
        if let TxnResult::Committed { revision } = result {
            self.seen(revision);
        }
        Ok(result)
    }

    /// The lease that a transaction's events go under, if it has any.
    async fn event_lease_for(&self, txn: &Txn) -> Result<Option<LeaseId>, StoreError> {
        let is_event = |op: &Op| matches!(op, Op::Put { key, lease: None, .. } if self.classes.of(key) == StorageClass::Event);
        let keys = txn.then.iter().filter(|op| is_event(op)).count() as u32;
        if keys == 0 {
            return Ok(None);
        }
        let share = self.event_ttl / EVENT_LEASE_SHARE;
        let fresh =
            |lease: &EventLease| lease.granted.elapsed() < share && lease.keys + keys <= EVENT_LEASE_KEYS;
        if let Some(lease) = self.event_lease.lock().as_mut().filter(|lease| fresh(lease)) {
            lease.keys += keys;
            return Ok(Some(lease.id));
        }
        let id = self.lease_grant(self.event_ttl + share).await?;
        *self.event_lease.lock() = Some(EventLease { id, granted: Instant::now(), keys });
        Ok(Some(id))
    }
}

#[async_trait]
impl Store for EtcdStore {
    async fn range(&self, range: KeyRange, options: RangeOptions) -> Result<RangeResult, StoreError> {
        let requested = options.revision.unwrap_or_default();
        match self.range_in_pages(range, &options).await {
            Ok(result) => Ok(result),
            Err(error) => Err(self.explain(error, requested).await),
        }
    }

    async fn txn(&self, txn: Txn) -> Result<TxnResult, StoreError> {
        validate::txn(&txn, &self.classes)?;
        let event_lease = self.event_lease_for(&txn).await?;
        match self.commit(&txn, event_lease).await {
            // The shared lease has ended before its time: etcd was restored, or its clock jumped.
            Err(StoreError::LeaseNotFound { .. }) if event_lease.is_some() => {
                self.event_lease.lock().take();
                let event_lease = self.event_lease_for(&txn).await?;
                self.commit(&txn, event_lease).await
            }
            result => result,
        }
        .map_err(|error| convert::name_lease(error, &txn))
    }

    async fn watch(&self, range: KeyRange, from: Revision) -> Result<WatchStream, StoreError> {
        validate::watch(&range)?;
        if self.closed.load(Ordering::Relaxed) {
            return Err(StoreError::Closed);
        }
        let watch = EtcdWatch::new(
            self.client.watch_client().max_decoding_message_size(RESPONSE_BYTES_MAX),
            range,
            from.max(1),
            self.progress.subscribe(),
            self.compacted.clone(),
            self.metrics.clone(),
        );
        Ok(watch.into_stream().boxed())
    }

    async fn revision(&self) -> Result<Revision, StoreError> {
        // Any linearizable read tells; this one finds nothing and costs no disk.
        let response = self.get(&KeyRange::key(&b"\0"[..]), GetOptions::new().with_count_only()).await?;
        Ok(convert::revision(response.header()))
    }

    async fn request_progress(&self) -> Result<(), StoreError> {
        if !self.progress_is_reliable {
            let what = "progress requests, which this version of etcd answers too early; read from the store instead";
            return Err(StoreError::Unsupported { what: what.into() });
        }
        self.progress.send_modify(|requests| *requests += 1);
        Ok(())
    }

    fn progress_is_reliable(&self) -> bool {
        self.progress_is_reliable
    }

    async fn lease_grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        let seconds = ttl.as_millis().div_ceil(1000).max(1) as i64;
        let mut lease = self.client.lease_client();
        let granted = self.call(Kind::Write, lease.grant(seconds, None)).await?;
        Ok(LeaseId(granted.id()))
    }

    async fn lease_keepalive(&self, lease: LeaseId) -> Result<(), StoreError> {
        let mut client = self.client.lease_client();
        self.call(Kind::Lease(lease), client.keep_alive(lease.0)).await.map(drop)
    }

    async fn lease_revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        let mut client = self.client.lease_client();
        self.call(Kind::Lease(lease), client.revoke(lease.0)).await.map(drop)
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        let mut kv = self.kv();
        match self.call(Kind::Read, kv.compact(revision as i64, None)).await {
            Ok(_) => {
                self.compacted.fetch_max(revision, Ordering::Relaxed);
                self.metrics.compacted_revision.set(revision as i64);
                Ok(())
            }
            Err(error) => Err(self.explain(error, revision).await),
        }
    }

    async fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
        // Watches end when the sender of progress requests says so.
        self.progress.send_replace(watch::CLOSED);
    }

    fn describe(&self) -> String {
        format!("etcd:{}", self.endpoints)
    }
}
