//! ConfigMaps and Secrets: keys, sizes, immutability, and what a typed Secret must hold.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::view::View;
use crate::field::{ErrorList, Path};
use crate::kind::{Kind, SelectableField};
use crate::names;
use crate::object::{Json, Object, Value};
use crate::printing::cluster;
use crate::strategy::{Cell, Strategy};
use crate::time::Time;

/// All values together, as upstream: an etcd value must hold them.
const DATA_BYTES_MAX: usize = 1024 * 1024;
const FROZEN: &str = "field is immutable when `immutable` is set";
const REDACTED: &str = "<secret contents redacted>";
const SERVICE_ACCOUNT_NAME: &str = "kubernetes.io/service-account.name";

/// What a Secret is whose type is not told.
const OPAQUE: &str = "Opaque";

struct ConfigMaps;
struct Secrets;

/// `v1 ConfigMap`.
pub(crate) fn config_map_kind() -> Kind {
    Kind::new("", "v1", "ConfigMap", "configmaps")
        .short_names(&["cm"])
        .columns(cluster::config_map_columns())
        .strategy(ConfigMaps)
}

/// `v1 Secret`.
pub(crate) fn secret_kind() -> Kind {
    Kind::new("", "v1", "Secret", "secrets")
        .columns(cluster::secret_columns())
        .selectable([SelectableField::new("type")])
        .strategy(Secrets)
}

/// Bytes that a base64 text stands for, without decoding it.
fn decoded_len(text: &str) -> usize {
    text.len() / 4 * 3 - text.bytes().rev().take_while(|byte| *byte == b'=').count().min(text.len() / 4 * 3)
}

/// Checks the keys of a map, and adds up the sizes of its values.
fn keys_and_size(errors: &mut ErrorList, map: &View<'_, '_>, size: fn(&str) -> usize) -> usize {
    let mut total = 0;
    for (key, value) in map.entries() {
        errors.invalid_each(value.path(), key, names::config_map_key(key));
        total += size(value.text());
    }
    total
}

/// An object marked immutable keeps its mark and these fields.
fn frozen(errors: &mut ErrorList, new: &View<'_, '_>, old: &View<'_, '_>, fields: &[&str]) {
    if !old.get("immutable").flag() {
        return;
    }
    let mark = new.get("immutable");
    if !mark.flag() {
        errors.forbidden(mark.path(), FROZEN);
    }
    for field in fields {
        let field = new.get(field);
        if !same_map(&field, &old.get(&field.path().to_string())) {
            errors.forbidden(field.path(), FROZEN);
        }
    }
}

fn same_map(new: &View<'_, '_>, old: &View<'_, '_>) -> bool {
    (new.is_empty() && old.is_empty()) || new.raw() == old.raw()
}

impl Strategy for ConfigMaps {
    fn validate(&self, object: &Object) -> ErrorList {
        let mut errors = ErrorList::new();
        let root = View::root(object.value());
        let (data, binary) = (root.get("data"), root.get("binaryData"));
        for (key, value) in data.entries().filter(|(key, _)| binary.get(key).exists()) {
            errors.invalid(value.path(), key, "duplicate of key present in binaryData");
        }
        let size =
            keys_and_size(&mut errors, &data, str::len) + keys_and_size(&mut errors, &binary, decoded_len);
        if size > DATA_BYTES_MAX {
            // Kubernetes' name for the object as a whole.
            errors.too_long(&Path::new("[]"), DATA_BYTES_MAX);
        }
        errors
    }

    fn validate_update(&self, new: &Object, old: &Object) -> ErrorList {
        let mut errors = ErrorList::new();
        frozen(&mut errors, &View::root(new.value()), &View::root(old.value()), &["data", "binaryData"]);
        errors.extend(self.validate(new));
        errors
    }

    fn table_row(&self, object: &Object, now: Time) -> Vec<Cell> {
        cluster::config_map_row(&View::root(object.value()), now)
    }
}

impl Strategy for Secrets {
    /// `stringData` is for writing only: it moves into `data`.
    fn default(&self, object: &mut Object) {
        if object.text("type").is_empty() {
            object.set("type", OPAQUE);
        }
        let Some(Value::Object(plain)) = object.remove("stringData") else { return };
        if plain.is_empty() {
            return;
        }
        let data = object.ensure("data");
        for (key, value) in plain {
            data[key] = BASE64.encode(value.as_str().unwrap_or_default()).into();
        }
    }

    fn validate(&self, object: &Object) -> ErrorList {
        let mut errors = ErrorList::new();
        let root = View::root(object.value());
        let data = root.get("data");
        if keys_and_size(&mut errors, &data, decoded_len) > DATA_BYTES_MAX {
            errors.too_long(data.path(), DATA_BYTES_MAX);
        }
        contents_of_type(&mut errors, &root);
        errors
    }

    fn validate_update(&self, new: &Object, old: &Object) -> ErrorList {
        let mut errors = ErrorList::new();
        let (after, before) = (View::root(new.value()), View::root(old.value()));
        errors.immutable_unless_equal(&Path::new("type"), after.get("type").raw(), before.get("type").raw());
        frozen(&mut errors, &after, &before, &["data"]);
        errors.extend(self.validate(new));
        errors
    }

    fn table_row(&self, object: &Object, now: Time) -> Vec<Cell> {
        cluster::secret_row(&View::root(object.value()), now)
    }
}

