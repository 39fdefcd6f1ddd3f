//! What the server serves, as clients ask for it: `/api`, `/apis`, a group, a group's version, and all at once
//! (aggregated discovery).
use serde_json::json;

use crate::kind::{Kind, Subresource, group_version};
use crate::object::{Map, Value};
use crate::registry::Registry;

/// The aggregated document's versions, which differ in nothing but their name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aggregated {
    /// `apidiscovery.k8s.io/v2`.
    V2,
    /// `apidiscovery.k8s.io/v2beta1`.
    V2Beta1,
}

impl Aggregated {
    /// The version that one alternative of an `Accept` header asks for, e.g.
    /// `application/json;v=v2;g=apidiscovery.k8s.io;as=APIGroupDiscoveryList`.
    pub fn from_accept(alternative: &str) -> Option<Self> {
        let mut parts = alternative.split(';').map(str::trim);
        let media_type = parts.next()?;
        let parameters: Vec<&str> = parts.collect();
        let has = |parameter: &str| parameters.contains(&parameter);
        if media_type != "application/json"
            || !has("g=apidiscovery.k8s.io")
            || !has("as=APIGroupDiscoveryList")
        {
            return None;
        }
        match (has("v=v2"), has("v=v2beta1")) {
            (true, _) => Some(Self::V2),
            (_, true) => Some(Self::V2Beta1),
            _ => None,
        }
    }

    /// The response's content type.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::V2 => "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
            Self::V2Beta1 => "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList",
        }
    }

    const fn api_version(self) -> &'static str {
        match self {
            Self::V2 => "apidiscovery.k8s.io/v2",
            Self::V2Beta1 => "apidiscovery.k8s.io/v2beta1",
        }
    }
}

/// `GET /api`: the versions of the core group. `server` is an address that clients reach the server at.
pub fn core_versions(registry: &Registry, server: &str) -> Value {
    json!({
        "kind": "APIVersions",
        "versions": versions(registry, ""),
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": server}],
    })
}

/// `GET /apis`: all groups but core.
pub fn groups(registry: &Registry) -> Value {
    let groups = named_groups(registry).filter_map(|group| group_body(registry, group));
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups.collect::<Vec<_>>()})
}

/// `GET /apis/GROUP`; `None` if it is not served.
pub fn group(registry: &Registry, group: &str) -> Option<Value> {
    let Value::Object(body) = group_body(registry, group).filter(|_| !group.is_empty())? else { return None };
    let mut value = Map::new();
    value.insert("kind".to_owned(), "APIGroup".into());
    value.insert("apiVersion".to_owned(), "v1".into());
    value.extend(body);
    Some(Value::Object(value))
}

/// `GET /api/VERSION`, `GET /apis/GROUP/VERSION`: the resources; `None` if it is not served.
pub fn resources(registry: &Registry, group: &str, version: &str) -> Option<Value> {
    let mut kinds: Vec<&Kind> = registry.in_group_version(group, version).map(AsRef::as_ref).collect();
    if kinds.is_empty() {
        return None;
    }
    kinds.sort_by(|a, b| a.plural.cmp(&b.plural));
    let resources: Vec<Value> = kinds.into_iter().flat_map(resource_entries).collect();
    Some(json!({
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": group_version(group, version),
        "resources": resources,
    }))
}

/// Aggregated discovery: with `core` what `GET /api` answers, else what `GET /apis` answers.
pub fn aggregated(registry: &Registry, core: bool, form: Aggregated) -> Value {
    let groups: Vec<&str> = if core { vec![""] } else { named_groups(registry).collect() };
    let items: Vec<Value> = groups.into_iter().map(|group| aggregated_group(registry, group)).collect();
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": form.api_version(), "metadata": {}, "items": items})
}

fn named_groups(registry: &Registry) -> impl Iterator<Item = &str> {
    registry.groups().into_iter().filter(|group| !group.is_empty())
}

fn versions<'r>(registry: &'r Registry, group: &str) -> Vec<&'r str> {
    let all = registry.group_versions().into_iter();
    all.filter(|(own, _)| *own == group).map(|(_, version)| version).collect()
}

fn group_body(registry: &Registry, group: &str) -> Option<Value> {
    let versions: Vec<Value> = versions(registry, group)
        .into_iter()
        .map(|version| json!({"groupVersion": group_version(group, version), "version": version}))
        .collect();
    let preferred = versions.first()?.clone();
    Some(json!({"name": group, "versions": versions, "preferredVersion": preferred}))
}

fn resource_entries(kind: &Kind) -> Vec<Value> {
    let mut entry = json!({
        "name": kind.plural,
        "singularName": kind.singular,
        "namespaced": kind.is_namespaced(),
        "kind": kind.kind,
        "verbs": kind.verbs,
    });
    for (name, list) in [("shortNames", &kind.short_names), ("categories", &kind.categories)] {
        if !list.is_empty() {
            entry[name] = json!(list);
        }
    }
    if kind.is_stored() {
        entry["storageVersionHash"] = storage_hash(kind).into();
    }
    let parts = kind.subresources.iter().map(|part| subresource_entry(kind, part));
    std::iter::once(entry).chain(parts).collect()
}

