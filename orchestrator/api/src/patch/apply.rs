//! Server-side apply: a manager says which fields it wants to have which values, the server merges that into the
//! object, takes away what the manager no longer wants and nobody else owns, and refuses to overrule others unasked.
use crate::decode::{self, Format, Target};
use crate::managed_fields::diff::Diff;
use crate::managed_fields::managers::{Manager, Managers, Operation};
use crate::managed_fields::set::{Element, FieldSet, display_path};
use crate::managed_fields::typed::{fields_of, merge, remove, with_declared_parents};
use crate::managed_fields::{Writer, first_manager, unowned};
use crate::object::{Json, Map, Object, Value};
use crate::schema::Node;
use crate::status::{ApiError, Cause};

/// Where `kubectl apply` without `--server-side` keeps what it applied.
pub const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// The manager that `kubectl apply --server-side` is by default: only it takes over from client-side apply.
const KUBECTL: &str = "kubectl";
/// The manager of what an object had before anybody was tracked.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";

/// Applies `config` to `live` (`None`: it does not exist yet). The result has managed fields, but is neither
/// normalised nor defaulted: run [`decode::check`] and the defaults on it before it is validated.
///
/// `reset` are the fields that this way of writing cannot set, e.g. `status` on the main resource.
pub fn apply(
    node: Node<'_>,
    live: Option<&Object>,
    config: &Object,
    writer: &Writer<'_>,
    reset: &FieldSet,
    force: bool,
) -> Result<Object, ApiError> {
    if config.meta().get("managedFields").is_some() {
        return Err(ApiError::bad_request("metadata.managedFields must be nil"));
    }
    let blank = Object::new(config.api_version(), config.kind());
    let mut base = live.unwrap_or(&blank).clone();
    let mut managers = Managers::read(&base).ok_or_else(|| {
        ApiError::bad_request("failed to decode managed fields: metadata.managedFields is malformed")
    })?;
    base.meta_mut().remove("managedFields");
    if managers.is_empty() && live.is_some() {
        let before = Writer { name: BEFORE_FIRST_APPLY, ..*writer };
        managers = first_manager(node, &base, &before);
    }
    let merge = Merge { node, base: &base, config, writer, reset };
    let outcome = match merge.run(managers.clone(), force) {
        Err(Failure::Conflicts(conflicts)) if writer.name == KUBECTL => merge.take_over(managers, conflicts),
        outcome => outcome,
    };
    let (mut object, managers) = outcome.map_err(ApiError::from)?;
    if writer.name == KUBECTL && object.meta().annotation(LAST_APPLIED).is_some_and(|text| !text.is_empty()) {
        object.meta_mut().set_annotation(LAST_APPLIED, &last_applied(config));
    }
    managers.write(&mut object);
    Ok(object)
}

/// The fields that a write to `subresource` cannot set.
pub fn reset_fields(has_status: bool, subresource: &str) -> FieldSet {
    let mut reset = FieldSet::default();
    match subresource {
        "" if has_status => reset.insert(&["status".into()]),
        "status" => reset.insert(&["spec".into()]),
        _ => {}
    }
    reset
}

/// One apply in the making.
struct Merge<'m> {
    node: Node<'m>,
    /// The live object without managed fields.
    base: &'m Object,
    config: &'m Object,
    writer: &'m Writer<'m>,
    reset: &'m FieldSet,
}

/// Fields of other managers that an apply would change.
type Conflicts = Vec<(Manager, FieldSet)>;

enum Failure {
    Conflicts(Conflicts),
    Malformed(String),
}

