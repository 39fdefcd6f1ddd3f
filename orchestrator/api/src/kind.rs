//! A kind: everything the server knows about a resource, as data, plus its [`Strategy`].
//!
//! Built-in kinds and custom resources are the same type and take the same path.
use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use crate::object::{Object, Value};
use crate::schema::{Node, Schema};
use crate::strategy::{Plain, Strategy};

/// Text of a built-in kind (static) or of a custom resource (owned).
pub type Text = Cow<'static, str>;

/// Whether objects live in a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// In a namespace.
    Namespaced,
    /// One for the whole cluster.
    Cluster,
}

/// How long and how safely objects are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StorageClass {
    /// Until deleted.
    Durable,
    /// Events: they expire by themselves.
    Event,
    /// Leases: rewritten all the time, worthless after a crash.
    Lease,
}

/// Whether `metadata.generation` counts changes of what is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Generation {
    /// It does.
    Counted,
    /// The kind has none.
    None,
}

/// A column of the kind's table.
#[derive(Clone, Debug)]
pub struct Column {
    /// The heading.
    pub name: Text,
    /// `string`, `integer`, `number`, `boolean` or `date`.
    pub kind: Text,
    /// `name` for the column that names the object, else empty.
    pub format: Text,
    /// What it shows.
    pub description: Text,
    /// 0: always shown; above: only with `-o wide`.
    pub priority: i32,
}

impl Column {
    /// A column that is always shown.
    pub const fn new(name: &'static str, kind: &'static str, description: &'static str) -> Self {
        Self {
            name: Cow::Borrowed(name),
            kind: Cow::Borrowed(kind),
            format: Cow::Borrowed(""),
            description: Cow::Borrowed(description),
            priority: 0,
        }
    }

    /// A column shown with `-o wide` only.
    pub const fn wide(name: &'static str, kind: &'static str, description: &'static str) -> Self {
        let mut column = Self::new(name, kind, description);
        column.priority = 1;
        column
    }

    /// The column `Name`.
    pub const fn name() -> Self {
        Self {
            name: Cow::Borrowed("Name"),
            kind: Cow::Borrowed("string"),
            format: Cow::Borrowed("name"),
            description: Cow::Borrowed("The object's name, unique in its namespace."),
            priority: 0,
        }
    }

    /// The column `Age`.
    pub const fn age() -> Self {
        Self::new("Age", "string", "Time since the object was created.")
    }
}

/// A field that field selectors may name, besides `metadata.name` and `metadata.namespace`.
#[derive(Clone, Debug)]
pub struct SelectableField {
    /// What the selector calls it, e.g. `spec.nodeName`.
    pub name: Text,
    /// The paths it is read from, the first that holds something.
    pub paths: Vec<Text>,
    /// What it reads as when all are absent.
    pub absent: Text,
}

impl SelectableField {
    /// A field that is called what it is, and reads as empty when absent.
    pub fn new(name: &'static str) -> Self {
        Self { name: name.into(), paths: vec![name.into()], absent: Text::Borrowed("") }
    }

    /// A field that reads as `absent` when it is not there.
    pub fn with_default(name: &'static str, absent: &'static str) -> Self {
        Self { absent: absent.into(), ..Self::new(name) }
    }

    /// A field that is read from the first of `paths` that holds something.
    pub fn from_paths(name: &'static str, paths: &[&'static str]) -> Self {
        Self { paths: paths.iter().map(|path| Text::Borrowed(*path)).collect(), ..Self::new(name) }
    }

    fn read<'o>(&'o self, object: &'o Object) -> Cow<'o, str> {
        let texts = self.paths.iter().filter_map(|path| match object.get(path)? {
            Value::String(text) => Some(Cow::Borrowed(text.as_str())),
            other => Some(Cow::Owned(other.to_string())),
        });
        texts.into_iter().find(|text| !text.is_empty()).unwrap_or(Cow::Borrowed(&self.absent))
    }
}

/// Where the `scale` subresource reads and writes.
#[derive(Clone, Debug)]
pub struct ScalePaths {
    /// The number asked for, e.g. `spec.replicas`.
    pub spec_replicas: Text,
    /// The number there is, e.g. `status.replicas`.
    pub status_replicas: Text,
    /// The selector: a label selector object or its string form, e.g. `spec.selector`.
    pub selector: Text,
}

impl Default for ScalePaths {
    fn default() -> Self {
        Self {
            spec_replicas: "spec.replicas".into(),
            status_replicas: "status.replicas".into(),
            selector: "spec.selector".into(),
        }
    }
}

/// A subresource, as discovery shows it.
#[derive(Clone, Debug)]
pub struct Subresource {
    /// `status`, `scale`, `binding`, `log`, ...
    pub name: Text,
    /// The group of what it reads and writes.
    pub group: Text,
    /// The version of what it reads and writes.
    pub version: Text,
    /// The kind of what it reads and writes.
    pub kind: Text,
    /// The verbs it has.
    pub verbs: Vec<Text>,
}

