//! Templates: which set belongs to which, the hash that tells their pods apart, and the annotations that number them.
use std::fmt::Write;

use client::objects::LAST_APPLIED_ANNOTATION;
use serde_json::Value;

use crate::objects::{Deployment, ReplicaSet};

/// Label that sets the pods of one template apart from those of another.
pub(super) const HASH_LABEL: &str = "pod-template-hash";
/// Number of a set's template among those of its Deployment.
pub(super) const REVISION: &str = "deployment.kubernetes.io/revision";
/// Numbers that a set's template had before.
const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
/// Size of the Deployment when the set was last sized.
pub(super) const DESIRED_REPLICAS: &str = "deployment.kubernetes.io/desired-replicas";
/// The same with surge.
pub(super) const MAX_REPLICAS: &str = "deployment.kubernetes.io/max-replicas";
/// Bytes of the history; older numbers are dropped. Kubernetes' figure.
const HISTORY_BYTES_MAX: usize = 2000;
/// Letters without vowels and look-alikes: names made of them are no words.
const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

/// Whether two templates make the same pods.
pub(super) fn is_same(a: &Value, b: &Value) -> bool {
    normal(a) == normal(b)
}

fn normal(template: &Value) -> Value {
    let mut template = template.clone();
    if let Some(metadata) = template.get_mut("metadata").and_then(Value::as_object_mut) {
        if let Some(labels) = metadata.get_mut("labels").and_then(Value::as_object_mut) {
            labels.shift_remove(HASH_LABEL);
        }
        metadata.retain(|_, value| !value.is_null());
    }
    template
}

/// Hash of a template, in letters that fit a name. Differs with the number of collisions seen.
pub(super) fn hash(template: &Value, collisions: i64) -> String {
    let mut text = String::new();
    canonical(&normal(template), &mut text);
    if collisions > 0 {
        _ = write!(text, "#{collisions}");
    }
    // FNV-1a.
    let hash =
        text.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    hash.to_string().bytes().map(|digit| char::from(ALPHABET[usize::from(digit) % ALPHABET.len()])).collect()
}

/// JSON with its keys in order: the same template has one text however it was written.
fn canonical(value: &Value, text: &mut String) {
    match value {
        Value::Object(map) => {
            let mut keys: Vec<_> = map.keys().collect();
            keys.sort();
            text.push('{');
            for key in keys {
                _ = write!(text, "{key:?}:");
                canonical(&map[key], text);
            }
            text.push('}');
        }
        Value::Array(items) => {
            text.push('[');
            items.iter().for_each(|item| canonical(item, text));
            text.push(']');
        }
        other => _ = write!(text, "{other},"),
    }
}

/// Template and selector of a new set.
pub(super) fn with_hash(deployment: &Deployment, hash: &str) -> (Value, Value) {
    let (mut template, mut selector) =
        (normal(&deployment.spec.template), deployment.spec.selector.json.clone());
    template["metadata"]["labels"][HASH_LABEL] = hash.into();
    selector["matchLabels"][HASH_LABEL] = hash.into();
    (template, selector)
}

pub(super) fn number(set: &ReplicaSet, annotation: &str) -> Option<i64> {
    set.metadata.annotations.get(annotation)?.parse().ok()
}

/// The newest number among these sets.
pub(super) fn newest_revision<'a>(sets: impl IntoIterator<Item = &'a ReplicaSet>) -> i64 {
    sets.into_iter().filter_map(|set| number(set, REVISION)).max().unwrap_or_default()
}

/// Annotations of the new set: the Deployment's own, and the number. A set that comes back (undo) remembers its old one.
pub(super) fn annotations(
    deployment: &Deployment,
    new: Option<&ReplicaSet>,
    revision: i64,
) -> Vec<(String, String)> {
    let ours = [LAST_APPLIED_ANNOTATION, REVISION, REVISION_HISTORY, DESIRED_REPLICAS, MAX_REPLICAS];
    let own = deployment.metadata.annotations.iter().filter(|(key, _)| !ours.contains(key));
    let mut wanted: Vec<(String, String)> =
        own.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
    let old = new.and_then(|set| number(set, REVISION)).unwrap_or_default();
    if old < revision {
        wanted.push((REVISION.into(), revision.to_string()));
        if let Some(history) = new.filter(|_| old > 0).map(|set| history(set, old)) {
            wanted.push((REVISION_HISTORY.into(), history));
        }
    }
    let has =
        |key: &str, value: &str| new.is_some_and(|set| set.metadata.annotations.get(key) == Some(value));
    wanted.retain(|(key, value)| !has(key, value));
    wanted
}

fn history(set: &ReplicaSet, old: i64) -> String {
    let mut history = set.metadata.annotations.get(REVISION_HISTORY).unwrap_or_default().to_owned();
    if !history.is_empty() {
        history.push(',');
    }
    history.push_str(&old.to_string());
    while history.len() > HISTORY_BYTES_MAX {
        history = history.split_once(',').map(|(_, rest)| rest.to_owned()).unwrap_or_default();
    }
    history
}

/// Annotations that tell how large the Deployment was when the set was sized; only those that change.
pub(super) fn size_annotations(set: Option<&ReplicaSet>, desired: i64, max: i64) -> Vec<(String, String)> {
    let wanted = [(DESIRED_REPLICAS, desired), (MAX_REPLICAS, max)];
    let changed =
        wanted.into_iter().filter(|(key, value)| set.and_then(|set| number(set, key)) != Some(*value));
    changed.map(|(key, value)| (key.to_owned(), value.to_string())).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_hash_is_of_the_meaning() {
        let a = json!({ "metadata": { "labels": { "a": "1", "b": "2" } }, "spec": { "containers": [{ "image": "x" }] } });
        let b = json!({ "spec": { "containers": [{ "image": "x" }] },
            "metadata": { "creationTimestamp": null, "labels": { "b": "2", "a": "1", HASH_LABEL: "xyz" } } });
        assert!(is_same(&a, &b));
        assert_eq!(hash(&a, 0), hash(&b, 0));
        assert_ne!(hash(&a, 0), hash(&a, 1));
        let c = json!({ "metadata": { "labels": { "a": "1", "b": "2" } }, "spec": { "containers": [{ "image": "y" }] } });
        assert!(!is_same(&a, &c) && hash(&a, 0) != hash(&c, 0));
        assert!(hash(&a, 0).bytes().all(|byte| ALPHABET.contains(&byte)));
    }

    #[test]
    fn a_set_that_comes_back_remembers_its_numbers() {
        let set: ReplicaSet = serde_json::from_value(json!({ "metadata": { "annotations": {
            REVISION: "2", REVISION_HISTORY: "1", "note": "same" } } }))
        .unwrap();
        let deployment: Deployment = serde_json::from_value(json!({ "metadata": { "annotations": {
            REVISION: "4", "note": "same", "kubernetes.io/change-cause": "why" } } }))
        .unwrap();
        let found = annotations(&deployment, Some(&set), 5);
        let expected = [("kubernetes.io/change-cause", "why"), (REVISION, "5"), (REVISION_HISTORY, "1,2")];
        assert_eq!(found, expected.map(|(key, value)| (key.to_owned(), value.to_owned())));
        assert_eq!(size_annotations(None, 3, 4).len(), 2);
    }
}
