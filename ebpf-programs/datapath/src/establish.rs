//! Puts a new flow on record: one entry, or two when it is translated, and the port that source NAT needs.

use abi::{ConntrackEntry, DropCode, Port, ct_flag, ct_protocol, tcp_state, via};

use crate::address::Address;
use crate::bits::{forget, mask, select};
use crate::conntrack::tcp_bits;
use crate::family::Family;
use crate::flow::{Flow, decided, shape};
use crate::get;
use crate::peer::is;
use crate::tables::{Claim, Inserted, Tables};
use crate::verdict::{Step, need, refuse};

/// Ports that are tried for one flow. With half of the 16,384 in use towards one destination and port, eight tries fail
/// once in 256 flows; the client's next SYN tries eight others.
const CLAIM_TRIES: u32 = 8;

/// Distance between tries: odd, so that all ports are reached, and far, so that neighbours in use are left behind.
const CLAIM_STRIDE: u32 = 4099;

/// Records the flow as it was decided. Claims a source port where one is needed and leaves it in the flow.
#[inline(always)]
pub fn establish<F: Family, T: Tables<F>>(tables: &T) -> Step {
    let flow = need!(tables.flow(), Internal);
    let draft = need!(tables.draft(), Internal);
    common::<F, T>(tables, flow, draft);
    if flow.decided & (decided::DESTINATION | decided::SOURCE | decided::CLASH) != 0 {
        return pair::<F, T>(tables, flow, draft);
    }
    let (key, low) = flow.key();
    names(draft, flow);
    draft.flags = low | masquerade(flow);
    match tables.conntrack_insert(&key, draft, Claim::Replace) {
        Inserted::Done => Ok(()),
        _ => refuse!(ConntrackFull),
    }
}

/// What both entries share.
#[inline(always)]
fn common<F: Family, T: Tables<F>>(
    tables: &T,
    flow: &Flow<F::Address>,
    draft: &mut ConntrackEntry<F::Address>,
) {
    let now = tables.now();
    draft.via = flow.via;
    draft.mac = flow.mac;
    draft.class = flow.class;
    draft.service = flow.service;
    draft.epoch = flow.epoch;
    draft.tcp = tcp_bits(flow, 0);
    draft.last_seen = now;
    draft.created = now;
    draft.packets = [1, 0];
    draft.bytes = [flow.length as u64, 0];
}

/// The other tuple: the one the initiator uses.
#[inline(always)]
fn names<A: Address>(draft: &mut ConntrackEntry<A>, flow: &Flow<A>) {
    draft.other_initiator = flow.source;
    draft.other_responder = flow.destination;
    draft.other_initiator_port = flow.source_port;
    draft.other_responder_port = flow.destination_port;
}

#[inline(always)]
fn masquerade<A: Address>(flow: &Flow<A>) -> u32 {
    if flow.decided & decided::MASQUERADE != 0 { ct_flag::MASQUERADE } else { 0 }
}

/// The main entry, which also claims the translated tuple, then the alias.
#[inline(always)]
fn pair<F: Family, T: Tables<F>>(
    tables: &T,
    flow: &mut Flow<F::Address>,
    draft: &mut ConntrackEntry<F::Address>,
) -> Step {
    names(draft, flow);
    let clash = if flow.decided & decided::CLASH != 0 { ct_flag::CLASHED } else { 0 };
    let flags = ct_flag::NAT | masquerade(flow) | clash;
    let flags = forget(&mut flow.scratch, flags);
    draft.packets = [0, 0];
    draft.bytes = [0, 0];
    let (key, low) = flow.translated_key();
    flow.looked_up = key;
    draft.flags = flags | low;
    if flow.decided & (decided::CLASH | decided::SOURCE) != 0 || !take::<F, T>(tables, flow, draft)? {
        claim::<F, T>(tables, flow, draft)?;
    }
    alias::<F, T>(tables, flow, draft)
}

/// Records the main entry under the flow's own source port; `false` if another live connection has the tuple.
#[inline(always)]
fn take<F: Family, T: Tables<F>>(
    tables: &T,
    flow: &Flow<F::Address>,
    draft: &ConntrackEntry<F::Address>,
) -> Result<bool, DropCode> {
    match tables.conntrack_insert(&flow.looked_up, draft, Claim::New) {
        Inserted::Done => return Ok(true),
        Inserted::Full => refuse!(ConntrackFull),
        Inserted::Taken => {}
    }
    if !replaceable::<F, T>(tables, flow) {
        return Ok(false);
    }
    match tables.conntrack_insert(&flow.looked_up, draft, Claim::Replace) {
        Inserted::Done => Ok(true),
        _ => refuse!(ConntrackFull),
    }
}

