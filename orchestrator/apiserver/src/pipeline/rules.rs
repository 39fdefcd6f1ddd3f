//! Defaults, validation and the split between spec and status: what the kind's data and its strategy say, in order.

use api::{ApiError, ErrorList, Generation, Json, Kind, Object, defaults};

/// Parts of an object that a subresource writes; everything else stays as it is.
fn part_of(subresource: &str) -> Option<&'static str> {
    match subresource {
        "status" => Some("status"),
        "approval" => Some("status.conditions"),
        "finalize" => Some("spec.finalizers"),
        "ephemeralcontainers" => Some("spec.ephemeralContainers"),
        _ => None,
    }
}

/// Before a new object is defaulted: what clients may not choose goes.
pub fn prepare_create(kind: &Kind, object: &mut Object) {
    if kind.has_status() {
        object.remove("status");
    }
    kind.strategy.prepare_create(object);
}

/// Before a changed object is defaulted: a subresource changes its part only, and the object itself all but status.
pub fn prepare_update(kind: &Kind, subresource: &str, new: &mut Object, old: &Object) {
    match part_of(subresource) {
        Some(part) => {
            keep_only(new, old, part);
            if subresource == "status" {
                kind.strategy.prepare_status_update(new, old);
            }
        }
        None => {
            if kind.has_status() {
                restore(new, old, "status");
            }
            kind.strategy.prepare_update(new, old);
        }
    }
}

/// Fills in defaults: the schema's, then those that depend on other fields.
pub fn default(kind: &Kind, object: &mut Object) {
    if let Some(node) = kind.node() {
        defaults::fill(node, object);
    }
    kind.strategy.default(object);
}

/// The generation of a changed object.
pub fn count_generation(kind: &Kind, subresource: &str, new: &mut Object, old: &Object) {
    if kind.generation == Generation::Counted
        && subresource != "status"
        && kind.strategy.generation_changed(new, old)
    {
        let generation = old.meta().generation() + 1;
        new.meta_mut().set_generation(generation);
    }
}

/// What is wrong with a new object.
pub fn validate_create(kind: &Kind, object: &Object) -> Result<(), ApiError> {
    refuse(kind, object, kind.validate_new(object))
}

/// What is wrong with a changed object.
pub fn validate_update(kind: &Kind, subresource: &str, new: &Object, old: &Object) -> Result<(), ApiError> {
    refuse(kind, new, kind.validate_change(subresource, new, old))
}

fn refuse(kind: &Kind, object: &Object, errors: ErrorList) -> Result<(), ApiError> {
    if errors.is_empty() { Ok(()) } else { Err(ApiError::invalid(kind, object.meta().name(), &errors)) }
}

/// Makes `new` the old object but for metadata and one part.
fn keep_only(new: &mut Object, old: &Object, part: &str) {
    let value = new.remove(part);
    let metadata = new.remove("metadata");
    new.value_mut().clone_from(old.value());
    if let Some(metadata) = metadata {
        new.set("metadata", metadata);
    }
    match value {
        Some(value) => new.set(part, value),
        None => _ = new.remove(part),
    }
}

fn restore(new: &mut Object, old: &Object, part: &str) {
    match old.get(part) {
        Some(value) => new.set(part, value.clone()),
        None => _ = new.remove(part),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(spec: i64, status: i64, label: &str) -> Object {
        Object::from_value(json!({"metadata": {"labels": {"l": label}}, "spec": spec, "status": status}))
            .unwrap()
    }

    #[test]
    fn each_side_of_an_object_is_written_through_its_own_door() {
        let kind = Kind::new("", "v1", "X", "xs").status();
        let old = object(1, 1, "a");
        let mut new = object(2, 2, "b");
        prepare_update(&kind, "", &mut new, &old);
        assert_eq!(new, object(2, 1, "b"));
        let mut new = object(2, 2, "b");
        prepare_update(&kind, "status", &mut new, &old);
        assert_eq!(new.value(), &json!({"metadata": {"labels": {"l": "b"}}, "spec": 1, "status": 2}));
    }
}
