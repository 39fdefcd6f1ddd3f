//! What a kind adds to its data: the rules that no schema expresses. Every method has a default that does nothing
//! special, so that a strategy holds only what is particular.
//!
//! What is *not* here: plain defaults, merge keys and list types (the schema table), the split between spec and
//! status, generation, metadata checks (the [`Kind`] methods do them from data, then ask the strategy).
//!
//! [`Kind`]: crate::Kind
use crate::field::ErrorList;
use crate::names;
use crate::object::{Object, Value};
use crate::time::Time;

/// One cell of a table.
pub type Cell = Value;

/// A kind's own rules.
pub trait Strategy: Send + Sync + 'static {
    /// Fills in defaults that depend on other fields. The schema's plain defaults are in place already.
    fn default(&self, object: &mut Object) {
        let _ = object;
    }

    /// Before a create is validated: what a client may not choose is reset. Status is gone already.
    fn prepare_create(&self, object: &mut Object) {
        let _ = object;
    }

    /// Before an update of the main resource is validated. Status is the old one already.
    fn prepare_update(&self, new: &mut Object, old: &Object) {
        let _ = (new, old);
    }

    /// Before an update of `status` is validated. All but status and metadata is the old one already.
    fn prepare_status_update(&self, new: &mut Object, old: &Object) {
        let _ = (new, old);
    }

    /// Whether an update asks for something new, so that the generation grows: anything outside of metadata and
    /// status, unless the kind knows better.
    fn generation_changed(&self, new: &Object, old: &Object) -> bool {
        let asked = |object: &Object| {
            let asked =
                object.fields().iter().filter(|(name, _)| !matches!(name.as_str(), "metadata" | "status"));
            asked.map(|(name, value)| (name.clone(), value.clone())).collect::<Vec<_>>()
        };
        new.fields().get("spec") != old.fields().get("spec") || {
            let (mut new, mut old) = (asked(new), asked(old));
            new.sort_by(|a, b| a.0.cmp(&b.0));
            old.sort_by(|a, b| a.0.cmp(&b.0));
            new != old
        }
    }

    /// What is wrong with a name of this kind.
    fn validate_name(&self, name: &str) -> names::Problems {
        names::dns1123_subdomain(name)
    }

    /// What is wrong with a new object; metadata is checked already.
    fn validate(&self, object: &Object) -> ErrorList {
        let _ = object;
        ErrorList::new()
    }

    /// What is wrong with an update of the main resource: the new object itself and the transition from the old one.
    fn validate_update(&self, new: &Object, old: &Object) -> ErrorList {
        let _ = old;
        self.validate(new)
    }

    /// What is wrong with an update of `status`.
    fn validate_status_update(&self, new: &Object, old: &Object) -> ErrorList {
        let _ = (new, old);
        ErrorList::new()
    }

    /// What is wrong with an update of another part of the object: `approval`, `finalize`, ...
    fn validate_part_update(&self, part: &str, new: &Object, old: &Object) -> ErrorList {
        let _ = part;
        self.validate_update(new, old)
    }

    /// What to tell the client in `Warning` headers about an accepted object.
    fn warnings(&self, new: &Object, old: Option<&Object>) -> Vec<String> {
        let _ = (new, old);
        Vec::new()
    }

    /// Whether an update of an object that does not exist creates it.
    fn allow_create_on_update(&self) -> bool {
        false
    }

    /// Whether an update may leave the resourceVersion out.
    fn allow_unconditional_update(&self) -> bool {
        true
    }

    /// The seconds that a deletion waits before the object goes; `None` if this kind goes at once.
    fn grace_seconds(&self, object: &Object, requested: Option<i64>) -> Option<i64> {
        let _ = (object, requested);
        None
    }

    /// From this version's shape to the one that is stored, where a kind is stored as another (`events.k8s.io`).
    fn to_stored(&self, object: &mut Object) {
        let _ = object;
    }

    /// From the stored shape to this version's.
    #[expect(
        clippy::wrong_self_convention,
        reason = "the counterpart of `to_stored`; `self` is the rules, not the object"
    )]
    fn from_stored(&self, object: &mut Object) {
        let _ = object;
    }

    /// The cells of the object's row, one for each of the kind's columns.
    fn table_row(&self, object: &Object, now: Time) -> Vec<Cell> {
        let meta = object.meta();
        vec![meta.name().into(), crate::table::age(meta.creation_timestamp(), now).into()]
    }
}

/// A kind without rules of its own.
#[derive(Clone, Copy, Debug)]
pub struct Plain;

impl Strategy for Plain {}
