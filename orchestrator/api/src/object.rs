//! One request's object: an owned JSON tree behind a narrow API, so that the parser under it can be swapped.
//!
//! Paths are dotted field names (`spec.template.spec`); keys that may hold dots themselves (labels, annotations,
//! ConfigMap data) are reached through [`Json::map_at`] and plain lookups. A missing step and a null read alike: `None`.
use bytes::Bytes;

use crate::meta::{Meta, MetaMut};

/// The JSON value the tree is made of. Key order is kept.
pub type Value = serde_json::Value;
/// A JSON object.
pub type Map = serde_json::Map<String, Value>;

/// Reading and writing a tree by dotted path, for any value inside an object.
pub trait Json {
    /// The value at `path`; nulls count as absent.
    fn at(&self, path: &str) -> Option<&Value>;
    /// The value at `path`, to change it; nulls count as absent.
    fn at_mut(&mut self, path: &str) -> Option<&mut Value>;
    /// The value at `path` for writing: missing objects on the way are made, and a missing value starts as null.
    fn ensure(&mut self, path: &str) -> &mut Value;
    /// Takes the value at `path` out.
    fn remove(&mut self, path: &str) -> Option<Value>;

    /// The string at `path`.
    fn str_at(&self, path: &str) -> Option<&str> {
        self.at(path).and_then(Value::as_str)
    }

    /// The string at `path`, empty when absent.
    fn text(&self, path: &str) -> &str {
        self.str_at(path).unwrap_or_default()
    }

    /// The integer at `path`.
    fn i64_at(&self, path: &str) -> Option<i64> {
        self.at(path).and_then(Value::as_i64)
    }

    /// The boolean at `path`.
    fn bool_at(&self, path: &str) -> Option<bool> {
        self.at(path).and_then(Value::as_bool)
    }

    /// Whether the boolean at `path` is there and true.
    fn is_true(&self, path: &str) -> bool {
        self.bool_at(path) == Some(true)
    }

    /// The elements of the list at `path`, none when absent.
    fn list_at(&self, path: &str) -> &[Value] {
        self.at(path).and_then(Value::as_array).map_or(&[], Vec::as_slice)
    }

    /// The elements of the list at `path`, to change them, none when absent.
    fn list_at_mut(&mut self, path: &str) -> &mut [Value] {
        self.at_mut(path).and_then(Value::as_array_mut).map_or(&mut [], Vec::as_mut_slice)
    }

    /// The object at `path`.
    fn map_at(&self, path: &str) -> Option<&Map> {
        self.at(path).and_then(Value::as_object)
    }

    /// The object at `path`, to change it.
    fn map_at_mut(&mut self, path: &str) -> Option<&mut Map> {
        self.at_mut(path).and_then(Value::as_object_mut)
    }

    /// Whether there is a value other than null at `path`.
    fn has(&self, path: &str) -> bool {
        self.at(path).is_some()
    }

    /// Writes `value` at `path`, making the objects on the way.
    fn set(&mut self, path: &str, value: impl Into<Value>)
    where
        Self: Sized,
    {
        *self.ensure(path) = value.into();
    }

    /// Writes `value` at `path` when nothing is there. The value is made only then.
    fn set_default<V: Into<Value>>(&mut self, path: &str, value: impl FnOnce() -> V)
    where
        Self: Sized,
    {
        if !self.has(path) {
            *self.ensure(path) = value().into();
        }
    }
}

impl Json for Value {
    fn at(&self, path: &str) -> Option<&Value> {
        let found = path.split('.').try_fold(self, |value, step| value.get(step))?;
        (!found.is_null()).then_some(found)
    }

    fn at_mut(&mut self, path: &str) -> Option<&mut Value> {
        let found = path.split('.').try_fold(self, |value, step| value.get_mut(step))?;
        (!found.is_null()).then_some(found)
    }

    fn ensure(&mut self, path: &str) -> &mut Value {
        path.split('.').fold(self, |value, step| {
            if !value.is_object() {
                *value = Value::Object(Map::new());
            }
            let Value::Object(map) = value else { unreachable!("the line above made it an object") };
            map.entry(step).or_insert(Value::Null)
        })
    }

    fn remove(&mut self, path: &str) -> Option<Value> {
        let (parent, name) = match path.rsplit_once('.') {
            Some((parent, name)) => (self.at_mut(parent)?, name),
            None => (self, path),
        };
        parent.as_object_mut()?.shift_remove(name)
    }
}

