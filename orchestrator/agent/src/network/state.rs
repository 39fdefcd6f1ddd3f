//! What followers of the API, the compiler, and CNI's threads share, and how the followers keep it current.

use std::{collections::BTreeSet, sync::Arc, time::Instant};

use client::{Delta, Informers, Resource, Subscription};
use dataplane::Endpoints;
use netplan::snapshot::Cluster;
use parking_lot::{Condvar, Mutex};
use tokio::{sync::watch, task::JoinSet};

use super::{
    cache::{Cache, Cached},
    directory::Programmed,
    names::NameBook,
    objects::Pod,
};

/// The state of a node's network.
#[derive(Debug)]
pub(super) struct State {
    pub(super) node: Arc<str>,
    pub(super) cluster: Cluster,
    pub(super) inner: Mutex<Inner>,
    /// Something in `inner` changed.
    pub(super) changed: Condvar,
    pub(super) applied: watch::Sender<u64>,
    pub(super) obstacle: watch::Sender<Option<Arc<str>>>,
    pub(super) names: watch::Sender<Arc<NameBook>>,
}

#[derive(Debug, Default)]
pub(super) struct Inner {
    pub(super) cache: Cache,
    /// Caches that are not complete yet, by the plural of what they hold.
    pub(super) unsynced: BTreeSet<&'static str>,
    /// When the oldest change came that no plan holds yet.
    pub(super) dirty: Option<Instant>,
    /// Revision of the pods' cache, all of whose changes are in `cache`.
    pub(super) revision: u64,
    pub(super) programmed: Programmed,
    /// CNI calls that wait for a plan.
    pub(super) waiting: usize,
    pub(super) stopping: bool,
}

// === impl State ===

impl State {
    pub(super) fn new(node: &str, cluster: Cluster) -> Self {
        State {
            node: node.into(),
            cluster,
            inner: Mutex::default(),
            changed: Condvar::new(),
            applied: watch::Sender::new(0),
            obstacle: watch::Sender::new(Some("nothing is programmed yet".into())),
            names: watch::Sender::new(Arc::default()),
        }
    }

    /// Changes what is shared and wakes whoever waits for it.
    pub(super) fn change<R>(&self, change: impl FnOnce(&mut Inner) -> R) -> R {
        let result = change(&mut self.inner.lock());
        self.changed.notify_all();
        result
    }

    /// Says why new pods cannot have a network now.
    pub(super) fn hinder(&self, obstacle: Option<&str>) {
        self.obstacle.send_if_modified(|held| {
            let news = held.as_deref() != obstacle;
            if news {
                *held = obstacle.map(Arc::from);
            }
            news
        });
    }

    /// Keeps one kind of the cache current.
    pub(super) fn follow<T: Resource + Cached>(
        self: &Arc<Self>,
        informers: &Informers,
        tasks: &mut JoinSet<()>,
    ) {
        let mut deltas = informers.get::<T>().subscribe();
        let state = Arc::clone(self);
        state.inner.lock().unsynced.insert(T::PLURAL);
        tasks.spawn(async move {
            loop {
                let delta = deltas.recv().await;
                state.change(|inner| inner.take_all(delta, &mut deltas));
            }
        });
    }

    /// Keeps the pods current, and with them the revision that is acknowledged.
    pub(super) fn follow_pods(self: &Arc<Self>, informers: &Informers, tasks: &mut JoinSet<()>) {
        let informer = informers.get::<Pod>();
        let state = Arc::clone(self);
        state.inner.lock().unsynced.insert(Pod::PLURAL);
        tasks.spawn(async move {
            let (mut deltas, mut revisions) = (informer.subscribe(), informer.revisions());
            // The list may have been there before us.
            revisions.mark_changed();
            loop {
                tokio::select! {
                    delta = deltas.recv() => state.change(|inner| inner.take_all(delta, &mut deltas)),
                    moved = revisions.changed() => {
                        if moved.is_err() {
                            return;
                        }
                        let revision = *revisions.borrow_and_update();
                        // The cache moves the revision before it tells of the change, under its lock: once we have had
                        // the lock, all deltas up to the revision are in the queue.
                        let _ = informer.store().len();
                        state.change(|inner| {
                            while let Some(delta) = deltas.try_recv() {
                                inner.take(delta);
                            }
                            inner.revision = revision;
                        });
                    }
                }
            }
        });
    }

    /// Keeps the pods current that have a device here.
    pub(super) fn follow_endpoints(
        self: &Arc<Self>,
        mut endpoints: watch::Receiver<Endpoints>,
        tasks: &mut JoinSet<()>,
    ) {
        let state = Arc::clone(self);
        tasks.spawn(async move {
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
}

// === impl Inner ===

impl Inner {
    /// Takes a change, and all that came with it, at once.
    fn take_all<T: Resource + Cached>(&mut self, delta: Delta<T>, more: &mut Subscription<T>) {
        self.take(delta);
        while let Some(delta) = more.try_recv() {
            self.take(delta);
        }
    }

    fn take<T: Resource + Cached>(&mut self, delta: Delta<T>) {
        let changed = match delta {
            Delta::Synced => self.unsynced.remove(T::PLURAL),
            Delta::Upsert { new, .. } => T::upsert(&new, &mut self.cache),
            Delta::Delete(old) => {
                old.delete(&mut self.cache);
                true
            }
        };
        if changed {
            self.touch();
        }
    }

    /// Something is to be compiled.
    pub(super) fn touch(&mut self) {
        self.dirty.get_or_insert_with(Instant::now);
    }
}
