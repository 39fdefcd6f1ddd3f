//! What differs between two objects, field by field, as sets: added, modified, removed.
use super::set::{Element, Entry, FieldSet};
use super::typed::{Walk, element_of, field_element, is_hollow, walk};
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
    /// Only known after [`Diff::with_opened`].
    pub opened: FieldSet,
}

impl Diff {
    /// Compares two objects of one kind. What the server itself notes in `metadata.managedFields` is no difference.
    pub fn between(node: Node<'_>, old: &Value, new: &Value) -> Self {
        Self::of(Comparison { opened: false }.of(Some(node), Some(old), Some(new)))
    }

    /// The same, with what was opened.
    pub fn with_opened(node: Node<'_>, old: &Value, new: &Value) -> Self {
        Self::of(Comparison { opened: true }.of(Some(node), Some(old), Some(new)))
    }

    fn of(Part { added, modified, removed, opened }: Part) -> Self {
        Self { added: added.below, modified: modified.below, removed: removed.below, opened: opened.below }
    }

    /// Whether the objects are equal.
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.modified.is_empty() && self.removed.is_empty()
    }

    /// What was added or modified, and what was removed.
    pub fn into_changed_and_removed(self) -> (FieldSet, FieldSet) {
        let mut changed = self.added;
        changed.add(self.modified);
        (changed, self.removed)
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
    fn mark(&mut self, old: Option<&Value>, new: Option<&Value>) {
        match (old, new) {
            (None, _) => self.added.member = true,
            (_, None) => self.removed.member = true,
            (Some(old), Some(new)) => self.modified.member = old != new,
        }
    }
}

/// Differences below a place, gathered before they are sorted into sets.
#[derive(Default)]
struct Below {
    added: Vec<(Element, Entry)>,
    modified: Vec<(Element, Entry)>,
    removed: Vec<(Element, Entry)>,
    opened: Vec<(Element, Entry)>,
}

impl Below {
    fn put(&mut self, element: Element, part: Part) {
        let mut full = [
            (&mut self.modified, part.modified),
            (&mut self.removed, part.removed),
            (&mut self.opened, part.opened),
        ];
        for (list, entry) in &mut full {
            if !entry.is_empty() {
                list.push((element.clone(), std::mem::take(entry)));
            }
        }
        // Most differences are additions, by creates: these need no copy of the element.
        if !part.added.is_empty() {
            self.added.push((element, part.added));
        }
    }

    fn finish(self, part: &mut Part) {
        part.added.below = FieldSet::of(self.added);
        part.modified.below = FieldSet::of(self.modified);
        part.removed.below = FieldSet::of(self.removed);
        part.opened.below = FieldSet::of(self.opened);
    }
}

/// A walk over two objects.
#[derive(Clone, Copy)]
struct Comparison {
    /// Whether it is asked what was opened.
    opened: bool,
}

static EMPTY: std::sync::LazyLock<Value> = std::sync::LazyLock::new(|| Value::Object(Map::new()));

impl Comparison {
    fn of(self, node: Option<Node<'_>>, old: Option<&Value>, new: Option<&Value>) -> Part {
        let mut part = Part::default();
        // Most of an object does not change with an update.
        if old == new {
            return part;
        }
        let hollow = is_hollow(old) && is_hollow(new);
        if hollow && node.is_some_and(|node| matches!(node.shape(), Shape::Map(_) | Shape::List(_))) {
            // An empty list or map means as much as none.
            return part;
        }
        let walk = if hollow { Walk::Leaf } else { walk(node) };
        let mut below = Below::default();
        match walk {
            Walk::Leaf => {
                part.mark(old, new);
                return part;
            }
            Walk::Map(node) => {
                self.maps(node, old.and_then(Value::as_object), new.and_then(Value::as_object), &mut below);
            }
            Walk::List(node) => self.lists(node, elements(old), elements(new), &mut below),
        }
        below.finish(&mut part);
        part.added.member |= old.is_none();
        part.opened.member |= self.opened && old.is_none();
        part.removed.member |= new.is_none();
        part
    }

    fn maps(self, node: Node<'_>, old: Option<&Map>, new: Option<&Map>, below: &mut Below) {
        let gone =
            old.into_iter().flatten().filter(|(name, _)| new.is_none_or(|new| !new.contains_key(*name)));
        let names = new.into_iter().flatten().chain(gone).map(|(name, _)| name);
        for name in names {
            let child = node.child(name);
            if is_own_record(name, child.as_ref()) {
                continue;
            }
            // An embedded object is always there, if only without fields: it is not added or removed as such.
            let embedded = child.is_some_and(|child| is_embedded(&child));
            let old_value =
                old.and_then(|old| old.get(name)).or((embedded && old.is_some()).then_some(&*EMPTY));
            let new_value =
                new.and_then(|new| new.get(name)).or((embedded && new.is_some()).then_some(&*EMPTY));
            let part = self.of(child, old_value, new_value);
            below.put(field_element(child.as_ref(), name), part);
        }
    }

    fn lists(self, node: Node<'_>, old: &[Value], new: &[Value], below: &mut Below) {
        let of = |list, side| elements_of(node, list).map(move |(element, item)| (element, side, item));
        let mut items: Vec<(Element, Side, &Value)> = of(old, Side::Old).chain(of(new, Side::New)).collect();
        items.sort_by(|(a, ..), (b, ..)| a.cmp(b));
        for same in items.chunk_by(|(a, ..), (b, ..)| a == b) {
            let on = |wanted: Side| {
                same.iter().filter(move |(_, side, _)| *side == wanted).map(|(.., item)| *item)
            };
            let (old, new): (Vec<&Value>, Vec<&Value>) = (on(Side::Old).collect(), on(Side::New).collect());
            let part = self.elements(node.element(), &old, &new);
            below.put(same[0].0.clone(), part);
        }
    }

    /// Elements that occur more than once are compared as one whole: which is which cannot be told.
    fn elements(self, node: Option<Node<'_>>, old: &[&Value], new: &[&Value]) -> Part {
        let mut part = match (old, new) {
            ([] | [_], [] | [_]) => return self.of(node, old.first().copied(), new.first().copied()),
            (_, [one]) => self.of(node, None, Some(one)),
            ([one], _) => self.of(node, Some(one), None),
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
}

/// Whether the field is the one in which ownership itself is noted.
pub(super) fn is_own_record(name: &str, child: Option<&Node<'_>>) -> bool {
    name == "managedFields" && child.is_some_and(|child| child.field_facts().is_some())
}

pub(super) fn is_embedded(node: &Node<'_>) -> bool {
    matches!(node.shape(), Shape::Struct(_))
        && matches!(node.field_facts(), Some(Field { embedded: true, .. }))
}

fn elements(value: Option<&Value>) -> &[Value] {
    value.and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Old,
    New,
}

fn elements_of<'v>(node: Node<'v>, list: &'v [Value]) -> impl Iterator<Item = (Element, &'v Value)> {
    list.iter().filter_map(move |item| Some((element_of(node, item)?, item)))
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
