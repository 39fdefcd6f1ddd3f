//! Services: which backend serves.

use abi::{AffinityKey, AffinityValue, Backend, Port, Service, ServiceKey, scope, service_flag};

use crate::address::Address;
use crate::bits::same;
use crate::family::Family;
use crate::get;
use crate::tables::{Shared, Tables};
use crate::verdict::{Step, need, refuse};

/// The backend that was chosen.
#[derive(Clone, Copy, Default, Debug)]
pub struct Chosen<A> {
    /// Its address.
    pub address: A,
    /// Its port.
    pub port: Port,
    /// Its slot.
    pub slot: u32,
    /// The service's id.
    pub service: u32,
}

/// The frontend of an address, or of a NodePort where the address is a node's.
#[inline(always)]
pub fn find<'t, F: Family, T: Tables<F>>(
    tables: &'t T,
    address: &F::Address,
    port: Port,
    protocol: u8,
    scope: u8,
    is_node: impl FnOnce() -> bool,
) -> Option<Shared<'t, Service>> {
    let exact = ServiceKey { address: *address, port, protocol, scope };
    if let Some(service) = tables.service(&exact) {
        return Some(service);
    }
    let config = tables.config();
    let number = port.get();
    if number < get!(config.node_port_first) || number > get!(config.node_port_last) || !is_node() {
        return None;
    }
    tables.service(&ServiceKey { address: F::Address::default(), port, protocol, scope })
}

/// Chooses a backend for a client. `client` is who affinity is by.
#[inline(always)]
pub fn choose<F: Family, T: Tables<F>>(
    tables: &T,
    service: Shared<'_, Service>,
    client: &F::Address,
    chosen: &mut Chosen<F::Address>,
) -> Step {
    let (base, count) = serving(service);
    if count == 0 {
        return none(service);
    }
    chosen.service = get!(service.id);
    if get!(service.affinity_seconds) != 0 {
        return stick::<F, T>(tables, service, client, chosen);
    }
    chosen.slot = base + pick(tables.random(), count);
    take::<F, T>(tables, chosen)
}

/// The slots that may serve now: ready ones, else those that terminate but still serve.
#[inline(always)]
fn serving(service: Shared<'_, Service>) -> (u32, u32) {
    let base = get!(service.base);
    let ready = get!(service.ready);
    let local = get!(service.flags) & service_flag::LOCAL != 0;
    let count = if local { get!(service.ready_local) } else { ready };
    if count != 0 {
        return (base, count);
    }
    (base + ready, if local { get!(service.terminating_local) } else { get!(service.terminating) })
}

/// Why none serves: there is none, or none here.
#[inline(always)]
fn none(service: Shared<'_, Service>) -> Step {
    if get!(service.flags) & service_flag::LOCAL != 0 && get!(service.ready) | get!(service.terminating) != 0
    {
        refuse!(NoLocalBackend)
    }
    refuse!(NoBackend)
}

/// A number below `count` from 32 random bits, without a division.
#[inline(always)]
fn pick(random: u32, count: u32) -> u32 {
    ((random as u64 * count as u64) >> 32) as u32
}

/// Reads the chosen slot.
#[inline(always)]
fn take<F: Family, T: Tables<F>>(tables: &T, chosen: &mut Chosen<F::Address>) -> Step {
    let backend: Shared<'_, Backend<F::Address>> = need!(tables.backend(chosen.slot), NoBackend);
    chosen.address = get!(backend.address);
    chosen.port = get!(backend.port);
    Ok(())
}

/// Gives a client what it had, if that still serves; else chooses and remembers.
#[inline(always)]
fn stick<F: Family, T: Tables<F>>(
    tables: &T,
    service: Shared<'_, Service>,
    client: &F::Address,
    chosen: &mut Chosen<F::Address>,
) -> Step {
    let (base, count) = serving(service);
    let key = AffinityKey { client: *client, service: chosen.service };
    let now = tables.now();
    chosen.slot = base + pick(tables.random(), count);
    // Seconds are compared with units of 2^30 ns: close enough to take one for the other.
    if let Some(last) = tables.affinity(&key)
        && now.wrapping_sub(get!(last.last_used)) <= get!(service.affinity_seconds)
    {
        let (address, port) = (get!(last.address), get!(last.port));
        let slot = tables.backend_slot(base, count, &address, port);
        if slot < base + count {
            chosen.slot = slot;
        }
    }
    take::<F, T>(tables, chosen)?;
    let value = AffinityValue { address: chosen.address, port: chosen.port, reserved: 0, last_used: now };
    tables.affinity_put(&key, &value);
    Ok(())
}

/// Whether a slot holds this backend.
#[inline(always)]
pub fn is<F: Family, T: Tables<F>>(tables: &T, slot: u32, address: &F::Address, port: Port) -> bool {
    let Some(backend) = tables.backend(slot) else { return false };
    let other = get!(backend.address);
    address.same(&other) & same(get!(backend.port).0 as u32, port.0 as u32) != 0
}

/// The scope of requests from pods and from the node itself.
pub const INTERNAL: u8 = scope::INTERNAL;
/// The scope of requests that come in by the uplink.
pub const EXTERNAL: u8 = scope::EXTERNAL;
