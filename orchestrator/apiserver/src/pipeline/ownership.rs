//! Field ownership: `metadata.managedFields` after every write, whoever made it and however.

use api::Object;

use super::Write;

// === impl Write ===

impl Write<'_> {
    /// Who owns the fields of a new object.
    pub fn own_created(&self, object: &mut Object) {
        let _ = object;
    }

    /// Who owns the fields of a changed object.
    pub fn own_updated(&self, new: &mut Object, old: &Object) {
        let _ = (new, old);
    }
}
