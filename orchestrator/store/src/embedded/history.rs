//! The recent history: the last changes in memory, bounded in bytes, and who watches.
//!
//! A watcher has no queue of its own. It has a place in the history, and the writer only notes for it that something of
//! its range lies ahead, so that a watcher of quiet keys costs nothing and never falls behind. One that does fall behind
//! the ring reads on from the log.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    task::{Context, Waker},
};

use bytes::Bytes;
use parking_lot::Mutex;

use crate::types::{Event, KeyRange, KeyValue, Revision};

/// What the ring keeps: some seconds of a busy cluster. Watchers of durable keys that are further behind read the log;
/// those of events and leases end, and this is how far those may be behind.
const RING_BYTES: usize = 8 << 20;

/// What an event costs beside its keys and values: its own size, reference counts, its place in the ring.
const EVENT_OVERHEAD_BYTES: usize = 256;

/// Changes handed to a watcher in one hold of the lock.
const TAKE_CHANGES: usize = 128;

/// All events of one revision.
#[derive(Debug)]
pub(super) struct Change {
    pub revision: Revision,
    pub events: Vec<Event>,
    /// Whether any key of it is kept in memory only.
    pub ephemeral: bool,
}

// === impl Change ===

impl Change {
    fn bytes(&self) -> usize {
        let of_value = |kv: &KeyValue| kv.value.len();
        let of_event = |event: &Event| {
            let value = if let Event::Put { kv, .. } = event { of_value(kv) } else { 0 };
            EVENT_OVERHEAD_BYTES + event.key().len() + value + event.prev().map_or(0, of_value)
        };
        self.events.iter().map(of_event).sum()
    }

    fn meets(&self, range: &KeyRange) -> bool {
        self.events.iter().any(|event| range.contains(event.key()))
    }
}

/// What left the ring.
#[derive(Debug, Default)]
pub(super) struct Evicted {
    /// The newest revision that left.
    pub revision: Revision,
    /// Keys of its changes that may live in memory only.
    pub keys: Vec<Bytes>,
}

#[derive(Debug)]
struct Watcher {
    range: KeyRange,
    /// Revisions below are not for it.
    from: Revision,
    /// The first revision that it must look at; `None` when nothing lies ahead.
    pending: Option<Revision>,
    /// Progress is asked for, not below this revision.
    progress: Option<Revision>,
    waker: Option<Waker>,
}

#[derive(Debug, Default)]
struct State {
    ring: VecDeque<Arc<Change>>,
    bytes: usize,
    /// Every change after this revision is in the ring.
    tail: Revision,
    /// Every change up to this revision has been published.
    head: Revision,
    watchers: HashMap<u64, Watcher>,
    last_watcher: u64,
    closed: bool,
}

/// The history and its watchers.
#[derive(Debug, Default)]
pub(super) struct History {
    state: Mutex<State>,
}

/// What a watcher finds when it looks.
#[derive(Debug)]
pub(super) enum Next {
    /// Changes of its range; others may lie between them. Empty: look again.
    Changes(Vec<Arc<Change>>),
    /// What lies ahead begins here, before the ring: read the log, then say how far with [`History::caught_up`].
    Behind { from: Revision, tail: Revision },
    /// Everything up to here was delivered, and somebody wants to know.
    Progress(Revision),
    /// Nothing yet; the waker is kept.
    Nothing,
    /// The store is closed.
    Closed,
}

// === impl History ===

impl History {
    /// A history that begins after `revision`.
    pub fn new(revision: Revision) -> Self {
        Self { state: Mutex::new(State { tail: revision, head: revision, ..State::default() }) }
    }

