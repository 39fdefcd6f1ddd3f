//! One HTTP/2 connection over TLS that carries every request and every watch of a process; made again when it breaks.
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures::{FutureExt, future::BoxFuture};
use http::{HeaderValue, Request, Response, Uri, header::AUTHORIZATION, uri::PathAndQuery};
use http_body_util::BodyExt;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use parking_lot::RwLock;
use pki::{Identity, tls::PinnedCa};
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::{net::TcpStream, sync::Mutex, time::timeout};
use tokio_rustls::TlsConnector;

use super::Transport;
use crate::{Body, Error, ResponseBody};

/// A server that has not answered the handshake by then is as good as down; the next one is tried.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// A silent connection is asked for a sign of life this often, so that watches notice a vanished server.
const PING_INTERVAL: Duration = Duration::from_secs(10);
/// And is given up when none comes.
const PING_TIMEOUT: Duration = Duration::from_secs(5);
/// A server that is started again is back by then: only a longer outage is worth a line in the log.
const OUTAGE_TOLD: Duration = Duration::from_secs(2);
/// What one stream may send ahead of its reader: a page of a list.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
/// What all streams together may send ahead: one slow reader shall not stop the others.
const CONNECTION_WINDOW_BYTES: u32 = 8 << 20;

/// Where the API servers are, how to know them and how to be known.
#[derive(Clone, Debug)]
pub struct ConnectConfig {
    /// URLs such as `https://10.0.0.1:6443`; the first that answers is used until it fails.
    pub servers: Vec<String>,
    /// Authority that signed the servers' certificates. Not needed with a bootstrap token, which pins it.
    pub ca: Option<CertificateDer<'static>>,
    /// Who the client is.
    pub credentials: Credentials,
}

/// How a client proves who it is.
#[derive(Clone, Debug)]
pub enum Credentials {
    /// By a client certificate.
    Certificate(Identity),
    /// By a bearer token, such as a service account's.
    Bearer(String),
    /// By a bootstrap token.
    Bootstrap(pki::Token),
}

/// The transport.
pub(crate) struct Http2 {
    endpoint: RwLock<Arc<Endpoint>>,
    connection: Mutex<Slot>,
}

/// The connection, or since when there is none.
#[derive(Default)]
struct Slot {
    connection: Option<Connection>,
    outage: Option<Outage>,
}

struct Outage {
    since: Instant,
    told: bool,
}

struct Endpoint {
    servers: Vec<Server>,
    next: AtomicUsize,
    tls: TlsConnector,
    authorization: Option<HeaderValue>,
    pinned: Option<Arc<PinnedCa>>,
}

struct Server {
    uri: Uri,
    address: String,
    name: ServerName<'static>,
}

#[derive(Clone)]
struct Connection {
    sender: SendRequest<Body>,
    server: Uri,
    endpoint: Arc<Endpoint>,
}

// === impl Http2 ===

impl Http2 {
    pub(crate) fn new(config: &ConnectConfig) -> Result<Arc<Self>, Error> {
        let endpoint = RwLock::new(Arc::new(Endpoint::new(config)?));
        Ok(Arc::new(Self { endpoint, connection: Mutex::default() }))
    }

    /// Takes new credentials; requests under way end on the old connection.
    pub(crate) async fn reconfigure(&self, config: &ConnectConfig) -> Result<(), Error> {
        let endpoint = Arc::new(Endpoint::new(config)?);
        let mut slot = self.connection.lock().await;
        *self.endpoint.write() = endpoint;
        slot.connection = None;
        Ok(())
    }

    pub(crate) fn pinned_ca(&self) -> Option<CertificateDer<'static>> {
        self.endpoint.read().pinned.as_ref()?.certificate()
    }

    async fn connection(&self) -> Result<Connection, Error> {
        // Held while connecting: callers that come meanwhile wait for the one connection instead of making more.
        let mut slot = self.connection.lock().await;
        if let Some(connection) = slot.connection.as_ref().filter(|held| !held.sender.is_closed()) {
            return Ok(connection.clone());
        }
        let endpoint = self.endpoint.read().clone();
        let connection = endpoint.connect().await.inspect_err(|error| slot.failed(error))?;
        slot.connected(&connection);
        Ok(connection)
    }

    async fn exchange(&self, mut request: Request<Body>) -> Result<Response<ResponseBody>, Error> {
        // A request that a dying connection never took is sent once more on a new one.
        for last in [false, true] {
            let mut connection = self.connection().await?;
            connection.address(&mut request);
            match connection.sender.try_send_request(request).await {
                Ok(response) => return Ok(response.map(|body| body.map_err(Into::into).boxed_unsync())),
                Err(mut error) => match error.take_message().filter(|_| !last) {
                    Some(unsent) => request = unsent,
                    None => {
                        return Err(Error::Transport {
                            server: connection.server.to_string(),
                            reason: "the connection broke".into(),
                            source: Some(error.into_error().into()),
                        });
                    }
                },
            }
        }
        unreachable!("the second round returns")
    }
}

// === impl Slot ===

impl Slot {
    /// Tells of an outage once, and not of a server that is started again.
    fn failed(&mut self, error: &Error) {
        let outage = self.outage.get_or_insert_with(|| Outage { since: Instant::now(), told: false });
        if !outage.told && outage.since.elapsed() >= OUTAGE_TOLD {
            outage.told = true;
            tracing::warn!(
                error = error.chain(),
                "no API server answers; what is known of the cluster stays in force"
            );
        }
    }

