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

/// The fields that a manager owns. Those that were stored stay in their JSON form while nobody needs more: most writes
/// touch few fields of few managers.
#[derive(Clone, Debug)]
enum Fields {
    /// As stored by us: canonical.
    Stored(Map),
    /// Read.
    Read(FieldSet),
}

impl Fields {
    fn is_empty(&self) -> bool {
        match self {
            Self::Stored(map) => map.is_empty(),
            Self::Read(set) => set.is_empty(),
        }
    }

    fn to_set(&self) -> FieldSet {
        match self {
            Self::Stored(map) => FieldSet::from_map(map).unwrap_or_default(),
            Self::Read(set) => set.clone(),
        }
    }

    fn into_set(self) -> FieldSet {
        match self {
            Self::Stored(map) => FieldSet::from_map(&map).unwrap_or_default(),
            Self::Read(set) => set,
        }
    }

    fn into_json(self) -> Value {
        match self {
            Self::Stored(map) => Value::Object(map),
            Self::Read(set) => set.to_json(),
        }
    }

    fn subtract(&mut self, gone: &FieldSet) {
        match self {
            Self::Stored(map) => gone.subtract_from_map(map),
            Self::Read(set) => set.subtract(gone),
        }
    }

    fn contains(&self, fields: &FieldSet) -> bool {
        match self {
            Self::Stored(map) => fields.is_in_map(map),
            Self::Read(_) => false,
        }
    }
}

/// What a manager owns, and since when.
#[derive(Clone, Debug)]
struct Owned {
    fields: Fields,
    time: Option<Time>,
    api_version: String,
}

/// All managers of an object.
#[derive(Clone, Debug, Default)]
pub struct Managers {
    entries: BTreeMap<Manager, Owned>,
}

impl Managers {
    /// Reads the managers of a stored object; `None` if the list is malformed.
    pub fn read(object: &Object) -> Option<Self> {
        Self::from_stored(object.meta().managed_fields().to_vec())
    }

    /// Takes a list over that we stored; `None` if it is malformed.
    pub fn from_stored(entries: Vec<Value>) -> Option<Self> {
        let entries = entries.into_iter().map(take_entry);
        Some(Self { entries: entries.collect::<Option<_>>()? })
    }

    /// Takes a list over that a client sent; `None` if it is malformed.
    pub fn from_client(entries: Vec<Value>) -> Option<Self> {
        let mut managers = Self::from_stored(entries)?;
        for owned in managers.entries.values_mut() {
            if let Fields::Stored(map) = &owned.fields {
                owned.fields = Fields::Read(FieldSet::from_map(map)?);
            }
        }
        Some(managers)
    }

    /// Writes the list into the object, in Kubernetes' order.
    pub fn write(self, object: &mut Object) {
        let mut entries: Vec<_> =
            self.entries.into_iter().filter(|(_, owned)| !owned.fields.is_empty()).collect();
        let key = |(manager, owned): &(Manager, Owned)| {
            let seconds = owned.time.map(|time| time.timestamp()).unwrap_or_default();
            (manager.operation, seconds)
        };
        entries.sort_by(|a, b| {
            let names = |(manager, owned): &(Manager, Owned)| {
                (manager.name.clone(), owned.api_version.clone(), manager.subresource.clone())
            };
            key(a).cmp(&key(b)).then_with(|| names(a).cmp(&names(b)))
        });
        let entries = entries.into_iter().map(|(manager, owned)| write_entry(manager, owned)).collect();
        object.meta_mut().set("managedFields", Value::Array(entries));
    }

    /// Whether nobody owns anything.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// What a manager owns, in which version it wrote that, and when.
    pub fn get(&self, manager: &Manager) -> Option<(FieldSet, &str, Option<Time>)> {
        let owned = self.entries.get(manager)?;
        Some((owned.fields.to_set(), &owned.api_version, owned.time))
    }

    /// All managers, what they own, and in which version they wrote that.
    pub fn iter(&self) -> impl Iterator<Item = (&Manager, FieldSet, &str)> {
        self.entries
            .iter()
            .map(|(manager, owned)| (manager, owned.fields.to_set(), owned.api_version.as_str()))
    }

    /// Replaces what a manager owns.
    pub fn set(&mut self, manager: Manager, fields: FieldSet, time: Option<Time>) {
        let api_version = manager.api_version.clone();
        // The key keeps the first version it was made with: let it be the newest.
        self.entries.remove(&manager);
        if !fields.is_empty() {
            self.entries.insert(manager, Owned { fields: Fields::Read(fields), time, api_version });
        }
    }

    /// Gives a manager fields that are in their JSON form already.
    pub(super) fn set_stored(&mut self, manager: Manager, fields: Map, now: Time) {
        let api_version = manager.api_version.clone();
        if !fields.is_empty() {
            self.entries
                .insert(manager, Owned { fields: Fields::Stored(fields), time: Some(now), api_version });
        }
    }

    /// Adds fields to what a manager owns.
    pub fn give(&mut self, manager: Manager, fields: FieldSet, now: Time) {
        if let Some(owned) = self.entries.get_mut(&manager).filter(|owned| owned.fields.contains(&fields)) {
            owned.time = Some(now);
            return;
        }
        let mut all = self.entries.remove(&manager).map(|owned| owned.fields.into_set()).unwrap_or_default();
        all.add(fields);
        self.set(manager, all, Some(now));
    }

    /// Takes fields away: what changed from every manager but `writer`, what is gone from every one (but an applier,
    /// which is known to own just what it applied).
    pub fn take_away(&mut self, writer: &Manager, changed: &FieldSet, removed: &FieldSet) {
        self.entries.retain(|manager, owned| {
            if owned.api_version == writer.api_version {
                if manager != writer {
                    owned.fields.subtract(changed);
                }
                if manager != writer || manager.operation == Operation::Update {
                    owned.fields.subtract(removed);
                }
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
            let mut all =
                self.entries.remove(&ancient).map(|owned| owned.fields.into_set()).unwrap_or_default();
            fields.into_iter().for_each(|owned| all.add(owned.fields.into_set()));
            self.set(ancient, all, time);
            count -= 1;
        }
    }
}

fn take_entry(mut entry: Value) -> Option<(Manager, Owned)> {
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
    let time = entry.str_at("time").and_then(time::parse);
    let fields = match entry.remove("fieldsV1") {
        None | Some(Value::Null) => Map::new(),
        Some(Value::Object(fields)) => fields,
        Some(_) => return None,
    };
    let api_version = manager.api_version.clone();
    Some((manager, Owned { fields: Fields::Stored(fields), time, api_version }))
}

fn write_entry(manager: Manager, owned: Owned) -> Value {
    let mut entry = Map::with_capacity(7);
    entry.insert("manager".to_owned(), manager.name.into());
    entry.insert("operation".to_owned(), manager.operation.as_str().into());
    entry.insert("apiVersion".to_owned(), owned.api_version.into());
    if let Some(time) = owned.time {
        entry.insert("time".to_owned(), time::format(time).into());
    }
    entry.insert("fieldsType".to_owned(), "FieldsV1".into());
    entry.insert("fieldsV1".to_owned(), owned.fields.into_json());
    if !manager.subresource.is_empty() {
        entry.insert("subresource".to_owned(), manager.subresource.into());
    }
    Value::Object(entry)
}
