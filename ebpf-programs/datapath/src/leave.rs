//! What leaves by the uplink: flows to outside the cluster are given the node's address, and what the node itself
//! answers in a Service's name gets that name back.

use abi::{ConntrackEntry, Hook, ct_flag, feature, via};

use crate::claim::claim;
use crate::conntrack::{Found, account, other_tuple};
use crate::context::{Context, note};
use crate::family::Family;
use crate::flow::{Flow, decided, shape};
use crate::hooks::is_tunnel;
use crate::nat::rewrite;
use crate::observe::{Note, Observer};
use crate::packet::Packet;
use crate::parse::parse;
use crate::peer::is;
use crate::tables::{Shared, Tables};
use crate::verdict::{Kind, Step, Verdict, drop_code, need, refuse};
use crate::{get, set};

const PASS: Verdict = Verdict::new(Kind::Pass, 0);

/// The hook's number.
pub const HOOK: Hook = Hook::UplinkEgress;

/// A packet that leaves by the uplink. It was decided where it came from; here it only gets its outside addresses.
#[inline(always)]
pub fn uplink_egress<F: Family, P: Packet, T: Tables<F>, O: Observer>(
    cx: &mut Context<'_, F, P, T, O>,
) -> Verdict {
    if parse::<F, P, T>(cx.packet, cx.tables).is_err() {
        return PASS;
    }
    let Some(flow) = cx.tables.flow() else { return Verdict::drop(drop_code!(Internal)) };
    if is_tunnel::<F, T>(cx.tables.config(), flow) || flow.is(shape::ICMP_ERROR) {
        return PASS;
    }
    flow.untranslated();
    let Some(found) = lookup::<F, T>(cx.tables, flow) else { return unknown::<F, P, T, O>(cx, flow) };
    let flags = found.flags;
    if found.reply != 0 {
        return if flags & ct_flag::NAT != 0 { apply::<F, P, T, O>(cx, flow, &found) } else { PASS };
    }
    if flags & ct_flag::AT_UPLINK != 0 {
        if flags & ct_flag::NAT != 0 {
            // The hook that the packet came in by counted it on the alias of its Service.
            account::<F, P, T, O>(cx, flow, &found);
        }
        return apply::<F, P, T, O>(cx, flow, &found);
    }
    let done = if flags & ct_flag::MASQUERADE != 0 && cx.has(feature::MASQUERADE) {
        masquerade::<F, P, T, O>(cx, flow, found.entry, flags)
    } else {
        undisputed::<F, T>(cx.tables, flow, &found)
    };
    match done {
        Ok(()) => PASS,
        Err(code) => Verdict::drop(code),
    }
}

/// Refuses a packet of the node's own whose tuple was claimed for a pod: answers to it would go to the pod. That takes
/// an ephemeral range that was widened into the one of source NAT.
#[inline(always)]
fn undisputed<F: Family, T: Tables<F>>(
    tables: &T,
    flow: &Flow<F::Address>,
    found: &Found<'_, F::Address>,
) -> Step {
    if found.flags & ct_flag::NAT == 0 || is(found.via(0), via::OUTSIDE) {
        return Ok(());
    }
    let state = need!(tables.state(), Internal);
    if F::is_node(state, &flow.source) != 0 {
        refuse!(ConntrackClash)
    }
    Ok(())
}

/// The entry of a packet that was translated already: an alias was applied where the packet came in, so that what
/// matches here is the flow itself, the main entry of a Service's included.
#[inline(always)]
fn lookup<'t, F: Family, T: Tables<F>>(
    tables: &'t T,
    flow: &mut Flow<F::Address>,
) -> Option<Found<'t, F::Address>> {
    let (key, low) = flow.key();
    flow.looked_up = key;
    let entry = tables.conntrack(&flow.looked_up)?;
    let flags = get!(entry.flags);
    Some(Found { entry, flags, reply: (flags & ct_flag::ORIG_LOW) ^ low })
}

