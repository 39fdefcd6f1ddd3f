//! The node's HTTPS server: logs, exec, attach, port-forward, metrics, health, timelines. Only the API server's identity
//! gets in; what people ask for has passed its authorization before.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, RawQuery, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use bytes::Bytes;
use http::header;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use pki::tls::{ClientAuth, ServingCertificate};
use pki::{CertificateFacts, USER_APISERVER};
use rustls_pki_types::CertificateDer;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;

use crate::logs::LogWatcher;
use crate::logs::reader::{self, CHUNKS_PENDING_MAX};
use crate::pods::files;
use crate::pods::shared::{ContainerView, PodView, Shared};
use crate::runtime::StreamRequest;

mod failure;
mod query;
pub mod spdy;
mod streams;
mod websocket;

use failure::Failure;
use query::Query;

/// Connections at once. Followed logs and sessions each hold one; a node has a hundred pods.
const CONNECTIONS_MAX: usize = 1024;
/// A client that has not finished its handshake by then is no API server.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause after an accept that failed, such as for lack of descriptors.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// What the server needs.
pub struct ServerConfig {
    /// Where it listens; port 0 takes any.
    pub listen: SocketAddr,
    /// What it presents; renewed while it runs.
    pub certificate: Arc<ServingCertificate>,
    /// Authority of the clients.
    pub client_ca: CertificateDer<'static>,
    /// Served beside the node's own paths: metrics, health, `/bowsprit/flows`.
    pub routes: Router,
}

