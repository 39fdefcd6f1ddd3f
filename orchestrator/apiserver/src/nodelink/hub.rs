//! What all nodes say: who is alive, and which revision every kernel holds.
//!
//! A link that falls silent means a dead node: its kernel would have closed the connection of an agent that died. A link
//! that closes means an agent that restarts, while the node's kernel goes on forwarding; it gets longer to come back.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::cache::ResourceCache;

/// A node that has not been heard for this long is lost: four heartbeats.
pub const SILENCE_MAX: Duration = Duration::from_secs(1);
/// An agent that closed its link may come back within this time: a restart with its caches takes about two seconds.
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
    /// The agent closed its link then.
    Closed(Instant),
    Lost,
}

/// One node's link; dropping it is the agent's going away.
pub struct Link {
    hub: Arc<Hub>,
    node: String,
    id: u64,
    silent: bool,
}

/// Which nodes are Ready, read again only when their objects change.
#[derive(Default)]
struct Readiness(HashMap<String, (u64, bool)>);

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
        let mut readiness = Readiness::default();
        loop {
            let next = self.update(nodes.as_deref(), &mut readiness);
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.changed.notified() => tokio::time::sleep(COALESCE).await,
                () = tokio::time::sleep_until(next) => {}
            }
        }
    }

    /// Works out the present state; returns when it may change by itself.
    fn update(&self, objects: Option<&ResourceCache>, readiness: &mut Readiness) -> Instant {
        let now = Instant::now();
        // Readiness changes without a word from the node; its object is looked at again at least this often.
        let mut next = now + SILENCE_MAX;
        let mut own = Peer::default();
        let mut nodes = self.nodes.lock();
        nodes.retain(|name, node| {
            if let State::Closed(since) = node.state {
                let end = since + RESTART_MAX;
                if end <= now {
                    node.state = State::Lost;
                } else {
                    next = next.min(end);
                }
            }
            let exists = objects.is_none_or(|objects| objects.get(name).is_some());
            let alive = node.state != State::Lost;
            if alive && readiness.of(objects, name) {
                own.minimum = Some(own.minimum.unwrap_or(u64::MAX).min(node.applied));
            }
            // A lost node is remembered as long as there is an object that somebody may ask about.
            if alive || exists {
                own.nodes.insert(name.clone(), alive);
            }
            alive || exists
        });
        drop(nodes);
        let (mut all, mut minimum) = (own.nodes.clone(), own.minimum);
        for peer in self.others.lock().values() {
            minimum = [minimum, peer.minimum].into_iter().flatten().min();
            for (node, alive) in &peer.nodes {
                *all.entry(node.clone()).or_default() |= alive;
            }
        }
        let gathered = self.started + GATHERING;
        let minimum = if now < gathered { 0 } else { minimum.unwrap_or(0) };
        if now < gathered {
            next = next.min(gathered);
        }
        self.minimum.send_if_modified(|before| std::mem::replace(before, minimum) != minimum);
        self.liveness.send_if_modified(|before| {
            let changed = **before != all;
            if changed {
                *before = Arc::new(all);
            }
            changed
        });
        self.local.send_if_modified(|before| {
            let changed = *before != own;
            *before = own;
            changed
        });
        next
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
            node.state = if self.silent { State::Lost } else { State::Closed(Instant::now()) };
        }
        drop(nodes);
        self.hub.changed.notify_one();
    }
}

// === impl Readiness ===

impl Readiness {
    /// Whether a node's object says that it is Ready. Without objects, whoever is linked counts.
    fn of(&mut self, objects: Option<&ResourceCache>, name: &str) -> bool {
        let Some(objects) = objects else { return true };
        let Some(entry) = objects.get(name) else { return false };
        match self.0.get(name) {
            Some((revision, ready)) if *revision == entry.revision() => *ready,
            _ => {
                let ready = is_ready(entry.value());
                self.0.insert(name.to_owned(), (entry.revision(), ready));
                ready
            }
        }
    }
}

fn is_ready(node: &[u8]) -> bool {
    let Ok(node) = serde_json::from_slice::<serde_json::Value>(node) else { return false };
    let conditions = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
    conditions.iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
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
        settle().await;
        assert_eq!(liveness.borrow().get("a"), Some(&true), "an agent may restart");
        tokio::time::sleep(RESTART_MAX).await;
        settle().await;
        assert_eq!(liveness.borrow().get("a"), Some(&false));
        assert_eq!(*minimum.borrow(), 7);
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
