//! Views of an object's `metadata`, one to read and one to write.
use crate::object::{Json, Map, Value};

/// A read view of `metadata`. Absent strings read as empty, as Kubernetes' own types do.
#[derive(Clone, Copy, Debug)]
pub struct Meta<'a> {
    map: Option<&'a Map>,
}

/// One entry of `metadata.ownerReferences`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnerReference<'a> {
    /// The owner's `apiVersion`.
    pub api_version: &'a str,
    /// The owner's kind.
    pub kind: &'a str,
    /// The owner's name.
    pub name: &'a str,
    /// The owner's uid.
    pub uid: &'a str,
    /// Whether the owner manages the object.
    pub controller: bool,
    /// Whether the owner's foreground deletion waits for the object.
    pub block_owner_deletion: bool,
}

impl<'a> Meta<'a> {
    pub(crate) fn new(map: Option<&'a Map>) -> Self {
        Self { map }
    }

    /// The field as it stands; nulls count as absent.
    pub fn get(&self, field: &str) -> Option<&'a Value> {
        self.map?.get(field).filter(|value| !value.is_null())
    }

    fn text(&self, field: &str) -> &'a str {
        self.get(field).and_then(Value::as_str).unwrap_or_default()
    }

    /// `name`.
    pub fn name(&self) -> &'a str {
        self.text("name")
    }

    /// `generateName`.
    pub fn generate_name(&self) -> &'a str {
        self.text("generateName")
    }

    /// `namespace`, empty for cluster-scoped objects.
    pub fn namespace(&self) -> &'a str {
        self.text("namespace")
    }

    /// `uid`.
    pub fn uid(&self) -> &'a str {
        self.text("uid")
    }

    /// `resourceVersion`.
    pub fn resource_version(&self) -> &'a str {
        self.text("resourceVersion")
    }

    /// `generation`, 0 when absent.
    pub fn generation(&self) -> i64 {
        self.get("generation").and_then(Value::as_i64).unwrap_or_default()
    }

    /// `creationTimestamp`, in RFC 3339.
    pub fn creation_timestamp(&self) -> Option<&'a str> {
        self.get("creationTimestamp").and_then(Value::as_str)
    }

    /// `deletionTimestamp`, in RFC 3339: the object is being deleted.
    pub fn deletion_timestamp(&self) -> Option<&'a str> {
        self.get("deletionTimestamp").and_then(Value::as_str)
    }

    /// `deletionGracePeriodSeconds`.
    pub fn deletion_grace_period_seconds(&self) -> Option<i64> {
        self.get("deletionGracePeriodSeconds").and_then(Value::as_i64)
    }

    /// `labels`.
    pub fn labels(&self) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
        pairs(self.get("labels"))
    }

    /// One label's value.
    pub fn label(&self, key: &str) -> Option<&'a str> {
        self.get("labels")?.get(key)?.as_str()
    }

    /// `annotations`.
    pub fn annotations(&self) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
        pairs(self.get("annotations"))
    }

    /// One annotation's value.
    pub fn annotation(&self, key: &str) -> Option<&'a str> {
        self.get("annotations")?.get(key)?.as_str()
    }

    /// `finalizers`.
    pub fn finalizers(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        list(self.get("finalizers")).iter().filter_map(Value::as_str)
    }

    /// `ownerReferences`.
    pub fn owner_references(&self) -> impl Iterator<Item = OwnerReference<'a>> + use<'a> {
        list(self.get("ownerReferences")).iter().map(|owner| OwnerReference {
            api_version: owner.text("apiVersion"),
            kind: owner.text("kind"),
            name: owner.text("name"),
            uid: owner.text("uid"),
            controller: owner.is_true("controller"),
            block_owner_deletion: owner.is_true("blockOwnerDeletion"),
        })
    }

    /// The owner that manages the object.
    pub fn controller(&self) -> Option<OwnerReference<'a>> {
        self.owner_references().find(|owner| owner.controller)
    }

    /// `managedFields`, as they stand.
    pub fn managed_fields(&self) -> &'a [Value] {
        list(self.get("managedFields"))
    }
}

fn list(value: Option<&Value>) -> &[Value] {
    value.and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn pairs(value: Option<&Value>) -> impl Iterator<Item = (&str, &str)> {
    let map = value.and_then(Value::as_object);
    map.into_iter().flatten().filter_map(|(key, value)| Some((key.as_str(), value.as_str()?)))
}

/// A write view of `metadata`. Setting an empty string or an empty list removes the field.
#[derive(Debug)]
pub struct MetaMut<'a> {
    map: &'a mut Map,
}

