//! Deployments and ReplicaSets: what makes pods from a template and a selector; and the Scale both share.

use super::checks::{self, not_negative};
use super::pod;
use super::view::View;
use crate::field::{ErrorList, Path};
use crate::kind::{Kind, ScalePaths, SelectableField};
use crate::names;
use crate::object::{Json, Object, Value};
use crate::printing::apps;
use crate::selectors::LabelSelector;
use crate::strategy::{Cell, Strategy};
use crate::time::Time;

const ROLLING_SHARE: &str = "25%";

struct Deployments;
struct ReplicaSets;

/// `apps/v1 Deployment`.
pub(crate) fn deployment_kind() -> Kind {
    Kind::new("apps", "v1", "Deployment", "deployments")
        .short_names(&["deploy"])
        .categories(&["all"])
        .scale(ScalePaths::default())
        .status()
        .counted()
        .columns(apps::deployment_columns())
        .strategy(Deployments)
}

/// `apps/v1 ReplicaSet`.
pub(crate) fn replica_set_kind() -> Kind {
    Kind::new("apps", "v1", "ReplicaSet", "replicasets")
        .short_names(&["rs"])
        .categories(&["all"])
        .scale(ScalePaths::default())
        .status()
        .counted()
        .columns(apps::replica_set_columns())
        .selectable([SelectableField::with_default("status.replicas", "0")])
        .strategy(ReplicaSets)
}

/// What is wrong with an `autoscaling/v1 Scale`.
pub fn validate_scale(scale: &Object) -> ErrorList {
    let mut errors = ErrorList::new();
    not_negative(&mut errors, &View::root(scale.value()).get("spec").get("replicas"));
    errors
}

impl Strategy for Deployments {
    fn default(&self, object: &mut Object) {
        if object.text("spec.strategy.type").is_empty() {
            object.set("spec.strategy.type", "RollingUpdate");
        }
        if object.text("spec.strategy.type") == "RollingUpdate" {
            object.set_default("spec.strategy.rollingUpdate.maxUnavailable", || ROLLING_SHARE);
            object.set_default("spec.strategy.rollingUpdate.maxSurge", || ROLLING_SHARE);
        }
        pod::default_template(object);
    }

    /// Annotations count as well: a Deployment hands its own on to its ReplicaSets.
    fn generation_changed(&self, new: &Object, old: &Object) -> bool {
        let changed = |path: &str| new.get(path) != old.get(path);
        changed("spec") || changed("metadata.annotations")
    }

    fn validate(&self, object: &Object) -> ErrorList {
        let mut errors = ErrorList::new();
        let root = View::root(object.value());
        let spec = root.get("spec");
        not_negative(&mut errors, &spec.get("replicas"));
        selector_and_template(&mut errors, &spec, "empty selector is invalid for deployment");
        strategy(&mut errors, &spec.get("strategy"));
        let (ready, deadline) = (spec.get("minReadySeconds"), spec.get("progressDeadlineSeconds"));
        not_negative(&mut errors, &ready);
        not_negative(&mut errors, &spec.get("revisionHistoryLimit"));
        not_negative(&mut errors, &deadline);
        if let Some(seconds) = deadline.int().filter(|seconds| *seconds <= ready.int().unwrap_or(0)) {
            errors.invalid(deadline.path(), seconds, "must be greater than minReadySeconds");
        }
        errors
    }

    fn validate_update(&self, new: &Object, old: &Object) -> ErrorList {
        let mut errors = self.validate(new);
        immutable_selector(&mut errors, new, old);
        errors
    }

    fn validate_status_update(&self, new: &Object, old: &Object) -> ErrorList {
        let mut errors = ErrorList::new();
        let (after, before) = (View::root(new.value()), View::root(old.value()));
        let (status, old_status) = (after.get("status"), before.get("status"));
        let fields = [
            "observedGeneration",
            "replicas",
            "updatedReplicas",
            "readyReplicas",
            "availableReplicas",
            "unavailableReplicas",
        ];
        counts(&mut errors, &status, &fields);
        let collisions = status.get("collisionCount");
        not_negative(&mut errors, &collisions);
        if collisions.int() < old_status.get("collisionCount").int() {
            errors.invalid(collisions.path(), collisions.copy(), "cannot be decremented");
        }
        for field in ["updatedReplicas", "readyReplicas", "availableReplicas"] {
            no_more_than(&mut errors, &status, field, "replicas", "status.replicas");
        }
        no_more_than(&mut errors, &status, "availableReplicas", "readyReplicas", "readyReplicas");
        errors
    }

