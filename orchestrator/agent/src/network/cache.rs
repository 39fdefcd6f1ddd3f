//! The cluster in netplan's types, kept current object by object.
//!
//! Backends are joined with their pods here: a pod that the API shows as terminating takes no new connections from the moment this
//! node sees that, without waiting for its EndpointSlice to be rewritten; and a backend is not used before its pod is
//! known, so that its address is a peer with a class by then.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

use client::ObjectKey;
use dataplane::Endpoints;
use ipnet::IpNet;
use netplan::{
    Snapshot,
    snapshot::{self, Backend, NamedPort, SlicePort},
};

use super::{
    addresses,
    objects::{Endpoint, EndpointSlice, Namespace, NetworkPolicy, Node, Phase, Pod, Service},
    policies,
};

/// The label by which a slice names its Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// A kind that the cache holds.
pub(super) trait Cached: Sized {
    /// Takes an object in; whether that changed anything for the network.
    fn upsert(this: &Arc<Self>, cache: &mut Cache) -> bool;
    /// Takes it out.
    fn delete(&self, cache: &mut Cache);
}

/// Everything a snapshot is made of.
#[derive(Debug)]
pub(super) struct Cache {
    pub(super) endpoints: Endpoints,
    namespaces: HashMap<ObjectKey, Arc<snapshot::Namespace>>,
    nodes: HashMap<ObjectKey, Arc<snapshot::Node>>,
    pods: HashMap<ObjectKey, CachedPod>,
    services: HashMap<ObjectKey, Arc<snapshot::Service>>,
    slices: HashMap<ObjectKey, CachedSlice>,
    policies: HashMap<ObjectKey, Arc<snapshot::NetworkPolicy>>,
    /// Pods by address: what a backend is joined with.
    by_address: HashMap<IpAddr, BTreeSet<ObjectKey>>,
    /// Slices by the addresses of their backends.
    backends: HashMap<IpAddr, BTreeSet<ObjectKey>>,
}

#[derive(Debug)]
struct CachedPod {
    pod: Arc<snapshot::Pod>,
    terminating: bool,
    /// It no longer runs: its address may be someone else's.
    over: bool,
}

#[derive(Debug)]
struct CachedSlice {
    source: Arc<EndpointSlice>,
    joined: Option<Arc<snapshot::EndpointSlice>>,
}

impl Default for Cache {
    fn default() -> Self {
        Cache {
            endpoints: Arc::from([]),
            namespaces: HashMap::new(),
            nodes: HashMap::new(),
            pods: HashMap::new(),
            services: HashMap::new(),
            slices: HashMap::new(),
            policies: HashMap::new(),
            by_address: HashMap::new(),
            backends: HashMap::new(),
        }
    }
}

// === impl Cache ===

impl Cache {
    /// What netplan compiles. The joins with pods are brought up to date first.
    pub(super) fn snapshot(
        &mut self,
        node: &Arc<str>,
        cluster: &snapshot::Cluster,
        revision: u64,
    ) -> Snapshot {
        self.join(&cluster.pod_cidrs);
        Snapshot {
            revision,
            node: Arc::clone(node),
            cluster: cluster.clone(),
            nodes: self.nodes.values().cloned().collect(),
            namespaces: self.namespaces.values().cloned().collect(),
            pods: self.pods.values().filter(|pod| !pod.over).map(|pod| pod.pod.clone()).collect(),
            endpoints: self.endpoints.to_vec(),
            services: self.services.values().cloned().collect(),
            slices: self.slices.values().filter_map(|slice| slice.joined.clone()).collect(),
            policies: self.policies.values().cloned().collect(),
        }
    }

    /// The uid of a pod.
    pub(super) fn uid(&self, namespace: &str, name: &str) -> Option<String> {
        Some(self.pods.get(&ObjectKey::new(namespace, name))?.pod.uid.to_string())
    }

    /// Whether a Service may lead to an address.
    pub(super) fn is_backend(&self, address: IpAddr) -> bool {
        self.backends.contains_key(&address)
    }

    /// Whether a node is known.
    pub(super) fn has_node(&self, name: &str) -> bool {
        self.nodes.contains_key(&ObjectKey::new("", name))
    }

    /// Joins the slices that changed, or whose pods did.
    fn join(&mut self, pod_cidrs: &[IpNet]) {
        let Cache { slices, by_address, pods, .. } = self;
        let pods = Pods { pods, by_address, pod_cidrs };
        for slice in slices.values_mut().filter(|slice| slice.joined.is_none()) {
            let backends = slice.source.endpoints.iter().flat_map(|endpoint| {
                let addresses = addresses(endpoint.addresses.iter().map(|address| &**address));
                let namespace = &slice.source.metadata.namespace;
                addresses.into_iter().filter_map(|address| pods.backend(namespace, endpoint, address))
            });
            slice.joined = slice_of(&slice.source, backends.collect()).map(Arc::new);
        }
    }

