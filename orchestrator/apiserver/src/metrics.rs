//! What the API server counts, under Kubernetes' own names where it has them.

use std::sync::Arc;

use prometheus::{HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};
use telemetry::{LATENCY_SECONDS, Registry};

/// The API server's metrics.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// Requests by verb, resource and code.
    pub requests: IntCounterVec,
    /// Seconds of requests other than watches and streams, by verb and resource.
    pub durations: HistogramVec,
    /// Requests being answered, by whether they change something.
    pub inflight: IntGaugeVec,
    /// Requests turned away because too many were being answered.
    pub rejected: IntCounter,
    /// Watches open, by resource.
    pub watches: IntGaugeVec,
    /// Events sent to watchers, by resource.
    pub watch_events: IntCounterVec,
    /// Objects in the cache, by resource and group.
    pub objects: IntGaugeVec,
    /// Connections that pass bytes between clients and agents.
    pub streams: IntGauge,
    /// Times that a write was tried again because the object had changed.
    pub write_retries: IntCounter,
}

/// Counts a watch while it is open, and its events.
#[derive(Debug)]
pub struct WatchGuard {
    open: IntGauge,
    events: IntCounter,
}

// === impl Metrics ===

impl Metrics {
    /// Registers all metrics.
    pub fn new(registry: &Registry) -> Arc<Self> {
        Arc::new(Self {
            requests: registry.counter_vec(
                "apiserver_request_total",
                "Requests answered, by verb, resource and HTTP status code.",
                &["verb", "resource", "code"],
            ),
            durations: registry.histogram_vec(
                "apiserver_request_duration_seconds",
                "Time to the head of the answer, watches and streams left out.",
                &["verb", "resource"],
                LATENCY_SECONDS,
            ),
            inflight: registry.gauge_vec(
                "apiserver_current_inflight_requests",
                "Requests being answered now, by kind: readOnly or mutating.",
                &["request_kind"],
            ),
            rejected: registry.counter(
                "apiserver_rejected_requests_total",
                "Requests answered 429 because too many were being answered.",
            ),
            watches: registry.gauge_vec(
                "apiserver_longrunning_requests",
                "Open watches, by resource.",
                &["resource"],
            ),
            watch_events: registry.counter_vec(
                "apiserver_watch_events_total",
                "Events sent to watchers, by resource.",
                &["resource"],
            ),
            objects: registry.gauge_vec(
                "apiserver_storage_objects",
                "Objects stored, by resource and group.",
                &["resource", "group"],
            ),
            streams: registry.gauge(
                "apiserver_streams",
                "Connections that pass log, exec, attach, port-forward and flow bytes now.",
            ),
            write_retries: registry.counter(
                "apiserver_write_retries_total",
                "Writes tried again because the object had changed in between.",
            ),
        })
    }

    /// Counts a watch of a resource while the guard lives.
    pub fn watch(&self, resource: &str) -> WatchGuard {
        let open = self.watches.with_label_values(&[resource]);
        open.inc();
        WatchGuard { open, events: self.watch_events.with_label_values(&[resource]) }
    }
}

// === impl WatchGuard ===

impl WatchGuard {
    /// Counts events.
    pub fn sent(&self, events: u64) {
        self.events.inc_by(events);
    }
}

impl Drop for WatchGuard {
    fn drop(&mut self) {
        self.open.dec();
    }
}
