//! What addresses and numbers in the datapath's events mean, as of one plan.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, OnceLock},
};

use netplan::{Direction, Names, Plan, Snapshot};
use observe::{Names as Naming, Owner};

/// A directory of one plan's names, shared with those who explain events. Addresses are looked up in an index that is made when
/// somebody first asks: most plans are replaced before anybody does.
#[derive(Debug, Default)]
pub struct NameBook {
    snapshot: Snapshot,
    numbers: Names,
    owners: OnceLock<HashMap<IpAddr, Place>>,
}

/// Where in the snapshot's lists an address is from.
#[derive(Clone, Copy, Debug)]
enum Place {
    Service(usize),
    Pod(usize),
    Endpoint(usize),
    Node(usize),
}

impl NameBook {
    /// The names of a snapshot and of the plan that was compiled from it.
    pub(super) fn new(snapshot: Snapshot, plan: &Plan) -> Self {
        NameBook { snapshot, numbers: plan.names.clone(), owners: OnceLock::new() }
    }

    fn owners(&self) -> &HashMap<IpAddr, Place> {
        self.owners.get_or_init(|| index(&self.snapshot))
    }
}

/// Later kinds win: a node's address is a node's, whichever pods share it.
fn index(snapshot: &Snapshot) -> HashMap<IpAddr, Place> {
    let mut owners = HashMap::new();
    for (at, service) in snapshot.services.iter().enumerate() {
        let addresses = service.cluster_ips.iter().chain(&service.external_ips);
        owners.extend(addresses.map(|address| (*address, Place::Service(at))));
    }
    for (at, pod) in snapshot.pods.iter().enumerate().filter(|(_, pod)| !pod.host_network) {
        owners.extend(pod.addresses.iter().map(|address| (*address, Place::Pod(at))));
    }
    for (at, endpoint) in snapshot.endpoints.iter().enumerate() {
        owners.extend(endpoint.addresses.iter().map(|address| (*address, Place::Endpoint(at))));
    }
    for (at, node) in snapshot.nodes.iter().enumerate() {
        let overlay = [false, true].into_iter().filter_map(|v6| node.overlay(v6));
        owners
            .extend(node.addresses.iter().copied().chain(overlay).map(|address| (address, Place::Node(at))));
    }
    owners
}

impl Naming for NameBook {
    fn owner(&self, address: IpAddr) -> Option<Owner> {
        let snapshot = &self.snapshot;
        Some(match *self.owners().get(&address)? {
            Place::Service(at) => {
                let service = &snapshot.services[at];
                Owner::Service { namespace: service.namespace.clone(), name: service.name.clone() }
            }
            Place::Pod(at) => {
                let pod = &snapshot.pods[at];
                Owner::Pod {
                    namespace: pod.namespace.clone(),
                    name: pod.name.clone(),
                    node: pod.node.clone(),
                }
            }
            Place::Endpoint(at) => {
                let endpoint = &snapshot.endpoints[at];
                let (namespace, name) = (endpoint.namespace.clone(), endpoint.name.clone());
                Owner::Pod { namespace, name, node: snapshot.node.clone() }
            }
            Place::Node(at) => Owner::Node { name: snapshot.nodes[at].name.clone() },
        })
    }

    fn service(&self, id: u32) -> Option<Arc<str>> {
        let service = self.numbers.services.get(&id)?;
        let name = format!("{}/{}", service.namespace, service.name);
        Some(if service.port.is_empty() { name.into() } else { format!("{name}:{}", service.port).into() })
    }

    fn policies(&self, policy: u32, rule: u32) -> Vec<Arc<str>> {
        match self.numbers.rule(policy, rule) {
            Some(policy) => vec![format!("{}/{}", policy.namespace, policy.name).into()],
            None => self.numbers.policies(policy).into_iter().map(Arc::from).collect(),
        }
    }

    fn direction(&self, policy: u32) -> Option<&'static str> {
        self.numbers.policies.get(&policy).map(|subject| match subject.direction {
            Direction::Ingress => "ingress",
            Direction::Egress => "egress",
        })
    }
}
