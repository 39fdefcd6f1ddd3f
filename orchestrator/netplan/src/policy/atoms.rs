//! The questions that rules ask about the other end of a connection, each once.

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use ipnet::IpNet;

use super::{Direction, Subject};
use crate::{
    hash::stable,
    selector::{Labels, Selector},
    snapshot::{NetworkPolicy, Peer, PortMatch, Protocol},
};

/// One question about the other end.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Atom {
    /// Is it a pod of this namespace with such labels?
    PodsOf(Arc<str>, Selector),
    /// Is it a pod with such labels, of a namespace with such labels?
    PodsIn(Selector, Selector),
    /// Is its address in the prefix, and in none of the exceptions?
    Block(IpNet, Vec<IpNet>),
}

/// All questions of some subjects, numbered.
#[derive(Debug, Default)]
pub(super) struct Atoms {
    index: HashMap<Atom, usize>,
    hashes: Vec<u64>,
    /// Names that egress rules use: their numbers at a pod are part of what tells classes apart.
    named: Vec<(Arc<str>, Protocol)>,
}

/// A set of atoms by number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Bits(Vec<u64>);

/// What an atom may look at.
pub(super) struct Other<'a> {
    pub(super) address: Option<IpAddr>,
    pub(super) pod: Option<(&'a str, &'a Labels, &'a Labels)>,
}

// === impl Atoms ===

impl Atoms {
    pub(super) fn of<'a>(subjects: impl Iterator<Item = &'a Arc<Subject>>) -> Self {
        let mut atoms = Atoms::default();
        for subject in subjects {
            for (policy, rule) in subject.rules() {
                for peer in &rule.peers {
                    atoms.add(Atom::new(policy, peer));
                }
                if subject.direction == Direction::Egress {
                    let names = rule.ports.iter().filter_map(|port| match &port.ports {
                        PortMatch::Named(name) => Some((Arc::clone(name), port.protocol)),
                        _ => None,
                    });
                    atoms.named.extend(names);
                }
            }
        }
        atoms.named.sort();
        atoms.named.dedup();
        atoms
    }

    fn add(&mut self, atom: Atom) {
        let next = self.index.len();
        if let std::collections::hash_map::Entry::Vacant(entry) = self.index.entry(atom) {
            self.hashes.push(stable(entry.key()));
            entry.insert(next);
        }
    }

    /// The number of the atom that `peer` of a rule of `policy` asks.
    pub(super) fn number(&self, policy: &NetworkPolicy, peer: &Peer) -> usize {
        *self.index.get(&Atom::new(policy, peer)).expect("invariant: atoms were made from the same subjects")
    }

    /// Which questions about pods `other` answers with yes.
    pub(super) fn pods(&self, other: &Other<'_>) -> Bits {
        self.matching(|atom| !matches!(atom, Atom::Block(..)) && atom.holds(other))
    }

    /// Adds the questions about addresses that `address` answers with yes.
    pub(super) fn add_blocks(&self, bits: &mut Bits, address: IpAddr) {
        let other = Other { address: Some(address), pod: None };
        for (atom, number) in &self.index {
            if matches!(atom, Atom::Block(..)) && atom.holds(&other) {
                bits.set(*number);
            }
        }
    }

    /// The blocks that hold for every address whose longest known prefix is `prefix`.
    pub(super) fn blocks_of_prefix(&self, prefix: &IpNet) -> Bits {
        self.matching(|atom| match atom {
            Atom::Block(net, except) => net.contains(prefix) && !except.iter().any(|e| e.contains(prefix)),
            _ => false,
        })
    }

    /// Every prefix that a block mentions.
    pub(super) fn prefixes(&self) -> impl Iterator<Item = IpNet> {
        self.index
            .keys()
            .filter_map(|atom| match atom {
                Atom::Block(net, except) => Some(except.iter().chain([net]).map(IpNet::trunc)),
                _ => None,
            })
            .flatten()
    }

    /// What identifies a set of answers in any process: the sorted hashes of its atoms.
    pub(super) fn key(&self, bits: &Bits) -> Vec<u64> {
        let mut hashes: Vec<u64> = bits.iter().map(|number| self.hashes[number]).collect();
        hashes.sort_unstable();
        hashes
    }

    /// Names that egress rules use.
    pub(super) fn named(&self) -> &[(Arc<str>, Protocol)] {
        &self.named
    }

    fn matching(&self, holds: impl Fn(&Atom) -> bool) -> Bits {
        let mut bits = Bits::default();
        for (atom, number) in &self.index {
            if holds(atom) {
                bits.set(*number);
            }
        }
        bits
    }
}

// === impl Atom ===

impl Atom {
    fn new(policy: &NetworkPolicy, peer: &Peer) -> Self {
        match peer {
            Peer::Pods(pods) => Atom::PodsOf(Arc::clone(&policy.namespace), pods.clone()),
            Peer::PodsIn(namespaces, pods) => Atom::PodsIn(namespaces.clone(), pods.clone()),
            Peer::Block(net, except) => Atom::Block(net.trunc(), except.iter().map(IpNet::trunc).collect()),
        }
    }

    fn holds(&self, other: &Other<'_>) -> bool {
        match (self, other.pod, other.address) {
            (Atom::PodsOf(wanted, pods), Some((namespace, _, labels)), _) => {
                **wanted == *namespace && pods.matches(labels)
            }
            (Atom::PodsIn(namespaces, pods), Some((_, namespace_labels, labels)), _) => {
                namespaces.matches(namespace_labels) && pods.matches(labels)
            }
            (Atom::Block(net, except), _, Some(address)) => {
                net.contains(&address) && !except.iter().any(|e| e.contains(&address))
            }
            _ => false,
        }
    }
}

// === impl Bits ===

impl Bits {
    pub(super) fn set(&mut self, number: usize) {
        let word = number / 64;
        if self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        self.0[word] |= 1 << (number % 64);
    }

    pub(super) fn has(&self, number: usize) -> bool {
        self.0.get(number / 64).is_some_and(|word| word >> (number % 64) & 1 == 1)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    fn iter(&self) -> impl Iterator<Item = usize> {
        self.0.iter().enumerate().flat_map(|(word, bits)| {
            (0..64).filter(move |bit| bits >> bit & 1 == 1).map(move |bit| word * 64 + bit)
        })
    }
}
