//! Metrics of the controllers.
use std::time::Duration;

use prometheus::{HistogramVec, IntCounterVec};
use telemetry::{LATENCY_SECONDS, Registry};

/// Metrics that all controllers share.
#[derive(Clone, Debug)]
pub struct Metrics {
    reconciled: IntCounterVec,
    seconds: HistogramVec,
}

impl Metrics {
    /// Registers them.
    pub fn new(registry: &Registry) -> Self {
        Self {
            reconciled: registry.counter_vec(
                "controller_reconcile_total",
                "Reconciliations by controller and result: ok, error.",
                &["controller", "result"],
            ),
            seconds: registry.histogram_vec(
                "controller_reconcile_duration_seconds",
                "Duration of reconciliations.",
                &["controller"],
                LATENCY_SECONDS,
            ),
        }
    }

    pub(crate) fn reconciled(&self, controller: &str, ok: bool, took: Duration) {
        let result = if ok { "ok" } else { "error" };
        self.reconciled.with_label_values(&[controller, result]).inc();
        self.seconds.with_label_values(&[controller]).observe(took.as_secs_f64());
    }
}
