//! Tests of server-side apply: conflicts, force, pruning, shared ownership.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::managed_fields;
use crate::schema::Schema;
use crate::time::Time;

fn node() -> Node<'static> {
    Schema::builtin().node("apps", "v1", "Deployment").unwrap()
}

fn now() -> Time {
    crate::time::parse("2026-11-01T10:00:00Z").unwrap()
}

fn writer(name: &str) -> Writer<'_> {
    Writer { name, api_version: "apps/v1", subresource: "", now: now() }
}

fn config(rest: Value) -> Object {
    let mut object = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}});
    crate::patch::merge::apply(&mut object, rest).unwrap();
    Object::from_value(object).unwrap()
}

/// Applies and normalises, as the server does.
fn try_apply(live: Option<&Object>, by: &str, rest: Value, force: bool) -> Result<Object, ApiError> {
    let applied = apply(node(), live, &config(rest), &writer(by), &reset_fields(true, ""), force)?;
    let target = Target::new("apps", "v1", "Deployment");
    Ok(decode::check(applied.into_value(), &target, decode::FieldValidation::Strict)?.object)
}

fn applied(live: Option<&Object>, by: &str, rest: Value) -> Object {
    try_apply(live, by, rest, false).unwrap()
}

fn updated(live: &Object, by: &str, change: impl FnOnce(&mut Value)) -> Object {
    let mut new = live.clone();
    change(new.value_mut());
    managed_fields::update(node(), Some(live), &mut new, &writer(by));
    new
}

fn fields(object: &Object, manager: &str) -> Value {
    let entries = object.meta().managed_fields();
    let found = entries.iter().find(|entry| entry["manager"] == manager);
    found.map_or(Value::Null, |entry| entry["fieldsV1"].clone())
}

fn containers(containers: Value) -> Value {
    json!({"spec": {"template": {"spec": {"containers": containers}}}})
}

#[test]
fn a_first_apply_creates_and_owns_what_it_names() {
    let object = applied(None, "a", json!({"metadata": {"labels": {"x": "1"}}, "spec": {"replicas": 1}}));
    assert_eq!(object.value()["spec"], json!({"replicas": 1}));
    let entry = &object.meta().managed_fields()[0];
    assert_eq!(entry["operation"], "Apply");
    assert_eq!(
        entry["fieldsV1"],
        json!({"f:metadata": {"f:labels": {"f:x": {}}}, "f:spec": {"f:replicas": {}}})
    );
}

#[test]
fn a_conflict_names_manager_version_and_field() {
    let live = updated(
        &applied(None, "a", json!({"spec": {"replicas": 1}})),
        "kubectl-client-side-apply",
        |object| {
            object["spec"]["replicas"] = 2.into();
        },
    );
    assert_eq!(fields(&live, "a"), Value::Null);
    let error = try_apply(Some(&live), "a", json!({"spec": {"replicas": 3}}), false).unwrap_err();
    assert_eq!(
        error.message(),
        "Apply failed with 1 conflict: conflict with \"kubectl-client-side-apply\" using apps/v1: .spec.replicas"
    );
    let causes = &error.status().details.as_ref().unwrap().causes;
    assert_eq!(causes[0].reason, "FieldManagerConflict");
    assert_eq!(causes[0].field, ".spec.replicas");
    assert_eq!(causes[0].message, "conflict with \"kubectl-client-side-apply\" using apps/v1");
    let forced = try_apply(Some(&live), "a", json!({"spec": {"replicas": 3}}), true).unwrap();
    assert_eq!(forced.value()["spec"]["replicas"], 3);
    assert_eq!(fields(&forced, "kubectl-client-side-apply"), Value::Null);
}

#[test]
fn several_conflicts_are_listed_by_manager() {
    let live = applied(None, "b", json!({"spec": {"replicas": 1, "paused": true}}));
    let error =
        try_apply(Some(&live), "a", json!({"spec": {"replicas": 2, "paused": false}}), false).unwrap_err();
    assert_eq!(
        error.message(),
        "Apply failed with 2 conflicts: conflicts with \"b\":\n- .spec.paused\n- .spec.replicas"
    );
}

#[test]
fn equal_values_are_shared_and_outlive_one_owner() {
    let live = applied(None, "a", json!({"spec": {"replicas": 1}}));
    let shared = applied(Some(&live), "b", json!({"spec": {"replicas": 1}}));
    assert_eq!(fields(&shared, "a"), fields(&shared, "b"));
    let left = applied(Some(&shared), "a", json!({}));
    assert_eq!(left.value()["spec"]["replicas"], 1);
    assert_eq!(fields(&left, "a"), Value::Null);
    let gone = applied(Some(&left), "b", json!({}));
    assert_eq!(gone.get("spec.replicas"), None);
}

