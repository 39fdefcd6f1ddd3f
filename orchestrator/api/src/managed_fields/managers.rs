//! The list of managers: reading, writing and bounding `metadata.managedFields`.
use std::collections::BTreeMap;

use super::set::FieldSet;
use crate::field::quote;
use crate::object::{Json, Map, Object, Value};
use crate::time::{self, Time};

/// Managers by update that are told apart; the oldest above that are lumped together. As many as in Kubernetes: an
/// object that many different programs touch would otherwise grow with each of them.
const UPDATE_MANAGERS_MAX: usize = 10;
/// What the lump is called.
const ANCIENT: &str = "ancient-changes";

/// By which way a manager came to own fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// Server-side apply.
    Apply,
    /// Any other write.
    Update,
}

impl Operation {
    fn as_str(self) -> &'static str {
        match self {
            Self::Apply => "Apply",
            Self::Update => "Update",
        }
    }
}

/// A manager's identity. Of two applies in different versions the manager is the same.
#[derive(Clone, Debug, Eq)]
pub struct Manager {
    /// Its name.
    pub name: String,
    /// By which way it owns.
    pub operation: Operation,
    /// The group and version in which it wrote.
    pub api_version: String,
    /// The subresource it wrote, empty for the object itself.
    pub subresource: String,
}

impl Manager {
    fn key(&self) -> (Operation, &str, &str, &str) {
        let version = if self.operation == Operation::Apply { "" } else { &self.api_version };
        (self.operation, &self.name, version, &self.subresource)
    }
}

impl PartialEq for Manager {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Ord for Manager {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.key().cmp(&other.key())
    }
}

impl PartialOrd for Manager {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// `"kubectl-edit" with subresource "status" using apps/v1`
impl std::fmt::Display for Manager {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&quote(&self.name))?;
        if !self.subresource.is_empty() {
            write!(f, " with subresource {}", quote(&self.subresource))?;
        }
        match self.operation {
            Operation::Update => write!(f, " using {}", self.api_version),
            Operation::Apply => Ok(()),
        }
    }
}

/// What a manager owns, and since when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owned {
    /// The fields.
    pub fields: FieldSet,
    /// When it last wrote.
    pub time: Option<Time>,
    /// The group and version in which it last wrote.
    pub api_version: String,
}

/// All managers of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Managers {
    entries: BTreeMap<Manager, Owned>,
}

impl Managers {
    /// Reads the managers of an object; `None` if the list is malformed.
    pub fn read(object: &Object) -> Option<Self> {
        Self::from_entries(object.meta().managed_fields()).ok()
    }

    /// Reads a list of entries; the error is the first entry that is malformed.
    pub fn from_entries(entries: &[Value]) -> Result<Self, &Value> {
        let entries = entries.iter().map(|entry| read_entry(entry).ok_or(entry));
        let mut managers = Self::default();
        for entry in entries {
            let (manager, owned) = entry?;
            managers.entries.insert(manager, owned);
        }
        Ok(managers)
    }

    /// Writes the list into the object, in Kubernetes' order.
    pub fn write(&self, object: &mut Object) {
        let mut entries: Vec<_> = self.entries.iter().filter(|(_, owned)| !owned.fields.is_empty()).collect();
        entries.sort_by_key(|(manager, owned)| {
            let seconds = owned.time.map(|time| time.timestamp()).unwrap_or_default();
            (manager.operation, seconds, &manager.name, &owned.api_version, &manager.subresource)
        });
        let entries = entries.into_iter().map(|(manager, owned)| write_entry(manager, owned)).collect();
        object.meta_mut().set("managedFields", Value::Array(entries));
    }

    /// Whether nobody owns anything.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// What a manager owns.
    pub fn get(&self, manager: &Manager) -> Option<&Owned> {
        self.entries.get(manager)
    }

