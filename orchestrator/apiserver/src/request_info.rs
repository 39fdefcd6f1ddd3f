//! What a request's path and method ask for, parsed once; the resource path is routed from this by hand.
//! Neighbours: `router` (dispatch), `authz` (decides on the same attributes), `metrics` (labels).

use std::borrow::Cow;

use http::Method;

/// A Kubernetes verb.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "each variant is the verb of the same name")]
pub enum Verb {
    Get,
    List,
    Watch,
    Create,
    Update,
    Patch,
    Delete,
    DeleteCollection,
}

/// A parsed path: either a resource of a group version, or anything else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestInfo {
    /// The verb that method, path and query add up to.
    pub verb: Verb,
    /// API group; empty for the core group.
    pub group: String,
    /// API version of the group.
    pub version: String,
    /// Namespace; empty for cluster-scoped resources and lists over all namespaces.
    pub namespace: String,
    /// Plural resource name; empty when the path stops at the group version.
    pub resource: String,
    /// Object name; empty for collections.
    pub name: String,
    /// Subresource; empty for the object itself.
    pub subresource: String,
    /// What follows the subresource (`proxy` only), without the leading slash.
    pub rest: String,
}

// === impl Verb ===

impl Verb {
    /// The verb's name as RBAC, audit and metrics write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Verb::Get => "get",
            Verb::List => "list",
            Verb::Watch => "watch",
            Verb::Create => "create",
            Verb::Update => "update",
            Verb::Patch => "patch",
            Verb::Delete => "delete",
            Verb::DeleteCollection => "deletecollection",
        }
    }

    /// Whether the verb changes nothing.
    pub fn is_read(self) -> bool {
        matches!(self, Verb::Get | Verb::List | Verb::Watch)
    }
}

// === impl RequestInfo ===

impl RequestInfo {
    /// Parses a request for a resource; `None` when the path is not below a group version's resources.
    pub fn parse(method: &Method, path: &str, query: Option<&str>) -> Option<Self> {
        let mut segments = path.split('/').skip(1).filter(|s| !s.is_empty()).map(decode);
        let (group, version) = match &*segments.next()? {
            "api" => (String::new(), segments.next()?.into_owned()),
            "apis" => (segments.next()?.into_owned(), segments.next()?.into_owned()),
            _ => return None,
        };
        let mut parts: Vec<Cow<'_, str>> = segments.collect();
        let legacy_watch = parts.first().is_some_and(|p| p == "watch");
        if legacy_watch {
            parts.remove(0);
        }
        let mut parts = parts.into_iter().map(Cow::into_owned).peekable();
        let mut info = RequestInfo {
            verb: Verb::Get,
            group,
            version,
            namespace: String::new(),
            resource: parts.next()?,
            name: String::new(),
            subresource: String::new(),
            rest: String::new(),
        };
        if info.resource == "namespaces" {
            info.name = parts.next().unwrap_or_default();
            // A namespace's own subresources share their place in the path with the plural of a namespaced resource.
            let own = parts.peek().is_none_or(|p| p == "status" || p == "finalize");
            if !own {
                info.namespace = std::mem::take(&mut info.name);
                info.resource = parts.next().unwrap_or_default();
                info.name = parts.next().unwrap_or_default();
            } else if !info.name.is_empty() {
                info.namespace = info.name.clone();
            }
        } else {
            info.name = parts.next().unwrap_or_default();
        }
        info.subresource = parts.next().unwrap_or_default();
        info.rest = parts.collect::<Vec<_>>().join("/");
        info.verb = verb(method, &info, legacy_watch || asks_to_watch(query))?;
        Some(info)
    }
}

fn verb(method: &Method, info: &RequestInfo, watch: bool) -> Option<Verb> {
    let collection = info.name.is_empty();
    Some(match *method {
        // A watch of one name is the same as a watch with a field selector on it.
        Method::GET | Method::HEAD if watch && info.subresource.is_empty() => Verb::Watch,
        Method::GET | Method::HEAD if collection => Verb::List,
        Method::GET | Method::HEAD => Verb::Get,
        Method::POST => Verb::Create,
        Method::PUT => Verb::Update,
        Method::PATCH => Verb::Patch,
        Method::DELETE if collection => Verb::DeleteCollection,
        Method::DELETE => Verb::Delete,
        _ => return None,
    })
}

fn asks_to_watch(query: Option<&str>) -> bool {
    let Some(query) = query else { return false };
    form_urlencoded::parse(query.as_bytes()).any(|(key, value)| key == "watch" && truthy(&value))
}

/// Whether a query parameter's value means yes; Kubernetes takes an empty one for yes.
pub fn truthy(value: &str) -> bool {
    !matches!(value, "false" | "0" | "False" | "FALSE" | "f" | "F")
}

fn decode(segment: &str) -> Cow<'_, str> {
    percent_encoding::percent_decode_str(segment).decode_utf8_lossy()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(request: &str, expect: &str) {
        let (method, uri) = request.split_once(' ').unwrap();
        let (path, query) = uri.split_once('?').map_or((uri, None), |(p, q)| (p, Some(q)));
        let info = RequestInfo::parse(&method.parse().unwrap(), path, query);
        let got = info.map_or("none".to_owned(), |i| {
            [
                i.verb.as_str(),
                &i.group,
                &i.version,
                &i.namespace,
                &i.resource,
                &i.name,
                &i.subresource,
                &i.rest,
            ]
            .join("|")
        });
        assert_eq!(got, expect, "{request}");
    }

    #[test]
    fn parses_paths_as_kubernetes_does() {
        check("GET /api/v1/pods", "list||v1||pods|||");
        check("GET /api/v1/pods?watch", "watch||v1||pods|||");
        check("GET /api/v1/pods?watch=0", "list||v1||pods|||");
        check("GET /api/v1/watch/namespaces/a/pods/x", "watch||v1|a|pods|x||");
        check("GET /api/v1/namespaces", "list||v1||namespaces|||");
        check("GET /api/v1/namespaces/a", "get||v1|a|namespaces|a||");
        check("PUT /api/v1/namespaces/a/finalize", "update||v1|a|namespaces|a|finalize|");
        check("PATCH /api/v1/namespaces/a/pods/x/status", "patch||v1|a|pods|x|status|");
        check("POST /apis/apps/v1/namespaces/a/deployments", "create|apps|v1|a|deployments|||");
        check("DELETE /apis/apps/v1/namespaces/a/deployments", "deletecollection|apps|v1|a|deployments|||");
        check("GET /api/v1/namespaces/a/services/x:80/proxy/b/c", "get||v1|a|services|x:80|proxy|b/c");
        check("GET /api/v1/nodes/a%2Fb", "get||v1||nodes|a/b||");
    }

    #[test]
    fn other_paths_are_no_resources() {
        for path in ["/healthz", "/api", "/apis", "/apis/apps", "/apis/apps/v1", "/api/v1", "/"] {
            check(&format!("GET {path}"), "none");
        }
        check("OPTIONS /api/v1/pods", "none");
    }
}