/// The server could not start.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The port is taken or the address is not ours.
    #[error("agent cannot listen on {address}: {source} (another agent on this node? choose --agent-port)")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Certificates are unusable.
    #[error("agent cannot serve TLS: {0}")]
    Tls(#[from] pki::Error),
    /// The kernel gave no inotify instance.
    #[error("cannot watch logs: {0} (raise fs.inotify.max_user_instances)")]
    Inotify(#[source] io::Error),
}

/// A running server; it stops when dropped.
pub struct Server {
    address: SocketAddr,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

// === impl Server ===

impl Server {
    /// Listens and serves.
    pub async fn start(config: ServerConfig, shared: Arc<Shared>) -> Result<Self, ServerError> {
        let ServerConfig { listen, certificate, client_ca, routes } = config;
        let tls = pki::tls::server_config(certificate, &client_ca, ClientAuth::Required)?;
        let listener = TcpListener::bind(listen)
            .await
            .map_err(|source| ServerError::Listen { address: listen, source })?;
        let address =
            listener.local_addr().map_err(|source| ServerError::Listen { address: listen, source })?;
        let router = router(shared, routes)?;
        let task = tokio::spawn(accept(listener, TlsAcceptor::from(Arc::new(tls)), router));
        Ok(Server { address, task })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// The node's paths and those given from outside, without TLS: tests call it directly.
pub fn router(shared: Arc<Shared>, routes: Router) -> Result<Router, ServerError> {
    let watcher = LogWatcher::start().map_err(ServerError::Inotify)?;
    let node = Node { shared, watcher };
    Ok(Router::new()
        .route("/containerLogs/{namespace}/{pod}/{container}", get(container_logs))
        .route("/exec/{namespace}/{pod}/{container}", any(exec))
        .route("/attach/{namespace}/{pod}/{container}", any(attach))
        .route("/portForward/{namespace}/{pod}", any(port_forward))
        .route("/pods", get(pods))
        .route("/bowsprit/timeline/{namespace}/{pod}", get(timeline))
        .with_state(node)
        .merge(routes))
}

#[derive(Clone)]
struct Node {
    shared: Arc<Shared>,
    watcher: LogWatcher,
}

// === connections ===

async fn accept(listener: TcpListener, tls: TlsAcceptor, router: Router) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, peer)) => {
                let (tls, router) = (tls.clone(), router.clone());
                tokio::spawn(async move {
                    if let Err(error) = serve(stream, tls, router).await {
                        tracing::debug!(%peer, %error, "connection ended");
                    }
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

type ServeError = Box<dyn std::error::Error + Send + Sync>;

async fn serve(stream: TcpStream, tls: TlsAcceptor, router: Router) -> Result<(), ServeError> {
    stream.set_nodelay(true)?;
    let stream = tokio::time::timeout(HANDSHAKE_TIMEOUT, tls.accept(stream)).await??;
    let certificates = stream.get_ref().1.peer_certificates();
    let router = match certificates.and_then(|chain| chain.first()) {
        Some(certificate) if is_api_server(certificate) => router,
        _ => Router::new().fallback(refuse),
    };
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HANDSHAKE_TIMEOUT);
    let service = TowerToHyperService::new(router);
    builder.serve_connection_with_upgrades(TokioIo::new(stream), service).await
}

fn is_api_server(certificate: &CertificateDer<'_>) -> bool {
    CertificateFacts::from_der(certificate).is_ok_and(|facts| facts.subject.common_name == USER_APISERVER)
}

async fn refuse() -> Result<Infallible, Failure> {
    Err(Failure::forbidden("only the API server may call a node: use kubectl logs, exec, port-forward"))
}

// === pods ===

fn find(node: &Node, namespace: &str, name: &str) -> Result<Arc<PodView>, Failure> {
    let missing = || Failure::not_found(format!("pod \"{namespace}/{name}\" is not on this node"));
    node.shared.views.get(namespace, name).ok_or_else(missing)
}

fn container<'p>(pod: &'p PodView, name: &str) -> Result<&'p ContainerView, Failure> {
    let mut named = pod.containers.iter().filter(|container| container.name == name);
    let missing =
        || Failure::bad_request(format!("container {name} is not valid for pod {}", pod.reference.name));
    named.next().ok_or_else(missing)
}

fn running(pod: &PodView, name: &str) -> Result<String, Failure> {
    let container = container(pod, name)?;
    match &container.id {
        Some(id) if container.running => Ok(id.clone()),
        _ => Err(Failure::bad_request(format!(
            "container {name} of pod {} is not running{}",
            pod.reference.name,
            container.waiting.as_ref().map(|why| format!(": {why}")).unwrap_or_default()
        ))),
    }
}

async fn pods(State(node): State<Node>) -> Response {
    let items: Vec<serde_json::Value> = node
        .shared
        .views
        .all()
        .iter()
        .map(|view| {
            serde_json::json!({
                "metadata": {
                    "name": view.reference.name, "namespace": view.reference.namespace, "uid": view.reference.uid,
                },
                "status": view.status,
            })
        })
        .collect();
    let list = serde_json::json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items});
    ([(header::CONTENT_TYPE, "application/json")], list.to_string()).into_response()
}

async fn timeline(
    State(node): State<Node>,
    Path((namespace, pod)): Path<(String, String)>,
) -> Result<Response, Failure> {
    let missing = || Failure::not_found(format!("pod \"{namespace}/{pod}\" is not on this node"));
    let found = node.shared.timelines.get(&namespace, &pod).ok_or_else(missing)?;
    Ok(([(header::CONTENT_TYPE, "application/json")], found.to_json()).into_response())
}

// === logs ===

async fn container_logs(
    State(node): State<Node>,
    Path((namespace, pod, name)): Path<(String, String, String)>,
    RawQuery(query): RawQuery,
) -> Result<Response, Failure> {
    let query = Query::parse(query.as_deref());
    let options = query.log_options()?;
    let view = find(&node, &namespace, &pod)?;
    let (path, id) = log_of(&node, &view, container(&view, &name)?, query.previous())?;
    let views = node.shared.views.clone();
    let is_running = Box::new(move || {
        views.get(&namespace, &pod).is_some_and(|pod| {
            pod.containers.iter().any(|container| container.running && container.id.as_deref() == Some(&id))
        })
    });
    // Opened here once so that a missing file is an answer, not an empty log.
    if let Err(error) = std::fs::File::open(&path) {
        return Err(Failure::not_found(format!("log of container {name} cannot be read: {error}")));
    }
    let (sender, receiver) = mpsc::channel(CHUNKS_PENDING_MAX);
    let watcher = node.watcher.clone();
    tokio::spawn(async move {
        if let Err(error) = reader::send(path, options, watcher, is_running, sender).await {
            tracing::warn!(container = name, %error, "a log broke off");
        }
    });
    let chunks = futures::stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|chunk| (Ok::<Bytes, Infallible>(chunk), receiver))
    });
    Ok(([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], Body::from_stream(chunks)).into_response())
}

