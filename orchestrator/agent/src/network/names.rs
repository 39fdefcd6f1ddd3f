//! What addresses and numbers in the datapath's events mean, as of one plan.

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use netplan::{Direction, Names, Plan, Snapshot};
use observe::{Names as Naming, Owner};

/// A directory of one plan's names, shared with those who explain events.
#[derive(Debug, Default)]
pub struct NameBook {
    owners: HashMap<IpAddr, Owner>,
    numbers: Arc<Names>,
}

impl NameBook {
    /// The names of a snapshot and of the plan that was compiled from it.
    pub(super) fn new(snapshot: &Snapshot, plan: &Plan) -> Self {
        let mut owners = HashMap::new();
        for service in &snapshot.services {
            let owner = Owner::service(&service.namespace, &service.name);
            let addresses = service.cluster_ips.iter().chain(&service.external_ips);
            owners.extend(addresses.map(|address| (*address, owner.clone())));
        }
        for pod in snapshot.pods.iter().filter(|pod| !pod.host_network) {
            let owner = Owner::pod(&pod.namespace, &pod.name, &pod.node);
            owners.extend(pod.addresses.iter().map(|address| (*address, owner.clone())));
        }
        for endpoint in &snapshot.endpoints {
            let owner = Owner::pod(&endpoint.namespace, &endpoint.name, &snapshot.node);
            owners.extend(endpoint.addresses.iter().map(|address| (*address, owner.clone())));
        }
        for node in &snapshot.nodes {
            let overlay = [false, true].into_iter().filter_map(|v6| node.overlay(v6));
            let owner = Owner::node(&node.name);
            owners.extend(node.addresses.iter().copied().chain(overlay).map(|a| (a, owner.clone())));
        }
        NameBook { owners, numbers: plan.names.clone() }
    }
}

impl Naming for NameBook {
    fn owner(&self, address: IpAddr) -> Option<Owner> {
        self.owners.get(&address).cloned()
    }

    fn service(&self, id: u32) -> Option<String> {
        let service = self.numbers.services.get(&id)?;
        let name = format!("{}/{}", service.namespace, service.name);
        Some(if service.port.is_empty() { name } else { format!("{name}:{}", service.port) })
    }

    fn policies(&self, policy: u32, rule: u32) -> Vec<String> {
        match self.numbers.rule(policy, rule) {
            Some(policy) => vec![format!("{}/{}", policy.namespace, policy.name)],
            None => self.numbers.policies(policy),
        }
    }

    fn direction(&self, policy: u32) -> Option<&'static str> {
        self.numbers.policies.get(&policy).map(|subject| match subject.direction {
            Direction::Ingress => "ingress",
            Direction::Egress => "egress",
        })
    }
}
