//! Makes the kernel hold a plan: what differs is written, in an order in which no entry ever points at what is not there yet.
//!
//! New numbers (nodes, policy entries, backends) are written before what refers to them; nothing is removed before nothing
//! refers to it. `netplan` sees to it that what a number means never changes, so every moment in between is either the old
//! plan or the new one for each packet.

use std::{collections::HashSet, hash::Hash, net::IpAddr, path::Path, time::Instant};

use abi::{
    Addr4, Addr6, Backend, CidrKey, Endpoint, Node, Peer, PodNetns, PolicyEntry, PolicyKey, PortRange,
    Service, ServiceKey, State, names, protocol, state_flag,
};
use netplan::{Address, Family, Ids, Plan};

use crate::{
    conntrack::{Connections, Scrub},
    error::Result,
    table::{Map, Slots, Table},
};

/// The written tables of a node.
#[derive(Debug)]
pub struct Programmer {
    nodes: Slots<Node>,
    policy: Table<PolicyKey, PolicyEntry>,
    ranges: Slots<PortRange>,
    netns: Table<u64, PodNetns>,
    v4: FamilyTables<Addr4>,
    v6: FamilyTables<Addr6>,
    state: Map<u32, State>,
    held: State,
}

/// The written tables of a family.
#[derive(Debug)]
struct FamilyTables<A> {
    peers: Table<A, Peer>,
    cidrs: Table<CidrKey<A>, Peer>,
    endpoints: Table<A, Endpoint>,
    backends: Slots<Backend<A>>,
    services: Table<ServiceKey<A>, Service>,
}

/// What applying a plan did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// The revision that the kernel now holds.
    pub revision: u64,
    /// Entries written or removed.
    pub changes: usize,
    /// Flows have their policy evaluated once more.
    pub new_epoch: bool,
}

/// Names of a family's tables.
trait Named: Address {
    const PEERS: &'static str;
    const CIDRS: &'static str;
    const ENDPOINTS: &'static str;
    const BACKENDS: &'static str;
    const SERVICES: &'static str;
}

impl Named for Addr4 {
    const PEERS: &'static str = names::PEERS4.name;
    const CIDRS: &'static str = names::PEER_CIDRS4.name;
    const ENDPOINTS: &'static str = names::ENDPOINTS4.name;
    const BACKENDS: &'static str = names::BACKENDS4.name;
    const SERVICES: &'static str = names::SERVICES4.name;
}

impl Named for Addr6 {
    const PEERS: &'static str = names::PEERS6.name;
    const CIDRS: &'static str = names::PEER_CIDRS6.name;
    const ENDPOINTS: &'static str = names::ENDPOINTS6.name;
    const BACKENDS: &'static str = names::BACKENDS6.name;
    const SERVICES: &'static str = names::SERVICES6.name;
}

/// The only element of STATE.
const STATE: u32 = 0;

/// Counts what a plan changes.
#[derive(Debug, Default)]
struct Tally {
    changes: usize,
    /// Verdicts of connections on record may be other ones now.
    verdicts: bool,
    scrub: Scrub,
}

// === impl Programmer ===

impl Programmer {
    /// Opens the pinned maps and reads what they hold; the node's namespace is known to the programs from here on.
    pub fn open(directory: &Path, netns_cookie: u64) -> Result<Self> {
        let state: Map<u32, State> = Map::open(directory, names::STATE.name)?;
        let mut held = state.get(&STATE)?.unwrap_or_default();
        held.epoch = held.epoch.max(1);
        held.netns_cookie = netns_cookie;
        state.put(&STATE, &held)?;
        Ok(Programmer {
            nodes: Slots::open(directory, names::NODES.name)?,
            policy: Table::open(directory, names::POLICY.name)?,
            ranges: Slots::open(directory, names::POLICY_RANGES.name)?,
            netns: Table::open(directory, names::POD_NETNS.name)?,
            v4: FamilyTables::open(directory)?,
            v6: FamilyTables::open(directory)?,
            state,
            held,
        })
    }

