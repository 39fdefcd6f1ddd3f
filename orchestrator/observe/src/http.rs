//! The stream on the agent's port: `GET /bowsprit/flows?follow=&drops=&since=&last=&pod=&namespace=`, one JSON object a line.

use std::convert::Infallible;

use axum::{
    Router,
    body::Body,
    extract::{RawQuery, State},
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::get,
};
use bytes::Bytes;
use chrono::Utc;
use futures::StreamExt;

use crate::{flow::Line, query::Query, recorder::Flows};

/// Where the agent serves its flows.
pub const PATH: &str = "/bowsprit/flows";
/// What it serves.
pub const NDJSON: &str = "application/x-ndjson";

/// A route at [`PATH`] for the agent's router.
pub fn router<S: Clone + Send + Sync + 'static>(flows: Flows) -> Router<S> {
    Router::new().route(PATH, get(serve)).with_state(flows)
}

async fn serve(State(flows): State<Flows>, RawQuery(query): RawQuery) -> Response {
    match Query::parse(query.as_deref().unwrap_or_default(), Utc::now()) {
        Ok(query) => {
            let lines = flows.read(query).map(|line| Ok::<_, Infallible>(encode(&line)));
            ([(CONTENT_TYPE, NDJSON)], Body::from_stream(lines)).into_response()
        }
        Err(error) => (StatusCode::BAD_REQUEST, format!("{error}\n")).into_response(),
    }
}

/// A line with its end.
pub fn encode(line: &Line) -> Bytes {
    let mut bytes = serde_json::to_vec(line).expect("invariant: a line is made of strings and numbers");
    bytes.push(b'\n');
    bytes.into()
}
