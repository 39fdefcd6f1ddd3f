//! The etcd-shaped store: one trait, an etcd engine, an embedded engine, and the suite that both pass.
//!
//! A store is a sorted map of byte keys under one revision sequence. Every transaction that changes something takes the
//! next revision; revisions only grow, also across crashes, though the embedded engine may skip some. The crate knows no
//! kind: what a key means is said by its prefix ([`Classes`]), and values are opaque.

#![forbid(unsafe_code)]

mod class;
mod config;
mod embedded;
mod engine;
mod error;
mod etcd;
mod metrics;
mod open;
mod types;
mod validate;

pub use class::{Classes, StorageClass};
pub use config::{EVENT_TTL, EngineConfig, EtcdTls, StoreConfig};
pub use engine::{Store, WatchStream};
pub use error::StoreError;
pub use open::open;
pub use types::{
    Compare, Event, KeyRange, KeyValue, LeaseId, Op, RangeMode, RangeOptions, RangeResult, Revision, Txn,
    TxnResult, WatchItem,
};
