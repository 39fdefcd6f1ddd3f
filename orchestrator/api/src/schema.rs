//! The table of facts about all definitions: fields, types, list types, keys, defaults. It drives strict decoding,
//! defaulting, strategic merge, server-side apply and the OpenAPI documents, so that none of them knows a kind.
//!
//! The built-in table is read from text once, on first use; names in it borrow from that text.
//! Neighbours: [`facts`] reads the text, [`node`] walks an object and the table side by side.
pub mod descriptions;
pub mod facts;
pub mod node;

use std::sync::LazyLock;

pub use node::{Node, Shape};

use crate::kind::Text;
use crate::object::Value;

/// A definition's position in its [`Schema`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DefinitionId(usize);

/// What a single value may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scalar {
    /// Text.
    String,
    /// Base64.
    Bytes,
    /// A 32-bit integer.
    Int32,
    /// A 64-bit integer.
    Int64,
    /// A floating-point number.
    Double,
    /// True or false.
    Bool,
    /// RFC 3339 with seconds.
    Time,
    /// RFC 3339 with microseconds.
    MicroTime,
    /// A string or a number, e.g. `100m`.
    Quantity,
    /// An integer or a string, e.g. `80`, `http`, `25%`.
    IntOrString,
}

/// The type of a field, an element or a map's value.
#[derive(Clone, Debug, PartialEq)]
pub enum Type {
    /// A single value.
    Scalar(Scalar),
    /// Elements of one type.
    List(Box<Type>),
    /// Text keys with values of one type.
    Map(Box<Type>),
    /// What another definition says.
    Ref(DefinitionId),
    /// Any JSON, not looked into.
    Any,
}

/// How the elements of a list are told apart when changes are merged.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum ListType {
    /// They are not: the list is one value.
    #[default]
    Atomic,
    /// By their value.
    Set,
    /// By these fields of theirs.
    Map(Vec<Text>),
}

/// A field of a definition.
#[derive(Clone, Debug)]
pub struct Field {
    /// Its name.
    pub name: Text,
    /// Its type.
    pub ty: Type,
    /// Whether it must be there.
    pub required: bool,
    /// How its elements are told apart, if it is a list.
    pub list: ListType,
    /// Whether an object or map is one value when changes are merged.
    pub atomic: bool,
    /// Whether the object is always there, if only without fields; others are there or not.
    pub embedded: bool,
    /// Whether a strategic merge patch merges the list rather than replace it.
    pub merge: bool,
    /// Whether a strategic merge patch may say which keys to retain.
    pub retain_keys: bool,
    /// The field by which a strategic merge patch tells elements apart.
    pub merge_key: Option<Text>,
    /// Its value when absent.
    pub default: Option<Box<Value>>,
}

/// A group, a version and a kind.
pub type GroupVersionKind = (Text, Text, Text);

/// What a definition consists of.
#[derive(Clone, Debug)]
pub enum Body {
    /// Fields, sorted by name.
    Fields(Vec<Field>),
    /// One value, e.g. a time.
    Whole(Type),
}

/// One definition.
#[derive(Clone, Debug)]
pub struct Definition {
    /// Its full name, e.g. `io.k8s.api.apps.v1.Deployment`.
    pub name: Text,
    /// Whether an object of it is one value when changes are merged.
    pub atomic: bool,
    /// The kinds it defines.
    pub kinds: Vec<GroupVersionKind>,
    /// What it consists of.
    pub body: Body,
    /// Whether it or anything it holds has defaults: a walk to fill them in need not go further otherwise.
    pub has_defaults: bool,
}

impl Definition {
    /// The fields, sorted by name; none of a definition that is one value.
    pub fn fields(&self) -> &[Field] {
        match &self.body {
            Body::Fields(fields) => fields,
            Body::Whole(_) => &[],
        }
    }

    /// The field called `name`.
    pub fn field(&self, name: &str) -> Option<&Field> {
        let fields = self.fields();
        let position = fields.binary_search_by(|field| field.name.as_ref().cmp(name)).ok()?;
        Some(&fields[position])
    }

    /// The name's last part, e.g. `DeploymentSpec`.
    pub fn short_name(&self) -> &str {
        self.name.rsplit('.').next().unwrap_or_default()
    }
}

/// A table of definitions that refer to each other.
#[derive(Clone, Debug, Default)]
pub struct Schema {
    /// Sorted by name.
    definitions: Vec<Definition>,
    /// Sorted by kind, group, version.
    by_kind: Vec<(GroupVersionKind, DefinitionId)>,
}

static BUILTIN: LazyLock<Schema> = LazyLock::new(|| {
    facts::parse(
        include_str!("../schema/facts.txt"),
        include_str!("../schema/defaults.txt"),
        include_str!("../schema/embedded.txt"),
    )
    .expect("the committed facts are those that the tests of this module read")
});