#[test]
fn what_is_no_longer_applied_goes() {
    let first = containers(json!([
        {"name": "a", "image": "1", "env": [{"name": "X", "value": "1"}, {"name": "Y", "value": "2"}]},
        {"name": "b", "image": "1"},
    ]));
    let live = applied(None, "a", first);
    let second = containers(json!([{"name": "a", "image": "1", "env": [{"name": "Y", "value": "2"}]}]));
    let pruned = applied(Some(&live), "a", second.clone());
    assert_eq!(pruned.value()["spec"], second["spec"]);
}

#[test]
fn what_others_added_stays() {
    let live = applied(None, "a", containers(json!([{"name": "a", "image": "1"}])));
    let live = updated(&live, "sidecar", |object| {
        let list = object["spec"]["template"]["spec"]["containers"].as_array_mut().unwrap();
        list.push(json!({"name": "proxy", "image": "p"}));
        list[0]["imagePullPolicy"] = "Always".into();
    });
    let next = applied(Some(&live), "a", containers(json!([{"name": "a", "image": "2"}])));
    let expected =
        json!([{"name": "a", "image": "2", "imagePullPolicy": "Always"}, {"name": "proxy", "image": "p"}]);
    assert_eq!(next.value()["spec"]["template"]["spec"]["containers"], expected);
    // An element goes with the manager that brought it, and with it what others put into it.
    let without = applied(Some(&next), "a", json!({"spec": {"paused": true}}));
    let left = &without.value()["spec"]["template"]["spec"]["containers"];
    assert_eq!(*left, json!([{"name": "proxy", "image": "p"}]));
    assert!(!fields(&without, "sidecar").to_string().contains("imagePullPolicy"));
}

#[test]
fn atomic_values_are_owned_as_one() {
    let live = applied(None, "a", json!({"spec": {"selector": {"matchLabels": {"x": "1"}}}}));
    assert_eq!(fields(&live, "a"), json!({"f:spec": {"f:selector": {}}}));
    let error =
        try_apply(Some(&live), "b", json!({"spec": {"selector": {"matchLabels": {"y": "1"}}}}), false);
    assert!(error.unwrap_err().message().ends_with(": .spec.selector"));
}

#[test]
fn composite_keys_tell_elements_apart() {
    let port = |protocol: &str| json!({"containerPort": 53, "protocol": protocol});
    let live = applied(None, "a", containers(json!([{"name": "d", "ports": [port("TCP"), port("UDP")]}])));
    let ports = live.value()["spec"]["template"]["spec"]["containers"][0]["ports"].as_array().unwrap().len();
    assert_eq!(ports, 2);
    // Without a protocol the default is meant.
    let same =
        applied(Some(&live), "b", containers(json!([{"name": "d", "ports": [{"containerPort": 53}]}])));
    let ports = same.value()["spec"]["template"]["spec"]["containers"][0]["ports"].as_array().unwrap().len();
    assert_eq!(ports, 2);
}

#[test]
fn an_object_from_before_tracking_has_an_owner_then() {
    let mut live = config(json!({"metadata": {"uid": "u"}, "spec": {"replicas": 1}}));
    live.meta_mut().remove("managedFields");
    let next = applied(Some(&live), "a", json!({"spec": {"paused": true}}));
    assert_eq!(fields(&next, "before-first-apply"), json!({"f:spec": {"f:replicas": {}}}));
}

#[test]
fn kubectl_takes_over_from_its_client_side_self() {
    let applied_before = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": {"replicas": 1}});
    let mut live = config(json!({"spec": {"replicas": 1, "paused": true}}));
    live.meta_mut().set_annotation(LAST_APPLIED, &applied_before.to_string());
    managed_fields::update(node(), None, &mut live, &writer("kubectl-client-side-apply"));
    let next = applied(Some(&live), "kubectl", json!({"spec": {"replicas": 5}}));
    assert_eq!(next.value()["spec"]["replicas"], 5);
    let noted: Value = serde_json::from_str(next.meta().annotation(LAST_APPLIED).unwrap()).unwrap();
    assert_eq!(noted["spec"]["replicas"], 5);
    // What it did not apply itself, and what others do, is still a conflict.
    let error = try_apply(Some(&live), "kubectl", json!({"spec": {"paused": false}}), false).unwrap_err();
    assert!(error.message().ends_with(".spec.paused"), "{error}");
    assert!(try_apply(Some(&live), "other", json!({"spec": {"replicas": 5}}), false).is_err());
}