    fn invalidate(&mut self, address: IpAddr) {
        for key in self.backends.get(&address).into_iter().flatten() {
            if let Some(slice) = self.slices.get_mut(key) {
                slice.joined = None;
            }
        }
    }

    fn forget_pod(&mut self, key: &ObjectKey) {
        let Some(old) = self.pods.remove(key) else { return };
        for address in &old.pod.addresses {
            remove_from(&mut self.by_address, address, key);
            self.invalidate(*address);
        }
    }

    fn forget_slice(&mut self, key: &ObjectKey) {
        let Some(old) = self.slices.remove(key) else { return };
        for address in slice_addresses(&old.source) {
            remove_from(&mut self.backends, &address, key);
        }
    }
}

fn remove_from(index: &mut HashMap<IpAddr, BTreeSet<ObjectKey>>, address: &IpAddr, key: &ObjectKey) {
    if let Some(keys) = index.get_mut(address) {
        keys.remove(key);
        if keys.is_empty() {
            index.remove(address);
        }
    }
}

// === the kinds ===

impl Cached for Pod {
    fn upsert(this: &Arc<Self>, cache: &mut Cache) -> bool {
        let key = this.metadata.key();
        let new = CachedPod {
            pod: Arc::new(pod_of(this)),
            terminating: this.metadata.is_deleting(),
            over: this.status.phase != Phase::Alive,
        };
        if let Some(old) = cache.pods.get(&key)
            && old.pod == new.pod
            && (old.terminating, old.over) == (new.terminating, new.over)
        {
            return false;
        }
        cache.forget_pod(&key);
        for address in &new.pod.addresses {
            cache.by_address.entry(*address).or_default().insert(key.clone());
            cache.invalidate(*address);
        }
        cache.pods.insert(key, new);
        true
    }

    fn delete(&self, cache: &mut Cache) {
        cache.forget_pod(&self.metadata.key());
    }
}

impl Cached for EndpointSlice {
    fn upsert(this: &Arc<Self>, cache: &mut Cache) -> bool {
        let key = this.metadata.key();
        cache.forget_slice(&key);
        for address in slice_addresses(this) {
            cache.backends.entry(address).or_default().insert(key.clone());
        }
        cache.slices.insert(key, CachedSlice { source: Arc::clone(this), joined: None });
        true
    }

    fn delete(&self, cache: &mut Cache) {
        cache.forget_slice(&self.metadata.key());
    }
}

/// The kinds that are converted one to one.
macro_rules! plain {
    ($($kind:ty: $table:ident, $convert:path;)*) => { $(
        impl Cached for $kind {
            fn upsert(this: &Arc<Self>, cache: &mut Cache) -> bool {
                let new = $convert(this);
                let table = &mut cache.$table;
                let key = this.metadata.key();
                if table.get(&key).is_some_and(|old| **old == new) {
                    return false;
                }
                table.insert(key, Arc::new(new));
                true
            }

            fn delete(&self, cache: &mut Cache) {
                cache.$table.remove(&self.metadata.key());
            }
        }
    )* };
}

plain! {
    Namespace: namespaces, namespace_of;
    Node: nodes, node_of;
    Service: services, service_of;
    NetworkPolicy: policies, policies::policy_of;
}

// === conversions ===

fn namespace_of(namespace: &Namespace) -> snapshot::Namespace {
    snapshot::Namespace { name: (&*namespace.metadata.name).into(), labels: namespace.labels.clone() }
}

fn node_of(node: &Node) -> snapshot::Node {
    let kind = |wanted: &'static str| {
        node.status.addresses.iter().filter(move |address| &*address.kind == wanted).map(|a| &*a.address)
    };
    let cidrs: Vec<&str> = match node.spec.pod_cidrs.as_slice() {
        [] => vec![&*node.spec.pod_cidr],
        cidrs => cidrs.iter().map(|cidr| &**cidr).collect(),
    };
    snapshot::Node {
        name: (&*node.metadata.name).into(),
        addresses: addresses(kind("InternalIP").chain(kind("ExternalIP"))),
        pod_cidrs: cidrs.into_iter().filter_map(|cidr| cidr.parse().ok()).collect(),
    }
}

