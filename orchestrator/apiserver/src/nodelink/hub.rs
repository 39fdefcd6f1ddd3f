//! What all nodes say: who is alive, and which revision every kernel holds.
//!
//! A link that falls silent means a dead node: its kernel would have closed the connection of an agent that died. A link
//! that closes means an agent that restarts, while the node's kernel goes on forwarding, or a node that goes down: the
//! kernel is asked ([`pulse`]), and while it answers the agent has longer to come back.
//!
//! Whether a node is alive decides about endpoints and pods; which nodes must have acknowledged a revision is another
//! question: all that are Ready, for what cannot be heard may still send.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::cache::ResourceCache;

mod facts;
mod pulse;

use facts::Facts;

/// A node that has not been heard for this long is lost: four heartbeats.
pub const SILENCE_MAX: Duration = Duration::from_secs(1);
/// An agent that closed its link may come back within this time, as long as its kernel answers: a restart with its caches takes
/// about two seconds.
const RESTART_MAX: Duration = Duration::from_secs(5);
/// After a start, agents need this long to find the server again; until then no minimum is known.
const GATHERING: Duration = Duration::from_secs(2);
/// Changes within this time are counted together: it delays a rolling update by nothing that anybody sees.
const COALESCE: Duration = Duration::from_millis(5);

/// Whether each node that has ever had a link is alive.
pub type Liveness = BTreeMap<String, bool>;

/// What all links say.
pub struct Hub {
    nodes: Mutex<HashMap<String, Node>>,
    /// What other servers say.
    others: Mutex<BTreeMap<String, Peer>>,
    liveness: watch::Sender<Arc<Liveness>>,
    minimum: watch::Sender<u64>,
    local: watch::Sender<Peer>,
    changed: Notify,
    started: Instant,
}

/// What a server knows of its nodes.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct Peer {
    /// The revision that the kernels of its nodes hold; nothing when it has no nodes.
    pub minimum: Option<u64>,
    /// Its nodes, and whether they are alive.
    pub nodes: Liveness,
}

#[derive(Debug)]
struct Node {
    /// The newest link; an older one that ends says nothing.
    link: u64,
    applied: u64,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Linked,
    /// The agent closed its link.
    Closed {
        since: Instant,
        /// When the node's kernel gave its last sign of life; the closing was one.
        pulse: Instant,
        /// It is being asked for more.
        asked: bool,
    },
    Lost,
}

/// One node's link; dropping it is the agent's going away.
pub struct Link {
    hub: Arc<Hub>,
    node: String,
    id: u64,
    silent: bool,
}

// === impl Hub ===

