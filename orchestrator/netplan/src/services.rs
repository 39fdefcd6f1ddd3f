//! Services and their slices -> SERVICES and BACKENDS.
//!
//! A service port has one slice of backends for each family, shared by its frontends. A changed slice is a new run of slots:
//! it is written first, then the frontends flip to it, and the old run rests for a grace period before it is used again.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use abi::{Addr4, Addr6, Backend as Entry, Port, Service as Frontend, ServiceKey, scope, service_flag};

use crate::{
    family::Address,
    hash::stable,
    ids::{Ids, Limits, Numbers},
    names::ServiceName,
    plan::{Shortfall, Slice},
    slots::Slots,
    snapshot::{EndpointSlice, Service, ServicePort, Snapshot},
};

/// The memory of this compiler: who the services are made of, and where their backends are.
#[derive(Debug)]
pub(crate) struct ServiceState {
    v4: Placed<Addr4>,
    v6: Placed<Addr6>,
    known: HashMap<Owner, Known>,
    /// Services that found no room: compiled again each time.
    homeless: HashSet<Owner>,
}

/// Namespace and name of a Service.
type Owner = (Arc<str>, Arc<str>);

/// A Service, if there is one of the name, and the slices that say they are its.
#[derive(Debug, Default)]
struct Known {
    service: Option<Arc<Service>>,
    slices: Vec<Arc<EndpointSlice>>,
}

/// Slices of one family by service id.
#[derive(Debug)]
pub(crate) struct Placed<A> {
    slots: Slots,
    slices: HashMap<u32, Slice<Entry<A>>>,
    /// Backends that found no slots in this compilation.
    missing: usize,
}

/// What the service compiler hands on.
#[derive(Debug, Default)]
pub(crate) struct ServiceTables {
    pub(crate) v4: FamilyServices<Addr4>,
    pub(crate) v6: FamilyServices<Addr6>,
    pub(crate) names: HashMap<u32, ServiceName>,
    pub(crate) shortfalls: Vec<Shortfall>,
}

/// The tables of one family.
#[derive(Debug)]
pub(crate) struct FamilyServices<A> {
    pub(crate) services: HashMap<ServiceKey<A>, Frontend>,
    pub(crate) backends: HashMap<u32, Slice<Entry<A>>>,
}

/// One service port while it is compiled.
struct Compiling<'a> {
    id: u32,
    service: &'a Service,
    port: &'a ServicePort,
}

/// The backends of one service port in one family, in the order that the datapath expects.
#[derive(Debug, Default)]
struct Members<A> {
    /// (terminating, remote, address, port), sorted.
    list: Vec<(bool, bool, A, u16)>,
}

/// Compiles the Services that changed between two snapshots into `tables`, which hold the others.
pub(crate) fn compile(
    before: &Snapshot,
    now: &Snapshot,
    ids: &mut Ids,
    mut tables: ServiceTables,
) -> ServiceTables {
    let Ids { services: numbers, service_state: state, now: time, .. } = ids;
    state.settle(*time);
    let mut dirty = std::mem::take(&mut state.homeless);
    let (gone, come) = differences(&before.slices, &now.slices);
    for slice in gone {
        let known = state.known.entry(owner_of(slice)).or_default();
        known.slices.retain(|own| !Arc::ptr_eq(own, slice));
        dirty.insert(owner_of(slice));
    }
    for slice in come {
        state.known.entry(owner_of(slice)).or_default().slices.push(slice.clone());
        dirty.insert(owner_of(slice));
    }
    let (gone, come) = differences(&before.services, &now.services);
    let mut released = HashSet::new();
    for service in gone {
        let owner = (service.namespace.clone(), service.name.clone());
        state.known.entry(owner.clone()).or_default().service = None;
        dirty.insert(owner);
        for port in &service.ports {
            let one = Compiling { id: number(numbers, service, port), service, port };
            tables.remove(&one);
            released.insert(one.id);
        }
    }
    for service in come {
        let owner = (service.namespace.clone(), service.name.clone());
        state.known.entry(owner.clone()).or_default().service = Some(service.clone());
        dirty.insert(owner);
    }
    for owner in dirty {
        state.compile_one(&owner, now, numbers, *time, &mut tables);
    }
    released.retain(|id| !tables.names.contains_key(id));
    state.v4.release(&released, *time, &mut tables.v4);
    state.v6.release(&released, *time, &mut tables.v6);
    numbers.retain(|id| tables.names.contains_key(&id));
    tables.shortfalls.extend(state.v4.shortfall("BACKENDS4"));
    tables.shortfalls.extend(state.v6.shortfall("BACKENDS6"));
    tables
}

fn owner_of(slice: &EndpointSlice) -> Owner {
    (slice.namespace.clone(), slice.service.clone())
}

fn number(numbers: &mut Numbers, service: &Service, port: &ServicePort) -> u32 {
    numbers.of(stable(&(&service.namespace, &service.name, &port.name, port.protocol)))
}

