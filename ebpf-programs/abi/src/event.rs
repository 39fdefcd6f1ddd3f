//! What the programs report: `EVENTS` (ring buffer) and `METRICS` (per-CPU counters).

use crate::{Port, Reason};

/// Where a packet or socket was seen.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[repr(u8)]
pub enum Hook {
    /// Sent by a pod.
    PodEgress = 1,
    /// Sent by the node's own processes to pods.
    NodeEgress = 2,
    /// Came in on the uplink.
    UplinkIngress = 3,
    /// Leaves by the uplink.
    UplinkEgress = 4,
    /// Came out of the tunnel.
    OverlayIngress = 5,
    /// A socket connects or sends.
    Socket = 6,
}

impl Hook {
    /// All of them, by number.
    pub const ALL: &'static [Hook] = &[
        Hook::PodEgress,
        Hook::NodeEgress,
        Hook::UplinkIngress,
        Hook::UplinkEgress,
        Hook::OverlayIngress,
        Hook::Socket,
    ];

    /// The hook with this number.
    pub fn from_number(number: u8) -> Option<Self> {
        Hook::ALL.iter().copied().find(|hook| *hook as u8 == number)
    }
}

/// [`Event::kind`].
pub mod event_kind {
    /// A connection began.
    pub const NEW: u8 = 1;
    /// A TCP connection ended (reset, or finished by both ends); carries its counters.
    pub const CLOSE: u8 = 2;
    /// A packet was dropped, or a socket refused.
    pub const DROP: u8 = 3;
}

/// Which way something was decided or counted, from the pods' point of view.
pub mod direction {
    /// From a pod or the node.
    pub const EGRESS: u8 = 0;
    /// To a pod or the node.
    pub const INGRESS: u8 = 1;
}

/// One record of `EVENTS`. Addresses are 16 octets in network order; IPv4 fills the first four.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct Event {
    /// CLOCK_MONOTONIC nanoseconds.
    pub time_ns: u64,
    /// One of [`event_kind`].
    pub kind: u8,
    /// A [`Hook`].
    pub hook: u8,
    /// 4 or 6.
    pub family: u8,
    /// IP protocol number.
    pub protocol: u8,
    /// TCP flags of the packet as its header has them, or the ICMP type.
    pub tcp_flags: u8,
    /// Which policy decided: one of [`direction`].
    pub direction: u8,
    /// Zero.
    pub reserved: u16,
    /// Source of the packet; in NEW and CLOSE, the initiator as it calls itself.
    pub source: [u32; 4],
    /// Destination of the packet; in NEW and CLOSE, what the initiator asked for (the service).
    pub destination: [u32; 4],
    /// Who serves: the destination after translation, equal to `destination` without one.
    pub backend: [u32; 4],
    /// Port of `source`.
    pub source_port: Port,
    /// Port of `destination`.
    pub destination_port: Port,
    /// Port of `backend`.
    pub backend_port: Port,
    /// Zero.
    pub reserved2: u16,
    /// In DROP a [`DropCode`](crate::DropCode): why, file and line. Else 0.
    pub drop: u32,
    /// Device where the packet was seen; 0 for sockets.
    pub ifindex: u32,
    /// Length of the packet in bytes, without the link header.
    pub length: u32,
    /// Peer class of the source, 0 when it was not looked up.
    pub source_class: u32,
    /// Peer class of the backend, 0 when it was not looked up.
    pub destination_class: u32,
    /// Policy id that decided, 0 when none was asked.
    pub policy: u32,
    /// Rule of that policy.
    pub rule: u32,
    /// Service id, 0 for none.
    pub service: u32,
    /// Policy epoch of the decision.
    pub epoch: u32,
    /// Zero.
    pub reserved3: u32,
    /// In CLOSE: packets of the initiator and of the responder, summed over both entries of a translated connection.
    pub packets: [u64; 2],
    /// In CLOSE: bytes, likewise.
    pub bytes: [u64; 2],
}

/// Element of `METRICS` (per CPU). The index is [`metric::index`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct MetricValue {
    /// Packets (for [`metric::LOST_EVENTS`], events).
    pub packets: u64,
    /// Bytes, without link headers.
    pub bytes: u64,
}

/// Indexes of `METRICS`.
pub mod metric {
    use super::{Hook, Reason};

    /// Hooks a reason is counted for; a power of two so that the index is a shift.
    const HOOKS: u32 = 8;
    /// What was forwarded or passed, in place of a reason's number.
    pub const FORWARDED: u32 = 0;
    /// Index of the events that found the ring buffer full.
    pub const LOST_EVENTS: u32 = 1;
    /// Elements of `METRICS`: reasons are a byte, and there are far fewer than 64.
    pub const COUNT: u32 = 64 * HOOKS;
    const _: () = assert!(Reason::ALL.len() < 64 && Hook::ALL.len() < HOOKS as usize);
    // Hook numbers begin at 1, so indexes 0 and `HOOKS * n` are free; 1 would be PodEgress of FORWARDED.
    const _: () = assert!(index_of(FORWARDED, Hook::PodEgress as u32) != LOST_EVENTS);

    /// Index for a reason's number (or [`FORWARDED`]) and a hook's.
    pub const fn index_of(reason: u32, hook: u32) -> u32 {
        reason * HOOKS + hook + 1
    }

    /// Index of a drop reason at a hook.
    pub const fn index(reason: Reason, hook: Hook) -> u32 {
        index_of(reason as u32, hook as u32)
    }
}
