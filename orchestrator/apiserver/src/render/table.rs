//! `meta.k8s.io/v1` Tables: what `kubectl get` prints.

use api::time::Time;
use api::{ApiError, Kind, Object};
use serde_json::{Value, json};

/// What a row holds of its object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IncludeObject {
    /// Nothing.
    None,
    /// Its metadata.
    #[default]
    Metadata,
    /// All of it.
    Object,
}

/// A table in the making.
pub struct Table<'k> {
    kind: &'k Kind,
    include: IncludeObject,
    rows: Vec<Value>,
    columns: bool,
}

// === impl IncludeObject ===

impl IncludeObject {
    /// Reads the parameter `includeObject`.
    pub fn parse(text: Option<&str>) -> Result<Self, ApiError> {
        match text.unwrap_or_default() {
            "" | "Metadata" => Ok(Self::Metadata),
            "None" => Ok(Self::None),
            "Object" => Ok(Self::Object),
            other => Err(ApiError::bad_request(format!(
                "includeObject: Unsupported value: {other:?}: supported values: \"None\", \"Metadata\", \"Object\""
            ))),
        }
    }
}

// === impl Table ===

impl<'k> Table<'k> {
    /// An empty table of a kind.
    pub fn new(kind: &'k Kind, include: IncludeObject) -> Self {
        Self { kind, include, rows: Vec::new(), columns: true }
    }

    /// Adds an object's row.
    pub fn add(&mut self, object: &Object, now: Time) {
        let cells = self.kind.strategy.table_row(object, now);
        let object = match self.include {
            IncludeObject::None => Value::Null,
            IncludeObject::Metadata => super::partial(object, "PartialObjectMetadata"),
            IncludeObject::Object => object.value().clone(),
        };
        self.rows.push(json!({ "cells": cells, "object": object }));
    }

    /// Leaves the column definitions out.
    pub fn without_columns(&mut self, without: bool) {
        self.columns = !without;
    }

    /// The table's JSON.
    pub fn finish(self, metadata: Value) -> Value {
        let columns: Vec<Value> = self.kind.columns.iter().filter(|_| self.columns).map(column).collect();
        json!({
            "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata,
            "columnDefinitions": columns, "rows": self.rows,
        })
    }
}

fn column(column: &api::Column) -> Value {
    json!({
        "name": column.name, "type": column.kind, "format": column.format,
        "description": column.description, "priority": column.priority,
    })
}
