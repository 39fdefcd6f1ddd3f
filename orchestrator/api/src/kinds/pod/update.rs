//! Validation of what an update may change in a pod: little, for its containers run already.

use crate::field::{ErrorList, Path};
use crate::kinds::checks;
use crate::kinds::view::View;
use crate::names;
use crate::object::{Json, Object, Value};

const MUTABLE: &str = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";
/// Differences that an error lists; enough to see what is meant, few enough to read.
const DIFFERENCES_SHOWN_MAX: usize = 8;
/// Characters of a value that an error shows.
const VALUE_SHOWN_MAX: usize = 80;

/// Validates the transition of a pod's spec.
pub(crate) fn validate(errors: &mut ErrorList, new: &Object, old: &Object) {
    let (after, before) = (View::root(new.value()), View::root(old.value()));
    let (spec, old_spec) = (after.get("spec"), before.get("spec"));
    let mut counted = true;
    for list in ["containers", "initContainers"] {
        let (list, old_list) = (spec.get(list), old_spec.get(list));
        if list.len() != old_list.len() {
            errors.forbidden(list.path(), "pod updates may not add or remove containers");
            counted = false;
        }
    }
    if !counted {
        return;
    }
    deadline(errors, &spec.get("activeDeadlineSeconds"), &old_spec.get("activeDeadlineSeconds"));
    gates(errors, &spec.get("schedulingGates"), &old_spec.get("schedulingGates"));
    if !tolerations_only_added(&spec.get("tolerations"), &old_spec.get("tolerations")) {
        errors.forbidden(
            spec.get("tolerations").path(),
            "existing toleration can not be modified except its tolerationSeconds",
        );
        return;
    }
    unchanged(errors, &spec, &old_spec);
}

fn deadline(errors: &mut ErrorList, new: &View<'_, '_>, old: &View<'_, '_>) {
    match (new.int(), old.int()) {
        (None, Some(_)) => {
            errors.invalid(new.path(), Value::Null, "must not update from a positive integer to nil value")
        }
        (Some(new_value), Some(old_value)) if new_value > old_value => {
            errors.invalid(new.path(), new_value, "must be less than or equal to previous value");
        }
        _ => checks::within(errors, new, 0, checks::INT32_MAX),
    }
}

fn gates(errors: &mut ErrorList, new: &View<'_, '_>, old: &View<'_, '_>) {
    for gate in new.items() {
        let name = gate.get("name").text();
        if !old.items().any(|old| old.get("name").is(name)) {
            let detail = format!("only deletion is allowed, but found new scheduling gate '{name}'");
            errors.forbidden(new.path(), detail);
        }
    }
}

fn tolerations_only_added(new: &View<'_, '_>, old: &View<'_, '_>) -> bool {
    let key = |toleration: &View<'_, '_>| {
        ["key", "operator", "value", "effect"].map(|field| toleration.get(field).text().to_owned())
    };
    old.items().all(|old| new.items().any(|new| key(&new) == key(&old)))
}

/// Puts back what may change, and compares the rest.
fn unchanged(errors: &mut ErrorList, spec: &View<'_, '_>, old_spec: &View<'_, '_>) {
    let (mut new, old) = (spec.copy(), old_spec.copy());
    for list in ["containers", "initContainers"] {
        for (container, old) in new.list_at_mut(list).iter_mut().zip(old.list_at(list)) {
            restore(container, old, "image");
        }
    }
    for field in ["activeDeadlineSeconds", "tolerations", "schedulingGates"] {
        restore(&mut new, &old, field);
    }
    let was_negative = old.i64_at("terminationGracePeriodSeconds").is_some_and(|seconds| seconds < 0);
    if was_negative && new.i64_at("terminationGracePeriodSeconds") == Some(1) {
        restore(&mut new, &old, "terminationGracePeriodSeconds");
    }
    if !old.list_at("schedulingGates").is_empty() && selector_only_grows(&new, &old) {
        restore(&mut new, &old, "nodeSelector");
    }
    let mut differences = Vec::new();
    compare(&Path::new("spec"), Some(&new), Some(&old), &mut differences);
    if !differences.is_empty() {
        let more = differences.len().saturating_sub(DIFFERENCES_SHOWN_MAX);
        differences.truncate(DIFFERENCES_SHOWN_MAX);
        if more > 0 {
            differences.push(format!("  and {more} more"));
        }
        errors.forbidden(spec.path(), format!("{MUTABLE}\n{}\n", differences.join("\n")));
    }
}

