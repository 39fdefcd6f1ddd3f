//! One object at rest: the store's bytes and the keys extracted from them.
//!
//! Stored bytes hold no resourceVersion, because the store's writer decides it; it is spliced in while the bytes are
//! copied to where they are needed anyway.

use std::io::Write;

use bytes::Bytes;
use store::{KeyValue, Revision};

use super::extract::{Extractor, Facts};

/// `kind` and `apiVersion` come before `metadata` in stored bytes and are both far shorter than this together.
const HEAD_BYTES_MAX: usize = 512;
/// What a spliced resourceVersion adds: its key, quotes, comma and twenty digits.
const SPLICE_BYTES: usize = 42;

const METADATA: &[u8] = b"\"metadata\":{";

/// An object as a revision of the store left it.
#[derive(Debug)]
pub struct Entry {
    key: Bytes,
    /// Where in `key` the resource's prefix ends.
    path_at: u32,
    /// Where in `value` the resourceVersion goes.
    splice_at: u32,
    value: Bytes,
    revision: Revision,
    facts: Facts,
}

/// Why stored bytes are no object.
#[derive(Debug, thiserror::Error)]
pub enum EntryError {
    /// The value has no `metadata` at its head.
    #[error("the stored value has no metadata at its head")]
    NoMetadata,
    /// The value is not JSON.
    #[error("the stored value is not JSON: {0}")]
    NotJson(#[from] serde_json::Error),
    /// The key is not UTF-8.
    #[error("the key is not UTF-8")]
    Key,
}

// === impl Entry ===

impl Entry {
    /// Reads what the store holds under the resource prefix of `prefix_len` bytes.
    pub fn new(kv: KeyValue, prefix_len: usize, extractor: &Extractor) -> Result<Self, EntryError> {
        if std::str::from_utf8(&kv.key).is_err() || kv.key.len() < prefix_len {
            return Err(EntryError::Key);
        }
        let splice_at = splice_point(&kv.value).ok_or(EntryError::NoMetadata)?;
        let facts = extractor.extract(&kv.value)?;
        Ok(Self {
            key: kv.key,
            path_at: prefix_len as u32,
            splice_at: splice_at as u32,
            value: kv.value,
            revision: kv.mod_revision,
            facts,
        })
    }

    /// The store's key.
    pub fn key(&self) -> &Bytes {
        &self.key
    }

    /// What follows the resource's prefix: `namespace/name`, or `name` for cluster-scoped objects.
    pub fn path(&self) -> &str {
        std::str::from_utf8(self.path_bytes()).expect("invariant: `new` checked the key")
    }

    /// The path's bytes.
    pub fn path_bytes(&self) -> &[u8] {
        &self.key[self.path_at as usize..]
    }

    /// The object's namespace; empty for cluster-scoped objects.
    pub fn namespace(&self) -> &str {
        self.path().split_once('/').map_or("", |(namespace, _)| namespace)
    }

    /// The object's name.
    pub fn name(&self) -> &str {
        let path = self.path();
        path.split_once('/').map_or(path, |(_, name)| name)
    }

    /// The revision that wrote it, which is its resourceVersion.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// The stored bytes, without a resourceVersion.
    pub fn value(&self) -> &Bytes {
        &self.value
    }

    /// Labels and selectable fields.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Bytes of the object with its resourceVersion, at most.
    pub fn json_len(&self) -> usize {
        self.value.len() + SPLICE_BYTES
    }

    /// Appends the object as JSON, with `revision` for its resourceVersion.
    pub fn write_json(&self, out: &mut Vec<u8>, revision: Revision) {
        splice(&self.value, self.splice_at as usize, revision, out);
    }

    /// The object as JSON.
    pub fn json(&self) -> Bytes {
        let mut out = Vec::with_capacity(self.json_len());
        self.write_json(&mut out, self.revision);
        out.into()
    }
}

/// The stored bytes of an object with its resourceVersion, where there is no [`Entry`] of it.
pub fn with_revision(value: &[u8], revision: Revision) -> Option<Bytes> {
    let mut out = Vec::with_capacity(value.len() + SPLICE_BYTES);
    splice(value, splice_point(value)?, revision, &mut out);
    Some(out.into())
}

fn splice(value: &[u8], at: usize, revision: Revision, out: &mut Vec<u8>) {
    out.extend_from_slice(&value[..at]);
    let comma = if value.get(at) == Some(&b'}') { "" } else { "," };
    write!(out, "\"resourceVersion\":\"{revision}\"{comma}").expect("invariant: writing to memory succeeds");
    out.extend_from_slice(&value[at..]);
}

/// The place right after the opening brace of `metadata`.
fn splice_point(value: &[u8]) -> Option<usize> {
    let head = &value[..value.len().min(HEAD_BYTES_MAX)];
    let at = head.windows(METADATA.len()).position(|window| window == METADATA)?;
    Some(at + METADATA.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splices_the_revision_in() {
        let value = br#"{"kind":"A","apiVersion":"v1","metadata":{"name":"x"},"data":{}}"#;
        let spliced = with_revision(value, 7).unwrap();
        let expect =
            r#"{"kind":"A","apiVersion":"v1","metadata":{"resourceVersion":"7","name":"x"},"data":{}}"#;
        assert_eq!(spliced, expect);
        assert_eq!(
            with_revision(br#"{"metadata":{}}"#, 1).unwrap(),
            r#"{"metadata":{"resourceVersion":"1"}}"#
        );
        assert_eq!(with_revision(br#"{"spec":{}}"#, 1), None);
    }

    #[test]
    fn knows_its_names() {
        let kv = KeyValue {
            key: Bytes::from_static(b"/registry/core/pods/a/b"),
            value: Bytes::from_static(br#"{"metadata":{"name":"b"}}"#),
            create_revision: 1,
            mod_revision: 2,
            version: 1,
        };
        let entry = Entry::new(kv, "/registry/core/pods/".len(), &Extractor::new(&[])).unwrap();
        assert_eq!((entry.namespace(), entry.name(), entry.revision()), ("a", "b", 2));
    }
}