/// The log file of a container's newest run, or of the one before, and the newest run's id.
fn log_of(
    node: &Node,
    pod: &PodView,
    container: &ContainerView,
    previous: bool,
) -> Result<(std::path::PathBuf, String), Failure> {
    let (name, pod_name) = (&container.name, &pod.reference.name);
    let (Some(attempt), Some(id)) = (container.attempt, container.id.clone()) else {
        let why = container.waiting.clone().unwrap_or_else(|| waiting_reason(pod, name));
        return Err(Failure::bad_request(format!(
            "container \"{name}\" in pod \"{pod_name}\" is waiting to start: {why}"
        )));
    };
    let attempt = match (previous, attempt.checked_sub(1)) {
        (false, _) => attempt,
        (true, Some(before)) => before,
        (true, None) => {
            return Err(Failure::bad_request(format!(
                "previous terminated container \"{name}\" in pod \"{pod_name}\" not found"
            )));
        }
    };
    let directory = files::log_directory(&node.shared.settings, &pod.reference);
    Ok((directory.join(files::log_path(name, attempt)), id))
}

fn waiting_reason(pod: &PodView, name: &str) -> String {
    let lists = ["containerStatuses", "initContainerStatuses"];
    let mut all = lists.iter().filter_map(|list| pod.status[*list].as_array()).flatten();
    let found = all.find(|status| status["name"] == name);
    let reason = found.and_then(|status| status["state"]["waiting"]["reason"].as_str());
    reason.unwrap_or("ContainerCreating").to_owned()
}

// === sessions ===

async fn exec(
    State(node): State<Node>,
    Path((namespace, pod, name)): Path<(String, String, String)>,
    request: Request,
) -> Result<Response, Failure> {
    let query = Query::parse(request.uri().query());
    let container = running(&*find(&node, &namespace, &pod)?, &name)?;
    let (command, streams) = (query.command(), query.streams());
    if command.is_empty() {
        return Err(Failure::bad_request("a command is needed: command=NAME"));
    }
    if !(streams.stdin || streams.stdout || streams.stderr) {
        return Err(Failure::bad_request("you must specify at least 1 of stdin, stdout, stderr"));
    }
    let session = StreamRequest::Exec { container, command, streams };
    streams::open(&*node.shared.runtime, session, request).await
}

async fn attach(
    State(node): State<Node>,
    Path((namespace, pod, name)): Path<(String, String, String)>,
    request: Request,
) -> Result<Response, Failure> {
    let query = Query::parse(request.uri().query());
    let view = find(&node, &namespace, &pod)?;
    let container = running(&view, &name)?;
    let mut streams = query.streams();
    // The container has a terminal or has none; the client cannot choose.
    let spec = view.pod.all_containers().find(|spec| spec.name == name);
    streams.tty = spec.is_some_and(|spec| spec.tty);
    streams.stderr &= !streams.tty;
    let session = StreamRequest::Attach { container, streams };
    streams::open(&*node.shared.runtime, session, request).await
}

async fn port_forward(
    State(node): State<Node>,
    Path((namespace, pod)): Path<(String, String)>,
    request: Request,
) -> Result<Response, Failure> {
    let ports = Query::parse(request.uri().query()).ports()?;
    let view = find(&node, &namespace, &pod)?;
    let instance = view.instance.clone();
    let instance = instance
        .ok_or_else(|| Failure::bad_request(format!("pod {pod} has no network: it is not running")))?;
    streams::open(&*node.shared.runtime, StreamRequest::PortForward { instance, ports }, request).await
}
