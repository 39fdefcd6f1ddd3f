//! From objects at rest to the body of a response: as they are, as a table, as metadata only; as JSON or YAML.
//!
//! What is asked for as it is stored is copied once and never parsed.

use std::collections::VecDeque;
use std::sync::Arc;

use api::time::Time;
use api::{ApiError, Object};
use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use crate::body::Body;
use crate::cache::Entry;
use crate::compress::Large;
use crate::negotiate::{Accepted, Encoding, Shape};
use crate::read::list::Page;
use crate::resources::Resource;
use crate::response;

pub mod table;

use table::{IncludeObject, Table};

/// Bytes of a list that are gathered into one piece: large enough to be written at once, small enough to start soon.
const PIECE_BYTES: usize = 64 * 1024;

/// How to show objects to one client.
#[derive(Debug, Clone, Copy)]
pub struct View {
    /// What the client accepts.
    pub accepted: Accepted,
    /// What rows of a table hold of their objects.
    pub include: IncludeObject,
    /// What ages are relative to.
    pub now: Time,
}

// === impl View ===

impl View {
    /// One object, given as JSON with its resourceVersion.
    pub fn object(
        &self,
        resource: &Resource,
        code: StatusCode,
        bytes: Bytes,
    ) -> Result<Response<Body>, ApiError> {
        if self.accepted.is_plain() && !resource.is_view() {
            return Ok(response::json(code, bytes));
        }
        let object = read(resource, &bytes)?;
        let value = match self.accepted.shape {
            Shape::Object => object.into_value(),
            Shape::Partial => partial(&object, "PartialObjectMetadata"),
            Shape::Table => {
                let mut table = Table::new(&resource.kind, self.include);
                table.add(&object, self.now);
                table.finish(list_meta(object.meta().resource_version(), "", None))
            }
        };
        self.value(code, &value)
    }

    /// A page of a list.
    pub fn list(&self, resource: &Resource, page: Page) -> Result<Response<Body>, ApiError> {
        let revision = page.revision.to_string();
        if self.accepted.is_plain() && !resource.is_view() {
            return Ok(plain_list(resource, page));
        }
        let meta = list_meta(&revision, &page.continue_token, page.remaining);
        let mut objects = page.entries.iter().map(|entry| read(resource, &entry.json()));
        let value = match self.accepted.shape {
            Shape::Object => {
                let items = objects.map(|o| o.map(Object::into_value)).collect::<Result<Vec<_>, _>>()?;
                json!({
                    "kind": resource.kind.list_kind, "apiVersion": resource.kind.api_version(),
                    "metadata": meta, "items": items,
                })
            }
            Shape::Partial => {
                let items = objects.map(|o| o.map(|o| partial(&o, "PartialObjectMetadata")));
                let items = items.collect::<Result<Vec<_>, _>>()?;
                json!({
                    "kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1",
                    "metadata": meta, "items": items,
                })
            }
            Shape::Table => {
                let mut table = Table::new(&resource.kind, self.include);
                objects.try_for_each(|object| object.map(|object| table.add(&object, self.now)))?;
                table.finish(meta)
            }
        };
        self.value(StatusCode::OK, &value)
    }

    /// Any value in the client's encoding.
    pub fn value(&self, code: StatusCode, value: &Value) -> Result<Response<Body>, ApiError> {
        let bytes = match self.accepted.encoding {
            Encoding::Json => serde_json::to_vec(value).map_err(ApiError::internal)?,
            Encoding::Yaml => serde_saphyr::to_string(value).map_err(ApiError::internal)?.into_bytes(),
        };
        let content_type = HeaderValue::from_static(self.accepted.encoding.content_type());
        Ok(response::with_type(code, content_type, Bytes::from(bytes)))
    }

    /// What a watch does with its objects; `None` leaves them as they are stored.
    pub fn convert(&self, resource: &Arc<Resource>) -> Option<crate::read::watch::Convert> {
        if self.accepted.is_plain() && !resource.is_view() {
            return None;
        }
        if self.accepted.shape == Shape::Partial && !resource.is_view() {
            return Some(Box::new(|entry: &Entry, revision| {
                let mut bytes = Vec::with_capacity(entry.json_len());
                entry.write_json(&mut bytes, revision);
                metadata_of(&bytes).unwrap_or(bytes)
            }));
        }
        let (view, resource) = (*self, resource.clone());
        let mut first = true;
        Some(Box::new(move |entry: &Entry, revision| {
            let mut bytes = Vec::with_capacity(entry.json_len());
            entry.write_json(&mut bytes, revision);
            let Ok(object) = read(&resource, &bytes) else { return bytes };
            let value = match view.accepted.shape {
                Shape::Object => object.into_value(),
                Shape::Partial => partial(&object, "PartialObjectMetadata"),
                Shape::Table => {
                    let mut table = Table::new(&resource.kind, view.include);
                    table.add(&object, view.now_again());
                    // Clients keep the columns of the first event.
                    table.without_columns(!std::mem::take(&mut first));
                    table.finish(list_meta(&revision.to_string(), "", None))
                }
            };
            serde_json::to_vec(&value).unwrap_or(bytes)
        }))
    }

