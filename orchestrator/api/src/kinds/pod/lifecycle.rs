//! A pod from its first to its last write: initial status, quality of service, binding, graceful deletion.

use std::collections::BTreeMap;

use serde_json::json;

use crate::object::{Json, Object, Value};
use crate::quantity::Quantity;
use crate::time::{self, Time};

/// A deletion with a negative period is one in a hurry, not one by force.
const HURRY_SECONDS: i64 = 1;
const QOS_RESOURCES: [&str; 2] = ["cpu", "memory"];

/// The status of a new pod.
pub(crate) fn initial_status(pod: &Object) -> Value {
    let mut status = json!({"phase": "Pending"});
    if !pod.list_at("spec.schedulingGates").is_empty() {
        status["conditions"] = json!([{
            "type": "PodScheduled",
            "status": "False",
            "reason": "SchedulingGated",
            "message": "Scheduling is blocked due to non-empty scheduling gates"
        }]);
    }
    status
}

/// `Guaranteed`, `Burstable` or `BestEffort`, by the CPU and memory of all containers.
pub fn qos_class(pod: &impl Json) -> &'static str {
    let mut requests = BTreeMap::new();
    let mut limits = BTreeMap::new();
    let mut all_limited = true;
    for list in ["spec.initContainers", "spec.containers"] {
        for container in pod.list_at(list) {
            add_up(&mut requests, container, "resources.requests");
            let limited = add_up(&mut limits, container, "resources.limits");
            all_limited &= limited == QOS_RESOURCES.len();
        }
    }
    match () {
        () if requests.is_empty() && limits.is_empty() => "BestEffort",
        () if all_limited && requests == limits => "Guaranteed",
        () => "Burstable",
    }
}

/// Adds one container's list to the sums; tells how many of the two resources it has.
fn add_up(sums: &mut BTreeMap<&'static str, Quantity>, container: &Value, list: &str) -> usize {
    let Some(list) = container.map_at(list) else { return 0 };
    let mut found = 0;
    for resource in QOS_RESOURCES {
        let quantity = list.get(resource).and_then(|value| Quantity::from_json(value).ok());
        let Some(quantity) = quantity.filter(|quantity| !quantity.is_zero() && !quantity.is_negative())
        else {
            continue;
        };
        let sum = sums.entry(resource).or_insert(Quantity::ZERO);
        *sum = *sum + quantity;
        found += 1;
    }
    found
}

/// The seconds a pod gets to end: none when no agent knows it or when it has ended by itself.
pub(crate) fn grace_seconds(pod: &Object, requested: Option<i64>) -> i64 {
    let unscheduled = pod.text("spec.nodeName").is_empty();
    let ended = matches!(pod.text("status.phase"), "Succeeded" | "Failed");
    if unscheduled || ended {
        return 0;
    }
    match requested.or(pod.i64_at("spec.terminationGracePeriodSeconds")).unwrap_or(0) {
        negative if negative < 0 => HURRY_SECONDS,
        seconds => seconds,
    }
}

/// Why a binding is refused; the API server answers with a conflict.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BindError {
    /// The pod is on its way out.
    #[error("pod {pod} is being deleted, cannot be assigned to a host")]
    Deleted {
        /// The pod.
        pod: String,
    },
    /// Another binding came first.
    #[error("pod {pod} is already assigned to node \"{node}\"")]
    Assigned {
        /// The pod.
        pod: String,
        /// The node it was assigned to.
        node: String,
    },
    /// Somebody still holds the pod back.
    #[error("pod {pod} has non-empty .spec.schedulingGates")]
    Gated {
        /// The pod.
        pod: String,
    },
}

/// Assigns a pod to the node that a Binding names.
pub fn bind(pod: &mut Object, binding: &Object, now: Time) -> Result<(), BindError> {
    let name = pod.meta().name().to_owned();
    if pod.meta().deletion_timestamp().is_some() {
        return Err(BindError::Deleted { pod: name });
    }
    let node = pod.text("spec.nodeName").to_owned();
    if !node.is_empty() {
        return Err(BindError::Assigned { pod: name, node });
    }
    if !pod.list_at("spec.schedulingGates").is_empty() {
        return Err(BindError::Gated { pod: name });
    }
    pod.set("spec.nodeName", binding.text("target.name"));
    for (key, value) in binding.meta().annotations() {
        pod.meta_mut().set_annotation(key, value);
    }
    set_condition(pod, "PodScheduled", "True", now);
    Ok(())
}

