//! Connections: `CONNTRACK4`, `CONNTRACK6`.
//!
//! A connection that no one translates has one entry. A translated one has two, each complete in itself, so that a
//! packet needs one lookup whichever way it goes: the *alias*, keyed by the tuple its initiator uses (client, service),
//! and the *main* entry, keyed by the tuple the responder sees (client or SNAT address, backend). Each carries the
//! other's addresses in `other_*`. Inserting the main entry with BPF_NOEXIST is also what claims a SNAT port: there
//! is no second table to keep in step, and the reply needs no second lookup.

use crate::{Mac, Port};

/// A connection's tuple with its two ends in a fixed order: `low` is the smaller (address as the map compares it, then
/// port). Both directions have the same key; [`ct_flag::ORIG_LOW`] says which end began.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
#[repr(C)]
pub struct ConntrackKey<A> {
    /// The smaller end's address.
    pub low: A,
    /// The greater end's address.
    pub high: A,
    /// The smaller end's port; for ICMP echo, the identifier.
    pub low_port: Port,
    /// The greater end's port; for ICMP echo, the identifier.
    pub high_port: Port,
    /// IP protocol number, and bits of [`ct_protocol`].
    pub protocol: u32,
}

/// Bits of [`ConntrackKey::protocol`] above the protocol number.
pub mod ct_protocol {
    /// The alias of a flow whose own tuple is taken by the main entry of a translated one.
    pub const CLASH: u32 = 1 << 8;
    /// For the moment in which a tuple goes from a connection that is over to a new one: nobody else takes it over.
    pub const TAKEN_OVER: u32 = 1 << 9;
}

/// What is known about a connection. Indexes of two-element arrays: 0 the initiator, 1 the responder.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct ConntrackEntry<A> {
    /// The initiator in the other entry's tuple (equal to this one's without translation).
    pub other_initiator: A,
    /// The responder in the other entry's tuple.
    pub other_responder: A,
    /// The initiator's port in the other entry's tuple.
    pub other_initiator_port: Port,
    /// The responder's port in the other entry's tuple.
    pub other_responder_port: Port,
    /// Bits of [`ct_flag`].
    pub flags: u32,
    /// Where each end is: a [`via`] word.
    pub via: [u32; 2],
    /// MAC of each end that is a local pod, else zero.
    pub mac: [Mac; 2],
    /// Peer class of each end when the verdict was taken.
    pub class: [u32; 2],
    /// Service id that translated it, 0 for none.
    pub service: u32,
    /// Policy epoch of the verdict.
    pub epoch: u32,
    /// Bits of [`tcp_state`].
    pub tcp: u32,
    /// Last packet: CLOCK_MONOTONIC nanoseconds >> [`timeout::CLOCK_SHIFT`].
    pub last_seen: u32,
    /// First packet, in the same unit.
    pub created: u32,
    /// Packets from each end.
    pub packets: [u64; 2],
    /// Bytes from each end, IP header included.
    pub bytes: [u64; 2],
}

/// Bits of [`ConntrackEntry::flags`].
pub mod ct_flag {
    /// The initiator is the key's `low` end.
    pub const ORIG_LOW: u32 = 1;
    /// Packets of the initiator that match this entry are rewritten to the other tuple.
    pub const ALIAS: u32 = 2;
    /// Packets of the responder that match this entry are rewritten to the other tuple.
    pub const NAT: u32 = 4;
    /// The flow leaves the cluster: `uplink_egress` gives it the node's address.
    pub const MASQUERADE: u32 = 8;
    /// The alias is applied by `uplink_egress` only, after the host has routed the packet.
    pub const AT_UPLINK: u32 = 16;
    /// Its end was reported on `EVENTS`, here or by the other entry.
    pub const CLOSE_REPORTED: u32 = 32;
    /// A main entry whose alias has [`ct_protocol::CLASH`](super::ct_protocol::CLASH) in its key.
    pub const CLASHED: u32 = 64;
}

/// Where an end of a connection is: kind in the top four bits, argument in the rest.
pub mod via {
    /// Outside the cluster, through the host's routes.
    pub const OUTSIDE: u32 = 0;
    /// A pod of this node; the argument is the ifindex of the host's side of its link.
    pub const POD: u32 = 1 << 28;
    /// Another node or a pod there; the argument is the index in `NODES`.
    pub const NODE: u32 = 2 << 28;
    /// This node itself.
    pub const HOST: u32 = 3 << 28;
    /// Nowhere: a pod address that no link of this node and no other node has. Never in an entry.
    pub const NOWHERE: u32 = 4 << 28;
    /// Bits of the kind.
    pub const KIND: u32 = 0xf << 28;
    /// Bits of the argument.
    pub const ARGUMENT: u32 = !KIND;
}

/// Bits of [`ConntrackEntry::tcp`].
pub mod tcp_state {
    /// The initiator sent FIN.
    pub const FIN_INITIATOR: u32 = 1;
    /// The responder sent FIN.
    pub const FIN_RESPONDER: u32 = 2;
    /// Either sent RST.
    pub const RST: u32 = 4;
    /// The initiator sent something other than its first SYN.
    pub const SEEN_INITIATOR: u32 = 8;
    /// The responder sent something.
    pub const SEEN_RESPONDER: u32 = 16;
    /// Any bit after which a SYN begins a new connection on the same tuple.
    pub const ENDING: u32 = FIN_INITIATOR | FIN_RESPONDER | RST;

    /// Whether the connection is over: reset, or finished by both ends. Join (`|`) alias and main entry first.
    pub const fn closed(tcp: u32) -> bool {
        tcp & RST != 0 || tcp & (FIN_INITIATOR | FIN_RESPONDER) == FIN_INITIATOR | FIN_RESPONDER
    }

    /// [`closed`] as 0 or 1, without a branch.
    pub const fn closed_bit(tcp: u32) -> u32 {
        ((tcp / RST) | ((tcp / FIN_INITIATOR) & (tcp / FIN_RESPONDER))) & 1
    }

    /// Whether both ends have spoken.
    pub const fn established(tcp: u32) -> bool {
        tcp & (SEEN_INITIATOR | SEEN_RESPONDER) == SEEN_INITIATOR | SEEN_RESPONDER
    }
}

/// How long the collector keeps an idle entry, in seconds; each is a default that the agent's configuration may change.
pub mod timeout {
    /// `last_seen` counts units of 2^30 ns (1.07 s): a shift instead of a division on each packet.
    pub const CLOCK_SHIFT: u32 = 30;
    /// A TCP connection that both ends use: longer than the two hours after which keepalives start.
    pub const TCP_ESTABLISHED: u32 = 8000;
    /// A TCP connection that was not answered yet: longer than a SYN's retransmissions.
    pub const TCP_SYN: u32 = 60;
    /// A TCP connection that is over: the last retransmissions of its FIN.
    pub const TCP_CLOSING: u32 = 10;
    /// UDP, SCTP, ICMP.
    pub const OTHER: u32 = 60;
}
