//! A flow that is not on record: who sends, who is asked for, who serves, whether that is allowed.

use abi::{Hook, feature, peer_flag, state_flag, via};

use crate::address::Address;
use crate::context::{Context, Place, at, note};
use crate::deliver::{deliver, fits};
use crate::establish::leaves;
use crate::event;
use crate::family::Family;
use crate::flow::{Flow, decided};
use crate::get;
use crate::nat::rewrite;
use crate::observe::{Note, Observer};
use crate::packet::Packet;
use crate::peer::{End, is, locate};
use crate::policy::judge;
use crate::service::{self, Chosen};
use crate::tables::Tables;
use crate::verdict::{Kind, Step, Verdict, drop_code, need, refuse};

/// Decides the first packet of a flow and puts the flow on record. [`receive`](crate::hooks::receive) left the flow in
/// scratch.
#[inline(always)]
pub fn begin<F: Family, H: Place, P: Packet, T: Tables<F>, O: Observer>(
    cx: &mut Context<'_, F, P, T, O>,
) -> Verdict {
    note!(cx.observer, Note::New);
    let tables = cx.tables;
    let Some(flow) = tables.flow() else { return Verdict::drop(drop_code!(Internal)) };
    let clash = flow.decided & decided::CLASH;
    flow.untranslated();
    flow.decided = clash;
    if !at::<H>(Hook::OverlayIngress)
        && let Err(code) = tables.serve(cx.observer, H::HOOK as u8)
    {
        return Verdict::drop(code);
    }
    let Some(flow) = tables.flow() else { return Verdict::drop(drop_code!(Internal)) };
    if at::<H>(Hook::UplinkIngress) && !concerns::<F, T>(tables, flow) {
        return Verdict::new(Kind::Pass, 0);
    }
    if let Err(code) = consider::<F, H, P, T, O>(cx) {
        return Verdict::drop(code);
    }
    let Some(flow) = tables.flow() else { return Verdict::drop(drop_code!(Internal)) };
    if flow.from_port != flow.source_port {
        note!(cx.observer, Note::SourceTranslated { port: flow.from_port });
    }
    event::began::<F, T>(tables, flow, H::HOOK, cx.packet.ifindex());
    if flow.decided & (decided::DESTINATION | decided::SOURCE | decided::CLASH) != 0
        && let Err(code) = rewrite::<F, P>(cx.packet, flow)
    {
        return Verdict::drop(code);
    }
    let source_translated = flow.decided & (decided::SOURCE | decided::CLASH) != 0;
    deliver::<F, H, P, T, O>(cx, flow.via[1], flow.mac[1], source_translated)
}

/// Everything that may forbid the flow, then its record.
#[inline(always)]
fn consider<F: Family, H: Place, P: Packet, T: Tables<F>, O: Observer>(
    cx: &mut Context<'_, F, P, T, O>,
) -> Step {
    let tables = cx.tables;
    let state = need!(tables.state(), Internal);
    let flow = need!(tables.flow(), Internal);
    flow.epoch = get!(state.epoch);
    if get!(state.flags) & state_flag::CONNTRACK_PRESSURE != 0 && tables.heavy_source(&flow.source) {
        refuse!(HeavySource)
    }
    sender::<F, H, P, T, O>(cx, flow)?;
    locate::<F, T, O>(tables, cx.observer, flow, End::Destination);
    reachable::<F, H, P, T, O>(cx, flow)?;
    fits::<F, P, T, O>(cx, flow, flow.via[1])?;
    sources::<F, H, T>(tables, flow)?;
    judge::<F, T, O>(tables, cx.observer)?;
    tables.establish()
}

/// Whether a packet from the uplink is the datapath's business: for a Service, or for a pod of this node. The rest is the
/// host's.
#[inline(always)]
fn concerns<F: Family, T: Tables<F>>(tables: &T, flow: &Flow<F::Address>) -> bool {
    flow.decided & decided::DESTINATION != 0 || tables.endpoint(&flow.destination).is_some()
}

