//! The questions that rules ask about the other end of a connection, each once.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
};

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
    /// Blocks by their prefix: those that hold an address are found by its leading bits.
    blocks: HashMap<IpNet, Vec<usize>>,
    /// Exceptions by the number of their block.
    exceptions: HashMap<usize, Vec<IpNet>>,
    /// Names that egress rules use: their numbers at a pod are part of what tells classes apart.
    named: Vec<(Arc<str>, Protocol)>,
}

/// A set of atoms by number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Bits(Vec<u64>);

/// A pod as an atom sees it.
pub(super) struct Other<'a> {
    pub(super) namespace: &'a str,
    pub(super) namespace_labels: &'a Labels,
    pub(super) labels: &'a Labels,
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
        let Entry::Vacant(entry) = self.index.entry(atom) else { return };
        self.hashes.push(stable(entry.key()));
        if let Atom::Block(net, except) = entry.key() {
            self.blocks.entry(*net).or_default().push(next);
            self.exceptions.insert(next, except.clone());
        }
        entry.insert(next);
    }

    /// The number of the atom that `peer` of a rule of `policy` asks.
    pub(super) fn number(&self, policy: &NetworkPolicy, peer: &Peer) -> usize {
        *self.index.get(&Atom::new(policy, peer)).expect("invariant: atoms were made from the same subjects")
    }

    /// Which questions about pods `other` answers with yes.
    pub(super) fn pods(&self, other: &Other<'_>) -> Bits {
        let mut bits = Bits::default();
        let yes = self.index.iter().filter(|(atom, _)| atom.selects(other));
        yes.for_each(|(_, number)| bits.set(*number));
        bits
    }

    /// Adds the blocks that hold for every address whose longest known prefix is `net`; for an address, its own full prefix.
    pub(super) fn add_blocks(&self, bits: &mut Bits, net: &IpNet) {
        if self.blocks.is_empty() {
            return;
        }
        for length in 0..=net.prefix_len() {
            let Ok(wider) = IpNet::new(net.addr(), length) else { continue };
            for number in self.blocks.get(&wider.trunc()).into_iter().flatten() {
                if !self.exceptions[number].iter().any(|except| except.contains(net)) {
                    bits.set(*number);
                }
            }
        }
    }

    /// Whether any rule asks about addresses.
    pub(super) fn has_blocks(&self) -> bool {
        !self.blocks.is_empty()
    }

    /// Every prefix that a block mentions.
    pub(super) fn prefixes(&self) -> impl Iterator<Item = IpNet> {
        self.blocks.keys().chain(self.exceptions.values().flatten()).copied()
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

    /// Whether it is about pods, and `other` is one of them.
    fn selects(&self, other: &Other<'_>) -> bool {
        match self {
            Atom::PodsOf(wanted, pods) => **wanted == *other.namespace && pods.matches(other.labels),
            Atom::PodsIn(namespaces, pods) => {
                namespaces.matches(other.namespace_labels) && pods.matches(other.labels)
            }
            Atom::Block(..) => false,
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
