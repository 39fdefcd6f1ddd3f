//! Pods of this node: `manager` hands each pod to a `worker`, whose next steps `machine` decides from `state`; `status`
//! computes what is reported, `ops` carries the steps out.

pub mod backoff;
pub mod machine;
pub mod state;
pub mod status;
