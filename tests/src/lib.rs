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
pub mod figures;
pub mod image;
pub mod journal;
pub mod keeper;
pub mod layout;
pub mod leftovers;
pub mod namespaces;
pub mod shop;

/// Whether this process may do what the rig does: make namespaces and cgroups, load eBPF programs.
#[must_use]
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// The resident memory of a process in MiB; 0 when it does not run.
#[must_use]
pub fn resident_mib(pid: i32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    line.split_whitespace().next().and_then(|kib| kib.parse::<f64>().ok()).unwrap_or(0.0) / 1024.0
}
