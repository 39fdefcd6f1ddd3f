//! The object model, pure, no IO: kinds and their registry, schemas, strict decoding, defaulting, validation,
//! selectors, patches, server-side apply, tables, discovery and OpenAPI documents.
//!
//! A request's object is one owned JSON tree behind [`Object`]; what the server knows about a kind is data
//! ([`Kind`], [`schema`]) plus a small [`Strategy`]. Nothing here reads a clock, a socket or a file: time comes
//! in as an argument, so that every function is a function.
#![forbid(unsafe_code)]

pub mod decode;
pub mod defaults;
pub mod discovery;
pub mod field;
pub mod identity;
pub mod kind;
pub mod kinds;
pub mod managed_fields;
pub mod meta;
pub mod names;
pub mod nodelink;
pub mod object;
pub mod openapi;
pub mod patch;
pub mod printing;
pub mod protobuf;
pub mod quantity;
pub mod registry;
pub mod schema;
pub mod selectors;
pub mod status;
pub mod strategy;
pub mod table;
pub mod time;

pub use field::{ErrorList, FieldError, FieldErrorType, Path};
pub use identity::UserInfo;
pub use kind::{Column, Generation, Kind, ScalePaths, Scope, SelectableField, StorageClass, Subresource};
pub use meta::{Meta, MetaMut};
pub use object::{Json, Map, Object, Value};
pub use quantity::Quantity;
pub use registry::Registry;
pub use status::{ApiError, Reason, Status};
pub use strategy::{Cell, Strategy};
