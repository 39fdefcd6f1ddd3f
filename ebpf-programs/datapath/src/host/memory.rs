//! Tables of ordinary collections.

use std::cell::{Cell, RefCell, UnsafeCell};
use std::collections::HashMap;
use std::hash::Hash;

use abi::{
    AffinityKey, AffinityValue, Backend, CidrKey, Config, ConntrackEntry, ConntrackKey, Endpoint, Event,
    FragmentKey, FragmentValue, Node, Peer, PodNetns, PolicyEntry, PolicyKey, PortRange, Service, ServiceKey,
    SockReverseKey, SockReverseValue, State,
};

use crate::address::Address;
use crate::family::Family;
use crate::flow::Flow;
use crate::tables::{Claim, Inserted, Shared, Tables};

/// A map whose values are handed out as [`Shared`], as the kernel's are.
pub struct Table<K, V> {
    entries: RefCell<HashMap<K, Box<UnsafeCell<V>>>>,
    /// Values that were replaced or removed: like the kernel's, they outlive who still reads them.
    retired: RefCell<Vec<Box<UnsafeCell<V>>>>,
    capacity: Cell<usize>,
}

impl<K, V> Default for Table<K, V> {
    fn default() -> Self {
        Table { entries: Default::default(), retired: Default::default(), capacity: Cell::new(usize::MAX) }
    }
}

impl<K: Copy + Eq + Hash, V: Copy> Table<K, V> {
    /// Puts a value in; the one that was there is replaced.
    pub fn put(&self, key: K, value: V) {
        let old = self.entries.borrow_mut().insert(key, Box::new(UnsafeCell::new(value)));
        self.retired.borrow_mut().extend(old);
    }

    /// Puts a value in under the kernel's rules.
    pub fn insert(&self, key: K, value: V, claim: Claim) -> Inserted {
        let taken = self.entries.borrow().contains_key(&key);
        if taken && claim == Claim::New {
            return Inserted::Taken;
        }
        if !taken && self.len() >= self.capacity.get() {
            return Inserted::Full;
        }
        self.put(key, value);
        Inserted::Done
    }

    /// Takes a value out.
    pub fn remove(&self, key: &K) {
        let old = self.entries.borrow_mut().remove(key);
        self.retired.borrow_mut().extend(old);
    }

    /// Takes all out.
    pub fn clear(&self) {
        self.entries.borrow_mut().clear();
        self.retired.borrow_mut().clear();
    }

    /// A copy of a value.
    pub fn get(&self, key: &K) -> Option<V> {
        // SAFETY: the tables are used by one thread, and a Shared is never written while this runs.
        self.entries.borrow().get(key).map(|cell| unsafe { *cell.get() })
    }

    /// A value, as the datapath sees it.
    pub fn shared(&self, key: &K) -> Option<Shared<'_, V>> {
        let pointer = self.entries.borrow().get(key).map(|cell| cell.get())?;
        // SAFETY: boxes do not move, and are dropped with the table only.
        unsafe { Shared::new(pointer) }
    }

    /// Changes a value in place.
    pub fn update(&self, key: &K, change: impl FnOnce(&mut V)) {
        if let Some(mut value) = self.get(key) {
            change(&mut value);
            self.put(*key, value);
        }
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        self.entries.borrow().len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All of them.
    pub fn all(&self) -> Vec<(K, V)> {
        let keys: Vec<K> = self.entries.borrow().keys().copied().collect();
        keys.into_iter().filter_map(|key| self.get(&key).map(|value| (key, value))).collect()
    }

    /// How many values fit.
    pub fn limit(&self, capacity: usize) {
        self.capacity.set(capacity);
    }
}

