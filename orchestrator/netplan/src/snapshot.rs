//! What a node must know to program its kernel, in plain types: the input of `compile`.
//!
//! Lists hold `Arc`s so that an unchanged object costs nothing in the next snapshot and is recognised by its address.
//! Lists need no order; the compilers sort where order matters.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use ipnet::IpNet;

use crate::selector::{Labels, Selector};

/// Everything that decides what the maps hold, at one revision of the API.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// The revision of the newest input; the kernel holds it once the plan is applied.
    pub revision: u64,
    /// The name of the node this is compiled for.
    pub node: Arc<str>,
    /// What holds for the whole cluster.
    pub cluster: Cluster,
    /// All nodes, this one too.
    pub nodes: Vec<Arc<Node>>,
    /// All namespaces.
    pub namespaces: Vec<Arc<Namespace>>,
    /// All pods of the cluster that have an address and still run.
    pub pods: Vec<Arc<Pod>>,
    /// The pods that this node's CNI has given a device.
    pub endpoints: Vec<Arc<LocalEndpoint>>,
    /// All Services that have an address.
    pub services: Vec<Arc<Service>>,
    /// All EndpointSlices that belong to a Service.
    pub slices: Vec<Arc<EndpointSlice>>,
    /// All NetworkPolicies.
    pub policies: Vec<Arc<NetworkPolicy>>,
}

/// Facts of the cluster that no single object carries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cluster {
    /// Where pod addresses come from; an address inside that no pod has is *unknown*, never *world*.
    pub pod_cidrs: Vec<IpNet>,
    /// Where ClusterIPs come from.
    pub service_cidrs: Vec<IpNet>,
    /// How packets for another node's pods travel.
    pub routing: Routing,
}

/// How packets for another node's pods travel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Routing {
    /// Encapsulated, to the node's address.
    #[default]
    Vxlan,
    /// As they are, by the node's routes.
    Native,
}

/// One node of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: Arc<str>,
    /// Addresses of its own devices (InternalIP, ExternalIP); the first of a family is its tunnel endpoint.
    pub addresses: Vec<IpAddr>,
    /// Its share of the pod CIDRs; the first usable address of each is its overlay address.
    pub pod_cidrs: Vec<IpNet>,
}

/// One namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// Its name.
    pub name: Arc<str>,
    /// Its labels, `kubernetes.io/metadata.name` among them.
    pub labels: Labels,
}

/// One running pod, as far as others see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// Its uid: a pod of the same name may follow it.
    pub uid: Arc<str>,
    /// Its labels.
    pub labels: Labels,
    /// Its addresses, at most one of each family.
    pub addresses: Vec<IpAddr>,
    /// The node it runs on.
    pub node: Arc<str>,
    /// It lives at the node's addresses, and no policy sees it.
    pub host_network: bool,
    /// Ports of its containers that have a name.
    pub ports: Vec<NamedPort>,
}

/// A container port that policies may name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NamedPort {
    /// The name.
    pub name: Arc<str>,
    /// Its protocol.
    pub protocol: Protocol,
    /// Its number.
    pub port: u16,
}

/// Transport protocols that Services and policies know, by their IP numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Protocol {
    /// TCP.
    Tcp = 6,
    /// UDP.
    Udp = 17,
    /// SCTP.
    Sctp = 132,
}

/// A pod of this node and the device that leads to it: known to CNI before the API says the pod's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalEndpoint {
    /// The pod's namespace.
    pub namespace: Arc<str>,
    /// The pod's name.
    pub name: Arc<str>,
    /// The pod's uid.
    pub uid: Arc<str>,
    /// The pod's addresses, at most one of each family.
    pub addresses: Vec<IpAddr>,
    /// Index of the node's end of the veth pair, in the node's namespace.
    pub ifindex: u32,
    /// The pod's own MAC address.
    pub mac: [u8; 6],
    /// The pod's network namespace as a socket hook sees it.
    pub netns_cookie: u64,
}

