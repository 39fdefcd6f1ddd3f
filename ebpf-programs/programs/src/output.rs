//! What a verdict makes the kernel do with a packet.

use core::mem::{MaybeUninit, size_of};

use abi::{Hook, MetricValue, Node, Reason, metric, node_flag};
use aya_ebpf::bindings::{
    __sk_buff, BPF_F_TUNINFO_IPV6, BPF_F_ZERO_CSUM_TX, TC_ACT_SHOT, TC_ACT_UNSPEC, bpf_fib_lookup,
    bpf_redir_neigh, bpf_tunnel_key,
};
use aya_ebpf::helpers::{
    bpf_fib_lookup as fib_lookup, bpf_redirect, bpf_redirect_neigh, bpf_redirect_peer, bpf_skb_change_type,
    bpf_skb_set_tunnel_key,
};
use datapath::{Family, Kind, L3, Packet, Shared, Tables, V4, V6, Verdict, get};

use crate::maps::METRICS;
use crate::packet::Tc;
use crate::tables::Maps;

/// `skb->pkt_type` of a packet that is for this host.
const PACKET_HOST: u32 = 0;
/// Hop limit of the tunnel's outer header.
const TUNNEL_HOPS: u8 = 64;
/// Address families, as sockets number them.
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// `bpf_fib_lookup` found the way; without a known neighbour, which `bpf_redirect_neigh` then resolves.
const FIB_SUCCESS: i64 = 0;
const FIB_NO_NEIGHBOUR: i64 = 7;

/// Carries a verdict out: the program's return value. `v6`: the packet's family.
#[inline(always)]
pub fn carry_out(skb: *mut __sk_buff, hook: Hook, verdict: Verdict, v6: bool) -> i32 {
    leave_trace(skb, verdict);
    let length = Tc(skb).length().wrapping_sub(L3);
    if verdict.is(Kind::Drop) {
        count(verdict.argument() >> 24, hook, length);
        return TC_ACT_SHOT;
    }
    if verdict.is(Kind::Answer) {
        count(verdict.argument() >> 24, hook, length);
        // SAFETY: a helper that takes numbers.
        return unsafe { bpf_redirect(Tc(skb).ifindex(), 0) as i32 };
    }
    count(metric::FORWARDED, hook, length);
    if verdict.is(Kind::Pod) {
        to_this_host(skb, hook);
        // SAFETY: as above.
        return unsafe { bpf_redirect_peer(verdict.argument(), 0) as i32 };
    }
    if verdict.is(Kind::Tunnel) || verdict.is(Kind::Route) {
        let action = if verdict.is(Kind::Tunnel) {
            encapsulate(skb, verdict.argument())
        } else if v6 {
            route6(skb)
        } else {
            route4(skb)
        };
        if action == TC_ACT_SHOT {
            count(Reason::Output as u32, hook, length);
        }
        return action;
    }
    if verdict.is(Kind::Host) {
        to_this_host(skb, hook);
    }
    TC_ACT_UNSPEC
}

/// Leaves the verdict in the packet's control block, where a program behind this one, and BPF_PROG_TEST_RUN, can read
/// it: the return value does not say where a packet goes.
#[inline(always)]
fn leave_trace(skb: *mut __sk_buff, verdict: Verdict) {
    // SAFETY: the context is valid as long as the program runs.
    unsafe {
        core::ptr::addr_of_mut!((*skb).cb[0]).write_volatile(verdict.kind());
        core::ptr::addr_of_mut!((*skb).cb[1]).write_volatile(verdict.argument());
    }
}

/// What came out of a tunnel, or over the node's own pair, carries another device's link address.
#[inline(always)]
fn to_this_host(skb: *mut __sk_buff, hook: Hook) {
    if hook as u8 != Hook::PodEgress as u8 {
        // SAFETY: the context is valid. It fails only for types that do not occur on input.
        unsafe { bpf_skb_change_type(skb, PACKET_HOST) };
    }
}

/// A frame that is not IP: dropped and counted, for there is no flow to report.
#[inline(always)]
pub fn not_ip(skb: *mut __sk_buff, hook: Hook) -> i32 {
    count(Reason::NotIp as u32, hook, Tc(skb).length().wrapping_sub(L3));
    TC_ACT_SHOT
}

