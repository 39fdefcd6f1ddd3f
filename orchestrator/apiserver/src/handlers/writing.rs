//! Create, update, patch and delete.

use std::sync::Arc;

use api::patch::PatchType;
use api::{ApiError, Json, Object, Status};
use bytes::Bytes;
use futures::stream::{FuturesUnordered, TryStreamExt};
use http::header::{CONTENT_TYPE, USER_AGENT};
use http::{Response, StatusCode};

use super::reading::now;
use crate::body::Body;
use crate::cache::Entry;
use crate::error::from_body;
use crate::options::{ReadOptions, WriteOptions, dry_run};
use crate::pipeline::decode::Format;
use crate::pipeline::delete::{DeleteOptions, Deleted, Propagation};
use crate::pipeline::update::Mode;
use crate::pipeline::{Write, Written};
use crate::read;
use crate::request_info::RequestInfo;
use crate::response;
use crate::router::Call;

/// Objects of a collection that are deleted at a time: they share the store's commits, and others' writes have a share too.
const DELETIONS_AT_ONCE: usize = 128;

// === impl Call ===

impl Call<'_> {
    /// A write as this request asks for it.
    pub fn write(&self) -> Result<Write<'_>, ApiError> {
        self.write_to(self.info)
    }

    /// A write to another object than the path's.
    pub fn write_to<'w>(&'w self, info: &'w RequestInfo) -> Result<Write<'w>, ApiError> {
        let agent =
            self.parts.headers.get(USER_AGENT).and_then(|value| value.to_str().ok()).unwrap_or_default();
        Ok(Write {
            api: self.api,
            resource: self.resource,
            info,
            user: self.user,
            options: WriteOptions::parse(&self.query, agent)?,
            now: now(),
            applied: false,
            warnings: Vec::new(),
        })
    }

    /// Shows what a write left, with its warnings.
    pub fn written(&self, write: &Write<'_>, written: &Written) -> Result<Response<Body>, ApiError> {
        let code = if written.created { StatusCode::CREATED } else { StatusCode::OK };
        let mut response = self.view()?.object(self.resource, code, written.json())?;
        response::warn(&mut response, &write.warnings);
        Ok(response)
    }
}

/// Reads the whole body.
pub async fn gather(body: Body) -> Result<Bytes, ApiError> {
    body.gather().await.map_err(from_body)
}

/// `POST` to a collection.
pub async fn create(call: &Call<'_>, body: Body) -> Result<Response<Body>, ApiError> {
    // A client that cannot read the answer should not change anything.
    call.view()?;
    let mut write = call.write()?;
    let format = Format::of(&call.parts.headers)?;
    let object = write.decode(&gather(body).await?, format)?;
    let written = write.create(object).await?;
    call.written(&write, &written)
}

/// `PUT` of an object or of a part of it.
pub async fn update(call: &Call<'_>, body: Body) -> Result<Response<Body>, ApiError> {
    call.view()?;
    let mut write = call.write()?;
    let format = Format::of(&call.parts.headers)?;
    let bytes = gather(body).await?;
    let mut object = write.decode(&bytes, format)?;
    write.check_place(&mut object)?;
    // Decoded again only when the object changed in between and this was right all the same.
    let mut first = Some(object);
    let mut source = |write: &mut Write<'_>, _: &Object| match first.take() {
        Some(object) => Ok(object),
        None => write.decode(&bytes, format),
    };
    let written = match write.update(Mode::Replace, &mut source).await? {
        Some(written) => written,
        None if call.info.subresource.is_empty() && call.resource.kind.strategy.allow_create_on_update() => {
            let mut object = write.decode(&bytes, format)?;
            object.meta_mut().remove("resourceVersion");
            write.create(object).await?
        }
        None => return Err(write.not_found()),
    };
    call.written(&write, &written)
}

/// `PATCH` of an object or of a part of it.
pub async fn patch(call: &Call<'_>, body: Body) -> Result<Response<Body>, ApiError> {
    call.view()?;
    let content_type = call.parts.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let patch_type = PatchType::from_content_type(content_type.unwrap_or_default());
    let patch_type = patch_type.ok_or_else(|| ApiError::unsupported_media_type(&PatchType::CONTENT_TYPES))?;
    let mut write = call.write()?;
    let body = gather(body).await?;
    let written = match patch_type {
        PatchType::Apply => write.apply(&body).await?,
        other => write.patch(other, &body).await?,
    };
    call.written(&write, &written)
}

/// `DELETE` of an object.
pub async fn delete(call: &Call<'_>, body: Body) -> Result<Response<Body>, ApiError> {
    let view = call.view()?;
    let options = delete_options(call, body).await?;
    let mut write = call.write()?;
    write.options.dry_run |= dry_run(options.dry_run.iter().map(String::as_str))?;
    let mut response = match write.delete(&options).await? {
        Deleted::Gone(object) => {
            let status = Status::deleted(&call.resource.kind, object.meta().name(), object.meta().uid());
            let value = serde_json::to_value(status).map_err(ApiError::internal)?;
            view.value(StatusCode::OK, &value)?
        }
        Deleted::Marked(written) => {
            let code =
                if options.orphan_dependents == Some(false) { StatusCode::ACCEPTED } else { StatusCode::OK };
            view.object(call.resource, code, written.json())?
        }
    };
    response::warn(&mut response, &write.warnings);
    Ok(response)
}

