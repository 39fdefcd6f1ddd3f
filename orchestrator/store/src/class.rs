//! What the store promises for a key, decided by its prefix and given once when the store is opened.

use bytes::Bytes;

use crate::types::KeyRange;

/// How a key is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum StorageClass {
    /// Acknowledged means on disk.
    #[default]
    Durable,
    /// Ends by itself after a time to live, and earlier when there are too many. Never grows the durable log; it
    /// survives the end of the process, but not a power failure within the last moments.
    Event,
    /// Rewritten all the time and worthless when old: kept like events, without their end.
    Lease,
}

/// The prefixes of the keys that are not durable. A prefix should end in the separator (`/registry/core/events/`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Classes {
    prefixes: Vec<(Bytes, StorageClass)>,
}

impl Classes {
    /// From pairs of prefix and class.
    pub fn new<P: Into<Bytes>>(prefixes: impl IntoIterator<Item = (P, StorageClass)>) -> Self {
        Self { prefixes: prefixes.into_iter().map(|(prefix, class)| (prefix.into(), class)).collect() }
    }

    /// The class of a key: of the longest prefix that it has, else durable.
    pub fn of(&self, key: &[u8]) -> StorageClass {
        self.prefixes
            .iter()
            .filter(|(prefix, _)| key.starts_with(prefix))
            .max_by_key(|(prefix, _)| prefix.len())
            .map_or(StorageClass::Durable, |(_, class)| *class)
    }

    /// Whether a range may hold keys that are not durable.
    pub fn meets_ephemeral(&self, range: &KeyRange) -> bool {
        self.prefixes
            .iter()
            .any(|(prefix, class)| *class != StorageClass::Durable && range.meets_prefix(prefix))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn longest_prefix_decides() {
        let classes = Classes::new([
            ("/r/events/", StorageClass::Event),
            ("/r/events/kept/", StorageClass::Durable),
            ("/r/leases/", StorageClass::Lease),
        ]);
        for (key, class) in [
            ("/r/events/a", StorageClass::Event),
            ("/r/events/kept/a", StorageClass::Durable),
            ("/r/leases/a", StorageClass::Lease),
            ("/r/eventsources/a", StorageClass::Durable),
        ] {
            assert_eq!(classes.of(key.as_bytes()), class, "{key}");
        }
        assert!(classes.meets_ephemeral(&KeyRange::prefix("/r/")));
        assert!(classes.meets_ephemeral(&KeyRange::key("/r/leases/x")));
        assert!(!classes.meets_ephemeral(&KeyRange::prefix("/r/pods/")));
    }
}
