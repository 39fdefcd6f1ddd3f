//! A small cluster as one of its nodes sees it, in either family: what tables of packets are about.

use std::hash::Hash;
use std::net::{Ipv4Addr, Ipv6Addr};

use abi::{
    Addr4, Addr6, Backend, CidrKey, Endpoint, Mac, Node, Peer, PolicyEntry, PolicyKey, Port, PortRange,
    Service, ServiceKey, State, class, peer_flag, policy_id, protocol, scope, verdict,
};

use super::frame::{Fragment, Frame, Transport, sum_bytes, words};
use super::{Memory, Names};
use crate::checksum::fold;
use crate::family::{Family, V4, V6};
use crate::packet::{L3, Packet};

/// A family with what only the host needs: headers as bytes, addresses as text.
pub trait HostFamily: Family<Address: Hash + core::fmt::Debug> {
    /// Types of echo and echo reply.
    const ECHO: [u8; 2];
    /// Length of the longest prefix.
    const BITS: u32;
    /// The address of a place in the test cluster: (network, host).
    fn place(network: u8, host: u8) -> Self::Address;
    /// An address from words.
    fn from_words(words: [u32; 4]) -> Self::Address;
    /// An address as people write it.
    fn show(words: [u32; 4]) -> String;
    /// The network header in front of `length` octets of transport.
    fn header_bytes(frame: &Frame, protocol: u8, length: usize) -> Vec<u8>;
    /// Takes the network header apart: the frame so far, the protocol, the rest.
    fn parse_header(packet: &[u8]) -> Option<(Frame, u8, &[u8])>;
    /// Sets the node's addresses.
    fn set_state(state: &mut State, node: Self::Address, overlay: Self::Address);
}

/// A frame of which only the ends are known.
fn bare(source: [u32; 4], destination: [u32; 4], fragment: Fragment) -> Frame {
    Frame {
        source,
        destination,
        source_port: Port(0),
        destination_port: Port(0),
        transport: Transport::Opaque { protocol: 0 },
        body: super::Body::Octets(0),
        fragment,
        wrong: Vec::new(),
    }
}

impl HostFamily for V4 {
    const ECHO: [u8; 2] = [8, 0];
    const BITS: u32 = 32;

    fn place(network: u8, host: u8) -> Addr4 {
        Addr4::from(match network {
            OUTSIDE => Ipv4Addr::new(203, 0, 113, host),
            NODES => Ipv4Addr::new(192, 168, 0, host),
            SERVICES => Ipv4Addr::new(10, 96, 0, host),
            pods => Ipv4Addr::new(10, 244, pods, host),
        })
    }

    fn from_words(words: [u32; 4]) -> Addr4 {
        Addr4(words[0])
    }

    fn show(words: [u32; 4]) -> String {
        Ipv4Addr::from(Addr4(words[0])).to_string()
    }

    fn header_bytes(frame: &Frame, protocol: u8, length: usize) -> Vec<u8> {
        let mut bytes = vec![0x45, 0];
        bytes.extend((20 + length as u16).to_be_bytes());
        bytes.extend(frame.fragment.id.to_be_bytes());
        bytes.extend(frame.fragment.place.to_be_bytes());
        bytes.extend([64, protocol, 0, 0]);
        bytes.extend(frame.source[0].to_ne_bytes());
        bytes.extend(frame.destination[0].to_ne_bytes());
        let checksum = !(sum_bytes(&bytes) as u16);
        bytes[10..12].copy_from_slice(&checksum.to_ne_bytes());
        bytes
    }

    fn parse_header(packet: &[u8]) -> Option<(Frame, u8, &[u8])> {
        let header = packet.get(..20)?;
        let length = (header[0] & 15) as usize * 4;
        let word =
            |at: usize| u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let half = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
        let fragment = Fragment { id: half(4), place: half(6) };
        let mut frame = bare([word(12), 0, 0, 0], [word(16), 0, 0, 0], fragment);
        if fold(sum_bytes(packet.get(..length)?)) != 0xffff {
            frame.wrong.push("header checksum");
        }
        Some((frame, header[9], &packet[length..]))
    }

