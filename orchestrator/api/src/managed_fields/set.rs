//! Sets of fields of an object, as a tree, and their JSON form, FieldsV1.
//!
//! `{"f:spec":{"f:ports":{"k:{\"port\":80}":{".":{},"f:name":{}}}}}`: `f:` a field, `k:` an element of a list by its keys,
//! `v:` an element by its value, `i:` by its position; `.` says that the element itself is in the set, not only
//! something below it. The order is Kubernetes' own, so that equal sets have equal bytes.
use std::cmp::Ordering;
use std::fmt;

use crate::field::quote;
use crate::kind::Text;
use crate::object::{Map, Value};

/// One step on the way to a field.
#[derive(Clone, Debug)]
pub enum Element {
    /// A field or a map's key. Declared fields borrow their name from the schema.
    Field(Text),
    /// A list's element, by its keys in order of their names.
    Keys(Vec<(Text, Value)>),
    /// A list's element, by its value.
    Value(Box<Value>),
    /// A list's element, by its position.
    Index(i64),
}

impl From<&'static str> for Element {
    fn from(name: &'static str) -> Self {
        Self::Field(Text::Borrowed(name))
    }
}

impl Element {
    fn rank(&self) -> u8 {
        match self {
            Self::Field(_) => 0,
            Self::Keys(_) => 1,
            Self::Value(_) => 2,
            Self::Index(_) => 3,
        }
    }

    pub(super) fn encode(&self) -> String {
        match self {
            Self::Field(name) => ["f:", name].concat(),
            Self::Keys(keys) => {
                let mut out = String::with_capacity(32);
                out.push_str("k:{");
                for (index, (name, value)) in keys.iter().enumerate() {
                    out.push_str(if index > 0 { ",\"" } else { "\"" });
                    out.push_str(name);
                    out.push_str("\":");
                    out.push_str(&value.to_string());
                }
                out.push('}');
                out
            }
            Self::Value(value) => format!("v:{value}"),
            Self::Index(index) => format!("i:{index}"),
        }
    }

    fn decode(text: &str) -> Option<Self> {
        let (kind, rest) = text.split_once(':')?;
        match kind {
            "f" => Some(Self::Field(Text::Owned(rest.to_owned()))),
            "k" => {
                let map: Map = serde_json::from_str(rest).ok()?;
                let mut keys: Vec<_> =
                    map.into_iter().map(|(name, value)| (Text::Owned(name), value)).collect();
                keys.sort_by(|a, b| a.0.cmp(&b.0));
                (!keys.is_empty()).then_some(Self::Keys(keys))
            }
            "v" => serde_json::from_str(rest).ok().map(Box::new).map(Self::Value),
            "i" => rest.parse().ok().map(Self::Index),
            _ => None,
        }
    }
}

fn compare_values(a: &Value, b: &Value) -> Ordering {
    let rank = |value: &Value| match value {
        Value::Number(_) => 0,
        Value::String(_) => 1,
        Value::Bool(_) => 2,
        Value::Null => 3,
        _ => 4,
    };
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => match (a.as_i64(), b.as_i64()) {
            (Some(a), Some(b)) => a.cmp(&b),
            _ => a.as_f64().unwrap_or_default().total_cmp(&b.as_f64().unwrap_or_default()),
        },
        (Value::String(a), Value::String(b)) => a.cmp(b),
        (Value::Bool(a), Value::Bool(b)) => a.cmp(b),
        (a, b) if rank(a) == rank(b) => a.to_string().cmp(&b.to_string()),
        (a, b) => rank(a).cmp(&rank(b)),
    }
}

impl Ord for Element {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Field(a), Self::Field(b)) => a.cmp(b),
            (Self::Keys(a), Self::Keys(b)) => {
                let pairs = a
                    .iter()
                    .zip(b)
                    .map(|((a_name, a), (b_name, b))| a_name.cmp(b_name).then_with(|| compare_values(a, b)));
                pairs.into_iter().find(|order| order.is_ne()).unwrap_or_else(|| a.len().cmp(&b.len()))
            }
            (Self::Value(a), Self::Value(b)) => compare_values(a, b),
            (Self::Index(a), Self::Index(b)) => a.cmp(b),
            (a, b) => a.rank().cmp(&b.rank()),
        }
    }
}