    fn warnings(&self, new: &Object, _old: Option<&Object>) -> Vec<String> {
        of_template(new)
    }

    fn table_row(&self, object: &Object, now: Time) -> Vec<Cell> {
        apps::deployment_row(&View::root(object.value()), now)
    }
}

impl Strategy for ReplicaSets {
    fn default(&self, object: &mut Object) {
        pod::default_template(object);
    }

    fn validate(&self, object: &Object) -> ErrorList {
        let mut errors = ErrorList::new();
        let root = View::root(object.value());
        let spec = root.get("spec");
        not_negative(&mut errors, &spec.get("replicas"));
        not_negative(&mut errors, &spec.get("minReadySeconds"));
        selector_and_template(&mut errors, &spec, "empty selector is invalid for replicaset");
        errors
    }

    fn validate_update(&self, new: &Object, old: &Object) -> ErrorList {
        let mut errors = self.validate(new);
        immutable_selector(&mut errors, new, old);
        errors
    }

    fn validate_status_update(&self, new: &Object, _old: &Object) -> ErrorList {
        let mut errors = ErrorList::new();
        let root = View::root(new.value());
        let status = root.get("status");
        let fields =
            ["replicas", "fullyLabeledReplicas", "readyReplicas", "availableReplicas", "observedGeneration"];
        counts(&mut errors, &status, &fields);
        for field in ["fullyLabeledReplicas", "readyReplicas", "availableReplicas"] {
            no_more_than(&mut errors, &status, field, "replicas", "status.replicas");
        }
        no_more_than(&mut errors, &status, "availableReplicas", "readyReplicas", "readyReplicas");
        errors
    }

    fn warnings(&self, new: &Object, _old: Option<&Object>) -> Vec<String> {
        of_template(new)
    }

    fn table_row(&self, object: &Object, now: Time) -> Vec<Cell> {
        apps::replica_set_row(&View::root(object.value()), now)
    }
}

fn of_template(object: &Object) -> Vec<String> {
    pod::warnings::of_spec(&View::root(object.value()).get("spec").get("template").get("spec"))
}

/// The selector must select, and must select what the template makes.
fn selector_and_template(errors: &mut ErrorList, spec: &View<'_, '_>, empty: &str) {
    let (selector, template) = (spec.get("selector"), spec.get("template"));
    if !selector.exists() {
        errors.required(selector.path(), "");
    } else if selector.get("matchLabels").is_empty() && selector.get("matchExpressions").is_empty() {
        errors.invalid(selector.path(), selector.copy(), empty);
    }
    checks::label_selector(errors, &selector);
    if !template.exists() {
        errors.required(template.path(), "");
        return;
    }
    match LabelSelector::from_object(selector.raw()) {
        Ok(parsed) if selector.exists() && !parsed.is_everything() => {
            let labels = template.get("metadata").get("labels").raw().cloned();
            if !parsed.matches_map(labels.as_ref().and_then(Value::as_object)) {
                let metadata = template.path().child("metadata");
                errors.invalid(
                    &metadata.child("labels"),
                    labels.unwrap_or_default(),
                    "`selector` does not match template `labels`",
                );
            }
        }
        Err(_) => errors.invalid(selector.path(), selector.copy(), "invalid label selector"),
        Ok(_) => {}
    }
    pod::spec::validate_template(errors, &template);
    template_runs_forever(errors, &template.get("spec"));
}

