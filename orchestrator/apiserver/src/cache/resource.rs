//! The cache of one resource: its objects in key order and a ring of its recent events.
//!
//! Neighbours: `list` reads it in bounded holds, `watcher` follows the ring, `fanout` wakes watchers, `feed` writes.
//! Invariant: all events of one revision enter under one hold of the lock; readers never see half a transaction.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{self, AtomicU64};
use std::time::{Duration, Instant};

use api::SelectableField;
use parking_lot::RwLock;
use store::{Event, KeyValue, Revision};
use tokio::sync::watch;

use super::entry::Entry;
use super::event::CacheEvent;
use super::extract::Extractor;
use super::fanout::Fanout;

/// Most bytes a ring holds: some six thousand Pods' events, which a watcher may lag behind.
const RING_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Events older than this are let go, so that a burst does not stay in memory; a client reconnects far sooner.
const RING_AGE_MAX: Duration = Duration::from_secs(120);

/// The objects and recent events of one resource.
pub struct ResourceCache {
    prefix: String,
    extractor: Extractor,
    pub(super) state: RwLock<State>,
    /// The sequence number of the next event, readable without the lock.
    pub(super) head: AtomicU64,
    /// The feed's revision.
    pub(super) observed: watch::Receiver<Revision>,
    pub(super) fanout: Fanout,
}

pub(super) struct State {
    pub(super) objects: BTreeSet<ByPath>,
    pub(super) ring: VecDeque<(Instant, Arc<CacheEvent>)>,
    /// Sequence number of the ring's first event.
    pub(super) tail: u64,
    ring_bytes: usize,
    /// All events after this revision are in the ring.
    pub(super) horizon: Revision,
    /// The revision of the newest event.
    pub(super) changed: Revision,
}

/// An entry ordered by its path.
pub(super) struct ByPath(pub(super) Arc<Entry>);

/// A change to a resource's cache, ready to be put in.
pub(super) enum Change {
    Put(Arc<Entry>),
    Delete { path: String, revision: Revision },
}

// === impl ResourceCache ===

impl ResourceCache {
    /// An empty cache of the resource under `prefix` in the store, whose `fields` can be selected by.
    pub fn new(prefix: String, fields: &[SelectableField], observed: watch::Receiver<Revision>) -> Arc<Self> {
        Arc::new(Self {
            prefix,
            extractor: Extractor::new(fields),
            state: RwLock::new(State {
                objects: BTreeSet::new(),
                ring: VecDeque::new(),
                tail: 0,
                ring_bytes: 0,
                horizon: 0,
                changed: 0,
            }),
            head: AtomicU64::new(0),
            observed,
            fanout: Fanout::default(),
        })
    }

    /// The resource's prefix in the store, with its final slash.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Reads a key of this resource from the store's own form.
    pub fn entry(&self, kv: KeyValue) -> Option<Arc<Entry>> {
        let key = kv.key.clone();
        match Entry::new(kv, self.prefix.len(), &self.extractor) {
            Ok(entry) => Some(Arc::new(entry)),
            Err(error) => {
                let key = String::from_utf8_lossy(&key);
                tracing::error!(%key, %error, "an object in the store cannot be read and is left out");
                None
            }
        }
    }

    /// The object at a path (`namespace/name` or `name`) as the cache knows it now.
    pub fn get(&self, path: &str) -> Option<Arc<Entry>> {
        self.state.read().objects.get(path.as_bytes()).map(|found| found.0.clone())
    }

    /// The object at a path, as soon as there is one; none when the feed ends first.
    pub async fn await_object(&self, path: &str) -> Option<Arc<Entry>> {
        let mut observed = self.observed.clone();
        loop {
            // Marked as seen before the look: what enters after it ends the wait.
            observed.mark_unchanged();
            if let Some(found) = self.get(path) {
                return Some(found);
            }
            observed.changed().await.ok()?;
        }
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.state.read().objects.len()
    }

    /// Whether there is no object.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The revision that the feed has reached.
    pub fn observed(&self) -> Revision {
        *self.observed.borrow()
    }

    /// The revision of the newest change to this resource.
    pub fn changed(&self) -> Revision {
        self.state.read().changed
    }

