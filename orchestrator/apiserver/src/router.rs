//! From a request to its handler: identity, limits, authorization, dispatch, counting.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use api::{ApiError, UserInfo};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode};
use serde_json::json;
use tokio::sync::Semaphore;

use crate::app::Api;
use crate::authz::{self, Selectors};
use crate::body::Body;
use crate::compress::compress;
use crate::handlers;
use crate::options::Query;
use crate::request_info::{RequestInfo, Verb};
use crate::resources::Resource;
use crate::response;
use crate::serve::Handler;

/// Reads answered at a time; Kubernetes' default. Watches and streams do not count.
const READS_MAX: usize = 400;
/// Writes answered at a time: more than Kubernetes', because writes wait together for one fsync.
const WRITES_MAX: usize = 400;
/// Requests of one kind that wait for their turn before others are turned away: about a second's worth.
const WAITING_MAX: usize = 4_000;
/// A request that has not been answered by then gets 504, as in Kubernetes.
const REQUEST_MAX: Duration = Duration::from_secs(60);
/// A request that takes longer is worth a line in the log: ten times what any write should take.
const SLOW: Duration = Duration::from_millis(500);
/// Seconds after which a client that was turned away should come back.
const OVERLOAD_RETRY_SECONDS: u32 = 1;

/// Bounds the requests answered at a time.
pub(crate) struct Limits {
    reads: Lane,
    writes: Lane,
}

struct Lane {
    running: Semaphore,
    waiting: Semaphore,
}

/// A request for a resource, as its handler gets it.
pub struct Call<'a> {
    /// The server.
    pub api: &'a Arc<Api>,
    /// Headers and extensions.
    pub parts: &'a Parts,
    /// What is asked for.
    pub info: &'a RequestInfo,
    /// Who asks.
    pub user: &'a Arc<UserInfo>,
    /// The resource.
    pub resource: &'a Arc<Resource>,
    /// The parameters.
    pub query: Query<'a>,
}

/// Whether a request may take as long as it likes.
fn is_long_running(info: &RequestInfo) -> bool {
    let streams = ["log", "exec", "attach", "portforward", "proxy", "flows", "timeline"];
    info.verb == Verb::Watch || streams.contains(&info.subresource.as_str()) || info.resource == "nodelink"
}

impl Handler for Arc<Api> {
    fn handle(&self, request: Request<Body>) -> impl Future<Output = Response<Body>> + Send {
        let api = self.clone();
        async move { handle(&api, request).await }
    }
}

async fn handle(api: &Arc<Api>, request: Request<Body>) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let Some(info) = RequestInfo::parse(&parts.method, parts.uri.path(), parts.uri.query()) else {
        return handlers::other::handle(api, parts, body).await;
    };
    let start = Instant::now();
    let long = is_long_running(&info);
    let answer = async {
        let _slot = if long {
            None
        } else {
            Some(api.limits.enter(&info).await.inspect_err(|_| api.metrics.rejected.inc())?)
        };
        resource(api, &parts, body, &info).await
    };
    let kind = if info.verb.is_read() { "readOnly" } else { "mutating" };
    let inflight = api.metrics.inflight.with_label_values(&[kind]);
    inflight.inc();
    let answer = match long {
        true => answer.await,
        false => tokio::time::timeout(REQUEST_MAX, answer).await.unwrap_or_else(|_| {
            Err(ApiError::timeout(format!("no answer within {} s", REQUEST_MAX.as_secs())))
        }),
    };
    inflight.dec();
    let response = answer.unwrap_or_else(|error| response::error(&error));
    let response = if long { response } else { compress(&parts, response) };
    let verb = info.verb.as_str();
    // Only names of resources that exist become labels.
    let known = api.resources.find(&info.group, &info.version, &info.resource).is_some();
    let resource = if known { info.resource.as_str() } else { "" };
    api.metrics.requests.with_label_values(&[verb, resource, response.status().as_str()]).inc();
    let elapsed = start.elapsed();
    if !long {
        api.metrics.durations.with_label_values(&[verb, resource]).observe(elapsed.as_secs_f64());
    }
    let (path, code, ms) = (parts.uri.path(), response.status().as_u16(), elapsed.as_millis());
    if !long && elapsed > SLOW {
        tracing::info!(verb, path, code, ms, "slow request");
    } else {
        tracing::debug!(verb, path, code, ms, "request");
    }
    response
}

