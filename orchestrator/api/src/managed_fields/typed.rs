//! Walks of an object beside its schema: which fields a configuration names, what a merge of two objects is, what is
//! left when fields are taken out.
//!
//! Objects and lists are granular unless the schema says atomic; an atomic one, and an empty one, is a leaf. Without a
//! schema everything is a leaf.
use std::collections::BTreeMap;

use super::set::{Element, Entry, FieldSet};
use crate::kind::Text;
use crate::object::{Map, Value};
use crate::schema::{ListType, Node, Shape};

/// How a walk goes on at a place.
#[derive(Clone, Copy)]
pub(super) enum Walk<'s> {
    /// Not further.
    Leaf,
    /// Into the fields.
    Map(Node<'s>),
    /// Into the elements.
    List(Node<'s>),
}

pub(super) fn walk(node: Option<Node<'_>>) -> Walk<'_> {
    match node {
        Some(node) if !node.is_atomic() => match node.shape() {
            Shape::Struct(_) | Shape::Map(_) => Walk::Map(node),
            Shape::List(_) => Walk::List(node),
            Shape::Scalar(_) | Shape::Any => Walk::Leaf,
        },
        _ => Walk::Leaf,
    }
}

/// By what a list's element is told apart; `None` if it lacks what it takes.
pub(super) fn element_of(list: Node<'_>, item: &Value) -> Option<Element> {
    match list.list_type() {
        ListType::Atomic => None,
        ListType::Set => (!item.is_object() && !item.is_array() && !item.is_null())
            .then(|| Element::Value(Box::new(item.clone()))),
        ListType::Map(keys) => {
            let item = item.as_object()?;
            let element = list.element()?;
            let default = |key: &str| element.child(key)?.field_facts()?.default.as_deref().cloned();
            let values = keys.iter().filter_map(|key| {
                let value = item.get(key.as_ref()).cloned().or_else(|| default(key))?;
                Some((key.clone(), value))
            });
            let mut found: Vec<(Text, Value)> = values.collect();
            found.sort_by(|a, b| a.0.cmp(&b.0));
            (!found.is_empty()).then_some(Element::Keys(found))
        }
    }
}

/// The element of a field or map entry; a declared field's name is the schema's.
pub(super) fn field_element(child: Option<&Node<'_>>, name: &str) -> Element {
    match child.and_then(|child| child.field_facts()) {
        Some(field) => Element::Field(field.name.clone()),
        None => Element::Field(Text::Owned(name.to_owned())),
    }
}

/// Whether there is nothing inside.
pub(super) fn is_hollow(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null) => true,
        Some(Value::Object(map)) => map.is_empty(),
        Some(Value::Array(list)) => list.is_empty(),
        Some(_) => false,
    }
}

// === fields of a configuration ===

/// The fields that a configuration names: its leaves, map entries and list elements.
pub fn fields_of(node: Node<'_>, value: &Value) -> FieldSet {
    entry_of(Some(node), value).below
}

fn entry_of(node: Option<Node<'_>>, value: &Value) -> Entry {
    match (walk(node), value) {
        (Walk::Leaf, _) => Entry { member: true, below: FieldSet::default() },
        (Walk::Map(node), Value::Object(map)) => {
            let declared = matches!(node.shape(), Shape::Struct(_));
            let entries = map.iter().map(|(name, value)| {
                let child = node.child(name);
                let mut entry = entry_of(child, value);
                let empty = value.is_null() || value.as_object().is_some_and(Map::is_empty);
                entry.member |= empty || !declared;
                (field_element(child.as_ref(), name), entry)
            });
            Entry { member: false, below: FieldSet::of(entries.collect()) }
        }
        (Walk::List(node), Value::Array(list)) => Entry { member: false, below: list_fields(node, list) },
        _ => Entry::default(),
    }
}

fn list_fields(node: Node<'_>, list: &[Value]) -> FieldSet {
    let mut below = FieldSet::default();
    let items: Vec<_> = list.iter().filter_map(|item| Some((element_of(node, item)?, item))).collect();
    for (element, item) in &items {
        // Of elements that occur more than once only the occurrence is known, not what is in them.
        let single = items.iter().filter(|(other, _)| other == element).count() == 1;
        let mut entry = if single { entry_of(node.element(), item) } else { Entry::default() };
        entry.member = true;
        below.put(element.clone(), entry);
    }
    below
}