/// These controllers replace a pod that ends, so it may not want to end.
fn template_runs_forever(errors: &mut ErrorList, pod: &View<'_, '_>) {
    let (policy, deadline) = (pod.get("restartPolicy"), pod.get("activeDeadlineSeconds"));
    if !policy.is("Always") {
        errors.not_supported(policy.path(), policy.text(), &["Always"]);
    }
    if deadline.exists() {
        errors.forbidden(deadline.path(), "activeDeadlineSeconds in ReplicaSet is not Supported");
    }
}

fn immutable_selector(errors: &mut ErrorList, new: &Object, old: &Object) {
    errors.immutable_unless_equal(
        &Path::new("spec.selector"),
        new.get("spec.selector"),
        old.get("spec.selector"),
    );
}

fn counts(errors: &mut ErrorList, status: &View<'_, '_>, fields: &[&str]) {
    for field in fields {
        not_negative(errors, &status.get(field));
    }
}

fn no_more_than(errors: &mut ErrorList, status: &View<'_, '_>, field: &str, bound: &str, called: &str) {
    let (value, bound) = (status.get(field), status.get(bound));
    if let Some(count) = value.int().filter(|count| *count > bound.int().unwrap_or(0)) {
        errors.invalid(value.path(), count, format!("cannot be greater than {called}"));
    }
}

// === the strategy of a Deployment ===

fn strategy(errors: &mut ErrorList, strategy: &View<'_, '_>) {
    let (kind, rolling) = (strategy.get("type"), strategy.get("rollingUpdate"));
    match kind.text() {
        "Recreate" if rolling.exists() => {
            errors.forbidden(rolling.path(), "may not be specified when strategy `type` is 'Recreate'");
        }
        "Recreate" => {}
        "RollingUpdate" if rolling.exists() => rolling_update(errors, &rolling),
        "RollingUpdate" => errors.required(rolling.path(), "this should be defaulted and never be nil"),
        other => errors.not_supported(kind.path(), other, &["Recreate", "RollingUpdate"]),
    }
}

fn rolling_update(errors: &mut ErrorList, rolling: &View<'_, '_>) {
    let (unavailable, surge) = (rolling.get("maxUnavailable"), rolling.get("maxSurge"));
    count_or_percent(errors, &unavailable);
    count_or_percent(errors, &surge);
    if amount(&unavailable) == 0 && amount(&surge) == 0 {
        errors.invalid(unavailable.path(), unavailable.copy(), "may not be 0 when `maxSurge` is 0");
    }
    if unavailable.text().ends_with('%') && amount(&unavailable) > 100 {
        errors.invalid(unavailable.path(), unavailable.text(), "must not be greater than 100%");
    }
}

fn count_or_percent(errors: &mut ErrorList, view: &View<'_, '_>) {
    match view.text_opt() {
        Some(text) => errors.invalid_each(view.path(), text, names::percent(text)),
        None => not_negative(errors, view),
    }
}

