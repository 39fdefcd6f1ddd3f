//! Extracted keys: labels and selectable fields, read in one pass over an object's bytes without building a tree.

use std::borrow::Cow;
use std::fmt;

use api::SelectableField;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// What is kept of an object beside its bytes.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Facts {
    /// The object's labels.
    pub labels: Box<[(Box<str>, Box<str>)]>,
    /// The values of the resource's selectable fields, in the order in which its kind names them.
    pub fields: Box<[Box<str>]>,
}

// === impl Facts ===

impl Facts {
    /// One label's value.
    pub fn label(&self, key: &str) -> Option<&str> {
        self.labels.iter().find(|(own, _)| **own == *key).map(|(_, value)| &**value)
    }
}

/// Which paths of a resource's objects are extracted.
#[derive(Debug)]
pub struct Extractor {
    root: Node,
    fields: Vec<Field>,
    slots: usize,
}

/// A selectable field: the first of its slots that holds something, else a fixed text.
#[derive(Debug)]
struct Field {
    slots: std::ops::Range<usize>,
    absent: Box<str>,
}

#[derive(Debug, Default)]
struct Node {
    children: Vec<(Box<str>, Node)>,
    slots: Vec<usize>,
    labels: bool,
}

// === impl Extractor ===

impl Extractor {
    /// An extractor of the labels and of the given fields.
    pub fn new(fields: &[SelectableField]) -> Self {
        let mut extractor = Self { root: Node::default(), fields: Vec::new(), slots: 0 };
        extractor.root.reach("metadata.labels").labels = true;
        for field in fields {
            let first = extractor.slots;
            for path in &field.paths {
                extractor.root.reach(path).slots.push(extractor.slots);
                extractor.slots += 1;
            }
            extractor.fields.push(Field { slots: first..extractor.slots, absent: (*field.absent).into() });
        }
        extractor
    }

    /// Reads an object's JSON.
    pub fn extract(&self, json: &[u8]) -> Result<Facts, serde_json::Error> {
        let mut found = Found { labels: Vec::new(), slots: vec![Box::default(); self.slots] };
        let mut deserializer = serde_json::Deserializer::from_slice(json);
        Walk { node: &self.root, found: &mut found }.deserialize(&mut deserializer)?;
        deserializer.end()?;
        let fields = self.fields.iter().map(|field| field.take(&mut found.slots)).collect();
        Ok(Facts { labels: found.labels.into(), fields })
    }
}

impl Field {
    fn take(&self, slots: &mut [Box<str>]) -> Box<str> {
        let found = slots[self.slots.clone()].iter_mut().find(|text| !text.is_empty());
        found.map_or_else(|| self.absent.clone(), std::mem::take)
    }
}

impl Node {
    fn reach(&mut self, path: &str) -> &mut Node {
        path.split('.').fold(self, |node, step| {
            let at = node.children.iter().position(|(name, _)| **name == *step).unwrap_or_else(|| {
                node.children.push((step.into(), Node::default()));
                node.children.len() - 1
            });
            &mut node.children[at].1
        })
    }
}

struct Found {
    labels: Vec<(Box<str>, Box<str>)>,
    slots: Vec<Box<str>>,
}

struct Walk<'a> {
    node: &'a Node,
    found: &'a mut Found,
}

impl Walk<'_> {
    fn scalar(self, text: &str) {
        for slot in &self.node.slots {
            self.found.slots[*slot] = text.into();
        }
    }
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(Name(key)) = map.next_key()? {
            if self.node.labels {
                let Name(value) = map.next_value()?;
                self.found.labels.push((key.into(), value.into()));
                continue;
            }
            match self.node.children.iter().find(|(name, _)| **name == *key) {
                Some((_, child)) => map.next_value_seed(Walk { node: child, found: &mut *self.found })?,
                None => _ = map.next_value::<IgnoredAny>()?,
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(())
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        self.scalar(text);
        Ok(())
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<(), E> {
        self.scalar(if value { "true" } else { "false" });
        Ok(())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<(), E> {
        self.scalar(&value.to_string());
        Ok(())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<(), E> {
        self.scalar(&value.to_string());
        Ok(())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<(), E> {
        self.scalar(&value.to_string());
        Ok(())
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }
}

/// A string that is borrowed from the input unless it has escapes.
struct Name<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> serde::Deserialize<'de> for Name<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NameVisitor;
        impl<'de> Visitor<'de> for NameVisitor {
            type Value = Name<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Name(Cow::Borrowed(text)))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Name(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(NameVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_labels_and_fields_of_every_type() {
        let extractor = Extractor::new(&[
            SelectableField::new("spec.nodeName"),
            SelectableField::from_paths("source", &["reporting", "source.component"]),
            SelectableField::new("spec.flag"),
            SelectableField::new("spec.count"),
            SelectableField::with_default("no.such", "none"),
        ]);
        let json = br#"{"a":[{"spec":1}],"metadata":{"name":"x","labels":{"l":"v","q\"":"w"}},"reporting":"",
            "source":{"component":"c"},"spec":{"nodeName":"n","flag":true,"count":-3,"deep":{"nodeName":"m"}},"status":null}"#;
        let facts = extractor.extract(json).unwrap();
        assert_eq!((facts.label("l"), facts.label("q\""), facts.label("x")), (Some("v"), Some("w"), None));
        let fields: Vec<_> = facts.fields.iter().map(|f| &**f).collect();
        assert_eq!(fields, ["n", "c", "true", "-3", "none"]);
    }

    #[test]
    fn refuses_what_is_not_json() {
        assert!(Extractor::new(&[]).extract(b"{\"metadata\":").is_err());
        assert!(Extractor::new(&[]).extract(b"{} x").is_err());
    }
}
