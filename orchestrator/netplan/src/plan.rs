//! The contents of every map: the output of `compile`, and what `dataplane` makes the kernel hold.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::Arc,
};

use abi::{
    Addr4, Addr6, Backend, CidrKey, Endpoint, NODE_ADDRESSES, Node, Peer, PodNetns, PolicyEntry, PolicyKey,
    PortRange, Service, ServiceKey, policy_id,
};

use crate::{family::Address, host::Host, names::Names};

/// Everything that the kernel is to hold at one revision.
///
/// Tables are shared: one that no change concerned is the very table of the plan before, which tells whoever applies it that
/// there is nothing to compare.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// The revision of the snapshot.
    pub revision: u64,
    /// Tables of IPv4.
    pub v4: FamilyPlan<Addr4>,
    /// Tables of IPv6.
    pub v6: FamilyPlan<Addr6>,
    /// NODES by index.
    pub nodes: Arc<BTreeMap<u32, Node>>,
    /// POD_NETNS.
    pub netns: Arc<HashMap<u64, PodNetns>>,
    /// POLICY.
    pub policy: Arc<HashMap<PolicyKey, PolicyEntry>>,
    /// POLICY_RANGES: the slices that POLICY refers to.
    pub ranges: Arc<Vec<Slice<PortRange>>>,
    /// What STATE says of the node.
    pub local: Local,
    /// What the node's own network stack must have.
    pub host: Arc<Host>,
    /// What did not fit; it is denied or rejected, and must be reported.
    pub shortfalls: Vec<Shortfall>,
    /// Something is on its way out: compile again after the grace period.
    pub unsettled: bool,
    /// What the numbers mean, for people.
    pub names: Names,
}

/// The tables that exist once a family.
#[derive(Clone, Debug)]
pub struct FamilyPlan<A> {
    /// PEERS.
    pub peers: Arc<HashMap<A, Peer>>,
    /// PEER_CIDRS.
    pub cidrs: Arc<HashMap<CidrKey<A>, Peer>>,
    /// ENDPOINTS.
    pub endpoints: Arc<HashMap<A, Endpoint>>,
    /// BACKENDS: the slices that SERVICES refers to, by service id.
    pub backends: Arc<HashMap<u32, Slice<Backend<A>>>>,
    /// SERVICES.
    pub services: Arc<HashMap<ServiceKey<A>, Service>>,
}

/// A run of array elements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice<T> {
    /// The first element.
    pub base: u32,
    /// All of them.
    pub items: Arc<[T]>,
}

/// What STATE says of the node, but for the epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Local {
    /// The node's IPv4 addresses, unused ones zero.
    pub node4: [Addr4; NODE_ADDRESSES],
    /// The node's IPv6 addresses, unused ones zero.
    pub node6: [Addr6; NODE_ADDRESSES],
    /// The first address of its IPv4 pod CIDR.
    pub overlay4: Addr4,
    /// The first address of its IPv6 pod CIDR.
    pub overlay6: Addr6,
}

/// A table that cannot hold what it should.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{table} holds {capacity} entries but {wanted} are needed: {consequence}; raise its size in the configuration"
)]
pub struct Shortfall {
    /// The map.
    pub table: &'static str,
    /// How many entries are needed.
    pub wanted: usize,
    /// How many there is room for.
    pub capacity: usize,
    /// What happens to the rest.
    pub consequence: &'static str,
}

// === impl FamilyPlan ===

impl<A> Default for FamilyPlan<A> {
    fn default() -> Self {
        FamilyPlan {
            peers: Arc::default(),
            cidrs: Arc::default(),
            endpoints: Arc::default(),
            backends: Arc::default(),
            services: Arc::default(),
        }
    }
}

impl Plan {
    /// Addresses and devices of the endpoints whose policy is compiled.
    pub fn compiled_endpoints(&self) -> impl Iterator<Item = (IpAddr, u32)> {
        fn of<A: Address>(plan: &FamilyPlan<A>) -> impl Iterator<Item = (IpAddr, u32)> {
            let compiled =
                plan.endpoints.iter().filter(|(_, endpoint)| endpoint.ingress_policy != policy_id::UNSET);
            compiled.map(|(address, endpoint)| (address.ip(), endpoint.ifindex))
        }
        of(&self.v4).chain(of(&self.v6))
    }
}

/// Keeps the first `capacity` entries in the order of `by`, so that the same ones are kept each time.
pub(crate) fn bound<K: Copy + std::hash::Hash + Eq, V, O: Ord>(
    table: &'static str,
    consequence: &'static str,
    capacity: usize,
    entries: &mut HashMap<K, V>,
    by: impl Fn(&K) -> O,
) -> Option<Shortfall> {
    let wanted = entries.len();
    if wanted <= capacity {
        return None;
    }
    let mut keys: Vec<K> = entries.keys().copied().collect();
    keys.sort_unstable_by_key(by);
    for key in &keys[capacity..] {
        entries.remove(key);
    }
    Some(Shortfall { table, wanted, capacity, consequence })
}

/// Picks the tables of a family out of a plan.
pub trait Family: Address {
    /// The tables of this family.
    fn of(plan: &Plan) -> &FamilyPlan<Self>;
}

impl Family for Addr4 {
    fn of(plan: &Plan) -> &FamilyPlan<Self> {
        &plan.v4
    }
}

impl Family for Addr6 {
    fn of(plan: &Plan) -> &FamilyPlan<Self> {
        &plan.v6
    }
}