fn pod_of(pod: &Pod) -> snapshot::Pod {
    let ips = pod.status.pod_ips.iter().map(|ip| &*ip.ip);
    let containers = pod.spec.containers.iter().chain(&pod.spec.init_containers);
    let ports = containers.flat_map(|container| &container.ports).filter(|port| !port.name.is_empty());
    snapshot::Pod {
        namespace: (&*pod.metadata.namespace).into(),
        name: (&*pod.metadata.name).into(),
        uid: (&*pod.metadata.uid).into(),
        labels: pod.labels.clone(),
        addresses: addresses(ips.chain([&*pod.status.pod_ip])),
        node: pod.spec.node_name.clone(),
        host_network: pod.spec.host_network,
        ports: ports
            .map(|port| NamedPort {
                name: (&*port.name).into(),
                protocol: port.protocol.into(),
                port: port.container_port,
            })
            .collect(),
    }
}

fn service_of(service: &Service) -> snapshot::Service {
    let spec = &service.spec;
    // "None" and "" are not addresses.
    let cluster_ips = spec.cluster_ips.iter().map(|ip| &**ip).chain([&*spec.cluster_ip]);
    let balancers = service.status.load_balancer.ingress.iter().map(|ingress| &*ingress.ip);
    let affinity = spec.session_affinity_config.client_ip.timeout_seconds;
    // Kubernetes' default: three hours.
    let affinity_s = (&*spec.session_affinity == "ClientIP").then(|| affinity.unwrap_or(10_800));
    snapshot::Service {
        namespace: (&*service.metadata.namespace).into(),
        name: (&*service.metadata.name).into(),
        cluster_ips: addresses(cluster_ips),
        external_ips: addresses(spec.external_ips.iter().map(|ip| &**ip).chain(balancers)),
        ports: spec
            .ports
            .iter()
            .map(|port| snapshot::ServicePort {
                name: (&*port.name).into(),
                protocol: port.protocol.into(),
                port: port.port,
                node_port: (port.node_port != 0).then_some(port.node_port),
            })
            .collect(),
        affinity_s,
        internal_local: &*spec.internal_traffic_policy == "Local",
        external_local: &*spec.external_traffic_policy == "Local",
    }
}

/// `None` for a slice that belongs to no Service.
fn slice_of(slice: &EndpointSlice, endpoints: Vec<Backend>) -> Option<snapshot::EndpointSlice> {
    let service = slice.metadata.labels.get(SERVICE_NAME)?;
    let ports = slice.ports.iter().filter_map(|port| {
        Some(SlicePort { name: (&*port.name).into(), protocol: port.protocol.into(), port: port.port? })
    });
    Some(snapshot::EndpointSlice {
        namespace: (&*slice.metadata.namespace).into(),
        name: (&*slice.metadata.name).into(),
        service: service.into(),
        ports: ports.collect(),
        endpoints,
    })
}

fn slice_addresses(slice: &EndpointSlice) -> Vec<IpAddr> {
    addresses(slice.endpoints.iter().flat_map(|endpoint| &endpoint.addresses).map(|address| &**address))
}

// === backends and their pods ===

/// What backends are joined with.
struct Pods<'a> {
    pods: &'a HashMap<ObjectKey, CachedPod>,
    by_address: &'a HashMap<IpAddr, BTreeSet<ObjectKey>>,
    pod_cidrs: &'a [IpNet],
}

impl Pods<'_> {
    /// A backend as this node may use it; `None` while its pod is not known here, or any more.
    fn backend(&self, namespace: &str, endpoint: &Endpoint, address: IpAddr) -> Option<Backend> {
        let pod = self.of_endpoint(namespace, endpoint, address);
        let must_be_known = endpoint.is_pod() || self.pod_cidrs.iter().any(|cidr| cidr.contains(&address));
        if must_be_known && pod.is_none() {
            return None;
        }
        let ready = endpoint.conditions.ready.unwrap_or(true);
        let serving = endpoint.conditions.serving.unwrap_or(ready);
        let leaving = pod.is_some_and(|pod| pod.terminating);
        let terminating = endpoint.conditions.terminating.unwrap_or(false) || leaving;
        let node = endpoint.node_name.clone();
        Some(Backend { address, node, ready: ready && !leaving, serving, terminating })
    }

    /// The pod that an endpoint is: the one it names, or without a name the one that has its address alone.
    fn of_endpoint(&self, namespace: &str, endpoint: &Endpoint, address: IpAddr) -> Option<&CachedPod> {
        let has_it = |pod: &&CachedPod| !pod.over && pod.pod.addresses.contains(&address);
        if let Some(target) = endpoint.target_ref.as_ref().filter(|_| endpoint.is_pod()) {
            let same = |pod: &&CachedPod| target.uid.is_empty() || *target.uid == *pod.pod.uid;
            return self.pods.get(&ObjectKey::new(namespace, &target.name)).filter(same).filter(has_it);
        }
        let keys = self.by_address.get(&address)?;
        keys.iter().filter_map(|key| self.pods.get(key)).filter(|pod| !pod.pod.host_network).find(has_it)
    }
}
