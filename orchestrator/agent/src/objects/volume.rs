//! The volume part of a pod: the sources that a node materialises itself.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{FieldRef, Quantity, ResourceFieldRef};

/// A volume; one source is set.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Volume {
    /// Name that mounts use.
    pub name: String,
    /// Entries of a ConfigMap as files.
    pub config_map: Option<ConfigMapVolume>,
    /// Entries of a Secret as files, in memory.
    pub secret: Option<SecretVolume>,
    /// Fields of the pod as files.
    #[serde(rename = "downwardAPI")]
    pub downward_api: Option<DownwardVolume>,
    /// Several of these in one directory.
    pub projected: Option<ProjectedVolume>,
    /// A directory that lives as long as the pod.
    pub empty_dir: Option<EmptyDirVolume>,
    /// A path of the node.
    pub host_path: Option<HostPathVolume>,
    /// Whatever else the object asks for: named in the error.
    #[serde(flatten)]
    pub other: BTreeMap<String, serde_json::Value>,
}

/// One entry and the file it becomes.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct KeyToPath {
    /// Entry.
    pub key: String,
    /// Relative path.
    pub path: String,
    /// File mode.
    pub mode: Option<u32>,
}

/// Entries of a ConfigMap as files.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct ConfigMapVolume {
    /// ConfigMap name.
    pub name: String,
    /// Selected entries; all when empty.
    pub items: Vec<KeyToPath>,
    /// File mode of entries that set none.
    pub default_mode: Option<u32>,
    /// Absence is no error.
    pub optional: bool,
}

/// Entries of a Secret as files.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct SecretVolume {
    /// Secret name.
    pub secret_name: String,
    /// Selected entries; all when empty.
    pub items: Vec<KeyToPath>,
    /// File mode of entries that set none.
    pub default_mode: Option<u32>,
    /// Absence is no error.
    pub optional: bool,
}

/// Fields of the pod as files.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct DownwardVolume {
    /// Files.
    pub items: Vec<DownwardItem>,
    /// File mode of items that set none.
    pub default_mode: Option<u32>,
}

/// One field and the file it becomes.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct DownwardItem {
    /// Relative path.
    pub path: String,
    /// A field of the pod.
    pub field_ref: Option<FieldRef>,
    /// A request or limit.
    pub resource_field_ref: Option<ResourceFieldRef>,
    /// File mode.
    pub mode: Option<u32>,
}

/// Several sources in one directory.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct ProjectedVolume {
    /// Sources; a later one wins over an earlier of the same path.
    pub sources: Vec<ProjectedSource>,
    /// File mode of items that set none.
    pub default_mode: Option<u32>,
}

/// One source; one field is set.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct ProjectedSource {
    /// Entries of a ConfigMap.
    pub config_map: Option<ProjectedObject>,
    /// Entries of a Secret.
    pub secret: Option<ProjectedObject>,
    /// Fields of the pod.
    #[serde(rename = "downwardAPI")]
    pub downward_api: Option<DownwardVolume>,
    /// A token of the pod's service account.
    pub service_account_token: Option<TokenSource>,
}

/// A ConfigMap or Secret in a projected volume.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct ProjectedObject {
    /// Object name.
    pub name: String,
    /// Selected entries; all when empty.
    pub items: Vec<KeyToPath>,
    /// Absence is no error.
    pub optional: bool,
}

/// A token of the pod's service account.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct TokenSource {
    /// Who the token is for; the API server when empty.
    pub audience: String,
    /// Life of a token.
    pub expiration_seconds: Option<i64>,
    /// Relative path.
    pub path: String,
}

/// A directory that lives as long as the pod.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct EmptyDirVolume {
    /// `Memory` for a tmpfs.
    pub medium: String,
    /// Bound of a tmpfs.
    pub size_limit: Option<Quantity>,
}

/// A path of the node.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct HostPathVolume {
    /// Absolute path.
    pub path: String,
    /// What must be or be made there; empty checks nothing.
    #[serde(rename = "type")]
    pub kind: String,
}