    /// Adds changes, in the order of revisions, and wakes whom they concern. Everything up to `head` is then published.
    pub fn publish(&self, changes: Vec<Change>, head: Revision) -> Evicted {
        let mut wake = Vec::new();
        let mut state = self.state.lock();
        for change in changes {
            state.note(&change, &mut wake);
            state.bytes += change.bytes();
            state.ring.push_back(Arc::new(change));
        }
        state.head = state.head.max(head);
        state.wake_for_progress(&mut wake);
        let evicted = state.evict();
        drop(state);
        wake.into_iter().for_each(Waker::wake);
        evicted
    }

    /// The state of a key that a revision made, if the ring still holds it.
    pub fn find(&self, key: &[u8], revision: Revision) -> Option<Bytes> {
        let state = self.state.lock();
        let at = state.ring.binary_search_by_key(&revision, |change| change.revision).ok()?;
        state.ring[at].events.iter().find_map(|event| match event {
            Event::Put { kv, .. } if kv.key == key => Some(kv.value.clone()),
            _ => None,
        })
    }

    /// Registers a watcher of everything from a revision on.
    pub fn register(&self, range: KeyRange, from: Revision) -> u64 {
        let mut state = self.state.lock();
        state.last_watcher += 1;
        let id = state.last_watcher;
        let pending = (from <= state.head).then_some(from);
        state.watchers.insert(id, Watcher { range, from, pending, progress: None, waker: None });
        id
    }

    /// Forgets a watcher.
    pub fn unregister(&self, id: u64) {
        self.state.lock().watchers.remove(&id);
    }

    /// What lies ahead of a watcher.
    pub fn next(&self, id: u64, cx: &Context<'_>) -> Next {
        let mut state = self.state.lock();
        let State { ring, tail, head, watchers, closed, .. } = &mut *state;
        let Some(watcher) = watchers.get_mut(&id).filter(|_| !*closed) else { return Next::Closed };
        match watcher.pending {
            Some(from) if from <= *tail => Next::Behind { from, tail: *tail },
            Some(from) => Next::Changes(watcher.take(ring, from)),
            None => match watcher.progress {
                Some(least) if least <= *head => {
                    watcher.progress = None;
                    Next::Progress(*head)
                }
                _ => {
                    watcher.waker = Some(cx.waker().clone());
                    Next::Nothing
                }
            },
        }
    }

    /// A watcher has seen in the log everything before `next`.
    pub fn caught_up(&self, id: u64, next: Revision) {
        let mut state = self.state.lock();
        let head = state.head;
        if let Some(watcher) = state.watchers.get_mut(&id) {
            watcher.pending = (next <= head).then_some(next);
        }
    }

    /// Asks every watcher to report progress once it is at `least`.
    pub fn request_progress(&self, least: Revision) {
        let mut state = self.state.lock();
        let mut wake = Vec::new();
        for watcher in state.watchers.values_mut() {
            watcher.progress = watcher.progress.max(Some(least));
            wake.extend(watcher.waker.take());
        }
        drop(state);
        wake.into_iter().for_each(Waker::wake);
    }

    /// Ends all watches.
    pub fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        let wake: Vec<_> = state.watchers.values_mut().filter_map(|watcher| watcher.waker.take()).collect();
        drop(state);
        wake.into_iter().for_each(Waker::wake);
    }

    /// How many watch, and the bytes of the ring.
    pub fn size(&self) -> (usize, usize) {
        let state = self.state.lock();
        (state.watchers.len(), state.bytes)
    }
}

// === impl State ===

impl State {
    /// Notes a change for those whom it concerns.
    fn note(&mut self, change: &Change, wake: &mut Vec<Waker>) {
        for watcher in self.watchers.values_mut() {
            if watcher.pending.is_none() && change.revision >= watcher.from && change.meets(&watcher.range) {
                watcher.pending = Some(change.revision);
                wake.extend(watcher.waker.take());
            }
        }
    }

    fn wake_for_progress(&mut self, wake: &mut Vec<Waker>) {
        let waiting = self.watchers.values_mut().filter(|watcher| watcher.progress.is_some());
        wake.extend(waiting.filter_map(|watcher| watcher.waker.take()));
    }

