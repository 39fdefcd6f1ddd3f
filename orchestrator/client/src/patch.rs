//! Options of verbs.
use serde::Serialize;

/// How the body of a patch is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patch<'a> {
    /// A list of JSON patch operations.
    Json,
    /// A JSON merge patch: lists are replaced.
    Merge,
    /// A strategic merge patch: lists are merged by their keys. Built-in kinds only.
    Strategic,
    /// Server-side apply: the body is the whole intent of `manager`.
    Apply {
        /// Who owns the fields.
        manager: &'a str,
        /// Whether to take fields over from other managers.
        force: bool,
    },
}

impl Patch<'_> {
    pub(crate) fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/json-patch+json",
            Self::Merge => "application/merge-patch+json",
            Self::Strategic => "application/strategic-merge-patch+json",
            Self::Apply { .. } => "application/apply-patch+yaml",
        }
    }
}

/// Which objects to list or watch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListOptions {
    /// Label selector; empty selects all.
    pub labels: String,
    /// Field selector; empty selects all.
    pub fields: String,
}

/// What happens to the objects that an object owns when it is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Propagation {
    /// They lose the reference and live on.
    Orphan,
    /// The garbage collector deletes them afterwards.
    Background,
    /// The object stays until they are gone.
    Foreground,
}

/// What must be so, or the server refuses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Preconditions {
    /// The object's uid.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// The object's resource version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource_version: Option<String>,
}

/// How to delete.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DeleteOptions {
    /// Overrides the object's own grace period; 0 removes it at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grace_period_seconds: Option<i64>,
    /// What happens to dependents; the kind's default if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub propagation_policy: Option<Propagation>,
    /// What must be so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preconditions: Option<Preconditions>,
}

impl DeleteOptions {
    /// Deletes this very object, not another one that has its name meanwhile.
    pub fn uid(uid: &str) -> Self {
        let preconditions = Preconditions { uid: Some(uid.into()), ..Preconditions::default() };
        Self { preconditions: Some(preconditions), ..Self::default() }
    }

    /// The same with a grace period.
    pub fn grace(self, seconds: i64) -> Self {
        Self { grace_period_seconds: Some(seconds), ..self }
    }

    /// The same with a rule for dependents.
    pub fn propagation(self, policy: Propagation) -> Self {
        Self { propagation_policy: Some(policy), ..self }
    }
}