    /// Lets the compilers take over what a predecessor wrote.
    pub fn adopt(&self, ids: &mut Ids) {
        for (index, node) in (0..).zip(self.nodes.held()) {
            ids.adopt_node(index, node);
        }
        ids.adopt_services4(self.v4.services.held().values(), |slot| {
            self.v4.backends.held().get(slot as usize).copied()
        });
        ids.adopt_services6(self.v6.services.held().values(), |slot| {
            self.v6.backends.held().get(slot as usize).copied()
        });
    }

    /// Makes the kernel hold `plan`.
    pub fn apply(&mut self, plan: &Plan, connections: &Connections) -> Result<Applied> {
        let started = Instant::now();
        let mut tally = Tally::default();
        self.write_nodes(plan, &mut tally)?;
        self.write_policy(plan, &mut tally)?;
        self.v4.grow_peers(plan, &mut tally)?;
        self.v6.grow_peers(plan, &mut tally)?;
        self.v4.grow_classes(plan, &mut tally)?;
        self.v6.grow_classes(plan, &mut tally)?;
        self.v4.grow_endpoints(plan, &mut tally)?;
        self.v6.grow_endpoints(plan, &mut tally)?;
        let netns = self.netns.grow(&plan.netns)?;
        tally.changes += netns.added + netns.replaced;
        let grown = std::mem::take(&mut tally.verdicts);
        self.write_state(plan, grown)?;
        self.v4.grow_services(plan, &mut tally)?;
        self.v6.grow_services(plan, &mut tally)?;

        self.v4.shrink(plan, &mut tally)?;
        self.v6.shrink(plan, &mut tally)?;
        tally.changes += self.netns.shrink(&plan.netns)?.len();
        tally.changes += self.policy.shrink(&plan.policy)?.len();
        self.clear_nodes(plan, &mut tally)?;
        // What was removed may have carried connections too: their next packet asks again.
        self.write_state(plan, tally.verdicts)?;
        connections.scrub(&tally.scrub)?;
        let new_epoch = grown || tally.verdicts;
        let applied = Applied { revision: plan.revision, changes: tally.changes, new_epoch };
        tracing::debug!(
            revision = applied.revision,
            changes = applied.changes,
            new_epoch = applied.new_epoch,
            ms = started.elapsed().as_secs_f64() * 1e3,
            "the kernel holds the plan"
        );
        Ok(applied)
    }

    /// Takes a pod's addresses out of the datapath at once, before its device goes.
    pub fn forget(
        &mut self,
        addresses: &[IpAddr],
        netns_cookie: u64,
        connections: &Connections,
    ) -> Result<()> {
        let mut scrub = Scrub::default();
        for address in addresses {
            self.v4.forget(*address, &mut scrub)?;
            self.v6.forget(*address, &mut scrub)?;
        }
        self.netns.remove(&netns_cookie)?;
        connections.scrub(&scrub)
    }

    /// The device that the datapath delivers an address to.
    pub fn endpoint(&self, address: IpAddr) -> Option<Endpoint> {
        let v4 = Addr4::from_ip(address).and_then(|address| self.v4.endpoints.held().get(&address));
        let v6 = Addr6::from_ip(address).and_then(|address| self.v6.endpoints.held().get(&address));
        v4.or(v6).copied()
    }

    /// Sets or clears the sign that new flows of heavy sources are refused.
    pub fn set_pressure(&mut self, pressure: bool) -> Result<()> {
        let mut state = self.held;
        state.flags &= !state_flag::CONNTRACK_PRESSURE;
        state.flags |= if pressure { state_flag::CONNTRACK_PRESSURE } else { 0 };
        self.put_state(state)
    }

    /// How full each written table is: name, entries, room.
    pub fn fill(&self) -> Vec<(&'static str, usize, u32)> {
        let mut fill = vec![
            (self.policy.name(), self.policy.held().len(), self.policy.capacity()),
            (self.netns.name(), self.netns.held().len(), self.netns.capacity()),
        ];
        self.v4.fill(&mut fill);
        self.v6.fill(&mut fill);
        fill
    }

