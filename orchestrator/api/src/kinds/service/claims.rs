//! What a write to a Service takes from the cluster's pools and what it gives back: a pure function of old and new.
//!
//! The API server allocates inside the request: it asks for the [`Claims`], picks what is left open, writes the choice with
//! [`apply`], and commits Service and claims in one transaction.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::{HEADLESS, needs_cluster_ip, needs_health_check_port, needs_node_ports};
use crate::object::{Json, Object, Value};

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// Where in the Service a node port stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PortField {
    /// `spec.ports[N].nodePort`.
    Port(usize),
    /// `spec.healthCheckNodePort`.
    HealthCheck,
}

/// A cluster address to take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressClaim {
    /// Its place in `spec.clusterIPs`.
    pub index: usize,
    /// Its family.
    pub family: Family,
    /// The address that was asked for; `None` leaves the choice to the server.
    pub wanted: Option<IpAddr>,
}

/// A node port to take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortClaim {
    /// Where it stands.
    pub field: PortField,
    /// The number that was asked for; `None` leaves the choice to the server.
    pub wanted: Option<u16>,
}

/// What a write takes and gives back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claims {
    /// Addresses to take.
    pub addresses: Vec<AddressClaim>,
    /// Node ports to take. A number that several ports of the Service share (one TCP, one UDP) is claimed once.
    pub ports: Vec<PortClaim>,
    /// Addresses to give back.
    pub released_addresses: Vec<IpAddr>,
    /// Node ports to give back.
    pub released_ports: Vec<u16>,
}

