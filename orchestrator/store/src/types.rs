//! What goes into a store and comes out of it. Plain data, shared by both engines.

use bytes::Bytes;

/// A point in the store's history. 0 never names a write: as an expectation it means "absent".
pub type Revision = u64;

/// Names a lease. Never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LeaseId(pub i64);

/// A key and its value as some revision left it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValue {
    /// The whole key.
    pub key: Bytes,
    /// The value; empty when only keys were asked for.
    pub value: Bytes,
    /// The revision that created the key; a delete and a later put start anew.
    pub create_revision: Revision,
    /// The revision of the last put.
    pub mod_revision: Revision,
    /// How many puts since it was created, 1 for the first.
    pub version: u64,
}

/// Keys from `start` up to but without `end`; an empty `end` has no upper bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRange {
    /// The first key.
    pub start: Bytes,
    /// The first key beyond; empty for no bound.
    pub end: Bytes,
}

impl KeyRange {
    /// Exactly one key.
    pub fn key(key: impl Into<Bytes>) -> Self {
        let start = key.into();
        let mut end = Vec::with_capacity(start.len() + 1);
        end.extend_from_slice(&start);
        end.push(0);
        Self { start, end: end.into() }
    }

    /// All keys that begin with `prefix`; the empty prefix means all keys.
    pub fn prefix(prefix: impl Into<Bytes>) -> Self {
        let start = prefix.into();
        let end = prefix_end(&start);
        Self { start, end }
    }

    /// The keys of this range that come after `key`: the next page of a limited range.
    pub fn after(&self, key: &[u8]) -> Self {
        let mut start = Vec::with_capacity(key.len() + 1);
        start.extend_from_slice(key);
        start.push(0);
        Self { start: start.into(), end: self.end.clone() }
    }

    /// Whether `key` lies inside.
    pub fn contains(&self, key: &[u8]) -> bool {
        key >= &self.start[..] && (self.end.is_empty() || key < &self.end[..])
    }

    /// Whether any key that begins with `prefix` could lie inside.
    pub fn meets_prefix(&self, prefix: &[u8]) -> bool {
        let end = prefix_end(prefix);
        (end.is_empty() || self.start[..] < end[..]) && (self.end.is_empty() || prefix < &self.end[..])
    }

    /// Whether no key can lie inside.
    pub fn is_empty(&self) -> bool {
        !self.end.is_empty() && self.start >= self.end
    }
}

/// The first key after all that begin with `prefix`; empty when there is none.
fn prefix_end(prefix: &[u8]) -> Bytes {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end.into();
        }
    }
    Bytes::new()
}

/// What a range returns of each key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RangeMode {
    /// Keys and values.
    #[default]
    All,
    /// Keys and revisions, with empty values.
    KeysOnly,
    /// No items, only `count`.
    CountOnly,
}

/// How to read a range. The default reads all of it as it is now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeOptions {
    /// Read as of this revision; `None` is a linearizable read of now.
    pub revision: Option<Revision>,
    /// At most so many items; 0 for all.
    pub limit: usize,
    /// What to return of each key.
    pub mode: RangeMode,
}

/// What a range held.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeResult {
    /// In key order.
    pub items: Vec<KeyValue>,
    /// Whether the limit cut it short.
    pub more: bool,
    /// All keys of the range at that revision, whatever the limit.
    pub count: u64,
    /// The revision that the items were read at: pass it on to read the next page of the same state, or watch from the one after.
    pub revision: Revision,
}

/// A condition of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Compare {
    /// The key was last written at exactly this revision; 0: it does not exist.
    ModRevision {
        /// The key looked at.
        key: Bytes,
        /// The revision expected.
        equals: Revision,
    },
}

impl Compare {
    /// The key does not exist.
    pub fn absent(key: impl Into<Bytes>) -> Self {
        Self::ModRevision { key: key.into(), equals: 0 }
    }

    /// The key still is as that revision wrote it.
    pub fn unchanged(key: impl Into<Bytes>, revision: Revision) -> Self {
        Self::ModRevision { key: key.into(), equals: revision }
    }
}

/// A change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Create or replace a key. Without a lease it is detached from the one it had.
    Put {
        /// The key.
        key: Bytes,
        /// Its new value.
        value: Bytes,
        /// The key is deleted when this lease ends. Only for keys of the classes `Event` and `Lease`.
        lease: Option<LeaseId>,
    },
    /// Delete a key; nothing happens when it is absent.
    Delete {
        /// The key.
        key: Bytes,
    },
}

