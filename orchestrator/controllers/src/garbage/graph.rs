//! Who owns whom, in little memory: a number for every object, more only for those that have owners or wait.
use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::Arc,
};

use client::{ApiResource, Meta, ObjectKey, OwnerReference};

use super::{FOREGROUND, ORPHAN};

/// A uid as a number. Uids are UUIDs; the rare one that is not is hashed, which is as good as unique.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Uid(u128);

/// An object that has owners, or that is being deleted in a way that concerns its dependents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Which resource.
    pub resource: Arc<ApiResource>,
    /// Namespace and name.
    pub key: ObjectKey,
    /// Its owners.
    pub owners: Vec<OwnerReference>,
    /// Deletion has begun.
    pub deleting: bool,
    /// It waits for its dependents to go.
    pub foreground: bool,
    /// It waits for its dependents to be let go.
    pub orphaning: bool,
}

/// The graph.
#[derive(Debug, Default)]
pub struct Graph {
    alive: HashSet<Uid>,
    nodes: HashMap<Uid, Node>,
    dependents: HashMap<Uid, HashSet<Uid>>,
}

// === impl Uid ===

impl Uid {
    /// The number of a uid.
    pub fn of(text: &str) -> Self {
        let hex: String = text.chars().filter(|c| *c != '-').collect();
        match u128::from_str_radix(&hex, 16) {
            Ok(number) if hex.len() == 32 => Self(number),
            _ => {
                use std::hash::{DefaultHasher, Hash, Hasher};
                let half = |salt: u8| {
                    let mut hasher = DefaultHasher::new();
                    (salt, text).hash(&mut hasher);
                    u128::from(hasher.finish())
                };
                Self(half(0) << 64 | half(1))
            }
        }
    }
}

impl fmt::Display for Uid {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:032x}", self.0)
    }
}

// === impl Graph ===

impl Graph {
    /// An object is there, as `meta` says. Returns what should be looked at.
    pub fn observe(&mut self, resource: &Arc<ApiResource>, meta: &Meta) -> Vec<Uid> {
        let uid = Uid::of(&meta.uid);
        let new = self.alive.insert(uid);
        let has =
            |finalizer: &str| meta.is_deleting() && meta.finalizers.iter().any(|own| &**own == finalizer);
        let node = Node {
            resource: resource.clone(),
            key: meta.key(),
            owners: meta.owner_references.clone(),
            deleting: meta.is_deleting(),
            foreground: has(FOREGROUND),
            orphaning: has(ORPHAN),
        };
        let concerns = !node.owners.is_empty() || node.foreground || node.orphaning;
        let old = if concerns { self.nodes.insert(uid, node.clone()) } else { self.nodes.remove(&uid) };
        if old.as_ref().map(|old| &old.owners) != Some(&node.owners) {
            self.unlink(uid, old.as_ref());
            for owner in &node.owners {
                self.dependents.entry(Uid::of(&owner.uid)).or_default().insert(uid);
            }
        }
        let changed = old.as_ref() != Some(&node);
        if concerns && (new || changed) { vec![uid] } else { Vec::new() }
    }

    /// An object is gone. Returns what should be looked at: what it owned, and owners that wait for it.
    pub fn forget(&mut self, uid: Uid) -> Vec<Uid> {
        self.alive.remove(&uid);
        let old = self.nodes.remove(&uid);
        self.unlink(uid, old.as_ref());
        let mut affected: Vec<Uid> = self.dependents.get(&uid).into_iter().flatten().copied().collect();
        let owners = old.iter().flat_map(|node| &node.owners).map(|owner| Uid::of(&owner.uid));
        affected.extend(owners.filter(|owner| self.waits_for_dependents(*owner)));
        affected
    }

    /// After a list of a whole resource: all of it that is not in the list is gone. `seen` has the list's uids.
    pub fn forget_all_but(&mut self, resource: &ApiResource, seen: &HashSet<Uid>) -> Vec<Uid> {
        let gone = self.nodes.iter().filter(|(uid, node)| *node.resource == *resource && !seen.contains(uid));
        let mut gone: HashSet<Uid> = gone.map(|(uid, _)| *uid).collect();
        // Owners leave no trace but in their dependents' references.
        for owner in self.nodes.values().flat_map(|node| &node.owners) {
            let uid = Uid::of(&owner.uid);
            if *owner.kind == *resource.kind && !seen.contains(&uid) {
                gone.insert(uid);
            }
        }
        gone.into_iter().flat_map(|uid| self.forget(uid)).collect()
    }

