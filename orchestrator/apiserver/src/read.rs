//! Reads: get, list and watch, served from the watch cache; the store is asked only what is current, and for states
//! that the cache has left behind.

pub mod get;
pub mod list;
pub mod watch;
