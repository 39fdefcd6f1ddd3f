//! What the scheduler reads of pods and nodes, in the shape in which it decides.
use api::selectors::{Operator, Requirement};
use client::{
    Meta,
    objects::{StringMap, nullable},
};
use serde::Deserialize;

use crate::resources::{ResourceList, Resources};

/// A pod.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(from = "RawPod")]
pub struct Pod {
    /// Metadata, without annotations.
    pub metadata: Meta,
    /// Where it runs; empty while it waits.
    pub node_name: Box<str>,
    /// Who is to schedule it.
    pub scheduler_name: Box<str>,
    /// Higher goes first.
    pub priority: i64,
    /// It must not be scheduled yet.
    pub gated: bool,
    /// It has ended: it holds nothing any more.
    pub finished: bool,
    /// What it asks for.
    pub requests: Resources,
    /// Ports it takes on its node.
    pub host_ports: Vec<HostPort>,
    /// Labels its node must have.
    pub node_selector: StringMap,
    /// Terms of which its node must match one, if there are any.
    pub required_nodes: Option<Vec<NodeTerm>>,
    /// Terms its node should match, with their weights.
    pub preferred_nodes: Vec<(i64, NodeTerm)>,
    /// Taints it puts up with.
    pub tolerations: Vec<Toleration>,
    /// Message of its PodScheduled condition, if that is False.
    pub unscheduled_message: Box<str>,
}

/// A port of the node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostPort {
    /// TCP, UDP or SCTP.
    pub protocol: Box<str>,
    /// Address; empty for all.
    pub ip: Box<str>,
    /// Number.
    pub port: u16,
}

/// Requirements that a node must all meet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeTerm {
    /// Of its labels.
    pub labels: Vec<Requirement>,
    /// Of its name.
    pub names: Vec<Requirement>,
}

/// A taint of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Taint {
    /// Key.
    pub key: Box<str>,
    /// Value.
    pub value: Box<str>,
    /// NoSchedule, PreferNoSchedule or NoExecute.
    pub effect: Box<str>,
}

/// Which taints a pod puts up with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Toleration {
    key: Option<Box<str>>,
    operator: Option<Box<str>>,
    value: Option<Box<str>>,
    effect: Option<Box<str>>,
}

/// A node.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(from = "RawNode")]
pub struct Node {
    /// Metadata, without annotations.
    pub metadata: Meta,
    /// Cordoned.
    pub unschedulable: bool,
    /// Its taints.
    pub taints: Vec<Taint>,
    /// What pods may use of it.
    pub allocatable: Resources,
}

client::resource!(Pod: "" / "v1" / "pods", "Pod", namespaced);
client::resource!(Node: "" / "v1" / "nodes", "Node", cluster);

// === decisions on one field ===

impl Toleration {
    /// Whether it covers the taint.
    pub fn tolerates(&self, taint: &Taint) -> bool {
        let text = |field: &Option<Box<str>>| field.clone().unwrap_or_default();
        let (key, effect) = (text(&self.key), text(&self.effect));
        if (!effect.is_empty() && effect != taint.effect) || (!key.is_empty() && key != taint.key) {
            return false;
        }
        match self.operator.as_deref() {
            Some("Exists") => true,
            None | Some("" | "Equal") => !key.is_empty() && text(&self.value) == taint.value,
            Some(_) => false,
        }
    }
}

impl NodeTerm {
    /// Whether a node matches. A term without requirements matches no node.
    pub fn matches(&self, name: &str, labels: &StringMap) -> bool {
        let empty = self.labels.is_empty() && self.names.is_empty();
        !empty
            && self.labels.iter().all(|requirement| requirement.matches(labels.get(&requirement.key)))
            && self.names.iter().all(|requirement| requirement.matches(Some(name)))
    }
}

