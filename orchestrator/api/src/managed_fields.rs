//! Who wrote which field: `metadata.managedFields`, kept for every write from the first one on.
//!
//! [`set`] is a set of fields and its JSON form (FieldsV1), [`diff`] finds what a write changed, [`typed`] does the other
//! walks of an object beside its schema, [`managers`] reads and writes the list of managers. [`update`] is what every
//! write but an apply does; [`crate::patch::apply`] builds on the same parts.
pub mod diff;
mod fresh;
pub mod managers;
pub mod set;
pub mod typed;

use crate::field::ErrorList;
use crate::object::{Map, Object, Value};
use crate::schema::Node;
use crate::time::Time;

use diff::Diff;
use managers::{Manager, Managers, Operation};
use set::FieldSet;

/// Longest field manager name, in bytes.
pub const MANAGER_NAME_MAX: usize = 128;

/// Who writes, by which way.
#[derive(Clone, Copy, Debug)]
pub struct Writer<'w> {
    /// The field manager: the query parameter, or what the user agent starts with.
    pub name: &'w str,
    /// The group and version that the object is written in, e.g. `apps/v1`.
    pub api_version: &'w str,
    /// The subresource written, empty for the object itself.
    pub subresource: &'w str,
    /// When.
    pub now: Time,
}

impl Writer<'_> {
    pub(crate) fn manager(&self, operation: Operation) -> Manager {
        Manager {
            name: if self.name.is_empty() { "unknown" } else { self.name }.to_owned(),
            operation,
            api_version: self.api_version.to_owned(),
            subresource: self.subresource.to_owned(),
        }
    }
}

/// The manager's name when the request gives none: the user agent up to its first slash.
pub fn manager_from_user_agent(user_agent: &str) -> &str {
    let name = user_agent.split('/').next().unwrap_or_default();
    let mut end = name.len().min(MANAGER_NAME_MAX);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    &name[..end]
}

/// What is wrong with the query parameter `fieldManager`.
pub fn validate_manager(name: &str) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = crate::field::Path::new("fieldManager");
    if name.len() > MANAGER_NAME_MAX {
        errors.too_long(&path, MANAGER_NAME_MAX);
    }
    let bad = name.chars().enumerate().find(|(_, c)| c.is_control());
    if let Some((position, c)) = bad {
        errors.invalid(
            &path,
            name,
            format!("invalid character U+{:04X} (at position {position})", u32::from(c)),
        );
    }
    errors
}

/// Notes in `new` what this write changed of `live` (`None`: a create). Every write but an apply ends with this, after
/// defaulting and the split of spec and status, so that `new` is what will be stored.
///
/// A client may send managed fields of its own, which then stand instead of the stored ones; an empty list resets them.
pub fn update(node: Node<'_>, live: Option<&Object>, new: &mut Object, writer: &Writer<'_>) {
    let sent = new.meta_mut().remove("managedFields");
    let Some(live) = live else { return create(node, sent, new, writer) };
    let stored = live.meta().get("managedFields");
    let diff = Diff::between(node, live.value(), new.value());
    if diff.is_empty() && (sent.is_none() || sent.as_ref() == stored || !writer.subresource.is_empty()) {
        new.meta_mut().set("managedFields", stored.cloned().unwrap_or_default());
        return;
    }
    let mut managers = starting_point(stored, sent, writer.subresource);
    // An existing object without managers was reset on purpose: it stays untracked until somebody applies.
    if managers.is_empty() {
        return;
    }
    record(diff, writer, &mut managers);
    managers.cap();
    managers.write(new);
}

/// Notes a create: all is the writer's, unless a client says who else wrote it.
fn create(node: Node<'_>, sent: Option<Value>, new: &mut Object, writer: &Writer<'_>) {
    let mut managers = starting_point(None, sent, writer.subresource);
    if managers.is_empty() {
        managers = first_manager(node, new, writer);
    } else {
        record(difference(node, new), writer, &mut managers);
        managers.cap();
    }
    managers.write(new);
}

/// All of the object as one manager's.
pub(crate) fn first_manager(node: Node<'_>, object: &Object, writer: &Writer<'_>) -> Managers {
    let mut fields = fresh::owned_by_creator(node, object.value());
    unowned().subtract_from_map(&mut fields);
    let mut managers = Managers::default();
    managers.set_stored(writer.manager(Operation::Update), fields, writer.now);
    managers
}

fn starting_point(stored: Option<&Value>, sent: Option<Value>, subresource: &str) -> Managers {
    let unchanged = sent.as_ref() == stored;
    match (sent, stored) {
        (Some(Value::Array(entries)), _) if unchanged => Managers::from_stored(entries).unwrap_or_default(),
        (Some(Value::Array(entries)), _) if subresource.is_empty() && is_reset(&entries) => {
            Managers::default()
        }
        (Some(Value::Array(entries)), stored) if subresource.is_empty() => {
            let sent = Managers::from_client(entries).filter(|managers| !managers.is_empty());
            sent.unwrap_or_else(|| starting_point(stored, stored.cloned(), ""))
        }
        (_, Some(Value::Array(entries))) => Managers::from_stored(entries.clone()).unwrap_or_default(),
        _ => Managers::default(),
    }
}

/// An empty list, or one blank entry, asks to forget all managers.
fn is_reset(entries: &[Value]) -> bool {
    entries.len() <= 1 && entries.iter().all(|entry| entry.as_object().is_some_and(Map::is_empty))
}

/// What an object is more than nothing.
fn difference(node: Node<'_>, object: &Object) -> Diff {
    Diff::between(node, &Value::Object(Map::new()), object.value())
}

/// Moves what changed from everybody else to the writer.
fn record(diff: Diff, writer: &Writer<'_>, managers: &mut Managers) {
    if diff.is_empty() {
        return;
    }
    let (mut changed, removed) = diff.into_changed_and_removed();
    let manager = writer.manager(Operation::Update);
    managers.take_away(&manager, &changed, &removed);
    changed.subtract(unowned());
    if !changed.is_empty() {
        managers.give(manager, changed, writer.now);
    }
}

/// What nobody owns: the object's identity and what the server keeps.
pub(crate) fn unowned() -> &'static FieldSet {
    static SET: std::sync::LazyLock<FieldSet> = std::sync::LazyLock::new(|| {
        let metadata = [
            "name",
            "namespace",
            "creationTimestamp",
            "selfLink",
            "uid",
            "clusterName",
            "generation",
            "managedFields",
            "resourceVersion",
        ];
        let mut set = FieldSet::default();
        for field in ["apiVersion", "kind", "metadata"] {
            set.insert(&[field.into()]);
        }
        for field in metadata {
            set.insert(&["metadata".into(), field.into()]);
        }
        set
    });
    &SET
}

#[cfg(test)]
mod tests;
