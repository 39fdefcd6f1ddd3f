//! How a process tells about itself: structured logs, the metrics registry, health, and the HTTP routes for both.

#![forbid(unsafe_code)]

pub mod health;
pub mod http;
mod log;
mod registry;

pub use log::{LogConfig, LogError, LogFormat, init};
pub use registry::{LATENCY_SECONDS, Registry};
