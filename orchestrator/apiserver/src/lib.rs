//! REST over axum: request pipeline, watch cache, discovery, OpenAPI, authentication, authorization, admission.
//!
//! A request goes `serve` (socket, TLS, identity) -> `router` -> `authz` -> `handlers` -> `read` or `pipeline` ->
//! `store`. Reads are served by `cache`; writes take the one path through `pipeline`, whatever the kind.
#![deny(unsafe_code)]

pub mod admission;
pub mod alloc;
pub mod app;
pub mod authn;
pub mod authz;
pub mod body;
pub mod bootstrap;
pub mod cache;
pub mod compress;
pub mod config;
pub mod error;
pub mod handlers;
pub mod housekeeping;
pub mod metrics;
pub mod negotiate;
pub mod nodelink;
pub mod options;
pub mod pipeline;
pub mod proxy;
pub mod read;
pub mod render;
pub mod request_info;
pub mod resources;
pub mod response;
pub mod router;
pub mod serve;
pub mod servers;

pub use app::{Api, ApiServer, ApiService, Bound, BuildError, Deps, Shutdown};
pub use config::Config;
pub use resources::storage_classes;
