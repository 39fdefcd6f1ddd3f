//! What is bounded because it lies in memory: leases and their keys, which end by themselves, events, which end after their
//! time to live or when there are too many, and keys of the class `Lease`, of which there is a most.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    time::{Duration, Instant},
};

use bytes::Bytes;

use crate::types::{LeaseId, Revision};

/// Keys and values of all events; about 20,000 of them. Over it the oldest go.
const EVENT_BYTES_MAX: usize = 16 << 20;

/// Keys and values of the class `Lease`, which nothing else ends: a hundred times what the leases of 1,000 nodes take.
const LEASE_BYTES_MAX: usize = 64 << 20;

/// Places in the queue that may be out of date before it is rebuilt, beside as many as there are events.
const STALE_PLACES_MAX: usize = 1024;

/// Keys deleted at once when their time is over.
const EXPIRE_KEYS: usize = 256;

#[derive(Debug)]
struct Lease {
    ttl: Duration,
    ends: Instant,
    keys: HashSet<Bytes>,
}

#[derive(Debug)]
struct Place {
    key: Bytes,
    revision: Revision,
    ends: Instant,
}

/// Leases and events. Kept by the writer alone.
#[derive(Debug)]
pub(super) struct Ephemerals {
    event_ttl: Duration,
    leases: HashMap<LeaseId, Lease>,
    lease_of: HashMap<Bytes, LeaseId>,
    /// Events in the order of their end; one that was written again has a place for each time.
    queue: VecDeque<Place>,
    /// Of each event the revision of its last write and its bytes.
    events: HashMap<Bytes, (Revision, usize)>,
    event_bytes: usize,
    /// Of each key of the class `Lease` its bytes.
    kept: HashMap<Bytes, usize>,
    kept_bytes: usize,
}

// === impl Ephemerals ===

impl Ephemerals {
    pub fn new(event_ttl: Duration) -> Self {
        Self {
            event_ttl,
            leases: HashMap::new(),
            lease_of: HashMap::new(),
            queue: VecDeque::new(),
            events: HashMap::new(),
            event_bytes: 0,
            kept: HashMap::new(),
            kept_bytes: 0,
        }
    }

    pub fn grant(&mut self, id: LeaseId, ttl: Duration, now: Instant) {
        self.leases.insert(id, Lease { ttl, ends: now + ttl, keys: HashSet::new() });
    }

    /// Starts a lease's time anew; false when there is none.
    pub fn keep_alive(&mut self, id: LeaseId, now: Instant) -> bool {
        let lease = self.leases.get_mut(&id).filter(|lease| lease.ends > now);
        lease.map(|lease| lease.ends = now + lease.ttl).is_some()
    }

    /// Whether keys can be attached to it.
    pub fn has_lease(&self, id: LeaseId) -> bool {
        self.leases.contains_key(&id)
    }

    /// Whether a key is attached to a lease.
    pub fn is_leased(&self, key: &[u8]) -> bool {
        self.lease_of.contains_key(key)
    }

    /// Ends a lease; its keys are the caller's to delete.
    pub fn revoke(&mut self, id: LeaseId) -> Option<Vec<Bytes>> {
        let lease = self.leases.remove(&id)?;
        lease.keys.iter().for_each(|key| {
            self.lease_of.remove(key);
        });
        Some(lease.keys.into_iter().collect())
    }

    /// A key was written: under a lease, or not any more.
    pub fn attach(&mut self, key: &Bytes, lease: Option<LeaseId>) {
        let former = match lease {
            Some(id) => self.lease_of.insert(key.clone(), id),
            None => self.lease_of.remove(key),
        };
        if let Some(former) = former.and_then(|id| self.leases.get_mut(&id)) {
            former.keys.remove(key);
        }
        if let Some(lease) = lease.and_then(|id| self.leases.get_mut(&id)) {
            lease.keys.insert(key.clone());
        }
    }

    /// An event was written, so long ago.
    pub fn event_written(
        &mut self,
        key: &Bytes,
        revision: Revision,
        bytes: usize,
        age: Duration,
        now: Instant,
    ) {
        self.deleted(key);
        self.events.insert(key.clone(), (revision, bytes));
        self.event_bytes += bytes;
        self.queue.push_back(Place {
            key: key.clone(),
            revision,
            ends: now + self.event_ttl.saturating_sub(age),
        });
        if self.queue.len() > 2 * self.events.len() + STALE_PLACES_MAX {
            let events = &self.events;
            self.queue.retain(|place| {
                events.get(&place.key).is_some_and(|(revision, _)| *revision == place.revision)
            });
        }
    }

    /// A key of the class `Lease` was written.
    pub fn kept_written(&mut self, key: &Bytes, bytes: usize) {
        self.kept_bytes += bytes;
        self.kept_bytes -= self.kept.insert(key.clone(), bytes).unwrap_or(0);
    }

    /// Whether there is no room for another key of the class `Lease`.
    pub fn is_full(&self) -> bool {
        self.kept_bytes > LEASE_BYTES_MAX
    }

