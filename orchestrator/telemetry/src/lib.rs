//! How a process tells about itself: structured logs, the metrics registry, health.
