//! Services: `SERVICES*`, `BACKENDS*`, `AFFINITY*`, and `FRAGMENTS*`.

use crate::Port;

/// IP protocol numbers.
pub mod protocol {
    /// ICMP for IPv4.
    pub const ICMP: u8 = 1;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// ICMP for IPv6.
    pub const ICMP6: u8 = 58;
    /// SCTP.
    pub const SCTP: u8 = 132;
}

/// [`ServiceKey::scope`].
pub mod scope {
    /// Asked by a pod or by the node itself.
    pub const INTERNAL: u8 = 0;
    /// Asked from outside, through the uplink.
    pub const EXTERNAL: u8 = 1;
}

/// Key of `SERVICES4`, `SERVICES6`: a frontend.
///
/// A NodePort is one frontend a scope, at the wildcard (all-zero) address; a ClusterIP is internal only; external
/// addresses are in both scopes, the internal one without the traffic policy.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
#[repr(C)]
pub struct ServiceKey<A> {
    /// Address asked for, or all zero for a NodePort.
    pub address: A,
    /// Port asked for.
    pub port: Port,
    /// IP protocol number.
    pub protocol: u8,
    /// One of [`scope`].
    pub scope: u8,
}

/// Bits of [`Service::flags`].
pub mod service_flag {
    /// Only backends on this node serve (internal/externalTrafficPolicy: Local).
    pub const LOCAL: u32 = 1;
    /// The source is translated even where it need not be, so that a reply returns through this node.
    pub const SNAT: u32 = 2;
}

/// Value of `SERVICES*`.
///
/// Its backends are a slice of `BACKENDS*` in this order: ready and local, ready and remote, terminating (but serving)
/// and local, terminating and remote. The terminating ones serve only while no ready one does.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct Service {
    /// Number of the service port, the same for all its frontends; never 0.
    pub id: u32,
    /// First slot in `BACKENDS*`.
    pub base: u32,
    /// Ready backends.
    pub ready: u32,
    /// Ready backends on this node.
    pub ready_local: u32,
    /// Terminating backends that still serve.
    pub terminating: u32,
    /// Terminating backends on this node that still serve.
    pub terminating_local: u32,
    /// Session affinity by client address: seconds a choice lasts, 0 for none.
    pub affinity_seconds: u32,
    /// Bits of [`service_flag`].
    pub flags: u32,
    /// Zero.
    pub reserved: u32,
}

/// Element of `BACKENDS4`, `BACKENDS6`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct Backend<A> {
    /// The pod's (or node's, or outside) address.
    pub address: A,
    /// The target port.
    pub port: Port,
    /// Zero.
    pub flags: u16,
    /// Id of the service that owns the slot, so that a stale slot is not taken for a member.
    pub service: u32,
}

/// Key of `AFFINITY4`, `AFFINITY6`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
#[repr(C)]
pub struct AffinityKey<A> {
    /// The client's address.
    pub client: A,
    /// [`Service::id`].
    pub service: u32,
}

/// Value of `AFFINITY*`. The backend is named by address: slots move with each change of the service.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct AffinityValue<A> {
    /// The backend's address.
    pub address: A,
    /// The backend's port.
    pub port: Port,
    /// Zero.
    pub reserved: u16,
    /// Last connection, in the unit of [`ConntrackEntry::last_seen`](crate::ConntrackEntry::last_seen).
    pub last_used: u32,
}

/// Key of `FRAGMENTS4`, `FRAGMENTS6`: what the fragments of one packet share.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
#[repr(C)]
pub struct FragmentKey<A> {
    /// Source address.
    pub source: A,
    /// Destination address.
    pub destination: A,
    /// Identification, as the packet has it.
    pub id: u32,
    /// IP protocol number.
    pub protocol: u32,
}

/// Value of `FRAGMENTS*`: what only the first fragment has.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct FragmentValue {
    /// Source port.
    pub source_port: Port,
    /// Destination port.
    pub destination_port: Port,
}
