//! What the controllers read: one projection a kind, shared by all of them.
use std::sync::Arc;

use api::selectors::LabelSelector;
use chrono::{DateTime, Utc};
use client::{
    Meta,
    objects::{StringMap, nullable},
};
use serde::Deserialize;
use serde_json::Value;

/// An entry of `status.conditions`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, serde::Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Condition {
    /// What it is about.
    pub r#type: Box<str>,
    /// True, False or Unknown.
    pub status: Box<str>,
    /// For machines.
    pub reason: Box<str>,
    /// For people.
    pub message: Box<str>,
    /// When `status` changed last.
    pub last_transition_time: Option<DateTime<Utc>>,
    /// When anything in it changed last; Deployments have it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_update_time: Option<DateTime<Utc>>,
}

/// The condition of a type.
pub fn condition<'a>(conditions: &'a [Condition], r#type: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| *condition.r#type == *r#type)
}

/// A label selector, to match with and as it stands.
#[derive(Clone, Debug, Deserialize)]
#[serde(from = "Value")]
pub struct Selector {
    /// To match with; what cannot be read matches nothing.
    pub parsed: LabelSelector,
    /// As it stands.
    pub json: Value,
}

impl From<Value> for Selector {
    fn from(json: Value) -> Self {
        let parsed = LabelSelector::from_object(Some(&json)).unwrap_or_else(|_| LabelSelector::nothing());
        Self { parsed, json }
    }
}

impl Default for Selector {
    fn default() -> Self {
        Value::Null.into()
    }
}

impl Selector {
    /// Whether it selects an object.
    pub fn selects(&self, meta: &Meta) -> bool {
        self.parsed.matches(|key| meta.labels.get(key))
    }
}

// === pods ===

/// A pod.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Pod {
    /// Metadata.
    pub metadata: Meta,
    /// What is read of its spec.
    pub spec: PodSpec,
    /// What is read of its status.
    pub status: PodStatus,
}

/// What is read of a pod's spec.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PodSpec {
    /// Where it runs.
    #[serde(deserialize_with = "nullable")]
    pub node_name: Box<str>,
    /// Its name in DNS.
    pub hostname: Option<Box<str>>,
    /// Its domain in DNS: a headless Service.
    pub subdomain: Option<Box<str>>,
    /// Containers, for their ports.
    #[serde(deserialize_with = "nullable")]
    pub containers: Vec<Container>,
    /// Init containers, for the ports of sidecars.
    #[serde(deserialize_with = "nullable")]
    pub init_containers: Vec<Container>,
    /// Taints it puts up with.
    #[serde(deserialize_with = "nullable")]
    pub tolerations: Vec<Toleration>,
}

/// What is read of a container.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Container {
    /// Its ports.
    #[serde(deserialize_with = "nullable")]
    pub ports: Vec<ContainerPort>,
    /// `Always` makes an init container a sidecar.
    pub restart_policy: Option<Box<str>>,
}

/// A port of a container.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ContainerPort {
    /// Name.
    #[serde(deserialize_with = "nullable")]
    pub name: Box<str>,
    /// Number.
    pub container_port: i32,
    /// TCP, UDP or SCTP.
    pub protocol: Option<Box<str>>,
}

/// Which taints a pod puts up with, and for how long.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Toleration {
    /// Key; all if absent.
    pub key: Option<Box<str>>,
    /// Exists or Equal.
    pub operator: Option<Box<str>>,
    /// Value.
    pub value: Option<Box<str>>,
    /// Effect; all if absent.
    pub effect: Option<Box<str>>,
    /// How long; for ever if absent.
    pub toleration_seconds: Option<i64>,
}

/// What is read of a pod's status.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PodStatus {
    /// Pending, Running, Succeeded, Failed.
    #[serde(deserialize_with = "nullable")]
    pub phase: Box<str>,
    /// Conditions.
    #[serde(deserialize_with = "nullable")]
    pub conditions: Vec<Condition>,
    /// Addresses, the first family first.
    #[serde(rename = "podIPs", deserialize_with = "nullable")]
    pub pod_ips: Vec<PodIp>,
    /// The first address.
    #[serde(rename = "podIP", deserialize_with = "nullable")]
    pub pod_ip: Box<str>,
    /// Containers, for their restarts.
    #[serde(deserialize_with = "nullable")]
    pub container_statuses: Vec<ContainerStatus>,
}

/// An address of a pod.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct PodIp {
    /// The address.
    pub ip: Box<str>,
}

/// What is read of a container's status.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ContainerStatus {
    /// How often it was started again.
    pub restart_count: i64,
}

client::resource!(Pod: "" / "v1" / "pods", "Pod", namespaced, index {
    "node" => |pod: &Pod, add: &mut dyn FnMut(&str)| add(&pod.spec.node_name),
    "owner" => |pod: &Pod, add: &mut dyn FnMut(&str)| if let Some(owner) = pod.metadata.controller() { add(&owner.uid) },
    "orphan" => |pod: &Pod, add: &mut dyn FnMut(&str)| if pod.metadata.controller().is_none() { add(&pod.metadata.namespace) },
});