impl Merge<'_> {
    fn run(&self, mut managers: Managers, force: bool) -> Result<(Object, Managers), Failure> {
        let manager = self.writer.manager(Operation::Apply);
        let merged = merge(self.node, self.base.value(), self.config.value())
            .map_err(|error| Failure::Malformed(format!("failed to create typed patch object: {error}")))?;
        let mut wanted = fields_of(self.node, self.config.value());
        wanted.subtract_trees(self.reset);
        let last = managers.get(&manager).map(|(fields, version, time)| (fields, version.to_owned(), time));
        managers.set(manager.clone(), wanted.clone(), None);
        let object = match &last {
            Some((fields, version, _)) if version == self.writer.api_version => {
                self.prune(merged, &managers, fields)
            }
            _ => merged,
        };
        let diff = Diff::with_opened(self.node, self.base.value(), &object);
        let unchanged = diff.is_empty();
        let opened = diff.opened.clone();
        let (mut changed, removed) = diff.into_changed_and_removed();
        changed.subtract_trees(self.reset);
        let mut disputed = changed.clone();
        disputed.subtract(&opened);
        let conflicts = self.conflicts(&manager, &managers, &disputed);
        if !force && !conflicts.is_empty() {
            return Err(Failure::Conflicts(conflicts));
        }
        managers.take_away(&manager, &changed, &removed);
        wanted.subtract(unowned());
        let time = match last {
            Some((fields, _, time)) if unchanged && fields == wanted => time,
            _ => Some(self.writer.now),
        };
        managers.set(manager, wanted, time);
        let object = Object::from_value(object)
            .map_err(|_| Failure::Malformed("the applied configuration is no object".to_owned()))?;
        Ok((object, managers))
    }

    fn conflicts(&self, manager: &Manager, managers: &Managers, disputed: &FieldSet) -> Conflicts {
        let others = managers
            .iter()
            .filter(|(other, _, version)| *other != manager && *version == self.writer.api_version);
        let conflicts = others.map(|(other, fields, _)| (other.clone(), fields.intersection(disputed)));
        conflicts.filter(|(_, fields)| !fields.is_empty()).collect()
    }

    /// Takes out what the manager applied last time and neither wants any more nor shares with another manager.
    fn prune(&self, merged: Value, managers: &Managers, last: &FieldSet) -> Value {
        let node = self.node;
        let parents = |set: &FieldSet| with_declared_parents(node, set);
        let last = parents(last);
        let pruned = remove(node, merged.clone(), &last);
        let all = parents(&fields_of(node, &merged));
        // Back comes what somebody owns, the manager's new configuration included.
        let mut kept = parents(&fields_of(node, &pruned));
        for (_, fields, _) in managers.iter() {
            kept.add(parents(&fields));
        }
        let mut gone = all.clone();
        gone.subtract(&kept);
        let pruned = remove(node, merged.clone(), &gone);
        // And what the manager never owned, but lost because of what was around it.
        let mut lost = all;
        lost.subtract(&parents(&fields_of(node, &pruned)));
        remove(node, merged, &lost.intersection(&last))
    }

    /// What `kubectl` applied from the client's side before is its own: conflicts about that are none.
    fn take_over(&self, managers: Managers, conflicts: Conflicts) -> Result<(Object, Managers), Failure> {
        let own = self.applied_before();
        let left: Conflicts = conflicts
            .into_iter()
            .map(|(manager, mut fields)| {
                fields.subtract(&own);
                (manager, fields)
            })
            .filter(|(_, fields)| !fields.is_empty())
            .collect();
        match left.is_empty() {
            true => self.run(managers, true),
            false => Err(Failure::Conflicts(left)),
        }
    }

    /// The fields of the last client-side apply that still have the values it gave them.
    fn applied_before(&self) -> FieldSet {
        let Some(text) = self.base.meta().annotation(LAST_APPLIED) else { return FieldSet::default() };
        let (group, version) = crate::kind::split_group_version(self.base.api_version());
        let target = Target::new(group, version, self.base.kind());
        let validation = decode::FieldValidation::Ignore;
        let Ok(applied) = decode::decode(text.as_bytes(), Format::Json, &target, validation) else {
            return FieldSet::default();
        };
        let mut fields = fields_of(self.node, applied.object.value());
        let diff = Diff::between(self.node, applied.object.value(), self.base.value());
        fields.subtract(&diff.modified);
        fields.subtract(&diff.added);
        fields.subtract(&diff.removed);
        fields
    }
}

/// The configuration as client-side apply would have noted it, so that going back to it works.
fn last_applied(config: &Object) -> String {
    let mut config = config.value().clone();
    if let Some(annotations) = config.map_at_mut("metadata.annotations") {
        annotations.shift_remove(LAST_APPLIED);
    }
    let empty = Value::Object(Map::new());
    config.set_default("metadata.annotations", || empty);
    format!("{config}\n")
}

impl From<Failure> for ApiError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Malformed(message) => ApiError::bad_request(message),
            Failure::Conflicts(conflicts) => conflict_error(&conflicts),
        }
    }
}

fn conflict_error(conflicts: &Conflicts) -> ApiError {
    let all: Vec<(&Manager, Vec<&Element>)> = conflicts
        .iter()
        .flat_map(|(manager, fields)| fields.paths().into_iter().map(move |path| (manager, path)))
        .collect();
    let causes = all.iter().map(|(manager, path)| Cause {
        reason: "FieldManagerConflict".to_owned(),
        message: format!("conflict with {manager}"),
        field: display_path(path),
    });
    let message = match all.as_slice() {
        [(manager, path)] => {
            format!("Apply failed with 1 conflict: conflict with {manager}: {}", display_path(path))
        }
        many => {
            let lines = conflicts.iter().flat_map(|(manager, fields)| {
                let paths = fields.paths();
                let paths: Vec<_> = paths.iter().map(|path| format!("- {}", display_path(path))).collect();
                std::iter::once(format!("conflicts with {manager}:")).chain(paths)
            });
            format!("Apply failed with {} conflicts: {}", many.len(), lines.collect::<Vec<_>>().join("\n"))
        }
    };
    ApiError::apply_conflict(message, causes.collect())
}

#[cfg(test)]
mod tests;
