//! Which pod or node an address belongs to.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
};

use crate::snapshot::Snapshot;

/// Who has an address; numbers are positions in the snapshot's lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// A pod with an address of its own.
    Pod(usize),
    /// A node: one of its devices, or its overlay address.
    Node { at: usize, local: bool },
    /// A device of this node's CNI whose pod the API has not told about yet.
    Nameless(usize),
}

/// Every address of the cluster that has an owner.
pub(crate) type Addresses = BTreeMap<IpAddr, Owner>;

/// Finds the owner of every address. A device that CNI made here beats what the API says of its address (the API may still
/// show the pod that had it before); a node's address beats both, because a hostNetwork pod reports it as its own.
pub(crate) fn addresses(snapshot: &Snapshot) -> Addresses {
    let mut owners = Addresses::new();
    let mut by_uid: HashMap<&str, usize> = HashMap::new();
    for (at, pod) in snapshot.pods.iter().enumerate() {
        by_uid.insert(&pod.uid, at);
        if !pod.host_network {
            owners.extend(pod.addresses.iter().map(|address| (*address, Owner::Pod(at))));
        }
    }
    for (at, endpoint) in snapshot.endpoints.iter().enumerate() {
        let owner = match by_uid.get(&*endpoint.uid) {
            Some(pod) => Owner::Pod(*pod),
            None => Owner::Nameless(at),
        };
        owners.extend(endpoint.addresses.iter().map(|address| (*address, owner)));
    }
    for (at, node) in snapshot.nodes.iter().enumerate() {
        let local = node.name == snapshot.node;
        let overlay = [false, true].into_iter().filter_map(|v6| node.overlay(v6));
        owners.extend(
            node.addresses.iter().copied().chain(overlay).map(|address| (address, Owner::Node { at, local })),
        );
    }
    owners
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::testing;

    #[test]
    fn a_device_beats_the_api_and_a_node_beats_both() {
        let mut snapshot = testing::snapshot();
        snapshot.pods = vec![
            Arc::new(testing::pod("old", "10.244.0.5")),
            Arc::new(testing::pod("host", "192.168.0.1")),
            Arc::new(testing::pod("new", "10.244.0.9")),
        ];
        snapshot.endpoints = vec![
            Arc::new(testing::endpoint("new", "10.244.0.5", 7)),
            Arc::new(testing::endpoint("nobody", "10.244.0.6", 8)),
        ];
        let owners = addresses(&snapshot);
        let owner = |address: &str| owners.get(&address.parse().unwrap()).copied();
        assert_eq!(owner("10.244.0.5"), Some(Owner::Pod(2)));
        assert_eq!(owner("10.244.0.6"), Some(Owner::Nameless(1)));
        assert_eq!(owner("192.168.0.1"), Some(Owner::Node { at: 0, local: true }));
        assert_eq!(owner("10.244.0.1"), Some(Owner::Node { at: 0, local: true }), "the overlay address");
        assert_eq!(owner("10.244.0.7"), None);
    }
}
