//! The stream on the agent's port.

use std::sync::Arc;

use abi::Event;
use axum::{
    Router,
    body::Body,
    extract::Query,
    http::header::CONTENT_TYPE,
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::sync::{broadcast, watch};

use crate::{filter::Filter, flow::Names, stream::flows};

/// Where the agent serves its flows.
pub const PATH: &str = "/bowsprit/flows";

/// A route at [`PATH`] that streams the flows of `node`. `events` is asked once for each reader.
pub fn router<N: Names>(
    node: &str,
    events: impl Fn() -> broadcast::Receiver<Event> + Clone + Send + Sync + 'static,
    names: watch::Receiver<Arc<N>>,
) -> Router {
    let node = node.to_owned();
    let handler = move |Query(filter): Query<Filter>| async move {
        respond(Body::from_stream(ok(flows(node, events(), names, filter))))
    };
    Router::new().route(PATH, get(handler))
}

fn ok<T>(
    stream: impl futures::Stream<Item = T>,
) -> impl futures::Stream<Item = Result<T, std::convert::Infallible>> {
    futures::StreamExt::map(stream, Ok)
}

fn respond(body: Body) -> Response {
    ([(CONTENT_TYPE, "application/x-ndjson")], body).into_response()
}
