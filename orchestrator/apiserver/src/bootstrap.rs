//! What a cluster has from its first moment on: its namespaces, and the Service by which pods find the API.
//!
//! Everything goes through the API itself, so that it is defaulted, validated and owned like any other object.

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
    Ok(())
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
