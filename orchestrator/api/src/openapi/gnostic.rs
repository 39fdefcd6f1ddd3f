//! The protobuf form of version 2 (`openapi.v2.Document` of gnostic), encoded by hand from the JSON form.
//!
//! Only the messages that our documents use; each writer below is one message, and lists its fields by number.
use crate::object::{Json, Map, Value};

/// Encodes a whole document.
pub fn encode(document: &Value) -> Vec<u8> {
    let mut out = Message::default();
    out.text(1, document.text("swagger"));
    out.message(2, info(&document["info"]));
    out.message(8, paths(&document["paths"]));
    out.message(9, named(&document["definitions"], schema));
    out.bytes
}

/// A protobuf message in the making.
#[derive(Default)]
struct Message {
    bytes: Vec<u8>,
}

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.bytes.push((value as u8 & 0x7f) | 0x80);
            value >>= 7;
        }
        self.bytes.push(value as u8);
    }

    fn delimited(&mut self, field: u64, bytes: &[u8]) {
        self.varint(field << 3 | 2);
        self.varint(bytes.len() as u64);
        self.bytes.extend_from_slice(bytes);
    }

    /// A string, left out when empty.
    fn text(&mut self, field: u64, text: &str) {
        if !text.is_empty() {
            self.delimited(field, text.as_bytes());
        }
    }

    fn message(&mut self, field: u64, message: Message) {
        self.delimited(field, &message.bytes);
    }

    fn bool(&mut self, field: u64, value: bool) {
        if value {
            self.varint(field << 3);
            self.varint(1);
        }
    }

    /// A repeated string.
    fn texts(&mut self, field: u64, list: &[Value]) {
        for text in list.iter().filter_map(Value::as_str) {
            self.delimited(field, text.as_bytes());
        }
    }

    /// `repeated NamedAny vendor_extension`: everything whose name starts with `x-`, as YAML, which JSON is.
    fn extensions(&mut self, field: u64, value: &Value) {
        for (name, value) in entries(value).filter(|(name, _)| name.starts_with("x-")) {
            let mut any = Message::default();
            any.text(2, &value.to_string());
            self.message(field, named_entry(name, any));
        }
    }
}

fn entries(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flat_map(Map::iter)
}

/// `Named*`: name = 1, value = 2.
fn named_entry(name: &str, value: Message) -> Message {
    let mut out = Message::default();
    out.text(1, name);
    out.message(2, value);
    out
}

/// A map as `repeated Named* additional_properties = 1`.
fn named(map: &Value, encode: fn(&Value) -> Message) -> Message {
    let mut out = Message::default();
    for (name, value) in entries(map) {
        out.message(1, named_entry(name, encode(value)));
    }
    out
}

/// `Info`: title = 1, version = 2.
fn info(value: &Value) -> Message {
    let mut out = Message::default();
    out.text(1, value.text("title"));
    out.text(2, value.text("version"));
    out
}

/// `Paths`: path = 2.
fn paths(value: &Value) -> Message {
    let mut out = Message::default();
    for (path, item) in entries(value) {
        out.message(2, named_entry(path, path_item(item)));
    }
    out
}

/// `PathItem`: get = 2, put = 3, post = 4, delete = 5, patch = 8, parameters = 9.
fn path_item(value: &Value) -> Message {
    let mut out = Message::default();
    for (field, method) in [(2, "get"), (3, "put"), (4, "post"), (5, "delete"), (8, "patch")] {
        if let Some(found) = value.get(method) {
            out.message(field, operation(found));
        }
    }
    value.list_at("parameters").iter().for_each(|found| out.message(9, parameters_item(found)));
    out
}

/// `Operation`: tags = 1, description = 3, operation_id = 5, produces = 6, consumes = 7, parameters = 8, responses = 9,
/// vendor_extension = 13.
fn operation(value: &Value) -> Message {
    let mut out = Message::default();
    out.texts(1, value.list_at("tags"));
    out.text(3, value.text("description"));
    out.text(5, value.text("operationId"));
    out.texts(6, value.list_at("produces"));
    out.texts(7, value.list_at("consumes"));
    value.list_at("parameters").iter().for_each(|found| out.message(8, parameters_item(found)));
    out.message(9, responses(&value["responses"]));
    out.extensions(13, value);
    out
}

/// `Responses`: response_code = 1, each a `ResponseValue` (response = 1) of a `Response` (description = 1, schema = 2, of
/// which a `SchemaItem`'s schema = 1).
fn responses(value: &Value) -> Message {
    let mut out = Message::default();
    for (code, response) in entries(value) {
        let mut inner = Message::default();
        inner.text(1, response.text("description"));
        if let Some(found) = response.get("schema") {
            let mut item = Message::default();
            item.message(1, schema(found));
            inner.message(2, item);
        }
        let mut choice = Message::default();
        choice.message(1, inner);
        out.message(1, named_entry(code, choice));
    }
    out
}

/// `ParametersItem`: parameter = 1, of which body_parameter = 1 or non_body_parameter = 2 (query = 3, path = 4).
fn parameters_item(value: &Value) -> Message {
    let mut parameter = Message::default();
    match value.text("in") {
        "body" => parameter.message(1, body_parameter(value)),
        place => {
            let mut non_body = Message::default();
            match place {
                "query" => non_body.message(3, simple_parameter(value, 6)),
                _ => non_body.message(4, simple_parameter(value, 5)),
            }
            parameter.message(2, non_body);
        }
    }
    let mut out = Message::default();
    out.message(1, parameter);
    out
}

/// `BodyParameter`: description = 1, name = 2, in = 3, required = 4, schema = 5.
fn body_parameter(value: &Value) -> Message {
    let mut out = Message::default();
    out.text(1, value.text("description"));
    out.text(2, value.text("name"));
    out.text(3, value.text("in"));
    out.bool(4, value.is_true("required"));
    out.message(5, schema(&value["schema"]));
    out
}

/// Query and path parameters: required = 1, in = 2, description = 3, name = 4; type is 6 in one and 5 in the other.
fn simple_parameter(value: &Value, type_field: u64) -> Message {
    let mut out = Message::default();
    out.bool(1, value.is_true("required"));
    out.text(2, value.text("in"));
    out.text(3, value.text("description"));
    out.text(4, value.text("name"));
    out.text(type_field, value.text("type"));
    out
}

/// `Schema`: _ref = 1, format = 2, description = 4, required = 19, additional_properties = 21 (schema = 1), type = 22
/// (value = 1), items = 23 (schema = 1), properties = 25, vendor_extension = 31.
fn schema(value: &Value) -> Message {
    let mut out = Message::default();
    out.text(1, value.get("$ref").and_then(Value::as_str).unwrap_or_default());
    out.text(2, value.text("format"));
    out.text(4, value.text("description"));
    out.texts(19, value.list_at("required"));
    let wrapped = |value: &Value| {
        let mut out = Message::default();
        out.message(1, schema(value));
        out
    };
    if let Some(found) = value.get("additionalProperties") {
        out.message(21, wrapped(found));
    }
    if let Some(name) = value.str_at("type") {
        let mut kind = Message::default();
        kind.text(1, name);
        out.message(22, kind);
    }
    if let Some(found) = value.get("items") {
        out.message(23, wrapped(found));
    }
    if let Some(found) = value.get("properties") {
        out.message(25, named(found, schema));
    }
    out.extensions(31, value);
    out
}