impl Schema {
    /// The definitions of all built-in kinds.
    pub fn builtin() -> &'static Schema {
        &BUILTIN
    }

    /// A table of these definitions, whose references are positions in the list given.
    fn new(definitions: Vec<Definition>) -> Self {
        let mut by_kind: Vec<_> = definitions
            .iter()
            .enumerate()
            .flat_map(|(position, definition)| {
                definition.kinds.iter().map(move |kind| (kind.clone(), DefinitionId(position)))
            })
            .collect();
        by_kind.sort_by(|(a, _), (b, _)| kind_order(a).cmp(&kind_order(b)));
        let mut schema = Self { definitions, by_kind };
        schema.mark_defaults();
        schema
    }

    /// Marks what holds defaults somewhere below, until nothing more is found: definitions may refer in circles.
    fn mark_defaults(&mut self) {
        loop {
            let mut found = Vec::new();
            for (position, definition) in self.definitions.iter().enumerate() {
                let holds = |field: &Field| field.default.is_some() || self.type_has_defaults(&field.ty);
                if !definition.has_defaults && definition.fields().iter().any(holds) {
                    found.push(position);
                }
            }
            if found.is_empty() {
                return;
            }
            found.into_iter().for_each(|position| self.definitions[position].has_defaults = true);
        }
    }

    pub(crate) fn type_has_defaults(&self, ty: &Type) -> bool {
        match ty {
            Type::Ref(id) => self.get(*id).has_defaults,
            Type::List(inner) | Type::Map(inner) => self.type_has_defaults(inner),
            Type::Scalar(_) | Type::Any => false,
        }
    }

    /// All definitions, sorted by name.
    pub fn definitions(&self) -> &[Definition] {
        &self.definitions
    }

    /// The definition with this id.
    pub fn get(&self, id: DefinitionId) -> &Definition {
        &self.definitions[id.0]
    }

    /// The definition with this full name.
    pub fn by_name(&self, name: &str) -> Option<DefinitionId> {
        self.definitions
            .binary_search_by(|definition| definition.name.as_ref().cmp(name))
            .ok()
            .map(DefinitionId)
    }

    /// The definition of a kind.
    pub fn by_kind(&self, group: &str, version: &str, kind: &str) -> Option<DefinitionId> {
        let wanted = (kind, group, version);
        let position = self.by_kind.binary_search_by(|(own, _)| kind_order(own).cmp(&wanted)).ok()?;
        Some(self.by_kind[position].1)
    }

    /// Where a walk over an object of this kind starts.
    pub fn node(&self, group: &str, version: &str, kind: &str) -> Option<Node<'_>> {
        self.by_kind(group, version, kind).map(|id| Node::root(self, id))
    }
}

fn kind_order((group, version, kind): &GroupVersionKind) -> (&str, &str, &str) {
    (kind, group, version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_builtin_table_is_complete() {
        let schema = Schema::builtin();
        for (group, version, kind) in [
            ("", "v1", "Pod"),
            ("", "v1", "PodList"),
            ("", "v1", "Event"),
            ("events.k8s.io", "v1", "Event"),
            ("apps", "v1", "Deployment"),
            ("autoscaling", "v1", "Scale"),
            ("authentication.k8s.io", "v1", "TokenRequest"),
            ("policy", "v1", "Eviction"),
            ("", "v1", "Status"),
        ] {
            assert!(schema.node(group, version, kind).is_some(), "{group}/{version} {kind}");
        }
        assert!(schema.by_kind("", "v1", "Deployment").is_none());
    }

    #[test]
    fn facts_of_a_few_fields() {
        let schema = Schema::builtin();
        let spec = schema.get(schema.by_name("io.k8s.api.core.v1.ServiceSpec").unwrap());
        let ports = spec.field("ports").unwrap();
        assert_eq!(ports.list, ListType::Map(vec!["port".into(), "protocol".into()]));
        assert!(ports.merge && !ports.required);
        assert_eq!(ports.merge_key.as_deref(), Some("port"));
        assert_eq!(spec.field("type").unwrap().default.as_deref(), Some(&"ClusterIP".into()));
        assert!(spec.field("selector").unwrap().atomic);
        assert!(spec.field("nothing").is_none());
        let strategy = schema.get(schema.by_name("io.k8s.api.apps.v1.DeploymentSpec").unwrap());
        assert!(strategy.field("strategy").unwrap().retain_keys);
        assert!(strategy.has_defaults);
        assert!(!schema.get(schema.by_name("io.k8s.api.core.v1.ConfigMap").unwrap()).has_defaults);
    }
}
