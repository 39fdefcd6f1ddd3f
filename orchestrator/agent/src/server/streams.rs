//! exec, attach and port-forward. A SPDY client is spliced to the runtime's streaming server byte by byte; a WebSocket
//! client is translated in `websocket`.

use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::failure::Failure;
use super::websocket;
use crate::runtime::{PodRuntime, StreamRequest};

/// The protocol of the runtime's streaming server.
pub const SPDY: &str = "SPDY/3.1";
/// Header in which client and server agree on what the streams mean.
pub const STREAM_PROTOCOL: &str = "x-stream-protocol-version";

/// The runtime is on this machine.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes of a refusal that are passed on.
const REFUSAL_BYTES_MAX: usize = 16 << 10;
/// Bytes copied at once in each direction.
const COPY_BYTES: usize = 64 << 10;

/// Answers a request for a session.
pub async fn open(
    runtime: &dyn PodRuntime,
    session: StreamRequest,
    mut request: Request<Body>,
) -> Result<Response, Failure> {
    let upgrade = request.headers().get(header::UPGRADE).and_then(|value| value.to_str().ok());
    let upgrade = upgrade.map(str::to_ascii_lowercase);
    let client = request.extensions_mut().remove::<OnUpgrade>();
    match (upgrade.as_deref(), client) {
        (Some("spdy/3.1"), Some(client)) => splice(runtime, &session, request.headers(), client).await,
        (Some("websocket"), Some(client)) => {
            websocket::open(runtime, &session, request.headers(), client).await
        }
        (Some(other), Some(_)) => {
            Err(Failure::bad_request(format!("cannot upgrade to {other}: use SPDY/3.1 or websocket")))
        }
        _ => Err(Failure::bad_request(
            "Upgrade request required: this path speaks SPDY/3.1 or websocket (HTTP/1.1)",
        )),
    }
}

async fn splice(
    runtime: &dyn PodRuntime,
    session: &StreamRequest,
    headers: &HeaderMap,
    client: OnUpgrade,
) -> Result<Response, Failure> {
    let protocols: Vec<HeaderValue> = headers.get_all(STREAM_PROTOCOL).iter().cloned().collect();
    let url = runtime.stream_url(session).await?;
    let (answer, upstream) = connect(&url, &protocols).await?;
    tokio::spawn(async move {
        let Ok(client) = client.await else { return };
        let (mut client, mut upstream) = (TokioIo::new(client), TokioIo::new(upstream));
        // Either side may break off at any time; that is how sessions end.
        let copied =
            tokio::io::copy_bidirectional_with_sizes(&mut client, &mut upstream, COPY_BYTES, COPY_BYTES);
        if let Err(error) = copied.await {
            tracing::debug!(%error, "a stream ended");
        }
    });
    let mut kept = HeaderMap::new();
    for name in [header::CONNECTION, header::UPGRADE, HeaderName::from_static(STREAM_PROTOCOL)] {
        kept.extend(answer.get_all(&name).iter().map(|value| (name.clone(), value.clone())));
    }
    Ok(switching(kept))
}

/// The answer that ends HTTP on a connection.
pub fn switching(headers: HeaderMap) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *response.headers_mut() = headers;
    response
}

/// Opens a SPDY connection to the runtime's streaming server. Answers the headers of its 101 and the connection.
pub async fn connect(url: &str, protocols: &[HeaderValue]) -> Result<(HeaderMap, Upgraded), Failure> {
    let fail = |why: String| Failure::internal(format!("the runtime's streaming server at {url}: {why}"));
    let uri: Uri = url.parse().map_err(|error: http::uri::InvalidUri| fail(error.to_string()))?;
    let authority = uri.authority().ok_or_else(|| fail("the URL names no host".to_owned()))?.clone();
    let stream = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(authority.as_str()))
        .await
        .map_err(|_| fail("no connection in time".to_owned()))?
        .map_err(|error| fail(error.to_string()))?;
    stream.set_nodelay(true).map_err(|error| fail(error.to_string()))?;
    let handshake = hyper::client::conn::http1::handshake::<_, Empty<Bytes>>(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| fail(error.to_string()))?;
    tokio::spawn(connection.with_upgrades());

    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let mut request = Request::builder()
        .method(Method::POST)
        .uri(path)
        .header(header::HOST, authority.as_str())
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, SPDY);
    for protocol in protocols {
        request = request.header(STREAM_PROTOCOL, protocol);
    }
    let request = request.body(Empty::new()).map_err(|error| fail(error.to_string()))?;
    let response = sender.send_request(request).await.map_err(|error| fail(error.to_string()))?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        let code = response.status();
        let body = Limited::new(response.into_body(), REFUSAL_BYTES_MAX).collect().await;
        let text = body.map(|body| String::from_utf8_lossy(&body.to_bytes()).trim().to_owned());
        return Err(fail(format!("{code} {}", text.unwrap_or_default())));
    }
    let headers = response.headers().clone();
    let upgraded = hyper::upgrade::on(response).await.map_err(|error| fail(error.to_string()))?;
    Ok((headers, upgraded))
}
