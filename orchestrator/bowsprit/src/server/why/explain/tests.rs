//! What is said of pods in all their states.

use super::*;
use serde_json::json;

const NOW: &str = "2026-11-22T12:01:00Z";

fn known() -> Known {
    Known { now: NOW.parse().expect("a time"), ..Known::default() }
}

fn pod(status: Value) -> Value {
    json!({
        "metadata": { "namespace": "n", "name": "p", "creationTimestamp": "2026-11-22T12:00:00Z" },
        "spec": {
            "nodeName": "node-1",
            "containers": [{ "name": "c", "readinessProbe": {}, "resources": { "limits": { "memory": "64Mi" } } }],
        },
        "status": status,
    })
}

fn event(reason: &str, message: &str, count: u32) -> Value {
    json!({
        "reason": reason, "message": message, "count": count, "lastTimestamp": "2026-11-22T12:00:50Z",
        "source": { "component": "bowsprit-agent", "host": "node-1" },
        "involvedObject": { "fieldPath": "spec.containers{c}" },
    })
}

#[track_caller]
fn says(pod: &Value, known: &Known, parts: &[&str]) {
    let text = explain(pod, known);
    for part in parts {
        assert!(text.contains(part), "`{part}` is not in:\n{text}");
    }
}

#[test]
fn a_pod_that_runs_is_a_timeline() {
    let timeline = json!({ "arrived": "2026-11-22T12:00:00.250Z", "stages": [
        { "stage": "sandbox", "at_ms": 80, "took_ms": 75 },
        { "stage": "started", "container": "c", "at_ms": 150, "took_ms": 60, "note": "localhost/x:1" },
    ] });
    let created = "2026-11-22T12:00:00.200Z".parse::<DateTime<Utc>>().unwrap().timestamp_millis();
    let mut pod = pod(json!({
        "phase": "Running",
        "conditions": [{ "type": TIMELINE, "message": timeline.to_string() }],
        "containerStatuses": [{ "name": "c", "ready": true, "restartCount": 0, "state": { "running": {} } }],
    }));
    pod["metadata"]["uid"] =
        format!("{:08x}-{:04x}-7000-8000-000000000000", created >> 16, created & 0xffff).into();
    assert_eq!(
        explain(&pod, &known()).lines().collect::<Vec<_>>(),
        [
            "pod n/p: Running, on node-1, 1 of 1 containers ready, created 59 s ago",
            "",
            "          AT       TOOK  BY         WHAT",
            "        0 ms             apiserver  admitted",
            "       50 ms      50 ms  scheduler  chose node-1, whose agent has seen it",
            "      130 ms      75 ms  agent      sandbox",
            "      200 ms      60 ms  agent      started (c): localhost/x:1",
        ]
    );
}

#[test]
fn stages_of_before_and_after_an_agents_restart_are_one_timeline() {
    let before = json!({ "arrived": "2026-11-22T12:00:00Z", "stages": [{ "stage": "sandbox", "at_ms": 80, "took_ms": 75 }] });
    let pod = pod(json!({ "conditions": [{ "type": TIMELINE, "message": before.to_string() }] }));
    let mut known = known();
    let failed = |at| json!({ "stage": "image", "container": "c", "at_ms": at, "took_ms": 1, "note": "no" });
    known.timeline = Some(json!({ "arrived": "2026-11-22T12:00:30Z", "stages": [failed(1), failed(20)] }));
    says(&pod, &known, &["80 ms", "30 s", "image (c): no (2 times, this was the last)"]);
}

#[test]
fn a_pod_without_a_node_says_why_for_each_group() {
    let mut pod = pod(json!({ "phase": "Pending", "conditions": [
        { "type": "PodScheduled", "status": "False", "reason": "Unschedulable",
          "message": "0/3 nodes are available: 2 Insufficient cpu, 1 node(s) were unschedulable." },
    ] }));
    pod["spec"]["nodeName"] = Value::Null;
    says(
        &pod,
        &known(),
        &[
            "Pending, on no node yet",
            "scheduler  still looks for a node",
            "no node takes it; 0/3 nodes are available:\n    2 Insufficient cpu\n    1 node(s) were unschedulable",
        ],
    );
}

