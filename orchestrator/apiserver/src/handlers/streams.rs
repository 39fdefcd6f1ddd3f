//! Logs, exec, attach, port-forward and flows: which pod, which container, which node; then the agent has the word.

use std::sync::Arc;

use api::{ApiError, Json, Object, Value};
use form_urlencoded::Serializer;
use http::request::Parts;
use http::{Request, Response};

use crate::app::Api;
use crate::body::Body;
use crate::cache::Entry;
use crate::options::{Query, Version};
use crate::proxy::{Agent, OpenStream, agent_of};
use crate::read;
use crate::request_info::{RequestInfo, Verb};
use crate::response;
use crate::router::Call;

/// Parameters of a log request, passed on under the same names.
const LOG_PARAMETERS: &[&str] = &[
    "follow",
    "limitBytes",
    "previous",
    "sinceSeconds",
    "sinceTime",
    "stream",
    "tailLines",
    "timestamps",
    "insecureSkipTLSVerifyBackend",
];
/// `apis`, group, version, `nodes` and the node's name, or `api`, version, `nodes`, name and `proxy`: what comes after
/// them is the agent's.
const OWN_SEGMENTS: usize = 5;
/// Parameters of exec and attach, and what agents call them, as kubelets do.
const EXEC_PARAMETERS: &[(&str, &str)] =
    &[("stdin", "input"), ("stdout", "output"), ("stderr", "error"), ("tty", "tty")];

/// Answers a request for a stream of a pod.
pub async fn stream(call: &Call<'_>, body: Body) -> Result<Response<Body>, ApiError> {
    let info = call.info;
    let pod = pod(call).await?;
    let host = pod.text("spec.nodeName");
    let (namespace, name) = (&info.namespace, &info.name);
    if host.is_empty() {
        return match info.subresource.as_str() {
            // A pod that waits for a node has said nothing yet.
            "log" => Ok(response::text(http::StatusCode::OK, "")),
            _ => Err(ApiError::bad_request(format!("pod {name} does not have a host assigned"))),
        };
    }
    let path = match info.subresource.as_str() {
        "log" => format!("/containerLogs/{namespace}/{name}/{}?{}", container(call, &pod)?, log_query(call)),
        "portforward" => {
            let ports = call.query.all("ports").flat_map(|ports| ports.split(',')).map(|port| ("port", port));
            format!(
                "/portForward/{namespace}/{name}?{}",
                Serializer::new(String::new()).extend_pairs(ports).finish()
            )
        }
        verb @ ("exec" | "attach") => {
            ended(&pod, verb)?;
            format!("/{verb}/{namespace}/{name}/{}?{}", container(call, &pod)?, exec_query(call))
        }
        _ => return Err(ApiError::unknown_path()),
    };
    let agent = agent(call.api, host).await?;
    pass(call.api, &agent, &path, call.parts, body).await
}

/// Answers `GET /apis/bowsprit.dev/v1/nodes/NODE/flows`, what the node's dataplane saw and sees, and
/// `.../timeline/NAMESPACE/POD`, the stages of one of its pods. Path and query below the node are the agent's.
pub async fn observed(
    api: &Arc<Api>,
    parts: &Parts,
    info: &RequestInfo,
    body: Body,
) -> Result<Response<Body>, ApiError> {
    if info.verb != Verb::Get {
        let resource = format!("nodes/{}", info.subresource);
        return Err(ApiError::method_not_allowed((info.group.as_str(), &*resource), info.verb.as_str()));
    }
    let agent = agent(api, &info.name).await?;
    pass(api, &agent, &below("/bowsprit", parts), parts, body).await
}

/// Answers `GET nodes/NODE/proxy/PATH`: what an agent serves of itself, such as its metrics and its health.
pub async fn proxy(call: &Call<'_>, body: Body) -> Result<Response<Body>, ApiError> {
    let agent = agent(call.api, &call.info.name).await?;
    pass(call.api, &agent, &below("", call.parts), call.parts, body).await
}

/// Path and query behind the node, below `prefix`, as they came: what was decoded might be no path any more.
fn below(prefix: &str, parts: &Parts) -> String {
    let segments = parts.uri.path().split('/').filter(|segment| !segment.is_empty()).skip(OWN_SEGMENTS);
    let path = segments.fold(prefix.to_owned(), |path, segment| path + "/" + segment);
    match parts.uri.query() {
        Some(query) => path + "?" + query,
        None if path.is_empty() => "/".to_owned(),
        None => path,
    }
}

