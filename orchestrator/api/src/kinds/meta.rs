//! Validation of `metadata`, the same for every kind but for what a name may look like.

use super::checks::{self, not_negative};
use super::view::View;
use crate::field::ErrorList;
use crate::kind::Kind;
use crate::names::{self, Problems};
use crate::object::{Object, Value};

type NameCheck<'c> = dyn Fn(&str) -> Problems + 'c;

/// Keys and values of all annotations together.
const ANNOTATIONS_BYTES_MAX: usize = 256 * 1024;
/// Finalizers that need no domain, for Kubernetes itself acts on them.
const STANDARD_FINALIZERS: [&str; 3] = ["kubernetes", "orphan", "foregroundDeletion"];

// === impl Kind ===

impl Kind {
    /// What is wrong with an object that is to be created: its metadata, then what its kind says.
    pub fn validate_new(&self, object: &Object) -> ErrorList {
        let mut errors = self.validate_meta(object);
        errors.extend(self.strategy.validate(object));
        errors
    }

    /// What is wrong with an update through `subresource`; an empty one is the main resource.
    pub fn validate_change(&self, subresource: &str, new: &Object, old: &Object) -> ErrorList {
        let mut errors = self.validate_meta_change(new, old);
        errors.extend(match subresource {
            "" => self.strategy.validate_update(new, old),
            "status" => self.strategy.validate_status_update(new, old),
            part => self.strategy.validate_part_update(part, new, old),
        });
        errors
    }

    /// What is wrong with an object's metadata, by the kind's scope and its rule for names.
    pub fn validate_meta(&self, object: &Object) -> ErrorList {
        let mut errors = ErrorList::new();
        let name_check = |name: &str| self.strategy.validate_name(name);
        validate(&mut errors, &View::root(object.value()), self.is_namespaced(), &name_check);
        errors
    }

    /// What is wrong with an object's new metadata, by itself and compared with the old.
    pub fn validate_meta_change(&self, new: &Object, old: &Object) -> ErrorList {
        let mut errors = self.validate_meta(new);
        validate_update(&mut errors, &View::root(new.value()), &View::root(old.value()));
        errors
    }
}

// === the checks ===

fn validate(errors: &mut ErrorList, object: &View<'_, '_>, namespaced: bool, name_check: &NameCheck<'_>) {
    let meta = object.get("metadata");
    name(errors, &meta, name_check);
    namespace(errors, &meta, namespaced);
    not_negative(errors, &meta.get("generation"));
    checks::labels(errors, &meta.get("labels"));
    annotations(errors, &meta.get("annotations"));
    owners(errors, &meta.get("ownerReferences"));
    finalizers(errors, &meta.get("finalizers"));
}

/// Validates what an update may do to `metadata`.
///
/// The pipeline has already carried over what clients may leave out (uid, creation and deletion times).
fn validate_update(errors: &mut ErrorList, new: &View<'_, '_>, old: &View<'_, '_>) {
    let (new, old) = (new.get("metadata"), old.get("metadata"));
    for field in
        ["name", "namespace", "uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"]
    {
        checks::immutable(errors, &new.get(field), &old.get(field));
    }
    let (generation, before) = (new.get("generation"), old.get("generation"));
    if generation.int() < before.int() {
        errors.invalid(generation.path(), generation.copy(), "must not be decremented");
    }
    no_new_finalizers(errors, &new, &old);
}

fn name(errors: &mut ErrorList, meta: &View<'_, '_>, name_check: &NameCheck<'_>) {
    let (name, prefix) = (meta.get("name"), meta.get("generateName"));
    if !prefix.is_empty() {
        let masked = names::mask_trailing_dash(prefix.text());
        errors.invalid_each(prefix.path(), prefix.text(), name_check(&masked));
    }
    if name.is_empty() {
        errors.required(name.path(), "name or generateName is required");
    } else {
        errors.invalid_each(name.path(), name.text(), name_check(name.text()));
    }
}

fn namespace(errors: &mut ErrorList, meta: &View<'_, '_>, namespaced: bool) {
    let namespace = meta.get("namespace");
    if namespaced {
        checks::required_name(errors, &namespace, names::dns1123_label);
    } else if !namespace.is_empty() {
        errors.forbidden(namespace.path(), "not allowed on this type");
    }
}

fn annotations(errors: &mut ErrorList, annotations: &View<'_, '_>) {
    let mut bytes = 0;
    for (key, value) in annotations.entries() {
        errors.invalid_each(annotations.path(), key, names::qualified_name(&key.to_lowercase()));
        bytes += key.len() + value.text().len();
    }
    if bytes > ANNOTATIONS_BYTES_MAX {
        errors.too_long(annotations.path(), ANNOTATIONS_BYTES_MAX);
    }
}

fn owners(errors: &mut ErrorList, owners: &View<'_, '_>) {
    let mut controller: Option<&str> = None;
    for owner in owners.items() {
        let version = owner.get("apiVersion");
        if version.text().rsplit('/').next().is_none_or(str::is_empty) {
            errors.invalid(version.path(), version.text(), "version must not be empty");
        }
        for field in ["kind", "name", "uid"] {
            let field = owner.get(field);
            if field.is_empty() {
                errors.invalid(field.path(), field.text(), "must not be empty");
            }
        }
        if version.is("v1") && owner.get("kind").is("Event") {
            errors.invalid(owner.path(), owner.copy(), "/v1, Kind=Event is disallowed from being an owner");
        }
        if !owner.get("controller").flag() {
            continue;
        }
        let name = owner.get("name").text();
        if let Some(other) = controller {
            errors.invalid(
                owners.path(),
                owners.copy(),
                format!(
                    "Only one reference can have Controller set to true. Found \"true\" in references for {other} and {name}"
                ),
            );
        }
        controller = Some(name);
    }
}