/// Locates the sender and checks that it is who it says.
#[inline(always)]
fn sender<F: Family, H: Place, P: Packet, T: Tables<F>, O: Observer>(
    cx: &mut Context<'_, F, P, T, O>,
    flow: &mut Flow<F::Address>,
) -> Step {
    locate::<F, T, O>(cx.tables, cx.observer, flow, End::Source);
    let from = flow.via[0];
    match H::HOOK {
        Hook::PodEgress => {
            if from != via::POD | cx.packet.ifindex() & via::ARGUMENT {
                refuse!(Spoofed)
            }
        }
        Hook::NodeEgress => {
            // A pod's packets, of whichever node, do not come from this node's own stack.
            if !is(from, via::HOST) && !is(from, via::OUTSIDE) {
                refuse!(Spoofed)
            }
        }
        Hook::UplinkIngress => {
            // Behind a tunnel, pods' addresses are never on the wire; without one, the answer goes by the host's
            // routes like the rest.
            let pod = flow.peer[0] & peer_flag::NODE == 0 && !is(from, via::OUTSIDE);
            if pod && (cx.tunnels() || is(from, via::POD)) {
                refuse!(Spoofed)
            }
            if cx.tunnels() || !is(from, via::NODE) {
                flow.via[0] = via::OUTSIDE;
            }
        }
        _ => {
            if !is(from, via::NODE) {
                refuse!(TunnelSource)
            }
            let node = need!(cx.tables.node(from & via::ARGUMENT), TunnelSource);
            if !cx.packet.tunnelled_from(node) {
                refuse!(TunnelSource)
            }
        }
    }
    Ok(())
}

/// Turns a Service's address into a backend's.
#[inline(always)]
pub fn serve<F: Family, T: Tables<F>, O: Observer>(tables: &T, observer: &mut O, hook: u8) -> Step {
    let flow = need!(tables.flow(), Internal);
    let outside = hook == Hook::UplinkIngress as u8;
    let scope = if outside { service::EXTERNAL } else { service::INTERNAL };
    let address = flow.destination;
    let node = || if outside { is_mine::<F, T>(tables, &address) } else { is_node::<F, T>(tables, &address) };
    let protocol = flow.protocol as u8;
    let Some(service) = service::find::<F, T>(tables, &address, flow.destination_port, protocol, scope, node)
    else {
        return Ok(());
    };
    note!(observer, Note::Service { id: get!(service.id) });
    flow.service = get!(service.id);
    flow.decided |= decided::DESTINATION;
    let mut chosen = Chosen::<F::Address>::default();
    service::choose::<F, T>(tables, service, &flow.source, &mut chosen)?;
    note!(observer, Note::Backend { slot: chosen.slot });
    flow.to = chosen.address;
    flow.to_port = chosen.port;
    Ok(())
}

/// Whether an address is one of this node's. Each packet from the uplink asks, so without a lookup.
#[inline(always)]
fn is_mine<F: Family, T: Tables<F>>(tables: &T, address: &F::Address) -> bool {
    match tables.state() {
        Some(state) => F::is_node(state, address) != 0,
        None => false,
    }
}

/// Whether an address is a node's.
#[inline(always)]
pub fn is_node<F: Family, T: Tables<F>>(tables: &T, address: &F::Address) -> bool {
    match tables.peer(address) {
        Some(peer) => get!(peer.flags) & peer_flag::NODE != 0,
        None => false,
    }
}

/// Whether the destination, after translation, is somewhere this hook delivers to.
#[inline(always)]
fn reachable<F: Family, H: Place, P: Packet, T: Tables<F>, O>(
    cx: &Context<'_, F, P, T, O>,
    flow: &mut Flow<F::Address>,
) -> Step {
    let to = flow.via[1];
    if flow.decided & decided::DESTINATION == 0 && flow.peer[1] & peer_flag::SERVICE_CIDR != 0 {
        refuse!(NoService)
    }
    if is(to, via::NOWHERE) {
        refuse!(NoRoute)
    }
    if at::<H>(Hook::OverlayIngress) && !is(to, via::POD) && !is(to, via::HOST) {
        refuse!(NoRoute)
    }
    if at::<H>(Hook::NodeEgress) && is(to, via::HOST) {
        // The host would have to accept a packet of its own from a device.
        refuse!(NoRoute)
    }
    if leaves(flow.via[0], to) && flow.peer[1] & peer_flag::NO_MASQUERADE == 0 && cx.has(feature::MASQUERADE)
    {
        flow.decided |= decided::MASQUERADE;
    }
    Ok(())
}

/// Whether the reply needs another source address to come back here: a pod that is served by itself, and a client from
/// outside that is served elsewhere.
#[inline(always)]
fn sources<F: Family, H: Place, T: Tables<F>>(tables: &T, flow: &mut Flow<F::Address>) -> Step {
    if flow.decided & decided::DESTINATION == 0 {
        return Ok(());
    }
    let state = need!(tables.state(), Internal);
    let to = flow.via[1];
    if flow.to.same(&flow.source) != 0 {
        flow.decided |= decided::SOURCE | decided::HAIRPIN;
        flow.from = F::overlay_address(state);
    }
    if !at::<H>(Hook::UplinkIngress) {
        return Ok(());
    }
    if is(to, via::NODE) {
        flow.decided |= decided::SOURCE;
        flow.from = F::overlay_address(state);
    } else if is(to, via::OUTSIDE) {
        flow.decided |= decided::SOURCE;
        flow.from = F::node_address(state);
    }
    Ok(())
}