fn selector_only_grows(new: &Value, old: &Value) -> bool {
    let old_selector = old.map_at("nodeSelector");
    old_selector
        .into_iter()
        .flatten()
        .all(|(key, value)| new.map_at("nodeSelector").and_then(|selector| selector.get(key)) == Some(value))
}

fn restore(new: &mut Value, old: &Value, field: &str) {
    match old.get(field) {
        Some(value) => new.set(field, value.clone()),
        None => drop(new.remove(field)),
    }
}

/// Nothing, null, an empty list and an empty map are the same to a client that writes Go structs.
fn is_nothing(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null) => true,
        Some(Value::Array(items)) => items.is_empty(),
        Some(Value::Object(fields)) => fields.is_empty(),
        Some(_) => false,
    }
}

/// Lists the innermost places at which two trees differ.
fn compare(path: &Path<'_>, new: Option<&Value>, old: Option<&Value>, found: &mut Vec<String>) {
    match (new, old) {
        _ if new == old || (is_nothing(new) && is_nothing(old)) => {}
        (Some(Value::Object(new)), Some(Value::Object(old))) => {
            let added = new.keys().filter(|key| !old.contains_key(*key));
            for key in old.keys().chain(added) {
                compare(&path.child(key), new.get(key), old.get(key), found);
            }
        }
        (Some(Value::Array(new)), Some(Value::Array(old))) => {
            for index in 0..new.len().max(old.len()) {
                compare(&path.index(index), new.get(index), old.get(index), found);
            }
        }
        _ => found.push(format!("  {path}: {} -> {}", shown(old), shown(new))),
    }
}

