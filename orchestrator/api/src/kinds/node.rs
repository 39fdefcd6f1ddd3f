//! Nodes: taints, the addresses of their pods, and what an update may not take back.

use std::collections::BTreeSet;

use super::checks::{self, named, required_name, required_one_of};
use super::view::View;
use crate::field::ErrorList;
use crate::kind::{Kind, SelectableField};
use crate::names;
use crate::object::{Json, Object, Value};
use crate::printing::cluster;
use crate::quantity::Quantity;
use crate::strategy::{Cell, Strategy};
use crate::time::Time;

/// What a taint does, in the order of Kubernetes' messages.
pub(crate) const TAINT_EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
/// One for each address family.
const POD_CIDRS_MAX: usize = 2;

struct Nodes;

/// `v1 Node`.
pub(crate) fn kind() -> Kind {
    Kind::new("", "v1", "Node", "nodes")
        .cluster_scoped()
        .short_names(&["no"])
        .subresource("proxy", ("", "v1", "NodeProxyOptions"), &["get"])
        .status()
        .columns(cluster::node_columns())
        .selectable([SelectableField::with_default("spec.unschedulable", "false")])
        .strategy(Nodes)
}

impl Strategy for Nodes {
    fn default(&self, object: &mut Object) {
        pod_cidrs(object);
        if let (None, Some(capacity)) = (object.get("status.allocatable"), object.get("status.capacity")) {
            let capacity = capacity.clone();
            object.set("status.allocatable", capacity);
        }
    }

    fn validate(&self, object: &Object) -> ErrorList {
        let mut errors = ErrorList::new();
        let root = View::root(object.value());
        let spec = root.get("spec");
        taints(&mut errors, &spec.get("taints"));
        let cidrs = spec.get("podCIDRs");
        for cidr in cidrs.items() {
            named(&mut errors, &cidr, names::cidr);
        }
        if cidrs.len() > POD_CIDRS_MAX {
            errors.invalid(
                cidrs.path(),
                cidrs.copy(),
                "may specify no more than one CIDR for each IP family",
            );
        }
        errors
    }

    fn validate_update(&self, new: &Object, old: &Object) -> ErrorList {
        let mut errors = self.validate(new);
        let (new, old) = (View::root(new.value()), View::root(old.value()));
        let (spec, before) = (new.get("spec"), old.get("spec"));
        set_once(&mut errors, &spec, &before, "podCIDRs", "podCIDR");
        set_once(&mut errors, &spec, &before, "providerID", "providerID");
        errors
    }

    fn validate_status_update(&self, new: &Object, _old: &Object) -> ErrorList {
        let mut errors = ErrorList::new();
        let root = View::root(new.value());
        let status = root.get("status");
        let mut seen = BTreeSet::new();
        for address in status.get("addresses").items() {
            if !seen.insert((address.get("type").text(), address.get("address").text())) {
                errors.duplicate(address.path(), address.copy());
            }
        }
        for list in ["capacity", "allocatable"] {
            for (_, quantity) in status.get(list).entries() {
                resource_quantity(&mut errors, &quantity);
            }
        }
        errors
    }

    fn table_row(&self, object: &Object, now: Time) -> Vec<Cell> {
        cluster::node_row(&View::root(object.value()), now)
    }
}

/// The singular field and the first of the plural are one.
fn pod_cidrs(object: &mut Object) {
    let one = object.text("spec.podCIDR").to_owned();
    let first = object.list_at("spec.podCIDRs").first().and_then(Value::as_str).map(str::to_owned);
    match first {
        None if !one.is_empty() => object.set("spec.podCIDRs", vec![one]),
        Some(first) if first != one => object.set("spec.podCIDR", first),
        _ => {}
    }
}

fn resource_quantity(errors: &mut ErrorList, view: &View<'_, '_>) {
    match view.raw().map(Quantity::from_json) {
        Some(Ok(quantity)) if quantity.is_negative() => {
            errors.invalid(view.path(), quantity.to_string(), checks::NOT_NEGATIVE);
        }
        Some(Err(error)) => errors.invalid(view.path(), view.copy(), error.to_string()),
        _ => {}
    }
}

fn set_once(errors: &mut ErrorList, spec: &View<'_, '_>, before: &View<'_, '_>, field: &str, named: &str) {
    let (new, old) = (spec.get(field), before.get(field));
    if !old.is_empty() && new.raw() != old.raw() {
        errors
            .forbidden(new.path(), format!("node updates may not change {named} except from \"\" to valid"));
    }
}

fn taints(errors: &mut ErrorList, taints: &View<'_, '_>) {
    let mut seen = BTreeSet::new();
    for taint in taints.items() {
        let (key, value, effect) = (taint.get("key"), taint.get("value"), taint.get("effect"));
        required_name(errors, &key, names::qualified_name);
        errors.invalid_each(value.path(), value.text(), names::label_value(value.text()));
        required_one_of(errors, &effect, &TAINT_EFFECTS);
        if !seen.insert((key.text(), effect.text())) {
            errors.duplicate(taint.path(), taint.copy());
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::kinds::tests::defaulted;

    fn object(value: Value) -> Object {
        Object::from_value(value).unwrap()
    }

    #[test]
    fn defaults() {
        let node = object(
            json!({"spec": {"podCIDR": "10.244.1.0/24"}, "status": {"capacity": {"cpu": 2, "memory": "2048Mi"}}}),
        );
        let node = defaulted(&kind(), node.into_value());
        assert_eq!(
            node.value(),
            &json!({
                "apiVersion": "v1", "kind": "Node",
                "spec": {"podCIDR": "10.244.1.0/24", "podCIDRs": ["10.244.1.0/24"]},
                "status": {"capacity": {"cpu": "2", "memory": "2Gi"}, "allocatable": {"cpu": "2", "memory": "2Gi"}}
            })
        );
    }

    #[test]
    fn taints_are_checked() {
        let node = object(json!({"spec": {"taints": [
            {"key": "a", "effect": "NoSchedule"}, {"key": "a", "effect": "NoSchedule"}, {"key": "", "effect": "Never"}]}}));
        let printed: Vec<String> = Nodes.validate(&node).iter().map(ToString::to_string).collect();
        assert_eq!(
            printed,
            [
                "spec.taints[1]: Duplicate value: {\"key\":\"a\",\"effect\":\"NoSchedule\"}",
                "spec.taints[2].key: Required value",
                "spec.taints[2].effect: Unsupported value: \"Never\": supported values: \"NoSchedule\", \"PreferNoSchedule\", \"NoExecute\"",
            ]
        );
    }

    #[test]
    fn what_is_set_once_stays() {
        let old = object(json!({"spec": {"podCIDRs": ["10.244.1.0/24"]}}));
        let new = object(json!({"spec": {"podCIDRs": ["10.244.2.0/24"], "providerID": "x://1"}}));
        assert_eq!(
            Nodes.validate_update(&new, &old).to_string(),
            "spec.podCIDRs: Forbidden: node updates may not change podCIDR except from \"\" to valid"
        );
    }
}
