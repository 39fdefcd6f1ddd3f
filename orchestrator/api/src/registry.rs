//! All kinds a server serves, and how to find one. Immutable: a server that learns a new kind makes a new registry.
use std::collections::HashMap;
use std::sync::Arc;

use crate::kind::{Kind, Text};
use crate::kinds;

/// The kinds of one server.
#[derive(Clone, Debug, Default)]
pub struct Registry {
    kinds: Vec<Arc<Kind>>,
    /// By plural name and by kind; few groups share one. Looked up for every request, so without making keys.
    by_resource: HashMap<Text, Vec<usize>>,
    by_kind: HashMap<Text, Vec<usize>>,
}

impl Registry {
    /// The kinds that every server has.
    pub fn builtin() -> Self {
        Self::new(kinds::builtin())
    }

    /// A registry of these kinds. The first version of a group to appear is its preferred one.
    pub fn new(kinds: impl IntoIterator<Item = Kind>) -> Self {
        let mut registry = Self::default();
        for kind in kinds {
            registry.add(Arc::new(kind));
        }
        registry
    }

    /// The same kinds and more.
    #[must_use]
    pub fn with(&self, kinds: impl IntoIterator<Item = Kind>) -> Self {
        let mut registry = self.clone();
        for kind in kinds {
            registry.add(Arc::new(kind));
        }
        registry
    }

    fn add(&mut self, kind: Arc<Kind>) {
        let position = self.kinds.len();
        self.by_resource.entry(kind.plural.clone()).or_default().push(position);
        self.by_kind.entry(kind.kind.clone()).or_default().push(position);
        self.kinds.push(kind);
    }

    /// All kinds, in order.
    pub fn kinds(&self) -> &[Arc<Kind>] {
        &self.kinds
    }

    /// The kind served at a path.
    pub fn resource(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Kind>> {
        self.find(self.by_resource.get(plural)?, group, version)
    }

    /// The kind of an object.
    pub fn kind(&self, group: &str, version: &str, kind: &str) -> Option<&Arc<Kind>> {
        self.find(self.by_kind.get(kind)?, group, version)
    }

    /// The last one added wins.
    fn find(&self, positions: &[usize], group: &str, version: &str) -> Option<&Arc<Kind>> {
        let kinds = positions.iter().rev().map(|position| &self.kinds[*position]);
        kinds.into_iter().find(|kind| kind.group == group && kind.version == version)
    }

    /// The groups and versions served, in order, core first if it is there.
    pub fn group_versions(&self) -> Vec<(&str, &str)> {
        let mut found: Vec<(&str, &str)> = Vec::new();
        for kind in &self.kinds {
            let pair = (kind.group.as_ref(), kind.version.as_ref());
            if !found.contains(&pair) {
                found.push(pair);
            }
        }
        found
    }

    /// The groups served, in order.
    pub fn groups(&self) -> Vec<&str> {
        let mut groups: Vec<&str> = Vec::new();
        for (group, _) in self.group_versions() {
            if !groups.contains(&group) {
                groups.push(group);
            }
        }
        groups
    }

    /// The kinds of one group and version.
    pub fn in_group_version(&self, group: &str, version: &str) -> impl Iterator<Item = &Arc<Kind>> {
        self.kinds.iter().filter(move |kind| kind.group == group && kind.version == version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_kinds_by_resource_and_by_kind() {
        let registry = Registry::new([
            Kind::new("", "v1", "Pod", "pods"),
            Kind::new("apps", "v1", "Deployment", "deployments"),
        ]);
        assert_eq!(registry.resource("apps", "v1", "deployments").unwrap().kind, "Deployment");
        assert_eq!(registry.kind("", "v1", "Pod").unwrap().plural, "pods");
        assert!(registry.resource("", "v1", "deployments").is_none());
        assert_eq!(registry.groups(), ["", "apps"]);
        let more = registry.with([Kind::new("apps", "v1", "ReplicaSet", "replicasets")]);
        assert_eq!(more.in_group_version("apps", "v1").count(), 2);
        assert_eq!(registry.kinds().len(), 2);
    }
}
