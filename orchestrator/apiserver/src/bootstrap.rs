//! What a cluster has from its first moment on: its namespaces, and the Service by which pods find the API.
//!
//! Everything goes through the API itself, so that it is defaulted, validated and owned like any other object.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use api::{ApiError, Status, UserInfo};
use bytes::Bytes;
use http::{Method, Request, StatusCode};
use serde_json::{Value, json};

use crate::app::Api;
use crate::body::Body;
use crate::serve::Handler;

/// Namespaces that are made at the first start.
const NAMESPACES: &[&str] = &["default", "kube-system", "kube-public", "kube-node-lease"];
/// Who makes them, for field ownership and logs.
const USER: &str = "system:apiserver";

/// Makes what is missing.
pub async fn run(api: &Arc<Api>) -> Result<(), ApiError> {
    for name in NAMESPACES {
        let exists =
            api.resources.cache("", "namespaces").is_none_or(|namespaces| namespaces.get(name).is_some());
        if !exists {
            let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
            ensure(api, "/api/v1/namespaces", namespace).await?;
        }
    }
    service(api).await
}

/// The Service by which pods reach the API: the first address of the range, which everybody can know.
async fn service(api: &Arc<Api>) -> Result<(), ApiError> {
    let exists = api
        .resources
        .cache("", "services")
        .is_none_or(|services| services.get("default/kubernetes").is_some());
    let Some(address) = api.config.service_cidr.hosts().next().filter(|_| !exists) else { return Ok(()) };
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "kubernetes", "labels": {"component": "apiserver", "provider": "kubernetes"}},
        "spec": {
            "clusterIP": address.to_string(),
            "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": api.advertised().port()}],
        },
    });
    ensure(api, "/api/v1/namespaces/default/services", service).await
}

/// Writes where that Service leads to: all servers.
pub async fn endpoints(api: &Arc<Api>, servers: &[SocketAddr]) -> Result<(), ApiError> {
    let reachable = |server: &&SocketAddr| !server.ip().is_unspecified() && !server.ip().is_loopback();
    let addresses: BTreeSet<String> =
        servers.iter().filter(reachable).map(|server| server.ip().to_string()).collect();
    let Some(server) = servers.iter().find(reachable) else {
        tracing::warn!(
            "this server listens on loopback only: pods cannot reach it through the kubernetes Service"
        );
        return Ok(());
    };
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": "kubernetes", "labels": {"kubernetes.io/service-name": "kubernetes"}},
        "addressType": if server.is_ipv6() { "IPv6" } else { "IPv4" },
        "endpoints": addresses
            .iter()
            .map(|address| json!({"addresses": [address], "conditions": {"ready": true}}))
            .collect::<Vec<_>>(),
        "ports": [{"name": "https", "port": server.port(), "protocol": "TCP"}],
    });
    let collection = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
    match ask(api, Method::PUT, &format!("{collection}/kubernetes"), slice.clone()).await {
        Err(error) if error.reason() == api::Reason::NotFound => ensure(api, collection, slice).await,
        done => done.map(drop),
    }
}

/// Creates an object unless it is there.
async fn ensure(api: &Arc<Api>, path: &str, object: Value) -> Result<(), ApiError> {
    match ask(api, Method::POST, path, object).await {
        Ok(_) => Ok(()),
        Err(error) if error.reason() == api::Reason::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

/// One request to this server as itself.
pub async fn ask(api: &Arc<Api>, method: Method, path: &str, body: Value) -> Result<Value, ApiError> {
    let bytes = if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) };
    let mut request = Request::new(Body::Full(bytes));
    *request.method_mut() = method;
    *request.uri_mut() = path.parse().map_err(ApiError::internal)?;
    request
        .headers_mut()
        .insert(http::header::USER_AGENT, http::HeaderValue::from_static("bowsprit-apiserver"));
    request.extensions_mut().insert(Arc::new(UserInfo::new(USER, [api::identity::MASTERS])));
    let (parts, body) = api.handle(request).await.into_parts();
    let bytes = body.gather().await.map_err(ApiError::internal)?;
    if parts.status < StatusCode::BAD_REQUEST {
        return serde_json::from_slice(&bytes).map_err(ApiError::internal);
    }
    let status: Status = serde_json::from_slice(&bytes).map_err(ApiError::internal)?;
    Err(ApiError::new(parts.status, status.reason, status.message))
}