/// The objects that only one of two lists has, told apart by where they are.
fn differences<'a, T>(before: &'a [Arc<T>], now: &'a [Arc<T>]) -> (Vec<&'a Arc<T>>, Vec<&'a Arc<T>>) {
    let sorted = |list: &'a [Arc<T>]| {
        let mut list: Vec<&Arc<T>> = list.iter().collect();
        list.sort_unstable_by_key(|object| Arc::as_ptr(object));
        list
    };
    let (before, now) = (sorted(before), sorted(now));
    let without = |list: &[&'a Arc<T>], other: &[&'a Arc<T>]| -> Vec<&'a Arc<T>> {
        let mut other = other.iter().map(|object| Arc::as_ptr(object)).peekable();
        let only = list.iter().filter(|object| {
            let pointer = Arc::as_ptr(object);
            while other.next_if(|candidate| *candidate < pointer).is_some() {}
            other.peek() != Some(&pointer)
        });
        only.copied().collect()
    };
    (without(&before, &now), without(&now, &before))
}

// === impl ServiceState ===

impl ServiceState {
    pub(crate) fn new(limits: &Limits) -> Self {
        ServiceState {
            v4: Placed::new(limits.backends),
            v6: Placed::new(limits.backends),
            known: HashMap::new(),
            homeless: HashSet::new(),
        }
    }

    /// Frees what has rested; true while something still does, or waits for room.
    pub(crate) fn settle(&mut self, now: Duration) -> bool {
        self.v4.slots.settle(now) | self.v6.slots.settle(now) | !self.homeless.is_empty()
    }

    /// Whether some services wait for room.
    pub(crate) fn is_short(&self) -> bool {
        !self.homeless.is_empty()
    }

    /// Forgets the objects, so that the next compilation takes all of them; slots stay with their services.
    pub(crate) fn forget(&mut self) {
        self.known.clear();
    }

    pub(crate) fn v4(&mut self) -> &mut Placed<Addr4> {
        &mut self.v4
    }

    pub(crate) fn v6(&mut self) -> &mut Placed<Addr6> {
        &mut self.v6
    }

    fn compile_one(
        &mut self,
        owner: &Owner,
        snapshot: &Snapshot,
        numbers: &mut Numbers,
        now: Duration,
        tables: &mut ServiceTables,
    ) {
        let Some(known) = self.known.get(owner) else { return };
        let Some(service) = &known.service else {
            if known.slices.is_empty() {
                self.known.remove(owner);
            }
            return;
        };
        let mut placed = true;
        for port in &service.ports {
            let one = Compiling { id: number(numbers, service, port), service, port };
            tables.names.insert(one.id, ServiceName::new(service, port));
            placed &= self.v4.port(&one, snapshot, &known.slices, now, &mut tables.v4);
            placed &= self.v6.port(&one, snapshot, &known.slices, now, &mut tables.v6);
        }
        if !placed {
            self.homeless.insert(owner.clone());
        }
    }
}

// === impl ServiceTables ===

impl ServiceTables {
    /// Takes out everything of a service port.
    fn remove(&mut self, one: &Compiling<'_>) {
        self.names.remove(&one.id);
        for (key, _) in one.frontends::<Addr4>() {
            self.v4.services.remove(&key);
        }
        for (key, _) in one.frontends::<Addr6>() {
            self.v6.services.remove(&key);
        }
    }
}

impl<A> Default for FamilyServices<A> {
    fn default() -> Self {
        FamilyServices { services: HashMap::new(), backends: HashMap::new() }
    }
}

// === impl Placed ===

impl<A: Address> Placed<A> {
    fn new(capacity: u32) -> Self {
        Placed { slots: Slots::new(capacity), slices: HashMap::new(), missing: 0 }
    }

