//! What a node may do: read what it needs, write itself, its lease, its pods' status, and events.

use std::collections::HashSet;

use serde_json::Value;

use api::Json;

use super::Selectors;
use crate::cache::{Entry, Scope};
use crate::request_info::{RequestInfo, Verb};
use crate::resources::Resources;

/// Namespace of the nodes' leases.
pub const LEASE_NAMESPACE: &str = "kube-node-lease";

/// Resources that every node needs to program its network and run its pods.
const READABLE: &[(&str, &str)] = &[
    ("", "endpoints"),
    ("", "namespaces"),
    ("", "nodes"),
    ("", "pods"),
    ("", "serviceaccounts"),
    ("", "services"),
    ("coordination.k8s.io", "leases"),
    ("discovery.k8s.io", "endpointslices"),
    ("networking.k8s.io", "networkpolicies"),
    ("node.k8s.io", "runtimeclasses"),
];

/// Decides; the error says why not.
pub fn authorize(
    node: &str,
    info: &RequestInfo,
    selectors: Selectors<'_>,
    resources: &Resources,
) -> Result<(), String> {
    let resource = (info.group.as_str(), info.resource.as_str());
    if info.verb.is_read() && info.subresource.is_empty() {
        return may_read(node, info, resource, selectors, resources);
    }
    let own = |allowed: bool, what: &str| {
        if allowed { Ok(()) } else { Err(format!("node {node:?} can only {what}")) }
    };
    let writes = matches!(info.verb, Verb::Update | Verb::Patch);
    match (resource, info.subresource.as_str()) {
        (("", "nodes"), "" | "status") if writes => own(info.name == node, "change itself"),
        // The name of what is created is in the body, where admission looks at it.
        (("", "nodes"), "") if info.verb == Verb::Create => Ok(()),
        (("", "pods"), "status") => {
            own(writes && owns_pod(node, info, resources), "change the status of its pods")
        }
        (("", "pods"), "") if info.verb == Verb::Delete => {
            own(owns_pod(node, info, resources), "delete its pods")
        }
        (("coordination.k8s.io", "leases"), "") => {
            let create = info.verb == Verb::Create;
            own(info.namespace == LEASE_NAMESPACE && (create || info.name == node), "write its own lease")
        }
        (("", "events") | ("events.k8s.io", "events"), "") => {
            own(writes || info.verb == Verb::Create, "create and update events")
        }
        (("", "serviceaccounts"), "token") => {
            let account = (info.namespace.as_str(), info.name.as_str());
            own(uses(node, account, Use::ServiceAccount, resources), "ask for tokens of its pods' accounts")
        }
        (("certificates.k8s.io", "certificatesigningrequests"), "") => {
            own(info.verb == Verb::Create, "create certificate requests")
        }
        (("bowsprit.dev", "nodelink"), "") => own(info.name == node, "report for itself"),
        (("bowsprit.dev", "nodes"), "flows" | "timeline") => {
            own(info.name == node, "read what it has seen itself")
        }
        _ => Err(format!("node {node:?} has no such permission")),
    }
}

fn may_read(
    node: &str,
    info: &RequestInfo,
    resource: (&str, &str),
    selectors: Selectors<'_>,
    resources: &Resources,
) -> Result<(), String> {
    if READABLE.contains(&resource) || resource == ("bowsprit.dev", "nodelink") && info.name == node {
        return Ok(());
    }
    let named = if info.name.is_empty() { selected_name(selectors.fields) } else { &info.name };
    let object = (info.namespace.as_str(), named);
    let allowed = match resource {
        ("", "secrets") => uses(node, object, Use::Secret, resources),
        ("", "configmaps") => uses(node, object, Use::ConfigMap, resources),
        ("certificates.k8s.io", "certificatesigningrequests") => {
            is_requestor(&format!("{}{node}", api::identity::NODE_USER_PREFIX), named, resources)
        }
        _ => return Err(format!("node {node:?} has no such permission")),
    };
    match allowed {
        true => Ok(()),
        false => Err(format!("no relationship found between node {node:?} and this object")),
    }
}

/// The name that a field selector narrows a list down to.
fn selected_name(fields: &str) -> &str {
    fields
        .split(',')
        .find_map(|term| term.strip_prefix("metadata.name="))
        .unwrap_or_default()
        .trim_start_matches('=')
}

