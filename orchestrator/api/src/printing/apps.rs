//! Rows of Deployments and ReplicaSets.

use super::{NONE, age, joined, label_selector, name, text_or};
use crate::kind::Column;
use crate::kinds::view::View;
use crate::object::Value;
use crate::time::Time;

/// The columns of `kubectl get deployments`.
pub(crate) fn deployment_columns() -> [Column; 8] {
    let [containers, images, selector] = template_columns();
    [
        Column::name(),
        Column::new("Ready", "string", "Pods that are ready, of those wanted."),
        Column::new("Up-to-date", "string", "Pods that run the current template."),
        Column::new("Available", "string", "Pods that have been ready for long enough."),
        Column::age(),
        containers,
        images,
        selector,
    ]
}

/// The columns of `kubectl get replicasets`.
pub(crate) fn replica_set_columns() -> [Column; 8] {
    let [containers, images, selector] = template_columns();
    [
        Column::name(),
        Column::new("Desired", "integer", "Pods wanted."),
        Column::new("Current", "integer", "Pods that exist."),
        Column::new("Ready", "integer", "Pods that are ready."),
        Column::age(),
        containers,
        images,
        selector,
    ]
}

fn template_columns() -> [Column; 3] {
    [
        Column::wide("Containers", "string", "Names of the template's containers."),
        Column::wide("Images", "string", "Images of the template's containers."),
        Column::wide("Selector", "string", "The labels by which its pods are found."),
    ]
}

/// Cells of a Deployment: name, ready, up-to-date, available, age; containers, images, selector.
pub(crate) fn deployment_row(object: &View<'_, '_>, now: Time) -> Vec<Value> {
    let (spec, status) = (object.get("spec"), object.get("status"));
    let ready = format!("{}/{}", count(&status, "readyReplicas"), count(&spec, "replicas"));
    let mut cells = vec![
        name(object),
        ready.into(),
        count(&status, "updatedReplicas").into(),
        count(&status, "availableReplicas").into(),
        age(object, now),
    ];
    cells.extend(template_cells(&spec));
    cells.push(label_selector(&spec.get("selector")).into());
    cells
}

/// Cells of a ReplicaSet: name, desired, current, ready, age; containers, images, selector.
pub(crate) fn replica_set_row(object: &View<'_, '_>, now: Time) -> Vec<Value> {
    let (spec, status) = (object.get("spec"), object.get("status"));
    let mut cells = vec![
        name(object),
        count(&spec, "replicas").into(),
        count(&status, "replicas").into(),
        count(&status, "readyReplicas").into(),
        age(object, now),
    ];
    cells.extend(template_cells(&spec));
    cells.push(text_or(&label_selector(&spec.get("selector")), NONE).into());
    cells
}

fn template_cells(spec: &View<'_, '_>) -> [Value; 2] {
    let template = spec.get("template");
    let pod = template.get("spec");
    let containers = pod.get("containers");
    [joined(&containers, "name").into(), joined(&containers, "image").into()]
}

fn count(parent: &View<'_, '_>, field: &str) -> i64 {
    parent.get(field).int().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::time;

    fn object() -> Value {
        json!({
            "metadata": {"name": "web", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {
                "replicas": 3, "selector": {"matchLabels": {"app": "web"}},
                "template": {"spec": {"containers": [
                    {"name": "web", "image": "echo:1"}, {"name": "log", "image": "log:2"}]}}
            },
            "status": {"replicas": 3, "readyReplicas": 2, "updatedReplicas": 1, "availableReplicas": 2}
        })
    }

    #[test]
    fn a_deployment_shows_ready_of_desired() {
        let now = time::parse("2026-01-01T03:00:00Z").unwrap();
        let cells = deployment_row(&View::root(&object()), now);
        assert_eq!(
            Value::from(cells),
            json!(["web", "2/3", 1, 2, "3h", "web,log", "echo:1,log:2", "app=web"])
        );
    }

    #[test]
    fn a_replica_set_shows_desired_current_ready() {
        let now = time::parse("2026-01-01T03:00:00Z").unwrap();
        let cells = replica_set_row(&View::root(&object()), now);
        assert_eq!(Value::from(cells), json!(["web", 3, 3, 2, "3h", "web,log", "echo:1,log:2", "app=web"]));
    }
}
