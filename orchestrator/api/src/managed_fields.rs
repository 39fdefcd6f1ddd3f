//! Who wrote which field: `metadata.managedFields`, kept for every write from the first one on.
//!
//! [`set`] is a set of fields and its JSON form (FieldsV1), [`diff`] finds what a write changed, [`typed`] does the other
//! walks of an object beside its schema, [`managers`] reads and writes the list of managers. [`update`] is what every
//! write but an apply does; [`crate::patch::apply`] builds on the same parts.
pub mod diff;
pub mod managers;
pub mod set;
pub mod typed;

use crate::field::ErrorList;
use crate::object::{Object, Value};
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
    let mut managers = starting_point(live, sent, writer.subresource);
    // An existing object without managers was reset on purpose: it stays untracked until somebody applies.
    if live.is_some() && managers.is_empty() {
        return;
    }
    record(node, live, new, writer, &mut managers);
    managers.cap();
    managers.write(new);
}

fn starting_point(live: Option<&Object>, sent: Option<Value>, subresource: &str) -> Managers {
    let stored = || live.map(|live| Managers::read(live).unwrap_or_default()).unwrap_or_default();
    match sent {
        Some(Value::Array(entries)) if subresource.is_empty() => {
            let blank = entries.iter().all(|entry| entry.as_object().is_none_or(|entry| entry.is_empty()));
            match Managers::from_entries(&entries) {
                _ if blank && entries.len() <= 1 => Managers::default(),
                Ok(managers) if !managers.is_empty() => managers,
                _ => stored(),
            }
        }
        _ => stored(),
    }
}

/// Moves what changed from everybody else to the writer.
pub(crate) fn record(
    node: Node<'_>,
    live: Option<&Object>,
    new: &Object,
    writer: &Writer<'_>,
    managers: &mut Managers,
) {
    let nothing = Value::Object(crate::object::Map::new());
    let diff = Diff::between(node, live.map_or(&nothing, Object::value), new.value());
    if diff.is_empty() {
        return;
    }
    let mut changed = diff.changed();
    managers.take_away(None, &changed, &diff.removed, writer.api_version);
    changed.subtract(unowned());
    if !changed.is_empty() {
        managers.give(writer.manager(Operation::Update), changed, writer.now);
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