    fn now_again(&self) -> Time {
        Time::from(std::time::SystemTime::now())
    }
}

/// An object of a resource, in the shape of its own version.
fn read(resource: &Resource, bytes: &[u8]) -> Result<Object, ApiError> {
    let mut object = Object::from_bytes(bytes).map_err(ApiError::internal)?;
    if resource.is_view() {
        resource.kind.strategy.from_stored(&mut object);
    }
    Ok(object)
}

/// The metadata of an object alone, as bytes, without reading the rest: garbage collectors watch everything like that.
fn metadata_of(object: &[u8]) -> Option<Vec<u8>> {
    #[derive(Deserialize)]
    struct HasMetadata<'b> {
        #[serde(borrow)]
        metadata: &'b RawValue,
    }
    let object: HasMetadata<'_> = serde_json::from_slice(object).ok()?;
    let metadata = object.metadata.get();
    let shown =
        format!(r#"{{"kind":"PartialObjectMetadata","apiVersion":"meta.k8s.io/v1","metadata":{metadata}}}"#);
    Some(shown.into_bytes())
}

/// The metadata of an object alone.
fn partial(object: &Object, kind: &str) -> Value {
    let metadata = object.get("metadata").cloned().unwrap_or_else(|| Value::Object(Map::new()));
    json!({ "kind": kind, "apiVersion": "meta.k8s.io/v1", "metadata": metadata })
}

fn list_meta(revision: &str, continue_token: &str, remaining: Option<u64>) -> Value {
    let mut meta = Map::new();
    meta.insert("resourceVersion".to_owned(), revision.into());
    if !continue_token.is_empty() {
        meta.insert("continue".to_owned(), continue_token.into());
    }
    if let Some(remaining) = remaining {
        meta.insert("remainingItemCount".to_owned(), remaining.into());
    }
    Value::Object(meta)
}

fn plain_list(resource: &Resource, page: Page) -> Response<Body> {
    let kind = &resource.kind;
    let meta = list_meta(&page.revision.to_string(), &page.continue_token, page.remaining);
    let head = format!(
        "{{\"kind\":\"{}\",\"apiVersion\":\"{}\",\"metadata\":{meta},\"items\":[",
        kind.list_kind,
        kind.api_version()
    );
    let bytes: usize = page.entries.iter().map(|entry| entry.json_len() + 1).sum();
    let mut list =
        ListBytes { head: head.into_bytes(), entries: page.entries.into_iter(), first: true, ended: false };
    if bytes <= PIECE_BYTES {
        let pieces: VecDeque<Bytes> = std::iter::from_fn(|| list.next()).collect();
        return match <[Bytes; 1]>::try_from(Vec::from(pieces)) {
            Ok([whole]) => response::json(StatusCode::OK, whole),
            Err(pieces) => response::json(StatusCode::OK, Body::Chunks(pieces.into())),
        };
    }
    let stream = futures::stream::iter(
        list.map(|piece| Ok::<_, std::convert::Infallible>(http_body::Frame::data(piece))),
    );
    let mut response = response::json(StatusCode::OK, Body::stream(http_body_util::StreamBody::new(stream)));
    response.extensions_mut().insert(Large);
    response
}

/// A list's JSON, piece by piece, so that its size in memory is that of one piece.
struct ListBytes {
    head: Vec<u8>,
    entries: std::vec::IntoIter<Arc<Entry>>,
    first: bool,
    ended: bool,
}

impl Iterator for ListBytes {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        if self.ended {
            return None;
        }
        let mut out = std::mem::take(&mut self.head);
        let ahead: usize = self.entries.as_slice().iter().take(16).map(|entry| entry.json_len() + 1).sum();
        out.reserve(ahead.min(PIECE_BYTES));
        while out.len() < PIECE_BYTES {
            let Some(entry) = self.entries.next() else {
                out.extend_from_slice(b"]}");
                self.ended = true;
                break;
            };
            if !std::mem::take(&mut self.first) {
                out.push(b',');
            }
            entry.write_json(&mut out, entry.revision());
        }
        Some(out.into())
    }
}