fn subresource_entry(kind: &Kind, part: &Subresource) -> Value {
    let mut entry = json!({
        "name": format!("{}/{}", kind.plural, part.name),
        "singularName": "",
        "namespaced": kind.is_namespaced(),
    });
    if (&part.group, &part.version) != (&kind.group, &kind.version) {
        entry["group"] = part.group.as_ref().into();
        entry["version"] = part.version.as_ref().into();
    }
    entry["kind"] = part.kind.as_ref().into();
    entry["verbs"] = json!(part.verbs);
    entry
}

/// Changes when the stored form of the resource does. Opaque to clients: any stable short text will do.
fn storage_hash(kind: &Kind) -> String {
    use base64::Engine as _;
    let text = format!("{}/{}/{}", kind.stored_as.0, kind.version, kind.stored_as.1);
    // FNV-1a, because it must be the same in every build and process.
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    base64::engine::general_purpose::STANDARD.encode(hash.to_be_bytes())
}

fn aggregated_group(registry: &Registry, group: &str) -> Value {
    let versions: Vec<Value> = versions(registry, group)
        .into_iter()
        .map(|version| {
            let mut kinds: Vec<&Kind> =
                registry.in_group_version(group, version).map(AsRef::as_ref).collect();
            kinds.sort_by(|a, b| a.plural.cmp(&b.plural));
            let resources: Vec<Value> = kinds.into_iter().map(aggregated_resource).collect();
            json!({"version": version, "resources": resources, "freshness": "Current"})
        })
        .collect();
    let metadata = if group.is_empty() { json!({}) } else { json!({"name": group}) };
    json!({"metadata": metadata, "versions": versions})
}

fn aggregated_resource(kind: &Kind) -> Value {
    let response =
        |group: &str, version: &str, kind: &str| json!({"group": group, "version": version, "kind": kind});
    let mut entry = json!({
        "resource": kind.plural,
        "responseKind": response(&kind.group, &kind.version, &kind.kind),
        "scope": if kind.is_namespaced() { "Namespaced" } else { "Cluster" },
        "singularResource": kind.singular,
        "verbs": kind.verbs,
    });
    for (name, list) in [("shortNames", &kind.short_names), ("categories", &kind.categories)] {
        if !list.is_empty() {
            entry[name] = json!(list);
        }
    }
    let parts = kind.subresources.iter().map(|part| {
        json!({
            "subresource": part.name,
            "responseKind": response(&part.group, &part.version, &part.kind),
            "verbs": part.verbs,
        })
    });
    let parts: Vec<Value> = parts.collect();
    if !parts.is_empty() {
        entry["subresources"] = Value::Array(parts);
    }
    entry
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kind::ScalePaths;

    fn registry() -> Registry {
        Registry::new([
            Kind::new("", "v1", "Pod", "pods").short_names(&["po"]).categories(&["all"]).status(),
            Kind::new("", "v1", "Binding", "bindings").verbs(&["create"]),
            Kind::new("apps", "v1", "Deployment", "deployments").scale(ScalePaths::default()),
        ])
    }

    #[test]
    fn resources_of_a_version() {
        let list = resources(&registry(), "", "v1").unwrap();
        assert_eq!(list["groupVersion"], "v1");
        let names: Vec<_> =
            list["resources"].as_array().unwrap().iter().map(|entry| entry["name"].clone()).collect();
        assert_eq!(names, ["bindings", "pods", "pods/status"]);
        assert_eq!(list["resources"][1]["shortNames"], json!(["po"]));
        assert!(list["resources"][0].get("storageVersionHash").is_none());
        let list = resources(&registry(), "apps", "v1").unwrap();
        let scale = &list["resources"][1];
        assert_eq!(
            (&scale["group"], &scale["version"], &scale["kind"]),
            (&json!("autoscaling"), &json!("v1"), &json!("Scale"))
        );
        assert!(resources(&registry(), "apps", "v2").is_none());
    }

    #[test]
    fn groups_and_versions() {
        assert_eq!(core_versions(&registry(), "10.0.0.1:6443")["versions"], json!(["v1"]));
        assert_eq!(groups(&registry())["groups"][0]["preferredVersion"]["groupVersion"], "apps/v1");
        assert_eq!(group(&registry(), "apps").unwrap()["kind"], "APIGroup");
        assert!(group(&registry(), "").is_none() && group(&registry(), "none").is_none());
    }

    #[test]
    fn everything_at_once() {
        let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
        let form = Aggregated::from_accept(accept).unwrap();
        assert_eq!(form, Aggregated::V2);
        assert_eq!(Aggregated::from_accept("application/json"), None);
        let core = aggregated(&registry(), true, form);
        assert_eq!(
            core["items"][0]["versions"][0]["resources"][1]["subresources"][0]["subresource"],
            "status"
        );
        let named = aggregated(&registry(), false, form);
        assert_eq!(named["items"][0]["metadata"]["name"], "apps");
        assert_eq!(named["apiVersion"], "apidiscovery.k8s.io/v2");
    }
}
