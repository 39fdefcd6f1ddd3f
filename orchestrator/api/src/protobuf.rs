//! Kubernetes' protobuf encoding of built-in kinds, read into the same trees as JSON.
//!
//! kubectl and other clients in Go send it by default. A body is four magic bytes and an envelope with the kind and the
//! object's bytes; what the bytes mean is in [`table`]. Go leaves out what is empty when it writes JSON and writes zeroes
//! when it writes protobuf: here both become the same tree, so that everything after the decoding need not know.
use base64::{Engine, engine::general_purpose::STANDARD};
use chrono::{DateTime, SecondsFormat};
use serde_json::{Map, Value};

use self::table::{Field, Scalar, Shape, table};
use self::wire::{Wire, WireError};

pub mod table;
mod wire;

/// The content type of bodies in this encoding.
pub const CONTENT_TYPE: &str = "application/vnd.kubernetes.protobuf";
/// What every body begins with.
const MAGIC: &[u8] = b"k8s\0";
/// Messages inside messages. The deepest built-in object has about twenty.
const DEPTH_MAX: usize = 64;

/// Why a body cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtobufError {
    /// The first bytes are others.
    #[error("the body does not begin with the four bytes `k8s\\0` of Kubernetes' protobuf encoding")]
    Magic,
    /// The kind is none of the built-in ones.
    #[error("no kind {kind:?} is registered for version {api_version:?} in the protobuf encoding; send JSON")]
    UnknownKind {
        /// `apiVersion` as sent.
        api_version: String,
        /// `kind` as sent.
        kind: String,
    },
    /// A message is cut short or is not what the table says.
    #[error("malformed protobuf in {message}: {source}")]
    Malformed {
        /// The message in which it was found.
        message: String,
        /// What is wrong.
        #[source]
        source: WireError,
    },
}

/// Reads a body into a tree that begins with `apiVersion` and `kind`.
///
/// # Errors
/// [`ProtobufError`]; nothing is read beyond the body, however damaged it is.
pub fn decode(body: &[u8]) -> Result<Value, ProtobufError> {
    let envelope = body.strip_prefix(MAGIC).ok_or(ProtobufError::Magic)?;
    let malformed = |source| ProtobufError::Malformed { message: "the envelope".into(), source };
    let (mut type_meta, mut raw) = (&[][..], &[][..]);
    for field in Wire::new(envelope) {
        match field.map_err(malformed)? {
            (1, value) => type_meta = value.bytes().map_err(malformed)?,
            (2, value) => raw = value.bytes().map_err(malformed)?,
            _ => {}
        }
    }
    let (mut api_version, mut kind) = (String::new(), String::new());
    for field in Wire::new(type_meta) {
        match field.map_err(malformed)? {
            (1, value) => api_version = value.text().map_err(malformed)?.to_owned(),
            (2, value) => kind = value.text().map_err(malformed)?.to_owned(),
            _ => {}
        }
    }
    let Some(name) = message_of(&api_version, &kind) else {
        return Err(ProtobufError::UnknownKind { api_version, kind });
    };
    let mut tree = Map::new();
    tree.insert("apiVersion".into(), api_version.into());
    tree.insert("kind".into(), kind.into());
    message(&name, raw, &mut tree, 0)?;
    Ok(Value::Object(tree))
}

/// The message of a kind: groups are called by their first label, what belongs to no group is in `meta/v1`.
fn message_of(api_version: &str, kind: &str) -> Option<String> {
    let (group, version) = api_version.split_once('/').unwrap_or(("core", api_version));
    let own = format!("{}/{version}.{kind}", group.split('.').next().unwrap_or(group));
    let shared = format!("meta/v1.{kind}");
    [own, shared].into_iter().find(|name| table().message(name).is_some())
}