async fn resource(
    api: &Arc<Api>,
    parts: &Parts,
    body: Body,
    info: &RequestInfo,
) -> Result<Response<Body>, ApiError> {
    let user = api.authenticator.authenticate(parts)?;
    let query = Query::parse(parts.uri.query());
    let selectors = Selectors { fields: query.get("fieldSelector").unwrap_or_default() };
    authz::authorize(&user, info, selectors, &api.resources)?;
    if info.group == crate::nodelink::GROUP {
        return own_group(api, parts, body, info).await;
    }
    if info.group == "apiextensions.k8s.io"
        && info.resource == "customresourcedefinitions"
        && info.verb == Verb::List
    {
        return Ok(no_custom_resources());
    }
    let Some(resource) = api.resources.find(&info.group, &info.version, &info.resource) else {
        return Err(ApiError::unknown_path());
    };
    let call = Call { api, parts, info, user: &user, resource, query };
    call.check()?;
    let mut response = handlers::dispatch(&call, body).await?;
    if parts.method == Method::HEAD {
        *response.body_mut() = Body::Empty;
    }
    Ok(response)
}

/// What has no objects and so is not in discovery: the link of a node to its server, and what a node has seen.
async fn own_group(
    api: &Arc<Api>,
    parts: &Parts,
    body: Body,
    info: &RequestInfo,
) -> Result<Response<Body>, ApiError> {
    match (info.version.as_str(), info.resource.as_str(), info.subresource.as_str()) {
        ("v1", "nodelink", "") if !info.name.is_empty() => crate::nodelink::serve(api, body, info),
        ("v1", "nodes", "flows" | "timeline") => handlers::streams::observed(api, parts, info, body).await,
        _ => Err(ApiError::unknown_path()),
    }
}

/// kubectl asks for these before it says that a manifest's kind is unknown; refused, it complains of that instead.
fn no_custom_resources() -> Response<Body> {
    let list = json!({
        "kind": "CustomResourceDefinitionList", "apiVersion": "apiextensions.k8s.io/v1",
        "metadata": {}, "items": [],
    });
    response::json(StatusCode::OK, list.to_string())
}

// === impl Call ===

impl Call<'_> {
    /// Whether the path and the verb exist for the resource.
    fn check(&self) -> Result<(), ApiError> {
        let (info, kind) = (self.info, &self.resource.kind);
        if !kind.is_namespaced() && !info.namespace.is_empty() && info.resource != "namespaces" {
            return Err(ApiError::unknown_path());
        }
        let across = matches!(info.verb, Verb::List | Verb::Watch);
        if kind.is_namespaced() && info.namespace.is_empty() && !across && kind.is_stored() {
            return Err(ApiError::unknown_path());
        }
        let verb = info.verb.as_str();
        // What is created has no name on the URL yet, what is changed must have one.
        let misplaced = match info.verb {
            Verb::Create => !info.name.is_empty() && info.subresource.is_empty(),
            Verb::Update | Verb::Patch => info.name.is_empty(),
            _ => false,
        };
        if misplaced {
            return Err(ApiError::method_not_allowed(&**kind, verb));
        }
        let exists = match info.subresource.as_str() {
            "" => kind.has_verb(verb),
            name => {
                let subresource = kind.find_subresource(name).ok_or_else(ApiError::unknown_path)?;
                subresource.verbs.iter().any(|own| own == verb)
            }
        };
        if exists { Ok(()) } else { Err(ApiError::method_not_allowed(&**kind, verb)) }
    }
}

// === impl Limits ===

impl Limits {
    pub(crate) fn new() -> Self {
        let lane = |running| Lane { running: Semaphore::new(running), waiting: Semaphore::new(WAITING_MAX) };
        Self { reads: lane(READS_MAX), writes: lane(WRITES_MAX) }
    }

    async fn enter(&self, info: &RequestInfo) -> Result<tokio::sync::SemaphorePermit<'_>, ApiError> {
        let lane = if info.verb.is_read() { &self.reads } else { &self.writes };
        if let Ok(slot) = lane.running.try_acquire() {
            return Ok(slot);
        }
        let overload = || {
            ApiError::too_many_requests("too many requests, please try again later", OVERLOAD_RETRY_SECONDS)
        };
        let _waiting = lane.waiting.try_acquire().map_err(|_| overload())?;
        lane.running.acquire().await.map_err(|_| overload())
    }
}
