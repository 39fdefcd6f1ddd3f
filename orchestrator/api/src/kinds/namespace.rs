//! Namespaces: the finalizer `kubernetes`, the phase, and the label that carries the name.

use super::checks;
use super::view::View;
use crate::field::ErrorList;
use crate::kind::{Kind, SelectableField};
use crate::names::{self, Problems};
use crate::object::{Json, Object, Value};
use crate::printing::cluster;
use crate::strategy::{Cell, Strategy};
use crate::time::Time;

/// The label by which selectors find a namespace by its name.
pub const NAME_LABEL: &str = "kubernetes.io/metadata.name";
/// The finalizer that holds a namespace until what it holds is gone.
pub const FINALIZER: &str = "kubernetes";
const STANDARD_FINALIZERS: [&str; 3] = [FINALIZER, "orphan", "foregroundDeletion"];

struct Namespaces;

/// `v1 Namespace`.
pub(crate) fn kind() -> Kind {
    Kind::new("", "v1", "Namespace", "namespaces")
        .cluster_scoped()
        .short_names(&["ns"])
        .verbs(&["create", "delete", "get", "list", "patch", "update", "watch"])
        .subresource("finalize", ("", "v1", "Namespace"), &["update"])
        .status()
        .columns(cluster::namespace_columns())
        .selectable([SelectableField::new("status.phase")])
        .strategy(Namespaces)
}

fn carry_over(new: &mut Object, old: &Object, field: &str) {
    match old.get(field) {
        Some(value) => new.set(field, value.clone()),
        None => drop(new.remove(field)),
    }
}

fn set_name_label(object: &mut Object) {
    let name = object.meta().name().to_owned();
    if !name.is_empty() {
        object.meta_mut().set_label(NAME_LABEL, &name);
    }
}

impl Strategy for Namespaces {
    fn default(&self, object: &mut Object) {
        set_name_label(object);
    }

    fn prepare_create(&self, object: &mut Object) {
        let mut finalizers = object.list_at("spec.finalizers").to_vec();
        if !finalizers.contains(&Value::from(FINALIZER)) {
            finalizers.push(FINALIZER.into());
        }
        object.set("spec.finalizers", finalizers);
        object.set("status.phase", "Active");
    }

    fn prepare_update(&self, new: &mut Object, old: &Object) {
        carry_over(new, old, "spec.finalizers");
    }

    fn validate_name(&self, name: &str) -> Problems {
        names::dns1123_label(name)
    }

    fn validate(&self, object: &Object) -> ErrorList {
        let mut errors = ErrorList::new();
        for finalizer in View::root(object.value()).get("spec").get("finalizers").items() {
            checks::named(&mut errors, &finalizer, names::qualified_name);
            if !finalizer.text().contains('/') && !STANDARD_FINALIZERS.contains(&finalizer.text()) {
                errors.invalid(
                    finalizer.path(),
                    finalizer.text(),
                    "name is neither a standard finalizer name nor is it fully qualified",
                );
            }
        }
        errors
    }

    fn validate_status_update(&self, new: &Object, _old: &Object) -> ErrorList {
        let mut errors = ErrorList::new();
        let root = View::root(new.value());
        // Upstream names the Go field here, and clients see it so.
        let path = crate::field::Path::new("status.Phase");
        let phase = root.get("status").get("phase").text();
        let deleted = root.get("metadata").get("deletionTimestamp").exists();
        match (deleted, phase) {
            (false, "Active") | (true, "Terminating") => {}
            (false, _) => {
                errors.invalid(&path, phase, "may only be 'Active' if `deletionTimestamp` is empty");
            }
            (true, _) => {
                errors.invalid(&path, phase, "may only be 'Terminating' if `deletionTimestamp` is not empty");
            }
        }
        errors
    }

    fn table_row(&self, object: &Object, now: Time) -> Vec<Cell> {
        cluster::namespace_row(&View::root(object.value()), now)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::kinds::tests::defaulted;

    fn object(value: Value) -> Object {
        Object::from_value(value).unwrap()
    }

    #[test]
    fn a_new_namespace_is_active_held_and_labelled() {
        let mut namespace = object(json!({"metadata": {"name": "shop", "labels": {"a": "b"}}}));
        Namespaces.prepare_create(&mut namespace);
        let namespace = defaulted(&kind(), namespace.into_value());
        assert_eq!(
            namespace.value(),
            &json!({
                "apiVersion": "v1", "kind": "Namespace",
                "metadata": {"name": "shop", "labels": {"a": "b", "kubernetes.io/metadata.name": "shop"}},
                "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}
            })
        );
    }

    #[test]
    fn finalizers_change_through_finalize_alone() {
        let old = object(
            json!({"metadata": {"name": "a"}, "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}}),
        );
        let mut update = object(json!({"metadata": {"name": "a"}, "spec": {}}));
        Namespaces.prepare_update(&mut update, &old);
        assert_eq!(update.list_at("spec.finalizers"), ["kubernetes"]);
    }

    #[test]
    fn the_phase_follows_deletion() {
        let living = object(json!({"metadata": {"name": "a"}, "status": {"phase": "Terminating"}}));
        assert_eq!(
            Namespaces.validate_status_update(&living, &living).to_string(),
            "status.Phase: Invalid value: \"Terminating\": may only be 'Active' if `deletionTimestamp` is empty"
        );
        let dying = object(
            json!({"metadata": {"name": "a", "deletionTimestamp": "2026-01-01T00:00:00Z"}, "status": {"phase": "Terminating"}}),
        );
        assert!(Namespaces.validate_status_update(&dying, &dying).is_empty());
    }
}
