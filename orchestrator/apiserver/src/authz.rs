//! Authorization until there is RBAC: known identities, each with the little it needs; everybody else reads what the
//! API offers and nothing in it. Refusals have Kubernetes' wording.

use api::{ApiError, UserInfo};

use crate::authn::BOOTSTRAPPERS;
use crate::authn::service_account::GROUP as SERVICE_ACCOUNTS;
use crate::request_info::{RequestInfo, Verb};
use crate::resources::Resources;

pub mod node;

/// Components that may do everything, as their RBAC roles would nearly let them.
const COMPONENTS: &[&str] = &["system:kube-scheduler", "system:kube-controller-manager"];

/// Decides whether a request for a resource may go on. What depends on a new object's content is decided by admission.
pub fn authorize(
    user: &UserInfo,
    info: &RequestInfo,
    selectors: Selectors<'_>,
    resources: &Resources,
) -> Result<(), ApiError> {
    if user.is_master() || COMPONENTS.contains(&user.name.as_str()) {
        return Ok(());
    }
    if let Some(node) = user.node_name() {
        return node::authorize(node, info, selectors, resources).map_err(|why| forbidden(user, info, &why));
    }
    if user.in_group(BOOTSTRAPPERS) && may_bootstrap(user, info, resources) {
        return Ok(());
    }
    let why = if user.in_group(SERVICE_ACCOUNTS) {
        "service accounts have no permissions before RBAC is there"
    } else {
        ""
    };
    Err(forbidden(user, info, why))
}

/// The selectors of a list or watch, which narrow down what is asked for.
#[derive(Debug, Clone, Copy, Default)]
pub struct Selectors<'a> {
    /// The field selector.
    pub fields: &'a str,
}

/// A joining node may ask for its certificate and look at its own request.
fn may_bootstrap(user: &UserInfo, info: &RequestInfo, resources: &Resources) -> bool {
    if (info.group.as_str(), info.resource.as_str()) != ("certificates.k8s.io", "certificatesigningrequests")
    {
        return false;
    }
    match info.verb {
        Verb::Create => info.subresource.is_empty(),
        Verb::Get => node::is_requestor(&user.name, &info.name, resources),
        _ => false,
    }
}

/// `pods "x" is forbidden: User "u" cannot get resource "pods" in API group "" in the namespace "n"`.
pub fn forbidden(user: &UserInfo, info: &RequestInfo, why: &str) -> ApiError {
    let resource = match info.subresource.as_str() {
        "" => info.resource.clone(),
        subresource => format!("{}/{subresource}", info.resource),
    };
    let place = match info.namespace.as_str() {
        "" => "at the cluster scope".to_owned(),
        _ if info.resource == "namespaces" => "at the cluster scope".to_owned(),
        namespace => format!("in the namespace {namespace:?}"),
    };
    let mut message = format!(
        "User {:?} cannot {} resource {resource:?} in API group {:?} {place}",
        user.name,
        info.verb.as_str(),
        info.group
    );
    if !why.is_empty() {
        message.push_str(": ");
        message.push_str(why);
    }
    ApiError::forbidden((info.group.as_str(), info.resource.as_str()), &info.name, message)
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;

    fn ask(user: &UserInfo, method: Method, path: &str) -> Result<(), String> {
        let info = RequestInfo::parse(&method, path, None).unwrap();
        authorize(user, &info, Selectors::default(), &Resources::default())
            .map_err(|e| e.message().to_owned())
    }

    #[test]
    fn refusals_read_as_kubernetes_own() {
        let user = UserInfo::new("system:serviceaccount:a:b", [SERVICE_ACCOUNTS]);
        let error = ask(&user, Method::GET, "/api/v1/namespaces/n/pods/x").unwrap_err();
        assert!(
            error.starts_with(
                "pods \"x\" is forbidden: User \"system:serviceaccount:a:b\" cannot get resource \"pods\" in API group \"\" in the namespace \"n\""
            ),
            "{error}"
        );
        let nobody = UserInfo::new("x", [""; 0]);
        let error = ask(&nobody, Method::GET, "/api/v1/nodes").unwrap_err();
        assert_eq!(
            error,
            "nodes is forbidden: User \"x\" cannot list resource \"nodes\" in API group \"\" at the cluster scope"
        );
    }

    #[test]
    fn known_identities_get_in() {
        let admin = UserInfo::new("admin", [api::identity::MASTERS]);
        assert_eq!(ask(&admin, Method::DELETE, "/api/v1/nodes"), Ok(()));
        let scheduler = UserInfo::new("system:kube-scheduler", [""; 0]);
        assert_eq!(ask(&scheduler, Method::POST, "/api/v1/namespaces/a/pods/b/binding"), Ok(()));
        let joining = UserInfo::new("system:bootstrap:abc", [BOOTSTRAPPERS]);
        let requests = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
        assert_eq!(ask(&joining, Method::POST, requests), Ok(()));
        assert!(ask(&joining, Method::GET, requests).is_err());
        assert!(ask(&joining, Method::GET, "/api/v1/pods").is_err());
    }
}