    fn set_state(state: &mut State, node: Addr4, overlay: Addr4) {
        state.node4[0] = node;
        state.overlay4 = overlay;
    }
}

impl HostFamily for V6 {
    const ECHO: [u8; 2] = [128, 129];
    const BITS: u32 = 128;

    fn place(network: u8, host: u8) -> Addr6 {
        let (network, host) = (network as u16, host as u16);
        Addr6::from(match network as u8 {
            OUTSIDE => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, host),
            NODES => Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, host),
            SERVICES => Ipv6Addr::new(0xfd00, 96, 0, 0, 0, 0, 0, host),
            _ => Ipv6Addr::new(0xfd00, 244, network, 0, 0, 0, 0, host),
        })
    }

    fn from_words(words: [u32; 4]) -> Addr6 {
        Addr6(words)
    }

    fn show(words: [u32; 4]) -> String {
        Ipv6Addr::from(Addr6(words)).to_string()
    }

    fn header_bytes(frame: &Frame, protocol: u8, length: usize) -> Vec<u8> {
        let mut bytes = vec![0x60, 0, 0, 0];
        bytes.extend((length as u16).to_be_bytes());
        bytes.extend([protocol, 64]);
        bytes.extend(Addr6(frame.source).octets());
        bytes.extend(Addr6(frame.destination).octets());
        bytes
    }

    fn parse_header(packet: &[u8]) -> Option<(Frame, u8, &[u8])> {
        let header: [u8; 40] = packet.get(..40)?.try_into().ok()?;
        let mut bytes = header.to_vec();
        bytes.splice(0..0, [0; L3 as usize]);
        let read = super::Bytes::new(bytes, 0);
        let frame =
            bare(read.read(L3 + Self::SOURCE)?, read.read(L3 + Self::DESTINATION)?, Fragment::default());
        Some((frame, header[6], &packet[40..]))
    }

    fn set_state(state: &mut State, node: Addr6, overlay: Addr6) {
        state.node6[0] = node;
        state.overlay6 = overlay;
    }
}

/// Networks of the test cluster beside the nodes' pod CIDRs, which are 1 and 2.
const OUTSIDE: u8 = 0;
const NODES: u8 = 100;
const SERVICES: u8 = 101;

/// Classes of the test cluster's peers.
const CLASS_PODS: u32 = class::FIRST;
/// Class of pods that `policy` lets in.
const CLASS_FRIENDS: u32 = class::FIRST + 1;
/// Class of other nodes.
const CLASS_NODES: u32 = class::FIRST + 2;

/// The policy of pod `guarded`: friends to TCP 8080 to 8090, nodes to anything, nobody else.
pub const GUARD: u32 = policy_id::FIRST;
/// The policy of pod `tied`: to pods at TCP 80 and UDP 53 only.
pub const TIE: u32 = policy_id::FIRST + 1;

/// A cluster of two nodes; the tables are those of the first.
///
/// Pods here: `a` and `b` (no policies), `friend`, `guarded` (ingress policy), `tied` (egress policy), `new` (policy not
/// compiled). Elsewhere: `r` on the other node, `ghost` unknown, `world` and `router` outside. Nodes: `node` and
/// `overlay`, `node2` and `overlay2`. Services: `web` (80 to `b`:8080, NodePort 30080), `far` (80 to `r`:8080, NodePort
/// 30081), `self` (80 to `a`:8080), `host` (443 to `node`:6443, NodePort 30082), `ext` (80 to `world`:8080), `none` (80,
/// no backend, NodePort 30083), `here` (NodePort 30084, Local, only `r` serves).
pub struct World<F: HostFamily> {
    /// The first node's tables.
    pub tables: Memory<F>,
    /// What addresses are called.
    pub names: Names,
}