impl Hub {
    /// A hub without nodes.
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            nodes: Mutex::default(),
            others: Mutex::default(),
            liveness: watch::Sender::default(),
            minimum: watch::Sender::default(),
            local: watch::Sender::default(),
            changed: Notify::new(),
            started: Instant::now(),
        })
    }

    /// Which nodes are alive, with every change.
    pub fn liveness(&self) -> watch::Receiver<Arc<Liveness>> {
        self.liveness.subscribe()
    }

    /// The revision that every Ready node's kernel holds, with every change; 0 while that is not known.
    pub fn minimum(&self) -> watch::Receiver<u64> {
        self.minimum.subscribe()
    }

    /// What this server knows of its own nodes, for other servers.
    pub fn local(&self) -> watch::Receiver<Peer> {
        self.local.subscribe()
    }

    /// What another server says; `None` when it is gone.
    pub fn peer(&self, server: &str, says: Option<Peer>) {
        let mut others = self.others.lock();
        match says {
            Some(says) => _ = others.insert(server.to_owned(), says),
            None => _ = others.remove(server),
        }
        drop(others);
        self.changed.notify_one();
    }

    /// A node has linked itself.
    pub fn join(self: &Arc<Self>, node: &str) -> Link {
        let mut nodes = self.nodes.lock();
        let known =
            nodes.entry(node.to_owned()).or_insert(Node { link: 0, applied: 0, state: State::Linked });
        known.link += 1;
        known.state = State::Linked;
        let id = known.link;
        drop(nodes);
        self.changed.notify_one();
        Link { hub: self.clone(), node: node.to_owned(), id, silent: false }
    }

    /// Keeps liveness and minimum up to date until `stop`. `nodes` are the Node objects.
    pub async fn run(self: Arc<Self>, nodes: Option<Arc<ResourceCache>>, stop: CancellationToken) {
        let mut facts = Facts::new(nodes);
        let mut pulses = JoinSet::new();
        loop {
            let (next, ask) = self.update(&mut facts);
            for (node, link, address) in ask {
                pulses.spawn(pulse::watch(self.clone(), node, link, address));
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.changed.notified() => tokio::time::sleep(COALESCE).await,
                Some(_) = pulses.join_next() => {}
                () = tokio::time::sleep_until(next) => {}
            }
        }
    }

    /// The kernel of a node whose agent closed this link has given a sign of life; whether more are wanted.
    fn pulse(&self, node: &str, link: u64) -> bool {
        self.if_closed(node, link, |pulse| *pulse = Instant::now())
    }

    /// Whether the node's agent has closed this link, and neither came back nor was given up.
    fn is_closed(&self, node: &str, link: u64) -> bool {
        self.if_closed(node, link, |_| ())
    }

    fn if_closed(&self, node: &str, link: u64, with: impl FnOnce(&mut Instant)) -> bool {
        let mut nodes = self.nodes.lock();
        let Some(node) = nodes.get_mut(node).filter(|node| node.link == link) else { return false };
        let State::Closed { pulse, .. } = &mut node.state else { return false };
        with(pulse);
        true
    }

    /// Works out the present state; returns when it may change by itself, and the nodes whose kernels are to be asked.
    fn update(&self, facts: &mut Facts) -> (Instant, Vec<(String, u64, SocketAddr)>) {
        let now = Instant::now();
        // Readiness changes without a word from the node; its object is looked at again at least this often.
        let mut next = now + SILENCE_MAX;
        let mut ask = Vec::new();
        let mut own = Peer::default();
        let others = self.others.lock();
        let elsewhere = |name: &str| others.values().any(|peer| peer.nodes.get(name) == Some(&true));
        let mut nodes = self.nodes.lock();
        nodes.retain(|name, node| {
            if let State::Closed { since, pulse, asked } = &mut node.state {
                let end = (*since + RESTART_MAX).min(*pulse + SILENCE_MAX);
                if end <= now {
                    node.state = State::Lost;
                } else {
                    next = next.min(end);
                    if let Some(address) = facts.address(name).filter(|_| !std::mem::replace(asked, true)) {
                        ask.push((name.clone(), node.link, address));
                    }
                }
            }
            let alive = node.state != State::Lost;
            // One that is not heard counts until its object says that it is not Ready: it may still send. If it has gone
            // over to another server, that one knows better.
            if facts.is_ready(name).unwrap_or(alive) && (alive || !elsewhere(name)) {
                own.minimum = Some(own.minimum.unwrap_or(u64::MAX).min(node.applied));
            }
            // A lost node is remembered as long as there is an object that somebody may ask about.
            let stays = alive || facts.exists(name);
            if stays {
                own.nodes.insert(name.clone(), alive);
            }
            stays
        });
        drop(nodes);
        let (mut all, mut minimum) = (own.nodes.clone(), own.minimum);
        for peer in others.values() {
            minimum = [minimum, peer.minimum].into_iter().flatten().min();
            for (node, alive) in &peer.nodes {
                *all.entry(node.clone()).or_default() |= alive;
            }
        }
        drop(others);
        let gathered = self.started + GATHERING;
        let minimum = if now < gathered { 0 } else { minimum.unwrap_or(0) };
        if now < gathered {
            next = next.min(gathered);
        }
        self.minimum.send_if_modified(|before| std::mem::replace(before, minimum) != minimum);
        self.liveness.send_if_modified(|before| {
            let changed = **before != all;
            if changed {
                tell(before, &all);
                *before = Arc::new(all);
            }
            changed
        });
        self.local.send_if_modified(|before| {
            let changed = *before != own;
            *before = own;
            changed
        });
        (next, ask)
    }
}

/// Logs who was lost and who came back.
fn tell(before: &Liveness, now: &Liveness) {
    for (node, alive) in now.iter().filter(|(node, alive)| before.get(*node) != Some(*alive)) {
        match alive {
            true => tracing::info!(node, "the node is heard of"),
            false => tracing::warn!(node, "the node is not heard of any more: its endpoints leave"),
        }
    }
}

