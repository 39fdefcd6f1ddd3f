//! The agent's own metrics: how pods start, restart, and are probed. Registered once; handed to the workers.

use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry,
};

/// From a warm start of some 100 ms to an image pull of minutes.
const START_BUCKETS: &[f64] =
    &[0.01, 0.025, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0, 15.0, 60.0, 300.0];
/// Stages are down to a millisecond.
const STAGE_BUCKETS: &[f64] =
    &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 5.0, 30.0, 120.0];

/// The agent's own metrics.
#[derive(Clone)]
pub struct Metrics {
    /// Pods on this node.
    pub pods: IntGauge,
    /// From a pod's arrival at the node until all of its containers run.
    pub start_seconds: Histogram,
    /// Each stage of a start, by stage.
    pub stage_seconds: HistogramVec,
    /// Runs of containers after their first.
    pub restarts: IntCounter,
    /// Failed probes, by kind.
    pub probe_failures: IntCounterVec,
    /// Failed operations, by operation.
    pub failures: IntCounterVec,
    /// Status reports written.
    pub status_writes: IntCounter,
    /// From the decision to stop until every node's kernel had let go of the pod.
    pub gate_seconds: Histogram,
    /// Stops that went on although what they waited for had not come, by what that was.
    pub gate_overruns: IntCounterVec,
}

// === impl Metrics ===

impl Metrics {
    /// Registers everything with `registry`.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let metrics = Self::unregistered()?;
        let Metrics {
            pods,
            start_seconds,
            stage_seconds,
            restarts,
            probe_failures,
            failures,
            status_writes,
            gate_seconds,
            gate_overruns,
        } = metrics.clone();
        registry.register(Box::new(pods))?;
        registry.register(Box::new(start_seconds))?;
        registry.register(Box::new(stage_seconds))?;
        registry.register(Box::new(restarts))?;
        registry.register(Box::new(probe_failures))?;
        registry.register(Box::new(failures))?;
        registry.register(Box::new(status_writes))?;
        registry.register(Box::new(gate_seconds))?;
        registry.register(Box::new(gate_overruns))?;
        Ok(metrics)
    }

    /// Metrics that nobody reads, for tests.
    pub fn unregistered() -> Result<Self, prometheus::Error> {
        let histogram = |name: &str, help: &str, buckets: &[f64]| {
            Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.to_vec()))
        };
        Ok(Metrics {
            pods: IntGauge::new("bowsprit_agent_pods", "Pods on this node.")?,
            start_seconds: histogram(
                "bowsprit_agent_pod_start_seconds",
                "From a pod's arrival at the node until all of its containers run.",
                START_BUCKETS,
            )?,
            stage_seconds: HistogramVec::new(
                HistogramOpts::new("bowsprit_agent_pod_stage_seconds", "Stages of a pod's start and stop.")
                    .buckets(STAGE_BUCKETS.to_vec()),
                &["stage"],
            )?,
            restarts: IntCounter::new(
                "bowsprit_agent_container_restarts_total",
                "Runs of containers after their first.",
            )?,
            probe_failures: IntCounterVec::new(
                Opts::new("bowsprit_agent_probe_failures_total", "Failed probes."),
                &["probe"],
            )?,
            failures: IntCounterVec::new(
                Opts::new("bowsprit_agent_failures_total", "Failed operations on pods."),
                &["operation"],
            )?,
            status_writes: IntCounter::new(
                "bowsprit_agent_status_writes_total",
                "Pod status reports written to the API server.",
            )?,
            gate_seconds: histogram(
                "bowsprit_agent_stop_gate_seconds",
                "From the decision to stop a Service's pod until no node sends it new connections and the newest are answered.",
                STAGE_BUCKETS,
            )?,
            gate_overruns: IntCounterVec::new(
                Opts::new(
                    "bowsprit_agent_stop_gate_overruns_total",
                    "Pods stopped before every node let go of them (nodes) or they answered their newest connections (answers).",
                ),
                &["waiting_for"],
            )?,
        })
    }
}