fn finalizers(errors: &mut ErrorList, finalizers: &View<'_, '_>) {
    for finalizer in finalizers.items().map(|item| item.text()) {
        errors.invalid_each(finalizers.path(), finalizer, names::qualified_name(finalizer));
        if !finalizer.contains('/') && !STANDARD_FINALIZERS.contains(&finalizer) {
            errors.invalid(
                finalizers.path(),
                finalizer,
                "name is neither a standard finalizer name nor is it fully qualified",
            );
        }
    }
    let has = |name: &str| finalizers.items().any(|item| item.is(name));
    if has("orphan") && has("foregroundDeletion") {
        errors.invalid(
            finalizers.path(),
            finalizers.copy(),
            "finalizer orphan and foregroundDeletion cannot be both set",
        );
    }
}

fn no_new_finalizers(errors: &mut ErrorList, new: &View<'_, '_>, old: &View<'_, '_>) {
    if !old.get("deletionTimestamp").exists() {
        return;
    }
    let (finalizers, before) = (new.get("finalizers"), old.get("finalizers"));
    let added: Vec<Value> = finalizers
        .items()
        .filter(|item| !before.items().any(|old| old.is(item.text())))
        .map(|item| item.copy())
        .collect();
    if !added.is_empty() {
        errors.forbidden(
            finalizers.path(),
            format!(
                "no new finalizers can be added if the object is being deleted, found new finalizers {}",
                Value::from(added)
            ),
        );
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::kinds::checks::tests::expect;

    fn check(meta: Value, expected: &[&str], why: &str) {
        let object = json!({"metadata": meta});
        expect(
            &object,
            |errors, view| validate(errors, view, true, &names::dns1123_subdomain),
            expected,
            why,
        );
    }

    #[test]
    fn metadata() {
        check(
            json!({"name": "a.b", "namespace": "default", "labels": {"app": "web"}}),
            &[],
            "a plain object",
        );
        check(
            json!({"namespace": "default"}),
            &["metadata.name: Required value: name or generateName is required"],
            "no name at all",
        );
        check(json!({"name": "a"}), &["metadata.namespace: Required value"], "no namespace");
        check(
            json!({"name": "a", "namespace": "d", "labels": {"a": "-"}}),
            &[
                "metadata.labels: Invalid value: \"-\": a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')",
            ],
            "a bad label value",
        );
        check(
            json!({"name": "a", "namespace": "d", "annotations": {"Some.Domain/Key": "x".repeat(256 * 1024)}}),
            &["metadata.annotations: Too long: may not be more than 262144 bytes"],
            "annotation keys may have capitals, but there is a limit to it all",
        );
        check(
            json!({"name": "a", "namespace": "d", "finalizers": ["kubernetes", "mine"]}),
            &[
                "metadata.finalizers: Invalid value: \"mine\": name is neither a standard finalizer name nor is it fully qualified",
            ],
            "a finalizer needs a domain",
        );
        check(
            json!({"name": "a", "namespace": "d", "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": ""}]}),
            &["metadata.ownerReferences[0].uid: Invalid value: \"\": must not be empty"],
            "an owner without uid",
        );
        check(
            json!({"name": "a-", "generateName": "a-", "namespace": "d"}),
            &[
                "metadata.name: Invalid value: \"a-\": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
            ],
            "a prefix may end in a dash, a name may not",
        );
    }

    #[test]
    fn two_controllers() {
        let owner = |name: &str| json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": name, "uid": "u", "controller": true});
        let object = json!({"metadata": {"name": "a", "ownerReferences": [owner("x"), owner("y")]}});
        let mut errors = ErrorList::new();
        validate(&mut errors, &View::root(&object), false, &names::dns1123_subdomain);
        assert!(errors.to_string().ends_with(
            "Only one reference can have Controller set to true. Found \"true\" in references for x and y"
        ));
    }

    #[test]
    fn a_kind_checks_metadata_by_its_scope_and_names() {
        let nodes = Kind::new("", "v1", "Node", "nodes").cluster_scoped();
        let object =
            json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "a", "namespace": "default"}});
        let object = Object::from_value(object).unwrap();
        assert_eq!(
            nodes.validate_new(&object).to_string(),
            "metadata.namespace: Forbidden: not allowed on this type"
        );
        let mut renamed = object.clone();
        renamed.meta_mut().set_name("b").set_namespace("");
        let printed = nodes.validate_change("", &renamed, &object).to_string();
        assert!(printed.starts_with("[metadata.name: Invalid value: \"b\": field is immutable"), "{printed}");
    }

    #[test]
    fn updates() {
        let old = json!({"metadata": {"name": "a", "uid": "1", "generation": 3, "deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["kubernetes"]}});
        let new = json!({"metadata": {"name": "a", "uid": "2", "generation": 2, "deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["x/y"]}});
        let mut errors = ErrorList::new();
        validate_update(&mut errors, &View::root(&new), &View::root(&old));
        let printed: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(
            printed,
            [
                "metadata.uid: Invalid value: \"2\": field is immutable",
                "metadata.generation: Invalid value: 2: must not be decremented",
                "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers [\"x/y\"]",
            ]
        );
    }
}
