//! A cursor over an object's tree that knows where it stands.
//!
//! Validation, defaulting decisions and printing read objects only through it. A step costs no allocation: the path is a
//! chain of borrowed steps, written out only when an error is reported. `null` reads as absent, as it does for Kubernetes'
//! own typed decoder.

use crate::field::Path;
use crate::object::{Map, Value};

/// One place in an object, present or not.
#[derive(Clone, Copy, Debug)]
pub struct View<'a, 'p> {
    value: Option<&'a Value>,
    path: Path<'p>,
}

impl<'a, 'p> View<'a, 'p> {
    /// The root of a tree; its path is empty.
    pub fn root(value: &'a Value) -> Self {
        Self { value: Some(value), path: Path::new("") }
    }

    /// A field of an object by its JSON name.
    pub fn get<'q>(&'q self, name: &'q str) -> View<'a, 'q> {
        let value = self.value.and_then(|value| value.get(name)).filter(|value| !value.is_null());
        View { value, path: self.path.child(name) }
    }

    /// An entry of a map, written `path[key]`.
    pub fn key<'q>(&'q self, key: &'q str) -> View<'a, 'q> {
        View { value: self.get(key).value, path: self.path.key(key) }
    }

    /// An item of a list, written `path[index]`.
    pub fn at<'q>(&'q self, index: usize) -> View<'a, 'q> {
        let value = self.value.and_then(|value| value.get(index)).filter(|value| !value.is_null());
        View { value, path: self.path.index(index) }
    }

    /// The items of a list; none when the list is absent.
    pub fn items<'q>(&'q self) -> impl DoubleEndedIterator<Item = View<'a, 'q>> + ExactSizeIterator {
        (0..self.len_of_list()).map(|index| self.at(index))
    }

    /// The entries of a map in the order in which they are written.
    pub fn entries<'q>(&'q self) -> impl Iterator<Item = (&'a str, View<'a, 'q>)>
    where
        'a: 'q,
    {
        self.map().into_iter().flatten().map(|(key, value)| {
            let value = Some(value).filter(|value| !value.is_null());
            (key.as_str(), View { value, path: self.path.key(key) })
        })
    }

    /// The map itself, when this is one.
    pub fn map(&self) -> Option<&'a Map> {
        self.value.and_then(Value::as_object)
    }

    /// The tree below this place, when there is one.
    pub fn raw(&self) -> Option<&'a Value> {
        self.value
    }

    /// A copy of the tree below this place, for an error's value; null when absent.
    pub fn copy(&self) -> Value {
        self.value.cloned().unwrap_or_default()
    }

    /// True when the field is written and not `null`.
    pub fn exists(&self) -> bool {
        self.value.is_some()
    }

    /// True when absent, or an empty string, list or map.
    pub fn is_empty(&self) -> bool {
        match self.value {
            None => true,
            Some(Value::String(text)) => text.is_empty(),
            Some(Value::Array(items)) => items.is_empty(),
            Some(Value::Object(map)) => map.is_empty(),
            Some(_) => false,
        }
    }

    /// Items of a list or entries of a map.
    pub fn len(&self) -> usize {
        self.map().map_or_else(|| self.len_of_list(), Map::len)
    }

    fn len_of_list(&self) -> usize {
        self.value.and_then(Value::as_array).map_or(0, Vec::len)
    }

    /// The string, empty when absent.
    pub fn text(&self) -> &'a str {
        self.value.and_then(Value::as_str).unwrap_or_default()
    }

    /// The string, when it is written.
    pub fn text_opt(&self) -> Option<&'a str> {
        self.value.and_then(Value::as_str)
    }

    /// The integer, when it is written.
    pub fn int(&self) -> Option<i64> {
        self.value.and_then(Value::as_i64)
    }

    /// The boolean, false when absent.
    pub fn flag(&self) -> bool {
        self.value.and_then(Value::as_bool).unwrap_or_default()
    }

    /// True when the field holds this string.
    pub fn is(&self, text: &str) -> bool {
        self.text_opt() == Some(text)
    }

    /// Where this is, as errors name it.
    pub fn path(&self) -> &Path<'p> {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_path_is_written_as_kubernetes_writes_it() {
        let object = json!({"spec": {"containers": [{"resources": {"limits": {"cpu": "1"}}}]}});
        let root = View::root(&object);
        let spec = root.get("spec");
        let containers = spec.get("containers");
        let first = containers.at(0);
        let resources = first.get("resources");
        let limits = resources.get("limits");
        assert_eq!(limits.key("cpu").path().to_string(), "spec.containers[0].resources.limits[cpu]");
        assert_eq!(limits.key("cpu").text(), "1");
    }

    #[test]
    fn null_reads_as_absent() {
        let object = json!({"a": null, "b": [null]});
        let root = View::root(&object);
        assert!(!root.get("a").exists());
        assert!(!root.get("b").at(0).exists());
        assert_eq!(root.get("b").len(), 1);
    }
}
