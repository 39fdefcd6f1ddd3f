//! The scheduler: which node a pod runs on.
//!
//! The core is pure and single-threaded: [`cluster::Cluster`] is what the nodes have and hold, [`queue::Queue`] who
//! waits and why, [`decide`] picks a node or says why there is none. [`run`] is the only part that does IO: it feeds
//! the core from informers and writes bindings, conditions and events, many at a time.
//! Invariant: a decision is charged to its node before the next one is taken ([`cluster::Cluster::assume`]), so
//! decisions never wait for the API server.
#![forbid(unsafe_code)]

pub mod cluster;
pub mod decide;
mod driver;
pub mod filter;
mod metrics;
pub mod objects;
pub mod queue;
pub mod resources;
pub mod score;

pub use driver::{Config, run};
pub use metrics::Metrics;
