//! The resources that this server serves: each kind with its place in the store and its cache.

use std::collections::HashMap;
use std::sync::Arc;

use api::selectors::{FieldSelector, LabelSelector};
use api::{ApiError, Kind, Registry};
use bytes::Bytes;
use store::{Classes, Revision, StorageClass};
use tokio::sync::watch;

use crate::cache::feed::REGISTRY;
use crate::cache::{Entry, ResourceCache, Scope};

/// One resource.
#[derive(Debug)]
pub struct Resource {
    /// What is known about it.
    pub kind: Arc<Kind>,
    /// Its objects. Kinds that are only posted have none.
    pub cache: Option<Arc<ResourceCache>>,
    /// The kind whose objects these are, when this is a second view of them.
    stored: Arc<Kind>,
    prefix: String,
}

/// All resources, found by the parts of a path without building a key.
#[derive(Debug, Default)]
pub struct Resources {
    by_plural: HashMap<String, Vec<Arc<Resource>>>,
    all: Vec<Arc<Resource>>,
}

// === impl Resources ===

impl Resources {
    /// A resource and, where it is stored, a cache for every kind. Kinds that share their objects share the cache.
    pub fn new(registry: &Registry, observed: &watch::Receiver<Revision>) -> Self {
        let mut caches: HashMap<String, Arc<ResourceCache>> = HashMap::new();
        let mut resources = Self::default();
        for kind in registry.kinds() {
            let stored = stored_kind(registry, kind);
            let prefix = prefix_of(&stored);
            let cache = kind.is_stored().then(|| {
                let new = || ResourceCache::new(prefix.clone(), &stored.selectable_fields, observed.clone());
                caches.entry(prefix.clone()).or_insert_with(new).clone()
            });
            let resource = Arc::new(Resource { kind: kind.clone(), cache, stored, prefix });
            resources.by_plural.entry(kind.plural.to_string()).or_default().push(resource.clone());
            resources.all.push(resource);
        }
        resources
    }

    /// The resource at a path.
    pub fn find(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Resource>> {
        let same = self.by_plural.get(plural)?;
        same.iter().find(|resource| resource.kind.group == group && resource.kind.version == version)
    }

    /// A core/v1 or otherwise certain resource.
    pub fn cache(&self, group: &str, plural: &str) -> Option<&Arc<ResourceCache>> {
        let same = self.by_plural.get(plural)?;
        same.iter().find(|resource| resource.kind.group == group)?.cache.as_ref()
    }

    /// The place of a selectable field among the extracted keys of a resource.
    pub fn field(&self, group: &str, plural: &str, field: &str) -> Option<usize> {
        let resource = self.by_plural.get(plural)?.iter().find(|resource| resource.kind.group == group)?;
        resource.stored.selectable_fields.iter().position(|own| own.name == field)
    }

    /// All resources.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.all.iter()
    }

    /// The caches by their place in the store, for the feed.
    pub fn caches(&self) -> HashMap<String, Arc<ResourceCache>> {
        let stored = self.all.iter().filter_map(|resource| Some((resource, resource.cache.clone()?)));
        stored.map(|(resource, cache)| (place_of(&resource.stored), cache)).collect()
    }
}

fn stored_kind(registry: &Registry, kind: &Arc<Kind>) -> Arc<Kind> {
    let (group, plural) = &kind.stored_as;
    let own = kind.group == *group && kind.plural == *plural;
    let found = registry.kinds().iter().find(|k| !own && k.group == *group && k.plural == *plural);
    found.unwrap_or(kind).clone()
}

/// `core/pods`, `apps/deployments`: the middle of a key.
fn place_of(kind: &Kind) -> String {
    let group = if kind.group.is_empty() { "core" } else { &kind.group };
    format!("{group}/{}", kind.plural)
}

/// Where a kind's objects are in the store, with the final slash.
pub fn prefix_of(kind: &Kind) -> String {
    format!("{REGISTRY}{}/", place_of(kind))
}

/// Which keys of the store are not durable: events, leases, and the servers' own.
pub fn storage_classes(registry: &Registry) -> Classes {
    let of_kinds = registry.kinds().iter().filter_map(|kind| match kind.storage {
        api::StorageClass::Durable => None,
        api::StorageClass::Event => Some((prefix_of(kind), StorageClass::Event)),
        api::StorageClass::Lease => Some((prefix_of(kind), StorageClass::Lease)),
    });
    let servers = (format!("{REGISTRY}{}/", crate::servers::SERVERS), StorageClass::Lease);
    Classes::new(of_kinds.chain([servers]))
}

// === impl Resource ===

impl Resource {
    /// The cache, or the error for kinds that have no objects.
    pub fn objects(&self) -> Result<&Arc<ResourceCache>, ApiError> {
        self.cache.as_ref().ok_or_else(|| ApiError::method_not_allowed(&*self.kind, "get"))
    }

    /// Whether objects are stored in another kind's shape.
    pub fn is_view(&self) -> bool {
        !Arc::ptr_eq(&self.kind, &self.stored)
    }

