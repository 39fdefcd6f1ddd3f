//! Tests of strategic merge patches: directives, merge keys, orders.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::schema::Schema;

fn merged(kind: (&str, &str, &str), target: Value, patch: Value) -> Result<Value, String> {
    let node = Schema::builtin().node(kind.0, kind.1, kind.2).unwrap();
    let mut target = target;
    apply(&mut target, patch, node).map_err(|error| error.to_string())?;
    Ok(target)
}

const POD: (&str, &str, &str) = ("", "v1", "Pod");

fn check(target: Value, patch: Value, expected: Value) {
    assert_eq!(merged(POD, target, patch).unwrap(), expected);
}

fn pod(containers: Value) -> Value {
    json!({"spec": {"containers": containers}})
}

#[test]
fn containers_merge_by_name() {
    check(
        pod(
            json!([{"name": "a", "image": "1", "env": [{"name": "X", "value": "1"}]}, {"name": "b", "image": "1"}]),
        ),
        pod(json!([{"name": "b", "image": "2"}, {"name": "c", "image": "3"}])),
        pod(json!([
            {"name": "a", "image": "1", "env": [{"name": "X", "value": "1"}]},
            {"name": "b", "image": "2"},
            {"name": "c", "image": "3"},
        ])),
    );
    check(
        pod(json!([{"name": "a", "env": [{"name": "X", "value": "1"}, {"name": "Y", "value": "2"}]}])),
        pod(
            json!([{"name": "a", "env": [{"name": "X", "$patch": "delete"}, {"name": "Y", "value": null, "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}]}]),
        ),
        pod(
            json!([{"name": "a", "env": [{"name": "Y", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}]}]),
        ),
    );
}

#[test]
fn atomic_lists_are_replaced() {
    check(
        pod(json!([{"name": "a", "command": ["x", "y"]}])),
        pod(json!([{"name": "a", "command": ["z"]}])),
        pod(json!([{"name": "a", "command": ["z"]}])),
    );
    check(
        json!({"spec": {"tolerations": [{"key": "a"}]}}),
        json!({"spec": {"tolerations": [{"key": "b"}]}}),
        json!({"spec": {"tolerations": [{"key": "b"}]}}),
    );
}

#[test]
fn lists_of_plain_values_merge_as_sets() {
    let meta = |finalizers: Value| json!({"metadata": {"finalizers": finalizers}});
    check(meta(json!(["a", "b"])), meta(json!(["b", "c"])), meta(json!(["a", "b", "c"])));
    check(
        meta(json!(["a", "b", "c"])),
        json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["b"]}}),
        meta(json!(["a", "c"])),
    );
    check(
        meta(json!(["a", "b"])),
        json!({"metadata": {"$setElementOrder/finalizers": ["b", "a"]}}),
        meta(json!(["b", "a"])),
    );
}

#[test]
fn directives_replace_and_delete() {
    check(
        json!({"metadata": {"labels": {"a": "1", "b": "2"}}}),
        json!({"metadata": {"labels": {"$patch": "replace", "c": "3"}}}),
        json!({"metadata": {"labels": {"c": "3"}}}),
    );
    check(
        json!({"spec": {"securityContext": {"runAsUser": 1}}}),
        json!({"spec": {"securityContext": {"$patch": "delete"}}}),
        json!({"spec": {"securityContext": {}}}),
    );
    check(
        pod(json!([{"name": "a"}, {"name": "b"}])),
        pod(json!([{"$patch": "replace"}, {"name": "c"}])),
        pod(json!([{"name": "c"}])),
    );
    check(
        json!({}),
        json!({"metadata": {"labels": {"$patch": "delete"}, "name": "x"}}),
        json!({"metadata": {"name": "x"}}),
    );
    check(
        json!({"spec": {"a": 1, "nodeName": "x"}}),
        json!({"spec": {"nodeName": null}}),
        json!({"spec": {"a": 1}}),
    );
}

#[test]
fn retain_keys() {
    let volumes = |volumes: Value| json!({"spec": {"volumes": volumes}});
    check(
        volumes(json!([{"name": "v", "emptyDir": {}}])),
        volumes(json!([{"name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/x"}}])),
        volumes(json!([{"name": "v", "hostPath": {"path": "/x"}}])),
    );
    let bad = volumes(json!([{"name": "v", "$retainKeys": ["name"], "hostPath": {"path": "/x"}}]));
    let error = merged(POD, volumes(json!([{"name": "v"}])), bad).unwrap_err();
    assert_eq!(error, "invalid patch format of retainKeys");
}

#[test]
fn set_element_order() {
    check(
        pod(json!([{"name": "a"}, {"name": "b"}, {"name": "x"}])),
        json!({"spec": {
            "$setElementOrder/containers": [{"name": "b"}, {"name": "c"}, {"name": "a"}],
            "containers": [{"name": "c", "image": "3"}, {"name": "a", "image": "1"}],
        }}),
        pod(json!([{"name": "b"}, {"name": "c", "image": "3"}, {"name": "a", "image": "1"}, {"name": "x"}])),
    );
    let contradiction = json!({"spec": {
        "$setElementOrder/containers": [{"name": "a"}, {"name": "b"}],
        "containers": [{"name": "b"}, {"name": "a"}],
    }});
    assert!(merged(POD, pod(json!([])), contradiction).unwrap_err().starts_with("The order in patch list"));
}

#[test]
fn service_ports_merge_by_port() {
    let service = ("", "v1", "Service");
    let ports = |ports: Value| json!({"spec": {"ports": ports}});
    let merged = merged(
        service,
        ports(json!([{"port": 80, "nodePort": 30000, "protocol": "TCP"}, {"port": 443}])),
        ports(json!([{"port": 80, "targetPort": "http"}])),
    );
    assert_eq!(
        merged.unwrap(),
        ports(
            json!([{"port": 80, "nodePort": 30000, "protocol": "TCP", "targetPort": "http"}, {"port": 443}])
        )
    );
}

#[test]
fn malformed_patches() {
    let error = |target: Value, patch: Value| merged(POD, target, patch).unwrap_err();
    let containers = pod(json!([{"name": "a"}]));
    assert!(
        error(containers.clone(), pod(json!([{"image": "x"}])))
            .ends_with("does not contain declared merge key: name")
    );
    assert!(
        error(containers.clone(), pod(json!([{"$patch": "odd", "name": "a"}])))
            .starts_with("unknown patch type: odd")
    );
    assert!(error(containers.clone(), json!({"$patch": "odd"})).starts_with("unknown patch type"));
    assert!(error(containers.clone(), pod(json!([[]]))).starts_with("lists of lists"));
    assert_eq!(error(containers, json!([])), "invalid JSON document");
}

fn a_pod() -> impl Strategy<Value = Value> {
    let env = prop::collection::btree_map("[A-C]", "[0-9]", 0..3);
    let containers = prop::collection::btree_map("[a-d]", ("[x-z]", env), 0..4);
    let labels = prop::collection::btree_map("[a-c]", "[0-9]", 0..3);
    (containers, labels).prop_map(|(containers, labels)| {
        let containers: Vec<_> = containers
            .into_iter()
            .map(|(name, (image, env))| {
                let env: Vec<_> =
                    env.into_iter().map(|(name, value)| json!({"name": name, "value": value})).collect();
                json!({"name": name, "image": image, "env": env})
            })
            .collect();
        json!({"metadata": {"labels": labels}, "spec": {"containers": containers}})
    })
}

proptest! {
    #[test]
    fn an_object_merged_into_itself_is_itself(pod in a_pod()) {
        prop_assert_eq!(merged(POD, pod.clone(), pod.clone()).unwrap(), pod);
    }

    #[test]
    fn merging_twice_is_merging_once(pod in a_pod(), patch in a_pod()) {
        let once = merged(POD, pod, patch.clone()).unwrap();
        prop_assert_eq!(merged(POD, once.clone(), patch).unwrap(), once);
    }

    #[test]
    fn every_container_of_either_side_is_there(pod in a_pod(), patch in a_pod()) {
        let names = |pod: &Value| -> std::collections::BTreeSet<String> {
            pod["spec"]["containers"].as_array().unwrap().iter().map(|c| c["name"].to_string()).collect()
        };
        let expected: std::collections::BTreeSet<_> = names(&pod).union(&names(&patch)).cloned().collect();
        let both = merged(POD, pod, patch).unwrap();
        prop_assert_eq!(names(&both), expected);
    }
}