/// Whether the entry with this key is over, or is this very flow's from before.
#[inline(always)]
fn replaceable<F: Family, T: Tables<F>>(tables: &T, flow: &Flow<F::Address>) -> bool {
    let Some(old) = tables.conntrack(&flow.looked_up) else { return true };
    if get!(old.tcp) & tcp_state::ENDING != 0 {
        return true;
    }
    let (initiator, responder) = (get!(old.other_initiator), get!(old.other_responder));
    get!(old.flags) & ct_flag::NAT != 0
        && initiator.same(&flow.source) & responder.same(&flow.destination) != 0
        && get!(old.other_initiator_port) == flow.source_port
        && get!(old.other_responder_port) == flow.destination_port
}

/// Finds a source port whose tuple is free, by inserting it. `looked_up` is the tuple's key, but for that port, and the
/// draft says which end is which in it.
#[inline(always)]
pub fn claim<F: Family, T: Tables<F>>(
    tables: &T,
    flow: &mut Flow<F::Address>,
    draft: &ConntrackEntry<F::Address>,
) -> Step {
    let config = tables.config();
    let (first, ports) = (get!(config.snat_first) as u32, get!(config.snat_mask) as u32);
    // The two addresses differ, so their order alone decides the key's: only the port in it changes between tries.
    let low = draft.flags & ct_flag::ORIG_LOW;
    // An echo has one identifier, and both ends use it.
    let echo = mask((flow.shape / shape::ECHO) & 1);
    let (into_low, into_high) = (mask(low) | echo, mask(low ^ 1) | echo);
    let mut offset = tables.random();
    let mut tries = 0;
    while tries < CLAIM_TRIES {
        let port = Port::new((first + (offset & ports)) as u16);
        let key = &mut flow.looked_up;
        key.low_port = Port(select(into_low, key.low_port.0 as u32, port.0 as u32) as u16);
        key.high_port = Port(select(into_high, key.high_port.0 as u32, port.0 as u32) as u16);
        match tables.conntrack_insert(key, draft, Claim::New) {
            Inserted::Done => return claimed(flow, port),
            Inserted::Full => refuse!(ConntrackFull),
            Inserted::Taken => {}
        }
        offset = offset.wrapping_add(CLAIM_STRIDE);
        tries += 1;
    }
    if flow.decided & decided::SOURCE == 0 {
        refuse!(ConntrackClash)
    }
    refuse!(SnatExhausted)
}

/// Leaves the claimed port in the flow.
#[inline(always)]
fn claimed<A: Address>(flow: &mut Flow<A>, port: Port) -> Step {
    flow.from_port = port;
    if flow.is(shape::ECHO) {
        flow.to_port = port;
    }
    Ok(())
}

/// The entry under the tuple that the initiator uses.
#[inline(always)]
fn alias<F: Family, T: Tables<F>>(
    tables: &T,
    flow: &Flow<F::Address>,
    draft: &mut ConntrackEntry<F::Address>,
) -> Step {
    let (mut key, low) = flow.key();
    if flow.decided & decided::CLASH != 0 {
        key.protocol |= ct_protocol::CLASH;
    }
    draft.other_initiator = flow.from;
    draft.other_responder = flow.to;
    draft.other_initiator_port = flow.from_port;
    draft.other_responder_port = flow.to_port;
    draft.flags = ct_flag::ALIAS | low;
    draft.packets = [1, 0];
    draft.bytes = [flow.length as u64, 0];
    match tables.conntrack_insert(&key, draft, Claim::Replace) {
        Inserted::Done => Ok(()),
        _ => {
            tables.conntrack_remove(&flow.looked_up);
            refuse!(ConntrackFull)
        }
    }
}

/// Which flows leave the cluster under the node's address: those of pods and of the node's overlay address to outside.
#[inline(always)]
pub fn leaves(source: u32, destination: u32) -> bool {
    is(destination, via::OUTSIDE) && !is(source, via::OUTSIDE)
}
