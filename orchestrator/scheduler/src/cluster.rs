//! What the nodes have and what they hold: kept up to date change by change, by one owner, never copied.
//!
//! A pod counts on its node from the moment it is assumed there. The informer's word, when it comes, replaces the
//! assumption; a failed binding takes it back.
use std::{collections::HashMap, sync::Arc};

use client::ObjectKey;
use indexmap::IndexMap;

use crate::{
    objects::{HostPort, Node, Pod},
    resources::Resources,
};

const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

/// All nodes with their pods.
#[derive(Debug, Default)]
pub struct Cluster {
    nodes: IndexMap<Box<str>, NodeInfo>,
    /// Where each pod counts.
    places: HashMap<ObjectKey, Place>,
    /// Pods of one owner in one zone.
    zone_owners: HashMap<(Box<str>, Box<str>), u32>,
    known: usize,
}

#[derive(Debug)]
struct Place {
    node: Box<str>,
    pod: Arc<Pod>,
}

/// A node and what is on it.
#[derive(Debug, Default)]
pub struct NodeInfo {
    /// The node; `None` while only pods speak of it.
    pub node: Option<Arc<Node>>,
    /// Sum of its pods' requests.
    pub requested: Resources,
    /// CPU in use as scores see it.
    pub scored_cpu_milli: i64,
    /// Memory in use as scores see it.
    pub scored_memory: i64,
    /// Ports its pods have taken.
    pub host_ports: Vec<HostPort>,
    /// Number of its pods by their controller's uid.
    pub owners: HashMap<Box<str>, u32>,
}

/// What about a node has got better for waiting pods.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Improved {
    /// More is free: capacity, ports, room for pods.
    pub room: bool,
    /// Labels have changed.
    pub labels: bool,
    /// Taints are gone, or it was uncordoned.
    pub taints: bool,
    /// It is new.
    pub new: bool,
}

// === impl Cluster ===

impl Cluster {
    /// Number of nodes that exist.
    pub fn node_count(&self) -> usize {
        self.known
    }

    /// Number of places in the order of nodes; some may be of nodes that do not exist (yet).
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether there is no node at all.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// A node by its place.
    pub fn at(&self, index: usize) -> Option<(&Node, &NodeInfo)> {
        let (_, info) = self.nodes.get_index(index)?;
        Some((info.node.as_deref()?, info))
    }

    /// A node by its name.
    pub fn node(&self, name: &str) -> Option<(&Node, &NodeInfo)> {
        let info = self.nodes.get(name)?;
        Some((info.node.as_deref()?, info))
    }

    /// Number of pods of this owner in a zone.
    pub fn owner_in_zone(&self, zone: &str, owner: &str) -> u32 {
        self.zone_owners.get(&(zone.into(), owner.into())).copied().unwrap_or_default()
    }

    /// Takes a node's newest state; says what has got better.
    pub fn set_node(&mut self, node: Arc<Node>) -> Improved {
        let name = node.metadata.name.clone();
        let info = self.nodes.entry(name.clone()).or_default();
        let old = info.node.replace(node.clone());
        let improved = match &old {
            None => Improved { room: true, labels: true, taints: true, new: true },
            Some(old) => Improved {
                room: old.allocatable != node.allocatable,
                labels: old.metadata.labels != node.metadata.labels,
                taints: old.taints != node.taints || (old.unschedulable && !node.unschedulable),
                new: false,
            },
        };
        self.known += usize::from(old.is_none());
        if old.as_deref().and_then(zone) != zone(&node) {
            self.recount_zones(
                &name,
                old.as_deref().and_then(zone).map(Box::from),
                zone(&node).map(Box::from),
            );
        }
        improved
    }

    /// A node is gone. Its pods keep counting on it until they are gone too.
    pub fn remove_node(&mut self, name: &str) {
        let Some(info) = self.nodes.get_mut(name) else { return };
        let old = info.node.take();
        self.known -= usize::from(old.is_some());
        let zone = old.as_deref().and_then(zone).map(Box::from);
        self.recount_zones(name, zone, None);
        self.drop_if_unused(name);
    }

    /// Counts a decision at once.
    pub fn assume(&mut self, pod: &Arc<Pod>, node: &str) {
        self.place(pod, node);
    }

