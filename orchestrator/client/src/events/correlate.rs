//! Which recorded events are written, and as what: counted, combined, or not at all. Bounds as in Kubernetes' clients.
use std::{
    collections::{HashMap, VecDeque},
    hash::Hash,
    time::Duration,
};

use chrono::{DateTime, Utc};
use tokio::time::Instant;

use super::{Record, Severity};
use crate::ObjectReference;

/// Objects and events remembered; beyond it the oldest is forgotten, and its next event counts from one.
const REMEMBERED_MAX: usize = 4096;
/// Events of one object in a row.
const BURST: f64 = 25.0;
/// After its burst, an object gets one event in this time.
const REFILL: Duration = Duration::from_secs(300);
/// Different messages of one reason within [`SIMILAR_WINDOW`]; the next ones are combined.
const SIMILAR_MAX: usize = 10;
const SIMILAR_WINDOW: Duration = Duration::from_secs(600);

#[derive(Debug, Default)]
pub(super) struct Correlator {
    counts: Remembered<Key, Counted>,
    similar: Remembered<Group, Similar>,
    buckets: Remembered<ObjectReference, Bucket>,
    names: u64,
}

#[derive(Debug)]
pub(super) struct Occurrence {
    pub(super) record: Record,
    pub(super) name: String,
    pub(super) count: u64,
    pub(super) first: DateTime<Utc>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Group {
    object: ObjectReference,
    severity: Severity,
    reason: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    group: Group,
    /// Empty for combined events, whose message changes.
    message: String,
}

#[derive(Debug)]
struct Counted {
    name: String,
    count: u64,
    first: DateTime<Utc>,
}

#[derive(Debug)]
struct Similar {
    messages: Vec<String>,
    since: Instant,
}

#[derive(Debug)]
struct Bucket {
    tokens: f64,
    at: Instant,
}

// === impl Correlator ===

impl Correlator {
    /// What to write; `None` for an object that has had its share.
    pub(super) fn observe(&mut self, mut record: Record, now: Instant) -> Option<Occurrence> {
        if !self.take_token(&record.object, now) {
            return None;
        }
        let group = Group::of(&record);
        let mut key = Key { group: group.clone(), message: record.message.clone() };
        if self.is_one_too_many(group, &record.message, now) {
            key.message.clear();
            record.message.insert_str(0, "(combined from similar events): ");
        }
        self.names += 1;
        // Nanoseconds make the name differ from those of earlier runs, the counter from those of this one.
        let stamp = record.at.timestamp_nanos_opt().unwrap_or_default();
        let name = format!("{}.{stamp:x}.{:x}", record.object.name, self.names);
        let counted = self.counts.entry(key, || Counted { name, count: 0, first: record.at });
        counted.count += 1;
        Some(Occurrence { name: counted.name.clone(), count: counted.count, first: counted.first, record })
    }

    /// The event was not written: the next one is a first one again.
    pub(super) fn forget(&mut self, record: &Record) {
        self.counts.remove(&Key { group: Group::of(record), message: record.message.clone() });
    }

    fn take_token(&mut self, object: &ObjectReference, now: Instant) -> bool {
        let bucket = self.buckets.entry(object.clone(), || Bucket { tokens: BURST, at: now });
        let refilled = now.duration_since(bucket.at).as_secs_f64() / REFILL.as_secs_f64();
        bucket.tokens = (bucket.tokens + refilled).min(BURST);
        bucket.at = now;
        let allowed = bucket.tokens >= 1.0;
        bucket.tokens -= f64::from(u8::from(allowed));
        allowed
    }

    fn is_one_too_many(&mut self, group: Group, message: &str, now: Instant) -> bool {
        let similar = self.similar.entry(group, || Similar { messages: Vec::new(), since: now });
        if now.duration_since(similar.since) > SIMILAR_WINDOW {
            *similar = Similar { messages: Vec::new(), since: now };
        }
        if similar.messages.iter().any(|own| own == message) {
            return false;
        }
        let full = similar.messages.len() >= SIMILAR_MAX;
        if !full {
            similar.messages.push(message.to_owned());
        }
        full
    }
}

impl Group {
    fn of(record: &Record) -> Self {
        Self { object: record.object.clone(), severity: record.severity, reason: record.reason.clone() }
    }
}

// === a bounded map ===

#[derive(Debug)]
struct Remembered<K, V> {
    map: HashMap<K, V>,
    order: VecDeque<K>,
}

impl<K, V> Default for Remembered<K, V> {
    fn default() -> Self {
        Self { map: HashMap::new(), order: VecDeque::new() }
    }
}

impl<K: Clone + Eq + Hash, V> Remembered<K, V> {
    fn entry(&mut self, key: K, make: impl FnOnce() -> V) -> &mut V {
        if !self.map.contains_key(&key) {
            while self.order.len() >= REMEMBERED_MAX {
                let oldest = self.order.pop_front();
                oldest.and_then(|oldest| self.map.remove(&oldest));
            }
            self.order.push_back(key.clone());
        }
        self.map.entry(key).or_insert_with(make)
    }

    fn remove(&mut self, key: &K) {
        if self.map.remove(key).is_some() {
            self.order.retain(|own| own != key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(message: &str) -> Record {
        let object = ObjectReference { name: "web".into(), ..ObjectReference::default() };
        Record {
            object,
            severity: Severity::Normal,
            reason: "R".into(),
            message: message.into(),
            at: Utc::now(),
        }
    }

    fn counts(correlator: &mut Correlator, messages: &[&str], now: Instant) -> Vec<(u64, String)> {
        let written = messages.iter().filter_map(|message| correlator.observe(record(message), now));
        written.map(|occurrence| (occurrence.count, occurrence.record.message)).collect()
    }

    #[test]
    fn equal_events_are_counted_and_similar_ones_combined() {
        let (mut correlator, now) = (Correlator::default(), Instant::now());
        assert_eq!(
            counts(&mut correlator, &["a", "b", "a"], now),
            [(1, "a".into()), (1, "b".into()), (2, "a".into())]
        );
        let many: Vec<String> = (0..10).map(|n| format!("m{n}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let last = counts(&mut correlator, &many, now).split_off(8);
        let combined = |count, message: &str| (count, format!("(combined from similar events): {message}"));
        assert_eq!(last, [combined(1, "m8"), combined(2, "m9")]);
        correlator.forget(&record("a"));
        assert_eq!(counts(&mut correlator, &["a"], now), [(1, "a".into())]);
    }

    #[test]
    fn a_storm_is_cut_off_and_let_in_slowly() {
        let (mut correlator, now) = (Correlator::default(), Instant::now());
        assert_eq!(counts(&mut correlator, &["a"; 100], now).len(), 25);
        assert_eq!(counts(&mut correlator, &["a"; 5], now + REFILL * 2).len(), 2);
    }

    #[test]
    fn memory_is_bounded() {
        let mut map = Remembered::default();
        for n in 0..REMEMBERED_MAX * 2 {
            map.entry(n, || ());
        }
        assert_eq!((map.map.len(), map.order.len()), (REMEMBERED_MAX, REMEMBERED_MAX));
    }
}