fn message(
    name: &str,
    bytes: &[u8],
    tree: &mut Map<String, Value>,
    depth: usize,
) -> Result<(), ProtobufError> {
    let malformed = |source| ProtobufError::Malformed { message: name.to_owned(), source };
    if depth > DEPTH_MAX {
        return Err(malformed(WireError::TooDeep));
    }
    let fields = table()
        .message(name)
        .expect("invariant: the table refers only to messages it has; its test checks that");
    for item in Wire::new(bytes) {
        let (number, value) = item.map_err(malformed)?;
        let Some(field) = fields.iter().find(|field| field.number == number) else { continue };
        match &field.shape {
            Shape::Inline(inner) => message(inner, value.bytes().map_err(malformed)?, tree, depth + 1)?,
            Shape::One => {
                if let Some(value) = one(&field.scalar, value, name, depth)? {
                    put(tree, field, value);
                }
            }
            Shape::List => {
                let value = one(&field.scalar, value, name, depth)?.unwrap_or_else(|| empty(&field.scalar));
                if let Value::Array(list) =
                    tree.entry(field.name.clone()).or_insert_with(|| Value::Array(Vec::new()))
                {
                    list.push(value);
                }
            }
            Shape::Map => {
                let (key, value) = entry(&field.scalar, value.bytes().map_err(malformed)?, name, depth)?;
                if let Value::Object(map) =
                    tree.entry(field.name.clone()).or_insert_with(|| Value::Object(Map::new()))
                {
                    map.insert(key, value);
                }
            }
        }
    }
    Ok(())
}

/// Go writes the zero of what is no pointer although nobody set it.
fn put(tree: &mut Map<String, Value>, field: &Field, value: Value) {
    let zero = match &value {
        Value::String(text) => text.is_empty(),
        Value::Bool(set) => !set,
        Value::Number(number) => number.as_i64() == Some(0),
        Value::Object(map) => map.is_empty(),
        _ => false,
    };
    if field.pointer || !zero {
        tree.insert(field.name.clone(), value);
    }
}

fn empty(scalar: &Scalar) -> Value {
    match scalar {
        Scalar::Message(_) => Value::Object(Map::new()),
        Scalar::Items => Value::Array(Vec::new()),
        Scalar::Int => 0.into(),
        Scalar::Bool => false.into(),
        _ => Value::String(String::new()),
    }
}

fn entry(scalar: &Scalar, bytes: &[u8], name: &str, depth: usize) -> Result<(String, Value), ProtobufError> {
    let malformed = |source| ProtobufError::Malformed { message: name.to_owned(), source };
    let (mut key, mut found) = (String::new(), None);
    for item in Wire::new(bytes) {
        match item.map_err(malformed)? {
            (1, value) => key = value.text().map_err(malformed)?.to_owned(),
            (2, value) => found = one(scalar, value, name, depth)?,
            _ => {}
        }
    }
    Ok((key, found.unwrap_or_else(|| empty(scalar))))
}

/// A single value; `None` for a time that was not set.
fn one(
    scalar: &Scalar,
    value: wire::Value<'_>,
    name: &str,
    depth: usize,
) -> Result<Option<Value>, ProtobufError> {
    let malformed = |source| ProtobufError::Malformed { message: name.to_owned(), source };
    let simple = match scalar {
        Scalar::Message(inner) => {
            let mut tree = Map::new();
            message(inner, value.bytes().map_err(malformed)?, &mut tree, depth + 1)?;
            return Ok(Some(Value::Object(tree)));
        }
        Scalar::String => value.text().map(Value::from),
        Scalar::Bytes => value.bytes().map(|bytes| STANDARD.encode(bytes).into()),
        Scalar::Int => value.int().map(Value::from),
        Scalar::Bool => value.int().map(|number| Value::Bool(number != 0)),
        Scalar::Quantity => value.bytes().and_then(|bytes| wire::text_at(bytes, 1)).map(Value::from),
        Scalar::IntOrString => value.bytes().and_then(int_or_string),
        Scalar::Json => value.bytes().and_then(json),
        Scalar::Items => value.bytes().and_then(items),
        Scalar::Time(format) => {
            return value.bytes().and_then(|bytes| time(bytes, *format)).map_err(malformed);
        }
    };
    simple.map(Some).map_err(malformed)
}

fn int_or_string(bytes: &[u8]) -> Result<Value, WireError> {
    if wire::int_at(bytes, 1)? == 0 {
        wire::int_at(bytes, 2).map(Value::from)
    } else {
        wire::text_at(bytes, 3).map(Value::from)
    }
}

