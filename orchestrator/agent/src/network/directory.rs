//! What CNI asks about pods: who they are, and whether the kernel holds their policy.

use std::{collections::HashSet, net::IpAddr, sync::Arc, time::Instant};

use dataplane::PodDirectory;
use netplan::{Plan, snapshot::LocalEndpoint};

use super::State;

/// Answers CNI's threads from what the followers and the compiler share.
pub(super) struct Directory(pub(super) Arc<State>);

/// Addresses whose compiled policy the kernel holds, with the device they lead to.
#[derive(Debug, Default)]
pub(super) struct Programmed(HashSet<(IpAddr, u32)>);

impl PodDirectory for Directory {
    fn uid(&self, namespace: &str, name: &str, deadline: Instant) -> Option<String> {
        let mut inner = self.0.inner.lock();
        loop {
            if let Some(uid) = inner.cache.uid(namespace, name) {
                return Some(uid);
            }
            if self.0.changed.wait_until(&mut inner, deadline).timed_out() {
                return None;
            }
        }
    }

    fn programmed(&self, endpoint: &LocalEndpoint, deadline: Instant) -> Result<(), String> {
        let mut inner = self.0.inner.lock();
        // The compiler takes the newest endpoints with its next round: this is one.
        inner.touch();
        self.0.changed.notify_all();
        while !inner.programmed.holds(endpoint) {
            if self.0.changed.wait_until(&mut inner, deadline).timed_out() {
                let why = match inner.unsynced {
                    0 => "the agent has not seen the pod at the API server, or cannot write its maps",
                    _ => "the agent has not read the cluster's state from the API server yet",
                };
                return Err(why.into());
            }
        }
        Ok(())
    }
}

// === impl Programmed ===

impl Programmed {
    /// Takes over what a plan compiled, once the kernel holds it.
    pub(super) fn set(&mut self, plan: &Plan) {
        self.0 = plan.compiled_endpoints().collect();
    }

    fn holds(&self, endpoint: &LocalEndpoint) -> bool {
        endpoint.addresses.iter().all(|address| self.0.contains(&(*address, endpoint.ifindex)))
    }
}
