//! Metrics of the scheduler, under Kubernetes' names where it has one.
use prometheus::{Histogram, IntCounter, IntCounterVec, IntGaugeVec};
use telemetry::{LATENCY_SECONDS, Registry};

use crate::queue::Depth;

/// Metrics of the scheduler.
#[derive(Clone, Debug)]
pub struct Metrics {
    pub(crate) attempts: IntCounterVec,
    pub(crate) decision: Histogram,
    pub(crate) waited: Histogram,
    pub(crate) bind_errors: IntCounter,
    pending: IntGaugeVec,
}

impl Metrics {
    /// Registers them.
    pub fn new(registry: &Registry) -> Self {
        Self {
            attempts: registry.counter_vec(
                "scheduler_schedule_attempts_total",
                "Decisions by their result: scheduled, unschedulable.",
                &["result"],
            ),
            decision: registry.histogram(
                "scheduler_decision_duration_seconds",
                "Time to choose a node, without binding (unstable).",
                &[1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 5e-3, 1e-2, 0.1],
            ),
            waited: registry.histogram(
                "scheduler_pod_scheduling_sli_duration_seconds",
                "Time from a pod's arrival to its binding.",
                LATENCY_SECONDS,
            ),
            bind_errors: registry
                .counter("scheduler_bind_errors_total", "Bindings that the API server refused (unstable)."),
            pending: registry.gauge_vec(
                "scheduler_pending_pods",
                "Pods without a node, by queue.",
                &["queue"],
            ),
        }
    }

    pub(crate) fn depth(&self, depth: Depth) {
        let Depth { active, backoff, unschedulable } = depth;
        for (queue, pods) in [("active", active), ("backoff", backoff), ("unschedulable", unschedulable)] {
            self.pending.with_label_values(&[queue]).set(i64::try_from(pods).unwrap_or(i64::MAX));
        }
    }
}
