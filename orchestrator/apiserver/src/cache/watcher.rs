//! One watcher's way through a resource's ring.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use futures::task::AtomicWaker;
use store::Revision;

use super::event::{CacheEvent, Scope};
use super::fanout::Slot;
use super::list::Listing;
use super::resource::ResourceCache;

/// Events taken from the ring in one hold of its lock.
const BATCH: usize = 64;

/// Follows a resource's events. Dropping it ends the watch.
pub struct Watcher {
    cache: Arc<ResourceCache>,
    slot: Arc<Slot>,
    at: usize,
}

/// Why a watch cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WatchEnd {
    /// The events after the watcher's position are gone: it was too slow, or the store's history had a gap.
    #[error("the watch fell behind the events that are kept; list again")]
    Overtaken,
    /// The events after the revision asked for are gone.
    #[error("too old resource version: {requested} ({oldest})")]
    TooOld {
        /// The revision asked for.
        requested: Revision,
        /// The oldest one that can be watched from.
        oldest: Revision,
    },
}

// === impl ResourceCache ===

impl ResourceCache {
    /// A watch of what follows a listing.
    pub fn watch_from_listing(self: &Arc<Self>, scope: Scope, listing: &Listing) -> Watcher {
        self.watch(scope, listing.sequence)
    }

    /// A watch of what follows `revision`.
    pub fn watch_from_revision(
        self: &Arc<Self>,
        scope: Scope,
        revision: Revision,
    ) -> Result<Watcher, WatchEnd> {
        let state = self.state.read();
        let Some(sequence) = state.sequence_after(revision) else {
            return Err(WatchEnd::TooOld { requested: revision, oldest: state.horizon });
        };
        drop(state);
        Ok(self.watch(scope, sequence))
    }

    fn watch(self: &Arc<Self>, scope: Scope, sequence: u64) -> Watcher {
        let slot = Arc::new(Slot { scope, cursor: AtomicU64::new(sequence), waker: AtomicWaker::new() });
        let at = self.fanout.join(slot.clone());
        Watcher { cache: self.clone(), slot, at }
    }
}

// === impl Watcher ===

impl Watcher {
    /// Adds the next events to `events`. Some of them may be out of the watcher's scope.
    pub fn poll_events(
        &mut self,
        cx: &mut Context<'_>,
        events: &mut VecDeque<Arc<CacheEvent>>,
    ) -> Poll<Result<(), WatchEnd>> {
        if self.take(events)? {
            return Poll::Ready(Ok(()));
        }
        // The waker first, then the ring once more: an event in between finds the waker, or is found here.
        self.slot.waker.register(cx.waker());
        if self.take(events)? { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    fn take(&self, events: &mut VecDeque<Arc<CacheEvent>>) -> Result<bool, WatchEnd> {
        let cursor = self.slot.cursor.load(Ordering::Acquire);
        if cursor == self.cache.head() {
            return Ok(false);
        }
        let state = self.cache.state.read();
        let Some(taken) = state.events_from(cursor, BATCH) else { return Err(WatchEnd::Overtaken) };
        drop(state);
        if taken.is_empty() {
            return Ok(false);
        }
        // The fan-out moves a cursor too, but only forward past events that this watcher does not want.
        self.slot.cursor.fetch_max(cursor + taken.len() as u64, Ordering::AcqRel);
        events.extend(taken);
        Ok(true)
    }

    /// What the watcher sees.
    pub fn scope(&self) -> &Scope {
        &self.slot.scope
    }

    /// The revision up to which this watcher has been given everything, if it has.
    pub fn caught_up_at(&self) -> Option<Revision> {
        // The order matters: events up to `observed` entered the ring before it was published.
        let observed = self.cache.observed();
        (self.slot.cursor.load(Ordering::Acquire) == self.cache.head()).then_some(observed)
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.cache.fanout.leave(self.at);
    }
}
