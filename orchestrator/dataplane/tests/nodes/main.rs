//! Real nodes, pods and sockets: each node is a network namespace with the dataplane loaded into it, joined by a bridge in a namespace of
//! its own. Needs root. Everything vanishes with the test, also with a failed one.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod pods;
mod policy;
mod restart;
mod rig;
mod services;
