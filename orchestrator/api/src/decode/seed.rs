//! The visitor: builds the tree while it walks the schema, and notes what does not fit.
use std::fmt;

use serde::de::{Deserialize, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::scalar::{self, Given};
use crate::field::{Path, quote};
use crate::object::{Map, Value};
use crate::schema::{Field, Node, Shape, Type};

/// What a pass found.
pub(super) struct Report {
    /// Unknown and duplicate fields.
    pub problems: Vec<String>,
    /// The first value of a wrong type.
    pub error: Option<String>,
    /// Whether values become canonical, and what means nothing is dropped.
    pub normalise: bool,
}

impl Report {
    pub fn new(normalise: bool) -> Self {
        Self { problems: Vec::new(), error: None, normalise }
    }

    fn fail(&mut self, error: impl FnOnce() -> String) {
        self.error.get_or_insert_with(error);
    }
}

/// Where a value is read: its place in the schema (none: anything goes) and in the object.
pub(super) struct Place<'s, 'p, 'r> {
    node: Option<Node<'s>>,
    path: Path<'p>,
    /// The nearest enclosing definition's name, for messages.
    owner: &'s str,
    report: &'r mut Report,
}

impl<'s, 'r> Place<'s, 'static, 'r> {
    pub fn root(node: Option<Node<'s>>, report: &'r mut Report) -> Self {
        Self { node, path: Path::new(""), owner: "", report }
    }
}

impl<'s> Place<'s, '_, '_> {
    fn below<'q>(&'q mut self, node: Option<Node<'s>>, path: Path<'q>) -> Place<'s, 'q, 'q> {
        let owner = match self.node.map(|node| node.shape()) {
            Some(Shape::Struct(definition)) => definition.short_name(),
            _ => self.owner,
        };
        Place { node, path, owner, report: self.report }
    }

    /// `json: cannot unmarshal GIVEN into Go struct field OWNER.PATH of type TYPE`.
    fn wrong_type(&mut self, given: &str) -> Value {
        let Self { node, path, owner, report } = self;
        report.fail(|| {
            let expected = node.map_or_else(String::new, |node| type_name(&node));
            match without_indexes(&path.to_string()) {
                field if field.is_empty() => {
                    format!("json: cannot unmarshal {given} into Go value of type {expected}")
                }
                field => {
                    format!("json: cannot unmarshal {given} into Go struct field {owner}.{field} of type {expected}")
                }
            }
        });
        Value::Null
    }

    fn scalar(mut self, given: Given<'_>) -> Value {
        let scalar = match self.node.map(|node| node.shape()) {
            None | Some(Shape::Any) => return given.into_value(),
            Some(Shape::Scalar(scalar)) => scalar,
            Some(_) => return self.wrong_type(given.json_type()),
        };
        match scalar::read(scalar, given, self.report.normalise) {
            Ok(value) => value,
            Err(scalar::Misfit::Type(given)) => self.wrong_type(&given),
            Err(scalar::Misfit::Value(message)) => {
                self.report.fail(|| message);
                Value::Null
            }
        }
    }
}

/// The Go type's name, as Kubernetes' messages show it: `v1.PodSpec`, `[]v1.Container`, `map[string]string`.
fn type_name(node: &Node<'_>) -> String {
    match node.shape() {
        Shape::Struct(definition) => {
            let mut parts = definition.name.rsplit('.');
            let (name, version) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
            format!("{version}.{name}")
        }
        Shape::List(_) => {
            let element = node.element().map_or_else(|| "interface {}".to_owned(), |node| type_name(&node));
            format!("[]{element}")
        }
        Shape::Map(_) => {
            let value = node.child("").map_or_else(|| "interface {}".to_owned(), |node| type_name(&node));
            format!("map[string]{value}")
        }
        Shape::Scalar(scalar) => scalar::type_name(scalar).to_owned(),
        Shape::Any => "interface {}".to_owned(),
    }
}

/// `spec.containers[0].image` as Go names it: `spec.containers.image`.
fn without_indexes(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    let mut inside = false;
    for c in path.chars() {
        match c {
            '[' => inside = true,
            ']' => inside = false,
            c if !inside => out.push(c),
            _ => {}
        }
    }
    out
}

/// What a null stands for as an element or as a map's value: the type's zero, as in Go.
fn zero(node: Option<Node<'_>>) -> Value {
    match node.map(|node| node.shape()) {
        Some(Shape::Struct(_) | Shape::Map(_)) => Value::Object(Map::new()),
        Some(Shape::List(_)) => Value::Array(Vec::new()),
        Some(Shape::Scalar(scalar)) => scalar::zero(scalar),
        Some(Shape::Any) | None => Value::Null,
    }
}

