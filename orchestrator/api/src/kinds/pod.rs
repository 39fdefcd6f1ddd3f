//! Pods: data and strategy. The parts are in `pod/`: defaults, admission, validation by topic, update rules, lifecycle.

pub mod admission;
mod containers;
pub(crate) mod defaults;
mod env;
pub mod lifecycle;
mod probes;
mod resources;
mod scheduling;
mod security;
pub(crate) mod spec;
mod update;
mod volumes;
pub(crate) mod warnings;

use super::checks;
use super::view::View;
use crate::field::ErrorList;
use crate::kind::{Kind, SelectableField};
use crate::object::{Json, Object, Value};
use crate::printing;
use crate::strategy::{Cell, Strategy};
use crate::time::Time;

const STREAM_VERBS: &[&str] = &["create", "get"];

struct Pods;

struct Bindings;

/// `v1 Pod`.
pub(crate) fn kind() -> Kind {
    Kind::new("", "v1", "Pod", "pods")
        .short_names(&["po"])
        .categories(&["all"])
        .subresource("attach", ("", "v1", "PodAttachOptions"), STREAM_VERBS)
        .subresource("binding", ("", "v1", "Binding"), &["create"])
        .subresource("eviction", ("policy", "v1", "Eviction"), &["create"])
        .subresource("exec", ("", "v1", "PodExecOptions"), STREAM_VERBS)
        .subresource("log", ("", "v1", "Pod"), &["get"])
        .subresource("portforward", ("", "v1", "PodPortForwardOptions"), STREAM_VERBS)
        .status()
        .counted()
        .columns(printing::pod::columns())
        .selectable([
            SelectableField::new("spec.nodeName"),
            SelectableField::new("spec.restartPolicy"),
            SelectableField::new("spec.schedulerName"),
            SelectableField::new("spec.serviceAccountName"),
            SelectableField::with_default("spec.hostNetwork", "false"),
            SelectableField::new("status.phase"),
            SelectableField::new("status.podIP"),
            SelectableField::new("status.nominatedNodeName"),
        ])
        .strategy(Pods)
}

/// `v1 Binding`, which is posted and never stored.
pub(crate) fn binding_kind() -> Kind {
    Kind::new("", "v1", "Binding", "bindings").verbs(&["create"]).strategy(Bindings)
}

impl Strategy for Pods {
    /// The quality of service depends on other defaults (requests follow limits), so it is worked out after them.
    fn default(&self, object: &mut Object) {
        defaults::default_pod(object);
        let class = lifecycle::qos_class(object);
        object.set_default("status.qosClass", || class);
    }

    fn prepare_create(&self, object: &mut Object) {
        let status = lifecycle::initial_status(object);
        object.set("status", status);
    }

    /// The quality of service is worked out once; the deletion's time is the server's.
    fn prepare_status_update(&self, new: &mut Object, old: &Object) {
        if let Some(class) = old.get("status.qosClass") {
            let class = class.clone();
            new.set("status.qosClass", class);
        }
    }

    fn validate(&self, object: &Object) -> ErrorList {
        let mut errors = validate_any(object);
        let root = View::root(object.value());
        let spec = root.get("spec");
        let ephemeral = spec.get("ephemeralContainers");
        if !ephemeral.is_empty() {
            errors.forbidden(ephemeral.path(), "cannot be set on create");
        }
        errors
    }

    fn validate_update(&self, new: &Object, old: &Object) -> ErrorList {
        let mut errors = validate_any(new);
        update::validate(&mut errors, new, old);
        errors
    }

    fn validate_status_update(&self, new: &Object, old: &Object) -> ErrorList {
        let mut errors = ErrorList::new();
        update::validate_status(&mut errors, new, old);
        errors
    }

    fn warnings(&self, new: &Object, _old: Option<&Object>) -> Vec<String> {
        warnings::of_spec(&View::root(new.value()).get("spec"))
    }

    fn grace_seconds(&self, object: &Object, requested: Option<i64>) -> Option<i64> {
        Some(lifecycle::grace_seconds(object, requested))
    }

    fn table_row(&self, object: &Object, now: Time) -> Vec<Cell> {
        printing::pod::row(&View::root(object.value()), now)
    }
}

fn validate_any(object: &Object) -> ErrorList {
    let mut errors = ErrorList::new();
    spec::validate(&mut errors, &View::root(object.value()).get("spec"));
    errors
}

impl Strategy for Bindings {
    fn validate(&self, object: &Object) -> ErrorList {
        let mut errors = ErrorList::new();
        let root = View::root(object.value());
        let target = root.get("target");
        let kind = target.get("kind");
        if !matches!(kind.text(), "" | "Node") {
            errors.not_supported(kind.path(), kind.text(), &["Node", "<empty>"]);
        }
        checks::required(&mut errors, &target.get("name"), "");
        errors
    }
}

