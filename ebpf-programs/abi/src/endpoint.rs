//! Who has an address: `ENDPOINTS*` (pods here), `PEERS*` (pods and nodes anywhere), `PEER_CIDRS*` (the rest),
//! `NODES` and `POD_NETNS`.

use crate::{Addr4, Addr6, Mac};

/// MAC address of the host's side of every pod link, and of the gateway's permanent neighbour entry inside the pod.
/// Links are point to point, so one locally administered address serves all.
pub const GATEWAY_MAC: Mac = Mac::new([0x02, 0x62, 0x6f, 0x77, 0x73, 0x01]);

/// Peer classes with a fixed number. The compiler hands out the others from [`class::FIRST`] on.
pub mod class {
    /// In a [`PolicyKey`](crate::PolicyKey): the entry for every class that has none of its own.
    pub const ANY: u32 = 0;
    /// An address that no pod, node or prefix of `PEER_CIDRS*` matches.
    pub const WORLD: u32 = 1;
    /// An address in a pod CIDR that `PEERS*` does not know (yet).
    pub const UNKNOWN_POD: u32 = 2;
    /// An address of this node.
    pub const SELF_NODE: u32 = 3;
    /// First number for classes that policies make.
    pub const FIRST: u32 = 16;
}

/// Value of `ENDPOINTS4`, `ENDPOINTS6`; the key is the pod's address.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct Endpoint {
    /// The host's side of the pod's link, in the node's namespace.
    pub ifindex: u32,
    /// Zero.
    pub flags: u32,
    /// Class of this pod as a peer of others.
    pub class: u32,
    /// Policy id for what it sends.
    pub egress_policy: u32,
    /// Policy id for what it receives.
    pub ingress_policy: u32,
    /// MAC of the pod's own side.
    pub mac: Mac,
    /// Zero.
    pub reserved: [u16; 3],
}

/// Bits of [`Peer::flags`].
pub mod peer_flag {
    /// A node's address, not a pod's: NodePorts answer there.
    pub const NODE: u32 = 1;
    /// It is on this node.
    pub const LOCAL: u32 = 2;
    /// A prefix of pod addresses: what `PEERS*` does not know there is [`class::UNKNOWN_POD`](super::class).
    pub const POD_CIDR: u32 = 4;
    /// A prefix of service addresses: what `SERVICES*` does not know there is answered, not routed.
    pub const SERVICE_CIDR: u32 = 8;
    /// A prefix to which pods speak with their own address, without masquerade.
    pub const NO_MASQUERADE: u32 = 16;
}

/// Value of `PEERS4`, `PEERS6` (key: the address) and of `PEER_CIDRS4`, `PEER_CIDRS6` (key: [`CidrKey`]).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct Peer {
    /// Peer class; never [`class::ANY`].
    pub class: u32,
    /// Index in `NODES` of the node it is on; 0 for this node and for what is outside.
    pub node: u32,
    /// Bits of [`peer_flag`].
    pub flags: u32,
}

/// Key of `PEER_CIDRS*`, laid out as the kernel's LPM trie and aya's `lpm_trie::Key` have it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
#[repr(C)]
pub struct CidrKey<A> {
    /// Leading bits that count.
    pub prefix_len: u32,
    /// The prefix; bits behind it are 0.
    pub address: A,
}

/// Bits of [`Node::flags`].
pub mod node_flag {
    /// `address` is IPv6.
    pub const V6: u32 = 1;
    /// The element is in use.
    pub const PRESENT: u32 = 2;
}

/// Element of `NODES`: how another node is reached. Index 0 is never used.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct Node {
    /// Its underlay address, network order; IPv4 in the first word.
    pub address: [u32; 4],
    /// Bits of [`node_flag`].
    pub flags: u32,
    /// Zero.
    pub reserved: u32,
}

/// Which pod a network namespace is: value of `POD_NETNS` (key: the namespace's cookie as u64).
///
/// The socket hooks know only the cookie; affinity is by the pod's address, so that both paths share its entries.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct PodNetns {
    /// The pod's IPv4 address, or 0.
    pub address4: Addr4,
    /// Zero.
    pub flags: u32,
    /// The pod's IPv6 address, or 0.
    pub address6: Addr6,
}
