//! Validation of a container's environment and of what the downward API may refer to.

use super::resources;
use crate::field::ErrorList;
use crate::kinds::checks::{self, named, required};
use crate::kinds::view::View;
use crate::names;

/// Fields that an environment variable may take its value from.
const ENV_FIELDS: [&str; 9] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
/// Fields that a downward API volume may write to files.
pub(crate) const VOLUME_FIELDS: [&str; 5] =
    ["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];
/// Every field the downward API knows, whatever it is used for.
const KNOWN_FIELDS: [&str; 14] = [
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.schedulerName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.phase",
    "status.podIP",
    "status.podIPs",
];
const VALUE_SOURCES: [&str; 5] =
    ["fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef", "fileKeyRef"];

/// Validates `env` and `envFrom` of a container.
pub(crate) fn validate(errors: &mut ErrorList, container: &View<'_, '_>) {
    for variable in container.get("env").items() {
        checks::required_name(errors, &variable.get("name"), names::env_var_name);
        value_from(errors, &variable);
    }
    let all = container.get("envFrom");
    for source in all.items() {
        checks::named_if_set(errors, &source.get("prefix"), names::env_var_name);
        let written = ["configMapRef", "secretRef"].map(|field| source.get(field).exists());
        match written {
            [false, false] => {
                errors.invalid(all.path(), "", "must specify one of: `configMapRef` or `secretRef`");
            }
            [true, true] => errors.invalid(all.path(), "", checks::MORE_THAN_ONE),
            _ => {}
        }
        for field in ["configMapRef", "secretRef"] {
            let reference = source.get(field);
            if reference.exists() {
                named(errors, &reference.get("name"), names::dns1123_subdomain);
            }
        }
    }
}

fn value_from(errors: &mut ErrorList, variable: &View<'_, '_>) {
    let from = variable.get("valueFrom");
    if !from.exists() {
        return;
    }
    field_ref(errors, &from.get("fieldRef"), &ENV_FIELDS);
    resources::validate_field_ref(errors, &from.get("resourceFieldRef"), false);
    for source in ["configMapKeyRef", "secretKeyRef"] {
        key_ref(errors, &from.get(source));
    }
    let written = VALUE_SOURCES.iter().filter(|source| from.get(source).exists()).count();
    if written == 0 {
        errors.invalid(
            from.path(),
            "",
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`",
        );
    } else if !variable.get("value").is_empty() {
        errors.invalid(from.path(), "", "may not be specified when `value` is not empty");
    } else if written > 1 {
        errors.invalid(from.path(), "", checks::MORE_THAN_ONE);
    }
}

fn key_ref(errors: &mut ErrorList, reference: &View<'_, '_>) {
    if reference.exists() {
        named(errors, &reference.get("name"), names::dns1123_subdomain);
        checks::required_name(errors, &reference.get("key"), names::config_map_key);
    }
}

/// Validates a reference to a field of the pod itself.
pub(crate) fn field_ref(errors: &mut ErrorList, reference: &View<'_, '_>, allowed: &[&str]) {
    if !reference.exists() {
        return;
    }
    if !required(errors, &reference.get("apiVersion"), "") {
        return;
    }
    let field = reference.get("fieldPath");
    if !required(errors, &field, "") {
        return;
    }
    let (path, subscript) = split_subscript(field.text());
    if !KNOWN_FIELDS.contains(&path) {
        let detail = format!("error converting fieldPath: field label not supported: {path}");
        errors.invalid(field.path(), field.text(), detail);
        return;
    }
    match (path, subscript) {
        ("metadata.annotations", Some(key)) => {
            errors.invalid_each(reference.path(), key, names::qualified_name(&key.to_lowercase()));
        }
        ("metadata.labels", Some(key)) => {
            errors.invalid_each(reference.path(), key, names::qualified_name(key));
        }
        (_, Some(_)) => errors.invalid(reference.path(), path, "does not support subscript"),
        (_, None) if !allowed.contains(&path) => errors.not_supported(field.path(), path, allowed),
        (_, None) => {}
    }
}

/// Splits `metadata.labels['app']` into its path and key.
fn split_subscript(path: &str) -> (&str, Option<&str>) {
    let split = || {
        let (path, key) = path.strip_suffix("']")?.split_once("['")?;
        (!path.is_empty()).then_some((path, Some(key)))
    };
    split().unwrap_or((path, None))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::kinds::checks::tests::expect;

    fn check(variable: Value, expected: &[&str], why: &str) {
        expect(&json!({"env": [variable]}), validate, expected, why);
    }

    #[test]
    fn variables() {
        check(json!({"name": "A", "value": "b"}), &[], "a literal");
        check(json!({"name": "my.var-1 x"}), &[], "any printable name");
        check(json!({"name": ""}), &["env[0].name: Required value"], "no name");
        check(
            json!({"name": "a=b"}),
            &[
                "env[0].name: Invalid value: \"a=b\": a valid environment variable name must consist only of printable ASCII characters other than '='",
            ],
            "an equals sign would end the name",
        );
        check(
            json!({"name": "A", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "status.podIP"}}}),
            &[],
            "the pod's address",
        );
        check(
            json!({"name": "A", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.labels['app']"}}}),
            &[],
            "one label",
        );
        check(
            json!({"name": "A", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.labels"}}}),
            &[
                "env[0].valueFrom.fieldRef.fieldPath: Unsupported value: \"metadata.labels\": supported values: \"metadata.name\", \"metadata.namespace\", \"metadata.uid\", \"spec.nodeName\", \"spec.serviceAccountName\", \"status.hostIP\", \"status.hostIPs\", \"status.podIP\", \"status.podIPs\"",
            ],
            "all labels are for volumes",
        );
        check(
            json!({"name": "A", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "spec.foo"}}}),
            &[
                "env[0].valueFrom.fieldRef.fieldPath: Invalid value: \"spec.foo\": error converting fieldPath: field label not supported: spec.foo",
            ],
            "an unknown field",
        );
        check(
            json!({"name": "A", "valueFrom": {}}),
            &[
                "env[0].valueFrom: Invalid value: \"\": must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`",
            ],
            "from nowhere",
        );
        check(
            json!({"name": "A", "value": "x", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "k"}}}),
            &["env[0].valueFrom: Invalid value: \"\": may not be specified when `value` is not empty"],
            "a value and a source",
        );
        check(
            json!({"name": "A", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "k"}, "secretKeyRef": {"name": "s", "key": "k"}}}),
            &["env[0].valueFrom: Invalid value: \"\": may not have more than one field specified at a time"],
            "two sources",
        );
        check(
            json!({"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": ""}}}),
            &["env[0].valueFrom.secretKeyRef.key: Required value"],
            "which key",
        );
    }

    #[test]
    fn whole_sources() {
        expect(&json!({"envFrom": [{"configMapRef": {"name": "c"}}]}), validate, &[], "a config map");
        expect(
            &json!({"envFrom": [{}]}),
            validate,
            &["envFrom: Invalid value: \"\": must specify one of: `configMapRef` or `secretRef`"],
            "no source",
        );
    }
}
