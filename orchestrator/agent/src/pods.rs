//! Pods of this node: `manager` hands each pod to a `worker`, whose next steps `machine` decides from `state`; `ops`
//! carries the steps out, `traffic` holds SIGTERM back while connections come, `status` computes what `reporter` writes back.

pub mod actions;
pub mod backoff;
pub mod build;
pub mod files;
pub mod machine;
pub mod manager;
pub mod ops;
pub mod probes;
pub mod reporter;
pub mod settings;
pub mod shared;
pub mod state;
pub mod status;
pub mod timeline;
pub mod traffic;
pub mod worker;

#[cfg(test)]
mod tests;
