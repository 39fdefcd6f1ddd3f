//! Types that cross the kernel boundary: map keys and values, events, drop reasons, names and sizes.
//!
//! The eBPF programs and the agent are built from this one crate, so a field has one definition. Every type is
//! `repr(C)`, has no padding that is not a named field, and holds only integers and arrays of them: the verifier, a
//! pinned map of an older agent and a ring buffer reader all see plain bytes. Anything that differs between IPv4 and
//! IPv6 is generic over the address ([`Addr4`], [`Addr6`]) and exists as two maps, `NAME4` and `NAME6`.
//!
//! Byte order: addresses and [`Port`] hold network byte order, as the packet has them; every other integer is in the
//! host's order. Change a layout, a name or the meaning of a number here and [`ABI_VERSION`] moves.
#![no_std]

mod address;
mod config;
mod conntrack;
mod endpoint;
mod event;
pub mod names;
mod policy;
mod reason;
mod service;
mod socket;
mod source;

pub use address::{Addr4, Addr6, Family, Mac, Port};
pub use config::{Config, NODE_ADDRESSES, State, feature, state_flag};
pub use conntrack::{ConntrackEntry, ConntrackKey, ct_flag, ct_protocol, tcp_state, timeout, via};
pub use endpoint::{CidrKey, Endpoint, GATEWAY_MAC, Node, Peer, PodNetns, class, node_flag, peer_flag};
pub use event::{Event, Hook, MetricValue, direction, event_kind, metric};
pub use policy::{
    POLICY_INLINE_RANGES, POLICY_RANGES_PER_ENTRY, PolicyEntry, PolicyKey, PortRange, policy_id, verdict,
};
pub use reason::{DropCode, Reason};
pub use service::{
    AffinityKey, AffinityValue, Backend, FragmentKey, FragmentValue, Service, ServiceKey, protocol, scope,
    service_flag,
};
pub use socket::{SockReverseKey, SockReverseValue};
pub use source::{SOURCES, source_id};

/// Names the directory of pinned maps; a loader that finds another number migrates instead of adopting.
pub const ABI_VERSION: u32 = 1;

/// Fixes the size of each type, so that no compiler, target or edit moves a field unseen, and lets the agent use it.
macro_rules! sizes {
    ($($type:ty = $size:expr),* $(,)?) => { $(
        const _: () = assert!(core::mem::size_of::<$type>() == $size);
        // SAFETY: repr(C), integers only, and the size is the sum of the named fields: every byte is initialised.
        #[cfg(feature = "user")]
        unsafe impl aya::Pod for $type {}
    )* };
}

sizes! {
    Addr4 = 4, Addr6 = 16, Port = 2, Mac = 6,
    ConntrackKey<Addr4> = 16, ConntrackKey<Addr6> = 40,
    ConntrackEntry<Addr4> = 96, ConntrackEntry<Addr6> = 120,
    Endpoint = 32, Peer = 12, CidrKey<Addr4> = 8, CidrKey<Addr6> = 20, Node = 24, PodNetns = 24,
    PolicyKey = 8, PortRange = 8, PolicyEntry = 64,
    ServiceKey<Addr4> = 8, ServiceKey<Addr6> = 20, Service = 36,
    Backend<Addr4> = 12, Backend<Addr6> = 24,
    AffinityKey<Addr4> = 8, AffinityKey<Addr6> = 20, AffinityValue<Addr4> = 12, AffinityValue<Addr6> = 24,
    FragmentKey<Addr4> = 16, FragmentKey<Addr6> = 40, FragmentValue = 4,
    SockReverseKey<Addr4> = 16, SockReverseKey<Addr6> = 28, SockReverseValue<Addr4> = 8, SockReverseValue<Addr6> = 20,
    Event = 144, MetricValue = 16, State = 128, Config = 48,
}
