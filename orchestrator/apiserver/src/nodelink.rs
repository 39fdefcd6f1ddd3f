//! The link between nodes and server. Wire types: `api::nodelink`.

use std::sync::Arc;

use api::ApiError;
use http::Response;
use http::request::Parts;

use crate::app::Api;
use crate::body::Body;
use crate::request_info::RequestInfo;

/// The group of this project's own endpoints.
pub const GROUP: &str = "bowsprit.dev";

pub(crate) async fn serve(
    _: &Arc<Api>,
    _: &Parts,
    _: Body,
    _: &RequestInfo,
) -> Result<Response<Body>, ApiError> {
    Err(ApiError::unknown_path())
}