    fn write_nodes(&mut self, plan: &Plan, tally: &mut Tally) -> Result<()> {
        let mut writes = Vec::new();
        for (index, node) in plan.nodes.iter() {
            self.nodes.want(*index, &[*node], &mut writes);
        }
        tally.changes += writes.len();
        self.nodes.write(&writes)
    }

    fn clear_nodes(&mut self, plan: &Plan, tally: &mut Tally) -> Result<()> {
        let mut writes = Vec::new();
        for index in (0..).take(self.nodes.held().len()).filter(|index| !plan.nodes.contains_key(index)) {
            self.nodes.want(index, &[Node::default()], &mut writes);
        }
        tally.changes += writes.len();
        self.nodes.write(&writes)
    }

    fn write_policy(&mut self, plan: &Plan, tally: &mut Tally) -> Result<()> {
        let mut writes = Vec::new();
        for slice in plan.ranges.iter() {
            self.ranges.want(slice.base, &slice.items, &mut writes);
        }
        tally.changes += writes.len();
        self.ranges.write(&writes)?;
        let changed = self.policy.grow(&plan.policy)?;
        tally.changes += changed.added + changed.replaced;
        Ok(())
    }

    fn write_state(&mut self, plan: &Plan, new_epoch: bool) -> Result<()> {
        let mut state = self.held;
        if new_epoch {
            // 0 is never an epoch.
            state.epoch = state.epoch.checked_add(1).unwrap_or(1);
        }
        let full = plan.shortfalls.iter().any(|short| short.table.starts_with(names::POLICY.name));
        state.flags &= !state_flag::POLICY_FULL;
        state.flags |= if full { state_flag::POLICY_FULL } else { 0 };
        (state.node4, state.node6) = (plan.local.node4, plan.local.node6);
        (state.overlay4, state.overlay6) = (plan.local.overlay4, plan.local.overlay6);
        self.put_state(state)
    }

    fn put_state(&mut self, state: State) -> Result<()> {
        if state != self.held {
            self.state.put(&STATE, &state)?;
            self.held = state;
        }
        Ok(())
    }
}

// === impl FamilyTables ===