fn contents_of_type(errors: &mut ErrorList, secret: &View<'_, '_>) {
    let data = secret.get("data");
    let mut required = |keys: &[&str]| {
        for key in keys {
            if !data.map().is_some_and(|data| data.contains_key(*key)) {
                errors.required(&data.path().key(key), "");
            }
        }
    };
    match secret.get("type").text() {
        "kubernetes.io/service-account-token" => {
            let metadata = secret.get("metadata");
            let annotations = metadata.get("annotations");
            let account = annotations.key(SERVICE_ACCOUNT_NAME);
            if account.is_empty() {
                errors.required(account.path(), "");
            }
        }
        "kubernetes.io/dockercfg" => json_entry(errors, &data, ".dockercfg"),
        "kubernetes.io/dockerconfigjson" => json_entry(errors, &data, ".dockerconfigjson"),
        "kubernetes.io/basic-auth" if !data.get("username").exists() && !data.get("password").exists() => {
            required(&["username", "password"]);
        }
        "kubernetes.io/ssh-auth" if data.get("ssh-privatekey").is_empty() => required(&["ssh-privatekey"]),
        "kubernetes.io/tls" => required(&["tls.crt", "tls.key"]),
        _ => {}
    }
}

fn json_entry(errors: &mut ErrorList, data: &View<'_, '_>, key: &str) {
    let entry = data.key(key);
    if !entry.exists() {
        errors.required(entry.path(), "");
        return;
    }
    let decoded = BASE64.decode(entry.text()).unwrap_or_default();
    if let Err(error) = serde_json::from_slice::<Value>(&decoded) {
        errors.invalid(entry.path(), REDACTED, error.to_string());
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(value: Value) -> Object {
        Object::from_value(value).unwrap()
    }

    fn check(kind: &dyn Strategy, value: Value, expected: &[&str], why: &str) {
        let errors = kind.validate(&object(value));
        let printed: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(printed, expected, "{why}");
    }

    fn check_update(kind: &dyn Strategy, old: Value, new: Value, expected: &[&str], why: &str) {
        let errors = kind.validate_update(&object(new), &object(old));
        let printed: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(printed, expected, "{why}");
    }

    #[test]
    fn config_maps() {
        check(&ConfigMaps, json!({"data": {"a.b_c": "1"}, "binaryData": {"d": "AA=="}}), &[], "a plain one");
        check(
            &ConfigMaps,
            json!({"data": {"a/b": "1"}}),
            &[
                "data[a/b]: Invalid value: \"a/b\": a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')",
            ],
            "a key that is no file name",
        );
        check(
            &ConfigMaps,
            json!({"data": {"a": "1"}, "binaryData": {"a": "AA=="}}),
            &["data[a]: Invalid value: \"a\": duplicate of key present in binaryData"],
            "one key, two values",
        );
        check(
            &ConfigMaps,
            json!({"data": {"a": "x".repeat(1024 * 1024 + 1)}}),
            &["[]: Too long: may not be more than 1048576 bytes"],
            "over a mebibyte",
        );
        check_update(
            &ConfigMaps,
            json!({"immutable": true, "data": {"a": "1"}}),
            json!({"data": {"a": "2"}}),
            &[
                "immutable: Forbidden: field is immutable when `immutable` is set",
                "data: Forbidden: field is immutable when `immutable` is set",
            ],
            "a frozen one",
        );
    }

    #[test]
    fn secrets() {
        check(&Secrets, json!({"type": "Opaque", "data": {"a": "MQ=="}}), &[], "a plain one");
        check(
            &Secrets,
            json!({"type": "kubernetes.io/tls", "data": {"tls.crt": ""}}),
            &["data[tls.key]: Required value"],
            "a pair needs both",
        );
        check(
            &Secrets,
            json!({"type": "kubernetes.io/service-account-token"}),
            &["metadata.annotations[kubernetes.io/service-account.name]: Required value"],
            "whose token",
        );
        check(
            &Secrets,
            json!({"type": "kubernetes.io/dockerconfigjson", "data": {".dockerconfigjson": "e30="}}),
            &[],
            "an empty configuration is JSON",
        );
        check(
            &Secrets,
            json!({"type": "kubernetes.io/basic-auth", "data": {}}),
            &["data[username]: Required value", "data[password]: Required value"],
            "one of the two",
        );
        check(
            &Secrets,
            json!({"type": "kubernetes.io/ssh-auth"}),
            &["data[ssh-privatekey]: Required value"],
            "the key",
        );
        check_update(
            &Secrets,
            json!({"type": "Opaque"}),
            json!({"type": "example.com/other"}),
            &["type: Invalid value: \"example.com/other\": field is immutable"],
            "the type stays",
        );
    }

    #[test]
    fn plain_strings_move_into_data() {
        let mut secret = object(json!({"stringData": {"a": "1"}, "data": {"a": "Mg==", "b": "Mw=="}}));
        Secrets.default(&mut secret);
        assert_eq!(secret.value(), &json!({"data": {"a": "MQ==", "b": "Mw=="}, "type": "Opaque"}));
    }

    #[test]
    fn sizes_of_base64() {
        for text in ["", "a", "ab", "abc", "abcd"] {
            assert_eq!(decoded_len(&BASE64.encode(text)), text.len());
        }
    }
}
