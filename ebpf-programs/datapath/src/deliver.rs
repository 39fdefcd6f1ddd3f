//! Where a packet goes from here.

use abi::{GATEWAY_MAC, Hook, Mac, via};

use crate::context::{Context, Place, at, note};
use crate::family::Family;
use crate::flow::{Flow, shape};
use crate::get;
use crate::observe::{Note, Observer};
use crate::packet::Packet;
use crate::peer::is;
use crate::tables::Tables;
use crate::verdict::{Kind, Step, Verdict, drop_code, refuse};

/// The verdict that takes a packet to a `via` word. `translated`: its source is not what the host would accept from
/// the device it came from, so that it must not go through the host's stack.
#[inline(always)]
pub fn deliver<F: Family, H: Place, P: Packet, T: Tables<F>, O: Observer>(
    cx: &mut Context<'_, F, P, T, O>,
    to: u32,
    mac: Mac,
    translated: bool,
) -> Verdict {
    note!(cx.observer, Note::Delivered { via: to });
    let argument = to & via::ARGUMENT;
    match to & via::KIND {
        via::POD => into_pod(cx.packet, argument, mac),
        via::NODE if cx.tunnels() => Verdict::new(Kind::Tunnel, argument),
        via::NODE => Verdict::new(Kind::Route, 0),
        via::HOST => Verdict::new(Kind::Host, 0),
        via::OUTSIDE if at::<H>(Hook::PodEgress) && !translated => Verdict::new(Kind::Pass, 0),
        via::OUTSIDE => Verdict::new(Kind::Route, 0),
        _ => Verdict::drop(drop_code!(NoRoute)),
    }
}

/// Whether a packet fits the way to a `via` word. A bundle does: its segments are cut to the size that their ends agreed
/// on, which the pod's own MTU bounds.
#[inline(always)]
pub fn fits<F: Family, P: Packet, T: Tables<F>, O>(
    cx: &Context<'_, F, P, T, O>,
    flow: &Flow<F::Address>,
    to: u32,
) -> Step {
    let config = cx.tables.config();
    // The rarest first: nearly every packet leaves at the first comparison.
    if flow.length <= get!(config.overlay_mtu) || !flow.is(shape::DONT_FRAGMENT) || cx.packet.is_bundle() {
        return Ok(());
    }
    if cx.tunnels() && is(to, via::NODE) {
        refuse!(TooBig)
    }
    Ok(())
}

/// Addresses the frame to the pod: what listens below IP there sees a frame that is its own.
#[inline(always)]
fn into_pod<P: Packet>(packet: &mut P, ifindex: u32, mac: Mac) -> Verdict {
    match packet.write(0, [mac, GATEWAY_MAC]) {
        Some(()) => Verdict::new(Kind::Pod, ifindex),
        None => Verdict::drop(drop_code!(Rewrite)),
    }
}