/// All tables of one family.
pub struct Memory<F: Family> {
    /// `CONFIG`.
    pub config: UnsafeCell<Config>,
    /// `STATE`, at 0.
    pub state: Table<u32, State>,
    /// `CONNTRACK*`.
    pub conntrack: Table<ConntrackKey<F::Address>, ConntrackEntry<F::Address>>,
    /// `HEAVY_SOURCES*`.
    pub heavy_sources: Table<F::Address, u32>,
    /// `SERVICES*`.
    pub services: Table<ServiceKey<F::Address>, Service>,
    /// `BACKENDS*`.
    pub backends: Table<u32, Backend<F::Address>>,
    /// `AFFINITY*`.
    pub affinity: Table<AffinityKey<F::Address>, AffinityValue<F::Address>>,
    /// `ENDPOINTS*`.
    pub endpoints: Table<F::Address, Endpoint>,
    /// `PEERS*`.
    pub peers: Table<F::Address, Peer>,
    /// `PEER_CIDRS*`.
    pub peer_cidrs: Table<CidrKey<F::Address>, Peer>,
    /// `NODES`.
    pub nodes: Table<u32, Node>,
    /// `POD_NETNS`.
    pub pod_netns: Table<u64, PodNetns>,
    /// `POLICY`.
    pub policy: Table<PolicyKey, PolicyEntry>,
    /// `POLICY_RANGES`.
    pub policy_ranges: Table<u32, PortRange>,
    /// `FRAGMENTS*`.
    pub fragments: Table<FragmentKey<F::Address>, FragmentValue>,
    /// `SOCK_REVERSE*`.
    pub sock_reverse: Table<SockReverseKey<F::Address>, SockReverseValue<F::Address>>,
    /// Events that were reported.
    pub events: RefCell<Vec<Event>>,
    /// The time.
    pub now: Cell<u32>,
    /// The next random number; each one taken moves it.
    pub random: Cell<u32>,
    /// `SNAT_TURN`.
    pub turn: Cell<u32>,
    flow: UnsafeCell<Flow<F::Address>>,
    draft: UnsafeCell<ConntrackEntry<F::Address>>,
}

impl<F: Family> Default for Memory<F>
where
    ConntrackEntry<F::Address>: Default,
{
    fn default() -> Self {
        Memory {
            config: UnsafeCell::new(Config::DEFAULT),
            state: Table::default(),
            conntrack: Table::default(),
            heavy_sources: Table::default(),
            services: Table::default(),
            backends: Table::default(),
            affinity: Table::default(),
            endpoints: Table::default(),
            peers: Table::default(),
            peer_cidrs: Table::default(),
            nodes: Table::default(),
            pod_netns: Table::default(),
            policy: Table::default(),
            policy_ranges: Table::default(),
            fragments: Table::default(),
            sock_reverse: Table::default(),
            events: RefCell::default(),
            now: Cell::new(1000),
            random: Cell::new(0),
            turn: Cell::new(0),
            flow: UnsafeCell::new(Flow::default()),
            draft: UnsafeCell::new(ConntrackEntry::default()),
        }
    }
}

impl<F: Family> Memory<F> {
    /// The flow as the last packet left it.
    pub fn last_flow(&self) -> Flow<F::Address> {
        // SAFETY: one thread, and no decision is under way.
        unsafe { *self.flow.get() }
    }
}

/// Step of the numbers that stand for random ones: odd, so that all come by.
const RANDOM_STEP: u32 = 0x9e37_79b9;