/// One Service with its addresses; its backends are in the slices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// ClusterIPs, none for a headless Service.
    pub cluster_ips: Vec<IpAddr>,
    /// externalIPs and addresses that a load balancer gave it.
    pub external_ips: Vec<IpAddr>,
    /// Its ports.
    pub ports: Vec<ServicePort>,
    /// ClientIP affinity in seconds.
    pub affinity_s: Option<u32>,
    /// internalTrafficPolicy: Local.
    pub internal_local: bool,
    /// externalTrafficPolicy: Local.
    pub external_local: bool,
}

/// One port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Its name, empty for the only port; slices refer to it by this.
    pub name: Arc<str>,
    /// Its protocol.
    pub protocol: Protocol,
    /// The port at the Service's addresses.
    pub port: u16,
    /// The port at every node's addresses.
    pub node_port: Option<u16>,
}

/// A part of a Service's backends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSlice {
    /// Its namespace, the Service's.
    pub namespace: Arc<str>,
    /// Its name: the order of slices.
    pub name: Arc<str>,
    /// The Service's name.
    pub service: Arc<str>,
    /// What the Service's ports are here.
    pub ports: Vec<SlicePort>,
    /// The backends.
    pub endpoints: Vec<Backend>,
}

/// The number of a Service's port at the backends of one slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlicePort {
    /// The Service port's name.
    pub name: Arc<str>,
    /// Its protocol.
    pub protocol: Protocol,
    /// Its number at the backends.
    pub port: u16,
}

/// One backend of a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Its address; a slice has one family.
    pub address: IpAddr,
    /// The node it runs on, if it is a pod.
    pub node: Option<Arc<str>>,
    /// Takes new connections.
    pub ready: bool,
    /// Would answer (true while terminating and still ready).
    pub serving: bool,
    /// Is being deleted.
    pub terminating: bool,
}

/// One NetworkPolicy with its defaults filled in.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NetworkPolicy {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// The pods of its namespace that it isolates.
    pub pods: Selector,
    /// What may reach them; `None` where the policy says nothing about ingress.
    pub ingress: Option<Vec<Rule>>,
    /// What they may reach; `None` where the policy says nothing about egress.
    pub egress: Option<Vec<Rule>>,
}

/// One allowed set: a peer that any of `peers` matches, at a port that any of `ports` matches.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Rule {
    /// The other end; empty means everyone.
    pub peers: Vec<Peer>,
    /// The destination's ports; empty means every protocol and port.
    pub ports: Vec<PolicyPort>,
}

/// Who may be at the other end.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Peer {
    /// Pods of the policy's own namespace.
    Pods(Selector),
    /// Pods of the namespaces that the first selector matches.
    PodsIn(Selector, Selector),
    /// Addresses of the prefix that are in none of the exceptions.
    Block(IpNet, Vec<IpNet>),
}

/// Ports of a rule.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PolicyPort {
    /// The protocol.
    pub protocol: Protocol,
    /// Which of its ports.
    pub ports: PortMatch,
}

/// Which ports of a protocol.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PortMatch {
    /// All of them.
    All,
    /// From the first to the second, both included.
    Range(u16, u16),
    /// The one that the destination pod calls so.
    Named(Arc<str>),
}

// === impl Node ===

impl Node {
    /// The node's own address inside its pod CIDR of the family: the first behind the network's, which in IPv6 is every router's.
    pub fn overlay(&self, v6: bool) -> Option<IpAddr> {
        let net = self.pod_cidrs.iter().find(|net| net.addr().is_ipv6() == v6)?;
        let first = match net.network() {
            IpAddr::V4(network) => IpAddr::V4(Ipv4Addr::from(u32::from(network).checked_add(1)?)),
            IpAddr::V6(network) => IpAddr::V6(Ipv6Addr::from(u128::from(network).checked_add(1)?)),
        };
        net.contains(&first).then_some(first)
    }

    /// The address that tunnels to this node end at.
    pub fn tunnel(&self, v6: bool) -> Option<IpAddr> {
        self.addresses.iter().copied().find(|address| address.is_ipv6() == v6)
    }
}
