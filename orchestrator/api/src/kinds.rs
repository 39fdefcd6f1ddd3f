//! The built-in kinds: for each its data and its strategy, one file a kind or topic.
//!
//! Shared by all: [`view`] (reading with a path), `checks` (the small checks), [`meta`] (metadata).

pub mod apps;
mod checks;
pub mod config;
pub mod lease;
pub mod meta;
pub mod namespace;
pub mod node;
pub mod pod;
pub mod service;
pub mod service_account;
pub mod view;

use crate::kind::Kind;

/// Every built-in kind. Core stands first; within a group the first version is the preferred one.
pub fn builtin() -> Vec<Kind> {
    vec![
        pod::binding_kind(),
        config::config_map_kind(),
        namespace::kind(),
        node::kind(),
        pod::kind(),
        config::secret_kind(),
        service_account::kind(),
        service::kind(),
        apps::deployment_kind(),
        apps::replica_set_kind(),
        lease::kind(),
    ]
}
