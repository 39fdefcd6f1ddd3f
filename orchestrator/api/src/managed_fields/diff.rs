//! What differs between two objects, field by field, as sets: added, modified, removed.
use std::collections::BTreeMap;

use super::set::{Element, Entry, FieldSet};
use super::typed::{Walk, element_of, is_hollow, walk};
use crate::object::{Map, Value};
use crate::schema::{Field, Node, Shape};

/// The difference between two objects. No field is in two of the first three sets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diff {
    /// What only the new object has.
    pub added: FieldSet,
    /// What both have, with different values.
    pub modified: FieldSet,
    /// What only the old object had.
    pub removed: FieldSet,
    /// Of what was added, the objects and lists that were made to hold it: about their being there nobody can disagree.
    pub opened: FieldSet,
}

impl Diff {
    /// Compares two objects of one kind.
    pub fn between(node: Node<'_>, old: &Value, new: &Value) -> Self {
        let Part { added, modified, removed, opened } = compare(Some(node), Some(old), Some(new));
        Self { added: added.below, modified: modified.below, removed: removed.below, opened: opened.below }
    }

    /// Whether the objects are equal.
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.modified.is_empty() && self.removed.is_empty()
    }

    /// What was added or modified.
    pub fn changed(&self) -> FieldSet {
        let mut changed = self.added.clone();
        changed.add(self.modified.clone());
        changed
    }
}

/// The difference at one place and below.
#[derive(Default)]
struct Part {
    added: Entry,
    modified: Entry,
    removed: Entry,
    opened: Entry,
}

impl Part {
    fn put(&mut self, element: &Element, part: Part) {
        for (own, part) in [
            (&mut self.added, part.added),
            (&mut self.modified, part.modified),
            (&mut self.removed, part.removed),
            (&mut self.opened, part.opened),
        ] {
            if !part.is_empty() {
                own.below.put(element.clone(), part);
            }
        }
    }

    fn mark(&mut self, old: Option<&Value>, new: Option<&Value>) {
        match (old, new) {
            (None, _) => self.added.member = true,
            (_, None) => self.removed.member = true,
            (Some(old), Some(new)) => self.modified.member = old != new,
        }
    }
}

fn compare(node: Option<Node<'_>>, old: Option<&Value>, new: Option<&Value>) -> Part {
    let mut part = Part::default();
    // Most of an object does not change with a write.
    if old == new {
        return part;
    }
    let hollow = is_hollow(old) && is_hollow(new);
    if hollow && node.is_some_and(|node| matches!(node.shape(), Shape::Map(_) | Shape::List(_))) {
        // An empty list or map means as much as none.
        return part;
    }
    let walk = if hollow { Walk::Leaf } else { walk(node) };
    match walk {
        Walk::Leaf => {
            part.mark(old, new);
            return part;
        }
        Walk::Map(node) => {
            compare_maps(node, old.and_then(Value::as_object), new.and_then(Value::as_object), &mut part);
        }
        Walk::List(node) => {
            compare_lists(node, elements(old), elements(new), &mut part);
        }
    }
    part.added.member |= old.is_none();
    part.opened.member |= old.is_none();
    part.removed.member |= new.is_none();
    part
}