async fn pass(
    api: &Api,
    agent: &Agent,
    path: &str,
    parts: &Parts,
    body: Body,
) -> Result<Response<Body>, ApiError> {
    let mut request = Request::new(body);
    *request.method_mut() = parts.method.clone();
    *request.headers_mut() = parts.headers.clone();
    if let Some(upgrade) = parts.extensions.get::<hyper::upgrade::OnUpgrade>() {
        request.extensions_mut().insert(upgrade.clone());
    }
    // What has no end by itself must not hold up a shutdown, as watches do not.
    let endless = Query::parse(parts.uri.query()).flag("follow") == Some(true);
    let stop = if endless { &api.draining } else { &api.stop };
    let open = OpenStream::new(&api.metrics.streams);
    api.agents.pass(agent, path, request, stop.clone(), open).await
}

async fn pod(call: &Call<'_>) -> Result<Object, ApiError> {
    let (feed, info) = (&call.api.feed, call.info);
    let entry = read::get::get(feed, call.resource, &info.namespace, &info.name, Version::Unset).await?;
    Object::from_bytes(entry.value()).map_err(ApiError::internal)
}

async fn agent(api: &Api, host: &str) -> Result<Agent, ApiError> {
    let missing = || ApiError::not_found(("", "nodes"), host);
    let nodes = api.resources.find("", "v1", "nodes").ok_or_else(missing)?;
    let entry: Arc<Entry> = read::get::get(&api.feed, nodes, "", host, Version::Any).await?;
    let node = Object::from_bytes(entry.value()).map_err(ApiError::internal)?;
    agent_of(&node, api.config.agent_port).ok_or_else(|| {
        ApiError::unavailable(format!(
            "node {host:?} has not reported an address yet: its agent does so when it joins; try again, or see `kubectl describe node {host}`"
        ))
    })
}

/// A pod that has ended has nothing to run a command in.
fn ended(pod: &Object, verb: &str) -> Result<(), ApiError> {
    match pod.text("status.phase") {
        phase @ ("Succeeded" | "Failed") if verb == "exec" => Err(ApiError::bad_request(format!(
            "cannot exec into a container in a completed pod; current phase is {phase}"
        ))),
        _ => Ok(()),
    }
}

/// The container asked for, or the only one.
fn container<'p>(call: &'p Call<'_>, pod: &'p Object) -> Result<&'p str, ApiError> {
    let names =
        |list: &str| -> Vec<&str> { pod.list_at(list).iter().map(|c: &Value| c.text("name")).collect() };
    let (main, init) = (names("spec.containers"), names("spec.initContainers"));
    let debug = names("spec.ephemeralContainers");
    let name = pod.meta().name();
    match call.query.get("container").filter(|wanted| !wanted.is_empty()) {
        Some(wanted) => {
            let mut all = main.into_iter().chain(init).chain(debug);
            all.find(|own| own == &wanted).ok_or_else(|| {
                ApiError::bad_request(format!("container {wanted} is not valid for pod {name}"))
            })
        }
        None if main.len() == 1 => Ok(main[0]),
        None => {
            let mut message = format!(
                "a container name must be specified for pod {name}, choose one of: [{}]",
                main.join(" ")
            );
            if !init.is_empty() {
                message.push_str(&format!(" or one of the init containers: [{}]", init.join(" ")));
            }
            Err(ApiError::bad_request(message))
        }
    }
}

fn log_query(call: &Call<'_>) -> String {
    let given = LOG_PARAMETERS.iter().filter_map(|key| Some((*key, call.query.get(key)?)));
    Serializer::new(String::new()).extend_pairs(given).finish()
}

fn exec_query(call: &Call<'_>) -> String {
    let flags = EXEC_PARAMETERS.iter().filter(|(own, _)| call.query.flag(own) == Some(true));
    let flags = flags.map(|(_, agents)| (*agents, "1"));
    let command = call.query.all("command").map(|word| ("command", word));
    Serializer::new(String::new()).extend_pairs(flags).extend_pairs(command).finish()
}
