//! What a create owns, straight in its JSON form: the same as the difference to nothing, without making sets first.
//! Creates are the writes that own most, and there is nobody else whose fields must be looked at.
use super::diff::{is_embedded, is_own_record};
use super::set::Element;
use super::typed::{Walk, element_of, field_element, is_hollow, walk};
use crate::object::{Map, Value};
use crate::schema::{Node, Shape};

/// Everything in `object`.
pub fn owned_by_creator(node: Node<'_>, object: &Value) -> Map {
    fields(Some(node), object, true).unwrap_or_default()
}

/// What is owned at and below a value; `None` if nothing is. `existed`: whether the value was there before, as embedded
/// objects are, so that it is not owned itself.
fn fields(node: Option<Node<'_>>, value: &Value, existed: bool) -> Option<Map> {
    let hollow = is_hollow(Some(value));
    let means_nothing = node.is_some_and(|node| matches!(node.shape(), Shape::Map(_) | Shape::List(_)));
    if hollow {
        return (!existed && !means_nothing).then(Map::new);
    }
    let mut below: Vec<(Element, Map)> = Vec::new();
    match (walk(node), value) {
        (Walk::Map(node), Value::Object(map)) => {
            below.reserve(map.len());
            for (name, value) in map {
                let child = node.child(name);
                if is_own_record(name, child.as_ref()) {
                    continue;
                }
                let embedded = existed && child.is_some_and(|child| is_embedded(&child));
                if let Some(owned) = fields(child, value, embedded) {
                    below.push((field_element(child.as_ref(), name), owned));
                }
            }
        }
        (Walk::List(node), Value::Array(list)) => {
            below.reserve(list.len());
            for item in list {
                if let (Some(element), Some(owned)) =
                    (element_of(node, item), fields(node.element(), item, false))
                {
                    below.push((element, owned));
                }
            }
        }
        _ => return Some(Map::new()),
    }
    below.sort_by(|(a, _), (b, _)| a.cmp(b));
    Some(join(below, existed)).filter(|map| !existed || !map.is_empty())
}

/// The entries as one object, a dot first if the object itself is owned. Elements that occur more than once are owned
/// as they are, without what is in them.
fn join(below: Vec<(Element, Map)>, existed: bool) -> Map {
    let mut out = Map::with_capacity(below.len() + 1);
    if !existed && !below.is_empty() {
        out.insert(".".to_owned(), Value::Object(Map::new()));
    }
    for (element, owned) in below {
        match out.entry(element.encode()) {
            serde_json::map::Entry::Vacant(entry) => {
                entry.insert(Value::Object(owned));
            }
            serde_json::map::Entry::Occupied(mut entry) => *entry.get_mut() = Value::Object(Map::new()),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::decode::{self, FieldValidation, Target};
    use crate::managed_fields::diff::Diff;
    use crate::schema::Schema;

    fn check(group: &str, kind: &str, object: Value) {
        let node = Schema::builtin().node(group, "v1", kind).unwrap();
        let direct = Value::Object(owned_by_creator(node, &object));
        let by_difference = Diff::between(node, &json!({}), &object).added.to_json();
        assert_eq!(direct.to_string(), by_difference.to_string(), "{object}");
    }

    #[test]
    fn equals_the_difference_to_nothing() {
        check("", "Pod", json!({}));
        check(
            "",
            "Pod",
            json!({"metadata": {"labels": {}, "managedFields": [{}], "finalizers": ["b", "a"]}, "spec": {}}),
        );
        check(
            "",
            "Pod",
            json!({"spec": {"securityContext": {}, "volumes": [{"name": "v", "emptyDir": {}}], "containers": [
            {"name": "b", "resources": {}, "command": ["x"], "ports": [
                {"containerPort": 80}, {"containerPort": 9, "protocol": "UDP"}, {"containerPort": 80, "name": "again"}]},
            {"name": "a", "resources": {"limits": {"cpu": "1"}}, "env": [], "livenessProbe": {"httpGet": {"port": 1}}}]}}),
        );
        check(
            "apps",
            "Deployment",
            json!({"spec": {"selector": {"matchLabels": {"a": "b"}}, "strategy": {"rollingUpdate": {}},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"nodeSelector": {"x": "y"}}}}, "status": {}}),
        );
        check(
            "",
            "Service",
            json!({"spec": {"ports": [{"port": 80}], "selector": {"a": "b"}}, "status": {"loadBalancer": {}}}),
        );
    }

    fn a_tree() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(json!({})),
            Just(json!([])),
            Just(json!("x")),
            Just(json!(1)),
            Just(json!(true))
        ];
        let names = prop::sample::select(vec![
            "metadata",
            "spec",
            "status",
            "labels",
            "containers",
            "ports",
            "name",
            "containerPort",
            "resources",
            "limits",
            "template",
            "env",
            "strategy",
            "type",
            "securityContext",
        ]);
        leaf.prop_recursive(6, 40, 4, move |inner| {
            prop_oneof![
                3 => prop::collection::btree_map(names.clone(), inner.clone(), 0..4)
                    .prop_map(|map| map.into_iter().map(|(name, value)| (name.to_owned(), value)).collect::<Map>().into()),
                1 => prop::collection::vec(inner, 0..3).prop_map(Value::Array),
            ]
        })
    }

    proptest! {
        #[test]
        fn always(tree in a_tree()) {
            for (group, kind) in [("apps", "Deployment"), ("", "Pod")] {
                let target = Target::new(group, "v1", kind);
                if let Ok(decoded) = decode::check(tree.clone(), &target, FieldValidation::Ignore) {
                    check(group, kind, decoded.object.into_value());
                }
            }
        }
    }
}
