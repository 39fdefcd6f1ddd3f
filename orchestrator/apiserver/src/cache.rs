//! The watch cache: what list, get and watch are served from.
//!
//! One [`feed::Feed`] reads the store's whole `/registry/` through a single watch and hands every event to the cache of
//! its resource, so that "has seen revision N" is one number for all resources and a consistent read needs no progress
//! request per resource. Each [`resource::ResourceCache`] holds the objects as the store's own bytes plus extracted
//! keys, and a ring of recent events that all watchers share.
//!
//! Invariant: the feed's revision is published only after every event up to it is in its resource's cache.

pub mod entry;
pub mod event;
pub mod extract;
pub mod fanout;
pub mod feed;
pub mod list;
pub mod resource;
pub mod watcher;

pub use entry::Entry;
pub use event::{CacheEvent, EventType, Scope};
pub use feed::Feed;
pub use resource::ResourceCache;

#[cfg(test)]
mod tests;
