//! What a store counts, under `bowsprit_store_`.

use std::time::Instant;

use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry,
};

use crate::error::StoreError;

/// From a read in memory to a disk that hangs.
const SECONDS: &[f64] = &[
    0.000_01, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5,
    1.0, 5.0,
];

/// Transactions of one group commit, up to the most that one takes.
const GROUP_SIZES: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0];

/// The metrics of one store.
#[derive(Debug)]
pub(crate) struct Metrics {
    pub requests: IntCounterVec,
    pub seconds: HistogramVec,
    pub sync_seconds: Histogram,
    pub group_size: Histogram,
    pub revision: IntGauge,
    pub compacted_revision: IntGauge,
    pub keys: IntGauge,
    pub superseded: IntGauge,
    pub disk_bytes: IntGauge,
    pub history_bytes: IntGauge,
    pub watchers: IntGauge,
    pub watch_events: IntCounter,
    pub expired: IntCounterVec,
    pub reconnects: IntCounter,
}

// === impl Metrics ===

impl Metrics {
    /// Registers all of them.
    pub fn register(registry: &Registry) -> Result<Self, StoreError> {
        let register = || {
            let histogram = |name: &str, help: &str, buckets: &[f64]| {
                let histogram =
                    Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.to_vec()))?;
                registry.register(Box::new(histogram.clone())).map(|()| histogram)
            };
            let gauge = |name: &str, help: &str| {
                let gauge = IntGauge::new(name, help)?;
                registry.register(Box::new(gauge.clone())).map(|()| gauge)
            };
            let counter = |name: &str, help: &str| {
                let counter = IntCounter::new(name, help)?;
                registry.register(Box::new(counter.clone())).map(|()| counter)
            };
            let counters = |name: &str, help: &str, labels: &[&str]| {
                let counters = IntCounterVec::new(Opts::new(name, help), labels)?;
                registry.register(Box::new(counters.clone())).map(|()| counters)
            };
            let seconds =
                HistogramOpts::new("bowsprit_store_request_seconds", "Duration of requests to the store.");
            let seconds = HistogramVec::new(seconds.buckets(SECONDS.to_vec()), &["operation"])?;
            registry.register(Box::new(seconds.clone()))?;
            Ok::<_, prometheus::Error>(Self {
                requests: counters(
                    "bowsprit_store_requests_total",
                    "Requests to the store, by operation and result.",
                    &["operation", "result"],
                )?,
                seconds,
                sync_seconds: histogram(
                    "bowsprit_store_sync_seconds",
                    "Duration of the embedded store's commits, the disk's sync included.",
                    SECONDS,
                )?,
                group_size: histogram(
                    "bowsprit_store_group_transactions",
                    "Transactions that one commit of the embedded store made durable.",
                    GROUP_SIZES,
                )?,
                revision: gauge("bowsprit_store_revision", "The newest revision seen.")?,
                compacted_revision: gauge(
                    "bowsprit_store_compacted_revision",
                    "History before this revision is gone.",
                )?,
                keys: gauge("bowsprit_store_keys", "Keys in the embedded store.")?,
                superseded: gauge(
                    "bowsprit_store_superseded_states",
                    "Former states of keys that the embedded store keeps until the next compaction.",
                )?,
                disk_bytes: gauge("bowsprit_store_disk_bytes", "Size of the embedded store's log on disk.")?,
                history_bytes: gauge(
                    "bowsprit_store_history_bytes",
                    "Changes that the embedded store keeps in memory.",
                )?,
                watchers: gauge("bowsprit_store_watchers", "Open watches of the store.")?,
                watch_events: counter("bowsprit_store_watch_events_total", "Events delivered to watches.")?,
                expired: counters(
                    "bowsprit_store_expired_total",
                    "Keys that the embedded store deleted by itself: at the end of their time or lease, or to make room.",
                    &["reason"],
                )?,
                reconnects: counter(
                    "bowsprit_store_watch_reconnects_total",
                    "Watches of etcd that were resumed after an interruption.",
                )?,
            })
        };
        register().map_err(|error| StoreError::Open {
            path: "the store's metrics".into(),
            reason: format!("{error}; one registry serves one store"),
        })
    }

    /// Counts a request and its duration.
    pub fn count<T>(&self, operation: &'static str, since: Instant, result: &Result<T, StoreError>) {
        self.seconds.with_label_values(&[operation]).observe(since.elapsed().as_secs_f64());
        let result = result.as_ref().map_or_else(StoreError::label, |_| "ok");
        self.requests.with_label_values(&[operation, result]).inc();
    }
}
