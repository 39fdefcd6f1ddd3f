//! Field ownership: `metadata.managedFields` after every write, whoever made it and however.

use api::Object;
use api::managed_fields::{self, Writer};

use super::Write;

// === impl Write ===

impl Write<'_> {
    /// Who writes, as managed fields name it.
    pub fn writer<'w>(&'w self, api_version: &'w str) -> Writer<'w> {
        Writer {
            name: &self.options.field_manager,
            api_version,
            subresource: &self.info.subresource,
            now: self.now,
        }
    }

    /// Notes who owns what after a write to `old`, or a create. Server-side apply notes it by itself.
    pub fn own(&self, new: &mut Object, old: Option<&Object>) {
        let Some(node) = self.resource.kind.node() else { return };
        let api_version = self.resource.kind.api_version();
        managed_fields::update(node, old, new, &self.writer(&api_version));
    }
}
