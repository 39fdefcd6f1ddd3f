//! Calls to agents: logs, exec, attach, port-forward and flows, passed through untouched.
//!
//! An upgraded connection is two byte streams glued together, so that SPDY and WebSocket look the same here.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use api::ApiError;
use futures::{StreamExt as _, TryStreamExt as _};
use http::header::{AUTHORIZATION, CONNECTION, HOST, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use pki::Identity;
use prometheus::IntGauge;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

use crate::body::Body;

/// An agent in the same cluster answers within milliseconds; after this it is not there.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// Bytes copied at once in each direction of an upgraded connection: four TLS records, so that `kubectl cp` flows.
const COPY_BYTES: usize = 64 * 1024;
/// Headers that are between client and server, or say who the client is.
const NOT_PASSED: [HeaderName; 5] = [
    HOST,
    AUTHORIZATION,
    http::header::COOKIE,
    http::header::TRANSFER_ENCODING,
    http::header::PROXY_AUTHORIZATION,
];

/// How agents are called.
pub struct Agents {
    tls: TlsConnector,
}

/// An agent, and why it is called.
#[derive(Debug, Clone)]
pub struct Agent {
    /// The node's name.
    pub node: String,
    /// Where its agent listens.
    pub address: SocketAddr,
}

/// Counts a stream while it is open.
#[derive(Debug)]
pub struct OpenStream(IntGauge);

// === impl OpenStream ===

impl OpenStream {
    /// Counts it in `streams`.
    pub fn new(streams: &IntGauge) -> Self {
        streams.inc();
        Self(streams.clone())
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.dec();
    }
}

// === impl Agents ===

impl Agents {
    /// Calls with `identity`; agents must present certificates of `ca` for their address.
    pub fn new(ca: &CertificateDer<'static>, identity: &Identity) -> Result<Self, pki::Error> {
        let mut config = pki::tls::client_config(ca, Some(identity))?;
        // HTTP/2 has no upgrades.
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { tls: TlsConnector::from(Arc::new(config)) })
    }

    /// Sends a client's request on to an agent, under another path, and its answer back, piece by piece as it comes.
    /// When the agent agrees to upgrade, bytes pass both ways. Either lasts until one side ends or `stop` is cancelled;
    /// `open` lives as long.
    pub async fn pass(
        &self,
        agent: &Agent,
        path: &str,
        mut request: Request<Body>,
        stop: CancellationToken,
        open: OpenStream,
    ) -> Result<Response<Body>, ApiError> {
        let upgrade = request.headers().get(UPGRADE).cloned();
        let client = hyper::upgrade::on(&mut request);
        let outgoing = outgoing(agent, path, request)?;
        let mut answer = self.send(agent, outgoing).await?;
        if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Ok(answer.map(|body| {
                // The stream owns the guard, so that it counts until the client has read all or gone.
                let frames = body.into_data_stream().map_ok(move |data| {
                    let _counted = &open;
                    Frame::data(data)
                });
                Body::stream(StreamBody::new(frames.take_until(stop.cancelled_owned())))
            }));
        }
        if upgrade.is_none() {
            return Err(unreachable(agent, "it changed the protocol unasked"));
        }
        let runtime = hyper::upgrade::on(&mut answer);
        tokio::spawn(async move {
            tokio::select! {
                () = splice(client, runtime) => {}
                () = stop.cancelled() => {}
            }
            drop(open);
        });
        Ok(answer.map(|_| Body::Empty))
    }

    async fn send(
        &self,
        agent: &Agent,
        request: Request<Body>,
    ) -> Result<Response<hyper::body::Incoming>, ApiError> {
        let connect = async {
            let stream = TcpStream::connect(agent.address)
                .await
                .map_err(|error| unreachable(agent, &error.to_string()))?;
            stream.set_nodelay(true).map_err(ApiError::internal)?;
            let name = ServerName::IpAddress(agent.address.ip().into());
            let stream = self.tls.connect(name, stream).await;
            let stream = stream.map_err(|error| unreachable(agent, &error.to_string()))?;
            let handshake = http1::Builder::new().handshake::<_, Body>(TokioIo::new(stream)).await;
            handshake.map_err(|error| unreachable(agent, &error.to_string()))
        };
        let connected = tokio::time::timeout(CONNECT_MAX, connect).await;
        let late = || unreachable(agent, &format!("no connection within {} s", CONNECT_MAX.as_secs()));
        let (mut sender, connection) = connected.map_err(|_| late())??;
        tokio::spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "a connection to an agent ended");
            }
        });
        sender.send_request(request).await.map_err(|error| unreachable(agent, &error.to_string()))
    }
}

/// The request as the agent gets it: the client's, but for its path and what is only between client and server.
fn outgoing(agent: &Agent, path: &str, request: Request<Body>) -> Result<Request<Body>, ApiError> {
    let (parts, body) = request.into_parts();
    let mut outgoing = Request::new(body);
    *outgoing.method_mut() = if parts.method == Method::HEAD { Method::GET } else { parts.method };
    *outgoing.uri_mut() = path.parse().map_err(ApiError::internal)?;
    *outgoing.headers_mut() = passed_on(parts.headers);
    let host = HeaderValue::from_str(&agent.address.to_string()).map_err(ApiError::internal)?;
    outgoing.headers_mut().insert(HOST, host);
    Ok(outgoing)
}

fn passed_on(mut headers: HeaderMap) -> HeaderMap {
    for name in NOT_PASSED {
        headers.remove(name);
    }
    let named: Vec<HeaderName> =
        headers.keys().filter(|name| name.as_str().starts_with("impersonate-")).cloned().collect();
    named.iter().for_each(|name| _ = headers.remove(name));
    if !headers.contains_key(UPGRADE) {
        headers.remove(CONNECTION);
    }
    headers
}

async fn splice(client: hyper::upgrade::OnUpgrade, runtime: hyper::upgrade::OnUpgrade) {
    let (client, runtime) = match tokio::try_join!(client, runtime) {
        Ok(both) => both,
        Err(error) => {
            tracing::debug!(%error, "a connection was not upgraded after all");
            return;
        }
    };
    let (mut client, mut runtime) = (TokioIo::new(client), TokioIo::new(runtime));
    let copied =
        tokio::io::copy_bidirectional_with_sizes(&mut client, &mut runtime, COPY_BYTES, COPY_BYTES).await;
    if let Err(error) = copied {
        tracing::debug!(%error, "a stream to an agent ended");
    }
}

fn unreachable(agent: &Agent, why: &str) -> ApiError {
    let Agent { node, address } = agent;
    ApiError::unavailable(format!(
        "error dialing backend: the agent of node {node:?} at {address} does not answer: {why}; check that `bowsprit agent` runs there and that port {} is open to this server",
        address.port()
    ))
}

/// The address under which a node's agent is called.
pub fn agent_of(node: &api::Object, default_port: u16) -> Option<Agent> {
    use api::Json;
    let addresses = node.list_at("status.addresses");
    let of_type = |wanted: &str| addresses.iter().find(|address| address.text("type") == wanted);
    let ip: IpAddr = of_type("InternalIP").or_else(|| of_type("ExternalIP"))?.text("address").parse().ok()?;
    let port =
        node.i64_at("status.daemonEndpoints.kubeletEndpoint.Port").and_then(|port| u16::try_from(port).ok());
    let port = port.filter(|port| *port != 0).unwrap_or(default_port);
    Some(Agent { node: node.meta().name().to_owned(), address: SocketAddr::new(ip, port) })
}
