//! The rig: a cluster of several nodes on one machine, out of real parts.
//!
//! A node is a network namespace on a bridge that lives in a namespace of its own, a mount namespace, a cgroup subtree and
//! directories; in it run a real containerd and the real `bowsprit` binary, joined the way any node joins.
//! `cargo xtask up` and the end-to-end suites build the same clusters with it.
//!
//! Invariant: every resource is in the [`journal`] before it is made, so that [`cluster::down`] leaves nothing behind, whenever
//! it and what came before were interrupted.
#![deny(clippy::unwrap_used)]

pub mod cluster;
pub mod command;
pub mod containerd;
pub mod etcd;
pub mod image;
pub mod journal;
pub mod keeper;
pub mod layout;
pub mod namespaces;
pub mod shop;
