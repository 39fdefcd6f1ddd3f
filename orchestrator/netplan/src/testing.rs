//! Small objects for tests: two nodes, pods and endpoints by one line each.

use std::{net::IpAddr, sync::Arc};

use crate::{
    selector::Labels,
    snapshot::{Cluster, LocalEndpoint, Namespace, Node, Pod, Routing, Snapshot},
};

/// An address from its text.
pub fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address in a test")
}

/// Nodes `one` (this one, 192.168.0.1, 10.244.0.0/24) and `two` (192.168.0.2, 10.244.1.0/24), namespace `default`.
pub fn snapshot() -> Snapshot {
    let node = |name: &str, at: u8| {
        Arc::new(Node {
            name: name.into(),
            addresses: vec![IpAddr::from([192, 168, 0, at + 1])],
            pod_cidrs: vec![format!("10.244.{at}.0/24").parse().expect("a prefix in a test")],
        })
    };
    Snapshot {
        revision: 1,
        node: "one".into(),
        cluster: Cluster {
            pod_cidrs: vec!["10.244.0.0/16".parse().expect("a prefix in a test")],
            service_cidrs: vec!["10.96.0.0/16".parse().expect("a prefix in a test")],
            routing: Routing::Vxlan,
        },
        nodes: vec![node("one", 0), node("two", 1)],
        namespaces: vec![namespace("default", [])],
        ..Snapshot::default()
    }
}

/// A namespace with labels.
pub fn namespace<const N: usize>(name: &str, labels: [(&str, &str); N]) -> Arc<Namespace> {
    Arc::new(Namespace { name: name.into(), labels: Labels::new(labels) })
}

/// A pod of namespace `default` whose label `app` is its name.
pub fn pod(name: &str, address: &str) -> Pod {
    Pod {
        namespace: "default".into(),
        name: name.into(),
        uid: format!("uid-{name}").into(),
        labels: Labels::new([("app", name)]),
        addresses: vec![ip(address)],
        node: "one".into(),
        host_network: false,
        ports: Vec::new(),
    }
}

/// The device of the pod of that name.
pub fn endpoint(name: &str, address: &str, ifindex: u32) -> LocalEndpoint {
    LocalEndpoint {
        namespace: "default".into(),
        name: name.into(),
        uid: format!("uid-{name}").into(),
        addresses: vec![ip(address)],
        ifindex,
        mac: [2, 0, 0, 0, 0, ifindex as u8],
        netns_cookie: u64::from(ifindex) + 1000,
    }
}