#[inline(always)]
fn count(reason: u32, hook: Hook, length: u32) {
    let Some(value) = METRICS.get_ptr_mut(metric::index_of(reason, hook as u32)) else { return };
    let value: *mut MetricValue = value;
    // SAFETY: per-CPU memory; the program does not move to another CPU.
    unsafe {
        (*value).packets += 1;
        (*value).bytes += length as u64;
    }
}

/// Through the VXLAN device to a node.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn encapsulate(skb: *mut __sk_buff, node: u32) -> i32 {
    let config = Tables::<V4>::config(&Maps);
    let Some(node) = Tables::<V4>::node(&Maps, node) else { return TC_ACT_SHOT };
    let mut key = MaybeUninit::<bpf_tunnel_key>::zeroed();
    // SAFETY: all zero is a key; the fields written are integers.
    let flags = unsafe { address_tunnel(&mut *key.as_mut_ptr(), node, get!(config.vni)) };
    // SAFETY: the key is initialised and its size is given.
    let result =
        unsafe { bpf_skb_set_tunnel_key(skb, key.as_mut_ptr(), size_of::<bpf_tunnel_key>() as u32, flags) };
    if result != 0 {
        return TC_ACT_SHOT;
    }
    // SAFETY: a helper that takes numbers.
    unsafe { bpf_redirect(get!(config.overlay_ifindex), 0) as i32 }
}

/// Fills the outer header's parameters; gives the helper's flags.
#[inline(always)]
fn address_tunnel(key: &mut bpf_tunnel_key, node: Shared<'_, Node>, vni: u32) -> u64 {
    key.tunnel_id = vni;
    key.tunnel_ttl = TUNNEL_HOPS;
    if get!(node.flags) & node_flag::V6 != 0 {
        key.__bindgen_anon_1.remote_ipv6 =
            [get!(node.address[0]), get!(node.address[1]), get!(node.address[2]), get!(node.address[3])];
        return BPF_F_TUNINFO_IPV6 as u64;
    }
    // The helper takes IPv4 in the host's order.
    key.__bindgen_anon_1.remote_ipv4 = u32::from_be(get!(node.address[0]));
    BPF_F_ZERO_CSUM_TX as u64
}

/// Out by the host's routes, past its stack: its stack would not take a packet from a device that says it is from the
/// host itself.
#[inline(always)]
fn route<F: Family>(skb: *mut __sk_buff) -> i32 {
    let mut lookup = MaybeUninit::<bpf_fib_lookup>::zeroed();
    // SAFETY: all zero is a request; the fields written are integers.
    let request = unsafe { &mut *lookup.as_mut_ptr() };
    let packet = Tc(skb);
    let (Some(source), Some(destination)) =
        (packet.read::<F::Address>(L3 + F::SOURCE), packet.read::<F::Address>(L3 + F::DESTINATION))
    else {
        return TC_ACT_SHOT;
    };
    request.family = if F::VERSION == 6 { AF_INET6 } else { AF_INET };
    request.ifindex = packet.ifindex();
    request.__bindgen_anon_3.ipv6_src = datapath::Address::words(&source);
    request.__bindgen_anon_4.ipv6_dst = datapath::Address::words(&destination);
    // SAFETY: the request is initialised and its size is given.
    let result = unsafe { fib_lookup(skb.cast(), request, size_of::<bpf_fib_lookup>() as i32, 0) };
    if result == FIB_SUCCESS || result == FIB_NO_NEIGHBOUR {
        return towards(request);
    }
    let config = Tables::<V4>::config(&Maps);
    // SAFETY: without parameters the helper asks the host's routes itself.
    unsafe { bpf_redirect_neigh(get!(config.uplink_ifindex), core::ptr::null_mut(), 0, 0) as i32 }
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn route4(skb: *mut __sk_buff) -> i32 {
    route::<V4>(skb)
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn route6(skb: *mut __sk_buff) -> i32 {
    route::<V6>(skb)
}

/// To the neighbour that a lookup found.
#[inline(always)]
fn towards(found: &bpf_fib_lookup) -> i32 {
    let mut next = MaybeUninit::<bpf_redir_neigh>::zeroed();
    // SAFETY: all zero is a neighbour; the fields written are integers, and both views of the unions are.
    unsafe {
        let hop = &mut *next.as_mut_ptr();
        hop.nh_family = found.family as u32;
        hop.__bindgen_anon_1.ipv6_nh = found.__bindgen_anon_4.ipv6_dst;
        bpf_redirect_neigh(found.ifindex, next.as_mut_ptr(), size_of::<bpf_redir_neigh>() as i32, 0) as i32
    }
}