impl PartialOrd for Element {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Element {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Element {}

/// `.name`, `[name="web"]`, `[="x"]`, `[0]`.
impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let show = |value: &Value| match value {
            Value::String(text) => quote(text),
            other => other.to_string(),
        };
        match self {
            Self::Field(name) => write!(f, ".{name}"),
            Self::Keys(keys) => {
                let keys: Vec<_> =
                    keys.iter().map(|(name, value)| format!("{name}={}", show(value))).collect();
                write!(f, "[{}]", keys.join(","))
            }
            Self::Value(value) => write!(f, "[={}]", show(value)),
            Self::Index(index) => write!(f, "[{index}]"),
        }
    }
}

/// One field in a set: whether it is a member itself, and which of what is below it are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// Whether the field itself is in the set.
    pub member: bool,
    /// What is in the set below it.
    pub below: FieldSet,
}

impl Entry {
    /// Whether neither it nor anything below is in the set.
    pub fn is_empty(&self) -> bool {
        !self.member && self.below.is_empty()
    }
}

/// A set of fields: entries sorted by element, none of them empty. A sorted list rather than a tree because sets are
/// small, many, and made in one go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSet {
    entries: Vec<(Element, Entry)>,
}

impl FieldSet {
    /// A set of these entries, in any order; entries of one element are united.
    pub fn of(mut entries: Vec<(Element, Entry)>) -> Self {
        entries.retain(|(_, entry)| !entry.is_empty());
        entries.sort_by(|(a, _), (b, _)| a.cmp(b));
        if entries.windows(2).all(|pair| pair[0].0 != pair[1].0) {
            return Self { entries };
        }
        let mut set = Self::default();
        entries.into_iter().for_each(|(element, entry)| set.put(element, entry));
        set
    }

