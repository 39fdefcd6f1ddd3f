//! The hooks: how a packet that comes in is decided, from its first byte to its verdict.

use abi::{Config, Hook, Port, Reason};

use crate::address::Address;
use crate::answer::{answer, is_answered};
use crate::begin::begin;
use crate::conntrack::follow;
use crate::context::{Context, Place, at, note};
use crate::event;
use crate::family::Family;
use crate::flow::{Flow, shape};
use crate::get;
use crate::observe::{Note, Observer};
use crate::packet::Packet;
use crate::parse::parse;
use crate::related::related;
use crate::tables::{Shared, Tables};
use crate::verdict::{Kind, Verdict, drop_code};

/// Decides a packet that came in by a hook.
#[inline(always)]
pub fn decide<F: Family, H: Place, P: Packet, T: Tables<F>, O: Observer>(
    cx: &mut Context<'_, F, P, T, O>,
) -> Verdict {
    let verdict = receive::<F, H, P, T, O>(cx);
    if verdict.is(Kind::Begin) {
        begin::<F, H, P, T, O>(cx)
    } else if verdict.is(Kind::Relate) {
        related::<F, H, P, T, O>(cx)
    } else {
        verdict
    }
}

/// The first half of [`decide`]: what is on record is decided; [`Kind::Begin`] and [`Kind::Relate`] name the second
/// half. The kernel has the halves as functions of their own.
#[inline(always)]
pub fn receive<F: Family, H: Place, P: Packet, T: Tables<F>, O: Observer>(
    cx: &mut Context<'_, F, P, T, O>,
) -> Verdict {
    if let Err(code) = parse::<F, P, T>(cx.packet, cx.tables) {
        // What the uplink brings and is not understood here is the host's to judge.
        return if at::<H>(Hook::UplinkIngress) { PASS } else { Verdict::drop(code) };
    }
    let Some(flow) = cx.tables.flow() else { return Verdict::drop(drop_code!(Internal)) };
    note!(
        cx.observer,
        Note::Parsed {
            hook: H::HOOK,
            protocol: flow.protocol,
            source: flow.source_port,
            destination: flow.destination_port,
        }
    );
    if at::<H>(Hook::UplinkIngress) && is_tunnel::<F, T>(cx.tables.config(), flow) {
        return PASS;
    }
    if at::<H>(Hook::PodEgress) && (flow.destination.local_scope() | flow.source.local_scope()) != 0 {
        return Verdict::drop(drop_code!(LocalScope));
    }
    if flow.is(shape::ICMP_ERROR) {
        return Verdict::new(Kind::Relate, 0);
    }
    follow::<F, H, P, T, O>(cx, flow)
}

const PASS: Verdict = Verdict::new(Kind::Pass, 0);

/// Whether it is the tunnel's own packet: the host unwraps it.
#[inline(always)]
pub fn is_tunnel<F: Family, T: Tables<F>>(config: Shared<'_, Config>, flow: &Flow<F::Address>) -> bool {
    let port: Port = get!(config.vxlan_port);
    flow.protocol == abi::protocol::UDP as u32
        && flow.destination_port == port
        && get!(config.features) & abi::feature::VXLAN != 0
}

/// Reports a drop, and turns the packet into an answer where silence would only make the sender wait. The program
/// calls it for every verdict that drops; the flow is still in scratch.
#[inline(always)]
pub fn refuse<F: Family, P: Packet, T: Tables<F>, O: Observer>(
    cx: &mut Context<'_, F, P, T, O>,
    hook: u8,
    verdict: Verdict,
) -> Verdict {
    let Some(code) = verdict.dropped() else { return verdict };
    let Some(flow) = cx.tables.flow() else { return verdict };
    // Every pod with IPv6 asks for routers and joins groups: counted, but no news.
    if code.word() >> 24 != Reason::LocalScope as u32 {
        event::dropped::<F, T>(cx.tables, flow, hook, cx.packet.ifindex(), code);
    }
    if !is_answered(code) || hook == Hook::OverlayIngress as u8 {
        return verdict;
    }
    match answer::<F, P, T>(cx.packet, cx.tables, flow, code) {
        Some(()) => Verdict::new(Kind::Answer, code.word()),
        None => verdict,
    }
}
