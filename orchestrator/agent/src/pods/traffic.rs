//! When a pod that is to go may be told so: once no node sends it new connections, and those that were on their way have
//! been answered. A pod that no Service leads to has nothing to wait for.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use dataplane::Arrivals;
use tokio::time::Instant;

use super::ops::{Steps, StopPlan};

/// Longest wait for the cluster to stop sending a pod new connections, and for those under way: a node that lags more than
/// this is about to be declared dead.
const MOVE_MAX: Duration = Duration::from_secs(5);
/// After the last kernel has let go, connections for which it had chosen this pod before still arrive: a client lost its CPU
/// between the choice and its SYN, or the SYN waits in queues of nodes without a CPU to spare. None for this long: none
/// comes any more. With 30 threads waiting for a CPU and slices of 3 ms, two turns are 180 ms.
const QUIET: Duration = Duration::from_millis(250);
/// Between looks at the connections.
const LOOK: Duration = Duration::from_millis(20);
/// A look may take this part of the time: a full table of connections takes many milliseconds to walk.
const LOOK_SHARE: u32 = 10;

/// The node's network, as the pods of this node need it.
pub trait PodNetwork: Send + Sync + 'static {
    /// Whether a Service may lead to one of these addresses; true while that is not known.
    fn is_backend(&self, addresses: &[IpAddr]) -> bool;
    /// What comes to these addresses. Blocks for milliseconds.
    fn arrivals(&self, addresses: &[IpAddr]) -> Result<Arrivals, String>;
    /// Releases what a predecessor of this agent gave to sandboxes that are not among these, the ids of all that the runtime
    /// has; how many there were. Blocks.
    fn reconcile(&self, sandboxes: &HashSet<String>) -> Result<usize, String>;
}

/// What a stop waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waiting {
    /// Every Ready node's word that its kernel holds the revision.
    Nodes,
    /// Connections that were made before, and answers to them.
    Answers,
}

// === impl Waiting ===

impl Waiting {
    /// As the metric's label has it.
    fn label(self) -> &'static str {
        match self {
            Waiting::Nodes => "nodes",
            Waiting::Answers => "answers",
        }
    }

    fn explain(self) -> &'static str {
        match self {
            Waiting::Nodes => {
                "stopping although not every node has said that it sends the pod no new connections: some may be refused \
                 (an agent is down or its node has no CPU to spare)"
            }
            Waiting::Answers => {
                "stopping although connections still come to the pod or are not answered: they are its own to finish"
            }
        }
    }
}

impl Steps {
    /// Waits until SIGTERM can break no connection that is not the application's own to finish; for a bounded time.
    pub(super) async fn traffic_moved(&self, plan: &StopPlan) {
        if plan.revision == 0 || !self.shared.network.is_backend(&plan.ips) {
            return;
        }
        let began = Instant::now();
        let bound = plan.deadline.saturating_duration_since(began).min(MOVE_MAX);
        let mut waiting = Waiting::Nodes;
        let moved = tokio::time::timeout(bound, async {
            self.shared.gate.passed(plan.revision).await;
            waiting = Waiting::Answers;
            self.quiet(&plan.ips).await;
        });
        let mut note = String::new();
        if moved.await.is_err() {
            let pod = self.pod.reference();
            tracing::warn!(%pod, revision = plan.revision, waited = ?bound, "{}", waiting.explain());
            self.shared.metrics.gate_overruns.with_label_values(&[waiting.label()]).inc();
            note = format!("gave up waiting for {}", waiting.label());
        }
        self.shared.metrics.gate_seconds.observe(began.elapsed().as_secs_f64());
        self.timeline.record("traffic-moved", &plan.target.container.name, began, note);
    }

    /// Returns once no connection has come for [`QUIET`] and every late one has had an answer.
    async fn quiet(&self, addresses: &[IpAddr]) {
        let addresses: Arc<[IpAddr]> = addresses.into();
        let (mut begun, mut since) = (None, Instant::now());
        loop {
            let began = Instant::now();
            let (network, addresses) = (self.shared.network.clone(), addresses.clone());
            let look = tokio::task::spawn_blocking(move || network.arrivals(&addresses)).await;
            let arrivals = match look.unwrap_or_else(|panic| Err(panic.to_string())) {
                Ok(arrivals) => arrivals,
                Err(error) => {
                    tracing::warn!(pod = %self.pod.reference(), error, "the pod's connections are not known");
                    return tokio::time::sleep(QUIET).await;
                }
            };
            if begun.replace(arrivals.begun) != Some(arrivals.begun) {
                since = began;
            }
            if arrivals.unanswered == 0 && since.elapsed() >= QUIET {
                return;
            }
            tokio::time::sleep(LOOK.max(began.elapsed() * LOOK_SHARE)).await;
        }
    }
}
