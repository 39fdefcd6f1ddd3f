//! Everything that is not a resource, served by axum: health, metrics, version, discovery, OpenAPI.

use std::sync::Arc;

use api::ApiError;
use axum::Router;
use axum::extract::{Request, State};
use axum::response::Response;
use axum::routing::get;
use http::Uri;
use http::request::Parts;
use serde_json::json;
use tower::ServiceExt;

use crate::app::Api;
use crate::body::Body;
use crate::compress::compress;
use crate::response;

/// The Kubernetes version that clients are told.
pub const GIT_VERSION: &str = "v1.36.0+bowsprit";

/// The routes of one server.
pub fn router(registry: telemetry::Registry, health: telemetry::health::Health) -> Router<Arc<Api>> {
    Router::new()
        .route("/version", get(version))
        .route("/openid/v1/jwks", get(jwks))
        .route("/.well-known/openid-configuration", get(openid))
        .merge(super::discovery::router())
        .merge(telemetry::http::router(registry, health))
        .fallback(unknown)
}

/// Answers a request whose path names no resource.
pub async fn handle(api: &Arc<Api>, mut parts: Parts, body: Body) -> http::Response<Body> {
    if let Some(uri) = without_final_slash(&parts.uri) {
        parts.uri = uri;
    }
    if !is_public(parts.uri.path())
        && let Err(error) = api.authenticator.authenticate(&parts)
    {
        return response::error(&error);
    }
    let request = Request::from_parts(parts.clone(), axum::body::Body::new(body));
    let routes = api.routes.clone().with_state(api.clone());
    match routes.oneshot(request).await {
        Ok(response) => compress(&parts, response.map(Body::stream)),
    }
}

/// Generated clients ask for `/version/` and `/apis/apps/v1/`: the same pages as without the slash.
fn without_final_slash(uri: &Uri) -> Option<Uri> {
    let path = uri.path().strip_suffix('/').filter(|path| !path.is_empty())?;
    let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    format!("{path}{query}").parse().ok()
}

/// Paths that load balancers and start-up scripts ask without any credentials.
fn is_public(path: &str) -> bool {
    ["/healthz", "/livez", "/readyz", "/version"].contains(&path)
}

async fn unknown() -> Response {
    response::error(&ApiError::unknown_path()).map(axum::body::Body::new)
}

async fn version(State(_): State<Arc<Api>>) -> axum::Json<serde_json::Value> {
    axum::Json(json!({
        "major": "1", "minor": "36", "gitVersion": GIT_VERSION, "gitCommit": "", "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z", "goVersion": "none", "compiler": "rustc",
        "platform": format!("linux/{}", std::env::consts::ARCH),
    }))
}

async fn jwks(State(api): State<Arc<Api>>) -> axum::Json<serde_json::Value> {
    axum::Json(api.service_accounts.jwks())
}

async fn openid(State(api): State<Arc<Api>>) -> axum::Json<serde_json::Value> {
    axum::Json(json!({
        "issuer": crate::authn::service_account::ISSUER,
        "jwks_uri": format!("https://{}/openid/v1/jwks", api.advertised()),
        "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["ES256"],
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_final_slash_does_not_count() {
        let cut = |uri: &str| without_final_slash(&uri.parse().unwrap()).map(|uri| uri.to_string());
        assert_eq!(cut("/version/").as_deref(), Some("/version"));
        assert_eq!(cut("/apis/apps/v1/?timeout=32s").as_deref(), Some("/apis/apps/v1?timeout=32s"));
        assert_eq!(cut("/version"), None);
        assert_eq!(cut("/"), None);
    }
}
