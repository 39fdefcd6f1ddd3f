//! Services and their slices -> SERVICES and BACKENDS.
//!
//! A service port has one slice of backends for each family, shared by its frontends. A changed slice is a new run of slots:
//! it is written first, then the frontends flip to it, and the old run rests for a grace period before it is used again.

use std::{collections::HashMap, net::IpAddr, sync::Arc, time::Duration};

use abi::{Addr4, Addr6, Backend as Entry, Port, Service as Frontend, ServiceKey, scope, service_flag};

use crate::{
    family::Address,
    hash::stable,
    ids::{Ids, Limits, Numbers},
    names::ServiceName,
    plan::{FamilyPlan, Shortfall, Slice},
    slots::Slots,
    snapshot::{EndpointSlice, Service, ServicePort, Snapshot},
};

/// The memory of this compiler: where each service port's backends are.
#[derive(Debug)]
pub(crate) struct ServiceState {
    v4: Placed<Addr4>,
    v6: Placed<Addr6>,
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
    pub(crate) names: HashMap<u32, ServiceName>,
    pub(crate) shortfalls: Vec<Shortfall>,
    pub(crate) unsettled: bool,
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

/// Compiles all Services into the tables of both families.
pub(crate) fn compile(
    snapshot: &Snapshot,
    ids: &mut Ids,
    v4: &mut FamilyPlan<Addr4>,
    v6: &mut FamilyPlan<Addr6>,
) -> ServiceTables {
    let mut tables = ServiceTables::default();
    let mut by_service: HashMap<(&str, &str), Vec<&EndpointSlice>> = HashMap::new();
    for slice in &snapshot.slices {
        by_service.entry((&slice.namespace, &slice.service)).or_default().push(slice);
    }
    let Ids { services: numbers, service_state: state, now, .. } = ids;
    for service in &snapshot.services {
        let slices = by_service.get(&(&*service.namespace, &*service.name)).map_or(&[][..], Vec::as_slice);
        for port in &service.ports {
            let one = Compiling { id: number(numbers, service, port), service, port };
            tables.names.insert(one.id, ServiceName::new(service, port));
            state.v4.port(&one, snapshot, slices, *now, v4);
            state.v6.port(&one, snapshot, slices, *now, v6);
        }
    }
    numbers.retain(|id| tables.names.contains_key(&id));
    tables.unsettled = state.v4.finish(&tables.names, *now, v4) | state.v6.finish(&tables.names, *now, v6);
    tables.shortfalls.extend(state.v4.shortfall("BACKENDS4"));
    tables.shortfalls.extend(state.v6.shortfall("BACKENDS6"));
    tables
}

fn number(numbers: &mut Numbers, service: &Service, port: &ServicePort) -> u32 {
    numbers.of(stable(&(&service.namespace, &service.name, &port.name, port.protocol)))
}

// === impl ServiceState ===

impl ServiceState {
    pub(crate) fn new(limits: &Limits) -> Self {
        ServiceState { v4: Placed::new(limits.backends), v6: Placed::new(limits.backends) }
    }

    pub(crate) fn v4(&mut self) -> &mut Placed<Addr4> {
        &mut self.v4
    }

    pub(crate) fn v6(&mut self) -> &mut Placed<Addr6> {
        &mut self.v6
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

    fn port(
        &mut self,
        one: &Compiling<'_>,
        snapshot: &Snapshot,
        slices: &[&EndpointSlice],
        now: Duration,
        plan: &mut FamilyPlan<A>,
    ) {
        let addresses = one.frontends::<A>();
        if addresses.is_empty() {
            return;
        }
        let members = Members::<A>::of(one.port, snapshot, slices);
        let mut frontend = members.frontend(one);
        match self.place(one.id, &members, now) {
            Some(slice) => {
                frontend.base = slice.base;
                plan.backends.push(slice);
            }
            // Without slots it has no backends: rejected, and reported by the caller.
            None => {
                self.missing += members.list.len();
                (frontend.ready, frontend.ready_local) = (0, 0);
                (frontend.terminating, frontend.terminating_local) = (0, 0);
            }
        }
        for (key, flags) in addresses {
            plan.services.insert(key, Frontend { flags, ..frontend });
        }
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

    /// Lets go of what no service owns any more; true while slots rest.
    fn finish(&mut self, live: &HashMap<u32, ServiceName>, now: Duration, plan: &FamilyPlan<A>) -> bool {
        let used: std::collections::HashSet<u32> = plan.services.values().map(|service| service.id).collect();
        let slots = &mut self.slots;
        self.slices.retain(|id, slice| {
            let keep = live.contains_key(id) && used.contains(id);
            if !keep {
                slots.release(slice.base, slice.items.len() as u32, now);
            }
            keep
        });
        slots.settle(now)
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
    fn of(port: &ServicePort, snapshot: &Snapshot, slices: &[&EndpointSlice]) -> Self {
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