    /// The kind in whose shape objects are stored.
    pub fn stored(&self) -> &Arc<Kind> {
        &self.stored
    }

    /// Where the resource's keys start.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The path of an object below the prefix.
    pub fn path(&self, namespace: &str, name: &str) -> String {
        if self.kind.is_namespaced() { format!("{namespace}/{name}") } else { name.to_owned() }
    }

    /// The key of an object.
    pub fn key(&self, namespace: &str, name: &str) -> Bytes {
        let mut key = String::with_capacity(self.prefix.len() + namespace.len() + name.len() + 1);
        key.push_str(&self.prefix);
        if self.kind.is_namespaced() {
            key.push_str(namespace);
            key.push('/');
        }
        key.push_str(name);
        key.into()
    }

    /// What a list or watch of a namespace (empty for all) with selectors may see.
    pub fn scope(&self, namespace: &str, labels: &str, fields: &str) -> Result<Scope, ApiError> {
        let labels = LabelSelector::parse(labels).map_err(ApiError::bad_request)?;
        let fields = FieldSelector::parse(fields).map_err(ApiError::bad_request)?;
        fields.check(&self.kind).map_err(ApiError::bad_request)?;
        let namespaced = self.kind.is_namespaced();
        let namespace = match fields.exact("metadata.namespace") {
            Some(selected) if namespace.is_empty() => selected,
            _ => namespace,
        };
        let mut prefix = String::new();
        if namespaced && !namespace.is_empty() {
            prefix = format!("{namespace}/");
        }
        if let Some(name) = fields.exact("metadata.name").filter(|_| !namespaced || !prefix.is_empty()) {
            // Longer names share the prefix; the filter tells them apart.
            prefix.push_str(name);
        }
        if labels.is_everything() && fields.is_empty() {
            return Ok(Scope::new(prefix, None));
        }
        let reader = FieldReader::new(&fields, &self.stored);
        let filter = move |entry: &Entry| {
            labels.matches(|key| entry.facts().label(key))
                && fields.matches_with(|field| Some(reader.read(entry, field)))
        };
        Ok(Scope::new(prefix, Some(Box::new(filter))))
    }
}

/// Reads the fields of one selector from extracted keys.
struct FieldReader {
    places: Vec<(String, usize)>,
}

impl FieldReader {
    fn new(selector: &FieldSelector, stored: &Kind) -> Self {
        let names = selector.requirements.iter().map(|requirement| requirement.field.clone());
        let place = |name: String| {
            let at = stored.selectable_fields.iter().position(|field| field.name == name)?;
            Some((name, at))
        };
        Self { places: names.filter_map(place).collect() }
    }

    fn read<'e>(&self, entry: &'e Entry, field: &str) -> &'e str {
        match field {
            "metadata.name" => entry.name(),
            "metadata.namespace" => entry.namespace(),
            _ => {
                let place = self.places.iter().find(|(name, _)| name == field);
                place.map_or("", |(_, at)| &entry.facts().fields[*at])
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use api::SelectableField;
    use store::KeyValue;

    use super::*;

    fn pods() -> (Resources, Arc<ResourceCache>) {
        let kind = Kind::new("", "v1", "Pod", "pods").selectable([SelectableField::new("spec.nodeName")]);
        let (_, observed) = watch::channel(0);
        let resources = Resources::new(&Registry::new([kind]), &observed);
        let cache = resources.cache("", "pods").unwrap().clone();
        (resources, cache)
    }

    fn entry(cache: &ResourceCache, namespace: &str, name: &str, node: &str) -> Arc<Entry> {
        let value =
            format!(r#"{{"metadata":{{"labels":{{"app":"{name}"}}}},"spec":{{"nodeName":"{node}"}}}}"#);
        let key = format!("/registry/core/pods/{namespace}/{name}").into();
        cache
            .entry(KeyValue { key, value: value.into(), create_revision: 1, mod_revision: 1, version: 1 })
            .unwrap()
    }

    #[test]
    fn scopes_select_by_namespace_labels_and_fields() {
        let (resources, cache) = pods();
        let pods = resources.find("", "v1", "pods").unwrap();
        assert_eq!(pods.key("a", "x"), "/registry/core/pods/a/x");
        let sees = |namespace: &str, labels: &str, fields: &str, entry: &Entry| {
            pods.scope(namespace, labels, fields).unwrap().contains(entry)
        };
        let pod = entry(&cache, "a", "x", "n1");
        assert!(sees("", "", "", &pod) && sees("a", "app=x", "spec.nodeName=n1", &pod));
        assert!(!sees("b", "", "", &pod) && !sees("", "app!=x", "", &pod));
        assert!(!sees("", "", "spec.nodeName=n2", &pod) && sees("", "", "spec.nodeName!=n2", &pod));
        assert!(sees("a", "", "metadata.name=x", &pod) && sees("", "", "metadata.namespace=a", &pod));
        assert!(!sees("a", "", "metadata.name=x", &entry(&cache, "a", "xy", "n1")));
        assert!(pods.scope("", "", "spec.other=1").is_err() && pods.scope("", "a in", "").is_err());
    }
}
