//! One event as all watchers of a resource share it: encoded once per event type, the first time somebody needs it.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use store::Revision;

use super::entry::Entry;

/// What keeping an event costs beside its bytes: the entry, keys, and the ring's slot.
const EVENT_OVERHEAD: usize = 512;

/// The `type` of a watch event that carries an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "each variant is the event type of the same name")]
pub enum EventType {
    Added,
    Modified,
    Deleted,
}

/// A change of one object.
#[derive(Debug)]
pub struct CacheEvent {
    /// The object after the change; of a deletion, its last state.
    pub object: Arc<Entry>,
    /// The object before the change, if it was there.
    pub prev: Option<Arc<Entry>>,
    /// Whether the change is a deletion.
    pub deleted: bool,
    /// The revision of the change.
    pub revision: Revision,
    frames: [OnceLock<Bytes>; 3],
}

/// What a reader may see: a part of the resource's paths, and of those what a filter lets through.
pub struct Scope {
    prefix: String,
    filter: Option<Filter>,
}

/// Decides by extracted keys.
pub type Filter = Box<dyn Fn(&Entry) -> bool + Send + Sync>;

// === impl EventType ===

impl EventType {
    /// The type as watch events carry it.
    pub fn as_str(self) -> &'static str {
        match self {
            EventType::Added => "ADDED",
            EventType::Modified => "MODIFIED",
            EventType::Deleted => "DELETED",
        }
    }
}

// === impl CacheEvent ===

impl CacheEvent {
    /// The object was written.
    pub fn put(object: Arc<Entry>, prev: Option<Arc<Entry>>) -> Self {
        let revision = object.revision();
        Self { object, prev, deleted: false, revision, frames: Default::default() }
    }

    /// The object, of which `last` was the last state, was deleted.
    pub fn delete(last: Arc<Entry>, revision: Revision) -> Self {
        Self { prev: Some(last.clone()), object: last, deleted: true, revision, frames: Default::default() }
    }

    /// What a watcher of `scope` sees of it: an object that starts or ceases to match is added or deleted.
    pub fn seen_by(&self, scope: &Scope) -> Option<(EventType, &Arc<Entry>)> {
        let now = (!self.deleted && scope.contains(&self.object)).then_some(&self.object);
        let before = self.prev.as_ref().filter(|prev| scope.contains(prev));
        match (now, before) {
            (Some(now), None) => Some((EventType::Added, now)),
            (Some(now), Some(_)) => Some((EventType::Modified, now)),
            (None, Some(before)) => Some((EventType::Deleted, before)),
            (None, None) => None,
        }
    }

    /// The event as a line of a JSON watch, shared by all who ask for it.
    pub fn frame(&self, event_type: EventType) -> Bytes {
        let object = match event_type {
            // An object that leaves a selector is shown as it was when it still matched.
            EventType::Deleted => self.prev.as_ref().unwrap_or(&self.object),
            _ => &self.object,
        };
        self.frames[event_type as usize].get_or_init(|| frame(event_type, object, self.revision)).clone()
    }

    /// What the event costs in memory, at most: the object, what it replaced, and a frame.
    pub fn cost(&self) -> usize {
        self.object.json_len() * 2 + self.prev.as_ref().map_or(0, |prev| prev.json_len()) + EVENT_OVERHEAD
    }
}

fn frame(event_type: EventType, object: &Entry, revision: Revision) -> Bytes {
    let mut out = Vec::with_capacity(object.json_len() + 32);
    write_frame(&mut out, event_type, object, revision);
    out.into()
}

/// Appends a line of a JSON watch.
pub fn write_frame(out: &mut Vec<u8>, event_type: EventType, object: &Entry, revision: Revision) {
    out.extend_from_slice(b"{\"type\":\"");
    out.extend_from_slice(event_type.as_str().as_bytes());
    out.extend_from_slice(b"\",\"object\":");
    object.write_json(out, revision);
    out.extend_from_slice(b"}\n");
}

// === impl Scope ===

impl Scope {
    /// All objects whose path starts with `prefix` and that pass the filter.
    pub fn new(prefix: impl Into<String>, filter: Option<Filter>) -> Self {
        Self { prefix: prefix.into(), filter }
    }

    /// Every object of the resource.
    pub fn all() -> Self {
        Self::new("", None)
    }

    /// The prefix of the paths.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Whether everything below the prefix is in scope.
    pub fn is_unfiltered(&self) -> bool {
        self.filter.is_none()
    }

    /// Whether the object passes the filter; the caller has checked the prefix.
    pub fn admits(&self, entry: &Entry) -> bool {
        self.filter.as_ref().is_none_or(|filter| filter(entry))
    }

    /// Whether the object is in scope.
    pub fn contains(&self, entry: &Entry) -> bool {
        entry.path_bytes().starts_with(self.prefix.as_bytes()) && self.admits(entry)
    }
}

impl std::fmt::Debug for Scope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Scope({:?}, filtered: {})", self.prefix, self.filter.is_some())
    }
}
