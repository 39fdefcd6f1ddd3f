//! The OpenAPI documents: version 3, one for each group and version, and version 2, one for all, in JSON and in the
//! protobuf form that clients up to kubectl 1.26 read and nothing else.
//!
//! Everything is derived: schemas from the table of facts, paths from the registry. Documents are large and rarely asked
//! for; the server makes them on demand and may keep the bytes.
mod gnostic;
mod paths;
mod schemas;

use std::collections::{BTreeSet, VecDeque};

use bytes::Bytes;
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::kind::Kind;
use crate::object::{Map, Value};
use crate::registry::Registry;
use crate::schema::{Body, DefinitionId, Schema, Type};

/// The content type of the protobuf form of version 2, for responses.
pub const V2_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
/// What older clients call it in `Accept`; as a response's type they could not read it themselves.
const V2_PROTOBUF_OLD: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
/// The version of the API that the documents name.
const API_VERSION: &str = "v1.36.0";

/// Which version of OpenAPI is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dialect {
    V2,
    V3,
}

/// `GET /openapi/v3`: where the documents are, each under an address that changes with its content.
pub fn v3_index(registry: &Registry) -> Value {
    let paths: Map = registry
        .group_versions()
        .into_iter()
        .filter_map(|(group, version)| {
            let path = root_path(group, version);
            let hash = hash(&v3(registry, group, version)?);
            let address = format!("/openapi/v3/{path}?hash={hash}");
            Some((path, json!({"serverRelativeURL": address})))
        })
        .collect();
    json!({"paths": paths})
}

/// `GET /openapi/v3/apis/GROUP/VERSION`; `None` if it is not served.
pub fn v3(registry: &Registry, group: &str, version: &str) -> Option<Bytes> {
    let kinds: Vec<&Kind> = registry.in_group_version(group, version).map(AsRef::as_ref).collect();
    if kinds.is_empty() {
        return None;
    }
    let document = json!({
        "openapi": "3.0.0",
        "info": info(),
        "paths": paths::all(&kinds, Dialect::V3),
        "components": {"schemas": schemas::all(&reachable(&kinds), Dialect::V3)},
    });
    Some(encode(&document))
}

/// `GET /openapi/v2` in JSON.
pub fn v2_json(registry: &Registry) -> Bytes {
    encode(&v2(registry))
}

/// `GET /openapi/v2` in protobuf.
pub fn v2_protobuf(registry: &Registry) -> Bytes {
    gnostic::encode(&v2(registry)).into()
}

/// Whether an `Accept` header asks for the protobuf form of version 2.
pub fn wants_v2_protobuf(accept: &str) -> bool {
    let mut types = accept.split(',').map(|part| part.split(';').next().unwrap_or_default().trim());
    types.any(|media_type| media_type == V2_PROTOBUF || media_type == V2_PROTOBUF_OLD)
}

/// The tag of a document, for `ETag` and `?hash=`.
pub fn hash(document: &[u8]) -> String {
    Sha256::digest(document).iter().map(|byte| format!("{byte:02X}")).collect()
}

/// Whether two tags mean the same document; clients put them in quotes or not.
pub fn same_hash(given: &str, hash: &str) -> bool {
    given.trim().trim_start_matches("W/").trim_matches('"') == hash
}

fn v2(registry: &Registry) -> Value {
    let kinds: Vec<&Kind> = registry.kinds().iter().map(AsRef::as_ref).collect();
    json!({
        "swagger": "2.0",
        "info": info(),
        "paths": paths::all(&kinds, Dialect::V2),
        "definitions": schemas::all(&reachable(&kinds), Dialect::V2),
    })
}

fn info() -> Value {
    json!({"title": "Kubernetes", "version": API_VERSION})
}

fn encode(document: &Value) -> Bytes {
    serde_json::to_vec(document).expect("a JSON tree has string keys and finite numbers only").into()
}

/// `api/v1`, `apis/apps/v1`.
fn root_path(group: &str, version: &str) -> String {
    match group {
        "" => format!("api/{version}"),
        _ => format!("apis/{group}/{version}"),
    }
}

/// All definitions that the kinds' requests and responses consist of, in order.
fn reachable(kinds: &[&Kind]) -> BTreeSet<DefinitionId> {
    let schema = Schema::builtin();
    let mut queue: VecDeque<DefinitionId> = VecDeque::new();
    for kind in kinds {
        queue.extend(schema.by_kind(&kind.group, &kind.version, &kind.kind));
        queue.extend(schema.by_kind(&kind.group, &kind.version, &kind.list_kind));
        queue.extend(
            kind.subresources
                .iter()
                .filter_map(|part| schema.by_kind(&part.group, &part.version, &part.kind)),
        );
    }
    queue.extend(["DeleteOptions", "Status"].into_iter().filter_map(|kind| schema.by_kind("", "v1", kind)));
    let mut reached = BTreeSet::new();
    while let Some(id) = queue.pop_front() {
        if !reached.insert(id) {
            continue;
        }
        match &schema.get(id).body {
            Body::Fields(fields) => fields.iter().for_each(|field| queue.extend(reference(&field.ty))),
            Body::Whole(whole) => queue.extend(reference(whole)),
        }
    }
    reached
}

fn reference(ty: &Type) -> Option<DefinitionId> {
    match ty {
        Type::Ref(id) => Some(*id),
        Type::List(inner) | Type::Map(inner) => reference(inner),
        Type::Scalar(_) | Type::Any => None,
    }
}

/// A reference to the definition of a kind, or just an object where there is none.
fn kind_schema(group: &str, version: &str, kind: &str, dialect: Dialect) -> Value {
    let schema = Schema::builtin();
    match schema.by_kind(group, version, kind) {
        Some(id) => schemas::reference(&schema.get(id).name, dialect),
        None => json!({"type": "object"}),
    }
}

#[cfg(test)]
mod tests;