/// An API object: a JSON object with `apiVersion`, `kind`, `metadata` and whatever its kind adds.
#[derive(Clone, Debug, PartialEq)]
pub struct Object {
    root: Value,
}

impl Object {
    /// An object that holds nothing but its type.
    pub fn new(api_version: &str, kind: &str) -> Self {
        let mut root = Map::new();
        root.insert("apiVersion".to_owned(), api_version.into());
        root.insert("kind".to_owned(), kind.into());
        Self { root: Value::Object(root) }
    }

    /// Takes over a tree whose root is a JSON object; gives any other tree back.
    pub fn from_value(root: Value) -> Result<Self, Value> {
        if root.is_object() { Ok(Self { root }) } else { Err(root) }
    }

    /// Parses trusted bytes, e.g. those of the store: no schema, no strictness.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        let root: Map = serde_json::from_slice(bytes)?;
        Ok(Self { root: Value::Object(root) })
    }

    /// The object's one encoding: compact JSON in key order.
    pub fn to_bytes(&self) -> Bytes {
        serde_json::to_vec(&self.root).expect("a JSON tree has string keys and finite numbers only").into()
    }

    /// The whole tree.
    pub fn value(&self) -> &Value {
        &self.root
    }

    /// The whole tree, to change it. Its root must stay a JSON object.
    pub fn value_mut(&mut self) -> &mut Value {
        &mut self.root
    }

    /// Gives the tree away.
    pub fn into_value(self) -> Value {
        self.root
    }

    /// The root's fields.
    pub fn fields(&self) -> &Map {
        self.root.as_object().expect("the root is an object from construction on")
    }

    /// The root's fields, to change them.
    pub fn fields_mut(&mut self) -> &mut Map {
        self.root.as_object_mut().expect("the root is an object from construction on")
    }

    /// The value at a dotted path; nulls count as absent. See [`Json`] for typed reads.
    pub fn get(&self, path: &str) -> Option<&Value> {
        self.root.at(path)
    }

    /// `apiVersion`, empty when absent.
    pub fn api_version(&self) -> &str {
        self.root.text("apiVersion")
    }

    /// `kind`, empty when absent.
    pub fn kind(&self) -> &str {
        self.root.text("kind")
    }

    /// A view of `metadata`.
    pub fn meta(&self) -> Meta<'_> {
        Meta::new(self.root.map_at("metadata"))
    }

    /// A view of `metadata` for writing, which is made when absent.
    pub fn meta_mut(&mut self) -> MetaMut<'_> {
        let metadata = self.fields_mut().entry("metadata").or_insert(Value::Null);
        if !metadata.is_object() {
            *metadata = Value::Object(Map::new());
        }
        MetaMut::new(metadata.as_object_mut().expect("the line above made it an object"))
    }
}

impl Json for Object {
    fn at(&self, path: &str) -> Option<&Value> {
        self.root.at(path)
    }

    fn at_mut(&mut self, path: &str) -> Option<&mut Value> {
        self.root.at_mut(path)
    }

    fn ensure(&mut self, path: &str) -> &mut Value {
        self.root.ensure(path)
    }

    fn remove(&mut self, path: &str) -> Option<Value> {
        self.root.remove(path)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn paths_read_write_and_remove() {
        let mut object = Object::from_value(json!({"spec": {"a": {"b": 1}, "gone": null}})).unwrap();
        assert_eq!(object.i64_at("spec.a.b"), Some(1));
        assert!(!object.has("spec.gone"));
        object.set("spec.new.deep", "x");
        assert_eq!(object.text("spec.new.deep"), "x");
        object.set_default("spec.new.deep", || "y");
        object.set_default("spec.gone", || 3);
        assert_eq!(object.get("spec.gone"), Some(&json!(3)));
        assert_eq!(object.text("spec.new.deep"), "x");
        assert_eq!(object.remove("spec.a.b"), Some(json!(1)));
        assert_eq!(object.remove("no.such"), None);
        assert!(Object::from_value(json!([])).is_err());
    }

    #[test]
    fn key_order_survives_a_removal() {
        let mut object = Object::from_bytes(br#"{"z":1,"y":2,"x":3}"#).unwrap();
        object.remove("z");
        assert_eq!(&object.to_bytes()[..], br#"{"y":2,"x":3}"#);
    }
}