/// Whether an empty list or map means as much as none: everywhere but where the field is always written.
fn means_nothing(node: &Node<'_>, value: &Value) -> bool {
    let Some(Field { required: false, ty, .. }) = node.field_facts() else { return false };
    match (ty, value) {
        (Type::List(_), Value::Array(list)) => list.is_empty(),
        (Type::Map(_), Value::Object(map)) => map.is_empty(),
        _ => false,
    }
}

impl<'de> DeserializeSeed<'de> for Place<'_, '_, '_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Place<'_, '_, '_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(self.scalar(Given::Bool(value)))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(self.scalar(Given::Number(value.into())))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(self.scalar(Given::Number(value.into())))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(match serde_json::Number::from_f64(value) {
            Some(number) => self.scalar(Given::Number(number)),
            None => Value::Null,
        })
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(self.scalar(Given::Text(value.into())))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(self.scalar(Given::Text(value.into())))
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut list: A) -> Result<Value, A::Error> {
        let element = match self.node.map(|node| (node, node.shape())) {
            None | Some((_, Shape::Any)) => None,
            Some((node, Shape::List(_))) => node.element(),
            Some(_) => {
                while list.next_element::<IgnoredAny>()?.is_some() {}
                return Ok(self.wrong_type("array"));
            }
        };
        let mut out = Vec::with_capacity(list.size_hint().unwrap_or(0).min(64));
        loop {
            let here = self.path;
            let place = self.below(element, here.index(out.len()));
            match list.next_element_seed(place)? {
                Some(Value::Null) => out.push(zero(element)),
                Some(value) => out.push(value),
                None => return Ok(Value::Array(out)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<Value, A::Error> {
        let shape = self.node.map(|node| node.shape());
        if matches!(shape, Some(Shape::List(_) | Shape::Scalar(_))) {
            while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
            return Ok(self.wrong_type("object"));
        }
        let mut out = Map::new();
        while let Some(Key(key)) = map.next_key()? {
            self.entry(shape, key, &mut map, &mut out)?;
        }
        Ok(Value::Object(out))
    }
}

impl<'s> Place<'s, '_, '_> {
    fn entry<'de, A: MapAccess<'de>>(
        &mut self,
        shape: Option<Shape<'s>>,
        key: String,
        map: &mut A,
        out: &mut Map,
    ) -> Result<(), A::Error> {
        let here = self.path;
        let path = here.child(&key);
        if out.contains_key(&key) {
            self.report.problems.push(format!("duplicate field {}", quote(&path.to_string())));
        }
        let child = self.node.and_then(|node| node.child(&key));
        if child.is_none() && matches!(shape, Some(Shape::Struct(_))) {
            self.report.problems.push(format!("unknown field {}", quote(&path.to_string())));
            map.next_value::<IgnoredAny>()?;
            return Ok(());
        }
        let normalise = self.report.normalise;
        let value = map.next_value_seed(self.below(child, path))?;
        let value = match value {
            Value::Null if matches!(shape, Some(Shape::Map(_))) => zero(child),
            value => value,
        };
        let nothing = value.is_null() || child.is_some_and(|child| means_nothing(&child, &value));
        if normalise && nothing && child.is_some() {
            out.shift_remove(&key);
        } else {
            out.insert(key, value);
        }
        Ok(())
    }
}

/// A map's key: YAML's may be numbers or booleans, which JSON writes as text.
struct Key(String);

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeyVisitor;

        impl Visitor<'_> for KeyVisitor {
            type Value = Key;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a field name")
            }

            fn visit_str<E>(self, value: &str) -> Result<Key, E> {
                Ok(Key(value.to_owned()))
            }

            fn visit_string<E>(self, value: String) -> Result<Key, E> {
                Ok(Key(value))
            }

            fn visit_bool<E>(self, value: bool) -> Result<Key, E> {
                Ok(Key(value.to_string()))
            }

            fn visit_i64<E>(self, value: i64) -> Result<Key, E> {
                Ok(Key(value.to_string()))
            }

            fn visit_u64<E>(self, value: u64) -> Result<Key, E> {
                Ok(Key(value.to_string()))
            }

            fn visit_f64<E>(self, value: f64) -> Result<Key, E> {
                Ok(Key(value.to_string()))
            }
        }

        deserializer.deserialize_any(KeyVisitor)
    }
}
