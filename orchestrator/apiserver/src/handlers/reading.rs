//! Get, list and watch.

use std::net::SocketAddr;

use api::ApiError;
use api::time::Time;
use http::{Response, StatusCode};

use crate::body::Body;
use crate::negotiate::{Accepted, Encoding, SUPPORTED};
use crate::options::{ReadOptions, Version};
use crate::read;
use crate::read::watch::WatchBody;
use crate::render::View;
use crate::render::table::IncludeObject;
use crate::response;
use crate::router::Call;
use crate::serve::connection::PeerAddr;

// === impl Call ===

impl Call<'_> {
    /// How this client wants objects shown.
    pub fn view(&self) -> Result<View, ApiError> {
        Ok(View {
            accepted: Accepted::from_headers(&self.parts.headers)?,
            include: IncludeObject::parse(self.query.get("includeObject"))?,
            now: now(),
        })
    }

    /// The client's address, unless it is in this process.
    pub fn peer(&self) -> Option<SocketAddr> {
        self.parts.extensions.get::<PeerAddr>().map(|peer| peer.0)
    }
}

/// The present time.
pub fn now() -> Time {
    Time::from(std::time::SystemTime::now())
}

/// `GET` of an object.
pub async fn get(call: &Call<'_>) -> Result<Response<Body>, ApiError> {
    let view = call.view()?;
    let version = Version::parse(call.query.get("resourceVersion").unwrap_or_default())?;
    let info = call.info;
    let entry = read::get::get(&call.api.feed, call.resource, &info.namespace, &info.name, version).await?;
    view.object(call.resource, StatusCode::OK, entry.json())
}

/// `GET` of a collection.
pub async fn list(call: &Call<'_>) -> Result<Response<Body>, ApiError> {
    let view = call.view()?;
    let options = ReadOptions::parse(&call.query, false)?;
    let scope = call.resource.scope(namespace(call), &options.label_selector, &options.field_selector)?;
    let page = read::list::list(&call.api.feed, call.resource, &scope, &options).await?;
    view.list(call.resource, page)
}

/// `GET` with `watch=true`, of a collection or of one object.
pub async fn watch(call: &Call<'_>) -> Result<Response<Body>, ApiError> {
    let view = call.view()?;
    if view.accepted.encoding != Encoding::Json {
        return Err(ApiError::not_acceptable(&SUPPORTED[..1]));
    }
    let mut options = ReadOptions::parse(&call.query, true)?;
    if !call.info.name.is_empty() {
        let separator = if options.field_selector.is_empty() { "" } else { "," };
        options.field_selector.push_str(&format!("{separator}metadata.name={}", call.info.name));
    }
    let scope = call.resource.scope(namespace(call), &options.label_selector, &options.field_selector)?;
    let watch = read::watch::start(&call.api.feed, call.resource, scope, &options).await?;
    let api = call.api;
    let body = WatchBody::new(
        watch,
        &options,
        &call.resource.kind,
        view.convert(call.resource),
        api.draining.clone(),
        api.metrics.watch(&call.info.resource),
    );
    Ok(response::json(StatusCode::OK, Body::stream(body)))
}

/// The namespace that a collection is of. A namespace's own path names itself, not where it lives.
fn namespace<'c>(call: &'c Call<'_>) -> &'c str {
    if call.resource.kind.is_namespaced() { &call.info.namespace } else { "" }
}
