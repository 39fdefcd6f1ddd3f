//! The one encoding of an object: what the store, the cache and every watcher share.
//!
//! `kind`, `apiVersion` and `metadata` come first, and there is no resourceVersion, so that one can be spliced in.

use api::{Object, Value};
use bytes::Bytes;

/// What most objects need; larger ones grow the buffer.
const CAPACITY: usize = 2048;

/// Encodes an object for the store. Its resourceVersion is taken out: the store's writer decides it.
pub fn encode(object: &mut Object) -> Bytes {
    object.meta_mut().remove("resourceVersion");
    let mut out = Vec::with_capacity(CAPACITY);
    for (index, name) in ["kind", "apiVersion", "metadata"].into_iter().enumerate() {
        let value = object.fields().get(name).unwrap_or(&Value::Null);
        field(&mut out, index == 0, name, value);
    }
    for (name, value) in object.fields() {
        if !matches!(name.as_str(), "kind" | "apiVersion" | "metadata") {
            field(&mut out, false, name, value);
        }
    }
    out.push(b'}');
    // These bytes are kept as long as the object is: without the room that was left for more.
    out.into_boxed_slice().into()
}

fn field(out: &mut Vec<u8>, first: bool, name: &str, value: &Value) {
    out.push(if first { b'{' } else { b',' });
    write(out, name);
    out.push(b':');
    write(out, value);
}

fn write<T: serde::Serialize + ?Sized>(out: &mut Vec<u8>, value: &T) {
    serde_json::to_writer(out, value)
        .expect("invariant: a JSON tree has string keys, and memory can be written to");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn puts_the_head_first_and_leaves_the_version_out() {
        let json = br#"{"data":{"a":"1"},"apiVersion":"v1","metadata":{"name":"x","resourceVersion":"5"},"kind":"ConfigMap"}"#;
        let mut object = Object::from_bytes(json).unwrap();
        let expect = r#"{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"x"},"data":{"a":"1"}}"#;
        assert_eq!(encode(&mut object), expect);
    }
}
