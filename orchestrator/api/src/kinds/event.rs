//! Events: one storage, two versions of it, `v1` (in which they are kept) and `events.k8s.io/v1`.

use super::checks::{required, required_name};
use super::view::View;
use crate::field::{ErrorList, Path};
use crate::kind::{Kind, SelectableField, StorageClass};
use crate::names::{self, Problems};
use crate::object::{Json, Map, Object, Value};
use crate::printing;
use crate::strategy::{Cell, Strategy};
use crate::time::Time;

const NOTE_CHARACTERS_MAX: usize = 1_024;
const WORD_CHARACTERS_MAX: usize = 128;
/// Field names of `events.k8s.io/v1` and of `v1`, where they differ.
const RENAMED: [(&str, &str); 7] = [
    ("regarding", "involvedObject"),
    ("note", "message"),
    ("reportingController", "reportingComponent"),
    ("deprecatedSource", "source"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedCount", "count"),
];
const OBJECT_FIELDS: [(&str, &str); 7] = [
    ("involvedObject.kind", "regarding.kind"),
    ("involvedObject.namespace", "regarding.namespace"),
    ("involvedObject.name", "regarding.name"),
    ("involvedObject.uid", "regarding.uid"),
    ("involvedObject.apiVersion", "regarding.apiVersion"),
    ("involvedObject.resourceVersion", "regarding.resourceVersion"),
    ("involvedObject.fieldPath", "regarding.fieldPath"),
];

/// The strategy of one of the two versions.
struct Events {
    renamed: bool,
}

/// `v1 Event`.
pub(crate) fn core_kind() -> Kind {
    let fields = OBJECT_FIELDS.iter().map(|(core, _)| SelectableField::new(core));
    let common = [
        SelectableField::new("reason"),
        SelectableField::new("reportingComponent"),
        SelectableField::from_paths("source", &["source.component", "reportingComponent"]),
        SelectableField::new("type"),
    ];
    Kind::new("", "v1", "Event", "events")
        .short_names(&["ev"])
        .columns(printing::event::columns())
        .selectable(fields.chain(common))
        .stored(StorageClass::Event)
        .strategy(Events { renamed: false })
}

/// `events.k8s.io/v1 Event`. Field selectors read either shape, so that they work before and after conversion.
pub(crate) fn events_kind() -> Kind {
    let fields = OBJECT_FIELDS.iter().map(|(core, new)| SelectableField::from_paths(new, &[core, new]));
    let common = [
        SelectableField::new("reason"),
        SelectableField::from_paths("reportingController", &["reportingComponent", "reportingController"]),
        SelectableField::new("type"),
    ];
    Kind::new("events.k8s.io", "v1", "Event", "events")
        .short_names(&["ev"])
        .columns(printing::event::columns())
        .selectable(fields.chain(common))
        .stored(StorageClass::Event)
        .view_of("", "events")
        .strategy(Events { renamed: true })
}

impl Events {
    /// The name of a field in this version.
    fn field(&self, core: &'static str) -> &'static str {
        let own = RENAMED.iter().find(|(_, name)| self.renamed && *name == core);
        own.map_or(core, |(name, _)| name)
    }
}

fn rename(object: &mut Object, names: impl Iterator<Item = (&'static str, &'static str)>) {
    let names: Vec<_> = names.collect();
    let fields = std::mem::take(object.fields_mut());
    let renamed =
        fields.into_iter().map(|(field, value)| match names.iter().find(|(from, _)| *from == field) {
            Some((_, to)) => ((*to).to_owned(), value),
            None => (field, value),
        });
    *object.fields_mut() = renamed.collect::<Map>();
}

impl Strategy for Events {
    fn default(&self, object: &mut Object) {
        if !self.renamed {
            object.set_default("source", || Value::Object(Map::new()));
        }
    }

    fn validate_name(&self, name: &str) -> Problems {
        names::path_segment(name)
    }

    fn validate(&self, object: &Object) -> ErrorList {
        let mut errors = ErrorList::new();
        let root = View::root(object.value());
        object_namespace(&mut errors, self, &root);
        let new_style = root.get("eventTime").exists();
        if self.renamed && !new_style {
            errors.required(&Path::new("eventTime"), "");
        }
        if new_style {
            self.words(&mut errors, &root);
        }
        if self.renamed && !matches!(root.get("type").text(), "Normal" | "Warning") {
            errors.invalid(&Path::new("type"), "", format!("has invalid value: {}", root.get("type").text()));
        }
        errors
    }

    /// Updates of `v1` events come from recorders that count; they are as free as creates were when they were designed.
    fn validate_update(&self, new: &Object, old: &Object) -> ErrorList {
        let mut errors = ErrorList::new();
        if !self.renamed {
            return errors;
        }
        let (new, old) = (View::root(new.value()), View::root(old.value()));
        let mut fixed = vec!["eventTime", "action", "reason", "type", "related", "reportingInstance"];
        fixed.extend(["involvedObject", "reportingComponent", "message"].map(|field| self.field(field)));
        for field in fixed {
            super::checks::immutable(&mut errors, &new.get(field), &old.get(field));
        }
        errors
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }

    fn to_stored(&self, object: &mut Object) {
        if self.renamed {
            rename(object, RENAMED.into_iter());
            object.set("apiVersion", "v1");
        }
    }

    fn from_stored(&self, object: &mut Object) {
        if self.renamed {
            rename(object, RENAMED.into_iter().map(|(new, core)| (core, new)));
            object.set("apiVersion", "events.k8s.io/v1");
        }
    }

    fn table_row(&self, object: &Object, now: Time) -> Vec<Cell> {
        if !self.renamed || object.has("involvedObject") {
            return printing::event::row(&View::root(object.value()), now);
        }
        let mut stored = object.clone();
        self.to_stored(&mut stored);
        printing::event::row(&View::root(stored.value()), now)
    }
}

/// An event lives where its object lives; those of cluster-wide objects live in `default` or, if new, `kube-system`.
fn object_namespace(errors: &mut ErrorList, events: &Events, root: &View<'_, '_>) {
    let metadata = root.get("metadata");
    let own = metadata.get("namespace").text();
    let involved = root.get(events.field("involvedObject"));
    let namespace = involved.get("namespace");
    let fits = match namespace.text() {
        "" if root.get("eventTime").exists() => matches!(own, "" | "default" | "kube-system"),
        "" => matches!(own, "" | "default"),
        other => root.get("eventTime").exists() || own == other,
    };
    if !fits {
        let path = Path::new("involvedObject.namespace");
        errors.invalid(&path, namespace.text(), "does not match event.namespace");
    }
}

impl Events {
    fn words(&self, errors: &mut ErrorList, root: &View<'_, '_>) {
        required_name(errors, &root.get(self.field("reportingComponent")), names::qualified_name);
        for field in ["reportingInstance", "action", "reason"] {
            let field = root.get(field);
            if required(errors, &field, "") && field.text().chars().count() > WORD_CHARACTERS_MAX {
                let detail = format!("can have at most {WORD_CHARACTERS_MAX} characters");
                errors.invalid(field.path(), "", detail);
            }
        }
        let note = root.get(self.field("message"));
        if note.text().chars().count() > NOTE_CHARACTERS_MAX {
            errors.invalid(note.path(), "", format!("can have at most {NOTE_CHARACTERS_MAX} characters"));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const CORE: Events = Events { renamed: false };
    const NEW: Events = Events { renamed: true };

    fn object(value: Value) -> Object {
        Object::from_value(value).unwrap()
    }

    fn check(events: &Events, event: Value, expected: &[&str], why: &str) {
        let printed: Vec<String> = events.validate(&object(event)).iter().map(ToString::to_string).collect();
        assert_eq!(printed, expected, "{why}");
    }

    #[test]
    fn events() {
        check(
            &CORE,
            json!({"metadata": {"namespace": "shop"}, "involvedObject": {"kind": "Pod", "namespace": "shop", "name": "web"}, "reason": "Pulled"}),
            &[],
            "the usual",
        );
        check(
            &CORE,
            json!({"metadata": {"namespace": "default"}, "involvedObject": {"kind": "Node", "name": "n"}}),
            &[],
            "of a node",
        );
        check(
            &CORE,
            json!({"metadata": {"namespace": "shop"}, "involvedObject": {"kind": "Pod", "namespace": "other"}}),
            &["involvedObject.namespace: Invalid value: \"other\": does not match event.namespace"],
            "of a pod elsewhere",
        );
        check(
            &CORE,
            json!({"metadata": {"namespace": "shop"}, "involvedObject": {"namespace": "shop"}, "eventTime": "2026-01-01T00:00:00.000000Z"}),
            &[
                "reportingComponent: Required value",
                "reportingInstance: Required value",
                "action: Required value",
                "reason: Required value",
            ],
            "a new one says who did what and why",
        );
        check(
            &NEW,
            json!({"metadata": {"namespace": "shop"}, "regarding": {"namespace": "shop"}, "type": "Odd"}),
            &["eventTime: Required value", "type: Invalid value: \"\": has invalid value: Odd"],
            "the new version asks for the time",
        );
    }

    #[test]
    fn both_versions_are_one_object() {
        let new = object(
            json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "a"}, "note": "hello",
            "regarding": {"kind": "Pod"}, "reportingController": "c", "deprecatedCount": 3}),
        );
        let mut stored = new.clone();
        NEW.to_stored(&mut stored);
        assert_eq!(
            stored.value(),
            &json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": "a"}, "message": "hello",
                "involvedObject": {"kind": "Pod"}, "reportingComponent": "c", "count": 3})
        );
        let kind = events_kind();
        assert_eq!(kind.selectable_value(&stored, "regarding.kind").unwrap(), "Pod");
        assert_eq!(kind.selectable_value(&new, "regarding.kind").unwrap(), "Pod");
        NEW.from_stored(&mut stored);
        assert_eq!(stored, new);
    }

    #[test]
    fn source_falls_back_on_the_reporter() {
        let event = object(json!({"source": {}, "reportingComponent": "scheduler"}));
        assert_eq!(core_kind().selectable_value(&event, "source").unwrap(), "scheduler");
    }
}
