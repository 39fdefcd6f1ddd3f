//! Other nodes -> the indexes of NODES, which conntrack entries remember.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use abi::{Node as Entry, node_flag};

use crate::snapshot::{Node, Snapshot};

/// Which index each node has. An index is not used again before all others were: a connection may still name it.
#[derive(Debug, Default)]
pub(crate) struct NodeIndexes {
    by_name: HashMap<Arc<str>, u32>,
    /// Found in the kernel at start: the node with that address takes its index back.
    adopted: HashMap<IpAddr, u32>,
    last: u32,
}

impl NodeIndexes {
    /// Remembers what the kernel holds, so that connections go on to the node they went to.
    pub(crate) fn adopt(&mut self, index: u32, entry: &Entry) {
        if entry.flags & node_flag::PRESENT != 0 {
            self.adopted.insert(address_of(entry), index);
            self.last = self.last.max(index);
        }
    }

    /// The entries of all nodes but this one; `None` in the second place where there is no index left.
    pub(crate) fn compile(&mut self, snapshot: &Snapshot, capacity: u32) -> (BTreeMap<u32, Entry>, usize) {
        let others = || snapshot.nodes.iter().filter(|node| node.name != snapshot.node);
        self.by_name.retain(|name, _| others().any(|node| node.name == *name));
        let mut entries = BTreeMap::new();
        let mut homeless = 0;
        for node in others() {
            let Some(address) = node.tunnel(false).or_else(|| node.tunnel(true)) else { continue };
            match self.index(node, address, capacity) {
                Some(index) => {
                    entries.insert(index, entry(address));
                }
                None => homeless += 1,
            }
        }
        self.adopted.clear();
        (entries, homeless)
    }

    /// The index of a node that `compile` has seen.
    pub(crate) fn get(&self, name: &str) -> Option<u32> {
        self.by_name.get(name).copied()
    }

    fn index(&mut self, node: &Node, address: IpAddr, capacity: u32) -> Option<u32> {
        if let Some(index) = self.by_name.get(&node.name) {
            return Some(*index);
        }
        let index = match self.adopted.remove(&address) {
            Some(index) => index,
            None => self.next(capacity)?,
        };
        self.by_name.insert(Arc::clone(&node.name), index);
        Some(index)
    }

    fn next(&mut self, capacity: u32) -> Option<u32> {
        for _ in 1..capacity {
            // Index 0 means "here or outside" and is never given away.
            self.last = if self.last + 1 >= capacity { 1 } else { self.last + 1 };
            let taken = self.by_name.values().chain(self.adopted.values()).any(|index| *index == self.last);
            if !taken {
                return Some(self.last);
            }
        }
        None
    }
}

fn entry(address: IpAddr) -> Entry {
    match address {
        IpAddr::V4(v4) => Entry {
            address: [u32::from_ne_bytes(v4.octets()), 0, 0, 0],
            flags: node_flag::PRESENT,
            reserved: 0,
        },
        IpAddr::V6(v6) => {
            Entry { address: abi::Addr6::from(v6).0, flags: node_flag::PRESENT | node_flag::V6, reserved: 0 }
        }
    }
}

fn address_of(entry: &Entry) -> IpAddr {
    if entry.flags & node_flag::V6 != 0 {
        return Ipv6Addr::from(abi::Addr6(entry.address)).into();
    }
    Ipv4Addr::from(entry.address[0].to_ne_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    fn with(names: &[(&str, &str)]) -> Snapshot {
        let mut snapshot = testing::snapshot();
        for (name, address) in names {
            let addresses = vec![testing::ip(address)];
            snapshot.nodes.push(Arc::new(Node { name: (*name).into(), addresses, pod_cidrs: vec![] }));
        }
        snapshot
    }

    #[test]
    fn indexes_stay_and_are_taken_back_after_a_restart() {
        let mut before = NodeIndexes::default();
        let snapshot = with(&[("three", "192.168.0.3"), ("four", "192.168.0.4")]);
        let (held, homeless) = before.compile(&snapshot, 8);
        assert_eq!((held.len(), homeless), (3, 0), "this node is not among them");
        let four = before.get("four").unwrap();

        let mut after = NodeIndexes::default();
        for (index, entry) in &held {
            after.adopt(*index, entry);
        }
        let (again, _) = after.compile(&with(&[("five", "192.168.0.5"), ("four", "192.168.0.4")]), 8);
        assert_eq!(after.get("four"), Some(four));
        assert!(!held.contains_key(&after.get("five").unwrap()), "a gone node's index is not used at once");
        assert_eq!(again.len(), 3);
    }

    #[test]
    fn too_many_nodes_are_counted() {
        let (entries, homeless) = NodeIndexes::default().compile(&with(&[("three", "192.168.0.3")]), 2);
        assert_eq!((entries.len(), homeless), (1, 1));
    }
}
