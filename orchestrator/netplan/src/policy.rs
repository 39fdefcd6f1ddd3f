//! NetworkPolicy -> policy ids x peer classes -> disjoint port ranges.
//!
//! An *atom* is one question that a rule asks about the other end; addresses for which all atoms have the same answers form a
//! *class*. A *subject* is a set of policies that isolates pods in one direction; its number is the policy id. Numbers follow
//! from content, so what a (policy id, class) pair means never changes: a change makes new numbers, whose entries are
//! written before any address or endpoint refers to them. Subjects that no endpoint uses any more stay for a grace period,
//! with their atoms, so that both the old and the new ids have a verdict for every class while the kernel moves over.

mod atoms;
mod classes;
mod rules;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

pub(crate) use self::classes::Kind;
use self::{
    atoms::Atoms,
    classes::{Class, Classes},
    rules::Evaluator,
};
use crate::{
    hash::stable,
    ids::{GRACE, Ids},
    peers::Addresses,
    ports::PortSet,
    snapshot::{LocalEndpoint, NamedPort, NetworkPolicy, Pod, Rule, Snapshot},
};

/// Which way a policy looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Direction {
    /// Towards the pod.
    Ingress,
    /// From the pod.
    Egress,
}

/// A set of policies that isolates pods in one direction: what a policy id stands for.
#[derive(Debug, PartialEq, Eq)]
pub struct Subject {
    /// The direction.
    pub direction: Direction,
    /// The policies, by namespace and name.
    pub policies: Vec<Arc<NetworkPolicy>>,
    /// What the pods call their ports, as far as ingress rules ask.
    pub(crate) named: Vec<NamedPort>,
}

/// What the policy compiler hands on.
#[derive(Debug, Default)]
pub(crate) struct PolicyTables {
    /// The class of every address that has one of its own.
    pub(crate) classes: BTreeMap<IpAddr, u32>,
    /// The class of every prefix.
    pub(crate) cidrs: Vec<classes::Prefix>,
    /// What each subject allows each class.
    pub(crate) verdicts: Vec<Verdict>,
    /// Policy ids of each endpoint, by its position in the snapshot.
    pub(crate) bindings: Vec<Binding>,
    /// All policy ids that the verdicts cover.
    pub(crate) subjects: HashMap<u32, Arc<Subject>>,
    /// Some ids are still on their way out: compile again later.
    pub(crate) unsettled: bool,
}

/// What one subject allows one class.
#[derive(Debug)]
pub(crate) struct Verdict {
    pub(crate) policy: u32,
    pub(crate) class: u32,
    pub(crate) allowed: PortSet,
}

/// The policy of one endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Binding {
    /// The pod is not in the snapshot yet: its labels are unknown, everything is denied.
    Unknown,
    /// Compiled; `None` where no policy isolates the pod.
    Compiled { class: u32, ingress: Option<u32>, egress: Option<u32> },
}

/// Subjects of the last plan, and those that are leaving.
#[derive(Debug, Default)]
pub(crate) struct Retiring {
    live: HashMap<u32, Arc<Subject>>,
    leaving: HashMap<u32, (Duration, Arc<Subject>)>,
}

/// Compiles all policies that select a pod of this node.
pub(crate) fn compile(snapshot: &Snapshot, addresses: &Addresses, ids: &mut Ids) -> PolicyTables {
    let pods: HashMap<&str, &Arc<Pod>> = snapshot.pods.iter().map(|pod| (&*pod.uid, pod)).collect();
    let by_namespace = group(&snapshot.policies);
    let mut current = HashMap::new();
    let bound: Vec<_> = snapshot
        .endpoints
        .iter()
        .map(|endpoint| bind(endpoint, &pods, &by_namespace, ids, &mut current))
        .collect();
    let subjects = ids.retiring.advance(current, ids.now);

    let atoms = Atoms::of(subjects.values());
    let mut classes = Classes::new(snapshot, &atoms, ids);
    let by_address = classes.of_addresses(addresses);
    let cidrs = classes.of_prefixes();
    let all = classes.into_all();

    let tables = PolicyTables {
        bindings: bindings(snapshot, &bound, &by_address),
        verdicts: verdicts(&subjects, &atoms, &all),
        classes: by_address,
        cidrs,
        unsettled: !ids.retiring.leaving.is_empty(),
        subjects,
    };
    let kept: HashSet<u32> = all.iter().map(|class| class.number).collect();
    ids.classes.retain(|number| kept.contains(&number));
    ids.policies.retain(|number| tables.subjects.contains_key(&number));
    tables
}

fn group(policies: &[Arc<NetworkPolicy>]) -> HashMap<&str, Vec<&Arc<NetworkPolicy>>> {
    let mut groups: HashMap<&str, Vec<_>> = HashMap::new();
    for policy in policies {
        groups.entry(&*policy.namespace).or_default().push(policy);
    }
    for group in groups.values_mut() {
        group.sort_by(|one, two| one.name.cmp(&two.name));
    }
    groups
}

