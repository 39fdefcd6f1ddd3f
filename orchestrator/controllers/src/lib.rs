//! Controllers: each brings the world closer to what some objects say, one module a controller.
//!
//! They are level-triggered, read from shared informers and write through the client; they may be killed at any
//! instruction. What they decide is in pure functions, tested with tables; what they do is thin. All run in one
//! process at a time, the leader's.
#![forbid(unsafe_code)]

pub mod certificates;
mod context;
pub mod deployment;
pub mod endpoints;
pub mod garbage;
mod liveness;
mod metrics;
pub mod namespaces;
pub mod node_cidrs;
pub mod nodes;
pub mod objects;
pub mod pod_gc;
pub mod replicaset;
pub mod service_accounts;
pub mod work;

pub use context::Context;
pub use liveness::{Liveness, LivenessReceiver};
pub use metrics::Metrics;