    /// Replaces everything, as after a gap in the store's history. Watches end, because no events tell of it.
    pub(super) fn replace(&self, objects: Vec<Arc<Entry>>, revision: Revision) {
        let objects: BTreeSet<ByPath> = objects.into_iter().map(ByPath).collect();
        let mut state = self.state.write();
        state.objects = objects;
        // One number is left out, so that whoever stands at the old head finds a gap.
        state.tail = state.head() + 1;
        state.ring.clear();
        state.ring_bytes = 0;
        state.horizon = revision;
        state.changed = revision;
        self.head.store(state.head(), atomic::Ordering::Release);
        drop(state);
        self.fanout.notify();
    }

    /// Reads a store's event; the expensive part, done without the lock.
    pub(super) fn prepare(&self, event: Event) -> Option<Change> {
        match event {
            Event::Put { kv, .. } => self.entry(kv).map(Change::Put),
            Event::Delete { key, revision, .. } => {
                let path = std::str::from_utf8(key.get(self.prefix.len()..)?).ok()?.to_owned();
                Some(Change::Delete { path, revision })
            }
        }
    }

    /// Applies changes in order and wakes the watchers.
    pub(super) fn apply(&self, changes: Vec<Change>) {
        let now = Instant::now();
        let mut state = self.state.write();
        for change in changes {
            state.apply(change, now);
        }
        state.trim(now);
        self.head.store(state.head(), atomic::Ordering::Release);
        drop(state);
        self.fanout.notify();
    }

    /// Lets go of old events of a resource that is quiet now.
    pub fn trim(&self) {
        self.state.write().trim(Instant::now());
    }
}

// === impl State ===

impl State {
    fn apply(&mut self, change: Change, now: Instant) {
        let event = match change {
            Change::Put(entry) => {
                let prev = self.objects.replace(ByPath(entry.clone())).map(|prev| prev.0);
                CacheEvent::put(entry, prev)
            }
            Change::Delete { path, revision } => {
                let Some(last) = self.objects.take(path.as_bytes()) else { return };
                CacheEvent::delete(last.0, revision)
            }
        };
        self.changed = event.revision;
        self.ring_bytes += event.cost();
        self.ring.push_back((now, Arc::new(event)));
    }

    fn trim(&mut self, now: Instant) {
        while let Some((time, event)) = self.ring.front() {
            if self.ring_bytes <= RING_BYTES_MAX && now.duration_since(*time) <= RING_AGE_MAX {
                return;
            }
            self.horizon = event.revision;
            self.ring_bytes -= event.cost();
            self.tail += 1;
            self.ring.pop_front();
        }
    }

    /// The sequence number of the next event.
    pub(super) fn head(&self) -> u64 {
        self.tail + self.ring.len() as u64
    }

    /// Up to `limit` events from `sequence` on; `None` when the ring no longer has them.
    pub(super) fn events_from(&self, sequence: u64, limit: usize) -> Option<Vec<Arc<CacheEvent>>> {
        let skip = sequence.checked_sub(self.tail)? as usize;
        Some(self.ring.iter().skip(skip).take(limit).map(|(_, event)| event.clone()).collect())
    }

    /// The sequence number of the first event after `revision`; `None` when the ring no longer has it.
    pub(super) fn sequence_after(&self, revision: Revision) -> Option<u64> {
        if revision < self.horizon {
            return None;
        }
        Some(self.tail + self.ring.partition_point(|(_, event)| event.revision <= revision) as u64)
    }
}

// === impl ByPath ===

// Bytes, because a comparison must not check UTF-8 again.
impl Borrow<[u8]> for ByPath {
    fn borrow(&self) -> &[u8] {
        self.0.path_bytes()
    }
}

impl PartialEq for ByPath {
    fn eq(&self, other: &Self) -> bool {
        self.0.path_bytes() == other.0.path_bytes()
    }
}

impl Eq for ByPath {}

impl PartialOrd for ByPath {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ByPath {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.path_bytes().cmp(other.0.path_bytes())
    }
}

impl std::fmt::Debug for ResourceCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ResourceCache({})", self.prefix)
    }
}