/// `DELETE` of a collection: each object that the selectors find.
pub async fn delete_collection(call: &Call<'_>, body: Body) -> Result<Response<Body>, ApiError> {
    let view = call.view()?;
    let options = delete_options(call, body).await?;
    let mut selection = ReadOptions::parse(&call.query, false)?;
    selection.limit = 0;
    let namespace = if call.resource.kind.is_namespaced() { call.info.namespace.as_str() } else { "" };
    let scope = call.resource.scope(namespace, &selection.label_selector, &selection.field_selector)?;
    let page = read::list::list(&call.api.feed, call.resource, &scope, &selection).await?;
    let dry = dry_run(options.dry_run.iter().map(String::as_str))?;
    delete_all(call, &page.entries, &options, dry).await?;
    view.list(call.resource, page)
}

async fn delete_all(
    call: &Call<'_>,
    entries: &[Arc<Entry>],
    options: &DeleteOptions,
    dry: bool,
) -> Result<(), ApiError> {
    let mut deletions = FuturesUnordered::new();
    for entry in entries {
        if deletions.len() == DELETIONS_AT_ONCE {
            deletions.try_next().await?;
        }
        deletions.push(delete_one(call, entry, options, dry));
    }
    deletions.try_collect().await
}

/// Deletes one object of a collection; one that is gone already is what was asked for.
async fn delete_one(
    call: &Call<'_>,
    entry: &Entry,
    options: &DeleteOptions,
    dry: bool,
) -> Result<(), ApiError> {
    let (namespace, name) = (entry.namespace().to_owned(), entry.name().to_owned());
    let info = RequestInfo { namespace, name, ..call.info.clone() };
    let mut write = call.write_to(&info)?;
    write.options.dry_run |= dry;
    match write.delete(options).await {
        Err(error) if error.code() == StatusCode::NOT_FOUND => Ok(()),
        done => done.map(drop),
    }
}

/// Reads `DeleteOptions` from the body, and what is given as parameters instead.
async fn delete_options(call: &Call<'_>, body: Body) -> Result<DeleteOptions, ApiError> {
    let bytes = gather(body).await?;
    let mut options = DeleteOptions::default();
    if !bytes.is_empty() {
        let malformed =
            |error: String| ApiError::bad_request(format!("unable to decode DeleteOptions: {error}"));
        let value = Format::of(&call.parts.headers)?.tree(&bytes)?;
        if !matches!(value.text("kind"), "" | "DeleteOptions") {
            return Err(malformed(format!("the body is a {}", value.text("kind"))));
        }
        options = serde_json::from_value(strip_nulls(value)).map_err(|error| malformed(error.to_string()))?;
    }
    let query = &call.query;
    if let Some(text) = query.get("gracePeriodSeconds") {
        let seconds = text.parse().map_err(|_| {
            ApiError::bad_request(format!("gracePeriodSeconds: Invalid value: {text:?}: must be a number"))
        })?;
        options.grace_period_seconds = Some(seconds);
    }
    if let Some(text) = query.get("propagationPolicy").filter(|text| !text.is_empty()) {
        options.propagation_policy = Some(propagation(text)?);
    }
    options.orphan_dependents = query.flag("orphanDependents").or(options.orphan_dependents);
    if options.orphan_dependents.is_some() && options.propagation_policy.is_some() {
        return Err(ApiError::bad_request("orphanDependents and deletionPropagation cannot be both set"));
    }
    if options.grace_period_seconds.is_some_and(|seconds| seconds < 0) {
        // Kubernetes takes a negative grace period for the shortest one.
        options.grace_period_seconds = Some(1);
    }
    Ok(options)
}

fn strip_nulls(mut value: serde_json::Value) -> serde_json::Value {
    if let Some(map) = value.as_object_mut() {
        map.retain(|_, value| !value.is_null());
    }
    value
}

fn propagation(text: &str) -> Result<Propagation, ApiError> {
    match text {
        "Orphan" => Ok(Propagation::Orphan),
        "Background" => Ok(Propagation::Background),
        "Foreground" => Ok(Propagation::Foreground),
        other => Err(ApiError::bad_request(format!(
            "propagationPolicy: Unsupported value: {other:?}: supported values: \"Foreground\", \"Background\", \"Orphan\""
        ))),
    }
}

/// Reads a body that is no object of the resource's kind.
pub fn decode_body(bytes: &Bytes, format: Format) -> Result<Object, ApiError> {
    Object::from_value(format.tree(bytes)?).map_err(|_| ApiError::bad_request("the body is not an object"))
}
