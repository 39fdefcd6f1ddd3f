//! Projections of what the network is made of: the few fields that netplan asks for, of every object of the cluster.

use std::sync::Arc;

use client::{Meta, objects::nullable};
use netplan::Labels;
use serde::{Deserialize, Deserializer};

/// A pod of any node.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, from = "RawPod")]
pub(super) struct Pod {
    pub(super) metadata: Meta,
    pub(super) labels: Labels,
    pub(super) spec: PodSpec,
    pub(super) status: PodStatus,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct PodSpec {
    #[serde(deserialize_with = "client::objects::shared_str")]
    pub(super) node_name: Arc<str>,
    #[serde(deserialize_with = "nullable")]
    pub(super) host_network: bool,
    #[serde(deserialize_with = "nullable")]
    pub(super) containers: Vec<Container>,
    #[serde(deserialize_with = "nullable")]
    pub(super) init_containers: Vec<Container>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Container {
    #[serde(deserialize_with = "nullable")]
    pub(super) ports: Vec<ContainerPort>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct ContainerPort {
    #[serde(deserialize_with = "nullable")]
    pub(super) name: Box<str>,
    pub(super) container_port: u16,
    #[serde(deserialize_with = "nullable")]
    pub(super) protocol: Protocol,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct PodStatus {
    #[serde(deserialize_with = "nullable")]
    pub(super) phase: Phase,
    #[serde(rename = "podIP", deserialize_with = "nullable")]
    pub(super) pod_ip: Box<str>,
    #[serde(rename = "podIPs", deserialize_with = "nullable")]
    pub(super) pod_ips: Vec<PodIp>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct PodIp {
    pub(super) ip: Box<str>,
}

/// Whether a pod's address is still its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub(super) enum Phase {
    Succeeded,
    Failed,
    #[default]
    #[serde(other)]
    Alive,
}

/// Transport protocol; TCP where nothing is said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub(super) enum Protocol {
    #[default]
    Tcp,
    Udp,
    Sctp,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawPod {
    metadata: Meta,
    spec: PodSpec,
    status: PodStatus,
}

/// A namespace.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, from = "RawNamespace")]
pub(super) struct Namespace {
    pub(super) metadata: Meta,
    pub(super) labels: Labels,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawNamespace {
    metadata: Meta,
}

/// A node.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct Node {
    #[serde(deserialize_with = "lean")]
    pub(super) metadata: Meta,
    #[serde(deserialize_with = "nullable")]
    pub(super) spec: NodeSpec,
    #[serde(deserialize_with = "nullable")]
    pub(super) status: NodeStatus,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct NodeSpec {
    #[serde(rename = "podCIDR", deserialize_with = "nullable")]
    pub(super) pod_cidr: Box<str>,
    #[serde(rename = "podCIDRs", deserialize_with = "nullable")]
    pub(super) pod_cidrs: Vec<Box<str>>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct NodeStatus {
    #[serde(deserialize_with = "nullable")]
    pub(super) addresses: Vec<NodeAddress>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct NodeAddress {
    #[serde(rename = "type")]
    pub(super) kind: Box<str>,
    pub(super) address: Box<str>,
}

/// A Service.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct Service {
    #[serde(deserialize_with = "lean")]
    pub(super) metadata: Meta,
    #[serde(deserialize_with = "nullable")]
    pub(super) spec: ServiceSpec,
    #[serde(deserialize_with = "nullable")]
    pub(super) status: ServiceStatus,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct ServiceSpec {
    #[serde(rename = "clusterIP", deserialize_with = "nullable")]
    pub(super) cluster_ip: Box<str>,
    #[serde(rename = "clusterIPs", deserialize_with = "nullable")]
    pub(super) cluster_ips: Vec<Box<str>>,
    #[serde(rename = "externalIPs", deserialize_with = "nullable")]
    pub(super) external_ips: Vec<Box<str>>,
    #[serde(deserialize_with = "nullable")]
    pub(super) ports: Vec<ServicePort>,
    #[serde(deserialize_with = "nullable")]
    pub(super) session_affinity: Box<str>,
    #[serde(deserialize_with = "nullable")]
    pub(super) session_affinity_config: SessionAffinityConfig,
    #[serde(deserialize_with = "nullable")]
    pub(super) internal_traffic_policy: Box<str>,
    #[serde(deserialize_with = "nullable")]
    pub(super) external_traffic_policy: Box<str>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct ServicePort {
    #[serde(deserialize_with = "nullable")]
    pub(super) name: Box<str>,
    #[serde(deserialize_with = "nullable")]
    pub(super) protocol: Protocol,
    pub(super) port: u16,
    #[serde(deserialize_with = "nullable")]
    pub(super) node_port: u16,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct SessionAffinityConfig {
    #[serde(rename = "clientIP", deserialize_with = "nullable")]
    pub(super) client_ip: ClientIpConfig,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct ClientIpConfig {
    pub(super) timeout_seconds: Option<u32>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct ServiceStatus {
    #[serde(deserialize_with = "nullable")]
    pub(super) load_balancer: LoadBalancerStatus,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct LoadBalancerStatus {
    #[serde(deserialize_with = "nullable")]
    pub(super) ingress: Vec<LoadBalancerIngress>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct LoadBalancerIngress {
    #[serde(deserialize_with = "nullable")]
    pub(super) ip: Box<str>,
}

/// A part of a Service's endpoints.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct EndpointSlice {
    #[serde(deserialize_with = "lean")]
    pub(super) metadata: Meta,
    #[serde(deserialize_with = "nullable")]
    pub(super) endpoints: Vec<Endpoint>,
    #[serde(deserialize_with = "nullable")]
    pub(super) ports: Vec<EndpointPort>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Endpoint {
    #[serde(deserialize_with = "nullable")]
    pub(super) addresses: Vec<Box<str>>,
    #[serde(deserialize_with = "nullable")]
    pub(super) conditions: Conditions,
    pub(super) node_name: Option<Arc<str>>,
    pub(super) target_ref: Option<TargetRef>,
}

/// Which object an endpoint is.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct TargetRef {
    #[serde(deserialize_with = "nullable")]
    pub(super) kind: Box<str>,
    #[serde(deserialize_with = "nullable")]
    pub(super) name: Box<str>,
    #[serde(deserialize_with = "nullable")]
    pub(super) uid: Box<str>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(super) struct Conditions {
    pub(super) ready: Option<bool>,
    pub(super) serving: Option<bool>,
    pub(super) terminating: Option<bool>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct EndpointPort {
    #[serde(deserialize_with = "nullable")]
    pub(super) name: Box<str>,
    #[serde(deserialize_with = "nullable")]
    pub(super) protocol: Protocol,
    /// Without one the slice says nothing about the port.
    pub(super) port: Option<u16>,
}

/// A NetworkPolicy.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct NetworkPolicy {
    #[serde(deserialize_with = "lean")]
    pub(super) metadata: Meta,
    #[serde(deserialize_with = "nullable")]
    pub(super) spec: PolicySpec,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct PolicySpec {
    #[serde(deserialize_with = "nullable")]
    pub(super) pod_selector: Selector,
    pub(super) policy_types: Option<Vec<Box<str>>>,
    #[serde(deserialize_with = "nullable")]
    pub(super) ingress: Vec<IngressRule>,
    pub(super) egress: Option<Vec<EgressRule>>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct IngressRule {
    #[serde(deserialize_with = "nullable")]
    pub(super) from: Vec<PolicyPeer>,
    #[serde(deserialize_with = "nullable")]
    pub(super) ports: Vec<PolicyPort>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct EgressRule {
    #[serde(deserialize_with = "nullable")]
    pub(super) to: Vec<PolicyPeer>,
    #[serde(deserialize_with = "nullable")]
    pub(super) ports: Vec<PolicyPort>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct PolicyPeer {
    pub(super) pod_selector: Option<Selector>,
    pub(super) namespace_selector: Option<Selector>,
    pub(super) ip_block: Option<IpBlock>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct IpBlock {
    pub(super) cidr: Box<str>,
    #[serde(deserialize_with = "nullable")]
    pub(super) except: Vec<Box<str>>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct PolicyPort {
    #[serde(deserialize_with = "nullable")]
    pub(super) protocol: Protocol,
    pub(super) port: Option<IntOrName>,
    pub(super) end_port: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub(super) enum IntOrName {
    Int(u16),
    Name(Box<str>),
}

/// A label selector as objects hold it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Selector {
    #[serde(deserialize_with = "nullable")]
    pub(super) match_labels: client::objects::StringMap,
    #[serde(deserialize_with = "nullable")]
    pub(super) match_expressions: Vec<Expression>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct Expression {
    pub(super) key: String,
    pub(super) operator: String,
    #[serde(deserialize_with = "nullable")]
    pub(super) values: Vec<String>,
}

client::resource!(Pod: "" / "v1" / "pods", "Pod", namespaced);
client::resource!(Namespace: "" / "v1" / "namespaces", "Namespace", cluster);
client::resource!(Node: "" / "v1" / "nodes", "Node", cluster);
client::resource!(Service: "" / "v1" / "services", "Service", namespaced);
client::resource!(EndpointSlice: "discovery.k8s.io" / "v1" / "endpointslices", "EndpointSlice", namespaced);
client::resource!(NetworkPolicy: "networking.k8s.io" / "v1" / "networkpolicies", "NetworkPolicy", namespaced);

impl Endpoint {
    /// Whether it says that it is a pod.
    pub(super) fn is_pod(&self) -> bool {
        self.target_ref.as_ref().is_some_and(|target| &*target.kind == "Pod")
    }
}

impl From<RawPod> for Pod {
    fn from(mut raw: RawPod) -> Self {
        let labels = take_labels(&mut raw.metadata);
        Pod { metadata: raw.metadata, labels, spec: raw.spec, status: raw.status }
    }
}

impl From<RawNamespace> for Namespace {
    fn from(mut raw: RawNamespace) -> Self {
        let labels = take_labels(&mut raw.metadata);
        Namespace { metadata: raw.metadata, labels }
    }
}

impl From<Protocol> for netplan::snapshot::Protocol {
    fn from(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Tcp => Self::Tcp,
            Protocol::Udp => Self::Udp,
            Protocol::Sctp => Self::Sctp,
        }
    }
}

/// Labels in the form that netplan keeps, instead of the metadata's own.
fn take_labels(meta: &mut Meta) -> Labels {
    let labels = Labels::new(meta.labels.iter());
    meta.labels = Default::default();
    drop_unread(meta);
    labels
}

/// Metadata without what nobody here reads: annotations alone are often larger than the rest.
fn lean<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Meta, D::Error> {
    let mut meta: Meta = nullable(deserializer)?;
    drop_unread(&mut meta);
    Ok(meta)
}

fn drop_unread(meta: &mut Meta) {
    meta.annotations = Default::default();
    meta.finalizers = Vec::new();
    meta.owner_references = Vec::new();
}
