//! The node: pods over CRI, volumes, probes, logs, exec, node status; API objects -> netplan's snapshot.

pub mod agent;
pub mod cgroups;
pub mod cluster;
pub mod env;
mod errors;
pub mod logs;
pub mod metrics;
pub mod network;
pub mod node;
pub mod objects;
pub mod pods;
pub mod resources;
pub mod runtime;
pub mod server;
pub mod slots;
pub mod volumes;
