//! Defaults of pods and pod templates that depend on other fields. The schema's plain ones are in place already; they
//! stand here once more where Go's zero value, written out by a client, counts as "not set" as well.
//!
//! A template gets those of the spec alone; what [`default_pod`] adds on top (requests from limits, host ports) would make
//! a template's hash change with the server's version.

use crate::object::{Json, Map, Value};

const TERMINATION_MESSAGE_PATH: &str = "/dev/termination-log";
const CONTAINER_LISTS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

/// Defaults of a whole pod.
pub(crate) fn default_pod(pod: &mut impl Json) {
    let spec = object(pod.ensure("spec"));
    default_spec(spec);
    let host_network = spec.is_true("hostNetwork");
    for list in ["initContainers", "containers"] {
        for container in spec.list_at_mut(list) {
            requests_from_limits(container);
            if host_network {
                host_ports(container);
            }
        }
    }
    spec.set_default("enableServiceLinks", || true);
    addresses(pod, "status.podIP", "status.podIPs");
    addresses(pod, "status.hostIP", "status.hostIPs");
}

/// Defaults of a pod spec, also in a template.
pub(crate) fn default_spec(spec: &mut Value) {
    text_default(spec, "restartPolicy", "Always");
    text_default(spec, "dnsPolicy", "ClusterFirst");
    text_default(spec, "schedulerName", "default-scheduler");
    service_account(spec);
    for volume in spec.list_at_mut("volumes") {
        default_volume(volume);
    }
    for list in CONTAINER_LISTS {
        for container in spec.list_at_mut(list) {
            default_container(container);
        }
    }
}

fn object(value: &mut Value) -> &mut Value {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    value
}

fn text_default(object: &mut Value, field: &str, default: &str) {
    if object.text(field).is_empty() {
        object.set(field, default);
    }
}

/// Go's zero counts as "not set" for these.
fn number_default(object: &mut Value, field: &str, default: i64) {
    if object.i64_at(field).unwrap_or(0) == 0 {
        object.set(field, default);
    }
}

/// The account's old name is kept in step with the new one.
fn service_account(spec: &mut Value) {
    let (new, old) = (spec.text("serviceAccountName").to_owned(), spec.text("serviceAccount").to_owned());
    let name = if new.is_empty() { old } else { new };
    if !name.is_empty() {
        spec.set("serviceAccountName", name.clone());
        spec.set("serviceAccount", name);
    }
}

fn addresses(pod: &mut impl Json, one: &str, all: &str) {
    let address = pod.text(one).to_owned();
    if !address.is_empty() && pod.list_at(all).is_empty() {
        let mut entry = Map::new();
        entry.insert("ip".to_owned(), address.into());
        pod.set(all, vec![Value::Object(entry)]);
    }
}

fn requests_from_limits(container: &mut Value) {
    let Some(limits) = container.map_at("resources.limits").cloned() else { return };
    let requests = object(container.ensure("resources.requests"));
    let requests = requests.as_object_mut().expect("the line above made it an object");
    for (resource, limit) in limits {
        requests.entry(resource).or_insert(limit);
    }
}

fn host_ports(container: &mut Value) {
    for port in container.list_at_mut("ports") {
        if let Some(number) = port.i64_at("containerPort") {
            number_default(port, "hostPort", number);
        }
    }
}

// === containers ===

fn default_container(container: &mut Value) {
    let policy = pull_policy(container.text("image"));
    text_default(container, "imagePullPolicy", policy);
    text_default(container, "terminationMessagePath", TERMINATION_MESSAGE_PATH);
    text_default(container, "terminationMessagePolicy", "File");
    for port in container.list_at_mut("ports") {
        text_default(port, "protocol", "TCP");
    }
    for variable in container.list_at_mut("env") {
        if let Some(from) = variable.at_mut("valueFrom") {
            default_downward(from);
        }
    }
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = container.at_mut(probe) {
            default_probe(probe);
        }
    }
    for action in ["lifecycle.postStart.httpGet", "lifecycle.preStop.httpGet"] {
        if let Some(action) = container.at_mut(action) {
            default_http_get(action);
        }
    }
}

/// An image without tag or digest, or tagged `latest`, may change under its name.
fn pull_policy(image: &str) -> &'static str {
    let (name, digest) = image.split_once('@').map_or((image, false), |(name, _)| (name, true));
    let last = name.rsplit('/').next().unwrap_or(name);
    match last.split_once(':') {
        Some((_, "latest")) => "Always",
        None if !digest => "Always",
        _ => "IfNotPresent",
    }
}

fn default_probe(probe: &mut Value) {
    number_default(probe, "timeoutSeconds", 1);
    number_default(probe, "periodSeconds", 10);
    number_default(probe, "successThreshold", 1);
    number_default(probe, "failureThreshold", 3);
    if let Some(action) = probe.at_mut("httpGet") {
        default_http_get(action);
    }
}

fn default_http_get(action: &mut Value) {
    text_default(action, "path", "/");
    text_default(action, "scheme", "HTTP");
}

fn default_downward(source: &mut Value) {
    if let Some(reference) = source.at_mut("fieldRef") {
        text_default(reference, "apiVersion", "v1");
    }
}

