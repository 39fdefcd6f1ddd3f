//! The eBPF programs in the kernel, fed with packets: they load within the verifier's budget, decide as the tables of
//! packets say, and decide random and damaged packets as the host's functions do.
//!
//! They need root. Devices are made in a network namespace of the test's own thread and vanish with it.

#[path = "packets/cost.rs"]
mod cost;
#[path = "packets/differential.rs"]
mod differential;
#[path = "packets/kernel.rs"]
mod kernel;
#[path = "packets/network.rs"]
mod network;
#[path = "packets/reports.rs"]
mod reports;
#[path = "packets/sockets.rs"]
mod sockets;
#[path = "packets/tables.rs"]
mod tables;
#[path = "packets/verifier.rs"]
mod verifier;