    /// Whether nothing is in the set.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn position(&self, element: &Element) -> Result<usize, usize> {
        self.entries.binary_search_by(|(own, _)| own.cmp(element))
    }

    /// What is in the set at and below `element`.
    pub fn get(&self, element: &Element) -> Option<&Entry> {
        self.position(element).ok().map(|at| &self.entries[at].1)
    }

    /// Whether `element` itself is in the set.
    pub fn has(&self, element: &Element) -> bool {
        self.get(element).is_some_and(|entry| entry.member)
    }

    /// The entries, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&Element, &Entry)> {
        self.entries.iter().map(|(element, entry)| (element, entry))
    }

    /// The entries, to change them. The caller must not empty one.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (&Element, &mut Entry)> {
        self.entries.iter_mut().map(|(element, entry)| (&*element, entry))
    }

    /// Adds what `entry` holds at and below `element`.
    pub fn put(&mut self, element: Element, entry: Entry) {
        if entry.is_empty() {
            return;
        }
        match self.position(&element) {
            Ok(at) => {
                let own = &mut self.entries[at].1;
                own.member |= entry.member;
                own.below.add(entry.below);
            }
            Err(at) => self.entries.insert(at, (element, entry)),
        }
    }

    /// Adds the field that `path` leads to, not those on the way.
    pub fn insert(&mut self, path: &[Element]) {
        if let [element, rest @ ..] = path {
            let at = match self.position(element) {
                Ok(at) => at,
                Err(at) => {
                    self.entries.insert(at, (element.clone(), Entry::default()));
                    at
                }
            };
            let entry = &mut self.entries[at].1;
            match rest {
                [] => entry.member = true,
                rest => entry.below.insert(rest),
            }
        }
    }

    /// Adds all of `other`.
    pub fn add(&mut self, other: FieldSet) {
        if self.entries.is_empty() {
            self.entries = other.entries;
            return;
        }
        other.entries.into_iter().for_each(|(element, entry)| self.put(element, entry));
    }

    /// Takes away the members of `other`; what is below one of them stays.
    pub fn subtract(&mut self, other: &FieldSet) {
        self.retain(other, |own, other| {
            own.member &= !other.member;
            own.below.subtract(&other.below);
        });
    }

    /// Takes away the members of `other` and all that is below them.
    pub fn subtract_trees(&mut self, other: &FieldSet) {
        self.retain(other, |own, other| {
            if other.member {
                *own = Entry::default();
            } else {
                own.below.subtract_trees(&other.below);
            }
        });
    }

    fn retain(&mut self, other: &FieldSet, change: impl Fn(&mut Entry, &Entry)) {
        if other.is_empty() {
            return;
        }
        self.entries.retain_mut(|(element, own)| {
            if let Some(other) = other.get(element) {
                change(own, other);
            }
            !own.is_empty()
        });
    }

    /// What is in both.
    #[must_use]
    pub fn intersection(&self, other: &FieldSet) -> FieldSet {
        let (small, large) =
            if self.entries.len() <= other.entries.len() { (self, other) } else { (other, self) };
        let both = small.entries.iter().filter_map(|(element, a)| {
            let b = large.get(element)?;
            let entry = Entry { member: a.member && b.member, below: a.below.intersection(&b.below) };
            (!entry.is_empty()).then(|| (element.clone(), entry))
        });
        FieldSet { entries: both.collect() }
    }

    /// All members as paths, shallow ones first as Kubernetes lists them.
    pub fn paths(&self) -> Vec<Vec<&Element>> {
        let mut found = Vec::new();
        self.collect_paths(&mut Vec::new(), &mut found);
        found
    }

    fn collect_paths<'s>(&'s self, above: &mut Vec<&'s Element>, found: &mut Vec<Vec<&'s Element>>) {
        for (element, _) in self.entries.iter().filter(|(_, entry)| entry.member) {
            found.push(above.iter().copied().chain([element]).collect());
        }
        for (element, entry) in &self.entries {
            above.push(element);
            entry.below.collect_paths(above, found);
            above.pop();
        }
    }

    /// The JSON form.
    pub fn to_json(&self) -> Value {
        Value::Object(self.to_map(false))
    }

    fn to_map(&self, dot: bool) -> Map {
        let mut map = Map::with_capacity(self.entries.len() + usize::from(dot));
        if dot {
            map.insert(".".to_owned(), Value::Object(Map::new()));
        }
        for (element, entry) in &self.entries {
            let below = entry.below.to_map(entry.member && !entry.below.is_empty());
            map.insert(element.encode(), Value::Object(below));
        }
        map
    }

    /// Whether all of it is in a set in its JSON form.
    pub(super) fn is_in_map(&self, map: &Map) -> bool {
        self.entries.iter().all(|(element, entry)| match map.get(&element.encode()) {
            Some(Value::Object(own)) => {
                (!entry.member || own.is_empty() || own.contains_key(".")) && entry.below.is_in_map(own)
            }
            _ => false,
        })
    }

    /// Takes its members away from a set in its JSON form; what is below one of them stays.
    pub(super) fn subtract_from_map(&self, map: &mut Map) {
        for (element, entry) in &self.entries {
            let key = element.encode();
            let Some(Value::Object(own)) = map.get_mut(&key) else { continue };
            let was_leaf = own.is_empty();
            let member = (was_leaf || own.contains_key(".")) && !entry.member;
            own.shift_remove(".");
            entry.below.subtract_from_map(own);
            match (member, own.is_empty()) {
                (false, true) => {
                    map.shift_remove(&key);
                }
                // Something is left below: the dot says that the element itself is still a member.
                (true, false) => {
                    own.shift_insert(0, ".".to_owned(), Value::Object(Map::new()));
                }
                _ => {}
            }
        }
    }

    /// Reads the JSON form; `None` if it is malformed.
    pub fn from_json(value: &Value) -> Option<Self> {
        Self::from_map(value.as_object()?)
    }

    /// Reads the JSON form; `None` if it is malformed.
    pub(super) fn from_map(map: &Map) -> Option<Self> {
        let mut entries = Vec::with_capacity(map.len());
        for (key, value) in map {
            if key == "." {
                continue;
            }
            let below = FieldSet::from_json(value)?;
            // Without a dot inside, an element is a member only if nothing else is said about it.
            let member = value.get(".").is_some() || below.is_empty();
            entries.push((Element::decode(key)?, Entry { member, below }));
        }
        Some(Self::of(entries))
    }
}

