//! What all projections share: metadata, references, and maps of strings that take little memory.
use std::{fmt, sync::Arc};

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Deserializer, Serialize};

use crate::{HasMeta, Resource, Revision};

pub use map::StringMap;

mod map;

/// An annotation that repeats the whole object; caches leave it out.
pub const LAST_APPLIED_ANNOTATION: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// `metadata` of any object, without `managedFields`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Meta {
    /// Name.
    pub name: Box<str>,
    /// Namespace; empty for cluster-scoped objects.
    pub namespace: Box<str>,
    /// Unique id.
    pub uid: Box<str>,
    /// Revision of the last write; 0 if absent.
    #[serde(deserialize_with = "revision")]
    pub resource_version: Revision,
    /// Counts changes of the desired state.
    pub generation: i64,
    /// When it was made.
    pub creation_timestamp: Option<DateTime<Utc>>,
    /// Set once it is being deleted: when it should be gone.
    pub deletion_timestamp: Option<DateTime<Utc>>,
    /// Grace of its deletion.
    pub deletion_grace_period_seconds: Option<i64>,
    /// Labels.
    #[serde(deserialize_with = "nullable")]
    pub labels: StringMap,
    /// Annotations without [`LAST_APPLIED_ANNOTATION`].
    #[serde(deserialize_with = "annotations")]
    pub annotations: StringMap,
    /// What must happen before it is gone.
    #[serde(deserialize_with = "nullable")]
    pub finalizers: Vec<Box<str>>,
    /// The objects that it lives as long as.
    #[serde(deserialize_with = "nullable")]
    pub owner_references: Vec<OwnerReference>,
}

/// An entry of `metadata.ownerReferences`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct OwnerReference {
    /// The owner's group and version.
    pub api_version: Box<str>,
    /// The owner's kind.
    pub kind: Box<str>,
    /// The owner's name.
    pub name: Box<str>,
    /// The owner's uid.
    pub uid: Box<str>,
    /// Whether the owner manages the object; at most one does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub controller: Option<bool>,
    /// Whether the owner's foreground deletion waits for the object.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub block_owner_deletion: Option<bool>,
}

/// Namespace and name; the namespace is empty for cluster-scoped objects.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey {
    /// Namespace.
    pub namespace: Box<str>,
    /// Name.
    pub name: Box<str>,
}

/// A reference to any object, as Events carry it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ObjectReference {
    /// Group and version.
    pub api_version: String,
    /// Kind.
    pub kind: String,
    /// Namespace.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Unique id.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// A part of the object, such as `spec.containers{web}`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub field_path: String,
}

/// Any object, of which only the metadata is of interest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct PartialObject {
    /// Metadata.
    pub metadata: Meta,
}

impl HasMeta for PartialObject {
    fn meta(&self) -> &Meta {
        &self.metadata
    }
}

// === impl Meta ===

impl Meta {
    /// Namespace and name.
    pub fn key(&self) -> ObjectKey {
        ObjectKey { namespace: self.namespace.clone(), name: self.name.clone() }
    }

    /// Whether deletion has begun.
    pub fn is_deleting(&self) -> bool {
        self.deletion_timestamp.is_some()
    }

    /// The owner that manages the object.
    pub fn controller(&self) -> Option<&OwnerReference> {
        self.owner_references.iter().find(|owner| owner.controller == Some(true))
    }
}

// === impl OwnerReference ===

impl OwnerReference {
    /// The reference of an object that `owner` manages.
    pub fn controller<T: Resource>(owner: &T) -> Self {
        let meta = owner.meta();
        Self {
            api_version: T::api_resource().api_version().into(),
            kind: T::KIND.into(),
            name: meta.name.clone(),
            uid: meta.uid.clone(),
            controller: Some(true),
            block_owner_deletion: Some(true),
        }
    }
}

// === impl ObjectKey ===

impl ObjectKey {
    /// The key of a namespaced object, or of any other with an empty namespace.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.namespace {
            "" => f.write_str(&self.name),
            namespace => write!(f, "{namespace}/{}", self.name),
        }
    }
}

// === impl ObjectReference ===

impl ObjectReference {
    /// The reference to an object.
    pub fn of<T: Resource>(object: &T) -> Self {
        let meta = object.meta();
        Self {
            api_version: T::api_resource().api_version(),
            kind: T::KIND.into(),
            namespace: meta.namespace.to_string(),
            name: meta.name.to_string(),
            uid: meta.uid.to_string(),
            field_path: String::new(),
        }
    }
}

// === reading and writing fields ===

/// For `deserialize_with`: null counts as absent, as everywhere in Kubernetes' JSON.
pub fn nullable<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Option::<T>::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// For `deserialize_with`: many objects repeat the same few strings (phases, node names); still one allocation each,
/// but shared by all that clone the projection.
pub fn shared_str<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Arc<str>, D::Error> {
    Option::<Box<str>>::deserialize(deserializer).map(|text| text.unwrap_or_default().into())
}

fn revision<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Revision, D::Error> {
    let text = Option::<std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
    Ok(text.and_then(|text| text.parse().ok()).unwrap_or_default())
}

fn annotations<'de, D: Deserializer<'de>>(deserializer: D) -> Result<StringMap, D::Error> {
    let mut map: StringMap = nullable(deserializer)?;
    map.remove(LAST_APPLIED_ANNOTATION);
    Ok(map)
}

/// A time as Kubernetes writes it: RFC 3339, whole seconds.
pub fn rfc3339(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Secs, true)
}

/// A time as leases and events carry it: RFC 3339 with microseconds.
pub fn rfc3339_micros(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Micros, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_is_read_leniently() {
        let text = r#"{"metadata":{"name":"a","namespace":"n","uid":"u","resourceVersion":"42","labels":null,
            "creationTimestamp":"2026-01-02T03:04:05Z","ownerReferences":[{"kind":"ReplicaSet","name":"r","uid":"x",
            "controller":true}],"annotations":{"kubectl.kubernetes.io/last-applied-configuration":"{}","k":"v"},
            "managedFields":[{"manager":"m"}]},"spec":{"x":1}}"#;
        let object: PartialObject = serde_json::from_str(text).unwrap();
        let meta = object.metadata;
        assert_eq!(meta.key().to_string(), "n/a");
        assert_eq!((meta.resource_version, meta.labels.len(), meta.annotations.len()), (42, 0, 1));
        assert_eq!(&*meta.controller().unwrap().name, "r");
        assert_eq!(rfc3339(meta.creation_timestamp.unwrap()), "2026-01-02T03:04:05Z");
        assert_eq!(serde_json::from_str::<PartialObject>("{}").unwrap(), PartialObject::default());
    }
}
