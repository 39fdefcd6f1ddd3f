//! Rows of the kinds that hold a cluster together: namespaces, nodes, configuration, accounts, leases, requests.

use std::collections::BTreeSet;

use super::{NONE, UNKNOWN, age, name, text_or};
use crate::kind::Column;
use crate::kinds::view::View;
use crate::object::Value;
use crate::table::human_duration;
use crate::time::Time;

const ROLE_LABEL_PREFIX: &str = "node-role.kubernetes.io/";
const ROLE_LABEL: &str = "kubernetes.io/role";

/// The columns of `kubectl get namespaces`.
pub(crate) fn namespace_columns() -> [Column; 3] {
    [Column::name(), Column::new("Status", "string", "Whether it is active or going away."), Column::age()]
}

/// The columns of `kubectl get nodes`.
pub(crate) fn node_columns() -> [Column; 10] {
    [
        Column::name(),
        Column::new("Status", "string", "Whether it is ready for pods."),
        Column::new("Roles", "string", "What it is there for, by its labels."),
        Column::age(),
        Column::new("Version", "string", "The version of its agent."),
        Column::wide("Internal-IP", "string", "Its address within the cluster."),
        Column::wide("External-IP", "string", "Its address outside of the cluster."),
        Column::wide("OS-Image", "string", "Its operating system."),
        Column::wide("Kernel-Version", "string", "Its kernel."),
        Column::wide("Container-Runtime", "string", "What runs its containers."),
    ]
}

/// The columns of `kubectl get configmaps`.
pub(crate) fn config_map_columns() -> [Column; 3] {
    [Column::name(), Column::new("Data", "string", "How many entries it has."), Column::age()]
}

/// The columns of `kubectl get secrets`.
pub(crate) fn secret_columns() -> [Column; 4] {
    [
        Column::name(),
        Column::new("Type", "string", "What its entries are for."),
        Column::new("Data", "string", "How many entries it has."),
        Column::age(),
    ]
}

/// The columns of `kubectl get leases`.
pub(crate) fn lease_columns() -> [Column; 3] {
    [Column::name(), Column::new("Holder", "string", "Who holds it."), Column::age()]
}

/// The columns of `kubectl get certificatesigningrequests`.
pub(crate) fn signing_request_columns() -> [Column; 6] {
    [
        Column::name(),
        Column::age(),
        Column::new("SignerName", "string", "Who is to sign it."),
        Column::new("Requestor", "string", "Who asked."),
        Column::new("RequestedDuration", "string", "How long the certificate is to be valid."),
        Column::new("Condition", "string", "How far the request has come."),
    ]
}

/// Cells of a Namespace: name, status, age.
pub(crate) fn namespace_row(object: &View<'_, '_>, now: Time) -> Vec<Value> {
    vec![name(object), object.get("status").get("phase").text().into(), age(object, now)]
}

/// Cells of a Node: name, status, roles, age, version; addresses, system, runtime.
pub(crate) fn node_row(object: &View<'_, '_>, now: Time) -> Vec<Value> {
    let status = object.get("status");
    let info = status.get("nodeInfo");
    vec![
        name(object),
        node_status(object).into(),
        text_or(&node_roles(object), NONE).into(),
        age(object, now),
        info.get("kubeletVersion").text().into(),
        node_address(&status, "InternalIP").into(),
        node_address(&status, "ExternalIP").into(),
        text_or(info.get("osImage").text(), UNKNOWN).into(),
        text_or(info.get("kernelVersion").text(), UNKNOWN).into(),
        text_or(info.get("containerRuntimeVersion").text(), UNKNOWN).into(),
    ]
}

fn node_status(node: &View<'_, '_>) -> String {
    let status = node.get("status");
    let conditions = status.get("conditions");
    // The last one counts, should a condition be written twice.
    let ready = conditions.items().rev().find(|condition| condition.get("type").is("Ready"));
    let word = match ready.map(|ready| ready.get("status").is("True")) {
        Some(true) => "Ready",
        Some(false) => "NotReady",
        None => "Unknown",
    };
    let cordoned = node.get("spec").get("unschedulable").flag();
    if cordoned { format!("{word},SchedulingDisabled") } else { word.into() }
}

fn node_roles(node: &View<'_, '_>) -> String {
    let metadata = node.get("metadata");
    let labels = metadata.get("labels");
    let role = |(key, value): (&str, View<'_, '_>)| match key.strip_prefix(ROLE_LABEL_PREFIX) {
        Some(role) => Some(role.to_owned()),
        None if key == ROLE_LABEL => Some(value.text().to_owned()),
        None => None,
    };
    let roles: BTreeSet<String> = labels.entries().filter_map(role).filter(|role| !role.is_empty()).collect();
    roles.into_iter().collect::<Vec<_>>().join(",")
}

fn node_address(status: &View<'_, '_>, kind: &str) -> String {
    let addresses = status.get("addresses");
    let address = addresses.items().find(|address| address.get("type").is(kind));
    address.map_or(NONE, |address| address.get("address").text()).to_owned()
}

/// Cells of a ConfigMap: name, number of entries, age.
pub(crate) fn config_map_row(object: &View<'_, '_>, now: Time) -> Vec<Value> {
    let entries = object.get("data").len() + object.get("binaryData").len();
    vec![name(object), entries.into(), age(object, now)]
}

