//! Puts a new flow on record: one entry, or two when it is translated.

use abi::{ConntrackEntry, DropCode, ct_flag, ct_protocol, tcp_state, via};

use crate::address::Address;
use crate::bits::forget;
use crate::claim::claim;
use crate::conntrack::tcp_bits;
use crate::family::Family;
use crate::flow::{Flow, decided};
use crate::get;
use crate::peer::is;
use crate::tables::{Claim, Inserted, Tables};
use crate::verdict::{Step, need, refuse};

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