/// The count, or the number before the percent sign.
fn amount(view: &View<'_, '_>) -> i64 {
    let percent = || view.text().strip_suffix('%').and_then(|digits| digits.parse().ok());
    view.int().or_else(percent).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::kinds::tests::defaulted;

    fn object(value: Value) -> Object {
        Object::from_value(value).unwrap()
    }

    fn deployment(spec: Value) -> Object {
        let mut deployment = json!({"metadata": {"name": "web"}, "spec": {
            "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "web", "image": "echo:1"}]}}}});
        for (field, value) in spec.as_object().unwrap() {
            deployment.set(&format!("spec.{field}"), value.clone());
        }
        defaulted(&deployment_kind(), deployment)
    }

    fn check(spec: Value, expected: &[&str], why: &str) {
        let printed: Vec<String> =
            Deployments.validate(&deployment(spec)).iter().map(ToString::to_string).collect();
        assert_eq!(printed, expected, "{why}");
    }

    #[test]
    fn defaults() {
        let deployment = deployment(json!({}));
        assert_eq!(
            deployment.get("spec.strategy"),
            Some(
                &json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "25%", "maxSurge": "25%"}})
            )
        );
        assert_eq!(deployment.i64_at("spec.replicas"), Some(1));
        assert_eq!(deployment.i64_at("spec.revisionHistoryLimit"), Some(10));
        assert_eq!(deployment.i64_at("spec.progressDeadlineSeconds"), Some(600));
        assert_eq!(deployment.text("spec.template.spec.restartPolicy"), "Always");
        let recreate = defaulted(&deployment_kind(), json!({"spec": {"strategy": {"type": "Recreate"}}}));
        assert_eq!(recreate.get("spec.strategy"), Some(&json!({"type": "Recreate"})));
    }

    #[test]
    fn deployments() {
        check(json!({}), &[], "the usual");
        check(
            json!({"selector": {"matchLabels": {"app": "other"}}}),
            &[
                "spec.template.metadata.labels: Invalid value: {\"app\":\"web\"}: `selector` does not match template `labels`",
            ],
            "it would not find its own pods",
        );
        check(
            json!({"selector": {}}),
            &["spec.selector: Invalid value: {}: empty selector is invalid for deployment"],
            "everybody's pods",
        );
        check(json!({"selector": null}), &["spec.selector: Required value"], "nobody's pods");
        check(
            json!({"replicas": -1, "minReadySeconds": 600}),
            &[
                "spec.replicas: Invalid value: -1: must be greater than or equal to 0",
                "spec.progressDeadlineSeconds: Invalid value: 600: must be greater than minReadySeconds",
            ],
            "counts and deadlines",
        );
        check(
            json!({"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": "0%"}}}),
            &[
                "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: 0: may not be 0 when `maxSurge` is 0",
            ],
            "no step to take",
        );
        check(
            json!({"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "150%", "maxSurge": "x"}}}),
            &[
                "spec.strategy.rollingUpdate.maxSurge: Invalid value: \"x\": a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')",
                "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: \"150%\": must not be greater than 100%",
            ],
            "percentages",
        );
        check(
            json!({"strategy": {"type": "Recreate", "rollingUpdate": {}}}),
            &[
                "spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'",
            ],
            "all at once has no steps",
        );
        check(
            json!({"template": {"metadata": {"labels": {"app": "web"}}, "spec": {"restartPolicy": "Never", "containers": [{"name": "web", "image": "e"}]}}}),
            &["spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \"Always\""],
            "pods that end",
        );
    }

    #[test]
    fn the_selector_stays() {
        let old = deployment(json!({}));
        let new = deployment(
            json!({"selector": {"matchLabels": {"app": "api"}}, "template": {"metadata": {"labels": {"app": "api"}}, "spec": {"containers": [{"name": "web", "image": "e"}]}}}),
        );
        assert_eq!(
            Deployments.validate_update(&new, &old).to_string(),
            "spec.selector: Invalid value: {\"matchLabels\":{\"app\":\"api\"}}: field is immutable"
        );
    }

    #[test]
    fn statuses_add_up() {
        let old = object(json!({"status": {"collisionCount": 2}}));
        let new = object(
            json!({"status": {"replicas": 2, "updatedReplicas": 3, "readyReplicas": 1, "availableReplicas": 2, "collisionCount": 1}}),
        );
        let printed: Vec<String> =
            Deployments.validate_status_update(&new, &old).iter().map(ToString::to_string).collect();
        assert_eq!(
            printed,
            [
                "status.collisionCount: Invalid value: 1: cannot be decremented",
                "status.updatedReplicas: Invalid value: 3: cannot be greater than status.replicas",
                "status.availableReplicas: Invalid value: 2: cannot be greater than readyReplicas",
            ]
        );
        let set = object(json!({"status": {"replicas": 1, "fullyLabeledReplicas": 2}}));
        assert_eq!(
            ReplicaSets.validate_status_update(&set, &set).to_string(),
            "status.fullyLabeledReplicas: Invalid value: 2: cannot be greater than status.replicas"
        );
    }

    #[test]
    fn scales() {
        let scale = object(json!({"spec": {"replicas": -2}}));
        assert_eq!(
            validate_scale(&scale).to_string(),
            "spec.replicas: Invalid value: -2: must be greater than or equal to 0"
        );
    }
}
