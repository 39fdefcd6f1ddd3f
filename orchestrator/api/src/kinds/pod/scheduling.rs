//! Validation of what tells the scheduler where a pod may run: selectors, affinity, tolerations, spreading, gates.

use std::collections::BTreeSet;

use crate::field::ErrorList;
use crate::kinds::checks::{self, named, required, required_one_of};
use crate::kinds::node::TAINT_EFFECTS;
use crate::kinds::view::View;
use crate::names;

/// Validates the scheduling fields of a pod spec.
pub(crate) fn validate(errors: &mut ErrorList, spec: &View<'_, '_>) {
    checks::labels(errors, &spec.get("nodeSelector"));
    affinity(errors, &spec.get("affinity"));
    for toleration in spec.get("tolerations").items() {
        validate_toleration(errors, &toleration);
    }
    spreading(errors, &spec.get("topologySpreadConstraints"));
    gates(errors, spec);
}

fn affinity(errors: &mut ErrorList, affinity: &View<'_, '_>) {
    let node = affinity.get("nodeAffinity");
    let wanted = node.get("requiredDuringSchedulingIgnoredDuringExecution");
    if wanted.exists() {
        let terms = wanted.get("nodeSelectorTerms");
        required(errors, &terms, "must have at least one node selector term");
        for term in terms.items() {
            node_term(errors, &term);
        }
    }
    for preferred in node.get("preferredDuringSchedulingIgnoredDuringExecution").items() {
        weight(errors, &preferred.get("weight"));
        node_term(errors, &preferred.get("preference"));
    }
    for kind in ["podAffinity", "podAntiAffinity"] {
        let pods = affinity.get(kind);
        for term in pods.get("requiredDuringSchedulingIgnoredDuringExecution").items() {
            pod_term(errors, &term);
        }
        for preferred in pods.get("preferredDuringSchedulingIgnoredDuringExecution").items() {
            weight(errors, &preferred.get("weight"));
            pod_term(errors, &preferred.get("podAffinityTerm"));
        }
    }
}

fn weight(errors: &mut ErrorList, weight: &View<'_, '_>) {
    let value = weight.int().unwrap_or(0);
    if !(1..=100).contains(&value) {
        errors.invalid(weight.path(), value, "must be in the range 1-100");
    }
}

fn node_term(errors: &mut ErrorList, term: &View<'_, '_>) {
    for requirement in term.get("matchExpressions").items() {
        node_requirement(errors, &requirement);
        named(errors, &requirement.get("key"), names::qualified_name);
    }
    for requirement in term.get("matchFields").items() {
        let (key, operator, values) =
            (requirement.get("key"), requirement.get("operator"), requirement.get("values"));
        if !matches!(operator.text(), "In" | "NotIn") {
            errors.invalid(operator.path(), operator.text(), "not a valid selector operator");
        } else if values.len() != 1 {
            errors.required(
                values.path(),
                "must be only one value when `operator` is 'In' or 'NotIn' for node field selector",
            );
        }
        if !key.is("metadata.name") {
            errors.invalid(key.path(), key.text(), "not a valid field selector key");
        }
    }
}

fn node_requirement(errors: &mut ErrorList, requirement: &View<'_, '_>) {
    let (operator, values) = (requirement.get("operator"), requirement.get("values"));
    match operator.text() {
        "In" | "NotIn" if values.is_empty() => {
            errors.required(values.path(), "must be specified when `operator` is 'In' or 'NotIn'");
        }
        "Exists" | "DoesNotExist" if !values.is_empty() => errors
            .forbidden(values.path(), "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"),
        "Gt" | "Lt" if values.len() != 1 => {
            errors.required(values.path(), "must be specified single value when `operator` is 'Lt' or 'Gt'")
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
        other => errors.invalid(operator.path(), other, "not a valid selector operator"),
    }
}

fn pod_term(errors: &mut ErrorList, term: &View<'_, '_>) {
    checks::label_selector(errors, &term.get("labelSelector"));
    checks::label_selector(errors, &term.get("namespaceSelector"));
    for namespace in term.get("namespaces").items() {
        named(errors, &namespace, names::dns1123_label);
    }
    let key = term.get("topologyKey");
    if required(errors, &key, "can not be empty") {
        named(errors, &key, names::qualified_name);
    }
}

fn validate_toleration(errors: &mut ErrorList, toleration: &View<'_, '_>) {
    let (key, operator, value, effect) = (
        toleration.get("key"),
        toleration.get("operator"),
        toleration.get("value"),
        toleration.get("effect"),
    );
    checks::named_if_set(errors, &key, names::qualified_name);
    if key.is_empty() && !operator.is("Exists") {
        errors.invalid(
            operator.path(),
            operator.text(),
            "operator must be Exists when `key` is empty, which means \"match all values and all keys\"",
        );
    }
    if toleration.get("tolerationSeconds").exists() && !effect.is("NoExecute") {
        errors.invalid(
            effect.path(),
            effect.text(),
            "effect must be 'NoExecute' when `tolerationSeconds` is set",
        );
    }
    match operator.text() {
        "" | "Equal" => {
            let problems = names::label_value(value.text());
            if !problems.is_empty() {
                errors.invalid(operator.path(), value.text(), problems.join(";"));
            }
        }
        "Exists" if !value.is_empty() => errors.invalid(
            operator.path(),
            toleration.copy(),
            "value must be empty when `operator` is 'Exists'",
        ),
        "Exists" => {}
        other => errors.not_supported(operator.path(), other, &["Equal", "Exists"]),
    }
    if !effect.is_empty() {
        checks::one_of(errors, &effect, &TAINT_EFFECTS);
    }
}

fn spreading(errors: &mut ErrorList, constraints: &View<'_, '_>) {
    let mut seen = BTreeSet::new();
    for constraint in constraints.items() {
        let (skew, domains) = (constraint.get("maxSkew"), constraint.get("minDomains"));
        for (bound, value) in [(&skew, skew.int().unwrap_or(0)), (&domains, domains.int().unwrap_or(1))] {
            if value <= 0 {
                errors.invalid(bound.path(), value, "must be greater than zero");
            }
        }
        let (key, action) = (constraint.get("topologyKey"), constraint.get("whenUnsatisfiable"));
        if required(errors, &key, "can not be empty") {
            named(errors, &key, names::qualified_name);
        }
        required_one_of(errors, &action, &["DoNotSchedule", "ScheduleAnyway"]);
        if !seen.insert((key.text(), action.text())) {
            let pair = format!("{{{}, {}}}", key.text(), action.text());
            errors.duplicate(&constraint.path().child("{topologyKey, whenUnsatisfiable}"), pair);
        }
        for policy in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            checks::one_of(errors, &constraint.get(policy), &["Honor", "Ignore"]);
        }
        checks::label_selector(errors, &constraint.get("labelSelector"));
    }
}