fn owns_pod(node: &str, info: &RequestInfo, resources: &Resources) -> bool {
    let Some(pods) = resources.cache("", "pods") else { return false };
    let pod = pods.get(&format!("{}/{}", info.namespace, info.name));
    // Of a pod that is gone the answer is 404, not 403.
    pod.is_none_or(|pod| runs_on(&pod, node))
}

/// Whether a pod is bound to a node.
pub fn runs_on(pod: &Entry, node: &str) -> bool {
    serde_json::from_slice::<Value>(pod.value()).is_ok_and(|pod| pod.text("spec.nodeName") == node)
}

/// Whether a user made a certificate request.
pub fn is_requestor(user: &str, name: &str, resources: &Resources) -> bool {
    let requests = resources.cache("certificates.k8s.io", "certificatesigningrequests");
    let Some(request) = requests.and_then(|requests| requests.get(name)) else { return true };
    serde_json::from_slice::<Value>(request.value())
        .is_ok_and(|request| request.text("spec.username") == user)
}

#[derive(Clone, Copy)]
enum Use {
    Secret,
    ConfigMap,
    ServiceAccount,
}

/// Whether a pod of the node refers to an object.
fn uses(node: &str, (namespace, name): (&str, &str), what: Use, resources: &Resources) -> bool {
    let Some(pods) = resources.cache("", "pods").filter(|_| !namespace.is_empty() && !name.is_empty()) else {
        return false;
    };
    let needle = format!("{name:?}");
    let mentions = move |pod: &Entry| {
        // Nearly all pods are ruled out without parsing them.
        memmem(pod.value(), needle.as_bytes())
    };
    let scope = Scope::new(format!("{namespace}/"), Some(Box::new(mentions)));
    pods.list(&scope, None, 0).entries.iter().any(|pod| {
        let Ok(pod) = serde_json::from_slice::<Value>(pod.value()) else { return false };
        pod.text("spec.nodeName") == node && references(&pod, what).contains(name)
    })
}

fn memmem(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

/// The names of one kind that a pod refers to.
fn references(pod: &Value, what: Use) -> HashSet<&str> {
    let mut names = HashSet::new();
    let (volume, name, projected, env, env_from) = match what {
        Use::ServiceAccount => {
            names.insert(pod.text("spec.serviceAccountName"));
            return names;
        }
        Use::Secret => ("secret", "secretName", "secret", "secretKeyRef", "secretRef"),
        Use::ConfigMap => ("configMap", "name", "configMap", "configMapKeyRef", "configMapRef"),
    };
    for own in pod.list_at("spec.volumes") {
        names.insert(own.at(volume).map_or("", |source| source.text(name)));
        for source in own.list_at("projected.sources") {
            names.insert(source.at(projected).map_or("", |source| source.text("name")));
        }
    }
    for list in ["spec.containers", "spec.initContainers", "spec.ephemeralContainers"] {
        for container in pod.list_at(list) {
            for variable in container.list_at("env") {
                names.insert(variable.at("valueFrom").and_then(|v| v.at(env)).map_or("", |r| r.text("name")));
            }
            for source in container.list_at("envFrom") {
                names.insert(source.at(env_from).map_or("", |reference| reference.text("name")));
            }
        }
    }
    if matches!(what, Use::Secret) {
        names.extend(pod.list_at("spec.imagePullSecrets").iter().map(|secret| secret.text("name")));
    }
    names
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn finds_what_a_pod_refers_to() {
        let pod = json!({"spec": {
            "serviceAccountName": "sa",
            "volumes": [
                {"secret": {"secretName": "s1"}}, {"configMap": {"name": "c1"}},
                {"projected": {"sources": [{"configMap": {"name": "c2"}}, {"secret": {"name": "s2"}}]}},
            ],
            "imagePullSecrets": [{"name": "s3"}],
            "containers": [{"env": [{"valueFrom": {"secretKeyRef": {"name": "s4"}}}], "envFrom": [{"configMapRef": {"name": "c3"}}]}],
        }});
        let found = |what| {
            let mut names: Vec<_> = references(&pod, what).into_iter().filter(|n| !n.is_empty()).collect();
            names.sort();
            names.join(" ")
        };
        assert_eq!(found(Use::Secret), "s1 s2 s3 s4");
        assert_eq!(found(Use::ConfigMap), "c1 c2 c3");
        assert_eq!(found(Use::ServiceAccount), "sa");
    }

    #[test]
    fn a_field_selector_may_name_the_object() {
        assert_eq!(selected_name("metadata.name=a"), "a");
        assert_eq!(selected_name("x=y,metadata.name==b"), "b");
        assert_eq!(selected_name(""), "");
    }
}
