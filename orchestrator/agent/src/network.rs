//! The node's network as the API describes it: informers -> netplan's snapshot -> plan -> kernel.
//!
//! Level-triggered: a change only marks the cache as dirty; a thread of its own takes what the cache holds then, compiles, and lets
//! the dataplane write the difference. Changes that come meanwhile are one next round. Nothing is compiled before every cache
//! is complete, so nothing is pruned that the API server merely has not told yet.

mod cache;
mod directory;
mod names;
mod objects;
mod policies;

use std::{
    net::IpAddr,
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use client::{Delta, Informers, Resource};
use dataplane::Dataplane;
use futures::{FutureExt, StreamExt};
use netplan::{GRACE, Ids, snapshot::Cluster};
use parking_lot::{Condvar, Mutex};
use tokio::{sync::watch, task::JoinSet};

pub use self::names::NameBook;
use self::{
    cache::{Cache, Cached},
    directory::Programmed,
    objects::{EndpointSlice, Namespace, NetworkPolicy, Node, Pod, Service},
};

/// After a failed write to the kernel: long enough not to spin, short enough that a passing failure is not felt.
const RETRY: Duration = Duration::from_secs(1);

/// What a node's network is told at start.
#[derive(Clone, Debug)]
pub struct NetworkConfig {
    /// The node's name.
    pub node: String,
    /// What holds for the whole cluster.
    pub cluster: Cluster,
}

/// The running network of a node; dropping it stops the updates and leaves the kernel as it is.
#[derive(Debug)]
pub struct Network {
    state: Arc<State>,
    _followers: JoinSet<()>,
    compiler: Option<JoinHandle<()>>,
}

/// What followers, the compiler and CNI share.
#[derive(Debug)]
struct State {
    config: NetworkConfig,
    inner: Mutex<Inner>,
    /// Something in `inner` changed.
    changed: Condvar,
    applied: watch::Sender<u64>,
    names: watch::Sender<Arc<NameBook>>,
}

#[derive(Debug, Default)]
struct Inner {
    cache: Cache,
    /// Caches that are not complete yet.
    unsynced: usize,
    /// When the oldest change came that no plan holds yet.
    dirty: Option<Instant>,
    /// Revision of the pods' cache, all of whose changes are in `cache`.
    revision: u64,
    programmed: Programmed,
    stopping: bool,
}

/// What the compiler thread does next.
enum Work {
    Compile(Box<Round>),
    /// The kernel holds this revision already.
    Acknowledge(u64),
}

/// What the compiler thread takes for one compilation.
struct Round {
    snapshot: netplan::Snapshot,
    seen: Instant,
}

// === impl Network ===

impl Network {
    /// Follows the API and keeps the kernel as it says. Must be called within a runtime; the writing has a thread of its own.
    pub fn start(
        dataplane: Arc<Dataplane>,
        informers: &Informers,
        config: NetworkConfig,
    ) -> std::io::Result<Self> {
        let state = Arc::new(State {
            config,
            inner: Mutex::default(),
            changed: Condvar::new(),
            applied: watch::Sender::new(0),
            names: watch::Sender::new(Arc::default()),
        });
        let mut followers = JoinSet::new();
        state.follow::<Namespace>(informers, &mut followers);
        state.follow::<Node>(informers, &mut followers);
        state.follow_pods(informers, &mut followers);
        state.follow::<Service>(informers, &mut followers);
        state.follow::<EndpointSlice>(informers, &mut followers);
        state.follow::<NetworkPolicy>(informers, &mut followers);
        state.follow_endpoints(&dataplane, &mut followers);
        let compiler = std::thread::Builder::new().name("network".into()).spawn({
            let state = state.clone();
            move || state.run(&dataplane)
        })?;
        Ok(Network { state, _followers: followers, compiler: Some(compiler) })
    }

    /// The newest revision of a pod that the kernel holds: what the node acknowledges. A pod that is terminating at this
    /// revision gets no new connection from this node any more, whatever its EndpointSlice still says.
    pub fn applied_revision(&self) -> watch::Receiver<u64> {
        self.state.applied.subscribe()
    }

    /// What addresses and numbers in events mean, as of the newest plan.
    pub fn names(&self) -> watch::Receiver<Arc<NameBook>> {
        self.state.names.subscribe()
    }

    /// What CNI asks.
    pub fn directory(&self) -> Arc<dyn dataplane::PodDirectory> {
        Arc::new(directory::Directory(self.state.clone()))
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.state.change(|inner| inner.stopping = true);
        if let Some(compiler) = self.compiler.take() {
            let _ = compiler.join();
        }
    }
}

// === impl State ===

impl State {
    /// Keeps one kind of the cache current.
    fn follow<T: Resource + Cached>(self: &Arc<Self>, informers: &Informers, followers: &mut JoinSet<()>) {
        let informer = informers.get::<T>();
        let state = self.clone();
        state.inner.lock().unsynced += 1;
        followers.spawn(async move {
            let mut deltas = informer.subscribe();
            while let Some(delta) = deltas.next().await {
                state.change(|inner| inner.take(delta));
            }
        });
    }

    /// Keeps the pods current, and with them the revision that is acknowledged.
    fn follow_pods(self: &Arc<Self>, informers: &Informers, followers: &mut JoinSet<()>) {
        let informer = informers.get::<Pod>();
        let state = self.clone();
        state.inner.lock().unsynced += 1;
        followers.spawn(async move {
            let (mut deltas, mut revisions) = (informer.subscribe(), informer.revisions());
            loop {
                tokio::select! {
                    delta = deltas.next() => match delta {
                        Some(delta) => state.change(|inner| inner.take(delta)),
                        None => return,
                    },
                    moved = revisions.changed() => {
                        if moved.is_err() {
                            return;
                        }
                        let revision = *revisions.borrow_and_update();
                        // The cache moves the revision before it tells of the change, under its lock: once we have had
                        // the lock, all deltas up to the revision are in the queue.
                        let _ = informer.store().len();
                        state.change(|inner| {
                            while let Some(Some(delta)) = deltas.next().now_or_never() {
                                inner.take(delta);
                            }
                            inner.revision = revision;
                        });
                    }
                }
            }
        });
    }

    fn follow_endpoints(self: &Arc<Self>, dataplane: &Dataplane, followers: &mut JoinSet<()>) {
        let mut endpoints = dataplane.endpoints();
        let state = self.clone();
        followers.spawn(async move {
            loop {
                let current = endpoints.borrow_and_update().clone();
                state.change(|inner| {
                    inner.cache.endpoints = current;
                    inner.touch();
                });
                if endpoints.changed().await.is_err() {
                    return;
                }
            }
        });
    }

    /// Changes what is shared and wakes whoever waits for it.
    fn change(&self, change: impl FnOnce(&mut Inner)) {
        change(&mut self.inner.lock());
        self.changed.notify_all();
    }

    /// The compiler thread.
    fn run(&self, dataplane: &Dataplane) {
        let mut ids = dataplane.ids();
        let epoch = Instant::now();
        let mut again: Option<Instant> = None;
        while let Some(work) = self.next_work(dataplane, again) {
            match work {
                Work::Compile(round) => {
                    ids.set_now(epoch.elapsed());
                    again = self.program(dataplane, &round, &mut ids);
                }
                Work::Acknowledge(revision) => self.acknowledge(revision),
            }
        }
    }

    /// Waits for a change, or for the time at which something is to be done again; `None` at the end.
    fn next_work(&self, dataplane: &Dataplane, again: Option<Instant>) -> Option<Work> {
        let mut inner = self.inner.lock();
        loop {
            if inner.stopping {
                return None;
            }
            let due = again.is_some_and(|again| Instant::now() >= again);
            let synced = inner.unsynced == 0;
            if synced && (inner.dirty.is_some() || due) {
                break;
            }
            // Nothing to write, so what is held is what that revision says; unless a write is still to be repeated.
            if synced && again.is_none() && inner.revision != *self.applied.borrow() {
                return Some(Work::Acknowledge(inner.revision));
            }
            match again.filter(|_| synced) {
                Some(again) => drop(self.changed.wait_until(&mut inner, again)),
                None => self.changed.wait(&mut inner),
            }
        }
        // The newest endpoints, whether their follower has run or not: CNI waits for them.
        inner.cache.endpoints = dataplane.endpoints().borrow().clone();
        let seen = inner.dirty.take().unwrap_or_else(Instant::now);
        let revision = inner.revision;
        let snapshot = inner.cache.snapshot(&self.config, revision);
        Some(Work::Compile(Box::new(Round { snapshot, seen })))
    }

    fn acknowledge(&self, revision: u64) {
        self.applied.send_if_modified(|held| std::mem::replace(held, revision) != revision);
    }

    /// Makes the kernel hold one round; when to try or tidy up again.
    fn program(&self, dataplane: &Dataplane, round: &Round, ids: &mut Ids) -> Option<Instant> {
        let own = round.snapshot.nodes.iter().find(|node| node.name == round.snapshot.node);
        if let Some(node) = own {
            dataplane.set_pod_cidrs(&node.pod_cidrs);
        }
        let plan = netplan::compile(&round.snapshot, ids);
        let applied = match dataplane.apply(&plan) {
            Ok(applied) => applied,
            Err(error) => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "the kernel does not hold the newest plan"
                );
                return Some(Instant::now() + RETRY);
            }
        };
        if applied.changes > 0 {
            dataplane.metrics().programmed(round.seen.elapsed());
        }
        self.names.send_replace(Arc::new(NameBook::new(&round.snapshot, &plan)));
        self.acknowledge(applied.revision);
        self.change(|inner| inner.programmed.set(&plan));
        plan.unsettled.then(|| Instant::now() + GRACE)
    }
}

// === impl Inner ===

impl Inner {
    fn take<T: Cached>(&mut self, delta: Delta<T>) {
        let changed = match delta {
            Delta::Synced => {
                self.unsynced -= 1;
                true
            }
            Delta::Upsert { new, .. } => new.upsert(&mut self.cache),
            Delta::Delete(old) => {
                old.delete(&mut self.cache);
                true
            }
        };
        if changed {
            self.touch();
        }
    }

    fn touch(&mut self) {
        self.dirty.get_or_insert_with(Instant::now);
    }
}

/// Addresses as the API writes them; what is not one is left out.
fn addresses<'a>(texts: impl IntoIterator<Item = &'a str>) -> Vec<IpAddr> {
    let mut addresses: Vec<IpAddr> = Vec::new();
    for address in texts.into_iter().filter_map(|text| text.parse().ok()) {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    addresses
}

#[cfg(test)]
mod tests;