impl std::fmt::Debug for Hub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Hub({} nodes)", self.nodes.lock().len())
    }
}

// === impl Link ===

impl Link {
    /// The node's kernel holds everything up to `applied`.
    pub fn report(&self, applied: u64) {
        let mut nodes = self.hub.nodes.lock();
        let Some(node) = nodes.get_mut(&self.node).filter(|node| node.link == self.id) else { return };
        if std::mem::replace(&mut node.applied, applied) != applied {
            drop(nodes);
            self.hub.changed.notify_one();
        }
    }

    /// Nothing was heard for [`SILENCE_MAX`].
    pub fn silent(&mut self) {
        self.silent = true;
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        let mut nodes = self.hub.nodes.lock();
        if let Some(node) = nodes.get_mut(&self.node).filter(|node| node.link == self.id) {
            let now = Instant::now();
            let closed = State::Closed { since: now, pulse: now, asked: false };
            node.state = if self.silent { State::Lost } else { closed };
        }
        drop(nodes);
        self.hub.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn settle() {
        tokio::time::sleep(COALESCE * 4).await;
    }

    #[tokio::test(start_paused = true)]
    async fn the_minimum_is_of_all_that_are_alive() {
        let hub = Hub::new();
        tokio::spawn(hub.clone().run(None, CancellationToken::new()));
        let (minimum, liveness) = (hub.minimum(), hub.liveness());
        let (a, b) = (hub.join("a"), hub.join("b"));
        a.report(5);
        b.report(3);
        settle().await;
        assert_eq!(*minimum.borrow(), 0, "agents are still gathering");
        tokio::time::sleep(GATHERING).await;
        assert_eq!(*minimum.borrow(), 3);
        b.report(7);
        settle().await;
        assert_eq!(*minimum.borrow(), 5);

        drop(a);
        tokio::time::sleep(SILENCE_MAX / 2).await;
        assert_eq!(liveness.borrow().get("a"), Some(&true), "an agent may restart");
        assert_eq!(*minimum.borrow(), 5);
        tokio::time::sleep(SILENCE_MAX / 2).await;
        settle().await;
        assert!(
            !liveness.borrow().contains_key("a"),
            "its kernel gave no sign of life, and there is no object"
        );
        assert_eq!(*minimum.borrow(), 7);
    }

    #[tokio::test(start_paused = true)]
    async fn an_agent_may_be_away_while_its_kernel_answers_but_not_for_ever() {
        let hub = Hub::new();
        tokio::spawn(hub.clone().run(None, CancellationToken::new()));
        let liveness = hub.liveness();
        let link = hub.join("a");
        let id = link.id;
        assert!(!hub.pulse("a", id), "nobody asks while the agent speaks");
        drop(link);
        let closed = Instant::now();
        while hub.pulse("a", id) {
            settle().await;
            tokio::time::sleep(SILENCE_MAX / 4).await;
        }
        assert_eq!(closed.elapsed().as_secs(), RESTART_MAX.as_secs());
        assert!(!liveness.borrow().contains_key("a"));
        let again = hub.join("a");
        settle().await;
        assert_eq!(liveness.borrow().get("a"), Some(&true));
        assert!(!hub.pulse("a", again.id));
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_death_and_a_new_link_replaces_the_old() {
        let hub = Hub::new();
        tokio::spawn(hub.clone().run(None, CancellationToken::new()));
        let mut old = hub.join("a");
        let new = hub.join("a");
        old.silent();
        drop(old);
        settle().await;
        assert_eq!(hub.liveness().borrow().get("a"), Some(&true));
        drop(new);
    }

    #[tokio::test(start_paused = true)]
    async fn other_servers_count() {
        let hub = Hub::new();
        tokio::spawn(hub.clone().run(None, CancellationToken::new()));
        let link = hub.join("a");
        link.report(9);
        hub.peer("other", Some(Peer { minimum: Some(4), nodes: BTreeMap::from([("b".into(), true)]) }));
        tokio::time::sleep(GATHERING).await;
        settle().await;
        assert_eq!((*hub.minimum().borrow(), hub.liveness().borrow().len()), (4, 2));
        hub.peer("other", None);
        settle().await;
        assert_eq!(*hub.minimum().borrow(), 9);
    }
}
