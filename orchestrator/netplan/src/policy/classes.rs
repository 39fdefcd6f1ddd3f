//! Which class each address and prefix is in.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::atoms::{Atoms, Bits, Other};
use crate::{
    hash::stable,
    ids::Ids,
    peers::{Addresses, Owner},
    selector::Labels,
    snapshot::{Pod, Protocol, Snapshot},
};

/// What an address is before any policy asks; part of what tells classes apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// A pod.
    Pod,
    /// A node of the cluster, or a hostNetwork pod on it.
    Node,
    /// The node that this is compiled for: it may always reach its own pods.
    LocalNode,
    /// Outside the cluster.
    World,
    /// Inside a pod CIDR, but no pod that is known.
    Unknown,
}

/// Addresses that every subject treats alike.
#[derive(Debug)]
pub(super) struct Class {
    pub(super) number: u32,
    pub(super) kind: Kind,
    pub(super) atoms: Bits,
    /// Numbers of the ports that egress rules name, as the class's pods have them.
    pub(super) named: Vec<(Arc<str>, Protocol, u16)>,
}

/// The class of all addresses that have no entry of their own below this prefix.
#[derive(Debug)]
pub(crate) struct Prefix {
    pub(crate) net: IpNet,
    pub(crate) class: u32,
    pub(crate) kind: Kind,
}

/// Collects classes as addresses ask for theirs.
pub(super) struct Classes<'a> {
    snapshot: &'a Snapshot,
    atoms: &'a Atoms,
    ids: &'a mut Ids,
    namespaces: HashMap<&'a str, &'a Labels>,
    /// Pods made from one template share labels: they are matched once.
    matched: HashMap<(&'a str, &'a Labels), Bits>,
    of_labels: HashMap<(&'a str, &'a Labels), u32>,
    all: HashMap<u32, Class>,
}

impl<'a> Classes<'a> {
    pub(super) fn new(snapshot: &'a Snapshot, atoms: &'a Atoms, ids: &'a mut Ids) -> Self {
        let namespaces = snapshot.namespaces.iter().map(|n| (&*n.name, &n.labels)).collect();
        Classes {
            snapshot,
            atoms,
            ids,
            namespaces,
            matched: HashMap::new(),
            of_labels: HashMap::new(),
            all: HashMap::new(),
        }
    }

    /// The class of every pod's and node's address.
    pub(super) fn of_addresses(&mut self, addresses: &Addresses) -> BTreeMap<IpAddr, u32> {
        let one = |(address, owner): (&IpAddr, &Owner)| {
            let class = match owner {
                Owner::Pod(at) => self.of_pod(*address, *at),
                Owner::Node { local: true, .. } => {
                    self.class(Kind::LocalNode, Some((*address).into()), Bits::default(), vec![])
                }
                Owner::Node { local: false, .. } => {
                    self.class(Kind::Node, Some((*address).into()), Bits::default(), vec![])
                }
                // Its labels are not known yet; until they are it is what an unknown pod is.
                Owner::Nameless(_) => self.class(Kind::Unknown, None, Bits::default(), vec![]),
            };
            (*address, class)
        };
        addresses.iter().map(one).collect()
    }

    /// The class of every prefix that a policy mentions, of the cluster's own prefixes, and of everything else.
    pub(super) fn of_prefixes(&mut self) -> Vec<Prefix> {
        let everything = [IpNet::V4(Ipv4Net::default()), IpNet::V6(Ipv6Net::default())];
        let snapshot = self.snapshot;
        let cluster = &snapshot.cluster;
        let of_nodes = snapshot.nodes.iter().flat_map(|node| &node.pod_cidrs);
        let own = cluster.pod_cidrs.iter().chain(&cluster.service_cidrs).chain(of_nodes).map(IpNet::trunc);
        let nets: BTreeSet<IpNet> = self.atoms.prefixes().chain(own).chain(everything).collect();
        nets.into_iter().map(|net| self.of_prefix(net)).collect()
    }

    fn of_prefix(&mut self, net: IpNet) -> Prefix {
        let snapshot = self.snapshot;
        let mut pod_cidrs = snapshot.cluster.pod_cidrs.iter();
        if pod_cidrs.any(|cidr| cidr.contains(&net)) {
            let class = self.class(Kind::Unknown, None, Bits::default(), vec![]);
            return Prefix { net, class, kind: Kind::Unknown };
        }
        Prefix { net, class: self.class(Kind::World, Some(net), Bits::default(), vec![]), kind: Kind::World }
    }

    /// Every class that was asked for.
    pub(super) fn into_all(self) -> Vec<Class> {
        self.all.into_values().collect()
    }

    fn of_pod(&mut self, address: IpAddr, at: usize) -> u32 {
        let pod: &'a Pod = &self.snapshot.pods[at];
        // Where only labels count, all pods of one template are in one class.
        let by_labels = !self.atoms.has_blocks() && self.atoms.named().is_empty();
        if !by_labels {
            return self.of_pod_alone(address, pod);
        }
        let key = (&*pod.namespace, &pod.labels);
        if let Some(class) = self.of_labels.get(&key) {
            return *class;
        }
        let class = self.of_pod_alone(address, pod);
        self.of_labels.insert(key, class);
        class
    }

    fn of_pod_alone(&mut self, address: IpAddr, pod: &'a Pod) -> u32 {
        let atoms = self.match_pod(pod);
        let named = self
            .atoms
            .named()
            .iter()
            .filter_map(|(name, protocol)| {
                let port = pod.ports.iter().find(|port| port.name == *name && port.protocol == *protocol)?;
                Some((Arc::clone(name), *protocol, port.port))
            })
            .collect();
        self.class(Kind::Pod, Some(address.into()), atoms, named)
    }

    fn match_pod(&mut self, pod: &'a Pod) -> Bits {
        let key = (&*pod.namespace, &pod.labels);
        if let Some(bits) = self.matched.get(&key) {
            return bits.clone();
        }
        let none = Labels::default();
        let namespace_labels = self.namespaces.get(&*pod.namespace).copied().unwrap_or(&none);
        let other = Other { namespace: &pod.namespace, namespace_labels, labels: &pod.labels };
        let bits = self.atoms.pods(&other);
        self.matched.insert(key, bits.clone());
        bits
    }

    fn class(
        &mut self,
        kind: Kind,
        net: Option<IpNet>,
        mut atoms: Bits,
        named: Vec<(Arc<str>, Protocol, u16)>,
    ) -> u32 {
        if let Some(net) = net {
            self.atoms.add_blocks(&mut atoms, &net);
        }
        let number = match kind {
            Kind::Unknown => abi::class::UNKNOWN_POD,
            Kind::LocalNode => abi::class::SELF_NODE,
            Kind::World if atoms.is_empty() => abi::class::WORLD,
            _ => self.ids.classes.of(stable(&(kind, self.atoms.key(&atoms), &named))),
        };
        self.all.entry(number).or_insert_with(|| Class { number, kind, atoms, named });
        number
    }
}
