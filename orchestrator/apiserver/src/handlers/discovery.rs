//! Discovery and OpenAPI: what this server serves. Documents are made on first use and carry tags, so that clients that
//! have them are answered with a few bytes.

use std::collections::HashMap;
use std::sync::Arc;

use api::discovery::{self, Aggregated};
use api::{ApiError, Registry, openapi};
use axum::Router;
use axum::extract::{Path, Query, State};
use axum::routing::get;
use bytes::Bytes;
use http::header::{ACCEPT, CACHE_CONTROL, ETAG, IF_NONE_MATCH, VARY};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use parking_lot::Mutex;

use crate::app::Api;
use crate::response;

/// An answer of axum's.
type Answer = Response<axum::body::Body>;

/// A document whose address names its content may be kept for a year.
const IMMUTABLE: HeaderValue = HeaderValue::from_static("public, immutable, max-age=31536000");

/// Documents that have been asked for, by what they are.
#[derive(Debug, Default)]
pub struct Documents {
    made: Mutex<HashMap<String, Document>>,
}

#[derive(Debug, Clone)]
struct Document {
    bytes: Bytes,
    tag: Arc<str>,
}

/// The routes.
pub fn router() -> Router<Arc<Api>> {
    Router::new()
        .route("/api", get(core))
        .route("/apis", get(groups))
        .route("/api/{version}", get(core_resources))
        .route("/apis/{group}", get(group))
        .route("/apis/{group}/{version}", get(resources))
        .route("/openapi/v2", get(openapi_v2))
        .route("/openapi/v3", get(openapi_v3_index))
        .route("/openapi/v3/api/{version}", get(openapi_v3_core))
        .route("/openapi/v3/apis/{group}/{version}", get(openapi_v3))
}

// === impl Documents ===

impl Documents {
    /// The document called `name`, made now if nobody has asked for it before.
    fn get(&self, name: String, make: impl FnOnce() -> Option<Bytes>) -> Option<Document> {
        if let Some(document) = self.made.lock().get(&name) {
            return Some(document.clone());
        }
        // Without the lock: the largest take tens of milliseconds.
        let bytes = make()?;
        let document = Document { tag: openapi::hash(&bytes).into(), bytes };
        Some(self.made.lock().entry(name).or_insert(document).clone())
    }
}

fn json(value: serde_json::Value) -> Bytes {
    value.to_string().into()
}

fn answer(document: Option<Document>, content_type: &str, headers: &HeaderMap) -> Answer {
    let Some(document) = document else { return unknown() };
    let tag = format!("\"{}\"", document.tag);
    let known = headers.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    let known =
        known.flat_map(|value| value.split(',')).any(|given| openapi::same_hash(given.trim(), &document.tag));
    let (code, body) =
        if known { (StatusCode::NOT_MODIFIED, Bytes::new()) } else { (StatusCode::OK, document.bytes) };
    let content_type =
        HeaderValue::from_str(content_type).unwrap_or(HeaderValue::from_static("application/json"));
    let mut response = response::with_type(code, content_type, body);
    response::set(&mut response, ETAG, &tag);
    response.headers_mut().insert(VARY, HeaderValue::from_static("Accept"));
    response.map(axum::body::Body::new)
}

fn unknown() -> Answer {
    response::error(&ApiError::unknown_path()).map(axum::body::Body::new)
}

/// The alternatives of an `Accept` header, in order.
fn alternatives(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let values = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim)
}

/// Aggregated discovery, if the client prefers it over the plain document.
fn aggregated(headers: &HeaderMap) -> Option<Aggregated> {
    let plain = |alternative: &&str| !matches!(*alternative, "application/json" | "*/*");
    alternatives(headers).take_while(plain).find_map(Aggregated::from_accept)
}

async fn core(State(api): State<Arc<Api>>, headers: HeaderMap) -> Answer {
    let server = api.advertised().to_string();
    list(&api, &headers, true, |registry| discovery::core_versions(registry, &server))
}