fn elements(value: Option<&Value>) -> &[Value] {
    value.and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn compare_maps(node: Node<'_>, old: Option<&Map>, new: Option<&Map>, part: &mut Part) {
    static EMPTY: std::sync::LazyLock<Value> = std::sync::LazyLock::new(|| Value::Object(Map::new()));
    let gone = old.into_iter().flatten().filter(|(name, _)| new.is_none_or(|new| !new.contains_key(*name)));
    let names = new.into_iter().flatten().chain(gone).map(|(name, _)| name);
    for name in names {
        let child = node.child(name);
        // An embedded object is always there, if only without fields: it is not added or removed as such.
        let embedded = child.is_some_and(|child| is_embedded(&child));
        let old_value = old.and_then(|old| old.get(name)).or((embedded && old.is_some()).then_some(&*EMPTY));
        let new_value = new.and_then(|new| new.get(name)).or((embedded && new.is_some()).then_some(&*EMPTY));
        let below = compare(child, old_value, new_value);
        part.put(&Element::Field(name.clone()), below);
    }
}

fn is_embedded(node: &Node<'_>) -> bool {
    matches!(node.shape(), Shape::Struct(_))
        && matches!(node.field_facts(), Some(Field { embedded: true, .. }))
}

fn compare_lists(node: Node<'_>, old: &[Value], new: &[Value], part: &mut Part) {
    let mut elements: BTreeMap<Element, (Vec<&Value>, Vec<&Value>)> = BTreeMap::new();
    for item in old {
        if let Some(element) = element_of(node, item) {
            elements.entry(element).or_default().0.push(item);
        }
    }
    for item in new {
        if let Some(element) = element_of(node, item) {
            elements.entry(element).or_default().1.push(item);
        }
    }
    for (element, (old, new)) in elements {
        let below = compare_elements(node.element(), &old, &new);
        part.put(&element, below);
    }
}

/// Elements that occur more than once are compared as one whole: which is which cannot be told.
fn compare_elements(node: Option<Node<'_>>, old: &[&Value], new: &[&Value]) -> Part {
    let mut part = match (old, new) {
        ([], []) => Part::default(),
        ([] | [_], [] | [_]) => return compare(node, old.first().copied(), new.first().copied()),
        ([_, _, ..], [_, _, ..]) => Part::default(),
        (_, [one]) => compare(node, None, Some(one)),
        ([one], _) => compare(node, Some(one), None),
        _ => Part::default(),
    };
    match (old.len() > 1, new.len() > 1) {
        (true, true) => part.modified.member = old != new,
        (true, false) => part.removed.member = true,
        (false, true) => part.added.member = true,
        (false, false) => {}
    }
    part
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::schema::Schema;

    fn diff(old: Value, new: Value) -> [Value; 3] {
        let diff = Diff::between(Schema::builtin().node("", "v1", "Pod").unwrap(), &old, &new);
        [diff.added.to_json(), diff.modified.to_json(), diff.removed.to_json()]
    }

    #[test]
    fn fields_elements_and_maps() {
        let old = json!({"metadata": {"labels": {"a": "1", "b": "2"}}, "spec": {"nodeName": "n", "containers": [
            {"name": "x", "image": "1", "command": ["a"]}, {"name": "y"}]}});
        let new = json!({"metadata": {"labels": {"a": "3", "c": "4"}}, "spec": {"containers": [
            {"name": "x", "image": "1", "command": ["b"]}, {"name": "z", "ports": [{"containerPort": 80}]}]}});
        let [added, modified, removed] = diff(old, new);
        assert_eq!(
            added,
            json!({"f:metadata": {"f:labels": {"f:c": {}}}, "f:spec": {"f:containers": {
                "k:{\"name\":\"z\"}": {".": {}, "f:name": {}, "f:ports": {".": {},
                    "k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}}}}}}})
        );
        assert_eq!(
            modified,
            json!({"f:metadata": {"f:labels": {"f:a": {}}},
                "f:spec": {"f:containers": {"k:{\"name\":\"x\"}": {"f:command": {}}}}})
        );
        assert_eq!(
            removed,
            json!({"f:metadata": {"f:labels": {"f:b": {}}}, "f:spec": {"f:containers": {
                "k:{\"name\":\"y\"}": {".": {}, "f:name": {}}}, "f:nodeName": {}}})
        );
    }

    #[test]
    fn what_is_embedded_is_not_added_as_such() {
        let [added, ..] =
            diff(json!({}), json!({"metadata": {"labels": {"a": "1"}}, "spec": {"securityContext": {}}}));
        assert_eq!(
            added,
            json!({"f:metadata": {"f:labels": {".": {}, "f:a": {}}}, "f:spec": {"f:securityContext": {}}})
        );
    }

    #[test]
    fn an_order_is_no_difference() {
        let containers =
            |names: [&str; 2]| json!({"spec": {"containers": names.map(|name| json!({"name": name}))}});
        assert_eq!(diff(containers(["a", "b"]), containers(["b", "a"])), [json!({}), json!({}), json!({})]);
    }

    #[test]
    fn duplicates_are_compared_as_a_whole() {
        let ports = |ports: Value| json!({"spec": {"containers": [{"name": "a", "ports": ports}]}});
        let twice = ports(json!([{"containerPort": 1, "name": "a"}, {"containerPort": 1, "name": "b"}]));
        let once = ports(json!([{"containerPort": 1, "name": "a"}]));
        let [added, modified, removed] = diff(once, twice);
        let port = "k:{\"containerPort\":1,\"protocol\":\"TCP\"}";
        let at = |value: Value| json!({"f:spec": {"f:containers": {"k:{\"name\":\"a\"}": {"f:ports": {port: value}}}}});
        assert_eq!(added, at(json!({})));
        assert_eq!(modified, json!({}));
        assert_eq!(removed, at(json!({".": {}, "f:containerPort": {}, "f:name": {}})));
    }
}
