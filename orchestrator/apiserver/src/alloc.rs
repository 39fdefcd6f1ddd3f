//! Cluster addresses and node ports of Services, claimed in the transaction that writes the Service.

use api::{ApiError, Object};

use crate::pipeline::commit::Extra;
use crate::resources::Resource;

/// Hands out what is unique in a cluster.
#[derive(Debug, Default)]
pub struct Allocators {}

// === impl Allocators ===

impl Allocators {
    /// Completes an object with what it needs, and says what must be claimed or released with it.
    pub fn claim(
        &self,
        resource: &Resource,
        new: &mut Object,
        old: Option<&Object>,
        dry_run: bool,
    ) -> Result<Extra, ApiError> {
        let _ = (resource, new, old, dry_run);
        Ok(Extra::default())
    }

    /// What is released together with an object that goes.
    pub fn release(&self, resource: &Resource, object: &Object) -> Extra {
        let _ = (resource, object);
        Extra::default()
    }
}