/// Devices of the first node. Pods' links are [`PODS`] and their address's last octet.
pub const UPLINK: u32 = 102;
/// The VXLAN device.
pub const OVERLAY: u32 = 103;
/// `bowsprit_net`.
pub const NET: u32 = 104;
/// See [`UPLINK`].
pub const PODS: u32 = 100;

/// Underlay address of the second node, as `NODES` has it.
pub const NODE2_UNDERLAY: [u32; 4] = [u32::from_ne_bytes([192, 168, 0, 2]), 0, 0, 0];

impl<F: HostFamily> Default for World<F> {
    fn default() -> Self {
        let mut world = World { tables: Memory::default(), names: Names::default() };
        world.addresses();
        world.pods();
        world.peers();
        world.policies();
        world.services();
        world
    }
}

impl<F: HostFamily> World<F> {
    /// The address with a name.
    pub fn address(&self, name: &str) -> F::Address {
        F::from_words(self.names.address(name))
    }

    /// The device of a local pod.
    pub fn ifindex(&self, name: &str) -> u32 {
        self.tables.endpoints.get(&self.address(name)).map_or(0, |endpoint| endpoint.ifindex)
    }

    fn call(&mut self, name: &str, network: u8, host: u8) {
        self.names.add(name, words::<F>(F::place(network, host)));
    }

    fn addresses(&mut self) {
        for (name, network, host) in [
            ("world", OUTSIDE, 9),
            ("router", OUTSIDE, 1),
            ("node", NODES, 1),
            ("node2", NODES, 2),
            ("overlay", 1, 1),
            ("overlay2", 2, 1),
            ("r", 2, 10),
            ("ghost", 2, 99),
            ("gone", 1, 99),
            ("web", SERVICES, 10),
            ("far", SERVICES, 11),
            ("self", SERVICES, 12),
            ("host", SERVICES, 13),
            ("ext", SERVICES, 14),
            ("none", SERVICES, 15),
            ("nobody", SERVICES, 16),
        ] {
            self.call(name, network, host);
        }
        let mut state = State { epoch: 1, netns_cookie: 1, ..State::default() };
        F::set_state(&mut state, self.address("node"), self.address("overlay"));
        self.tables.state.put(0, state);
        let config = self.tables.config.get_mut();
        config.uplink_ifindex = UPLINK;
        config.overlay_ifindex = OVERLAY;
    }

    fn pods(&mut self) {
        let pods = [
            ("a", CLASS_PODS, policy_id::ALLOW, policy_id::ALLOW),
            ("b", CLASS_PODS, policy_id::ALLOW, policy_id::ALLOW),
            ("friend", CLASS_FRIENDS, policy_id::ALLOW, policy_id::ALLOW),
            ("guarded", CLASS_PODS, policy_id::ALLOW, GUARD),
            ("tied", CLASS_PODS, TIE, policy_id::ALLOW),
            ("new", CLASS_PODS, policy_id::UNSET, policy_id::UNSET),
        ];
        for (i, (name, class, egress_policy, ingress_policy)) in pods.into_iter().enumerate() {
            let host = 10 + i as u8;
            self.call(name, 1, host);
            let endpoint = Endpoint {
                ifindex: PODS + host as u32,
                class,
                egress_policy,
                ingress_policy,
                mac: Mac::new([2, 0, 0, 0, 1, host]),
                ..Endpoint::default()
            };
            self.tables.endpoints.put(self.address(name), endpoint);
            let peer = Peer { class, node: 0, flags: peer_flag::LOCAL };
            self.tables.peers.put(self.address(name), peer);
        }
    }