    /// A key was deleted, whoever did it, or moved to the log.
    pub fn deleted(&mut self, key: &[u8]) {
        self.event_bytes -= self.events.remove(key).map_or(0, |(_, bytes)| bytes);
        self.kept_bytes -= self.kept.remove(key).unwrap_or(0);
    }

    /// Leases that have ended.
    pub fn ended_leases(&self, now: Instant) -> Vec<LeaseId> {
        self.leases.iter().filter(|(_, lease)| lease.ends <= now).map(|(id, _)| *id).collect()
    }

    /// Some events whose time is over.
    pub fn ended_events(&mut self, now: Instant) -> Vec<Bytes> {
        let mut ended = Vec::new();
        while ended.len() < EXPIRE_KEYS
            && let Some(place) = self.queue.pop_front_if(|place| place.ends <= now)
        {
            ended.extend(self.current(place));
        }
        ended
    }

    /// The oldest events, when there are too many.
    pub fn surplus_events(&mut self) -> Vec<Bytes> {
        let mut surplus = Vec::new();
        let mut bytes = self.event_bytes;
        while bytes > EVENT_BYTES_MAX
            && let Some(place) = self.queue.pop_front()
        {
            if let Some(key) = self.current(place) {
                bytes -= self.events.get(&key).map_or(0, |(_, bytes)| *bytes);
                surplus.push(key);
            }
        }
        surplus
    }

    /// An event whose time is over could not be deleted now.
    pub fn try_again(&mut self, key: Bytes, later: Instant) {
        if let Some((revision, _)) = self.events.get(&key) {
            self.queue.push_back(Place { revision: *revision, ends: later, key });
        }
    }

    /// The event of a place, unless it was written again or deleted since.
    fn current(&self, place: Place) -> Option<Bytes> {
        self.events.get(&place.key).filter(|(revision, _)| *revision == place.revision).map(|_| place.key)
    }

    /// When something ends next.
    pub fn next_end(&self) -> Option<Instant> {
        let lease = self.leases.values().map(|lease| lease.ends).min();
        let event = self.queue.front().map(|place| place.ends);
        lease.into_iter().chain(event).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(60);

    #[test]
    fn leases_take_their_keys_along() {
        let now = Instant::now();
        let mut ephemerals = Ephemerals::new(TTL);
        let (one, two) = (LeaseId(1), LeaseId(2));
        ephemerals.grant(one, TTL, now);
        ephemerals.grant(two, TTL * 2, now);
        for key in ["a", "b", "c"] {
            ephemerals.attach(&key.into(), Some(one));
        }
        ephemerals.attach(&"b".into(), Some(two));
        ephemerals.attach(&"c".into(), None);
        assert_eq!(ephemerals.next_end(), Some(now + TTL));
        assert!(ephemerals.keep_alive(one, now + TTL / 2));
        assert_eq!(ephemerals.ended_leases(now + TTL), []);
        assert_eq!(ephemerals.ended_leases(now + TTL * 3 / 2), [one]);
        assert!(!ephemerals.keep_alive(one, now + TTL * 3 / 2), "it has ended");
        assert_eq!(ephemerals.revoke(one), Some(vec!["a".into()]));
        assert_eq!(ephemerals.revoke(one), None);
        assert!(ephemerals.is_leased(b"b") && !ephemerals.is_leased(b"a") && !ephemerals.is_leased(b"c"));
    }

    #[test]
    fn events_end_unless_written_again() {
        let now = Instant::now();
        let mut ephemerals = Ephemerals::new(TTL);
        ephemerals.event_written(&"old".into(), 1, 10, TTL / 2, now);
        ephemerals.event_written(&"again".into(), 2, 10, Duration::ZERO, now);
        ephemerals.event_written(&"deleted".into(), 3, 10, Duration::ZERO, now);
        ephemerals.deleted(b"deleted");
        ephemerals.event_written(&"again".into(), 4, 10, Duration::ZERO, now + TTL / 2);
        assert_eq!(ephemerals.ended_events(now + TTL), [Bytes::from("old")]);
        assert_eq!(ephemerals.ended_events(now + TTL * 2), [Bytes::from("again")]);
    }

    #[test]
    fn too_many_events_push_out_the_oldest() {
        let now = Instant::now();
        let mut ephemerals = Ephemerals::new(TTL);
        for number in 0..20_u64 {
            let key = Bytes::from(format!("e{number}"));
            ephemerals.event_written(&key, number + 1, EVENT_BYTES_MAX / 16, Duration::ZERO, now);
        }
        assert_eq!(ephemerals.surplus_events(), ["e0", "e1", "e2", "e3"].map(Bytes::from));
    }

    #[test]
    fn an_event_written_all_the_time_has_few_places() {
        let now = Instant::now();
        let mut ephemerals = Ephemerals::new(TTL);
        for revision in 1..10_000 {
            ephemerals.event_written(&"e".into(), revision, 10, Duration::ZERO, now);
        }
        assert!(ephemerals.queue.len() <= STALE_PLACES_MAX + 2);
        assert_eq!(ephemerals.event_bytes, 10);
    }
}