/// A resource and all that is known about it.
#[derive(Clone)]
pub struct Kind {
    /// The API group, empty for core.
    pub group: Text,
    /// The version, e.g. `v1`.
    pub version: Text,
    /// The kind, e.g. `Deployment`.
    pub kind: Text,
    /// The kind of a list, e.g. `DeploymentList`.
    pub list_kind: Text,
    /// The resource, e.g. `deployments`.
    pub plural: Text,
    /// e.g. `deployment`.
    pub singular: Text,
    /// Whether objects live in a namespace.
    pub scope: Scope,
    /// What people type, e.g. `deploy`.
    pub short_names: Vec<Text>,
    /// Groups of resources, e.g. `all`.
    pub categories: Vec<Text>,
    /// The verbs of the main resource; all of them but for kinds that are only posted (TokenRequest, Binding).
    pub verbs: Vec<Text>,
    /// The subresources.
    pub subresources: Vec<Subresource>,
    /// Where `scale` reads and writes, when there is one.
    pub scale: Option<ScalePaths>,
    /// The table's columns.
    pub columns: Vec<Column>,
    /// What field selectors may name.
    pub selectable_fields: Vec<SelectableField>,
    /// Whether generations are counted.
    pub generation: Generation,
    /// How long and how safely objects are kept.
    pub storage: StorageClass,
    /// The group and plural name under which objects are stored: those of another kind for a second view of it.
    pub stored_as: (Text, Text),
    /// The rules that are not data.
    pub strategy: Arc<dyn Strategy>,
}

impl fmt::Debug for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Kind({}/{} {})", self.group, self.version, self.kind)
    }
}

/// The verbs of a resource that is stored.
pub const STORED_VERBS: &[&str] =
    &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
/// The verbs of a subresource that is a part of the object.
pub const PART_VERBS: &[&str] = &["get", "patch", "update"];