#[test]
fn a_container_that_ends_says_how_and_what_it_said_last() {
    let ended = |code: u32, reason: &str| {
        pod(json!({ "phase": "Running", "containerStatuses": [{
            "name": "c", "ready": false, "restartCount": 2,
            "state": { "waiting": { "reason": "CrashLoopBackOff", "message": "back-off 10s" } },
            "lastState": { "terminated": {
                "exitCode": code, "reason": reason, "startedAt": "2026-11-22T12:00:40Z", "finishedAt": "2026-11-22T12:00:50Z",
            } },
        }] }))
    };
    let mut known = known();
    known.logs.insert("c".into(), "no such table\ngiving up".into());
    assert_eq!(failed_containers(&ended(3, "Error")), [("c".to_owned(), false)]);
    says(
        &ended(3, "Error"),
        &known,
        &[
            "pod n/p: CrashLoopBackOff, on node-1, 0 of 1 containers ready, 2 restarts",
            "container c waits (CrashLoopBackOff): back-off 10s",
            "container c ended its last run 10 s ago: exit code 3 by itself",
            "the end of its log:\n    no such table\n    giving up",
        ],
    );
    says(
        &ended(137, "OOMKilled"),
        &known,
        &[
            "the kernel killed it, because it needed more than its memory limit of 64Mi (OOMKilled, exit code 137)",
        ],
    );
    says(&ended(137, "Error"), &known, &["exit code 137, by SIGKILL from somebody who left no word"]);
    known.events = vec![
        event("Unhealthy", "Liveness probe failed: no heartbeat", 3),
        event("Killing", "Container c failed liveness probe, will be restarted", 1),
    ];
    says(
        &ended(137, "Error"),
        &known,
        &[
            "exit code 137, killed by the agent on node-1: Container c failed liveness probe, will be restarted",
        ],
    );
}

#[test]
fn a_probe_that_fails_is_quoted() {
    let pod = pod(json!({ "phase": "Running", "containerStatuses": [
        { "name": "c", "ready": false, "started": true, "state": { "running": {} } },
    ] }));
    says(&pod, &known(), &["container c runs but its readinessProbe has not succeeded yet"]);
    let events = vec![event("Unhealthy", "Readiness probe failed: status 503", 7)];
    says(
        &pod,
        &Known { events, ..known() },
        &[
            "container c runs but is not ready: Readiness probe failed: status 503 (failed 7 times, last 10 s ago)",
            "      10 s      7  agent      Unhealthy         Readiness probe failed: status 503",
        ],
    );
}

#[test]
fn what_keeps_a_pod_from_starting_is_the_nodes_last_word() {
    let pod = pod(json!({ "phase": "Pending", "containerStatuses": [
        { "name": "c", "ready": false, "state": { "waiting": { "reason": "ContainerCreating" } } },
    ] }));
    let events =
        vec![event("FailedMount", "MountVolume.SetUp failed for volume \"v\": configmap \"x\" not found", 4)];
    says(
        &pod,
        &Known { events, ..known() },
        &[
            "ContainerCreating, on node-1",
            "  MountVolume.SetUp failed for volume \"v\": configmap \"x\" not found",
        ],
    );
    says(&pod, &known(), &["agent      of node-1 has not told anything of it yet"]);
}

#[test]
fn a_pod_that_is_being_deleted_says_until_when() {
    let mut pod = pod(json!({ "phase": "Running" }));
    pod["metadata"]["deletionTimestamp"] = "2026-11-22T12:01:20Z".into();
    says(&pod, &known(), &["being deleted, killed in 20 s at the latest"]);
    pod["metadata"]["deletionTimestamp"] = "2026-11-22T12:00:20Z".into();
    says(&pod, &known(), &["being deleted, overdue by 40 s"]);
}

#[test]
fn names_of_one_deployment_are_alike() {
    assert!(same_set("web-7d9f-abc", "web-7d9f-xyz"));
    assert!(!same_set("web-7d9f-abc", "api-7d9f-abc") && !same_set("a", "b"));
}