/// A packet that is not on record: the node's own, unless a pod of this node sent it. A port that source NAT might
/// claim is claimed for the node.
#[inline(always)]
fn unknown<F: Family, P: Packet, T: Tables<F>, O>(
    cx: &Context<'_, F, P, T, O>,
    flow: &mut Flow<F::Address>,
) -> Verdict {
    if cx.tables.endpoint(&flow.source).is_some() {
        return Verdict::drop(drop_code!(NoFlow));
    }
    let config = cx.tables.config();
    let offset = (flow.source_port.get() as u32).wrapping_sub(get!(config.snat_first) as u32);
    if offset <= get!(config.snat_mask) as u32 {
        flow.via = [via::HOST, via::OUTSIDE];
        // If it cannot be put on record now, the next packet tries again.
        let _ = cx.tables.establish();
    }
    PASS
}

/// Puts the other entry's tuple in.
#[inline(always)]
fn apply<F: Family, P: Packet, T: Tables<F>, O>(
    cx: &mut Context<'_, F, P, T, O>,
    flow: &mut Flow<F::Address>,
    found: &Found<'_, F::Address>,
) -> Verdict {
    other_tuple(flow, found.entry, found.reply);
    match rewrite::<F, P>(cx.packet, flow) {
        Ok(()) => PASS,
        Err(code) => Verdict::drop(code),
    }
}

/// Claims a port of the node for a flow, and makes the flow's entry the alias of the one that was claimed.
#[inline(always)]
fn masquerade<F: Family, P: Packet, T: Tables<F>, O: Observer>(
    cx: &mut Context<'_, F, P, T, O>,
    flow: &mut Flow<F::Address>,
    entry: Shared<'_, ConntrackEntry<F::Address>>,
    flags: u32,
) -> Step {
    let state = need!(cx.tables.state(), Internal);
    flow.decided = decided::SOURCE;
    flow.from = F::node_address(state);
    flow.to = flow.destination;
    flow.to_port = flow.destination_port;
    flow.from_port = flow.source_port;
    let draft = need!(cx.tables.draft(), Internal);
    inherit(draft, entry, flow, flags);
    let (key, low) = flow.translated_key();
    flow.looked_up = key;
    draft.flags = ct_flag::NAT | low;
    claim::<F, T>(cx.tables, flow, draft)?;
    note!(cx.observer, Note::SourceTranslated { port: flow.from_port });
    // The tuple before the flag: a packet on another CPU that sees the flag sees the tuple.
    set!(entry.other_initiator = flow.from);
    set!(entry.other_initiator_port = flow.from_port);
    set!(entry.other_responder = flow.to);
    set!(entry.other_responder_port = flow.to_port);
    set!(entry.flags = flags | ct_flag::ALIAS | ct_flag::AT_UPLINK);
    rewrite::<F, P>(cx.packet, flow)
}

/// The claimed entry answers to whoever the flow's entry answered to: the pod, or the client of a Service.
#[inline(always)]
fn inherit<A: crate::address::Address>(
    draft: &mut ConntrackEntry<A>,
    entry: Shared<'_, ConntrackEntry<A>>,
    flow: &Flow<A>,
    flags: u32,
) {
    let translated = flags & ct_flag::NAT != 0;
    draft.other_initiator = flow.source;
    draft.other_initiator_port = flow.source_port;
    draft.other_responder = if translated { get!(entry.other_responder) } else { flow.destination };
    draft.other_responder_port =
        if translated { get!(entry.other_responder_port) } else { flow.destination_port };
    if translated {
        draft.other_initiator = get!(entry.other_initiator);
        draft.other_initiator_port = get!(entry.other_initiator_port);
    }
    draft.via = [get!(entry.via[0]), get!(entry.via[1])];
    draft.mac = [get!(entry.mac[0]), get!(entry.mac[1])];
    draft.class = [get!(entry.class[0]), get!(entry.class[1])];
    draft.service = get!(entry.service);
    draft.epoch = get!(entry.epoch);
    draft.tcp = get!(entry.tcp);
    draft.last_seen = get!(entry.last_seen);
    draft.created = get!(entry.created);
    draft.packets = [0; 2];
    draft.bytes = [0; 2];
}