fn texts(list: &[&'static str]) -> Vec<Text> {
    list.iter().map(|text| Text::Borrowed(*text)).collect()
}

// === impl Kind: construction ===

impl Kind {
    /// A namespaced, durable kind with all verbs, no status, no generation, and the columns Name and Age.
    pub fn new(group: &'static str, version: &'static str, kind: &'static str, plural: &'static str) -> Self {
        Self {
            group: group.into(),
            version: version.into(),
            kind: kind.into(),
            list_kind: format!("{kind}List").into(),
            plural: plural.into(),
            singular: kind.to_lowercase().into(),
            scope: Scope::Namespaced,
            short_names: Vec::new(),
            categories: Vec::new(),
            verbs: texts(STORED_VERBS),
            subresources: Vec::new(),
            scale: None,
            columns: vec![Column::name(), Column::age()],
            selectable_fields: Vec::new(),
            generation: Generation::None,
            storage: StorageClass::Durable,
            stored_as: (group.into(), plural.into()),
            strategy: Arc::new(Plain),
        }
    }

    /// Objects live outside of namespaces.
    #[must_use]
    pub fn cluster_scoped(mut self) -> Self {
        self.scope = Scope::Cluster;
        self
    }

    /// Sets the short names.
    #[must_use]
    pub fn short_names(mut self, names: &[&'static str]) -> Self {
        self.short_names = texts(names);
        self
    }

    /// Sets the categories.
    #[must_use]
    pub fn categories(mut self, categories: &[&'static str]) -> Self {
        self.categories = texts(categories);
        self
    }

    /// Sets the verbs of the main resource.
    #[must_use]
    pub fn verbs(mut self, verbs: &[&'static str]) -> Self {
        self.verbs = texts(verbs);
        self
    }

    /// Counts generations.
    #[must_use]
    pub fn counted(mut self) -> Self {
        self.generation = Generation::Counted;
        self
    }

    /// Adds the subresource `status`.
    #[must_use]
    pub fn status(self) -> Self {
        self.part("status")
    }

    /// Adds the subresource `scale`.
    #[must_use]
    pub fn scale(mut self, paths: ScalePaths) -> Self {
        self.scale = Some(paths);
        self.subresource("scale", ("autoscaling", "v1", "Scale"), PART_VERBS)
    }

    /// Adds a subresource that reads and writes a part of the object itself, e.g. `approval`.
    #[must_use]
    pub fn part(mut self, name: &'static str) -> Self {
        self.subresources.push(Subresource {
            name: name.into(),
            group: self.group.clone(),
            version: self.version.clone(),
            kind: self.kind.clone(),
            verbs: texts(PART_VERBS),
        });
        self
    }

    /// Adds a subresource of a kind of its own.
    #[must_use]
    pub fn subresource(
        mut self,
        name: &'static str,
        (group, version, kind): (&'static str, &'static str, &'static str),
        verbs: &[&'static str],
    ) -> Self {
        self.subresources.push(Subresource {
            name: name.into(),
            group: group.into(),
            version: version.into(),
            kind: kind.into(),
            verbs: texts(verbs),
        });
        self
    }

    /// Sets the table's columns.
    #[must_use]
    pub fn columns(mut self, columns: impl IntoIterator<Item = Column>) -> Self {
        self.columns = columns.into_iter().collect();
        self
    }

    /// Sets what field selectors may name.
    #[must_use]
    pub fn selectable(mut self, fields: impl IntoIterator<Item = SelectableField>) -> Self {
        self.selectable_fields = fields.into_iter().collect();
        self
    }

    /// Sets how objects are kept.
    #[must_use]
    pub fn stored(mut self, class: StorageClass) -> Self {
        self.storage = class;
        self
    }

    /// Makes this kind a second view of what another kind stores.
    #[must_use]
    pub fn view_of(mut self, group: &'static str, plural: &'static str) -> Self {
        self.stored_as = (group.into(), plural.into());
        self
    }

    /// Sets the rules.
    #[must_use]
    pub fn strategy(mut self, strategy: impl Strategy) -> Self {
        self.strategy = Arc::new(strategy);
        self
    }
}

// === impl Kind: questions ===

impl Kind {
    /// `v1` or `apps/v1`.
    pub fn api_version(&self) -> String {
        group_version(&self.group, &self.version)
    }

    /// Where the schema's walk over an object of this kind starts; `None` for a kind without a schema.
    pub fn node(&self) -> Option<Node<'_>> {
        Schema::builtin().node(&self.group, &self.version, &self.kind)
    }

    /// Whether objects live in a namespace.
    pub fn is_namespaced(&self) -> bool {
        self.scope == Scope::Namespaced
    }

    /// Whether `verb` exists for the main resource.
    pub fn has_verb(&self, verb: &str) -> bool {
        self.verbs.iter().any(|own| own == verb)
    }

    /// Whether objects are stored at all, rather than only posted.
    pub fn is_stored(&self) -> bool {
        self.has_verb("get")
    }

    /// The subresource called `name`.
    pub fn find_subresource(&self, name: &str) -> Option<&Subresource> {
        self.subresources.iter().find(|subresource| subresource.name == name)
    }

    /// Whether status is written through its own subresource only.
    pub fn has_status(&self) -> bool {
        self.find_subresource("status").is_some()
    }

    /// What a field selector's field reads as in `object`; `None` if the kind does not offer it.
    pub fn selectable_value<'o>(&'o self, object: &'o Object, field: &str) -> Option<Cow<'o, str>> {
        match field {
            "metadata.name" => Some(object.meta().name().into()),
            "metadata.namespace" if self.is_namespaced() => Some(object.meta().namespace().into()),
            _ => self.selectable_fields.iter().find(|own| own.name == field).map(|own| own.read(object)),
        }
    }

    /// Whether field selectors may name `field`.
    pub fn is_selectable(&self, field: &str) -> bool {
        field == "metadata.name"
            || (field == "metadata.namespace" && self.is_namespaced())
            || self.selectable_fields.iter().any(|own| own.name == field)
    }
}

/// `v1` or `apps/v1`.
pub fn group_version(group: &str, version: &str) -> String {
    match group {
        "" => version.to_owned(),
        _ => format!("{group}/{version}"),
    }
}

/// Takes `v1` or `apps/v1` apart into group and version.
pub fn split_group_version(api_version: &str) -> (&str, &str) {
    api_version.split_once('/').unwrap_or(("", api_version))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn selectable_fields_read_from_the_first_path_that_holds_something() {
        let kind = Kind::new("", "v1", "Event", "events").selectable([
            SelectableField::from_paths("reportingComponent", &["reportingComponent", "source.component"]),
            SelectableField::with_default("spec.hostNetwork", "false"),
        ]);
        let object =
            json!({"metadata": {"name": "e"}, "reportingComponent": "", "source": {"component": "c"}});
        let object = Object::from_value(object).unwrap();
        assert_eq!(kind.selectable_value(&object, "reportingComponent").unwrap(), "c");
        assert_eq!(kind.selectable_value(&object, "spec.hostNetwork").unwrap(), "false");
        assert_eq!(kind.selectable_value(&object, "metadata.name").unwrap(), "e");
        assert_eq!(kind.selectable_value(&object, "spec.other"), None);
    }

    #[test]
    fn group_versions() {
        assert_eq!(Kind::new("apps", "v1", "Deployment", "deployments").api_version(), "apps/v1");
        assert_eq!(split_group_version("v1"), ("", "v1"));
        assert_eq!(split_group_version("a.b/v1beta1"), ("a.b", "v1beta1"));
    }
}