impl Pod {
    /// It has ended for good.
    pub fn is_finished(&self) -> bool {
        matches!(&*self.status.phase, "Succeeded" | "Failed")
    }

    /// It counts towards its owner's replicas.
    pub fn is_active(&self) -> bool {
        !self.is_finished() && !self.metadata.is_deleting()
    }

    /// It passes its readiness probes.
    pub fn is_ready(&self) -> bool {
        condition(&self.status.conditions, "Ready").is_some_and(|ready| &*ready.status == "True")
    }

    /// Since when it is ready.
    pub fn ready_since(&self) -> Option<DateTime<Utc>> {
        let ready = condition(&self.status.conditions, "Ready").filter(|ready| &*ready.status == "True")?;
        ready.last_transition_time
    }

    /// Restarts of its container that restarted most.
    pub fn restarts(&self) -> i64 {
        self.status.container_statuses.iter().map(|status| status.restart_count).max().unwrap_or_default()
    }
}

// === nodes ===

/// A node.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Node {
    /// Metadata.
    pub metadata: Meta,
    /// What is read of its spec.
    pub spec: NodeSpec,
    /// What is read of its status.
    pub status: NodeStatus,
}

/// What is read of a node's spec.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct NodeSpec {
    /// Its range of pod addresses.
    #[serde(rename = "podCIDR", deserialize_with = "nullable")]
    pub pod_cidr: Box<str>,
    /// The same, and those of other families.
    #[serde(rename = "podCIDRs", deserialize_with = "nullable")]
    pub pod_cidrs: Vec<Box<str>>,
    /// Cordoned.
    #[serde(deserialize_with = "nullable")]
    pub unschedulable: bool,
    /// Its taints, as they stand.
    #[serde(deserialize_with = "nullable")]
    pub taints: Vec<Taint>,
}

/// A taint of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, serde::Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Taint {
    /// Key.
    pub key: Box<str>,
    /// Value.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub value: Box<str>,
    /// NoSchedule, PreferNoSchedule or NoExecute.
    pub effect: Box<str>,
    /// Since when.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time_added: Option<DateTime<Utc>>,
}

/// What is read of a node's status.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct NodeStatus {
    /// Conditions.
    #[serde(deserialize_with = "nullable")]
    pub conditions: Vec<Condition>,
}

client::resource!(Node: "" / "v1" / "nodes", "Node", cluster);

// === workloads ===

/// A ReplicaSet.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ReplicaSet {
    /// Metadata.
    pub metadata: Meta,
    /// Its spec.
    pub spec: ReplicaSetSpec,
    /// Its status.
    pub status: ReplicaSetStatus,
}

/// A ReplicaSet's spec.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ReplicaSetSpec {
    /// How many pods.
    pub replicas: Option<i64>,
    /// How long a pod must be ready to be available.
    #[serde(deserialize_with = "nullable")]
    pub min_ready_seconds: i64,
    /// Which pods are its own.
    pub selector: Selector,
    /// What its pods look like.
    pub template: Arc<Value>,
}

/// A ReplicaSet's status.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ReplicaSetStatus {
    /// Pods.
    pub replicas: i64,
    /// Pods with all labels of the template.
    pub fully_labeled_replicas: i64,
    /// Ready pods.
    pub ready_replicas: i64,
    /// Pods ready for long enough.
    pub available_replicas: i64,
    /// The generation that this is about.
    pub observed_generation: i64,
    /// Conditions.
    #[serde(deserialize_with = "nullable")]
    pub conditions: Vec<Condition>,
}

client::resource!(ReplicaSet: "apps" / "v1" / "replicasets", "ReplicaSet", namespaced, index {
    "owner" => |set: &ReplicaSet, add: &mut dyn FnMut(&str)| if let Some(owner) = set.metadata.controller() { add(&owner.uid) },
    "orphan" => |set: &ReplicaSet, add: &mut dyn FnMut(&str)| if set.metadata.controller().is_none() { add(&set.metadata.namespace) },
});

impl ReplicaSet {
    /// How many pods it shall have.
    pub fn replicas(&self) -> i64 {
        self.spec.replicas.unwrap_or(1)
    }
}

/// A Deployment.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Deployment {
    /// Metadata.
    pub metadata: Meta,
    /// Its spec.
    pub spec: DeploymentSpec,
    /// Its status.
    pub status: DeploymentStatus,
}

