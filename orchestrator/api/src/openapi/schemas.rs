//! Definitions, from the table of facts.
use std::collections::BTreeSet;

use serde_json::json;

use super::Dialect;
use crate::object::{Map, Value};
use crate::schema::descriptions;
use crate::schema::{Body, Definition, DefinitionId, Field, ListType, Scalar, Schema, Type};

/// The definitions by name.
pub fn all(ids: &BTreeSet<DefinitionId>, dialect: Dialect) -> Value {
    let schema = Schema::builtin();
    let definitions = ids.iter().map(|id| {
        let definition = schema.get(*id);
        (definition.name.to_string(), definition_schema(schema, definition, dialect))
    });
    Value::Object(definitions.collect())
}

/// A reference to a definition.
pub fn reference(name: &str, dialect: Dialect) -> Value {
    match dialect {
        Dialect::V2 => json!({"$ref": format!("#/definitions/{name}")}),
        Dialect::V3 => json!({"$ref": format!("#/components/schemas/{name}")}),
    }
}

fn definition_schema(schema: &Schema, definition: &Definition, dialect: Dialect) -> Value {
    let mut out = Map::new();
    let description = descriptions::of_definition(definition);
    if !description.is_empty() {
        out.insert("description".to_owned(), description.into());
    }
    match &definition.body {
        Body::Whole(whole) => extend(&mut out, type_schema(schema, whole, dialect)),
        Body::Fields(fields) => {
            let properties = fields
                .iter()
                .map(|field| (field.name.to_string(), field_schema(schema, definition, field, dialect)));
            out.insert("properties".to_owned(), Value::Object(properties.collect()));
            let required: Vec<&str> =
                fields.iter().filter(|field| field.required).map(|field| field.name.as_ref()).collect();
            if !required.is_empty() {
                out.insert("required".to_owned(), json!(required));
            }
            out.insert("type".to_owned(), "object".into());
        }
    }
    if !definition.kinds.is_empty() {
        let kinds: Vec<Value> = definition
            .kinds
            .iter()
            .map(|(group, version, kind)| json!({"group": group, "kind": kind, "version": version}))
            .collect();
        out.insert("x-kubernetes-group-version-kind".to_owned(), Value::Array(kinds));
    }
    if definition.atomic {
        out.insert("x-kubernetes-map-type".to_owned(), "atomic".into());
    }
    Value::Object(out)
}

fn extend(out: &mut Map, value: Value) {
    if let Value::Object(map) = value {
        out.extend(map);
    }
}

fn field_schema(schema: &Schema, definition: &Definition, field: &Field, dialect: Dialect) -> Value {
    let mut out = Map::new();
    out.insert("description".to_owned(), descriptions::of_field(schema, definition, field).into());
    match (&field.ty, dialect) {
        // Version 3 ignores what stands beside a reference.
        (Type::Ref(_), Dialect::V3) => {
            out.insert("allOf".to_owned(), json!([type_schema(schema, &field.ty, dialect)]));
        }
        (ty, _) => extend(&mut out, type_schema(schema, ty, dialect)),
    }
    if let (Some(default), Dialect::V3) = (&field.default, dialect) {
        out.insert("default".to_owned(), default.as_ref().clone());
    }
    merging(&mut out, field);
    Value::Object(out)
}

/// How changes to the field are merged: what clients need to make patches.
fn merging(out: &mut Map, field: &Field) {
    if matches!(field.ty, Type::List(_)) {
        let kind = match &field.list {
            ListType::Atomic => "atomic",
            ListType::Set => "set",
            ListType::Map(keys) => {
                out.insert("x-kubernetes-list-map-keys".to_owned(), json!(keys));
                "map"
            }
        };
        out.insert("x-kubernetes-list-type".to_owned(), kind.into());
    }
    if field.atomic {
        out.insert("x-kubernetes-map-type".to_owned(), "atomic".into());
    }
    if let Some(key) = &field.merge_key {
        out.insert("x-kubernetes-patch-merge-key".to_owned(), key.as_ref().into());
    }
    let strategy = match (field.merge, field.retain_keys) {
        (true, true) => "merge,retainKeys",
        (true, false) => "merge",
        (false, true) => "retainKeys",
        (false, false) => return,
    };
    out.insert("x-kubernetes-patch-strategy".to_owned(), strategy.into());
}

fn type_schema(schema: &Schema, ty: &Type, dialect: Dialect) -> Value {
    match ty {
        Type::Scalar(scalar) => scalar_schema(*scalar, dialect),
        Type::List(element) => json!({"type": "array", "items": type_schema(schema, element, dialect)}),
        Type::Map(value) => {
            json!({"type": "object", "additionalProperties": type_schema(schema, value, dialect)})
        }
        Type::Ref(id) => reference(&schema.get(*id).name, dialect),
        Type::Any => json!({"type": "object"}),
    }
}

fn scalar_schema(scalar: Scalar, dialect: Dialect) -> Value {
    match (scalar, dialect) {
        (Scalar::String, _) => json!({"type": "string"}),
        (Scalar::Bytes, _) => json!({"type": "string", "format": "byte"}),
        (Scalar::Int32, _) => json!({"type": "integer", "format": "int32"}),
        (Scalar::Int64, _) => json!({"type": "integer", "format": "int64"}),
        (Scalar::Double, _) => json!({"type": "number", "format": "double"}),
        (Scalar::Bool, _) => json!({"type": "boolean"}),
        (Scalar::Time | Scalar::MicroTime, _) => json!({"type": "string", "format": "date-time"}),
        (Scalar::Quantity, Dialect::V2) => json!({"type": "string"}),
        (Scalar::Quantity, Dialect::V3) => json!({"oneOf": [{"type": "string"}, {"type": "number"}]}),
        (Scalar::IntOrString, Dialect::V2) => json!({"type": "string", "format": "int-or-string"}),
        (Scalar::IntOrString, Dialect::V3) => {
            json!({"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]})
        }
    }
}
