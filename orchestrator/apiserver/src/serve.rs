//! Serving: an accept loop of our own over tokio-rustls, because the peer's certificate, ALPN, upgrades and draining
//! all have to meet in one place. Neighbours: `serve::listener` (where the socket comes from), `serve::tls` (who gets
//! in), `serve::connection` (one connection's life).
//!
//! Invariant: nothing that a client does or leaves undone holds up the accept loop; handshakes run in the spawned task.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::body::Body;

pub mod connection;
pub mod listener;
pub mod tls;
mod together;

/// Most connections at a time: one HTTP/2 connection for each of 2,000 agents, and room for many HTTP/1.1 watches.
/// Over it, new ones wait in the kernel's backlog.
const CONNECTIONS_MAX: usize = 16_384;

/// Pause after an accept that failed for want of file descriptors or memory: there is no event that tells of their return.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// Answers requests; implemented by the router, and by fakes in tests.
pub trait Handler: Send + Sync + 'static {
    /// Answers one request. It must not fail: every error is a response.
    fn handle(&self, request: Request<Body>) -> impl Future<Output = Response<Body>> + Send;
}

/// Everything that the accept loop and its connections share.
pub struct Server<H> {
    handler: Arc<H>,
    tls: TlsAcceptor,
    connections: TaskTracker,
    slots: Arc<Semaphore>,
    draining: CancellationToken,
}

// === impl Server ===

impl<H: Handler> Server<H> {
    /// A server that answers through `handler` until `draining` is cancelled.
    pub fn new(handler: Arc<H>, tls: Arc<rustls::ServerConfig>, draining: CancellationToken) -> Arc<Self> {
        Arc::new(Self {
            handler,
            tls: TlsAcceptor::from(tls),
            connections: TaskTracker::new(),
            slots: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
            draining,
        })
    }

    /// Accepts connections until draining starts.
    pub async fn accept(self: Arc<Self>, listener: TcpListener) {
        loop {
            let slot = tokio::select! {
                () = self.draining.cancelled() => return,
                slot = self.slots.clone().acquire_owned() => slot,
            };
            let Ok(slot) = slot else { return };
            let accepted = tokio::select! {
                () = self.draining.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => {
                    let server = self.clone();
                    self.connections.spawn(async move {
                        server.connection(stream, peer).await;
                        drop(slot);
                    });
                }
                Err(error) if is_of_one_client(&error) => {}
                Err(error) => {
                    tracing::warn!(%error, "accept failed; raise the limit of open files if this stays");
                    tokio::time::sleep(ACCEPT_RETRY).await;
                }
            }
        }
    }

    async fn connection(&self, stream: tokio::net::TcpStream, peer: SocketAddr) {
        if let Err(error) = connection::serve(self, stream, peer).await {
            tracing::debug!(%peer, error = %error, "connection ended");
        }
    }

    /// Waits for all connections to finish what they are at, at most `deadline`. Start draining first.
    pub async fn drained(&self, deadline: Duration) {
        self.connections.close();
        if tokio::time::timeout(deadline, self.connections.wait()).await.is_err() {
            let left = self.connections.len();
            tracing::warn!(left, "connections still open after {} s are cut off", deadline.as_secs());
        }
    }
}

/// Errors that one client causes and that say nothing of the listener.
fn is_of_one_client(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}
