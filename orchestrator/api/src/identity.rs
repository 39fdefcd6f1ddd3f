//! Who sends a request: what authentication found out, handed on in `http::Extensions`.
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The group that every authenticated user belongs to.
pub const AUTHENTICATED: &str = "system:authenticated";
/// The group that may do everything.
pub const MASTERS: &str = "system:masters";
/// The group of the nodes.
pub const NODES: &str = "system:nodes";
/// What a node's user name starts with; the node's name follows.
pub const NODE_USER_PREFIX: &str = "system:node:";

/// An authenticated identity.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct UserInfo {
    /// The user's name, e.g. `admin` or `system:node:node-1`.
    #[serde(rename = "username")]
    pub name: String,
    /// A stable id where the authenticator has one.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// The groups the user belongs to.
    pub groups: Vec<String>,
    /// What else the authenticator knows.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub extra: BTreeMap<String, Vec<String>>,
}

impl UserInfo {
    /// A user in the given groups, and in `system:authenticated` as every user is.
    pub fn new<S: Into<String>>(name: impl Into<String>, groups: impl IntoIterator<Item = S>) -> Self {
        let mut groups: Vec<String> = groups.into_iter().map(Into::into).collect();
        if !groups.iter().any(|group| group == AUTHENTICATED) {
            groups.push(AUTHENTICATED.to_owned());
        }
        Self { name: name.into(), groups, ..Self::default() }
    }

    /// Whether the user belongs to `group`.
    pub fn in_group(&self, group: &str) -> bool {
        self.groups.iter().any(|own| own == group)
    }

    /// Whether the user may do everything.
    pub fn is_master(&self) -> bool {
        self.in_group(MASTERS)
    }

    /// The node's name when the user is a node.
    pub fn node_name(&self) -> Option<&str> {
        self.name.strip_prefix(NODE_USER_PREFIX).filter(|name| !name.is_empty() && self.in_group(NODES))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_a_node_only_in_its_group() {
        assert_eq!(UserInfo::new("system:node:a", [NODES]).node_name(), Some("a"));
        assert_eq!(UserInfo::new("system:node:a", ["other"]).node_name(), None);
        assert_eq!(UserInfo::new("system:node:", [NODES]).node_name(), None);
        assert!(UserInfo::new("admin", [MASTERS]).is_master());
        assert!(UserInfo::new("x", [""; 0]).in_group(AUTHENTICATED));
    }
}