    /// Takes over what the kernel holds: an unchanged service keeps its slots over a restart, and a changed one is not
    /// written into slots that are in use.
    pub(crate) fn adopt<'a>(
        &mut self,
        services: impl Iterator<Item = &'a Frontend>,
        backend: impl Fn(u32) -> Option<Entry<A>>,
    ) {
        for service in services {
            let length = service.ready + service.terminating;
            if self.slices.contains_key(&service.id) || !self.slots.claim(service.base, length) {
                continue;
            }
            let items = (service.base..service.base + length).filter_map(&backend).collect();
            self.slices.insert(service.id, Slice { base: service.base, items });
        }
    }

    /// Compiles one port; false when its backends found no room.
    fn port(
        &mut self,
        one: &Compiling<'_>,
        snapshot: &Snapshot,
        slices: &[Arc<EndpointSlice>],
        now: Duration,
        tables: &mut FamilyServices<A>,
    ) -> bool {
        let addresses = one.frontends::<A>();
        if addresses.is_empty() {
            return true;
        }
        let members = Members::<A>::of(one.port, snapshot, slices);
        let mut frontend = members.frontend(one);
        let slice = self.place(one.id, &members, now);
        let placed = slice.is_some();
        match slice {
            Some(slice) => {
                frontend.base = slice.base;
                tables.backends.insert(one.id, slice);
            }
            // Without slots it has no backends: rejected, and reported by the caller.
            None => {
                self.missing += members.list.len();
                (frontend.ready, frontend.ready_local) = (0, 0);
                (frontend.terminating, frontend.terminating_local) = (0, 0);
                tables.backends.remove(&one.id);
            }
        }
        for (key, flags) in addresses {
            tables.services.insert(key, Frontend { flags, ..frontend });
        }
        placed
    }

    /// The slice of these members: the same one while they are the same.
    fn place(&mut self, id: u32, members: &Members<A>, now: Duration) -> Option<Slice<Entry<A>>> {
        let items: Arc<[Entry<A>]> = members
            .list
            .iter()
            .map(|(_, _, address, port)| Entry {
                address: *address,
                port: Port::new(*port),
                flags: 0,
                service: id,
            })
            .collect();
        if let Some(slice) = self.slices.get(&id)
            && slice.items == items
        {
            return Some(slice.clone());
        }
        let base = self.slots.take(items.len() as u32)?;
        let slice = Slice { base, items };
        if let Some(old) = self.slices.insert(id, slice.clone()) {
            self.slots.release(old.base, old.items.len() as u32, now);
        }
        Some(slice)
    }

    /// Lets go of the slots of services that are gone.
    fn release(&mut self, gone: &HashSet<u32>, now: Duration, tables: &mut FamilyServices<A>) {
        for id in gone {
            tables.backends.remove(id);
            if let Some(slice) = self.slices.remove(id) {
                self.slots.release(slice.base, slice.items.len() as u32, now);
            }
        }
    }

    /// Lets go of adopted slots whose services no longer exist.
    pub(crate) fn disown(&mut self, names: &HashMap<u32, ServiceName>, now: Duration) {
        let slots = &mut self.slots;
        self.slices.retain(|id, slice| {
            let keep = names.contains_key(id);
            if !keep {
                slots.release(slice.base, slice.items.len() as u32, now);
            }
            keep
        });
    }

    /// What did not find room since the last call.
    fn shortfall(&mut self, table: &'static str) -> Option<Shortfall> {
        let missing = std::mem::take(&mut self.missing);
        let consequence = "services without room for their backends reject connections";
        let capacity = self.slots.used() as usize;
        (missing > 0).then_some(Shortfall { table, wanted: capacity + missing, capacity, consequence })
    }
}

// === impl Compiling ===

impl Compiling<'_> {
    /// Every key at which this port answers in a family, with its flags.
    fn frontends<A: Address>(&self) -> Vec<(ServiceKey<A>, u32)> {
        let mut frontends = Vec::new();
        let local = |only: bool| if only { service_flag::LOCAL } else { 0 };
        let mut add = |address: A, port: u16, scope: u8, flags: u32| {
            let key =
                ServiceKey { address, port: Port::new(port), protocol: self.port.protocol as u8, scope };
            frontends.push((key, flags));
        };
        let of_family = |ips: &[IpAddr]| -> Vec<A> { ips.iter().filter_map(|ip| A::from_ip(*ip)).collect() };
        let cluster = of_family(&self.service.cluster_ips);
        for address in &cluster {
            add(*address, self.port.port, scope::INTERNAL, local(self.service.internal_local));
        }
        for address in of_family(&self.service.external_ips) {
            add(address, self.port.port, scope::INTERNAL, 0);
            add(address, self.port.port, scope::EXTERNAL, local(self.service.external_local));
        }
        // A NodePort exists in the families that the Service has.
        if let (Some(port), false) = (self.port.node_port, cluster.is_empty()) {
            add(A::default(), port, scope::INTERNAL, 0);
            add(A::default(), port, scope::EXTERNAL, local(self.service.external_local));
        }
        frontends
    }
}

// === impl Members ===

impl<A: Address> Members<A> {
    fn of(port: &ServicePort, snapshot: &Snapshot, slices: &[Arc<EndpointSlice>]) -> Self {
        let mut list = Vec::new();
        for slice in slices {
            let number = slice.ports.iter().find(|p| p.name == port.name && p.protocol == port.protocol);
            let Some(number) = number.map(|p| p.port) else { continue };
            for backend in &slice.endpoints {
                let Some(address) = A::from_ip(backend.address) else { continue };
                let last_resort = backend.serving && backend.terminating;
                if backend.ready || last_resort {
                    let remote = backend.node.as_deref() != Some(&*snapshot.node);
                    list.push((!backend.ready, remote, address, number));
                }
            }
        }
        list.sort_unstable();
        // While an endpoint moves between slices it is in both.
        list.dedup_by_key(|(_, _, address, port)| (*address, *port));
        Members { list }
    }

    fn frontend(&self, one: &Compiling<'_>) -> Frontend {
        let count = |terminating: bool, local: bool| {
            let is = |m: &&(bool, bool, A, u16)| m.0 == terminating && !(local && m.1);
            self.list.iter().filter(is).count() as u32
        };
        Frontend {
            id: one.id,
            base: 0,
            ready: count(false, false),
            ready_local: count(false, true),
            terminating: count(true, false),
            terminating_local: count(true, true),
            affinity_seconds: one.service.affinity_s.unwrap_or(0),
            flags: 0,
            reserved: 0,
        }
    }
}

#[cfg(test)]
mod tests;
