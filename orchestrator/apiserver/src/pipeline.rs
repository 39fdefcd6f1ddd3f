//! The one write pipeline, the same for every kind: decode -> patch -> default -> admit -> validate -> field ownership
//! -> allocate -> encode -> commit.
//!
//! `create`, `update` (also patches and apply) and `delete` are the ways through it; the other modules are its stages.
//! A dry run takes the same way and stops before the commit. Invariant: whatever is stored went through all stages.

use std::sync::Arc;

use api::time::Time;
use api::{ApiError, Object, UserInfo};
use bytes::Bytes;
use store::Revision;

use crate::app::Api;
use crate::cache::Entry;
use crate::cache::entry::with_revision;
use crate::options::WriteOptions;
use crate::request_info::RequestInfo;
use crate::resources::Resource;

pub mod commit;
pub mod create;
pub mod decode;
pub mod delete;
pub mod encode;
pub mod ownership;
pub mod patch;
pub mod rules;
pub mod stamp;
pub mod update;

/// Attempts at a write that others keep overtaking: each loser means that somebody else won, so few are needed.
pub const ATTEMPTS_MAX: usize = 16;

/// A write on its way.
pub struct Write<'a> {
    /// The server.
    pub api: &'a Arc<Api>,
    /// What is written to.
    pub resource: &'a Arc<Resource>,
    /// What the request asks for.
    pub info: &'a RequestInfo,
    /// Who writes.
    pub user: &'a UserInfo,
    /// The request's parameters.
    pub options: WriteOptions,
    /// When the request came.
    pub now: Time,
    /// Whether the object comes from server-side apply, which has tracked its fields.
    pub applied: bool,
    /// What the client will be told in `Warning` headers.
    pub warnings: Vec<String>,
}

/// An object as a write left it.
#[derive(Debug)]
pub struct Written {
    /// The stored bytes.
    pub value: Bytes,
    /// Its revision; 0 for an object that only a dry run made.
    pub revision: Revision,
    /// Whether the object is new.
    pub created: bool,
}

/// An object as the store has it, decoded to be changed.
#[derive(Debug, Clone)]
pub struct Current {
    /// The object, with its resourceVersion.
    pub object: Object,
    /// The stored bytes.
    pub value: Bytes,
    /// The revision it was read at.
    pub revision: Revision,
}

// === impl Written ===

impl Written {
    /// The object as JSON with its resourceVersion.
    pub fn json(&self) -> Bytes {
        if self.revision == 0 {
            return self.value.clone();
        }
        with_revision(&self.value, self.revision).unwrap_or_else(|| self.value.clone())
    }
}

// === impl Current ===

impl Current {
    /// Decodes what is stored.
    pub fn new(entry: &Entry) -> Result<Self, ApiError> {
        let mut object = Object::from_bytes(entry.value()).map_err(ApiError::internal)?;
        object.meta_mut().set_resource_version(&entry.revision().to_string());
        Ok(Self { object, value: entry.value().clone(), revision: entry.revision() })
    }
}

// === impl Write ===

impl Write<'_> {
    /// An error about the object that is written.
    pub fn not_found(&self) -> ApiError {
        ApiError::not_found(&*self.resource.kind, &self.info.name)
    }

    /// The key of an object of this resource.
    pub fn key(&self, namespace: &str, name: &str) -> Bytes {
        self.resource.key(namespace, name)
    }
}