impl Op {
    /// A put without a lease.
    pub fn put(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        Self::Put { key: key.into(), value: value.into(), lease: None }
    }

    /// A delete.
    pub fn delete(key: impl Into<Bytes>) -> Self {
        Self::Delete { key: key.into() }
    }

    /// The key that it changes.
    pub fn key(&self) -> &Bytes {
        match self {
            Self::Put { key, .. } | Self::Delete { key } => key,
        }
    }
}

/// All of `then` at one revision if every comparison holds, else nothing. No key may occur twice in `then`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txn {
    /// The conditions; none is always true.
    pub compare: Vec<Compare>,
    /// The changes.
    pub then: Vec<Op>,
    /// Keys to return when a condition does not hold.
    pub or_else_get: Vec<Bytes>,
}

/// How a transaction ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TxnResult {
    /// It happened, durably.
    Committed {
        /// The revision of its changes; when nothing had to change (no ops, or deletes of absent keys), the store's current one.
        revision: Revision,
    },
    /// A condition did not hold and nothing changed.
    Conflict {
        /// The keys of `or_else_get`, in that order, as they are.
        current: Vec<Option<KeyValue>>,
        /// The revision of that reading.
        revision: Revision,
    },
}

/// A change that a watcher sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A key was created (`version` 1) or replaced.
    Put {
        /// The key as it is now.
        kv: KeyValue,
        /// As it was before; `None` when it is new or its former state is compacted.
        prev: Option<KeyValue>,
    },
    /// A key was deleted.
    Delete {
        /// The key.
        key: Bytes,
        /// As it was before; `None` when that is compacted.
        prev: Option<KeyValue>,
        /// The revision of the delete.
        revision: Revision,
    },
}

impl Event {
    /// The key that changed.
    pub fn key(&self) -> &Bytes {
        match self {
            Self::Put { kv, .. } => &kv.key,
            Self::Delete { key, .. } => key,
        }
    }

    /// The revision of the change.
    pub fn revision(&self) -> Revision {
        match self {
            Self::Put { kv, .. } => kv.mod_revision,
            Self::Delete { revision, .. } => *revision,
        }
    }

    /// The key's state before the change.
    pub fn prev(&self) -> Option<&KeyValue> {
        match self {
            Self::Put { prev, .. } | Self::Delete { prev, .. } => prev.as_ref(),
        }
    }
}

/// One step of a watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchItem {
    /// All events of one revision inside the range, in the transaction's order. Revisions of successive items grow.
    Events {
        /// The revision of all of them.
        revision: Revision,
        /// Never empty.
        events: Vec<Event>,
    },
    /// Every event of the range up to this revision has been delivered.
    Progress {
        /// The revision reached.
        revision: Revision,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        let prefix = KeyRange::prefix("/a/");
        assert!(prefix.contains(b"/a/") && prefix.contains(b"/a/\xff\xff"));
        assert!(!prefix.contains(b"/a0") && !prefix.contains(b"/a"));
        let key = KeyRange::key("k");
        assert!(key.contains(b"k") && !key.contains(b"k\0") && !key.contains(b"j"));
        let all = KeyRange::prefix("");
        assert!(all.contains(b"") && all.contains(b"\xff\xff"));
        assert_eq!(KeyRange::prefix(&b"\xff\xff"[..]).end, Bytes::new());
        assert_eq!(prefix.after(b"/a/x").start, &b"/a/x\0"[..]);
        assert!(KeyRange { start: "b".into(), end: "a".into() }.is_empty());
    }

    #[test]
    fn prefixes_that_meet() {
        let range = KeyRange::prefix("/registry/core/");
        for (prefix, meets) in
            [("/registry/core/events/", true), ("/registry/", true), ("/registry/apps/", false), ("", true)]
        {
            assert_eq!(range.meets_prefix(prefix.as_bytes()), meets, "{prefix}");
        }
        assert!(KeyRange::key("/registry/core/events/a").meets_prefix(b"/registry/core/events/"));
        assert!(!KeyRange::key("/registry/core/pods/a").meets_prefix(b"/registry/core/events/"));
    }
}
