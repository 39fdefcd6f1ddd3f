//! What CNI asks about pods: who they are, and whether the kernel holds their policy.

use std::{
    collections::HashSet,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use dataplane::PodDirectory;
use netplan::{Plan, snapshot::LocalEndpoint};

use super::state::State;
use crate::pods::timeline::Timelines;

/// Answers CNI's threads from what the followers and the compiler share.
pub(super) struct Directory {
    pub(super) state: Arc<State>,
    /// Where the stages of ADD are recorded.
    pub(super) timelines: Timelines,
}

/// Addresses whose compiled policy the kernel holds, with the device they lead to.
#[derive(Debug, Default)]
pub(super) struct Programmed(HashSet<(IpAddr, u32)>);

impl PodDirectory for Directory {
    fn uid(&self, namespace: &str, name: &str, deadline: Instant) -> Option<String> {
        let mut inner = self.state.inner.lock();
        loop {
            if let Some(uid) = inner.cache.uid(namespace, name) {
                return Some(uid);
            }
            if inner.stopping || self.state.changed.wait_until(&mut inner, deadline).timed_out() {
                return None;
            }
        }
    }

    fn programmed(&self, endpoint: &LocalEndpoint, deadline: Instant) -> Result<(), String> {
        let mut inner = self.state.inner.lock();
        // The compiler takes the newest endpoints with its next round: this is one.
        inner.touch();
        inner.waiting += 1;
        self.state.changed.notify_all();
        let mut timed_out = false;
        while !inner.programmed.holds(endpoint) && !timed_out && !inner.stopping {
            timed_out = self.state.changed.wait_until(&mut inner, deadline).timed_out();
        }
        inner.waiting -= 1;
        if inner.programmed.holds(endpoint) {
            return Ok(());
        }
        let unknown = inner.cache.uid(&endpoint.namespace, &endpoint.name).as_deref() != Some(&*endpoint.uid);
        drop(inner);
        let obstacle = self.state.obstacle.borrow().as_deref().map(str::to_owned);
        let unseen = || "the API server has not told the agent of the pod, or it was deleted".to_owned();
        Err(obstacle
            .or_else(|| unknown.then(unseen))
            .unwrap_or_else(|| "the agent is busy or stopping".to_owned()))
    }

    fn wired(&self, endpoint: &LocalEndpoint, took: Duration, policy: Duration) {
        let Some(timeline) = self.timelines.get(&endpoint.namespace, &endpoint.name) else { return };
        let note = format!("of which {} ms until its network policy was in force", policy.as_millis());
        timeline.record_took("address", "", took, note);
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
