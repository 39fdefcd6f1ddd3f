//! A small map of strings: sorted pairs in one allocation. A tree node would take half a kilobyte for two labels.
use std::{collections::BTreeMap, fmt};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{MapAccess, Visitor},
};

/// Labels, annotations, selectors: few pairs, read often, changed rarely.
#[derive(Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StringMap(Box<[(Box<str>, Box<str>)]>);

impl StringMap {
    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&str> {
        let at = self.0.binary_search_by(|(own, _)| (**own).cmp(key)).ok()?;
        Some(&self.0[at].1)
    }

    /// Whether the key is there.
    pub fn contains_key(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    /// All pairs, by key.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &str)> + Clone {
        self.0.iter().map(|(key, value)| (&**key, &**value))
    }

    /// How many pairs.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether all of these pairs are in `other`: how plain selectors select. The empty map is in every other.
    pub fn is_subset_of(&self, other: &StringMap) -> bool {
        self.iter().all(|(key, value)| other.get(key) == Some(value))
    }

    /// Sets a pair. Copies the map: meant for the few that are changed.
    pub fn insert(&mut self, key: &str, value: &str) {
        let mut pairs = std::mem::take(&mut self.0).into_vec();
        pairs.retain(|(own, _)| **own != *key);
        pairs.push((key.into(), value.into()));
        *self = Self::from_pairs(pairs);
    }

    /// Takes a pair out.
    pub fn remove(&mut self, key: &str) {
        if self.contains_key(key) {
            let mut pairs = std::mem::take(&mut self.0).into_vec();
            pairs.retain(|(own, _)| **own != *key);
            self.0 = pairs.into();
        }
    }

    fn from_pairs(mut pairs: Vec<(Box<str>, Box<str>)>) -> Self {
        // Of equal keys the last one counts, as JSON readers agree.
        pairs.reverse();
        pairs.sort_by(|(a, _), (b, _)| a.cmp(b));
        pairs.dedup_by(|(a, _), (b, _)| a == b);
        Self(pairs.into())
    }
}

impl<K: Into<Box<str>>, V: Into<Box<str>>> FromIterator<(K, V)> for StringMap {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        Self::from_pairs(pairs.into_iter().map(|(key, value)| (key.into(), value.into())).collect())
    }
}

impl<const N: usize> From<[(&str, &str); N]> for StringMap {
    fn from(pairs: [(&str, &str); N]) -> Self {
        pairs.into_iter().collect()
    }
}

impl From<&StringMap> for BTreeMap<String, String> {
    fn from(map: &StringMap) -> Self {
        map.iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
    }
}

impl fmt::Debug for StringMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl Serialize for StringMap {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

impl<'de> Deserialize<'de> for StringMap {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pairs;
        impl<'de> Visitor<'de> for Pairs {
            type Value = StringMap;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of strings")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<StringMap, A::Error> {
                let mut pairs = Vec::new();
                while let Some((key, value)) = map.next_entry::<Box<str>, Option<Box<str>>>()? {
                    pairs.push((key, value.unwrap_or_default()));
                }
                Ok(StringMap::from_pairs(pairs))
            }
        }
        deserializer.deserialize_map(Pairs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn behaves_like_a_map() {
        let mut map: StringMap = serde_json::from_str(r#"{"b":"1","a":"2","b":"3","c":null}"#).unwrap();
        assert_eq!(map.iter().collect::<Vec<_>>(), [("a", "2"), ("b", "3"), ("c", "")]);
        map.insert("a", "x");
        map.remove("b");
        map.remove("absent");
        assert_eq!(serde_json::to_string(&map).unwrap(), r#"{"a":"x","c":""}"#);
        assert!(StringMap::from([("a", "x")]).is_subset_of(&map) && !map.is_subset_of(&StringMap::default()));
        assert!(StringMap::default().is_subset_of(&map));
    }
}
