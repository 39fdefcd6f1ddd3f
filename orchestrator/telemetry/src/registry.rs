//! The metrics of a process: a prometheus registry with constructors that register what they make.

use prometheus::{
    Encoder, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    TextEncoder, core::Collector, process_collector::ProcessCollector,
};

/// Buckets for request and sync durations in seconds: from an fsync that the disk's cache answers to a request that
/// has run into its deadline.
pub const LATENCY_SECONDS: &[f64] =
    &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// All metrics of this process. Clones share the same metrics.
#[derive(Clone, Debug)]
pub struct Registry(prometheus::Registry);

impl Default for Registry {
    fn default() -> Self {
        Self::new()
    }
}

impl Registry {
    /// A registry that already holds the process's CPU, memory, descriptors and start time.
    pub fn new() -> Self {
        let registry = Self(prometheus::Registry::new());
        registry.register(ProcessCollector::for_self());
        registry
    }

    /// For crates below this one, which take prometheus' own type.
    pub fn prometheus(&self) -> &prometheus::Registry {
        &self.0
    }

    /// All metrics in prometheus' text format.
    pub fn render(&self) -> String {
        let mut text = Vec::new();
        // Encoding fails only for a family without samples, which gather() leaves out; what is written so far stays valid.
        if let Err(error) = TextEncoder::new().encode(&self.0.gather(), &mut text) {
            tracing::warn!(%error, "metrics are incomplete");
        }
        String::from_utf8_lossy(&text).into_owned()
    }

    /// Registers a collector of its own.
    pub fn register(&self, collector: impl Collector + 'static) {
        self.0
            .register(Box::new(collector))
            .expect("invariant: a metric's name is valid and registered once");
    }

    /// A counter.
    pub fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.add(IntCounter::new(name, help))
    }

    /// Counters by label.
    pub fn counter_vec(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        self.add(IntCounterVec::new(Opts::new(name, help), labels))
    }

    /// A gauge.
    pub fn gauge(&self, name: &str, help: &str) -> IntGauge {
        self.add(IntGauge::new(name, help))
    }

    /// Gauges by label.
    pub fn gauge_vec(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        self.add(IntGaugeVec::new(Opts::new(name, help), labels))
    }

    /// A histogram.
    pub fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> Histogram {
        self.add(Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.to_vec())))
    }

    /// Histograms by label.
    pub fn histogram_vec(&self, name: &str, help: &str, labels: &[&str], buckets: &[f64]) -> HistogramVec {
        self.add(HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets.to_vec()), labels))
    }

    fn add<C: Collector + Clone + 'static>(&self, metric: prometheus::Result<C>) -> C {
        let metric = metric.expect("invariant: a metric's name and labels are valid");
        self.register(metric.clone());
        metric
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renders_what_was_counted() {
        let registry = Registry::new();
        registry.counter_vec("requests_total", "Requests.", &["verb"]).with_label_values(&["get"]).inc_by(3);
        registry.histogram("seconds", "Durations.", LATENCY_SECONDS).observe(0.002);
        let text = registry.render();
        assert!(text.contains("requests_total{verb=\"get\"} 3"), "{text}");
        assert!(text.contains("seconds_bucket{le=\"0.0025\"} 1"), "{text}");
        assert!(text.contains("process_resident_memory_bytes"), "{text}");
    }

    #[test]
    #[should_panic(expected = "registered once")]
    fn a_name_is_registered_once() {
        let registry = Registry::new();
        registry.counter("a_total", "A.");
        registry.counter("a_total", "A.");
    }
}