/// A Deployment's spec.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct DeploymentSpec {
    /// How many pods.
    pub replicas: Option<i64>,
    /// Which pods and sets are its own.
    pub selector: Selector,
    /// What its pods look like.
    pub template: Arc<Value>,
    /// How pods are replaced.
    pub strategy: Strategy,
    /// How long a pod must be ready to be available.
    #[serde(deserialize_with = "nullable")]
    pub min_ready_seconds: i64,
    /// Old sets to keep.
    pub revision_history_limit: Option<usize>,
    /// No rollout for now.
    #[serde(deserialize_with = "nullable")]
    pub paused: bool,
    /// After how long without progress the rollout counts as failed.
    pub progress_deadline_seconds: Option<i64>,
}

/// How pods are replaced.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Strategy {
    /// RollingUpdate or Recreate.
    #[serde(deserialize_with = "nullable")]
    pub r#type: Box<str>,
    /// Bounds of a rolling update.
    pub rolling_update: Option<RollingUpdate>,
}

/// Bounds of a rolling update, as numbers or percentages.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct RollingUpdate {
    /// Pods above the desired number.
    pub max_surge: Option<Value>,
    /// Pods below it that may be missing.
    pub max_unavailable: Option<Value>,
}

/// A Deployment's status.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct DeploymentStatus {
    /// The generation that this is about.
    pub observed_generation: i64,
    /// Pods.
    pub replicas: i64,
    /// Pods of the newest template.
    pub updated_replicas: i64,
    /// Ready pods.
    pub ready_replicas: i64,
    /// Pods ready for long enough.
    pub available_replicas: i64,
    /// Desired pods that are not available.
    pub unavailable_replicas: i64,
    /// Collisions of template hashes seen so far.
    pub collision_count: Option<i64>,
    /// Conditions.
    #[serde(deserialize_with = "nullable")]
    pub conditions: Vec<Condition>,
}

client::resource!(Deployment: "apps" / "v1" / "deployments", "Deployment", namespaced);

impl Deployment {
    /// How many pods it shall have.
    pub fn replicas(&self) -> i64 {
        self.spec.replicas.unwrap_or(1)
    }
}

// === services ===

/// A Service.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Service {
    /// Metadata.
    pub metadata: Meta,
    /// What is read of its spec.
    pub spec: ServiceSpec,
}

/// What is read of a Service's spec.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ServiceSpec {
    /// Labels of its pods; without any its endpoints are somebody else's.
    #[serde(deserialize_with = "nullable")]
    pub selector: StringMap,
    /// Its ports.
    #[serde(deserialize_with = "nullable")]
    pub ports: Vec<ServicePort>,
    /// Its address; `None` for headless ones.
    #[serde(rename = "clusterIP", deserialize_with = "nullable")]
    pub cluster_ip: Box<str>,
    /// IPv4, IPv6.
    #[serde(deserialize_with = "nullable")]
    pub ip_families: Vec<Box<str>>,
    /// Pods count before they are ready.
    #[serde(deserialize_with = "nullable")]
    pub publish_not_ready_addresses: bool,
    /// ClusterIP, NodePort, LoadBalancer, ExternalName.
    #[serde(deserialize_with = "nullable")]
    pub r#type: Box<str>,
}

/// A port of a Service.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ServicePort {
    /// Name.
    #[serde(deserialize_with = "nullable")]
    pub name: Box<str>,
    /// TCP, UDP or SCTP.
    pub protocol: Option<Box<str>>,
    /// The Service's number.
    pub port: i32,
    /// The pods' number or name; the Service's number if absent.
    pub target_port: Value,
    /// What is spoken on it.
    pub app_protocol: Option<Box<str>>,
}

client::resource!(Service: "" / "v1" / "services", "Service", namespaced);

// === namespaces and what each has ===

/// A namespace.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Namespace {
    /// Metadata.
    pub metadata: Meta,
    /// What is read of its spec.
    pub spec: NamespaceSpec,
    /// What is read of its status.
    pub status: NamespaceStatus,
}

/// What is read of a namespace's spec.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct NamespaceSpec {
    /// What must happen before it is gone.
    #[serde(deserialize_with = "nullable")]
    pub finalizers: Vec<Box<str>>,
}

/// What is read of a namespace's status.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct NamespaceStatus {
    /// Active or Terminating.
    #[serde(deserialize_with = "nullable")]
    pub phase: Box<str>,
    /// What blocks its deletion.
    #[serde(deserialize_with = "nullable")]
    pub conditions: Vec<Condition>,
}

client::resource!(Namespace: "" / "v1" / "namespaces", "Namespace", cluster);

/// A service account, of which only the existence matters.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct ServiceAccount {
    /// Metadata.
    pub metadata: Meta,
}

client::resource!(ServiceAccount: "" / "v1" / "serviceaccounts", "ServiceAccount", namespaced);

/// A ConfigMap with an authority's certificate.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct ConfigMap {
    /// Metadata.
    pub metadata: Meta,
    /// Its data.
    #[serde(deserialize_with = "nullable")]
    pub data: StringMap,
}

client::resource!(ConfigMap: "" / "v1" / "configmaps", "ConfigMap", namespaced);