impl Claims {
    /// True when the write touches no pool.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What writing `new` over `old` takes and gives back. `None` stands for a Service that is not there: yet, or any more.
pub fn claims(new: Option<&Object>, old: Option<&Object>) -> Claims {
    let held_addresses: BTreeSet<IpAddr> = old.map(addresses).unwrap_or_default();
    let held_ports: BTreeSet<u16> = old.map(node_ports).unwrap_or_default();
    let kept_addresses: BTreeSet<IpAddr> = new.map(addresses).unwrap_or_default();
    let kept_ports: BTreeSet<u16> = new.map(node_ports).unwrap_or_default();
    Claims {
        addresses: new.map(|new| address_claims(new, &held_addresses)).unwrap_or_default(),
        ports: new.map(|new| port_claims(new, &held_ports)).unwrap_or_default(),
        released_addresses: held_addresses.difference(&kept_addresses).copied().collect(),
        released_ports: held_ports.difference(&kept_ports).copied().collect(),
    }
}

/// Writes what the server chose for the open claims into the Service.
pub fn apply(service: &mut Object, addresses: &[(usize, IpAddr)], ports: &[(PortField, u16)]) {
    if !addresses.is_empty() {
        let mut all = service.list_at("spec.clusterIPs").to_vec();
        for (index, address) in addresses {
            all.resize((*index + 1).max(all.len()), Value::from(""));
            all[*index] = address.to_string().into();
        }
        let first = all[0].clone();
        service.set("spec.clusterIP", first);
        service.set("spec.clusterIPs", all);
    }
    for (field, number) in ports {
        match field {
            PortField::HealthCheck => service.set("spec.healthCheckNodePort", *number),
            PortField::Port(index) => {
                if let Some(port) = service.list_at_mut("spec.ports").get_mut(*index) {
                    port.set("nodePort", *number);
                }
            }
        }
    }
}

/// The cluster addresses a stored Service holds.
pub fn addresses(service: &Object) -> BTreeSet<IpAddr> {
    if !needs_cluster_ip(service) {
        return BTreeSet::new();
    }
    service.list_at("spec.clusterIPs").iter().filter_map(|ip| ip.as_str()?.parse().ok()).collect()
}

/// The node ports a stored Service holds.
pub fn node_ports(service: &Object) -> BTreeSet<u16> {
    let mut numbers = BTreeSet::new();
    if needs_node_ports(service) {
        numbers.extend(service.list_at("spec.ports").iter().filter_map(node_port));
    }
    if needs_health_check_port(service) {
        numbers.extend(service.get("spec.healthCheckNodePort").and_then(number));
    }
    numbers
}

fn node_port(port: &Value) -> Option<u16> {
    port.get("nodePort").and_then(number)
}

fn number(value: &Value) -> Option<u16> {
    value.as_u64().and_then(|number| u16::try_from(number).ok()).filter(|number| *number != 0)
}

fn address_claims(new: &Object, held: &BTreeSet<IpAddr>) -> Vec<AddressClaim> {
    if !needs_cluster_ip(new) || new.text("spec.clusterIP") == HEADLESS {
        return Vec::new();
    }
    let written = new.list_at("spec.clusterIPs");
    let families = new.list_at("spec.ipFamilies");
    let count = families.len().max(written.len()).max(1);
    let claim = |index: usize| {
        let wanted: Option<IpAddr> =
            written.get(index).and_then(Value::as_str).and_then(|ip| ip.parse().ok());
        let v6 = match wanted {
            Some(address) => address.is_ipv6(),
            None => families.get(index).is_some_and(|family| family == "IPv6"),
        };
        AddressClaim { index, family: if v6 { Family::V6 } else { Family::V4 }, wanted }
    };
    let open = |claim: &AddressClaim| claim.wanted.is_none_or(|address| !held.contains(&address));
    (0..count).map(claim).filter(open).collect()
}

fn port_claims(new: &Object, held: &BTreeSet<u16>) -> Vec<PortClaim> {
    let mut taken = held.clone();
    let mut claims = Vec::new();
    let mut claim = |field: PortField, wanted: Option<u16>| {
        if wanted.is_none_or(|number| taken.insert(number)) {
            claims.push(PortClaim { field, wanted });
        }
    };
    if needs_node_ports(new) {
        for (index, port) in new.list_at("spec.ports").iter().enumerate() {
            claim(PortField::Port(index), node_port(port));
        }
    }
    if needs_health_check_port(new) {
        claim(PortField::HealthCheck, new.get("spec.healthCheckNodePort").and_then(number));
    }
    claims
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::service;
    use super::*;

    fn any(index: usize) -> AddressClaim {
        AddressClaim { index, family: Family::V4, wanted: None }
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn what_a_new_service_takes() {
        let cases = [
            (json!({"ports": [{"port": 80}]}), vec![any(0)], vec![], "any address"),
            (json!({"clusterIP": "None", "clusterIPs": ["None"]}), vec![], vec![], "headless"),
            (json!({"type": "ExternalName"}), vec![], vec![], "an alias"),
            (
                json!({"clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"]}),
                vec![AddressClaim { wanted: Some(ip("10.96.0.9")), ..any(0) }],
                vec![],
                "this address",
            ),
            (
                json!({"type": "NodePort", "ports": [{"port": 80}, {"port": 81, "nodePort": 30081}, {"port": 81, "nodePort": 30081, "protocol": "UDP"}]}),
                vec![any(0)],
                vec![
                    PortClaim { field: PortField::Port(0), wanted: None },
                    PortClaim { field: PortField::Port(1), wanted: Some(30081) },
                ],
                "any port, and one for two protocols",
            ),
            (
                json!({"type": "LoadBalancer", "allocateLoadBalancerNodePorts": false, "externalTrafficPolicy": "Local", "ports": [{"port": 80}]}),
                vec![any(0)],
                vec![PortClaim { field: PortField::HealthCheck, wanted: None }],
                "a balancer's health check alone",
            ),
        ];
        for (spec, addresses, ports, why) in cases {
            let claims = claims(Some(&service(spec)), None);
            assert_eq!((claims.addresses, claims.ports), (addresses, ports), "{why}");
        }
    }

    #[test]
    fn what_an_update_takes_and_gives_back() {
        let old = service(
            json!({"type": "NodePort", "clusterIP": "10.96.0.5", "clusterIPs": ["10.96.0.5"], "ports": [{"port": 80, "nodePort": 30080}]}),
        );
        assert!(claims(Some(&old), Some(&old)).is_empty(), "nothing changes");
        let plain =
            service(json!({"clusterIP": "10.96.0.5", "clusterIPs": ["10.96.0.5"], "ports": [{"port": 80}]}));
        assert_eq!(
            claims(Some(&plain), Some(&old)),
            Claims { released_ports: vec![30080], ..Claims::default() },
            "node ports go"
        );
        let gone = claims(None, Some(&old));
        assert_eq!(gone.released_addresses, [ip("10.96.0.5")]);
        assert_eq!(gone.released_ports, [30080]);
        let alias = service(json!({"type": "ExternalName"}));
        assert_eq!(claims(Some(&alias), Some(&old)).released_addresses, [ip("10.96.0.5")]);
        assert_eq!(
            claims(Some(&old), Some(&alias)).addresses,
            [AddressClaim { wanted: Some(ip("10.96.0.5")), ..any(0) }]
        );
    }

    #[test]
    fn choices_are_written_back() {
        let mut new = service(json!({"type": "NodePort", "ports": [{"port": 80}]}));
        apply(&mut new, &[(0, ip("10.96.0.7"))], &[(PortField::Port(0), 31000)]);
        assert_eq!(new.text("spec.clusterIP"), "10.96.0.7");
        assert_eq!(new.list_at("spec.clusterIPs"), ["10.96.0.7"]);
        assert_eq!(new.list_at("spec.ports")[0]["nodePort"], 31000);
        let held = new.clone();
        assert!(claims(Some(&new), Some(&held)).is_empty());
    }
}