impl<A: Named + Family> FamilyTables<A>
where
    CidrKey<A>: Copy + Default + Eq + Hash,
    ServiceKey<A>: Copy + Default + Eq + Hash,
    Backend<A>: Copy + Default + PartialEq,
{
    fn open(directory: &Path) -> Result<Self> {
        Ok(FamilyTables {
            peers: Table::open(directory, A::PEERS)?,
            cidrs: Table::open(directory, A::CIDRS)?,
            endpoints: Table::open(directory, A::ENDPOINTS)?,
            backends: Slots::open(directory, A::BACKENDS)?,
            services: Table::open(directory, A::SERVICES)?,
        })
    }

    fn grow_peers(&mut self, plan: &Plan, tally: &mut Tally) -> Result<()> {
        let plan = A::of(plan);
        let (peers, cidrs) = (self.peers.grow(&plan.peers)?, self.cidrs.grow(&plan.cidrs)?);
        tally.changes += peers.added + peers.replaced + cidrs.added + cidrs.replaced;
        // A new peer can only be allowed more than the unknown pod it was.
        tally.verdicts |= peers.replaced > 0 || cidrs.any();
        Ok(())
    }

    /// Pods of this node are found here rather than in PEERS: their classes move first, as those in PEERS did, and their policies
    /// after that, so that a new policy never meets a class that it has no verdict for.
    fn grow_classes(&mut self, plan: &Plan, tally: &mut Tally) -> Result<()> {
        let moved = A::of(plan).endpoints.iter().filter_map(|(address, wanted)| {
            let held = self.endpoints.held().get(address)?;
            (held.class != wanted.class).then_some((*address, Endpoint { class: wanted.class, ..*held }))
        });
        let moved: Vec<_> = moved.collect();
        tally.verdicts |= !moved.is_empty();
        self.endpoints.put_ahead(&moved)
    }

    fn grow_endpoints(&mut self, plan: &Plan, tally: &mut Tally) -> Result<()> {
        let changed = self.endpoints.grow(&A::of(plan).endpoints)?;
        tally.changes += changed.added + changed.replaced;
        tally.verdicts |= changed.replaced > 0;
        Ok(())
    }

    fn grow_services(&mut self, plan: &Plan, tally: &mut Tally) -> Result<()> {
        let plan = A::of(plan);
        self.udp_losses(plan, tally);
        let mut writes = Vec::new();
        for slice in plan.backends.values() {
            self.backends.want(slice.base, &slice.items, &mut writes);
        }
        self.backends.write(&writes)?;
        let changed = self.services.grow(&plan.services)?;
        tally.changes += writes.len() + changed.added + changed.replaced;
        Ok(())
    }

    /// Notes the backends that UDP services lose: their flows would go on to send to them.
    fn udp_losses(&self, plan: &netplan::FamilyPlan<A>, tally: &mut Tally) {
        let udp = self.services.held().iter().filter(|(key, _)| key.protocol == protocol::UDP);
        for (key, held) in udp {
            let wanted = plan.services.get(key);
            if wanted.is_some_and(|wanted| wanted.base == held.base && wanted.id == held.id) {
                continue;
            }
            let slots = held.base..held.base + held.ready + held.terminating;
            let slice = wanted.and_then(|service| plan.backends.get(&service.id));
            let stays: HashSet<(A, u16)> = slice
                .into_iter()
                .flat_map(|slice| slice.items.iter())
                .filter(|item| wanted.is_some_and(|wanted| item.service == wanted.id))
                .map(|item| (item.address, item.port.get()))
                .collect();
            let gone = slots
                .map(|slot| self.backends.get(slot))
                .filter(|b| !stays.contains(&(b.address, b.port.get())));
            tally.scrub.backends.extend(gone.map(|b| (held.id, b.address.ip(), b.port.get())));
        }
    }

    fn shrink(&mut self, plan: &Plan, tally: &mut Tally) -> Result<()> {
        let plan = A::of(plan);
        tally.changes += self.services.shrink(&plan.services)?.len();
        let endpoints = self.endpoints.shrink(&plan.endpoints)?;
        endpoints.iter().for_each(|(address, endpoint)| tally.scrub.pod(address.ip(), endpoint.ifindex));
        let peers = self.peers.shrink(&plan.peers)?;
        let cidrs = self.cidrs.shrink(&plan.cidrs)?;
        tally.verdicts |= !peers.is_empty() || !cidrs.is_empty();
        tally.changes += endpoints.len() + peers.len() + cidrs.len();
        Ok(())
    }

    fn forget(&mut self, address: IpAddr, scrub: &mut Scrub) -> Result<()> {
        let Some(key) = A::from_ip(address) else { return Ok(()) };
        if let Some(endpoint) = self.endpoints.remove(&key)? {
            scrub.pod(address, endpoint.ifindex);
        }
        Ok(())
    }

    fn fill(&self, fill: &mut Vec<(&'static str, usize, u32)>) {
        let backends = self.services.held().values().map(|s| (s.id, s.ready + s.terminating));
        let backends: u32 = backends.collect::<std::collections::HashMap<_, _>>().into_values().sum();
        fill.push((self.peers.name(), self.peers.held().len(), self.peers.capacity()));
        fill.push((self.cidrs.name(), self.cidrs.held().len(), self.cidrs.capacity()));
        fill.push((self.endpoints.name(), self.endpoints.held().len(), self.endpoints.capacity()));
        fill.push((self.backends.name(), backends as usize, self.backends.capacity()));
        fill.push((self.services.name(), self.services.held().len(), self.services.capacity()));
    }
}