    /// Takes a pod's newest state. Returns the name of the node that has more room by it.
    pub fn set_pod(&mut self, pod: &Arc<Pod>) -> Option<Box<str>> {
        if pod.finished {
            return self.remove_pod(&pod.metadata.key());
        }
        if pod.node_name.is_empty() {
            // Waiting, or assumed by us and not yet seen as bound.
            let place = self.places.get(&pod.metadata.key())?;
            let replaced = place.pod.metadata.uid != pod.metadata.uid;
            return if replaced { self.remove_pod(&pod.metadata.key()) } else { None };
        }
        let node = pod.node_name.clone();
        self.place(pod, &node)
    }

    /// A pod is gone, or its binding has failed. Returns the name of the node that has more room by it.
    pub fn remove_pod(&mut self, key: &ObjectKey) -> Option<Box<str>> {
        let Place { node, pod } = self.places.remove(key)?;
        self.charge(&node, &pod, -1);
        self.drop_if_unused(&node);
        Some(node)
    }

    fn place(&mut self, pod: &Arc<Pod>, node: &str) -> Option<Box<str>> {
        let key = pod.metadata.key();
        if let Some(place) = self.places.get_mut(&key)
            && *place.node == *node
            && place.pod.requests == pod.requests
            && place.pod.host_ports == pod.host_ports
            && owner(&place.pod) == owner(pod)
        {
            place.pod = pod.clone();
            return None;
        }
        let freed = self.remove_pod(&key);
        self.charge(node, pod, 1);
        self.places.insert(key, Place { node: node.into(), pod: pod.clone() });
        freed
    }

    fn charge(&mut self, node: &str, pod: &Pod, sign: i32) {
        let info = self.nodes.entry(node.into()).or_default();
        let scale = i64::from(sign);
        info.scored_cpu_milli += scale * pod.requests.scored_cpu_milli();
        info.scored_memory += scale * pod.requests.scored_memory();
        if sign > 0 {
            info.requested.add(&pod.requests);
            info.host_ports.extend(pod.host_ports.iter().cloned());
        } else {
            info.requested.subtract(&pod.requests);
            for port in &pod.host_ports {
                let at = info.host_ports.iter().position(|own| own == port);
                at.map(|at| info.host_ports.swap_remove(at));
            }
        }
        if let Some(owner) = owner(pod) {
            let zone = info.node.as_deref().and_then(zone).map(Box::from);
            count(&mut info.owners, owner.into(), sign);
            if let Some(zone) = zone {
                count(&mut self.zone_owners, (zone, owner.into()), sign);
            }
        }
    }

    fn recount_zones(&mut self, node: &str, old: Option<Box<str>>, new: Option<Box<str>>) {
        let Some(info) = self.nodes.get(node) else { return };
        for (owner, pods) in &info.owners {
            let pods = i32::try_from(*pods).unwrap_or(i32::MAX);
            for (zone, sign) in [(&old, -pods), (&new, pods)] {
                if let Some(zone) = zone {
                    count(&mut self.zone_owners, (zone.clone(), owner.clone()), sign);
                }
            }
        }
    }

    fn drop_if_unused(&mut self, name: &str) {
        if self.nodes.get(name).is_some_and(|info| info.node.is_none() && info.requested.pods == 0) {
            self.nodes.swap_remove(name);
        }
    }
}

/// The zone a node is in.
pub fn zone(node: &Node) -> Option<&str> {
    node.metadata.labels.get(ZONE_LABEL)
}

/// What pods of one kind have in common: their controller.
pub fn owner(pod: &Pod) -> Option<&str> {
    pod.metadata.controller().map(|owner| &*owner.uid)
}

fn count<K: std::hash::Hash + Eq>(counts: &mut HashMap<K, u32>, key: K, change: i32) {
    let entry = counts.entry(key);
    match entry {
        std::collections::hash_map::Entry::Occupied(mut own) => {
            let now = own.get().saturating_add_signed(change);
            if now == 0 {
                own.remove();
            } else {
                own.insert(now);
            }
        }
        std::collections::hash_map::Entry::Vacant(own) if change > 0 => _ = own.insert(change.unsigned_abs()),
        std::collections::hash_map::Entry::Vacant(_) => {}
    }
}
