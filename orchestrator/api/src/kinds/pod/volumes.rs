//! Validation of volumes: each has a name of its own and exactly one source.

use std::collections::BTreeSet;

use super::{env, resources};
use crate::field::ErrorList;
use crate::kinds::checks::{self, one_of, required, required_name};
use crate::kinds::service_account;
use crate::kinds::view::View;
use crate::names;
use crate::quantity::Quantity;

const HOST_PATH_TYPES: [&str; 8] =
    ["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];
const MODE: &str = "must be a number between 0 and 0777 (octal), both inclusive";
const MODE_MAX: i64 = 0o777;

/// Validates `spec.volumes`.
pub(crate) fn validate(errors: &mut ErrorList, spec: &View<'_, '_>) {
    let mut seen = BTreeSet::new();
    for volume in spec.get("volumes").items() {
        source(errors, &volume);
        let name = volume.get("name");
        required_name(errors, &name, names::dns1123_label);
        if !name.is_empty() && !seen.insert(name.text()) {
            errors.duplicate(name.path(), name.text());
        }
    }
}

fn source(errors: &mut ErrorList, volume: &View<'_, '_>) {
    let mut found = false;
    for (kind, _) in volume.entries().filter(|(field, source)| *field != "name" && source.exists()) {
        let source = volume.get(kind);
        if found {
            errors.forbidden(source.path(), "may not specify more than 1 volume type");
            continue;
        }
        found = true;
        one_source(errors, kind, &source);
    }
    if !found {
        errors.required(volume.path(), "must specify a volume type");
    }
}

fn one_source(errors: &mut ErrorList, kind: &str, source: &View<'_, '_>) {
    match kind {
        "emptyDir" => empty_dir(errors, source),
        "hostPath" => host_path(errors, source),
        "secret" => {
            required(errors, &source.get("secretName"), "");
            files(errors, source);
        }
        "configMap" => {
            required(errors, &source.get("name"), "");
            files(errors, source);
        }
        "downwardAPI" => downward(errors, source),
        "projected" => projected(errors, source),
        "persistentVolumeClaim" => {
            required(errors, &source.get("claimName"), "");
        }
        "nfs" => {
            required(errors, &source.get("server"), "");
            let path = source.get("path");
            if required(errors, &path, "") && !path.text().starts_with('/') {
                errors.invalid(path.path(), path.text(), "must be an absolute path");
            }
        }
        "csi" => {
            required_name(errors, &source.get("driver"), names::dns1123_subdomain);
        }
        "ephemeral" => {
            required(errors, &source.get("volumeClaimTemplate"), "");
        }
        "image" => {
            one_of(errors, &source.get("pullPolicy"), &["Always", "IfNotPresent", "Never"]);
        }
        // Sources of single vendors: the schema checks their types, their drivers the rest.
        _ => {}
    }
}

fn empty_dir(errors: &mut ErrorList, source: &View<'_, '_>) {
    let limit = source.get("sizeLimit");
    let bad = match limit.raw().map(Quantity::from_json) {
        Some(Ok(quantity)) => quantity.is_negative(),
        Some(Err(_)) => true,
        None => false,
    };
    if bad {
        errors.forbidden(limit.path(), "SizeLimit field must be a valid resource quantity");
    }
}

fn host_path(errors: &mut ErrorList, source: &View<'_, '_>) {
    let path = source.get("path");
    if required(errors, &path, "") {
        checks::no_backsteps(errors, &path);
        one_of(errors, &source.get("type"), &HOST_PATH_TYPES);
    }
}

/// The modes and items of a Secret or ConfigMap volume.
fn files(errors: &mut ErrorList, source: &View<'_, '_>) {
    mode(errors, &source.get("defaultMode"));
    for item in source.get("items").items() {
        required(errors, &item.get("key"), "");
        file_path(errors, &item.get("path"));
        mode(errors, &item.get("mode"));
    }
}

fn mode(errors: &mut ErrorList, mode: &View<'_, '_>) {
    if let Some(value) = mode.int().filter(|value| !(0..=MODE_MAX).contains(value)) {
        errors.invalid(mode.path(), value, MODE);
    }
}

/// A file below the volume's root that is none of the volume's own bookkeeping.
fn file_path(errors: &mut ErrorList, path: &View<'_, '_>) {
    if !required(errors, path, "") {
        return;
    }
    checks::descending_path(errors, path);
    let first = path.text().split('/').next().unwrap_or_default();
    if first.starts_with("..") && first != ".." {
        errors.invalid(path.path(), path.text(), "must not start with '..'");
    }
}

fn downward(errors: &mut ErrorList, source: &View<'_, '_>) {
    mode(errors, &source.get("defaultMode"));
    for item in source.get("items").items() {
        file_path(errors, &item.get("path"));
        let (field, resource) = (item.get("fieldRef"), item.get("resourceFieldRef"));
        env::field_ref(errors, &field, &env::VOLUME_FIELDS);
        resources::validate_field_ref(errors, &resource, true);
        match (field.exists(), resource.exists()) {
            (true, true) => errors.invalid(
                item.path(),
                "resource",
                "fieldRef and resourceFieldRef can not be specified simultaneously",
            ),
            (false, false) => {
                errors.required(item.path(), "one of fieldRef and resourceFieldRef is required");
            }
            _ => {}
        }
        mode(errors, &item.get("mode"));
    }
}

fn projected(errors: &mut ErrorList, source: &View<'_, '_>) {
    mode(errors, &source.get("defaultMode"));
    let mut paths = BTreeSet::new();
    for projection in source.get("sources").items() {
        let mut found = 0;
        for (kind, inner) in projection.entries().filter(|(_, inner)| inner.exists()) {
            found += 1;
            let inner_path = projection.get(kind);
            if found > 1 {
                errors.forbidden(inner_path.path(), "may not specify more than 1 volume type per source");
                continue;
            }
            projection_source(errors, kind, &inner_path);
            for path in projected_paths(kind, &inner) {
                if !paths.insert(path) {
                    errors.invalid(source.path(), path, "conflicting duplicate paths");
                }
            }
        }
        if found == 0 {
            errors.required(projection.path(), "must specify a volume type");
        }
    }
}

fn projection_source(errors: &mut ErrorList, kind: &str, source: &View<'_, '_>) {
    match kind {
        "secret" | "configMap" => {
            required(errors, &source.get("name"), "");
            files(errors, source);
        }
        "downwardAPI" => downward(errors, source),
        "serviceAccountToken" => {
            service_account::token_seconds(errors, &source.get("expirationSeconds"));
            file_path(errors, &source.get("path"));
        }
        "clusterTrustBundle" => file_path(errors, &source.get("path")),
        _ => {}
    }
}

/// The files a projection is known to write; those of whole Secrets and ConfigMaps are not known here.
fn projected_paths<'a>(kind: &str, source: &View<'a, '_>) -> Vec<&'a str> {
    match kind {
        "serviceAccountToken" | "clusterTrustBundle" => vec![source.get("path").text()],
        _ => source.get("items").items().map(|item| item.get("path").text()).collect(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::kinds::checks::tests::expect;

    fn check(volume: Value, expected: &[&str], why: &str) {
        expect(&json!({"volumes": [volume]}), validate, expected, why);
    }

    #[test]
    fn volumes() {
        check(json!({"name": "v", "emptyDir": {}}), &[], "scratch space");
        check(
            json!({"name": "v"}),
            &["volumes[0]: Required value: must specify a volume type"],
            "from nowhere",
        );
        check(
            json!({"name": "v", "emptyDir": {}, "hostPath": {"path": "/"}}),
            &["volumes[0].hostPath: Forbidden: may not specify more than 1 volume type"],
            "two sources",
        );
        check(
            json!({"name": "v", "hostPath": {"path": "/a/../b", "type": "Pipe"}}),
            &[
                "volumes[0].hostPath.path: Invalid value: \"/a/../b\": must not contain '..'",
                "volumes[0].hostPath.type: Unsupported value: \"Pipe\": supported values: \"\", \"BlockDevice\", \"CharDevice\", \"Directory\", \"DirectoryOrCreate\", \"File\", \"FileOrCreate\", \"Socket\"",
            ],
            "host paths",
        );
        check(
            json!({"name": "v", "secret": {"secretName": "s", "defaultMode": 1000, "items": [{"key": "k", "path": "..data"}]}}),
            &[
                "volumes[0].secret.defaultMode: Invalid value: 1000: must be a number between 0 and 0777 (octal), both inclusive",
                "volumes[0].secret.items[0].path: Invalid value: \"..data\": must not start with '..'",
            ],
            "modes and paths",
        );
        check(
            json!({"name": "v", "projected": {"sources": [
                {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}},
                {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
                {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}}]}}),
            &[],
            "what every pod gets for its service account",
        );
        check(
            json!({"name": "v", "projected": {"sources": [{"serviceAccountToken": {"path": "t", "expirationSeconds": 1}}, {}]}}),
            &[
                "volumes[0].projected.sources[0].serviceAccountToken.expirationSeconds: Invalid value: 1: may not specify a duration less than 10 minutes",
                "volumes[0].projected.sources[1]: Required value: must specify a volume type",
            ],
            "a token that is over at once, and nothing",
        );
    }

    #[test]
    fn names_are_unique() {
        let pod = json!({"volumes": [{"name": "v", "emptyDir": {}}, {"name": "v", "emptyDir": {}}, {"name": "V", "emptyDir": {"sizeLimit": "-1"}}]});
        let mut errors = ErrorList::new();
        validate(&mut errors, &View::root(&pod));
        let fields: Vec<&str> = errors.iter().map(|error| error.field.as_str()).collect();
        assert_eq!(fields, ["volumes[1].name", "volumes[2].emptyDir.sizeLimit", "volumes[2].name"]);
    }
}
