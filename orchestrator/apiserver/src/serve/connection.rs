//! One connection's life: handshake with a deadline, identity from the certificate, HTTP by ALPN, graceful end.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::together::Together;
use super::{Handler, Server, tls};
use crate::body::{Body, BoxError};

/// A handshake takes three round trips; 10 s is what a lossy link may need.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
/// Longest wait for a request's head, and so for an idle HTTP/1.1 connection's next request: Go's own idle limit.
const HEADER_READ_MAX: Duration = Duration::from_secs(90);
/// An HTTP/2 peer is asked for a sign of life this often, as Kubernetes' clients ask the server.
const PING_INTERVAL: Duration = Duration::from_secs(30);
/// A peer that has not answered a ping by then is gone.
const PING_TIMEOUT: Duration = Duration::from_secs(15);
/// Unacknowledged bytes older than this mean that the peer is gone: the pings' 45 s, for HTTP/1.1.
const UNACKED_MAX_MS: u32 = 45_000;
/// Streams of one HTTP/2 connection: an agent has about twenty watches; 1,000 leaves room for load generators.
const STREAMS_MAX: u32 = 1_000;
/// Bytes that wait for a slow reader of one HTTP/2 stream; with thousands of watches this is what memory goes to.
const STREAM_SEND_BYTES_MAX: usize = 64 * 1024;
/// What a client may send ahead on one stream: most bodies fit without a window update.
const STREAM_WINDOW: u32 = 256 * 1024;
/// What a client may send ahead on all streams of a connection.
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// Head of a request: the default of Go's servers is 1 MiB, which no Kubernetes client needs.
const HEADER_BYTES_MAX: usize = 64 * 1024;

/// The address of the client, in a request's extensions.
#[derive(Debug, Clone, Copy)]
pub struct PeerAddr(pub SocketAddr);

pub(super) async fn serve<H: Handler>(
    server: &Server<H>,
    stream: TcpStream,
    peer: SocketAddr,
) -> Result<(), BoxError> {
    prepare(&stream)?;
    let stream = tokio::time::timeout(HANDSHAKE_MAX, server.tls.accept(stream))
        .await
        .map_err(|_| format!("no TLS handshake within {} s", HANDSHAKE_MAX.as_secs()))??;
    let (_, session) = stream.get_ref();
    let http2 = session.alpn_protocol() == Some(b"h2");
    let user = session.peer_certificates().and_then(tls::user_of).map(Arc::new);

    let handler = server.handler.clone();
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let (handler, user) = (handler.clone(), user.clone());
        async move {
            let mut request = request.map(Body::from);
            request.extensions_mut().insert(PeerAddr(peer));
            if let Some(user) = user {
                request.extensions_mut().insert(user);
            }
            Ok::<_, std::convert::Infallible>(handler.handle(request).await)
        }
    });
    if http2 {
        serve_http2(server, stream, service).await
    } else {
        serve_http1(server, stream, service).await
    }
}

async fn serve_http1<H, S>(
    server: &Server<H>,
    stream: TlsStream<TcpStream>,
    service: S,
) -> Result<(), BoxError>
where
    S: hyper::service::HttpService<Incoming, ResBody = Body, Error: Into<BoxError>>,
{
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEADER_READ_MAX).max_buf_size(HEADER_BYTES_MAX);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service).with_upgrades());
    tokio::select! {
        done = connection.as_mut() => return done.map_err(Into::into),
        () = server.draining.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    connection.await.map_err(Into::into)
}

async fn serve_http2<H, S>(
    server: &Server<H>,
    stream: TlsStream<TcpStream>,
    service: S,
) -> Result<(), BoxError>
where
    S: hyper::service::HttpService<Incoming, ResBody = Body, Error: Into<BoxError>>,
    S::Future: Send + 'static,
{
    let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .max_concurrent_streams(STREAMS_MAX)
        .max_send_buf_size(STREAM_SEND_BYTES_MAX)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(HEADER_BYTES_MAX as u32);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(Together::new(stream)), service));
    tokio::select! {
        done = connection.as_mut() => return done.map_err(Into::into),
        () = server.draining.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    connection.await.map_err(Into::into)
}

/// Bounds the life of half-open connections and sends small frames at once.
fn prepare(stream: &TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    setsockopt(stream, sockopt::KeepAlive, &true)?;
    setsockopt(stream, sockopt::TcpKeepIdle, &(PING_INTERVAL.as_secs() as u32))?;
    setsockopt(stream, sockopt::TcpKeepInterval, &(PING_TIMEOUT.as_secs() as u32))?;
    setsockopt(stream, sockopt::TcpUserTimeout, &UNACKED_MAX_MS)?;
    Ok(())
}
