//! Tests of field ownership: who owns what after which write.

use serde_json::json;

use super::*;
use crate::schema::Schema;

fn node() -> Node<'static> {
    Schema::builtin().node("apps", "v1", "Deployment").unwrap()
}

fn at(seconds: i64) -> Time {
    crate::time::parse("2026-11-01T10:00:00Z").unwrap()
        + std::time::Duration::from_secs(seconds.unsigned_abs())
}

fn writer(name: &str, seconds: i64) -> Writer<'_> {
    Writer { name, api_version: "apps/v1", subresource: "", now: at(seconds) }
}

fn deployment(spec: Value) -> Object {
    let metadata = json!({"name": "web", "uid": "u", "labels": {"app": "web"}});
    Object::from_value(
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec}),
    )
    .unwrap()
}

fn created(by: &str) -> Object {
    let mut object = deployment(json!({"replicas": 1, "paused": true}));
    update(node(), None, &mut object, &writer(by, 0));
    object
}

fn entries(object: &Object) -> Vec<(String, Value)> {
    let entries = object.meta().managed_fields().iter();
    entries.map(|entry| (entry["manager"].as_str().unwrap().to_owned(), entry["fieldsV1"].clone())).collect()
}

#[test]
fn a_create_owns_everything_but_the_identity() {
    let object = created("kubectl-create");
    assert_eq!(
        serde_json::to_string(object.meta().get("managedFields").unwrap()).unwrap(),
        r#"[{"manager":"kubectl-create","operation":"Update","apiVersion":"apps/v1","time":"2026-11-01T10:00:00Z","fieldsType":"FieldsV1","fieldsV1":{"f:metadata":{"f:labels":{".":{},"f:app":{}}},"f:spec":{"f:paused":{},"f:replicas":{}}}}]"#
    );
}

#[test]
fn a_field_moves_to_who_changes_it() {
    let live = created("a");
    let mut new = live.clone();
    *new.value_mut()["spec"].as_object_mut().unwrap() =
        json!({"replicas": 2, "minReadySeconds": 3}).as_object().unwrap().clone();
    update(node(), Some(&live), &mut new, &writer("b", 60));
    assert_eq!(
        entries(&new),
        [
            ("a".to_owned(), json!({"f:metadata": {"f:labels": {".": {}, "f:app": {}}}})),
            ("b".to_owned(), json!({"f:spec": {"f:minReadySeconds": {}, "f:replicas": {}}})),
        ]
    );
}

#[test]
fn no_change_leaves_no_trace() {
    let live = created("a");
    let mut new = live.clone();
    update(node(), Some(&live), &mut new, &writer("b", 60));
    assert_eq!(new, live);
}

#[test]
fn subresources_are_managers_of_their_own() {
    let live = created("a");
    let mut new = live.clone();
    new.value_mut()["status"] = json!({"replicas": 1});
    update(node(), Some(&live), &mut new, &Writer { subresource: "status", ..writer("a", 60) });
    let last = &new.meta().managed_fields()[1];
    assert_eq!(last["subresource"], "status");
    assert_eq!(last["fieldsV1"], json!({"f:status": {"f:replicas": {}}}));
}

#[test]
fn clients_may_replace_and_reset_the_list() {
    let live = created("a");
    let mut replaced = live.clone();
    replaced.value_mut()["metadata"]["managedFields"][0]["manager"] = "z".into();
    update(node(), Some(&live), &mut replaced, &writer("b", 60));
    assert_eq!(entries(&replaced)[0].0, "z");
    let mut reset = live.clone();
    reset.value_mut()["metadata"]["managedFields"] = json!([{}]);
    update(node(), Some(&live), &mut reset, &writer("b", 60));
    assert!(reset.meta().managed_fields().is_empty());
    let mut nonsense = live.clone();
    nonsense.value_mut()["metadata"]["managedFields"] = json!([{"manager": "x", "operation": "Dance"}]);
    update(node(), Some(&live), &mut nonsense, &writer("b", 60));
    assert_eq!(entries(&nonsense), entries(&live));
}

#[test]
fn the_oldest_updaters_are_lumped_together() {
    let mut live = created("m00");
    for number in 1..15 {
        let mut new = live.clone();
        new.meta_mut().set_annotation(&format!("k{number}"), "v");
        update(node(), Some(&live), &mut new, &writer(&format!("m{number:02}"), number * 60));
        live = new;
    }
    let names: Vec<_> = entries(&live).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names.len(), 10);
    assert_eq!(names[0], "ancient-changes");
    assert_eq!(names[9], "m14");
}

#[test]
fn manager_names() {
    assert_eq!(manager_from_user_agent("kubectl/v1.36.0 (linux)"), "kubectl");
    assert_eq!(manager_from_user_agent(""), "");
    assert!(validate_manager("ok").is_empty());
    assert_eq!(
        validate_manager("a\u{7}").to_string(),
        "fieldManager: Invalid value: \"a\\x07\": invalid character U+0007 (at position 1)"
    );
    assert_eq!(
        validate_manager(&"x".repeat(129)).to_string(),
        "fieldManager: Too long: may not be more than 128 bytes"
    );
}
