//! Reading many objects at one revision without keeping writers waiting.
//!
//! A scan holds the lock for a few hundred keys at a time. What changed in between is in the ring, so the scan is
//! brought to the revision of its last hold by replaying those events over what it has gathered.

use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic;

use store::Revision;

use super::entry::Entry;
use super::event::Scope;
use super::resource::{ResourceCache, State};

/// Keys a scan looks at in one hold of the lock: about 20 microseconds, which no writer notices.
const HOLD_KEYS: usize = 256;

/// Objects in key order as of one revision.
#[derive(Debug, Default)]
pub struct Listing {
    /// The objects.
    pub entries: Vec<Arc<Entry>>,
    /// The state they are of.
    pub revision: Revision,
    /// The last path looked at, when the limit cut the scan short.
    pub next_after: Option<String>,
    /// The next event's sequence number: where a watch that starts with this listing goes on.
    pub(super) sequence: u64,
}

struct Scan<'a> {
    scope: &'a Scope,
    limit: usize,
    entries: Vec<Arc<Entry>>,
    last: Option<Vec<u8>>,
    done: bool,
    cut: bool,
}

// === impl ResourceCache ===

impl ResourceCache {
    /// The objects in scope, after `after` if given, at most `limit` (0 for all).
    pub fn list(&self, scope: &Scope, after: Option<&str>, limit: usize) -> Listing {
        self.list_in_holds(scope, after, limit, HOLD_KEYS)
            // So much changed meanwhile that the ring forgot the beginning: writers wait once.
            .or_else(|| self.list_in_holds(scope, after, limit, usize::MAX))
            .unwrap_or_default()
    }

    fn list_in_holds(
        &self,
        scope: &Scope,
        after: Option<&str>,
        limit: usize,
        hold: usize,
    ) -> Option<Listing> {
        let limit = if limit == 0 { usize::MAX } else { limit };
        let last = after.map(|after| after.as_bytes().to_vec());
        let mut scan = Scan { scope, limit, entries: Vec::new(), last, done: false, cut: false };
        let mut state = self.state.read();
        let first = state.head();
        scan.step(&state, hold);
        while !scan.done {
            drop(state);
            state = self.state.read();
            scan.step(&state, hold);
        }
        scan.replay(&state, first)?;
        // The cache may have applied events that the feed has not announced yet.
        let revision = self.observed().max(state.changed);
        let (sequence, next_after) = (state.head(), scan.next_after());
        drop(state);
        Some(Listing { entries: scan.entries, revision, next_after, sequence })
    }

    /// How many objects in scope come after a path.
    pub fn count_after(&self, scope: &Scope, after: &str) -> usize {
        let state = self.state.read();
        let from = (Bound::Excluded(after.as_bytes()), Bound::Unbounded);
        let in_prefix = |entry: &Entry| entry.path_bytes().starts_with(scope.prefix().as_bytes());
        state.objects.range::<[u8], _>(from).take_while(|found| in_prefix(&found.0)).count()
    }

    /// Whether anything of this resource changed after `revision`.
    pub fn changed_since(&self, revision: Revision) -> bool {
        self.state.read().changed > revision
    }

    pub(super) fn head(&self) -> u64 {
        self.head.load(atomic::Ordering::Acquire)
    }
}

// === impl Scan ===

impl Scan<'_> {
    /// Gathers from at most `hold` keys.
    fn step(&mut self, state: &State, hold: usize) {
        let prefix = self.scope.prefix().as_bytes();
        let start = match &self.last {
            Some(last) if last.as_slice() >= prefix => Bound::Excluded(last.as_slice()),
            _ => Bound::Included(prefix),
        };
        let mut last = None;
        let mut seen = 0;
        for found in state.objects.range::<[u8], _>((start, Bound::Unbounded)) {
            if !found.0.path_bytes().starts_with(prefix) {
                self.done = true;
                break;
            }
            if self.entries.len() == self.limit {
                (self.done, self.cut) = (true, true);
                break;
            }
            if seen == hold {
                break;
            }
            seen += 1;
            last = Some(&found.0);
            if self.scope.admits(&found.0) {
                self.entries.push(found.0.clone());
            }
        }
        self.done |= seen < hold;
        if let Some(last) = last {
            self.last = Some(last.path_bytes().to_vec());
        }
    }

    /// Brings what was gathered since event `first` to the state of now.
    fn replay(&mut self, state: &State, first: u64) -> Option<()> {
        for event in state.events_from(first, usize::MAX)? {
            let path = event.object.path_bytes();
            let beyond = self.cut && self.last.as_deref().is_some_and(|last| path > last);
            if beyond || !path.starts_with(self.scope.prefix().as_bytes()) {
                continue;
            }
            let wanted = !event.deleted && self.scope.admits(&event.object);
            match (self.entries.binary_search_by(|entry| entry.path_bytes().cmp(path)), wanted) {
                (Ok(at), true) => self.entries[at] = event.object.clone(),
                (Ok(at), false) => _ = self.entries.remove(at),
                (Err(at), true) => self.entries.insert(at, event.object.clone()),
                (Err(_), false) => {}
            }
        }
        Some(())
    }

    fn next_after(&self) -> Option<String> {
        let last = self.last.as_ref().filter(|_| self.cut)?;
        String::from_utf8(last.clone()).ok()
    }
}
