//! Tables of plans.
use serde_json::json;

use super::*;

fn set(replicas: i64) -> ReplicaSet {
    serde_json::from_value(json!({
        "metadata": { "name": "web", "namespace": "n", "uid": "web" },
        "spec": {
            "replicas": replicas, "minReadySeconds": 10, "selector": { "matchLabels": { "app": "web" } },
            "template": { "metadata": { "labels": { "app": "web", "v": "1" } }, "spec": {} },
        },
    }))
    .unwrap()
}

fn at(seconds: i64) -> String {
    client::objects::rfc3339(DateTime::from_timestamp(seconds, 0).unwrap())
}

/// A pod from words: "name@node running ready:100 owned restarts:3 cost:-1 created:50 deleting failed other".
fn pod(words: &str) -> Arc<Pod> {
    let mut words = words.split(' ');
    let name = words.next().unwrap();
    let (name, node) = name.split_once('@').unwrap_or((name, ""));
    let mut pod = json!({
        "metadata": { "name": name, "uid": name, "namespace": "n", "labels": { "app": "web" }, "creationTimestamp": at(0) },
        "spec": { "nodeName": node }, "status": { "phase": "Pending" },
    });
    for word in words {
        let (word, value) = word.split_once(':').unwrap_or((word, "0"));
        let number: i64 = value.parse().unwrap();
        let meta = &mut pod["metadata"];
        match word {
            "running" => pod["status"]["phase"] = "Running".into(),
            "failed" => pod["status"]["phase"] = "Failed".into(),
            "ready" => {
                let ready = json!({ "type": "Ready", "status": "True", "lastTransitionTime": at(number) });
                pod["status"] = json!({ "phase": "Running", "conditions": [ready] });
            }
            "owned" => meta["ownerReferences"] = json!([{ "uid": "web", "controller": true }]),
            "other" => meta["ownerReferences"] = json!([{ "uid": "x", "controller": true }]),
            "labeled" => meta["labels"] = json!({ "app": "web", "v": "1" }),
            "stray" => meta["labels"] = json!({ "app": "db" }),
            "deleting" => meta["deletionTimestamp"] = at(1).into(),
            "created" => meta["creationTimestamp"] = at(number).into(),
            "cost" => meta["annotations"] = json!({ DELETION_COST: value }),
            "restarts" => pod["status"]["containerStatuses"] = json!([{ "restartCount": number }]),
            other => panic!("unknown word {other}"),
        }
    }
    Arc::new(serde_json::from_value::<Pod>(pod).unwrap())
}

/// Plans at second 1000 and says what is to be done.
fn check(replicas: i64, pods: &[&str], expected: &str) {
    let pods: Vec<_> = pods.iter().map(|words| pod(words)).collect();
    let plan = plan_for(&set(replicas), &pods, &[]);
    assert_eq!(say(&plan), expected);
}

fn plan_for(set: &ReplicaSet, pods: &[Arc<Pod>], deleted: &[&str]) -> Plan {
    let store = Store::of(pods.iter().map(|pod| Pod::clone(pod)).collect());
    let deleted = deleted.iter().map(|uid| Box::from(*uid)).collect();
    plan(set, pods, &deleted, &store, DateTime::from_timestamp(1000, 0).unwrap())
}

fn say(plan: &Plan) -> String {
    let names = |pods: &[Arc<Pod>]| pods.iter().map(|pod| &*pod.metadata.name).collect::<Vec<_>>().join(",");
    let mut said = Vec::new();
    for (verb, pods) in [("adopt", &plan.adopt), ("release", &plan.release), ("delete", &plan.delete)] {
        if !pods.is_empty() {
            said.push(format!("{verb} {}", names(pods)));
        }
    }
    if plan.create > 0 {
        said.push(format!("create {}", plan.create));
    }
    said.join("; ")
}

#[test]
fn counts_what_is_its_own() {
    check(3, &[], "create 3");
    check(2, &["a owned", "b owned"], "");
    check(2, &["a owned deleting", "b owned failed"], "create 2");
    check(2, &["a", "b other", "c owned stray"], "adopt a; release c; create 1");
    check(0, &["a owned", "b deleting"], "delete a");
}

#[test]
fn a_deletion_that_is_not_seen_yet_is_not_repeated() {
    let pods = [pod("a owned"), pod("b owned")];
    assert_eq!(say(&plan_for(&set(1), &pods, &["a"])), "");
    assert_eq!(say(&plan_for(&set(2), &pods, &["a"])), "create 1");
}

#[test]
fn a_set_that_goes_leaves_its_pods_to_the_garbage_collector() {
    let mut set = set(3);
    set.metadata.deletion_timestamp = Some(DateTime::UNIX_EPOCH);
    assert_eq!(say(&plan_for(&set, &[pod("a owned"), pod("b"), pod("c owned stray")], &[])), "");
}

#[test]
fn the_most_dispensable_goes_first() {
    let first = |a: &str, b: &str| {
        for pods in [[a, b], [b, a]] {
            let pods: Vec<_> = pods.iter().map(|words| pod(&format!("{words} owned"))).collect();
            let name = a.split(['@', ' ']).next().unwrap();
            assert_eq!(say(&plan_for(&set(1), &pods, &[])), format!("delete {name}"), "{a} before {b}");
        }
    };
    first("z", "a@n");
    first("z@n", "a@n running");
    first("z@n running", "a@n ready:5");
    first("z@n ready:5 cost:-1", "a@n ready:5");
    first("z@n ready:9", "a@n ready:5");
    first("z@n ready:5 restarts:3", "a@n ready:5");
    first("z@n ready:5 created:9", "a@n ready:5 created:5");
    first("a@n ready:5", "z@n ready:5");
    let pods: Vec<_> = ["a@one ready:1", "b@two ready:900", "c@one ready:1"]
        .map(|words| pod(&format!("{words} owned")))
        .into();
    assert_eq!(say(&plan_for(&set(2), &pods, &[])), "delete a", "the crowded node counts more than age");
}

#[test]
fn status_counts_ready_and_available_pods() {
    let pods =
        ["a owned ready:100 labeled", "b owned ready:995", "c owned running", "d owned failed"].map(pod);
    let plan = plan_for(&set(3), &pods, &[]);
    let ReplicaSetStatus { replicas, fully_labeled_replicas, ready_replicas, available_replicas, .. } =
        plan.status;
    assert_eq!((replicas, fully_labeled_replicas, ready_replicas, available_replicas), (3, 1, 2, 1));
    assert_eq!(plan.look_again, Some(Duration::from_secs(5)));
}