/// The endpoint's policy ids, `None` while its pod is unknown.
fn bind(
    endpoint: &LocalEndpoint,
    pods: &HashMap<&str, &Arc<Pod>>,
    policies: &HashMap<&str, Vec<&Arc<NetworkPolicy>>>,
    ids: &mut Ids,
    subjects: &mut HashMap<u32, Arc<Subject>>,
) -> Option<(Option<u32>, Option<u32>)> {
    let pod = pods.get(&*endpoint.uid)?;
    let selecting: Vec<&Arc<NetworkPolicy>> = policies
        .get(&*pod.namespace)
        .into_iter()
        .flatten()
        .copied()
        .filter(|policy| policy.pods.matches(&pod.labels))
        .collect();
    let mut id = |direction| {
        let subject = Subject::of(direction, &selecting, pod)?;
        let number = ids.policies.of(subject.key());
        subjects.entry(number).or_insert_with(|| Arc::new(subject));
        Some(number)
    };
    Some((id(Direction::Ingress), id(Direction::Egress)))
}

fn bindings(
    snapshot: &Snapshot,
    bound: &[Option<(Option<u32>, Option<u32>)>],
    classes: &BTreeMap<IpAddr, u32>,
) -> Vec<Binding> {
    let class = |endpoint: &LocalEndpoint| endpoint.addresses.first().and_then(|a| classes.get(a)).copied();
    let one = |(endpoint, bound): (&Arc<LocalEndpoint>, &Option<_>)| match (bound, class(endpoint)) {
        (Some((ingress, egress)), Some(class)) => {
            Binding::Compiled { class, ingress: *ingress, egress: *egress }
        }
        _ => Binding::Unknown,
    };
    snapshot.endpoints.iter().zip(bound).map(one).collect()
}

fn verdicts(subjects: &HashMap<u32, Arc<Subject>>, atoms: &Atoms, classes: &[Class]) -> Vec<Verdict> {
    let mut verdicts = Vec::new();
    for (policy, subject) in subjects {
        let evaluator = Evaluator::new(subject, atoms);
        let anyone = evaluator.allowed_to_anyone();
        for class in classes {
            let allowed = evaluator.allowed(class);
            if !allowed.allows_same(&anyone) {
                verdicts.push(Verdict { policy: *policy, class: class.number, allowed });
            }
        }
        verdicts.push(Verdict { policy: *policy, class: abi::class::ANY, allowed: anyone });
    }
    verdicts
}

// === impl Subject ===

impl Subject {
    /// The policies of `selecting` that isolate `pod` in `direction`; `None` when none does.
    fn of(direction: Direction, selecting: &[&Arc<NetworkPolicy>], pod: &Pod) -> Option<Self> {
        let policies: Vec<Arc<NetworkPolicy>> = selecting
            .iter()
            .filter(|policy| policy.rules(direction).is_some())
            .map(|policy| Arc::clone(policy))
            .collect();
        if policies.is_empty() {
            return None;
        }
        let named = match direction {
            Direction::Ingress => pod.ports.iter().filter(|port| asked(&policies, port)).cloned().collect(),
            Direction::Egress => Vec::new(),
        };
        Some(Subject { direction, policies, named })
    }

    fn key(&self) -> u64 {
        stable(&(self.direction, &self.policies, &self.named))
    }

    /// All rules of all policies in this subject's direction, with the policy that each is from; counted from 1 they are the
    /// rule numbers that events carry.
    pub fn rules(&self) -> impl Iterator<Item = (&NetworkPolicy, &Rule)> {
        self.policies.iter().flat_map(|policy| {
            policy.rules(self.direction).into_iter().flatten().map(move |rule| (&**policy, rule))
        })
    }
}

/// Whether an ingress rule of `policies` names `port`.
fn asked(policies: &[Arc<NetworkPolicy>], port: &NamedPort) -> bool {
    policies.iter().filter_map(|policy| policy.ingress.as_ref()).flatten().flat_map(|rule| &rule.ports).any(
        |wanted| {
            wanted.protocol == port.protocol
                && matches!(&wanted.ports, crate::snapshot::PortMatch::Named(name) if *name == port.name)
        },
    )
}

// === impl Retiring ===

impl Retiring {
    /// Takes over the subjects now in use; those no longer in use leave after the grace period. All that must have verdicts.
    fn advance(&mut self, current: HashMap<u32, Arc<Subject>>, now: Duration) -> HashMap<u32, Arc<Subject>> {
        for (id, subject) in std::mem::take(&mut self.live) {
            if !current.contains_key(&id) {
                self.leaving.entry(id).or_insert((now, subject));
            }
        }
        self.leaving.retain(|id, (since, _)| !current.contains_key(id) && now.saturating_sub(*since) < GRACE);
        self.live = current.clone();
        let leaving = self.leaving.iter().map(|(id, (_, subject))| (*id, Arc::clone(subject)));
        current.into_iter().chain(leaving).collect()
    }
}

// === impl NetworkPolicy ===

impl NetworkPolicy {
    /// The rules of one direction; `None` where the policy does not isolate.
    pub fn rules(&self, direction: Direction) -> Option<&Vec<Rule>> {
        match direction {
            Direction::Ingress => self.ingress.as_ref(),
            Direction::Egress => self.egress.as_ref(),
        }
    }
}