/// Sets a condition; its transition time moves only when its status does.
fn set_condition(pod: &mut Object, kind: &str, status: &str, now: Time) {
    let mut conditions = pod.list_at("status.conditions").to_vec();
    let old = conditions.iter().position(|condition| condition.text("type") == kind);
    if old.is_some_and(|old| conditions[old].text("status") == status) {
        return;
    }
    let condition = json!({
        "type": kind, "status": status, "lastProbeTime": null, "lastTransitionTime": time::format(now)
    });
    match old {
        Some(old) => conditions[old] = condition,
        None => conditions.push(condition),
    }
    pod.set("status.conditions", conditions);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(value: Value) -> Object {
        Object::from_value(value).unwrap()
    }

    #[test]
    fn qos_classes() {
        let with = |resources: Value| json!({"spec": {"containers": [{ "resources": resources }]}});
        let cases = [
            (with(json!({})), "BestEffort", "nothing said"),
            (with(json!({"requests": {"cpu": "1"}})), "Burstable", "a request"),
            (
                with(json!({"limits": {"cpu": "1"}, "requests": {"cpu": "1"}})),
                "Burstable",
                "memory is not limited",
            ),
            (
                with(
                    json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1000m", "memory": "1024Mi"}}),
                ),
                "Guaranteed",
                "all asked for and no more",
            ),
            (
                with(
                    json!({"limits": {"cpu": "2", "memory": "1Gi"}, "requests": {"cpu": "1", "memory": "1Gi"}}),
                ),
                "Burstable",
                "may use more than it asked for",
            ),
            (
                with(json!({"limits": {"example.com/gpu": "1"}, "requests": {"example.com/gpu": "1"}})),
                "BestEffort",
                "devices do not count",
            ),
        ];
        for (pod, expected, why) in cases {
            assert_eq!(qos_class(&pod), expected, "{why}");
        }
    }

    #[test]
    fn grace_periods() {
        let running = pod(
            json!({"spec": {"nodeName": "n", "terminationGracePeriodSeconds": 30}, "status": {"phase": "Running"}}),
        );
        assert_eq!(grace_seconds(&running, None), 30);
        assert_eq!(grace_seconds(&running, Some(5)), 5);
        assert_eq!(grace_seconds(&running, Some(0)), 0);
        assert_eq!(grace_seconds(&running, Some(-3)), 1);
        let pending = pod(json!({"spec": {"terminationGracePeriodSeconds": 30}}));
        assert_eq!(grace_seconds(&pending, None), 0, "no agent has to end it");
        let ended = pod(
            json!({"spec": {"nodeName": "n", "terminationGracePeriodSeconds": 30}, "status": {"phase": "Failed"}}),
        );
        assert_eq!(grace_seconds(&ended, Some(20)), 0, "nothing left to end");
    }

    #[test]
    fn bindings() {
        let now = time::parse("2026-01-01T00:00:00Z").unwrap();
        let binding = pod(
            json!({"metadata": {"name": "a", "annotations": {"x": "y"}}, "target": {"kind": "Node", "name": "node-1"}}),
        );
        let mut bound = pod(json!({"metadata": {"name": "a"}, "spec": {}}));
        bind(&mut bound, &binding, now).unwrap();
        assert_eq!(bound.text("spec.nodeName"), "node-1");
        assert_eq!(bound.meta().annotation("x"), Some("y"));
        assert_eq!(bound.list_at("status.conditions")[0].text("lastTransitionTime"), "2026-01-01T00:00:00Z");
        let again = bind(&mut bound, &binding, now).unwrap_err();
        assert_eq!(again.to_string(), "pod a is already assigned to node \"node-1\"");
        let mut gated =
            pod(json!({"metadata": {"name": "a"}, "spec": {"schedulingGates": [{"name": "x/y"}]}}));
        assert!(matches!(bind(&mut gated, &binding, now), Err(BindError::Gated { .. })));
    }

    #[test]
    fn a_gated_pod_says_so_from_the_start() {
        let gated = pod(json!({"spec": {"schedulingGates": [{"name": "x/y"}]}}));
        assert_eq!(initial_status(&gated)["conditions"][0]["reason"], "SchedulingGated");
    }
}