fn json(bytes: &[u8]) -> Result<Value, WireError> {
    let raw = wire::bytes_at(bytes, 1)?;
    if raw.is_empty() {
        Ok(Value::Object(Map::new()))
    } else {
        serde_json::from_slice(raw).map_err(|_| WireError::Json)
    }
}

fn items(bytes: &[u8]) -> Result<Value, WireError> {
    let texts = Wire::new(bytes).filter_map(|item| match item {
        Ok((1, value)) => Some(value.text().map(Value::from)),
        Ok(_) => None,
        Err(error) => Some(Err(error)),
    });
    texts.collect::<Result<Vec<_>, _>>().map(Value::Array)
}

fn time(bytes: &[u8], format: SecondsFormat) -> Result<Option<Value>, WireError> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let nanos = u32::try_from(wire::int_at(bytes, 2)?).map_err(|_| WireError::Time)?;
    let time = DateTime::from_timestamp(wire::int_at(bytes, 1)?, nanos).ok_or(WireError::Time)?;
    Ok(Some(time.to_rfc3339_opts(format, true).into()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn field(number: u32, bytes: &[u8]) -> Vec<u8> {
        let mut out = vec![u8::try_from(number << 3 | 2).unwrap(), u8::try_from(bytes.len()).unwrap()];
        out.extend_from_slice(bytes);
        out
    }

    fn int(number: u32, value: u8) -> Vec<u8> {
        vec![u8::try_from(number << 3).unwrap(), value]
    }

    fn body(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
        let type_meta = [field(1, api_version.as_bytes()), field(2, kind.as_bytes())].concat();
        [MAGIC.to_vec(), field(1, &type_meta), field(2, raw), field(3, b""), field(4, b"")].concat()
    }

    #[test]
    fn a_config_map_reads_as_its_json_would() {
        let metadata = [field(1, b"a"), field(2, b""), field(3, b"default"), field(8, b"")].concat();
        let entry = [field(1, b"k"), field(2, b"v")].concat();
        let binary = [field(1, b"b"), field(2, &[0, 255])].concat();
        let raw = [field(1, &metadata), field(2, &entry), field(3, &binary)].concat();
        let expect = json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": { "name": "a", "namespace": "default" }, "data": { "k": "v" }, "binaryData": { "b": "AP8=" },
        });
        assert_eq!(decode(&body("v1", "ConfigMap", &raw)).unwrap(), expect);
    }

    #[test]
    fn a_pointer_to_zero_is_kept_and_a_zero_is_not() {
        // replicas is a pointer, paused is not; minReadySeconds neither.
        let spec = [int(1, 0), int(5, 0), int(7, 0)].concat();
        let tree = decode(&body("apps/v1", "Deployment", &field(2, &spec))).unwrap();
        assert_eq!(tree["spec"], json!({ "replicas": 0 }));
    }

    #[test]
    fn inlined_structs_times_and_ports() {
        let probe =
            [field(1, &field(2, &field(2, &[int(1, 1), field(3, b"http")].concat()))), int(3, 2)].concat();
        let container = field(10, &probe);
        let meta = field(8, &int(1, 60));
        let tree =
            decode(&body("v1", "Pod", &[field(1, &meta), field(2, &field(2, &container))].concat())).unwrap();
        assert_eq!(tree["metadata"]["creationTimestamp"], "1970-01-01T00:01:00Z");
        let probe = &tree["spec"]["containers"][0]["livenessProbe"];
        assert_eq!(probe, &json!({ "httpGet": { "port": "http" }, "timeoutSeconds": 2 }));
    }

    #[test]
    fn damage_is_an_error_that_names_the_place() {
        let whole = body("v1", "ConfigMap", &field(1, &field(1, b"name")));
        assert_eq!(decode(b"{}"), Err(ProtobufError::Magic));
        for cut in MAGIC.len() + 1..whole.len() - 5 {
            // Every prefix is either an error or a smaller object; none panics.
            _ = decode(&whole[..cut]);
        }
        let cut = body("v1", "ConfigMap", &[0x0a, 0x50, 1]);
        assert!(decode(&cut).unwrap_err().to_string().contains("core/v1.ConfigMap"));
        assert!(matches!(decode(&body("x/v1", "Y", b"")), Err(ProtobufError::UnknownKind { .. })));
    }
}