async fn groups(State(api): State<Arc<Api>>, headers: HeaderMap) -> Answer {
    list(&api, &headers, false, discovery::groups)
}

fn list(
    api: &Api,
    headers: &HeaderMap,
    core: bool,
    plain: impl Fn(&Registry) -> serde_json::Value,
) -> Answer {
    let (name, content_type, document): (String, &str, Box<dyn Fn() -> serde_json::Value>) =
        match aggregated(headers) {
            Some(form) => {
                let make = move || discovery::aggregated(&api.registry, core, form);
                (format!("aggregated {form:?} {core}"), form.content_type(), Box::new(make))
            }
            None => (format!("list {core}"), "application/json", Box::new(move || plain(&api.registry))),
        };
    answer(api.documents.get(name, || Some(json(document()))), content_type, headers)
}

async fn group(State(api): State<Arc<Api>>, Path(group): Path<String>, headers: HeaderMap) -> Answer {
    let make = || discovery::group(&api.registry, &group).map(json);
    answer(api.documents.get(format!("group {group}"), make), "application/json", &headers)
}

async fn core_resources(
    State(api): State<Arc<Api>>,
    Path(version): Path<String>,
    headers: HeaderMap,
) -> Answer {
    resources_of(&api, "", &version, &headers)
}

async fn resources(
    State(api): State<Arc<Api>>,
    Path((group, version)): Path<(String, String)>,
    headers: HeaderMap,
) -> Answer {
    resources_of(&api, &group, &version, &headers)
}

fn resources_of(api: &Api, group: &str, version: &str, headers: &HeaderMap) -> Answer {
    let make = || discovery::resources(&api.registry, group, version).map(json);
    answer(api.documents.get(format!("resources {group}/{version}"), make), "application/json", headers)
}

async fn openapi_v2(State(api): State<Arc<Api>>, headers: HeaderMap) -> Answer {
    // The protobuf form has a content type with an @ in it, under which old clients ask for it.
    let protobuf = alternatives(&headers).find(|alternative| alternative.contains("openapi.spec.v2"));
    match protobuf {
        Some(_) => {
            let make = || Some(openapi::v2_protobuf(&api.registry));
            answer(api.documents.get("v2 protobuf".to_owned(), make), openapi::V2_PROTOBUF, &headers)
        }
        None => {
            let make = || Some(openapi::v2_json(&api.registry));
            answer(api.documents.get("v2".to_owned(), make), "application/json", &headers)
        }
    }
}

async fn openapi_v3_index(State(api): State<Arc<Api>>, headers: HeaderMap) -> Answer {
    let make = || Some(json(openapi::v3_index(&api.registry)));
    answer(api.documents.get("v3".to_owned(), make), "application/json", &headers)
}

async fn openapi_v3_core(
    State(api): State<Arc<Api>>,
    Path(version): Path<String>,
    Query(query): Query<HashMap<String, String>>,
    headers: HeaderMap,
) -> Answer {
    openapi_v3_of(&api, "", &version, &query, &headers)
}

async fn openapi_v3(
    State(api): State<Arc<Api>>,
    Path((group, version)): Path<(String, String)>,
    Query(query): Query<HashMap<String, String>>,
    headers: HeaderMap,
) -> Answer {
    openapi_v3_of(&api, &group, &version, &query, &headers)
}

fn openapi_v3_of(
    api: &Api,
    group: &str,
    version: &str,
    query: &HashMap<String, String>,
    headers: &HeaderMap,
) -> Answer {
    let make = || openapi::v3(&api.registry, group, version);
    let document = api.documents.get(format!("v3 {group}/{version}"), make);
    let tag = document.as_ref().map(|document| document.tag.clone()).unwrap_or_default();
    let mut response = answer(document, "application/json", headers);
    if query.get("hash").is_some_and(|given| openapi::same_hash(given, &tag)) {
        response.headers_mut().insert(CACHE_CONTROL, IMMUTABLE);
    }
    response
}
