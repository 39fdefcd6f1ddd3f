//! The tcx programs: which family, which hook; the datapath decides, `output` carries out.

use abi::Hook;
use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::{__sk_buff, TC_ACT_UNSPEC};
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use datapath::{
    AtNode, AtOverlay, AtPod, AtUplink, Context, Kind, Place, Silent, V4, V6, Verdict, begin, receive,
    refuse, related,
};

use crate::log::decided;
use crate::output::{carry_out, not_ip};
use crate::packet::Tc;
use crate::tables::Maps;

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const ARP: u16 = 0x0806;

#[inline(always)]
fn ethertype(skb: *mut __sk_buff) -> u16 {
    // SAFETY: the context is valid as long as the program runs.
    u16::from_be(unsafe { (*skb).protocol } as u16)
}

/// The parts of a decision about a packet, each a function that the verifier checks on its own.
macro_rules! part {
    ($name:ident, $family:ty, |$cx:ident $(, $argument:ident: $kind:ty)*| $body:expr) => {
        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $name(skb: *mut __sk_buff $(, $argument: $kind)*) -> u64 {
            let (mut packet, tables, mut observer) = (Tc(skb), Maps, Silent);
            let mut $cx = Context::<$family, _, _, _>::new(&mut packet, &tables, &mut observer);
            $body.word()
        }
    };
}

part!(refused4, V4, |cx, hook: u32, verdict: u64| refuse(&mut cx, hook as u8, Verdict::from_word(verdict)));
part!(refused6, V6, |cx, hook: u32, verdict: u64| refuse(&mut cx, hook as u8, Verdict::from_word(verdict)));

/// Goes on from what [`receive`] answered: the parts of the family.
macro_rules! finish {
    ($skb:ident, $hook:expr, $verdict:expr, $begin:ident, $related:ident, $refused:ident) => {{
        let mut verdict: Verdict = $verdict;
        if verdict.is(Kind::Begin) {
            verdict = Verdict::from_word($begin($skb));
        } else if verdict.is(Kind::Relate) {
            verdict = Verdict::from_word($related($skb));
        }
        if verdict.is(Kind::Drop) {
            verdict = Verdict::from_word($refused($skb, $hook as u32, verdict.word()));
        }
        verdict
    }};
}

/// A program for what comes in by a hook: both families, and what happens to frames of neither.
///
/// IPv4 on record is decided in the program itself. IPv6 needs too much stack beside it, and is a part of its own.
macro_rules! ingress {
    (
        $(#[$doc:meta])* $name:ident, $place:ty, $other:expr,
        $begin4:ident $related4:ident, $receive6:ident $begin6:ident $related6:ident
    ) => {
        part!($begin4, V4, |cx| begin::<V4, $place, _, _, _>(&mut cx));
        part!($related4, V4, |cx| related::<V4, $place, _, _, _>(&mut cx));
        part!($receive6, V6, |cx| receive::<V6, $place, _, _, _>(&mut cx));
        part!($begin6, V6, |cx| begin::<V6, $place, _, _, _>(&mut cx));
        part!($related6, V6, |cx| related::<V6, $place, _, _, _>(&mut cx));

        $(#[$doc])*
        #[classifier]
        pub fn $name(ctx: TcContext) -> i32 {
            const HOOK: Hook = <$place as Place>::HOOK;
            let skb: *mut __sk_buff = ctx.as_ptr().cast();
            let ethertype = ethertype(skb);
            let verdict = match ethertype {
                IPV4 => {
                    let (mut packet, tables, mut observer) = (Tc(skb), Maps, Silent);
                    let mut cx = Context::<V4, _, _, _>::new(&mut packet, &tables, &mut observer);
                    let received = receive::<V4, $place, _, _, _>(&mut cx);
                    finish!(skb, HOOK, received, $begin4, $related4, refused4)
                }
                IPV6 => {
                    let received = Verdict::from_word($receive6(skb));
                    finish!(skb, HOOK, received, $begin6, $related6, refused6)
                }
                other => return $other(skb, other),
            };
            decided(&ctx, HOOK, verdict);
 carry_out(skb, HOOK, verdict, ethertype == IPV6)
        }
    };
}

/// Pods have a permanent neighbour; one that asks all the same may hear the host.
#[inline(always)]
fn from_pod(skb: *mut __sk_buff, ethertype: u16) -> i32 {
    if ethertype == ARP { TC_ACT_UNSPEC } else { not_ip(skb, Hook::PodEgress) }
}

/// Not the datapath's business.
#[inline(always)]
fn pass(_: *mut __sk_buff, _: u16) -> i32 {
    TC_ACT_UNSPEC
}

/// Only IP is carried between nodes.
#[inline(always)]
fn shot(skb: *mut __sk_buff, _: u16) -> i32 {
    not_ip(skb, Hook::OverlayIngress)
}

ingress!(
    /// What a pod sends: on the host's side of its link.
    pod_egress, AtPod, from_pod,
    pod_begin4 pod_related4, pod_receive6 pod_begin6 pod_related6
);
ingress!(
    /// What the node sends to pods: on `bowsprit_net`.
    node_egress, AtNode, pass,
    node_begin4 node_related4, node_receive6 node_begin6 node_related6
);
ingress!(
    /// What comes in by the uplink.
    uplink_ingress, AtUplink, pass,
    uplink_begin4 uplink_related4, uplink_receive6 uplink_begin6 uplink_related6
);
ingress!(
    /// What comes out of the tunnel.
    overlay_ingress, AtOverlay, shot,
    overlay_begin4 overlay_related4, overlay_receive6 overlay_begin6 overlay_related6
);

part!(leave4, V4, |cx| datapath::uplink_egress(&mut cx));
part!(leave6, V6, |cx| datapath::uplink_egress(&mut cx));

/// What leaves by the uplink.
#[classifier]
pub fn uplink_egress(ctx: TcContext) -> i32 {
    const HOOK: Hook = Hook::UplinkEgress;
    let skb: *mut __sk_buff = ctx.as_ptr().cast();
    let ethertype = ethertype(skb);
    let mut verdict = match ethertype {
        IPV4 => Verdict::from_word(leave4(skb)),
        IPV6 => Verdict::from_word(leave6(skb)),
        _ => return TC_ACT_UNSPEC,
    };
    if verdict.is(Kind::Drop) {
        verdict = Verdict::from_word(if ethertype == IPV6 {
            refused6(skb, HOOK as u32, verdict.word())
        } else {
            refused4(skb, HOOK as u32, verdict.word())
        });
    }
    decided(&ctx, HOOK, verdict);
    carry_out(skb, HOOK, verdict, ethertype == IPV6)
}