    fn unlink(&mut self, uid: Uid, old: Option<&Node>) {
        for owner in old.iter().flat_map(|node| &node.owners) {
            let owner = Uid::of(&owner.uid);
            if let Some(own) = self.dependents.get_mut(&owner) {
                own.remove(&uid);
                if own.is_empty() {
                    self.dependents.remove(&owner);
                }
            }
        }
    }

    /// What is known of an object that has owners or waits.
    pub fn node(&self, uid: Uid) -> Option<&Node> {
        self.nodes.get(&uid)
    }

    /// Whether an object was seen and not seen to go.
    pub fn is_alive(&self, uid: Uid) -> bool {
        self.alive.contains(&uid)
    }

    /// Whether an object waits for its dependents to go.
    pub fn waits_for_dependents(&self, uid: Uid) -> bool {
        self.nodes.get(&uid).is_some_and(|node| node.foreground)
    }

    /// Whether anything has this object as an owner.
    pub fn has_dependents(&self, uid: Uid) -> bool {
        self.dependents.contains_key(&uid)
    }

    /// All that has this object as an owner.
    pub fn dependents(&self, uid: Uid) -> Vec<(Uid, Node)> {
        let own = self.dependents.get(&uid).into_iter().flatten();
        own.filter_map(|uid| Some((*uid, self.nodes.get(uid)?.clone()))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resource(kind: &str) -> Arc<ApiResource> {
        let plural = format!("{}s", kind.to_lowercase());
        Arc::new(ApiResource {
            group: "".into(),
            version: "v1".into(),
            plural,
            kind: kind.into(),
            namespaced: true,
        })
    }

    fn meta(name: &str, owners: &[&str]) -> Meta {
        let reference = |owner: &&str| OwnerReference {
            kind: "Set".into(),
            name: (*owner).into(),
            uid: (*owner).into(),
            ..Default::default()
        };
        Meta {
            name: name.into(),
            uid: name.into(),
            owner_references: owners.iter().map(reference).collect(),
            ..Meta::default()
        }
    }

    #[test]
    fn objects_without_owners_cost_a_number() {
        let mut graph = Graph::default();
        assert!(graph.observe(&resource("Pod"), &meta("free", &[])).is_empty());
        assert!(graph.is_alive(Uid::of("free")) && graph.node(Uid::of("free")).is_none());
    }

    #[test]
    fn when_an_owner_goes_its_dependents_are_looked_at() {
        let mut graph = Graph::default();
        graph.observe(&resource("Set"), &meta("set", &[]));
        assert_eq!(graph.observe(&resource("Pod"), &meta("pod", &["set"])), [Uid::of("pod")]);
        assert!(graph.observe(&resource("Pod"), &meta("pod", &["set"])).is_empty(), "nothing new");
        assert_eq!(graph.forget(Uid::of("set")), [Uid::of("pod")]);
        assert!(!graph.is_alive(Uid::of("set")));
    }

    #[test]
    fn a_dependent_that_is_let_go_is_nobodys() {
        let mut graph = Graph::default();
        graph.observe(&resource("Pod"), &meta("pod", &["set"]));
        graph.observe(&resource("Pod"), &meta("pod", &[]));
        assert!(!graph.has_dependents(Uid::of("set")) && graph.forget(Uid::of("set")).is_empty());
    }

    #[test]
    fn an_owner_that_waits_hears_of_its_last_dependent() {
        let mut graph = Graph::default();
        let mut owner = meta("set", &[]);
        owner.deletion_timestamp = Some(chrono::Utc::now());
        owner.finalizers = vec![FOREGROUND.into()];
        assert_eq!(graph.observe(&resource("Set"), &owner), [Uid::of("set")]);
        graph.observe(&resource("Pod"), &meta("pod", &["set"]));
        assert_eq!(graph.forget(Uid::of("pod")), [Uid::of("set")]);
    }

    #[test]
    fn what_a_list_lacks_is_gone_also_owners_that_left_no_trace() {
        let mut graph = Graph::default();
        graph.observe(&resource("Set"), &meta("set", &[]));
        graph.observe(&resource("Pod"), &meta("pod", &["set"]));
        assert_eq!(graph.forget_all_but(&resource("Set"), &HashSet::new()), [Uid::of("pod")]);
        assert!(graph.forget_all_but(&resource("Pod"), &HashSet::new()).is_empty());
        assert!(graph.node(Uid::of("pod")).is_none());
    }

    #[test]
    fn uids_are_told_apart() {
        assert_ne!(Uid::of("a"), Uid::of("b"));
        assert_eq!(Uid::of("00000000-0000-0000-0000-00000000000f"), Uid(15));
    }
}
