//! NetworkPolicies in netplan's types, with Kubernetes' defaults filled in. What cannot be read narrows, never widens.

use ipnet::IpNet;
use netplan::{
    Demand,
    snapshot::{self, Peer, PortMatch, Rule},
};

use super::objects::{Expression, IntOrName, NetworkPolicy, PolicyPeer, PolicyPort, Selector};

/// Converts one policy.
pub(super) fn policy_of(policy: &NetworkPolicy) -> snapshot::NetworkPolicy {
    let spec = &policy.spec;
    let named = |kind: &str| spec.policy_types.as_ref().map(|types| types.iter().any(|own| **own == *kind));
    // Without policyTypes a policy is about ingress, and about egress if it has egress rules.
    let ingress = named("Ingress").unwrap_or(true);
    let egress = named("Egress").unwrap_or(spec.egress.is_some());
    let ingress_rules = || spec.ingress.iter().filter_map(|rule| rule_of(&rule.from, &rule.ports)).collect();
    let egress_rules =
        || spec.egress.iter().flatten().filter_map(|rule| rule_of(&rule.to, &rule.ports)).collect();
    snapshot::NetworkPolicy {
        namespace: (&*policy.metadata.namespace).into(),
        name: (&*policy.metadata.name).into(),
        // An unreadable selector isolates the whole namespace rather than nobody.
        pods: selector_of(&spec.pod_selector).unwrap_or_default(),
        ingress: ingress.then(ingress_rules),
        egress: egress.then(egress_rules),
    }
}

/// `None` where all peers or all ports are unreadable: an empty list would mean everyone.
fn rule_of(peers: &[PolicyPeer], ports: &[PolicyPort]) -> Option<Rule> {
    let rule = Rule {
        peers: peers.iter().filter_map(peer_of).collect(),
        ports: ports.iter().filter_map(port_of).collect(),
    };
    let lost = rule.peers.is_empty() != peers.is_empty() || rule.ports.is_empty() != ports.is_empty();
    (!lost).then_some(rule)
}

fn peer_of(peer: &PolicyPeer) -> Option<Peer> {
    if let Some(block) = &peer.ip_block {
        let net: IpNet = block.cidr.parse().ok()?;
        let except = block.except.iter().map(|except| except.parse::<IpNet>()).collect::<Result<_, _>>();
        return Some(Peer::Block(net, except.ok()?));
    }
    let pods = peer.pod_selector.as_ref().map(selector_of);
    match (peer.namespace_selector.as_ref().map(selector_of), pods) {
        (Some(namespaces), pods) => {
            Some(Peer::PodsIn(namespaces?, pods.unwrap_or_else(|| Some(everything()))?))
        }
        (None, Some(pods)) => Some(Peer::Pods(pods?)),
        (None, None) => None,
    }
}

fn port_of(port: &PolicyPort) -> Option<snapshot::PolicyPort> {
    let ports = match (&port.port, port.end_port) {
        (None, _) => PortMatch::All,
        (Some(IntOrName::Int(first)), None) => PortMatch::Range(*first, *first),
        (Some(IntOrName::Int(first)), Some(last)) if last >= *first => PortMatch::Range(*first, last),
        (Some(IntOrName::Name(name)), None) => PortMatch::Named((&**name).into()),
        _ => return None,
    };
    Some(snapshot::PolicyPort { protocol: port.protocol.into(), ports })
}

fn everything() -> netplan::Selector {
    netplan::Selector::everything()
}

/// `None` for an operator that is not known.
fn selector_of(selector: &Selector) -> Option<netplan::Selector> {
    let equal = selector
        .match_labels
        .iter()
        .map(|(key, value)| Some((key.to_owned(), Demand::In(vec![value.to_owned()]))));
    let demands: Option<Vec<_>> = equal.chain(selector.match_expressions.iter().map(demand_of)).collect();
    Some(netplan::Selector::new(demands?))
}

fn demand_of(expression: &Expression) -> Option<(String, Demand)> {
    let demand = match &*expression.operator {
        "In" => Demand::In(expression.values.clone()),
        "NotIn" => Demand::NotIn(expression.values.clone()),
        "Exists" => Demand::Exists,
        "DoesNotExist" => Demand::Absent,
        _ => return None,
    };
    Some((expression.key.clone(), demand))
}