fn shown(value: Option<&Value>) -> String {
    let text = value.map_or_else(|| "nothing".to_owned(), Value::to_string);
    match text.char_indices().nth(VALUE_SHOWN_MAX) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

/// Validates the transition of a pod's status.
pub(crate) fn validate_status(errors: &mut ErrorList, new: &Object, old: &Object) {
    let (after, before) = (View::root(new.value()), View::root(old.value()));
    let (status, old_status) = (after.get("status"), before.get("status"));
    if new.text("spec.nodeName") != old.text("spec.nodeName") {
        errors.forbidden(&Path::new("status.nodeName"), "may not be changed directly");
    }
    checks::named_if_set(errors, &status.get("nominatedNodeName"), names::dns1123_subdomain);
    for condition in status.get("conditions").items().filter(|condition| !condition.get("type").is_empty()) {
        checks::named(errors, &condition.get("type"), names::qualified_name);
    }
    for ip in status.get("podIPs").items() {
        checks::named(errors, &ip.get("ip"), names::ip);
    }
    let policy = old.text("spec.restartPolicy");
    let lists = [
        ("containerStatuses", policy),
        ("initContainerStatuses", policy),
        // A debugger is started once.
        ("ephemeralContainerStatuses", "Never"),
    ];
    for (list, policy) in lists.into_iter().filter(|(_, policy)| *policy != "Always") {
        ended_stays_ended(errors, &status.get(list), &old_status.get(list), old, policy);
    }
}

/// A container that has ended for good is not reported as running again.
fn ended_stays_ended(
    errors: &mut ErrorList,
    new: &View<'_, '_>,
    old: &View<'_, '_>,
    pod: &Object,
    policy: &str,
) {
    for old_status in old.items() {
        let name = old_status.get("name").text();
        let terminated = old_status.get("state").get("terminated").raw();
        let failed = terminated.is_some_and(|state| state.i64_at("exitCode").unwrap_or(0) != 0);
        let sidecar = pod
            .list_at("spec.initContainers")
            .iter()
            .any(|container| container.text("name") == name && container.text("restartPolicy") == "Always");
        if terminated.is_none() || sidecar || (failed && policy == "OnFailure") {
            continue;
        }
        for status in new.items().filter(|status| status.get("name").is(name)) {
            let state = status.get("state");
            if !state.get("terminated").exists() {
                errors.forbidden(state.path(), "may not be transitioned to non-terminated state");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(spec: Value) -> Object {
        Object::from_value(json!({ "spec": spec })).unwrap()
    }

    fn check(old: Value, new: Value, expected: &[&str], why: &str) {
        let mut errors = ErrorList::new();
        validate(&mut errors, &pod(new), &pod(old));
        let printed: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(printed, expected, "{why}");
    }

    #[test]
    fn updates() {
        let base = json!({"containers": [{"name": "a", "image": "e:1"}], "nodeName": "n"});
        check(
            base.clone(),
            json!({"containers": [{"name": "a", "image": "e:2", "ports": []}], "nodeName": "n", "activeDeadlineSeconds": 5, "tolerations": [{"operator": "Exists"}]}),
            &[],
            "image, deadline, a new toleration; an empty list is nothing",
        );
        check(
            base.clone(),
            json!({"containers": [{"name": "a", "image": "e:1"}], "nodeName": "m"}),
            &[&format!("spec: Forbidden: {MUTABLE}\n  spec.nodeName: \"n\" -> \"m\"\n")],
            "a pod does not move",
        );
        check(
            base.clone(),
            json!({"containers": [], "nodeName": "n"}),
            &["spec.containers: Forbidden: pod updates may not add or remove containers"],
            "containers stay",
        );
        check(
            json!({"containers": [{"name": "a", "image": "e:1"}], "tolerations": [{"key": "k", "operator": "Exists"}]}),
            json!({"containers": [{"name": "a", "image": "e:1"}], "tolerations": [{"key": "k", "operator": "Equal"}]}),
            &[
                "spec.tolerations: Forbidden: existing toleration can not be modified except its tolerationSeconds",
            ],
            "what is tolerated stays tolerated",
        );
        check(
            json!({"containers": [{"name": "a", "image": "e:1"}], "activeDeadlineSeconds": 5}),
            json!({"containers": [{"name": "a", "image": "e:1"}], "activeDeadlineSeconds": 6}),
            &["spec.activeDeadlineSeconds: Invalid value: 6: must be less than or equal to previous value"],
            "a deadline only comes nearer",
        );
        check(
            base,
            json!({"containers": [{"name": "a", "image": "e:1"}], "nodeName": "n", "schedulingGates": [{"name": "x/y"}]}),
            &[
                "spec.schedulingGates: Forbidden: only deletion is allowed, but found new scheduling gate 'x/y'",
            ],
            "gates only open",
        );
    }

    #[test]
    fn long_differences_are_cut() {
        let many = |value: &str| -> Value {
            (0..20).map(|i| (format!("f{i}"), Value::from(value.repeat(50)))).collect()
        };
        let mut found = Vec::new();
        compare(&Path::new("spec"), Some(&many("ab")), Some(&many("cd")), &mut found);
        assert_eq!(found.len(), 20);
        assert!(found[0].len() < 200);
        let mut errors = ErrorList::new();
        validate(&mut errors, &pod(many("ab")), &pod(many("cd")));
        assert!(errors.to_string().contains("and 12 more"));
    }

    #[test]
    fn an_ended_container_stays_ended() {
        let status = |state: Value| {
            Object::from_value(json!({"spec": {"restartPolicy": "Never"}, "status": {"containerStatuses": [{"name": "a", "state": state}]}})).unwrap()
        };
        let mut errors = ErrorList::new();
        validate_status(
            &mut errors,
            &status(json!({"running": {}})),
            &status(json!({"terminated": {"exitCode": 1}})),
        );
        assert_eq!(
            errors.to_string(),
            "status.containerStatuses[0].state: Forbidden: may not be transitioned to non-terminated state"
        );
    }
}