fn gates(errors: &mut ErrorList, spec: &View<'_, '_>) {
    let mut seen = BTreeSet::new();
    for gate in spec.get("schedulingGates").items() {
        let name = gate.get("name");
        named(errors, &name, names::qualified_name);
        if !seen.insert(name.text()) {
            errors.duplicate(gate.path(), name.text());
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::kinds::checks::tests::expect;

    fn check(spec: Value, expected: &[&str], why: &str) {
        expect(&spec, validate, expected, why);
    }

    #[test]
    fn tolerations() {
        check(
            json!({"tolerations": [{"operator": "Exists"}, {"key": "a", "value": "b"}, {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}]}),
            &[],
            "all, one, and the default one",
        );
        check(
            json!({"tolerations": [{"value": "x"}]}),
            &[
                "tolerations[0].operator: Invalid value: \"\": operator must be Exists when `key` is empty, which means \"match all values and all keys\"",
            ],
            "a value of no key",
        );
        check(
            json!({"tolerations": [{"key": "a", "operator": "Exists", "tolerationSeconds": 5, "effect": "NoSchedule"}]}),
            &[
                "tolerations[0].effect: Invalid value: \"NoSchedule\": effect must be 'NoExecute' when `tolerationSeconds` is set",
            ],
            "what does not evict has no patience",
        );
        check(
            json!({"tolerations": [{"key": "a", "operator": "Near", "effect": "Never"}]}),
            &[
                "tolerations[0].operator: Unsupported value: \"Near\": supported values: \"Equal\", \"Exists\"",
                "tolerations[0].effect: Unsupported value: \"Never\": supported values: \"NoSchedule\", \"PreferNoSchedule\", \"NoExecute\"",
            ],
            "unknown words",
        );
    }

    #[test]
    fn affinities() {
        let required = "requiredDuringSchedulingIgnoredDuringExecution";
        let preferred = "preferredDuringSchedulingIgnoredDuringExecution";
        check(
            json!({"affinity": {"nodeAffinity": {required: {"nodeSelectorTerms": []}}}}),
            &[
                "affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms: Required value: must have at least one node selector term",
            ],
            "no term",
        );
        check(
            json!({"affinity": {"nodeAffinity": {preferred: [{"weight": 0, "preference": {"matchExpressions": [{"key": "a", "operator": "Gt", "values": []}]}}]}}}),
            &[
                "affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].weight: Invalid value: 0: must be in the range 1-100",
                "affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].preference.matchExpressions[0].values: Required value: must be specified single value when `operator` is 'Lt' or 'Gt'",
            ],
            "a preference without weight",
        );
        check(
            json!({"affinity": {"podAntiAffinity": {required: [{"labelSelector": {"matchLabels": {"a": "b"}}}]}}}),
            &[
                "affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].topologyKey: Required value: can not be empty",
            ],
            "apart by what",
        );
    }

    #[test]
    fn spread_constraints() {
        check(
            json!({"topologySpreadConstraints": [{"maxSkew": 0, "topologyKey": "zone", "whenUnsatisfiable": "Panic"}]}),
            &[
                "topologySpreadConstraints[0].maxSkew: Invalid value: 0: must be greater than zero",
                "topologySpreadConstraints[0].whenUnsatisfiable: Unsupported value: \"Panic\": supported values: \"DoNotSchedule\", \"ScheduleAnyway\"",
            ],
            "skew and action",
        );
    }
}