impl HostPort {
    /// Whether two pods of one node cannot have both.
    pub fn conflicts(&self, other: &Self) -> bool {
        let any = |ip: &str| matches!(ip, "" | "0.0.0.0" | "::");
        self.port == other.port
            && self.protocol == other.protocol
            && (self.ip == other.ip || any(&self.ip) || any(&other.ip))
    }
}

// === as the API sends them ===

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawPod {
    metadata: Meta,
    spec: RawSpec,
    status: RawStatus,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct RawSpec {
    node_name: Option<Box<str>>,
    scheduler_name: Option<Box<str>>,
    priority: Option<i64>,
    scheduling_gates: Option<Vec<serde::de::IgnoredAny>>,
    #[serde(deserialize_with = "nullable")]
    containers: Vec<RawContainer>,
    #[serde(deserialize_with = "nullable")]
    init_containers: Vec<RawContainer>,
    resources: Option<RawResources>,
    overhead: Option<ResourceList>,
    #[serde(deserialize_with = "nullable")]
    node_selector: StringMap,
    affinity: Option<RawAffinity>,
    #[serde(deserialize_with = "nullable")]
    tolerations: Vec<Toleration>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct RawContainer {
    resources: Option<RawResources>,
    restart_policy: Option<Box<str>>,
    #[serde(deserialize_with = "nullable")]
    ports: Vec<RawPort>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawResources {
    requests: Option<ResourceList>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct RawPort {
    host_port: Option<u16>,
    #[serde(rename = "hostIP")]
    host_ip: Option<Box<str>>,
    protocol: Option<Box<str>>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct RawAffinity {
    node_affinity: Option<RawNodeAffinity>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawNodeAffinity {
    #[serde(rename = "requiredDuringSchedulingIgnoredDuringExecution")]
    required: Option<RawSelector>,
    #[serde(rename = "preferredDuringSchedulingIgnoredDuringExecution")]
    preferred: Option<Vec<RawPreferred>>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct RawSelector {
    #[serde(deserialize_with = "nullable")]
    node_selector_terms: Vec<RawTerm>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawPreferred {
    weight: i64,
    preference: RawTerm,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct RawTerm {
    #[serde(deserialize_with = "nullable")]
    match_expressions: Vec<RawRequirement>,
    #[serde(deserialize_with = "nullable")]
    match_fields: Vec<RawRequirement>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawRequirement {
    key: String,
    operator: String,
    #[serde(deserialize_with = "nullable")]
    values: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawStatus {
    phase: Option<Box<str>>,
    #[serde(deserialize_with = "nullable")]
    conditions: Vec<RawCondition>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawCondition {
    r#type: Box<str>,
    status: Box<str>,
    message: Option<Box<str>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawNode {
    metadata: Meta,
    spec: RawNodeSpec,
    status: RawNodeStatus,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawNodeSpec {
    unschedulable: Option<bool>,
    #[serde(deserialize_with = "nullable")]
    taints: Vec<Taint>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawNodeStatus {
    allocatable: Option<ResourceList>,
    capacity: Option<ResourceList>,
}

// === from the one to the other ===

impl From<RawPod> for Pod {
    fn from(raw: RawPod) -> Self {
        let RawPod { metadata, spec, status } = raw;
        let affinity = spec.affinity.and_then(|affinity| affinity.node_affinity).unwrap_or_default();
        let scheduled =
            status.conditions.into_iter().find(|c| &*c.r#type == "PodScheduled" && &*c.status == "False");
        Self {
            requests: requests(&spec.containers, &spec.init_containers, &spec.resources, &spec.overhead),
            host_ports: host_ports(&spec.containers, &spec.init_containers),
            metadata: Meta { annotations: StringMap::default(), ..metadata },
            node_name: spec.node_name.unwrap_or_default(),
            scheduler_name: spec.scheduler_name.unwrap_or_default(),
            priority: spec.priority.unwrap_or_default(),
            gated: spec.scheduling_gates.is_some_and(|gates| !gates.is_empty()),
            finished: matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")),
            node_selector: spec.node_selector,
            required_nodes: affinity
                .required
                .map(|selector| selector.node_selector_terms.into_iter().map(NodeTerm::from).collect()),
            preferred_nodes: affinity
                .preferred
                .into_iter()
                .flatten()
                .map(|preferred| (preferred.weight, preferred.preference.into()))
                .collect(),
            tolerations: spec.tolerations,
            unscheduled_message: scheduled.and_then(|condition| condition.message).unwrap_or_default(),
        }
    }
}

/// What a pod needs at its worst moment: all containers at once, or one init container beside the sidecars that were
/// started before it. Pod-level requests replace the sum; the runtime's overhead comes on top.
fn requests(
    containers: &[RawContainer],
    init: &[RawContainer],
    pod_level: &Option<RawResources>,
    overhead: &Option<ResourceList>,
) -> Resources {
    let mut running = Resources::default();
    let mut peak = Resources::default();
    for container in init {
        let own = requested(&container.resources);
        if container.restart_policy.as_deref() == Some("Always") {
            running.add(&own);
            peak.max(&running);
        } else {
            let mut moment = running.clone();
            moment.add(&own);
            peak.max(&moment);
        }
    }
    containers.iter().for_each(|container| running.add(&requested(&container.resources)));
    peak.max(&running);
    peak.overlay(&requested(pod_level));
    if let Some(overhead) = overhead {
        peak.add(&overhead.into());
    }
    peak.pods = 1;
    peak
}

fn requested(resources: &Option<RawResources>) -> Resources {
    let requests = resources.as_ref().and_then(|resources| resources.requests.as_ref());
    requests.map(Resources::from).unwrap_or_default()
}

fn host_ports(containers: &[RawContainer], init: &[RawContainer]) -> Vec<HostPort> {
    let sidecars = init.iter().filter(|container| container.restart_policy.as_deref() == Some("Always"));
    let ports = containers.iter().chain(sidecars).flat_map(|container| &container.ports);
    let taken = ports.filter_map(|port| {
        let number = port.host_port.filter(|number| *number != 0)?;
        let protocol = port.protocol.clone().filter(|protocol| !protocol.is_empty());
        Some(HostPort {
            protocol: protocol.unwrap_or_else(|| "TCP".into()),
            ip: port.host_ip.clone().unwrap_or_default(),
            port: number,
        })
    });
    taken.collect()
}

impl From<RawTerm> for NodeTerm {
    fn from(raw: RawTerm) -> Self {
        // The only field that may be named is metadata.name.
        let each = |list: Vec<RawRequirement>| list.into_iter().map(Requirement::from).collect();
        Self { labels: each(raw.match_expressions), names: each(raw.match_fields) }
    }
}

impl From<RawRequirement> for Requirement {
    fn from(raw: RawRequirement) -> Self {
        let (operator, values) = match raw.operator.as_str() {
            "In" => (Operator::In, raw.values),
            "NotIn" => (Operator::NotIn, raw.values),
            "Exists" => (Operator::Exists, raw.values),
            "DoesNotExist" => (Operator::DoesNotExist, raw.values),
            "Gt" => (Operator::GreaterThan, raw.values),
            "Lt" => (Operator::LessThan, raw.values),
            // Validation lets no other pass; were there one, it would match nothing.
            _ => (Operator::In, Vec::new()),
        };
        Self { key: raw.key, operator, values }
    }
}

impl From<RawNode> for Node {
    fn from(raw: RawNode) -> Self {
        let RawNode { metadata, spec, status } = raw;
        let allocatable = status.allocatable.or(status.capacity).unwrap_or_default();
        Self {
            metadata: Meta { annotations: StringMap::default(), ..metadata },
            unschedulable: spec.unschedulable.unwrap_or_default(),
            taints: spec.taints,
            allocatable: (&allocatable).into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(spec: Value) -> Pod {
        serde_json::from_value(json!({ "metadata": { "name": "p" }, "spec": spec })).unwrap()
    }

    fn cpu(requests: &str) -> Value {
        json!({ "requests": { "cpu": requests } })
    }

    #[test]
    fn requests_are_those_of_the_worst_moment() {
        let check =
            |spec: Value, expected: i64| assert_eq!(pod(spec.clone()).requests.cpu_milli, expected, "{spec}");
        let containers = json!([{ "resources": cpu("100m") }, { "resources": cpu("200m") }, {}]);
        check(json!({ "containers": containers }), 300);
        check(json!({ "containers": containers, "initContainers": [{ "resources": cpu("1") }] }), 1000);
        let sidecar = json!({ "resources": cpu("50m"), "restartPolicy": "Always" });
        check(
            json!({ "containers": containers, "initContainers": [sidecar, { "resources": cpu("280m") }] }),
            350,
        );
        check(
            json!({ "containers": containers, "initContainers": [sidecar, { "resources": cpu("1") }] }),
            1050,
        );
        check(json!({ "containers": containers, "resources": cpu("2"), "overhead": { "cpu": "10m" } }), 2010);
    }

    #[test]
    fn tolerations() {
        let taint = Taint { key: "k".into(), value: "v".into(), effect: "NoSchedule".into() };
        let check = |toleration: Value, expected: bool| {
            let parsed: Toleration = serde_json::from_value(toleration.clone()).unwrap();
            assert_eq!(parsed.tolerates(&taint), expected, "{toleration}");
        };
        check(json!({ "key": "k", "operator": "Equal", "value": "v", "effect": "NoSchedule" }), true);
        check(json!({ "key": "k", "value": "v" }), true);
        check(json!({ "key": "k", "value": "other" }), false);
        check(json!({ "key": "k", "operator": "Exists" }), true);
        check(json!({ "operator": "Exists" }), true);
        check(json!({ "operator": "Exists", "effect": "NoExecute" }), false);
        check(json!({ "key": "other", "operator": "Exists" }), false);
        check(json!({}), false);
    }

    #[test]
    fn node_terms() {
        let labels = StringMap::from([("zone", "a"), ("gen", "7")]);
        let check = |term: Value, expected: bool| {
            let raw: RawTerm = serde_json::from_value(term.clone()).unwrap();
            assert_eq!(NodeTerm::from(raw).matches("n1", &labels), expected, "{term}");
        };
        let expression = |key: &str, operator: &str, values: &[&str]| json!({ "matchExpressions": [{ "key": key, "operator": operator, "values": values }] });
        check(expression("zone", "In", &["a", "b"]), true);
        check(expression("zone", "NotIn", &["a"]), false);
        check(expression("x", "NotIn", &["a"]), true);
        check(expression("zone", "Exists", &[]), true);
        check(expression("x", "DoesNotExist", &[]), true);
        check(expression("gen", "Gt", &["6"]), true);
        check(expression("gen", "Lt", &["6"]), false);
        check(
            json!({ "matchFields": [{ "key": "metadata.name", "operator": "In", "values": ["n1"] }] }),
            true,
        );
        check(
            json!({ "matchFields": [{ "key": "metadata.name", "operator": "In", "values": ["n2"] }] }),
            false,
        );
        check(json!({}), false);
    }

    #[test]
    fn ports_conflict_by_address() {
        let port = |ip: &str, port| HostPort { protocol: "TCP".into(), ip: ip.into(), port };
        assert!(port("", 80).conflicts(&port("10.0.0.1", 80)));
        assert!(port("10.0.0.1", 80).conflicts(&port("0.0.0.0", 80)));
        assert!(!port("10.0.0.1", 80).conflicts(&port("10.0.0.2", 80)));
        assert!(!port("", 80).conflicts(&port("", 81)));
        let parsed =
            pod(json!({ "containers": [{ "ports": [{ "containerPort": 1 }, { "hostPort": 80 }] }] }));
        assert_eq!(parsed.host_ports, [port("", 80)]);
    }
}