impl<'a> MetaMut<'a> {
    pub(crate) fn new(map: &'a mut Map) -> Self {
        Self { map }
    }

    /// The same fields, to read.
    pub fn view(&self) -> Meta<'_> {
        Meta::new(Some(self.map))
    }

    /// The fields themselves.
    pub fn fields(&mut self) -> &mut Map {
        self.map
    }

    fn set_text(&mut self, field: &str, value: &str) -> &mut Self {
        if value.is_empty() {
            self.map.shift_remove(field);
        } else {
            self.map.insert(field.to_owned(), value.into());
        }
        self
    }

    /// Sets `name`.
    pub fn set_name(&mut self, name: &str) -> &mut Self {
        self.set_text("name", name)
    }

    /// Sets `namespace`.
    pub fn set_namespace(&mut self, namespace: &str) -> &mut Self {
        self.set_text("namespace", namespace)
    }

    /// Sets `uid`.
    pub fn set_uid(&mut self, uid: &str) -> &mut Self {
        self.set_text("uid", uid)
    }

    /// Sets `resourceVersion`.
    pub fn set_resource_version(&mut self, version: &str) -> &mut Self {
        self.set_text("resourceVersion", version)
    }

    /// Sets `creationTimestamp`.
    pub fn set_creation_timestamp(&mut self, time: &str) -> &mut Self {
        self.set_text("creationTimestamp", time)
    }

    /// Sets `deletionTimestamp` and the grace period it was computed with.
    pub fn set_deletion(&mut self, time: &str, grace_seconds: i64) -> &mut Self {
        self.set_text("deletionTimestamp", time);
        self.map.insert("deletionGracePeriodSeconds".to_owned(), grace_seconds.into());
        self
    }

    /// Sets `generation`; 0 removes it.
    pub fn set_generation(&mut self, generation: i64) -> &mut Self {
        if generation == 0 {
            self.map.shift_remove("generation");
        } else {
            self.map.insert("generation".to_owned(), generation.into());
        }
        self
    }

    /// Sets one label.
    pub fn set_label(&mut self, key: &str, value: &str) -> &mut Self {
        self.set_pair("labels", key, value)
    }

    /// Sets one annotation.
    pub fn set_annotation(&mut self, key: &str, value: &str) -> &mut Self {
        self.set_pair("annotations", key, value)
    }

    fn set_pair(&mut self, field: &str, key: &str, value: &str) -> &mut Self {
        let pairs = self.map.entry(field).or_insert(Value::Null);
        if !pairs.is_object() {
            *pairs = Value::Object(Map::new());
        }
        pairs[key] = value.into();
        self
    }

    /// Replaces `finalizers`.
    pub fn set_finalizers(&mut self, finalizers: Vec<String>) -> &mut Self {
        self.set("finalizers", finalizers.into())
    }

    /// Writes any field; a null or an empty list removes it.
    pub fn set(&mut self, field: &str, value: Value) -> &mut Self {
        if value.is_null() || value.as_array().is_some_and(Vec::is_empty) {
            self.map.shift_remove(field);
        } else {
            self.map.insert(field.to_owned(), value);
        }
        self
    }

    /// Takes a field out.
    pub fn remove(&mut self, field: &str) -> Option<Value> {
        self.map.shift_remove(field)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::Object;

    #[test]
    fn reads_and_writes() {
        let mut object = Object::new("v1", "Pod");
        object
            .meta_mut()
            .set_name("a")
            .set_label("k", "v")
            .set_generation(2)
            .set_finalizers(vec!["f".into()]);
        object.meta_mut().set("ownerReferences", json!([{"uid": "u", "name": "o", "controller": true}]));
        assert_eq!(object.meta().name(), "a");
        assert_eq!(object.meta().label("k"), Some("v"));
        assert_eq!(object.meta().labels().collect::<Vec<_>>(), [("k", "v")]);
        assert_eq!(object.meta().controller().unwrap().name, "o");
        object.meta_mut().set_name("").set_generation(0).set_finalizers(Vec::new());
        assert_eq!(object.meta().name(), "");
        assert_eq!(object.meta().finalizers().count(), 0);
        assert_eq!(object.meta().get("generation"), None);
    }
}