// === volumes ===

fn default_volume(volume: &mut Value) {
    let has_source = volume
        .as_object()
        .is_some_and(|fields| fields.iter().any(|(name, value)| name != "name" && !value.is_null()));
    if !has_source {
        volume.set("emptyDir", Value::Object(Map::new()));
    }
    for item in volume.list_at_mut("downwardAPI.items") {
        default_downward(item);
    }
    for source in volume.list_at_mut("projected.sources") {
        for item in source.list_at_mut("downwardAPI.items") {
            default_downward(item);
        }
    }
    if let Some(image) = volume.at_mut("image") {
        let policy = pull_policy(image.text("reference"));
        text_default(image, "pullPolicy", policy);
    }
    if let Some(claim) = volume.at_mut("ephemeral.volumeClaimTemplate.spec") {
        claim.set_default("volumeMode", || "Filesystem");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::kinds::tests::defaulted;
    use crate::kinds::{apps, pod};

    fn spec(spec: Value) -> Value {
        let pod = defaulted(&pod::kind(), json!({ "spec": spec })).into_value();
        pod["spec"].clone()
    }

    fn template(spec: Value) -> Value {
        let object = json!({"spec": {"template": {"spec": spec}}});
        defaulted(&apps::deployment_kind(), object).into_value()["spec"]["template"]["spec"].clone()
    }

    #[test]
    fn the_smallest_pod() {
        assert_eq!(
            spec(json!({"containers": [{"name": "a", "image": "echo:1"}]})),
            json!({
                "containers": [{"name": "a", "image": "echo:1", "imagePullPolicy": "IfNotPresent",
                    "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File", "resources": {}}],
                "restartPolicy": "Always", "dnsPolicy": "ClusterFirst", "schedulerName": "default-scheduler",
                "terminationGracePeriodSeconds": 30, "securityContext": {}, "enableServiceLinks": true
            })
        );
    }

    #[test]
    fn images_that_may_change_are_pulled_always() {
        let cases = [
            ("echo", "Always"),
            ("echo:latest", "Always"),
            ("registry:5000/echo", "Always"),
            ("registry:5000/echo:1", "IfNotPresent"),
            ("echo@sha256:00", "IfNotPresent"),
            ("echo:latest@sha256:00", "Always"),
        ];
        for (image, policy) in cases {
            assert_eq!(pull_policy(image), policy, "{image}");
        }
    }

    #[test]
    fn requests_follow_limits_in_canonical_form() {
        let spec = spec(json!({"containers": [{"name": "a", "image": "e:1",
            "resources": {"limits": {"cpu": 0.5, "memory": "1024Mi"}, "requests": {"cpu": "100m"}}}]}));
        assert_eq!(
            spec["containers"][0]["resources"],
            json!({"limits": {"cpu": "500m", "memory": "1Gi"}, "requests": {"cpu": "100m", "memory": "1Gi"}})
        );
    }

    #[test]
    fn a_template_gets_less_than_a_pod() {
        let bare = json!({"hostNetwork": true, "containers": [{"name": "a", "image": "e:1",
            "ports": [{"containerPort": 80}], "resources": {"limits": {"cpu": "1"}}}]});
        let (pod, template) = (spec(bare.clone()), template(bare));
        let ports = |spec: &Value| spec["containers"][0]["ports"][0].clone();
        assert_eq!(ports(&pod), json!({"containerPort": 80, "protocol": "TCP", "hostPort": 80}));
        assert_eq!(ports(&template), json!({"containerPort": 80, "protocol": "TCP"}));
        assert!(!template["containers"][0].has("resources.requests"));
        assert!(!template.has("enableServiceLinks"));
        assert_eq!(template["restartPolicy"], "Always");
    }

    #[test]
    fn volumes_probes_and_environment() {
        let spec = spec(json!({
            "serviceAccount": "robot",
            "volumes": [{"name": "a"}, {"name": "b", "secret": {"secretName": "s"}}, {"name": "c", "hostPath": {"path": "/x"}},
                {"name": "d", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}],
            "containers": [{"name": "a", "image": "e:1",
                "livenessProbe": {"httpGet": {"port": 80}, "periodSeconds": 0},
                "env": [{"name": "N", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]}]
        }));
        assert_eq!(spec["serviceAccountName"], "robot");
        assert_eq!(
            spec["volumes"],
            json!([{"name": "a", "emptyDir": {}}, {"name": "b", "secret": {"secretName": "s", "defaultMode": 420}},
                {"name": "c", "hostPath": {"path": "/x", "type": ""}},
                {"name": "d", "projected": {"sources": [{"serviceAccountToken": {"path": "t", "expirationSeconds": 3600}}], "defaultMode": 420}}])
        );
        assert_eq!(
            spec["containers"][0]["livenessProbe"],
            json!({"httpGet": {"port": 80, "path": "/", "scheme": "HTTP"}, "periodSeconds": 10, "timeoutSeconds": 1,
                "successThreshold": 1, "failureThreshold": 3})
        );
        assert_eq!(spec["containers"][0]["env"][0]["valueFrom"]["fieldRef"]["apiVersion"], "v1");
    }
}
