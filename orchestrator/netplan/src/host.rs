//! The node's own overlay addresses, and how its processes reach pods.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::snapshot::{Routing, Snapshot};

/// What the node's own network stack must have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Host {
    /// Addresses of the node inside its pod CIDRs.
    pub overlay: Vec<IpAddr>,
    /// Routes to pods.
    pub routes: Vec<HostRoute>,
}

/// A route to pods, or to Services.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostRoute {
    /// Their addresses.
    pub to: IpNet,
    /// The node to send to by the uplink; `None`: through the host pair, where the datapath decides.
    pub via: Option<IpAddr>,
}

/// Routes lead through the host pair wherever the datapath delivers: to this node's pods, and with VXLAN to all. Services too: a
/// process outside the node's cgroup, whose sockets no hook sees, reaches them by packets.
pub(crate) fn compile(snapshot: &Snapshot) -> Host {
    let Some(local) = snapshot.nodes.iter().find(|node| node.name == snapshot.node) else {
        return Host::default();
    };
    let direct = |net: &IpNet| HostRoute { to: net.trunc(), via: None };
    let mut routes: Vec<HostRoute> =
        local.pod_cidrs.iter().chain(&snapshot.cluster.service_cidrs).map(direct).collect();
    match snapshot.cluster.routing {
        Routing::Vxlan => {
            routes.extend(snapshot.cluster.pod_cidrs.iter().map(direct));
            let others = snapshot.nodes.iter().flat_map(|node| &node.pod_cidrs);
            routes.extend(others.filter(|net| !covered(snapshot, net)).map(direct));
        }
        Routing::Native => {
            for node in snapshot.nodes.iter().filter(|node| node.name != snapshot.node) {
                let route = |net: &IpNet| {
                    Some(HostRoute { to: net.trunc(), via: Some(node.tunnel(net.addr().is_ipv6())?) })
                };
                routes.extend(node.pod_cidrs.iter().filter_map(route));
            }
        }
    }
    routes.sort_by_key(|route| route.to);
    routes.dedup_by_key(|route| route.to);
    Host { overlay: [false, true].into_iter().filter_map(|v6| local.overlay(v6)).collect(), routes }
}

fn covered(snapshot: &Snapshot, net: &IpNet) -> bool {
    snapshot.cluster.pod_cidrs.iter().any(|cidr| cidr.contains(net))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    fn routes(routing: Routing) -> Vec<String> {
        let mut snapshot = testing::snapshot();
        snapshot.cluster.routing = routing;
        let via = |via: Option<IpAddr>| via.map_or("pair".into(), |via| via.to_string());
        compile(&snapshot).routes.into_iter().map(|r| format!("{} {}", r.to, via(r.via))).collect()
    }

    #[test]
    fn routes_follow_the_routing_mode() {
        assert_eq!(routes(Routing::Vxlan), ["10.96.0.0/16 pair", "10.244.0.0/16 pair", "10.244.0.0/24 pair"]);
        assert_eq!(
            routes(Routing::Native),
            ["10.96.0.0/16 pair", "10.244.0.0/24 pair", "10.244.1.0/24 192.168.0.2"]
        );
    }
}
