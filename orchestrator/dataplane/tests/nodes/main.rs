//! Real nodes, pods and sockets: each node is a network namespace with the dataplane loaded into it, joined by a bridge in a namespace of
//! its own. Needs root. Everything vanishes with the test, also with a failed one.

mod pods;
mod policy;
mod restart;
mod rig;
mod services;