#[test]
fn status_cannot_be_applied_through_the_main_resource() {
    let live = applied(None, "a", json!({"spec": {"replicas": 1}, "status": {"replicas": 3}}));
    assert_eq!(fields(&live, "a"), json!({"f:spec": {"f:replicas": {}}}));
}

#[test]
fn malformed_configurations() {
    let message = |rest: Value| try_apply(None, "a", rest, false).unwrap_err().message().to_owned();
    assert_eq!(message(json!({"metadata": {"managedFields": [{}]}})), "metadata.managedFields must be nil");
    let twice = containers(json!([{"name": "a"}, {"name": "a"}]));
    assert!(
        message(twice).ends_with(".spec.template.spec.containers: duplicate entries for key [name=\"a\"]")
    );
}

#[test]
fn applying_again_changes_nothing() {
    let rest =
        containers(json!([{"name": "a", "image": "1", "ports": [{"containerPort": 80, "protocol": "TCP"}]}]));
    let live = applied(None, "a", rest.clone());
    let later = Writer { now: now() + std::time::Duration::from_secs(60), ..writer("a") };
    let again = apply(node(), Some(&live), &config(rest), &later, &FieldSet::default(), false).unwrap();
    assert_eq!(again, live);
}

fn a_config() -> impl Strategy<Value = Value> {
    let env = prop::collection::btree_map("[A-C]", "[0-9]", 0..3);
    let containers = prop::collection::btree_map("[a-d]", (prop::option::of("[x-z]"), env), 0..4);
    let labels = prop::collection::btree_map("[a-c]", "[0-9]", 0..3);
    (containers, labels, prop::option::of(0..5_i64)).prop_map(|(containers, labels, replicas)| {
        let containers: Vec<_> = containers
            .into_iter()
            .map(|(name, (image, env))| {
                let env: Vec<_> =
                    env.into_iter().map(|(name, value)| json!({"name": name, "value": value})).collect();
                let mut container = json!({"name": name, "env": env});
                if let Some(image) = image {
                    container["image"] = image.into();
                }
                container
            })
            .collect();
        let mut spec = json!({"template": {"spec": {"containers": containers}}});
        if let Some(replicas) = replicas {
            spec["replicas"] = replicas.into();
        }
        json!({"metadata": {"labels": labels}, "spec": spec})
    })
}

proptest! {
    /// A single manager gets exactly what it last asked for, whatever came before.
    #[test]
    fn the_last_configuration_rules(first in a_config(), second in a_config()) {
        let direct = applied(None, "a", second.clone());
        let live = applied(None, "a", first);
        let then = applied(Some(&live), "a", second);
        let sorted = |object: &Object| {
            let containers = object.value()["spec"]["template"]["spec"]["containers"].as_array().cloned();
            let mut containers = containers.unwrap_or_default();
            containers.sort_by_key(|container| container["name"].to_string());
            for container in &mut containers {
                if let Some(env) = container["env"].as_array_mut() {
                    env.sort_by_key(|variable| variable["name"].to_string());
                }
            }
            (containers, object.get("metadata.labels").cloned(), object.get("spec.replicas").cloned())
        };
        prop_assert_eq!(sorted(&direct), sorted(&then));
    }

    /// Whatever a manager applies by force is there afterwards and owned by it.
    #[test]
    fn force_prevails(first in a_config(), second in a_config()) {
        let live = applied(None, "a", first);
        let forced = try_apply(Some(&live), "b", second.clone(), true).unwrap();
        let wanted = fields_of(node(), config(second.clone()).value());
        let mut there = fields_of(node(), forced.value());
        there.add(with_declared_parents(node(), &there));
        let empty_or_there = wanted.paths().into_iter().all(|path| {
            let path: Vec<Element> = path.into_iter().cloned().collect();
            let mut one = FieldSet::default();
            one.insert(&path);
            !there.intersection(&one).is_empty() || path.len() <= 2
        });
        prop_assert!(empty_or_there, "{} in {}", second, forced.value());
    }

    /// Two managers that agree never conflict.
    #[test]
    fn agreement_is_no_conflict(rest in a_config()) {
        let live = applied(None, "a", rest.clone());
        prop_assert!(try_apply(Some(&live), "b", rest, false).is_ok());
    }
}