impl<F: Family> Tables<F> for Memory<F>
where
    F::Address: Hash,
{
    fn config(&self) -> Shared<'_, Config> {
        // SAFETY: the cell is never null and lives as long as the tables.
        unsafe { Shared::new(self.config.get()) }.expect("a cell's address is not null")
    }

    fn state(&self) -> Option<Shared<'_, State>> {
        self.state.shared(&0)
    }

    fn flow(&self) -> Option<&mut Flow<F::Address>> {
        // SAFETY: one thread decides one packet at a time.
        Some(unsafe { &mut *self.flow.get() })
    }

    fn draft(&self) -> Option<&mut ConntrackEntry<F::Address>> {
        // SAFETY: as above.
        Some(unsafe { &mut *self.draft.get() })
    }

    fn now(&self) -> u32 {
        self.now.get()
    }

    fn random(&self) -> u32 {
        let number = self.random.get();
        self.random.set(number.wrapping_add(RANDOM_STEP));
        number
    }

    fn turn(&self) -> u32 {
        let number = self.turn.get();
        self.turn.set(number.wrapping_add(1));
        number
    }

    fn conntrack(&self, key: &ConntrackKey<F::Address>) -> Option<Shared<'_, ConntrackEntry<F::Address>>> {
        self.conntrack.shared(key)
    }

    fn conntrack_insert(
        &self,
        key: &ConntrackKey<F::Address>,
        entry: &ConntrackEntry<F::Address>,
        claim: Claim,
    ) -> Inserted {
        self.conntrack.insert(*key, *entry, claim)
    }

    fn conntrack_remove(&self, key: &ConntrackKey<F::Address>) {
        self.conntrack.remove(key);
    }

    fn heavy_source(&self, address: &F::Address) -> bool {
        self.heavy_sources.get(address).is_some()
    }

    fn service(&self, key: &ServiceKey<F::Address>) -> Option<Shared<'_, Service>> {
        self.services.shared(key)
    }

    fn backend(&self, slot: u32) -> Option<Shared<'_, Backend<F::Address>>> {
        self.backends.shared(&slot)
    }

    fn affinity(&self, key: &AffinityKey<F::Address>) -> Option<Shared<'_, AffinityValue<F::Address>>> {
        self.affinity.shared(key)
    }

    fn affinity_put(&self, key: &AffinityKey<F::Address>, value: &AffinityValue<F::Address>) {
        self.affinity.put(*key, *value);
    }

    fn endpoint(&self, address: &F::Address) -> Option<Shared<'_, Endpoint>> {
        self.endpoints.shared(address)
    }

    fn peer(&self, address: &F::Address) -> Option<Shared<'_, Peer>> {
        self.peers.shared(address)
    }

    fn peer_cidr(&self, address: &F::Address) -> Option<Shared<'_, Peer>> {
        let keys = self.peer_cidrs.all();
        let longest = keys
            .iter()
            .filter(|(key, _)| common_bits(&key.address.words(), &address.words()) >= key.prefix_len)
            .max_by_key(|(key, _)| key.prefix_len)?;
        self.peer_cidrs.shared(&longest.0)
    }

    fn node(&self, index: u32) -> Option<Shared<'_, Node>> {
        self.nodes.shared(&index)
    }

    fn pod_netns(&self, cookie: u64) -> Option<Shared<'_, PodNetns>> {
        self.pod_netns.shared(&cookie)
    }

    fn policy(&self, key: &PolicyKey) -> Option<Shared<'_, PolicyEntry>> {
        self.policy.shared(key)
    }

    fn policy_range(&self, index: u32) -> Option<Shared<'_, PortRange>> {
        self.policy_ranges.shared(&index)
    }

    fn fragment(&self, key: &FragmentKey<F::Address>) -> Option<Shared<'_, FragmentValue>> {
        self.fragments.shared(key)
    }

    fn fragment_put(&self, key: &FragmentKey<F::Address>, value: &FragmentValue) {
        self.fragments.put(*key, *value);
    }

    fn sock_reverse(
        &self,
        key: &SockReverseKey<F::Address>,
    ) -> Option<Shared<'_, SockReverseValue<F::Address>>> {
        self.sock_reverse.shared(key)
    }

    fn sock_reverse_put(&self, key: &SockReverseKey<F::Address>, value: &SockReverseValue<F::Address>) {
        self.sock_reverse.put(*key, *value);
    }

    fn sock_reverse_remove(&self, key: &SockReverseKey<F::Address>) {
        self.sock_reverse.remove(key);
    }

    fn report(&self, fill: impl FnOnce(&mut Event)) {
        let mut event = Event::default();
        fill(&mut event);
        self.events.borrow_mut().push(event);
    }
}

/// Leading bits that two addresses share.
fn common_bits(a: &[u32; 4], b: &[u32; 4]) -> u32 {
    let mut bits = 0;
    for (a, b) in a.iter().zip(b) {
        let same = (u32::from_be(*a) ^ u32::from_be(*b)).leading_zeros();
        bits += same;
        if same < 32 {
            break;
        }
    }
    bits
}
