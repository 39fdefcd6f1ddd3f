//! What the programs know about their node: `CONFIG`, fixed at load, and `STATE`, which may change while they run.

use crate::{Addr4, Addr6, Port};

/// How many addresses of each family `STATE` holds for the node itself.
///
/// Each packet from the uplink is compared with all of them without a lookup, so the list is short: a node has an
/// address or two a family. Further ones work as peers, but NodePorts do not answer on them.
pub const NODE_ADDRESSES: usize = 4;

/// Bits of [`Config::features`].
pub mod feature {
    /// Pods of other nodes are reached through the VXLAN device; without it, through the host's routes (`native`).
    pub const VXLAN: u32 = 1;
    /// Flows from pods to addresses outside the cluster leave with the node's address.
    pub const MASQUERADE: u32 = 2;
    /// New and closed connections are reported on `EVENTS`, not drops alone.
    pub const FLOW_EVENTS: u32 = 4;
}

/// Bits of [`State::flags`].
pub mod state_flag {
    /// `POLICY` could not hold everything: whatever finds no entry is denied as `PolicyTableFull`.
    pub const POLICY_FULL: u32 = 1;
    /// Conntrack is nearly full: new flows from the addresses in `HEAVY_SOURCES*` are refused.
    pub const CONNTRACK_PRESSURE: u32 = 2;
}

/// The `.rodata` global `CONFIG`: fixed when the programs are loaded, so the verifier removes what is off.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct Config {
    /// Bits of [`feature`].
    pub features: u32,
    /// The device that leads out of the node; replies of NodePorts leave there when the host has no better route.
    pub uplink_ifindex: u32,
    /// The collect-metadata VXLAN device; 0 without [`feature::VXLAN`].
    pub overlay_ifindex: u32,
    /// The VXLAN network identifier of the cluster.
    pub vni: u32,
    /// Size in bytes of the largest IP packet that fits the tunnel (the pods' MTU).
    pub overlay_mtu: u32,
    /// UDP destination port of the tunnel: such packets pass the uplink unread.
    pub vxlan_port: Port,
    /// First port that source NAT hands out, host order. The range lies below the NodePorts and the ephemeral range,
    /// so that it meets neither the node's listeners nor its own connections.
    pub snat_first: u16,
    /// Ports from `snat_first` on that source NAT hands out, minus one. One less than a power of two.
    pub snat_mask: u16,
    /// First NodePort, host order.
    pub node_port_first: u16,
    /// Last NodePort (inclusive), host order.
    pub node_port_last: u16,
    /// Zero.
    pub reserved: [u16; 9],
}

impl Config {
    /// What holds where nothing else is said; the device indexes are the loader's to fill.
    pub const DEFAULT: Config = Config {
        features: feature::VXLAN | feature::MASQUERADE | feature::FLOW_EVENTS,
        uplink_ifindex: 0,
        overlay_ifindex: 0,
        vni: 0x62_6f,
        overlay_mtu: 1450,
        vxlan_port: Port::new(8472),
        snat_first: 10_240,
        snat_mask: 16_383,
        node_port_first: 30_000,
        node_port_last: 32_767,
        reserved: [0; 9],
    };
}

impl Default for Config {
    fn default() -> Self {
        Config::DEFAULT
    }
}

/// The only element of `STATE`: what the agent may change while the programs run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct State {
    /// Policy epoch. Move it after the maps hold a changed policy, label or peer: each flow then has its policy
    /// evaluated once more. Never 0.
    pub epoch: u32,
    /// Bits of [`state_flag`].
    pub flags: u32,
    /// Cookie of the node's own network namespace (`SO_NETNS_COOKIE`); the kernel's own notion of "host" is the machine.
    pub netns_cookie: u64,
    /// The node's IPv4 addresses, unused ones 0; the first is what masquerade uses.
    pub node4: [Addr4; NODE_ADDRESSES],
    /// The node's IPv6 addresses, unused ones 0; the first is what masquerade uses.
    pub node6: [Addr6; NODE_ADDRESSES],
    /// First address of the node's IPv4 pod CIDR: the source of NodePort and hairpin SNAT.
    pub overlay4: Addr4,
    /// Zero.
    pub reserved: [u32; 3],
    /// First address of the node's IPv6 pod CIDR.
    pub overlay6: Addr6,
}
