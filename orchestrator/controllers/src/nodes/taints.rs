//! Which taints follow from a node's conditions: pure.
use chrono::{DateTime, Utc};

use crate::objects::{Node, Taint, condition};

const NO_SCHEDULE: &str = "NoSchedule";
const NO_EXECUTE: &str = "NoExecute";
/// The node says that it is not ready.
pub const NOT_READY: &str = "node.kubernetes.io/not-ready";
/// The node says nothing.
pub const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
/// Conditions that keep pods away when they are true.
const PRESSURES: [(&str, &str); 4] = [
    ("MemoryPressure", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "node.kubernetes.io/network-unavailable"),
];

/// The node's taints as they should be; `None` if they are.
pub fn wanted(node: &Node, now: DateTime<Utc>) -> Option<Vec<Taint>> {
    let wanted = managed(node);
    let is = |taint: &Taint, key: &str, effect: &str| &*taint.key == key && &*taint.effect == effect;
    let keep =
        |taint: &&Taint| !is_managed(taint) || wanted.iter().any(|(key, effect)| is(taint, key, effect));
    let mut taints: Vec<Taint> = node.spec.taints.iter().filter(keep).cloned().collect();
    let removed = taints.len() < node.spec.taints.len();
    let mut added = false;
    for (key, effect) in wanted {
        if !taints.iter().any(|taint| is(taint, key, effect)) {
            added = true;
            let now = DateTime::from_timestamp(now.timestamp(), 0).unwrap_or(now);
            taints.push(Taint {
                key: key.into(),
                effect: effect.into(),
                value: "".into(),
                time_added: Some(now),
            });
        }
    }
    (removed || added).then_some(taints)
}

/// Key and effect of each taint that the node's state asks for.
fn managed(node: &Node) -> Vec<(&'static str, &'static str)> {
    let status = |r#type: &str| condition(&node.status.conditions, r#type).map(|own| &*own.status);
    let mut wanted = match status("Ready") {
        Some("True") => Vec::new(),
        Some("False") => vec![(NOT_READY, NO_SCHEDULE), (NOT_READY, NO_EXECUTE)],
        Some(_) => vec![(UNREACHABLE, NO_SCHEDULE), (UNREACHABLE, NO_EXECUTE)],
        // A node that has just registered: nothing may come, but nothing has to go.
        None => vec![(NOT_READY, NO_SCHEDULE)],
    };
    for (r#type, key) in PRESSURES {
        if status(r#type) == Some("True") {
            wanted.push((key, NO_SCHEDULE));
        }
    }
    if node.spec.unschedulable {
        wanted.push((UNSCHEDULABLE, NO_SCHEDULE));
    }
    wanted
}

/// Whether the taint is this controller's to set and remove.
fn is_managed(taint: &Taint) -> bool {
    let keys = PRESSURES.iter().map(|(_, key)| *key).chain([NOT_READY, UNREACHABLE, UNSCHEDULABLE]);
    keys.into_iter().any(|key| key == &*taint.key) && matches!(&*taint.effect, NO_SCHEDULE | NO_EXECUTE)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn check(spec: Value, conditions: &[(&str, &str)], expected: Option<&str>) {
        let conditions: Vec<_> =
            conditions.iter().map(|(r#type, status)| json!({ "type": r#type, "status": status })).collect();
        let node =
            json!({ "metadata": { "name": "n" }, "spec": spec, "status": { "conditions": conditions } });
        let node: Node = serde_json::from_value(node).unwrap();
        let said = wanted(&node, DateTime::UNIX_EPOCH).map(|taints| {
            let short = |taint: &Taint| {
                format!("{}:{}", taint.key.trim_start_matches("node.kubernetes.io/"), taint.effect)
            };
            taints.iter().map(short).collect::<Vec<_>>().join(" ")
        });
        assert_eq!(said.as_deref(), expected);
    }

    #[test]
    fn follow_from_conditions() {
        check(json!({}), &[("Ready", "True")], None);
        check(json!({}), &[("Ready", "False")], Some("not-ready:NoSchedule not-ready:NoExecute"));
        check(json!({}), &[("Ready", "Unknown")], Some("unreachable:NoSchedule unreachable:NoExecute"));
        check(json!({}), &[], Some("not-ready:NoSchedule"));
        check(json!({}), &[("Ready", "True"), ("DiskPressure", "True")], Some("disk-pressure:NoSchedule"));
        check(json!({ "unschedulable": true }), &[("Ready", "True")], Some("unschedulable:NoSchedule"));
    }

    #[test]
    fn what_is_right_or_not_ours_stays() {
        let taints = json!({ "taints": [
            { "key": "gpu", "effect": "NoSchedule" },
            { "key": UNREACHABLE, "effect": "NoExecute", "timeAdded": "2026-01-01T00:00:00Z" },
            { "key": UNREACHABLE, "effect": "NoSchedule" },
        ] });
        check(taints.clone(), &[("Ready", "Unknown")], None);
        check(taints, &[("Ready", "True")], Some("gpu:NoSchedule"));
    }
}