    fn peers(&mut self) {
        let node2 = Node { address: NODE2_UNDERLAY, flags: abi::node_flag::PRESENT, reserved: 0 };
        self.tables.nodes.put(2, node2);
        let here = peer_flag::NODE | peer_flag::LOCAL;
        for (name, class, node, flags) in [
            ("node", class::SELF_NODE, 0, here),
            ("overlay", class::SELF_NODE, 0, here),
            ("node2", CLASS_NODES, 2, peer_flag::NODE),
            ("overlay2", CLASS_NODES, 2, peer_flag::NODE),
            ("r", CLASS_PODS, 2, 0),
        ] {
            self.tables.peers.put(self.address(name), Peer { class, node, flags });
        }
        for (network, node, flags, class) in [
            (1, 0, peer_flag::POD_CIDR | peer_flag::LOCAL, class::UNKNOWN_POD),
            (2, 2, peer_flag::POD_CIDR, class::UNKNOWN_POD),
            (SERVICES, 0, peer_flag::SERVICE_CIDR, class::WORLD),
        ] {
            // Networks of the test cluster differ in the octets before the last byte (IPv4) or half (IPv6).
            let prefix_len = if F::BITS == 32 { 24 } else { 64 };
            let key = CidrKey { prefix_len, address: F::place(network, 0) };
            self.tables.peer_cidrs.put(key, Peer { class, node, flags });
        }
    }

    fn policies(&mut self) {
        let range =
            |protocol, first, last| PortRange { protocol, verdict: verdict::ALLOW, first, last, rule: 1 };
        self.allow(GUARD, CLASS_FRIENDS, &[range(protocol::TCP, 8080, 8090)]);
        self.allow_all(GUARD, CLASS_NODES);
        self.allow(TIE, CLASS_PODS, &[range(protocol::TCP, 80, 80), range(protocol::UDP, 53, 53)]);
        self.allow(GUARD, class::ANY, &[]);
        self.allow(TIE, class::ANY, &[]);
    }

    /// Lets a class in at some ports, and nothing else of it.
    pub fn allow(&self, policy: u32, class: u32, ranges: &[PortRange]) {
        let mut entry =
            PolicyEntry { rule_base: policy * 100, count: ranges.len() as u32, ..Default::default() };
        entry.ranges[..ranges.len()].copy_from_slice(ranges);
        self.tables.policy.put(PolicyKey { policy, class }, entry);
    }

    /// Lets a class in everywhere.
    pub fn allow_all(&self, policy: u32, class: u32) {
        let entry =
            PolicyEntry { rule_base: policy * 100, default_verdict: verdict::ALLOW, ..Default::default() };
        self.tables.policy.put(PolicyKey { policy, class }, entry);
    }

    fn services(&mut self) {
        for (id, name, port, backend, target, node_port) in [
            (1, "web", 80, "b", 8080, 30080),
            (2, "far", 80, "r", 8080, 30081),
            (3, "self", 80, "a", 8080, 0),
            (4, "host", 443, "node", 6443, 30082),
            (5, "ext", 80, "world", 8080, 0),
            (6, "none", 80, "", 0, 30083),
        ] {
            let local = u32::from(["a", "b", "node"].contains(&backend));
            let ready = u32::from(!backend.is_empty());
            let service = Service { id, base: id * 10, ready, ready_local: local, ..Service::default() };
            if ready != 0 {
                self.backend(id * 10, backend, target, id);
            }
            self.front(Some(name), port, scope::INTERNAL, service);
            if node_port != 0 {
                self.front(None, node_port, scope::INTERNAL, service);
                self.front(None, node_port, scope::EXTERNAL, service);
            }
        }
        let local =
            Service { id: 7, base: 20, ready: 1, flags: abi::service_flag::LOCAL, ..Service::default() };
        self.front(None, 30084, scope::EXTERNAL, local);
    }

    /// Puts a backend into a slot.
    pub fn backend(&self, slot: u32, name: &str, port: u16, service: u32) {
        let backend = Backend { address: self.address(name), port: Port::new(port), flags: 0, service };
        self.tables.backends.put(slot, backend);
    }

    /// Puts a frontend up for TCP and UDP; no name: a NodePort.
    pub fn front(&self, name: Option<&str>, port: u16, scope: u8, service: Service) {
        let address = name.map(|name| self.address(name)).unwrap_or_default();
        for protocol in [protocol::TCP, protocol::UDP] {
            let key = ServiceKey { address, port: Port::new(port), protocol, scope };
            self.tables.services.put(key, service);
        }
    }
}