/// `.spec.containers[name="web"].image`
pub fn display_path(path: &[&Element]) -> String {
    path.iter().map(ToString::to_string).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn set(value: Value) -> FieldSet {
        FieldSet::from_json(&value).unwrap()
    }

    #[test]
    fn json_form_round_trips() {
        let json = json!({
            "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
            "f:spec": {"f:finalizers": {"v:\"x\"": {}}, "f:ports": {
                ".": {},
                "k:{\"port\":80,\"protocol\":\"TCP\"}": {".": {}, "f:port": {}},
                "k:{\"port\":443,\"protocol\":\"TCP\"}": {".": {}, "f:port": {}},
            }},
        });
        assert_eq!(set(json.clone()).to_json().to_string(), json.to_string());
        assert_eq!(FieldSet::from_json(&json!({"x:y": {}})), None);
        assert_eq!(FieldSet::from_json(&json!({"f:y": 1})), None);
    }

    #[test]
    fn paths_print_as_in_conflicts() {
        let set = set(
            json!({"f:spec": {"f:c": {"k:{\"b\":1,\"a\":\"x\"}": {"f:image": {}}, "v:\"y\"": {}, "i:3": {}}}}),
        );
        let paths: Vec<_> = set.paths().iter().map(|path| display_path(path)).collect();
        assert_eq!(paths, [".spec.c[=\"y\"]", ".spec.c[3]", ".spec.c[a=\"x\",b=1].image"]);
    }

    #[test]
    fn subtraction_leaves_what_is_below() {
        let mut own = set(json!({"f:a": {".": {}, "f:b": {}}, "f:c": {}}));
        let gone = set(json!({"f:a": {}, "f:c": {}}));
        let mut trees = own.clone();
        own.subtract(&gone);
        assert_eq!(own, set(json!({"f:a": {"f:b": {}}})));
        trees.subtract_trees(&gone);
        assert!(trees.is_empty());
    }

    fn a_set() -> impl Strategy<Value = FieldSet> {
        let path = prop::collection::vec("[ab]", 1..4);
        prop::collection::vec(path, 0..6).prop_map(|paths| {
            let mut set = FieldSet::default();
            for path in paths {
                let path: Vec<Element> = path.into_iter().map(|name| Element::Field(name.into())).collect();
                set.insert(&path);
            }
            set
        })
    }

    fn members(set: &FieldSet) -> std::collections::BTreeSet<String> {
        set.paths().iter().map(|path| display_path(path)).collect()
    }

    proptest! {
        #[test]
        fn operations_are_those_of_sets(a in a_set(), b in a_set()) {
            let (members_a, members_b) = (members(&a), members(&b));
            let mut union = a.clone();
            union.add(b.clone());
            prop_assert_eq!(members(&union), members_a.union(&members_b).cloned().collect());
            prop_assert_eq!(members(&a.intersection(&b)), members_a.intersection(&members_b).cloned().collect());
            let mut difference = a.clone();
            difference.subtract(&b);
            prop_assert_eq!(members(&difference), members_a.difference(&members_b).cloned().collect());
            let mut json = a.to_json();
            b.subtract_from_map(json.as_object_mut().unwrap());
            prop_assert_eq!(&json, &difference.to_json());
            prop_assert_eq!(b.is_in_map(a.to_json().as_object().unwrap()), members_b.is_subset(&members_a));
            prop_assert_eq!(FieldSet::from_json(&a.to_json()), Some(a));
        }
    }
}
