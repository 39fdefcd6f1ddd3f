//! What the compilers remember from one plan to the next: numbers, array slots, and what is on its way out.
//!
//! Nothing here must survive a restart: numbers follow from content (`hash`), and slots are adopted from the kernel.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use abi::{Addr4, Addr6, Backend, Node, PortRange, Service, class, names, policy_id};

use crate::{compile::Last, nodes::NodeIndexes, policy::Retiring, services::ServiceState, slots::Slots};

/// How long a slot or number stays untouched after the last entry that names it was replaced: far longer than any packet's
/// way through a program, so that no reader follows an old entry into new content.
pub const GRACE: Duration = Duration::from_secs(2);

/// Sizes that the compiled tables must keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Entries of POLICY.
    pub policy: usize,
    /// Slots of POLICY_RANGES.
    pub policy_ranges: u32,
    /// Entries of PEERS, a family at a time.
    pub peers: usize,
    /// Entries of PEER_CIDRS, a family at a time.
    pub peer_cidrs: usize,
    /// Entries of ENDPOINTS, a family at a time.
    pub endpoints: usize,
    /// Entries of SERVICES, a family at a time.
    pub services: usize,
    /// Slots of BACKENDS, a family at a time.
    pub backends: u32,
    /// Elements of NODES.
    pub nodes: u32,
}

/// The compilers' memory.
#[derive(Debug)]
pub struct Ids {
    pub(crate) now: Duration,
    pub(crate) limits: Limits,
    pub(crate) classes: Numbers,
    pub(crate) policies: Numbers,
    pub(crate) services: Numbers,
    pub(crate) ranges: Slots,
    pub(crate) range_slices: BTreeMap<Arc<[PortRange]>, u32>,
    pub(crate) retiring: Retiring,
    pub(crate) service_state: ServiceState,
    pub(crate) nodes: NodeIndexes,
    pub(crate) last: Option<Box<Last>>,
}

/// Numbers derived from content: the hash itself, or the next free one where two hashes meet.
#[derive(Debug, Default)]
pub(crate) struct Numbers {
    by_key: HashMap<u64, u32>,
    taken: HashMap<u32, u64>,
    first: u32,
}

// === impl Limits ===

impl Default for Limits {
    fn default() -> Self {
        let entries = |map: names::MapSpec| map.max_entries as usize;
        Limits {
            policy: entries(names::POLICY),
            policy_ranges: names::POLICY_RANGES.max_entries,
            peers: entries(names::PEERS4),
            peer_cidrs: entries(names::PEER_CIDRS4),
            endpoints: entries(names::ENDPOINTS4),
            services: entries(names::SERVICES4),
            backends: names::BACKENDS4.max_entries,
            nodes: names::NODES.max_entries,
        }
    }
}

// === impl Ids ===

impl Ids {
    /// Nothing remembered, for tables of these sizes.
    pub fn new(limits: Limits) -> Self {
        Ids {
            now: Duration::ZERO,
            classes: Numbers::starting_at(class::FIRST),
            policies: Numbers::starting_at(policy_id::FIRST),
            services: Numbers::starting_at(1),
            ranges: Slots::new(limits.policy_ranges),
            range_slices: BTreeMap::new(),
            retiring: Retiring::default(),
            service_state: ServiceState::new(&limits),
            nodes: NodeIndexes::default(),
            last: None,
            limits,
        }
    }

    /// Moves the clock (any monotonic one) that grace periods are counted by.
    pub fn set_now(&mut self, now: Duration) {
        self.now = now;
    }

    /// Takes over an element of NODES that a predecessor wrote.
    pub fn adopt_node(&mut self, index: u32, node: &Node) {
        self.nodes.adopt(index, node);
    }

    /// Takes over the IPv4 services and slots that a predecessor wrote.
    pub fn adopt_services4<'a>(
        &mut self,
        services: impl Iterator<Item = &'a Service>,
        backend: impl Fn(u32) -> Option<Backend<Addr4>>,
    ) {
        self.service_state.v4().adopt(services, backend);
    }

    /// Takes over the IPv6 services and slots that a predecessor wrote.
    pub fn adopt_services6<'a>(
        &mut self,
        services: impl Iterator<Item = &'a Service>,
        backend: impl Fn(u32) -> Option<Backend<Addr6>>,
    ) {
        self.service_state.v6().adopt(services, backend);
    }
}

// === impl Numbers ===

impl Numbers {
    /// Numbers below `first` are reserved for fixed meanings.
    pub(crate) fn starting_at(first: u32) -> Self {
        Numbers { first, ..Self::default() }
    }

    /// The number of `key`, the same as last time while it is in use.
    pub(crate) fn of(&mut self, key: u64) -> u32 {
        if let Some(number) = self.by_key.get(&key) {
            return *number;
        }
        let mut number = (key >> 32) as u32;
        while number < self.first || self.taken.contains_key(&number) {
            number = number.wrapping_add(1);
        }
        self.by_key.insert(key, number);
        self.taken.insert(number, key);
        number
    }

    /// Forgets every number that `keep` does not want.
    pub(crate) fn retain(&mut self, keep: impl Fn(u32) -> bool) {
        self.by_key.retain(|_, number| keep(*number));
        self.taken.retain(|number, _| keep(*number));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_stable_and_never_shared() {
        let mut numbers = Numbers::starting_at(16);
        let (one, two) = (numbers.of(7 << 32), numbers.of((7 << 32) | 1));
        assert_eq!((one, two), (16, 17), "reserved numbers are skipped, a clash takes the next");
        assert_eq!(numbers.of(7 << 32), one);
        numbers.retain(|number| number == two);
        assert_eq!(numbers.of((7 << 32) | 1), two);
        assert_eq!(numbers.of(9 << 32), one, "a forgotten number is free again");
        assert_eq!(numbers.of(99 << 32), 99, "a new process computes the same");
    }
}