// === merging ===

/// The two keys or elements of a configuration that are the same.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: duplicate entries for key {key}")]
pub struct DuplicateElement {
    path: String,
    key: String,
}

/// What `live` is with `config` applied over it.
pub fn merge(node: Node<'_>, live: &Value, config: &Value) -> Result<Value, DuplicateElement> {
    let merged = merge_values(Some(node), Some(live), Some(config), &mut String::new())?;
    Ok(merged.unwrap_or_else(|| Value::Object(Map::new())))
}

fn merge_values(
    node: Option<Node<'_>>,
    live: Option<&Value>,
    config: Option<&Value>,
    path: &mut String,
) -> Result<Option<Value>, DuplicateElement> {
    let leaf = || Ok(config.or(live).cloned());
    if is_hollow(live) && is_hollow(config) {
        return leaf();
    }
    match walk(node) {
        Walk::Leaf => leaf(),
        Walk::Map(node) => {
            let (live, config) = (live.and_then(Value::as_object), config.and_then(Value::as_object));
            merge_maps(node, live, config, path)
        }
        Walk::List(node) => merge_lists(node, elements(live), elements(config), path),
    }
}

fn elements(value: Option<&Value>) -> &[Value] {
    value.and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn merge_maps(
    node: Node<'_>,
    live: Option<&Map>,
    config: Option<&Map>,
    path: &mut String,
) -> Result<Option<Value>, DuplicateElement> {
    let new =
        config.into_iter().flatten().filter(|(name, _)| live.is_none_or(|live| !live.contains_key(*name)));
    let names = live.into_iter().flatten().chain(new).map(|(name, _)| name);
    let mut merged = Map::new();
    for name in names {
        let length = path.len();
        path.push('.');
        path.push_str(name);
        let (live, config) =
            (live.and_then(|live| live.get(name)), config.and_then(|config| config.get(name)));
        if let Some(value) = merge_values(node.child(name), live, config, path)? {
            merged.insert(name.clone(), value);
        }
        path.truncate(length);
    }
    Ok((!merged.is_empty()).then_some(Value::Object(merged)))
}

/// Merges two lists by element. Elements of both come in the configuration's order, the live list's others stay as far
/// to the front as they can, new ones come where the configuration has them.
fn merge_lists(
    node: Node<'_>,
    live: &[Value],
    config: &[Value],
    path: &mut String,
) -> Result<Option<Value>, DuplicateElement> {
    let index =
        |list: &[Value]| -> Vec<Option<Element>> { list.iter().map(|item| element_of(node, item)).collect() };
    let (live_elements, config_elements) = (index(live), index(config));
    let mut merged = Vec::with_capacity(live.len().max(config.len()));
    for (from_live, from_config) in Weave::new(&live_elements, &config_elements, path)?.pairs() {
        let (live, config) = (from_live.map(|at| &live[at]), from_config.map(|at| &config[at]));
        merged.extend(merge_values(node.element(), live, config, path)?);
    }
    Ok((!merged.is_empty()).then_some(Value::Array(merged)))
}

/// A position in the live list and one in the configuration's; at least one is there.
type Pair = (Option<usize>, Option<usize>);

/// Finds the order in which the elements of two lists are merged.
struct Weave {
    /// For each live element its place in the configuration.
    in_config: Vec<Option<usize>>,
    /// For each of the configuration's elements whether there is a live one.
    is_live: Vec<bool>,
    /// For each of the configuration's elements the live one it merges with.
    partner: Vec<Option<usize>>,
}

impl Weave {
    fn new(
        live: &[Option<Element>],
        config: &[Option<Element>],
        path: &str,
    ) -> Result<Self, DuplicateElement> {
        let mut places: BTreeMap<&Element, usize> = BTreeMap::new();
        for (place, element) in config.iter().enumerate() {
            let Some(element) = element else { continue };
            if places.insert(element, place).is_some() {
                return Err(DuplicateElement { path: path.to_owned(), key: element.to_string() });
            }
        }
        let find =
            |element: &Option<Element>| element.as_ref().and_then(|element| places.get(element)).copied();
        let in_config: Vec<Option<usize>> = live.iter().map(find).collect();
        let (mut is_live, mut partner) = (vec![false; config.len()], vec![None; config.len()]);
        for (position, place) in in_config.iter().enumerate() {
            let Some(place) = *place else { continue };
            // Of live duplicates none is merged with: which one is meant cannot be told.
            partner[place] = if is_live[place] { None } else { Some(position) };
            is_live[place] = true;
        }
        Ok(Self { in_config, is_live, partner })
    }

    fn pairs(&self) -> Vec<Pair> {
        let (live_len, config_len) = (self.in_config.len(), self.is_live.len());
        let mut pairs = Vec::with_capacity(live_len + config_len);
        let (mut live, mut config) = (0, 0);
        while live < live_len || config < config_len {
            let place = self.in_config.get(live).copied();
            match place {
                // Only live.
                Some(None) => {
                    pairs.push((Some(live), None));
                    live += 1;
                    continue;
                }
                // Merged already.
                Some(Some(place)) if place < config => {
                    live += 1;
                    continue;
                }
                // Its turn comes later: another shared element stands before it in the configuration.
                Some(Some(place)) if place > config && self.next_shared(config) != Some(place) => {
                    live += 1;
                    continue;
                }
                Some(Some(place)) if place == config => live += 1,
                _ => {}
            }
            pairs.push((self.partner[config], Some(config)));
            config += 1;
        }
        pairs
    }

    fn next_shared(&self, from: usize) -> Option<usize> {
        (from..self.is_live.len()).find(|place| self.is_live[*place])
    }
}

// === removing ===

/// What is left of `value` when the fields in `gone` are taken out. An object or list that loses all it held goes too.
pub fn remove(node: Node<'_>, value: Value, gone: &FieldSet) -> Value {
    remove_below(Some(node), value, gone).unwrap_or_else(|| Value::Object(Map::new()))
}

fn remove_below(node: Option<Node<'_>>, value: Value, gone: &FieldSet) -> Option<Value> {
    match (walk(node), value) {
        (Walk::Map(node), Value::Object(map)) => {
            let fields = map.into_iter().filter_map(|(name, value)| {
                let child = node.child(&name);
                let entry = gone.get(&field_element(child.as_ref(), &name));
                Some((name, remove_entry(child, value, entry)?))
            });
            let left: Map = fields.collect();
            (!left.is_empty()).then_some(Value::Object(left))
        }
        (Walk::List(node), Value::Array(list)) => {
            let items = list.into_iter().filter_map(|item| {
                let entry = element_of(node, &item).and_then(|element| gone.get(&element));
                remove_entry(node.element(), item, entry)
            });
            let left: Vec<Value> = items.collect();
            (!left.is_empty()).then_some(Value::Array(left))
        }
        (Walk::Leaf, Value::Object(_) | Value::Array(_)) => None,
        (_, value) => Some(value),
    }
}

fn remove_entry(node: Option<Node<'_>>, value: Value, entry: Option<&Entry>) -> Option<Value> {
    match entry {
        None => Some(value),
        Some(entry) if entry.member => None,
        Some(entry) => remove_below(node, value, &entry.below),
    }
}

/// The set with the declared fields on the way to its members added: an object whose every field goes, goes too.
#[must_use]
pub fn with_declared_parents(node: Node<'_>, set: &FieldSet) -> FieldSet {
    let mut out = set.clone();
    add_parents(Some(node), &mut out);
    out
}

fn add_parents(node: Option<Node<'_>>, set: &mut FieldSet) {
    for (element, entry) in set.iter_mut() {
        let declared = matches!(node.map(|node| node.shape()), Some(Shape::Struct(_)));
        let child = node.and_then(|node| node.child_of(element));
        if declared && child.is_some() && !entry.below.is_empty() {
            entry.member = true;
        }
        add_parents(child, &mut entry.below);
    }
}

impl<'s> Node<'s> {
    /// Below: what the element of a path leads to.
    fn child_of(&self, element: &Element) -> Option<Node<'s>> {
        match element {
            Element::Field(name) => self.child(name),
            Element::Keys(_) | Element::Value(_) | Element::Index(_) => self.element(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::schema::Schema;

    fn pod() -> Node<'static> {
        Schema::builtin().node("", "v1", "Pod").unwrap()
    }

    fn containers(names: &[&str]) -> Value {
        let containers: Vec<_> = names.iter().map(|name| json!({"name": name})).collect();
        json!({"spec": {"containers": containers}})
    }

    fn merged_names(live: &[&str], config: &[&str]) -> Vec<String> {
        let merged = merge(pod(), &containers(live), &containers(config)).unwrap();
        let names = merged["spec"]["containers"].as_array().unwrap().iter();
        names.map(|container| container["name"].as_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn merged_lists_keep_both_orders_where_they_can() {
        assert_eq!(merged_names(&["a", "b"], &["b", "c"]), ["a", "b", "c"]);
        assert_eq!(merged_names(&["a", "b"], &["b", "a"]), ["b", "a"]);
        assert_eq!(merged_names(&["a", "x", "b"], &["b", "a"]), ["x", "b", "a"]);
        assert_eq!(merged_names(&["x", "a"], &["n", "a"]), ["x", "n", "a"]);
        assert_eq!(merged_names(&[], &["a"]), ["a"]);
    }

    #[test]
    fn merging_is_deep_and_leaves_are_replaced() {
        let live = json!({"metadata": {"labels": {"a": "1", "b": "2"}}, "spec": {"containers": [
            {"name": "c", "image": "1", "command": ["x", "y"]}], "nodeSelector": {"x": "1"}}});
        let config = json!({"metadata": {"labels": {"b": "3"}}, "spec": {"containers": [
            {"name": "c", "command": ["z"]}], "nodeSelector": {"y": "2"}}});
        let expected = json!({"metadata": {"labels": {"a": "1", "b": "3"}}, "spec": {"containers": [
            {"name": "c", "image": "1", "command": ["z"]}], "nodeSelector": {"y": "2"}}});
        assert_eq!(merge(pod(), &live, &config).unwrap(), expected);
    }

    #[test]
    fn duplicates_in_a_configuration_are_refused() {
        let error = merge(pod(), &json!({}), &containers(&["a", "a"])).unwrap_err();
        assert_eq!(error.to_string(), ".spec.containers: duplicate entries for key [name=\"a\"]");
    }

    #[test]
    fn fields_of_a_configuration() {
        let config = json!({"metadata": {"labels": {"a": "1"}, "annotations": {}, "finalizers": ["x"]},
            "spec": {"nodeName": null, "nodeSelector": {"z": "1"}, "containers": [
            {"name": "c", "command": ["x"], "ports": [{"containerPort": 80}], "securityContext": {}}]}});
        let expected = json!({
            "f:metadata": {"f:annotations": {}, "f:finalizers": {"v:\"x\"": {}}, "f:labels": {"f:a": {}}},
            "f:spec": {
                "f:containers": {"k:{\"name\":\"c\"}": {".": {}, "f:command": {}, "f:name": {},
                    "f:ports": {"k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}}},
                    "f:securityContext": {}}},
                "f:nodeName": {},
                "f:nodeSelector": {},
            },
        });
        assert_eq!(fields_of(pod(), &config).to_json(), expected);
    }

    #[test]
    fn removal_takes_fields_and_elements_out() {
        let value = json!({"metadata": {"labels": {"a": "1", "b": "2"}}, "spec": {"containers": [
            {"name": "a", "image": "1"}, {"name": "b", "image": "1"}]}});
        let gone = FieldSet::from_json(&json!({
            "f:metadata": {"f:labels": {"f:a": {}}},
            "f:spec": {"f:containers": {"k:{\"name\":\"a\"}": {".": {}, "f:image": {}}, "k:{\"name\":\"b\"}": {"f:image": {}}}},
        }))
        .unwrap();
        let left = json!({"metadata": {"labels": {"b": "2"}}, "spec": {"containers": [{"name": "b"}]}});
        assert_eq!(remove(pod(), value, &gone), left);
    }

    #[test]
    fn declared_parents_are_added_and_maps_are_not() {
        let set = FieldSet::from_json(
            &json!({"f:metadata": {"f:labels": {"f:a": {}}}, "f:spec": {"f:x": {"f:y": {}}}}),
        );
        let expected = json!({
            "f:metadata": {".": {}, "f:labels": {".": {}, "f:a": {}}},
            "f:spec": {".": {}, "f:x": {"f:y": {}}},
        });
        assert_eq!(with_declared_parents(pod(), &set.unwrap()).to_json(), expected);
    }
}