    /// All managers and what they own, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&Manager, &Owned)> {
        self.entries.iter()
    }

    /// Replaces what a manager owns.
    pub fn set(&mut self, manager: Manager, fields: FieldSet, time: Option<Time>) {
        let api_version = manager.api_version.clone();
        // The key keeps the first version it was made with: let it be the newest.
        self.entries.remove(&manager);
        if !fields.is_empty() {
            self.entries.insert(manager, Owned { fields, time, api_version });
        }
    }

    /// Adds fields to what a manager owns.
    pub fn give(&mut self, manager: Manager, fields: FieldSet, now: Time) {
        let mut all = self.entries.get(&manager).map(|owned| owned.fields.clone()).unwrap_or_default();
        all.add(fields);
        self.set(manager, all, Some(now));
    }

    /// Takes fields away from every manager of this version but `except`: those that changed and those that are gone.
    pub fn take_away(
        &mut self,
        except: Option<&Manager>,
        changed: &FieldSet,
        removed: &FieldSet,
        api_version: &str,
    ) {
        self.entries.retain(|manager, owned| {
            if Some(manager) != except && owned.api_version == api_version {
                owned.fields.subtract(changed);
                owned.fields.subtract(removed);
            }
            !owned.fields.is_empty()
        });
    }

    /// Lumps the oldest managers by update together until no more than the bound are left.
    pub fn cap(&mut self) {
        let is_update = |manager: &Manager| manager.operation == Operation::Update;
        let mut updaters: Vec<(Option<Time>, Manager)> = self
            .entries
            .iter()
            .filter(|(manager, _)| is_update(manager))
            .map(|(manager, owned)| (owned.time, manager.clone()))
            .collect();
        let mut count = updaters.len();
        updaters.sort();
        let mut first_of_version: BTreeMap<String, Option<Manager>> = BTreeMap::new();
        for (time, manager) in updaters {
            if count <= UPDATE_MANAGERS_MAX {
                return;
            }
            let version = manager.api_version.clone();
            let Some(first) = first_of_version.get_mut(&version) else {
                first_of_version.insert(version, Some(manager));
                continue;
            };
            let lumped = [first.take(), Some(manager)].into_iter().flatten();
            let fields: Vec<_> = lumped.filter_map(|manager| self.entries.remove(&manager)).collect();
            let ancient = Manager {
                name: ANCIENT.to_owned(),
                operation: Operation::Update,
                api_version: version,
                subresource: String::new(),
            };
            let mut all = self.entries.get(&ancient).map(|owned| owned.fields.clone()).unwrap_or_default();
            fields.into_iter().for_each(|owned| all.add(owned.fields));
            self.set(ancient, all, time);
            count -= 1;
        }
    }
}

fn read_entry(entry: &Value) -> Option<(Manager, Owned)> {
    let operation = match entry.text("operation") {
        "Apply" => Operation::Apply,
        "Update" => Operation::Update,
        _ => return None,
    };
    let manager = Manager {
        name: entry.text("manager").to_owned(),
        operation,
        api_version: entry.text("apiVersion").to_owned(),
        subresource: entry.text("subresource").to_owned(),
    };
    let fields = match entry.at("fieldsV1") {
        Some(fields) => FieldSet::from_json(fields)?,
        None => FieldSet::default(),
    };
    let time = entry.str_at("time").and_then(time::parse);
    let api_version = manager.api_version.clone();
    Some((manager, Owned { fields, time, api_version }))
}

fn write_entry(manager: &Manager, owned: &Owned) -> Value {
    let mut entry = Map::new();
    entry.insert("manager".to_owned(), manager.name.as_str().into());
    entry.insert("operation".to_owned(), manager.operation.as_str().into());
    entry.insert("apiVersion".to_owned(), owned.api_version.as_str().into());
    if let Some(time) = owned.time {
        entry.insert("time".to_owned(), time::format(time).into());
    }
    entry.insert("fieldsType".to_owned(), "FieldsV1".into());
    entry.insert("fieldsV1".to_owned(), owned.fields.to_json());
    if !manager.subresource.is_empty() {
        entry.insert("subresource".to_owned(), manager.subresource.as_str().into());
    }
    Value::Object(entry)
}