    fn evict(&mut self) -> Evicted {
        let mut evicted = Evicted::default();
        while self.bytes > RING_BYTES
            && let Some(change) = self.ring.pop_front()
        {
            self.bytes -= change.bytes();
            self.tail = change.revision;
            evicted.revision = change.revision;
            if change.ephemeral {
                evicted.keys.extend(change.events.iter().map(|event| event.key().clone()));
            }
        }
        evicted
    }
}

// === impl Watcher ===

impl Watcher {
    /// The next changes of its range, and notes where to go on.
    fn take(&mut self, ring: &VecDeque<Arc<Change>>, from: Revision) -> Vec<Arc<Change>> {
        let start = ring.partition_point(|change| change.revision < from);
        let mut taken = Vec::new();
        for change in ring.range(start..) {
            if taken.len() == TAKE_CHANGES {
                self.pending = Some(change.revision);
                return taken;
            }
            if change.meets(&self.range) {
                taken.push(change.clone());
            }
        }
        self.pending = None;
        taken
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    fn change(key: &str, revision: Revision, bytes: usize) -> Change {
        let kv = KeyValue {
            key: key.to_owned().into(),
            value: vec![0; bytes].into(),
            create_revision: revision,
            mod_revision: revision,
            version: 1,
        };
        Change { revision, events: vec![Event::Put { kv, prev: None }], ephemeral: key.starts_with('e') }
    }

    fn next(history: &History, id: u64) -> String {
        match history.next(id, &Context::from_waker(Waker::noop())) {
            Next::Changes(changes) => {
                changes.iter().map(|change| change.revision.to_string()).collect::<Vec<_>>().join(" ")
            }
            Next::Behind { from, tail } => format!("behind {from} {tail}"),
            Next::Progress(revision) => format!("progress {revision}"),
            Next::Nothing => "nothing".into(),
            Next::Closed => "closed".into(),
        }
    }

    #[test]
    fn watchers_see_their_range_in_order() {
        let history = History::new(10);
        let watcher = history.register(KeyRange::prefix("a"), 12);
        assert_eq!(next(&history, watcher), "nothing");
        history.publish(vec![change("a", 11, 1), change("a", 12, 1), change("b", 13, 1)], 13);
        history.publish(vec![change("a", 14, 1)], 14);
        assert_eq!(next(&history, watcher), "12 14");
        assert_eq!(next(&history, watcher), "nothing");
        let replayed = history.register(KeyRange::prefix("b"), 11);
        assert_eq!(next(&history, replayed), "13");
        history.close();
        assert_eq!(next(&history, watcher), "closed");
    }

    #[test]
    fn progress_waits_for_what_was_asked() {
        let history = History::new(10);
        let watcher = history.register(KeyRange::prefix("a"), 11);
        history.request_progress(12);
        assert_eq!(next(&history, watcher), "nothing");
        history.publish(vec![change("b", 11, 1), change("a", 12, 1)], 12);
        assert_eq!(next(&history, watcher), "12");
        assert_eq!(next(&history, watcher), "progress 12");
        assert_eq!(next(&history, watcher), "nothing");
    }

    #[test]
    fn a_quiet_watcher_never_falls_behind() {
        let history = History::new(0);
        let quiet = history.register(KeyRange::prefix("q"), 1);
        let slow = history.register(KeyRange::prefix("e"), 1);
        for revision in 1..=20 {
            history.publish(vec![change("e", revision, RING_BYTES / 10)], revision);
        }
        assert_eq!(next(&history, slow), "behind 1 11");
        history.publish(vec![change("q", 21, 1)], 21);
        assert_eq!(next(&history, quiet), "21");
        history.caught_up(slow, 12);
        assert_eq!(next(&history, slow), "12 13 14 15 16 17 18 19 20");
        assert!(history.find(b"e", 20).is_some() && history.find(b"e", 5).is_none());
    }
}