/// A pod template's place in an object that makes pods, defaulted.
pub(crate) fn default_template(object: &mut Object) {
    let template = object.ensure("spec.template");
    let spec = template.ensure("spec");
    if spec.is_null() {
        *spec = Value::Object(crate::object::Map::new());
    }
    defaults::default_spec(spec);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::kinds::tests::defaulted;

    fn pod(spec: Value) -> Object {
        let mut pod =
            Object::from_value(json!({"metadata": {"name": "a", "namespace": "d"}, "spec": spec})).unwrap();
        Pods.prepare_create(&mut pod);
        defaulted(&kind(), pod.into_value())
    }

    fn check(spec: Value, expected: &[&str], why: &str) {
        let printed: Vec<String> = Pods.validate(&pod(spec)).iter().map(ToString::to_string).collect();
        assert_eq!(printed, expected, "{why}");
    }

    #[test]
    fn pods() {
        check(
            json!({"containers": [{"name": "a", "image": "echo:1", "ports": [{"name": "http", "containerPort": 80}]}]}),
            &[],
            "the usual",
        );
        check(json!({}), &["spec.containers: Required value"], "nothing to run");
        check(
            json!({"containers": [{"name": "A", "image": ""}]}),
            &[
                "spec.containers[0].name: Invalid value: \"A\": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')",
                "spec.containers[0].image: Required value",
            ],
            "a bad name and no image",
        );
        check(
            json!({"containers": [{"name": "a", "image": " echo"}, {"name": "a", "image": "echo", "imagePullPolicy": "Maybe"}]}),
            &[
                "spec.containers[0].image: Invalid value: \" echo\": must not have leading or trailing whitespace",
                "spec.containers[1].name: Duplicate value: \"a\"",
                "spec.containers[1].imagePullPolicy: Unsupported value: \"Maybe\": supported values: \"Always\", \"IfNotPresent\", \"Never\"",
            ],
            "a blank, the same name twice, an unknown policy",
        );
        check(
            json!({"containers": [{"name": "a", "image": "e", "ports": [{"containerPort": 0}, {"containerPort": 70000, "protocol": "ICMP"}, {"name": "Http", "containerPort": 1, "hostPort": 5}, {"containerPort": 2, "hostPort": 5}]}]}),
            &[
                "spec.containers[0].ports[0].containerPort: Required value",
                "spec.containers[0].ports[1].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
                "spec.containers[0].ports[1].protocol: Unsupported value: \"ICMP\": supported values: \"SCTP\", \"TCP\", \"UDP\"",
                "spec.containers[0].ports[2].name: Invalid value: \"Http\": must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)",
                "spec.containers[0].ports[3].hostPort: Duplicate value: \"TCP//5\"",
            ],
            "ports",
        );
        check(
            json!({"restartPolicy": "Sometimes", "dnsPolicy": "Mine", "hostNetwork": true, "containers": [{"name": "a", "image": "e", "ports": [{"containerPort": 80, "hostPort": 81}]}]}),
            &[
                "spec.containers[0].ports[0].hostPort: Invalid value: 81: must match `containerPort` when `hostNetwork` is true",
                "spec.restartPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"OnFailure\", \"Never\"",
                "spec.dnsPolicy: Unsupported value: \"Mine\": supported values: \"ClusterFirstWithHostNet\", \"ClusterFirst\", \"Default\", \"None\"",
            ],
            "policies and the host's ports",
        );
        check(
            json!({"containers": [{"name": "a", "image": "e", "volumeMounts": [{"name": "v", "mountPath": "/x"}, {"name": "w", "mountPath": "/x"}]}], "volumes": [{"name": "v"}]}),
            &[
                "spec.containers[0].volumeMounts[1].name: Not found: \"w\"",
                "spec.containers[0].volumeMounts[1].mountPath: Invalid value: \"/x\": must be unique",
            ],
            "mounts",
        );
        check(
            json!({"containers": [{"name": "a", "image": "e"}], "initContainers": [{"name": "i", "image": "e", "livenessProbe": {"exec": {"command": ["x"]}}}]}),
            &[
                "spec.initContainers[0].livenessProbe: Forbidden: may not be set for init containers without restartPolicy=Always",
            ],
            "an init container is not probed",
        );
        check(
            json!({"containers": [{"name": "a", "image": "e"}], "ephemeralContainers": [{"name": "d", "image": "e"}]}),
            &["spec.ephemeralContainers: Forbidden: cannot be set on create"],
            "debuggers come later",
        );
        check(
            json!({"containers": [{"name": "a", "image": "e"}], "hostname": "a.b", "serviceAccountName": "A", "dnsPolicy": "None", "activeDeadlineSeconds": 0}),
            &[
                "spec.dnsConfig.nameservers: Required value: must provide at least one DNS nameserver when `dnsPolicy` is None",
                "spec.serviceAccountName: Invalid value: \"A\": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
                "spec.hostname: Invalid value: \"a.b\": must not contain dots",
                "spec.activeDeadlineSeconds: Invalid value: 0: must be between 1 and 2147483647, inclusive",
            ],
            "names and deadlines",
        );
    }

    #[test]
    fn a_new_pod_is_pending() {
        let pod = pod(json!({"containers": [{"name": "a", "image": "e:1"}]}));
        assert_eq!(pod.get("status"), Some(&json!({"phase": "Pending", "qosClass": "BestEffort"})));
    }

    #[test]
    fn bindings_name_a_node() {
        let binding = Object::from_value(json!({"target": {"kind": "Pod"}})).unwrap();
        let printed: Vec<String> = Bindings.validate(&binding).iter().map(ToString::to_string).collect();
        assert_eq!(
            printed,
            [
                "target.kind: Unsupported value: \"Pod\": supported values: \"Node\", \"<empty>\"",
                "target.name: Required value",
            ]
        );
    }

    #[test]
    fn quality_of_service_is_worked_out_once() {
        let old = pod(json!({"containers": [{"name": "a", "image": "e:1"}]}));
        let mut new = old.clone();
        new.set("status.qosClass", "Guaranteed");
        Pods.prepare_status_update(&mut new, &old);
        assert_eq!(new.text("status.qosClass"), "BestEffort");
    }
}
