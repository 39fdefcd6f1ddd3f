//! What every controller is given.
use std::{collections::HashMap, hash::Hash};

use client::{Client, HasMeta, Informers, Revision, events::Recorder, informer::Store};
use parking_lot::Mutex;

use crate::{LivenessReceiver, Metrics};

/// What every controller is given.
#[derive(Clone)]
pub struct Context {
    /// Writes.
    pub client: Client,
    /// Reads.
    pub informers: Informers,
    /// Tells people.
    pub recorder: Recorder,
    /// Counts.
    pub metrics: Metrics,
    /// Which nodes are heard of.
    pub liveness: LivenessReceiver,
}

/// What a controller has written and its informers may not show yet. Deciding on a cache that lacks one's own writes
/// would repeat them; revisions tell when it has them.
#[derive(Debug)]
pub(crate) struct Written<K> {
    revisions: Mutex<HashMap<K, Revision>>,
}

impl<K> Default for Written<K> {
    fn default() -> Self {
        Self { revisions: Mutex::default() }
    }
}

impl<K: Clone + Eq + Hash> Written<K> {
    /// An object was written for this key.
    pub(crate) fn note(&self, key: &K, revision: Revision) {
        let mut revisions = self.revisions.lock();
        let newest = revisions.entry(key.clone()).or_default();
        *newest = revision.max(*newest);
    }

    /// Whether the cache has all that was written. When it catches up, it says so by changes: no need to wait.
    pub(crate) fn is_seen<T: HasMeta>(&self, key: &K, store: &Store<T>) -> bool {
        let mut revisions = self.revisions.lock();
        match revisions.get(key) {
            Some(revision) if *revision > store.revision() => false,
            _ => {
                revisions.remove(key);
                true
            }
        }
    }
}
