//! What one subject allows one class: the rules of NetworkPolicy, evaluated once and for all.

use std::sync::Arc;

use super::{
    Direction, Subject,
    atoms::Atoms,
    classes::{Class, Kind},
};
use crate::{
    ports::{PortRange, PortSet},
    snapshot::{NamedPort, PolicyPort, PortMatch, Protocol},
};

/// The number of no rule: the verdict follows from Kubernetes' own rules, or from the absence of any.
const NO_RULE: u16 = 0;

/// The rules of one subject, ready to be asked about many classes.
pub(super) struct Evaluator<'a> {
    subject: &'a Subject,
    rules: Vec<Rule<'a>>,
}

struct Rule<'a> {
    /// `None`: everyone.
    peers: Option<Vec<usize>>,
    /// Empty: every protocol and port.
    ports: &'a [PolicyPort],
}

impl<'a> Evaluator<'a> {
    pub(super) fn new(subject: &'a Subject, atoms: &Atoms) -> Self {
        let rules = subject
            .rules()
            .map(|(policy, rule)| Rule {
                peers: (!rule.peers.is_empty())
                    .then(|| rule.peers.iter().map(|peer| atoms.number(policy, peer)).collect()),
                ports: &rule.ports,
            })
            .collect();
        Evaluator { subject, rules }
    }

    /// The union of what every rule that admits `class` allows it.
    pub(super) fn allowed(&self, class: &Class) -> PortSet {
        if class.kind == Kind::LocalNode {
            // Kubernetes: a pod and the node it runs on may always speak with each other.
            return PortSet::everything(NO_RULE);
        }
        self.union(self.rules().filter(|(_, rule)| rule.admits(class)), &class.named)
    }

    /// What rules without peers allow: to everyone, known or not.
    pub(super) fn allowed_to_anyone(&self) -> PortSet {
        self.union(self.rules().filter(|(_, rule)| rule.peers.is_none()), &[])
    }

    fn rules(&self) -> impl Iterator<Item = (u16, &Rule<'a>)> {
        // Rules beyond the last number share it: only the explanation suffers.
        (1..).chain(std::iter::repeat(u16::MAX)).zip(&self.rules)
    }

    fn union<'r>(
        &self,
        rules: impl Iterator<Item = (u16, &'r Rule<'r>)>,
        named: &[(Arc<str>, Protocol, u16)],
    ) -> PortSet {
        let mut ranges = Vec::new();
        for (number, rule) in rules {
            if rule.ports.is_empty() {
                return PortSet::everything(number);
            }
            ranges.extend(rule.ports.iter().filter_map(|port| self.range(port, number, named)));
        }
        PortSet::from_ranges(ranges)
    }

    fn range(&self, port: &PolicyPort, rule: u16, named: &[(Arc<str>, Protocol, u16)]) -> Option<PortRange> {
        let (first, last) = match &port.ports {
            PortMatch::All => (0, u16::MAX),
            PortMatch::Range(first, last) => (*first, *last),
            PortMatch::Named(name) => {
                let number = self.number(name, port.protocol, named)?;
                (number, number)
            }
        };
        Some(PortRange { protocol: port.protocol, first, last, rule })
    }

    /// A named port is the destination's: the subject's own for ingress, the class's for egress.
    fn number(
        &self,
        name: &Arc<str>,
        protocol: Protocol,
        named: &[(Arc<str>, Protocol, u16)],
    ) -> Option<u16> {
        match self.subject.direction {
            Direction::Ingress => {
                let is = |port: &&NamedPort| port.name == *name && port.protocol == protocol;
                self.subject.named.iter().find(is).map(|port| port.port)
            }
            Direction::Egress => {
                let is = |port: &&(Arc<str>, Protocol, u16)| port.0 == *name && port.1 == protocol;
                named.iter().find(is).map(|port| port.2)
            }
        }
    }
}

impl Rule<'_> {
    fn admits(&self, class: &Class) -> bool {
        match &self.peers {
            None => true,
            Some(atoms) => atoms.iter().any(|atom| class.atoms.has(*atom)),
        }
    }
}
