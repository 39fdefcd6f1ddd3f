//! Which endpoints a Service should have: pure.
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use client::informer::Store;
use serde_json::Value;

use super::{Conditions, Endpoint, Port, TargetRef};
use crate::objects::{Container, Node, Pod, Service, ServicePort};

pub(super) const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

/// Endpoints that may share slices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// IPv4 or IPv6.
    pub address_type: Box<str>,
    /// Their ports; a named port may have another number in each pod.
    pub ports: Vec<Port>,
    /// The endpoints, by pod.
    pub endpoints: Vec<Endpoint>,
}

/// The endpoints of a Service whose selector selects these pods. Each address family has at least one group, if an empty
/// one: that a Service has no endpoints is worth a slice that says so.
pub fn wanted(
    service: &Service,
    pods: &[Arc<Pod>],
    nodes: &Store<Node>,
    lost: &BTreeSet<Box<str>>,
) -> Vec<Group> {
    let families: &[Box<str>] = match &service.spec.ip_families[..] {
        [] => &["IPv4".into()],
        families => families,
    };
    families.iter().flat_map(|family| groups(service, pods, nodes, lost, family)).collect()
}

fn groups(
    service: &Service,
    pods: &[Arc<Pod>],
    nodes: &Store<Node>,
    lost: &BTreeSet<Box<str>>,
    family: &str,
) -> Vec<Group> {
    let mut groups: BTreeMap<Vec<Port>, Vec<Endpoint>> = BTreeMap::new();
    for pod in without_silent_nodes(service, pods, lost) {
        let Some(address) = address(pod, family) else { continue };
        let ports = ports(service, pod);
        if ports.is_empty() && !service.spec.ports.is_empty() {
            // None of its containers has a port of that name.
            continue;
        }
        groups.entry(ports).or_default().push(endpoint(service, pod, address, nodes));
    }
    if groups.is_empty() {
        groups.insert(Vec::new(), Vec::new());
    }
    let group = |(ports, endpoints)| Group { address_type: family.into(), ports, endpoints };
    groups.into_iter().map(group).collect()
}

/// Pods that can have endpoints. Those on silent nodes are left out if a ready one remains elsewhere.
fn without_silent_nodes<'a>(
    service: &Service,
    pods: &'a [Arc<Pod>],
    lost: &BTreeSet<Box<str>>,
) -> impl Iterator<Item = &'a Arc<Pod>> {
    let silent = |pod: &Pod| lost.contains(&pod.spec.node_name);
    let remains = pods
        .iter()
        .any(|pod| !pod.is_finished() && !silent(pod) && conditions(service, pod).ready == Some(true));
    let leave_out: BTreeSet<&str> =
        pods.iter().filter(|pod| remains && silent(pod)).map(|pod| &*pod.metadata.uid).collect();
    pods.iter().filter(move |pod| !pod.is_finished() && !leave_out.contains(&*pod.metadata.uid))
}

fn conditions(service: &Service, pod: &Pod) -> Conditions {
    let (serving, terminating) = (pod.is_ready(), pod.metadata.is_deleting());
    let ready = service.spec.publish_not_ready_addresses || (serving && !terminating);
    Conditions { ready: Some(ready), serving: Some(serving), terminating: Some(terminating) }
}

fn address(pod: &Pod, family: &str) -> Option<Box<str>> {
    let is_v6 = family == "IPv6";
    let listed = pod.status.pod_ips.iter().map(|ip| &ip.ip).chain(std::iter::once(&pod.status.pod_ip));
    let mut fitting = listed.filter(|ip| ip.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv6() == is_v6));
    fitting.next().cloned()
}

fn ports(service: &Service, pod: &Pod) -> Vec<Port> {
    let resolved = service.spec.ports.iter().filter_map(|port| {
        Some(Port {
            name: port.name.clone(),
            protocol: port.protocol.clone().unwrap_or_else(|| "TCP".into()),
            port: target(port, pod)?,
            app_protocol: port.app_protocol.clone(),
        })
    });
    resolved.collect()
}

fn target(port: &ServicePort, pod: &Pod) -> Option<i32> {
    match &port.target_port {
        Value::Number(number) if number.as_i64() != Some(0) => i32::try_from(number.as_i64()?).ok(),
        Value::String(name) if !name.is_empty() => named_port(port, pod, name),
        _ => Some(port.port),
    }
}

fn named_port(port: &ServicePort, pod: &Pod, name: &str) -> Option<i32> {
    let protocol = |protocol: &Option<Box<str>>| protocol.clone().unwrap_or_else(|| "TCP".into());
    let sidecar = |container: &&Container| container.restart_policy.as_deref() == Some("Always");
    let containers = pod.spec.containers.iter().chain(pod.spec.init_containers.iter().filter(sidecar));
    let mut ports = containers.flat_map(|container| &container.ports);
    let found =
        ports.find(|own| *own.name == *name && protocol(&own.protocol) == protocol(&port.protocol))?;
    Some(found.container_port)
}

fn endpoint(service: &Service, pod: &Pod, address: Box<str>, nodes: &Store<Node>) -> Endpoint {
    let meta = &pod.metadata;
    let node_name = Some(pod.spec.node_name.clone()).filter(|name| !name.is_empty());
    let node = node_name.as_ref().and_then(|name| nodes.find("", name));
    let named = pod.spec.subdomain.as_deref() == Some(&*service.metadata.name);
    Endpoint {
        addresses: vec![address],
        conditions: conditions(service, pod),
        hostname: pod.spec.hostname.clone().filter(|name| named && !name.is_empty()),
        zone: node.and_then(|node| node.metadata.labels.get(ZONE_LABEL).map(Box::from)),
        node_name,
        target_ref: Some(TargetRef {
            kind: "Pod".into(),
            namespace: meta.namespace.clone(),
            name: meta.name.clone(),
            uid: meta.uid.clone(),
        }),
    }
}

/// Whether a change of a pod shows in no endpoint. Most changes of status do not.
pub(super) fn looks_the_same(old: &Pod, new: &Pod) -> bool {
    old.metadata.labels == new.metadata.labels
        && old.metadata.is_deleting() == new.metadata.is_deleting()
        && old.is_ready() == new.is_ready()
        && old.is_finished() == new.is_finished()
        && old.status.pod_ip == new.status.pod_ip
        && old.status.pod_ips == new.status.pod_ips
        && old.spec == new.spec
}
