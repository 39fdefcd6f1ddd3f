//! How every part reaches an API server: one thin client over a tower service in process or over one HTTP/2
//! connection, informers, leader election, Kubernetes Events, and the link between a node and its server.
//!
//! Objects are read into *projections*: plain structs with only the fields that their reader uses (see
//! [`resource!`]). Kubernetes' full types are deliberately absent: a cache of projections is a tenth of their size.
#![forbid(unsafe_code)]

pub mod backoff;
mod body;
mod client;
pub mod discovery;
mod error;
pub mod events;
pub mod informer;
pub mod leader;
pub mod nodelink;
pub mod objects;
mod patch;
mod query;
mod resource;
mod transport;
pub mod watch;

pub use body::{Body, BoxError, ResponseBody};
pub use client::Client;
pub use error::{Error, Status};
pub use informer::{Delta, Informer, Informers, Subscription};
pub use objects::{Meta, ObjectKey, ObjectReference, OwnerReference};
pub use patch::{DeleteOptions, ListOptions, Patch, Preconditions, Propagation};
pub use resource::{ApiResource, HasMeta, Resource};
pub use transport::http2::{ConnectConfig, Credentials};

/// A store revision; what `metadata.resourceVersion` says, as a number.
pub type Revision = u64;
