//! NetworkPolicy, read off the objects for one question at a time.

use std::net::IpAddr;

use netplan::{
    Snapshot,
    snapshot::{NetworkPolicy, Peer, Pod, PolicyPort, PortMatch, Protocol, Rule},
};

/// Whether a connection may begin: what the sender's policies say, and the receiver's. Only this node's pods are asked.
pub fn allowed(
    snapshot: &Snapshot,
    from: IpAddr,
    to: IpAddr,
    protocol: Option<Protocol>,
    port: u16,
) -> [bool; 2] {
    let local = |ip| pod(snapshot, ip).filter(|pod| pod.node == snapshot.node);
    let egress = match local(from) {
        Some(subject) => may(snapshot, subject, to, to, |p| p.egress.as_ref(), protocol, port),
        None => true,
    };
    let ingress = match local(to) {
        Some(subject) => may(snapshot, subject, from, to, |p| p.ingress.as_ref(), protocol, port),
        None => true,
    };
    [egress, ingress]
}

fn may(
    snapshot: &Snapshot,
    subject: &Pod,
    other: IpAddr,
    destination: IpAddr,
    rules: impl Fn(&NetworkPolicy) -> Option<&Vec<Rule>>,
    protocol: Option<Protocol>,
    port: u16,
) -> bool {
    let isolating: Vec<(&NetworkPolicy, &Vec<Rule>)> = snapshot
        .policies
        .iter()
        .filter(|policy| policy.namespace == subject.namespace && policy.pods.matches(&subject.labels))
        .filter_map(|policy| Some((&**policy, rules(policy)?)))
        .collect();
    if isolating.is_empty() || is_own_node(snapshot, other) {
        return true;
    }
    isolating.iter().any(|(policy, rules)| {
        rules.iter().any(|rule| {
            peer_matches(snapshot, policy, rule, other)
                && port_matches(snapshot, rule, destination, protocol, port)
        })
    })
}

fn peer_matches(snapshot: &Snapshot, policy: &NetworkPolicy, rule: &Rule, other: IpAddr) -> bool {
    if rule.peers.is_empty() {
        return true;
    }
    // An address of the pod CIDR that nobody is known to have is matched by nothing.
    if pod(snapshot, other).is_none() && is_unknown_pod(snapshot, other) {
        return false;
    }
    rule.peers.iter().any(|peer| match peer {
        Peer::Pods(pods) => pod(snapshot, other)
            .is_some_and(|pod| pod.namespace == policy.namespace && pods.matches(&pod.labels)),
        Peer::PodsIn(namespaces, pods) => pod(snapshot, other).is_some_and(|pod| {
            let namespace = snapshot.namespaces.iter().find(|namespace| namespace.name == pod.namespace);
            namespace.is_some_and(|n| namespaces.matches(&n.labels)) && pods.matches(&pod.labels)
        }),
        Peer::Block(net, except) => {
            net.contains(&other) && !except.iter().any(|except| except.contains(&other))
        }
    })
}

fn port_matches(
    snapshot: &Snapshot,
    rule: &Rule,
    destination: IpAddr,
    protocol: Option<Protocol>,
    port: u16,
) -> bool {
    let one = |wanted: &PolicyPort| {
        Some(wanted.protocol) == protocol
            && match &wanted.ports {
                PortMatch::All => true,
                PortMatch::Range(first, last) => (*first..=*last).contains(&port),
                PortMatch::Named(name) => pod(snapshot, destination).is_some_and(|pod| {
                    let mut ports = pod.ports.iter();
                    ports.any(|own| own.name == *name && Some(own.protocol) == protocol && own.port == port)
                }),
            }
    };
    rule.ports.is_empty() || rule.ports.iter().any(one)
}

fn pod(snapshot: &Snapshot, ip: IpAddr) -> Option<&Pod> {
    snapshot.pods.iter().find(|pod| pod.addresses.contains(&ip)).map(|pod| &**pod)
}

fn is_own_node(snapshot: &Snapshot, ip: IpAddr) -> bool {
    let own = snapshot.nodes.iter().find(|node| node.name == snapshot.node).unwrap();
    own.addresses.contains(&ip) || own.overlay(false) == Some(ip)
}

fn is_unknown_pod(snapshot: &Snapshot, ip: IpAddr) -> bool {
    let node =
        snapshot.nodes.iter().any(|node| node.overlay(false) == Some(ip) || node.addresses.contains(&ip));
    !node && snapshot.cluster.pod_cidrs.iter().any(|cidr| cidr.contains(&ip))
}