    fn connected(&mut self, connection: &Connection) {
        self.connection = Some(connection.clone());
        if let Some(outage) = self.outage.take().filter(|outage| outage.told) {
            let (server, seconds) = (&connection.server, outage.since.elapsed().as_secs());
            tracing::info!(%server, seconds, "the API server answers again");
        }
    }
}

impl Transport for Arc<Http2> {
    fn send(&self, request: Request<Body>) -> BoxFuture<'static, Result<Response<ResponseBody>, Error>> {
        let this = self.clone();
        async move { this.exchange(request).await }.boxed()
    }
}

// === impl Connection ===

impl Connection {
    fn address(&self, request: &mut Request<Body>) {
        let path = request.uri().path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/"));
        let mut parts = self.server.clone().into_parts();
        parts.path_and_query = Some(path);
        if let Ok(uri) = Uri::from_parts(parts) {
            *request.uri_mut() = uri;
        }
        if let Some(authorization) = &self.endpoint.authorization {
            request.headers_mut().insert(AUTHORIZATION, authorization.clone());
        }
    }
}

// === impl Endpoint ===

impl Endpoint {
    fn new(config: &ConnectConfig) -> Result<Self, Error> {
        let bad = |reason: String| Error::Request { subject: "a TLS connection".into(), reason };
        let need_ca = || config.ca.as_ref().ok_or_else(|| bad("the servers' authority is not known".into()));
        let (tls, bearer, pinned) = match &config.credentials {
            Credentials::Certificate(identity) => {
                (pki::tls::client_config(need_ca()?, Some(identity)), None, None)
            }
            Credentials::Bearer(token) => {
                (pki::tls::client_config(need_ca()?, None), Some(token.clone()), None)
            }
            Credentials::Bootstrap(token) => match pki::tls::pinned_client_config(&token.ca_sha256) {
                Ok((tls, pinned)) => (Ok(tls), Some(token.bearer()), Some(pinned)),
                Err(error) => (Err(error), None, None),
            },
        };
        let authorization = match bearer {
            Some(token) => {
                let mut value = HeaderValue::try_from(format!("Bearer {token}"))
                    .map_err(|_| bad("the bearer token has characters that no header carries".into()))?;
                value.set_sensitive(true);
                Some(value)
            }
            None => None,
        };
        if config.servers.is_empty() {
            return Err(bad("no server is given".into()));
        }
        Ok(Self {
            servers: config.servers.iter().map(|server| Server::parse(server)).collect::<Result<_, _>>()?,
            next: AtomicUsize::new(0),
            tls: TlsConnector::from(Arc::new(tls.map_err(|error| bad(error.to_string()))?)),
            authorization,
            pinned,
        })
    }

    /// Tries every server once, beginning with the one that worked last.
    async fn connect(self: &Arc<Self>) -> Result<Connection, Error> {
        let mut failure = None;
        for _ in &self.servers {
            let at = self.next.load(Ordering::Relaxed) % self.servers.len();
            let server = &self.servers[at];
            let (reason, source) = match timeout(CONNECT_TIMEOUT, self.connect_to(server)).await {
                Ok(Ok(connection)) => return Ok(connection),
                Ok(Err(source)) => ("is it running, and is this its address?".into(), Some(source)),
                Err(_) => (format!("no answer within {} s", CONNECT_TIMEOUT.as_secs()), None),
            };
            failure = Some(Error::Transport { server: server.uri.to_string(), reason, source });
            self.next.store(at + 1, Ordering::Relaxed);
        }
        Err(failure.expect("invariant: `new` refuses an empty list of servers"))
    }

    async fn connect_to(self: &Arc<Self>, server: &Server) -> Result<Connection, crate::BoxError> {
        let stream = TcpStream::connect(&server.address).await?;
        stream.set_nodelay(true)?;
        let stream = self.tls.connect(server.name.clone(), stream).await?;
        let (sender, driver) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .handshake(TokioIo::new(stream))
            .await?;
        let name = server.uri.to_string();
        tokio::spawn(async move {
            // Ends when the last sender is dropped or the connection breaks; either shows in the next request.
            if let Err(error) = driver.await {
                tracing::debug!(server = name, %error, "connection to the API server ended");
            }
        });
        Ok(Connection { sender, server: server.uri.clone(), endpoint: self.clone() })
    }
}

// === impl Server ===

impl Server {
    fn parse(url: &str) -> Result<Self, Error> {
        let bad = |reason: &str| Error::Request { subject: url.to_owned(), reason: reason.to_owned() };
        let uri: Uri = url.parse().map_err(|_| bad("it is not a URL"))?;
        if uri.scheme_str() != Some("https") {
            return Err(bad("a server's URL begins with https://"));
        }
        let authority = uri.authority().ok_or_else(|| bad("it names no host"))?;
        let host = authority.host().trim_matches(['[', ']']);
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| bad("its host is neither a name nor an address"))?;
        let address = format!("{}:{}", authority.host(), authority.port_u16().unwrap_or(443));
        Ok(Self { address, name, uri })
    }
}

#[cfg(test)]
mod tests;