/// Cells of a Secret: name, type, number of entries, age.
pub(crate) fn secret_row(object: &View<'_, '_>, now: Time) -> Vec<Value> {
    vec![name(object), object.get("type").text().into(), object.get("data").len().into(), age(object, now)]
}

/// Cells of a Lease: name, holder, age.
pub(crate) fn lease_row(object: &View<'_, '_>, now: Time) -> Vec<Value> {
    vec![name(object), object.get("spec").get("holderIdentity").text().into(), age(object, now)]
}

/// Cells of a CertificateSigningRequest: name, age, signer, requestor, requested duration, condition.
pub(crate) fn signing_request_row(object: &View<'_, '_>, now: Time) -> Vec<Value> {
    let spec = object.get("spec");
    let duration = spec.get("expirationSeconds").int();
    vec![
        name(object),
        age(object, now),
        text_or(spec.get("signerName").text(), NONE).into(),
        spec.get("username").text().into(),
        duration.map_or_else(|| NONE.to_owned(), human_duration).into(),
        request_condition(&object.get("status")).into(),
    ]
}

fn request_condition(status: &View<'_, '_>) -> String {
    let conditions = status.get("conditions");
    let has = |kind: &str| conditions.items().any(|condition| condition.get("type").is(kind));
    let decision = match () {
        () if has("Denied") => "Denied",
        () if has("Approved") => "Approved",
        () => "Pending",
    };
    let failed = if has("Failed") { ",Failed" } else { "" };
    let issued = if status.get("certificate").is_empty() { "" } else { ",Issued" };
    format!("{decision}{failed}{issued}")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::time;

    fn now() -> Time {
        time::parse("2026-01-03T00:00:00Z").unwrap()
    }

    #[test]
    fn nodes() {
        let node = json!({
            "metadata": {"name": "node-1", "creationTimestamp": "2026-01-01T00:00:00Z", "labels": {
                "node-role.kubernetes.io/worker": "", "node-role.kubernetes.io/control-plane": "", "kubernetes.io/os": "linux"}},
            "spec": {"unschedulable": true},
            "status": {
                "conditions": [{"type": "MemoryPressure", "status": "False"}, {"type": "Ready", "status": "True"}],
                "addresses": [{"type": "Hostname", "address": "node-1"}, {"type": "InternalIP", "address": "172.20.0.2"}],
                "nodeInfo": {"kubeletVersion": "v1.36.0+bowsprit", "osImage": "Debian GNU/Linux 12 (bookworm)",
                    "kernelVersion": "6.12.0", "containerRuntimeVersion": "containerd://1.6.20"}}
        });
        assert_eq!(
            Value::from(node_row(&View::root(&node), now())),
            json!([
                "node-1",
                "Ready,SchedulingDisabled",
                "control-plane,worker",
                "2d",
                "v1.36.0+bowsprit",
                "172.20.0.2",
                "<none>",
                "Debian GNU/Linux 12 (bookworm)",
                "6.12.0",
                "containerd://1.6.20"
            ])
        );
        let silent = json!({"metadata": {"name": "n", "labels": {"kubernetes.io/role": "edge"}},
            "status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}});
        assert_eq!(
            Value::from(node_row(&View::root(&silent), now())),
            json!([
                "n",
                "NotReady",
                "edge",
                "<unknown>",
                "",
                "<none>",
                "<none>",
                "<unknown>",
                "<unknown>",
                "<unknown>"
            ])
        );
        let new = json!({"metadata": {"name": "n"}});
        assert_eq!(node_row(&View::root(&new), now())[1], "Unknown");
    }

    #[test]
    fn configuration() {
        let meta = json!({"name": "c", "creationTimestamp": "2026-01-01T00:00:00Z"});
        let map = json!({"metadata": meta, "data": {"a": "1"}, "binaryData": {"b": "AA=="}});
        assert_eq!(Value::from(config_map_row(&View::root(&map), now())), json!(["c", 2, "2d"]));
        let secret = json!({"metadata": meta, "type": "Opaque", "data": {"a": "MQ=="}});
        assert_eq!(Value::from(secret_row(&View::root(&secret), now())), json!(["c", "Opaque", 1, "2d"]));
        let lease = json!({"metadata": meta, "spec": {"holderIdentity": "me"}});
        assert_eq!(Value::from(lease_row(&View::root(&lease), now())), json!(["c", "me", "2d"]));
        let namespace = json!({"metadata": meta, "status": {"phase": "Active"}});
        assert_eq!(Value::from(namespace_row(&View::root(&namespace), now())), json!(["c", "Active", "2d"]));
    }

    #[test]
    fn signing_requests() {
        let cases = [
            (json!({}), "Pending"),
            (json!({"conditions": [{"type": "Approved"}]}), "Approved"),
            (json!({"conditions": [{"type": "Approved"}], "certificate": "LS0="}), "Approved,Issued"),
            (json!({"conditions": [{"type": "Approved"}, {"type": "Failed"}]}), "Approved,Failed"),
            (json!({"conditions": [{"type": "Denied"}]}), "Denied"),
        ];
        for (status, expected) in cases {
            let request = json!({"metadata": {"name": "r"}, "status": status,
                "spec": {"signerName": "kubernetes.io/kubelet-serving", "username": "system:node:a", "expirationSeconds": 7200}});
            let cells = signing_request_row(&View::root(&request), now());
            assert_eq!(
                Value::from(cells),
                json!(["r", "<unknown>", "kubernetes.io/kubelet-serving", "system:node:a", "120m", expected])
            );
        }
    }
}
