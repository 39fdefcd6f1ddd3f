//! What addresses and numbers in the datapath's events mean, as of one plan.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, OnceLock},
};

use netplan::{Direction, Names, Snapshot};
use observe::{Names as Naming, Owner};

/// A directory of one plan's names. Its index is made when somebody asks: most plans see no event.
#[derive(Debug, Default)]
pub struct NameBook {
    snapshot: Snapshot,
    owners: OnceLock<HashMap<IpAddr, Owner>>,
    numbers: Arc<Names>,
}

impl NameBook {
    /// The names of a snapshot and of the plan that was compiled from it.
    pub(super) fn new(snapshot: Snapshot, numbers: Arc<Names>) -> Self {
        NameBook { snapshot, owners: OnceLock::new(), numbers }
    }
}

/// Later ones win: a device here beats what the API still says of its address, and a node beats hostNetwork pods.
fn owners(snapshot: &Snapshot) -> HashMap<IpAddr, Owner> {
    let mut owners = HashMap::new();
    for service in &snapshot.services {
        let owner = Owner::Service { namespace: service.namespace.clone(), name: service.name.clone() };
        let addresses = service.cluster_ips.iter().chain(&service.external_ips);
        owners.extend(addresses.map(|address| (*address, owner.clone())));
    }
    for pod in snapshot.pods.iter().filter(|pod| !pod.host_network) {
        let owner =
            Owner::Pod { namespace: pod.namespace.clone(), name: pod.name.clone(), node: pod.node.clone() };
        owners.extend(pod.addresses.iter().map(|address| (*address, owner.clone())));
    }
    for endpoint in &snapshot.endpoints {
        let (namespace, name, node) =
            (endpoint.namespace.clone(), endpoint.name.clone(), snapshot.node.clone());
        let owner = Owner::Pod { namespace, name, node };
        owners.extend(endpoint.addresses.iter().map(|address| (*address, owner.clone())));
    }
    for node in &snapshot.nodes {
        let overlay = [false, true].into_iter().filter_map(|v6| node.overlay(v6));
        let owner = Owner::Node { name: node.name.clone() };
        owners.extend(node.addresses.iter().copied().chain(overlay).map(|a| (a, owner.clone())));
    }
    owners
}

impl Naming for NameBook {
    fn owner(&self, address: IpAddr) -> Option<Owner> {
        self.owners.get_or_init(|| owners(&self.snapshot)).get(&address).cloned()
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
