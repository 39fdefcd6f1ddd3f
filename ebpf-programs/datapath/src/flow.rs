//! One packet on its way through the datapath: what was parsed, and what was decided about it so far.

use abi::{ConntrackKey, Mac, Port};

use crate::address::Address;
use crate::bits::{less, mask, select};

/// Bits of [`Flow::shape`].
pub mod shape {
    /// The first of several fragments: it alone has a transport header.
    pub const FIRST_FRAGMENT: u32 = 1;
    /// A fragment without a transport header.
    pub const LATER_FRAGMENT: u32 = 2;
    /// The ports are in the packet, at the start of the transport header.
    pub const PORTS: u32 = 4;
    /// The transport checksum covers the addresses.
    pub const PSEUDO: u32 = 8;
    /// An ICMP error: it speaks of another packet.
    pub const ICMP_ERROR: u32 = 16;
    /// An ICMP echo: its identifier stands for both ports.
    pub const ECHO: u32 = 32;
    /// The sender forbids fragmentation.
    pub const DONT_FRAGMENT: u32 = 64;
}

/// Bits of [`Flow::decided`].
pub mod decided {
    /// The destination is translated.
    pub const DESTINATION: u32 = 1;
    /// The source is translated: a port must be claimed.
    pub const SOURCE: u32 = 2;
    /// The flow leaves the cluster under the node's address.
    pub const MASQUERADE: u32 = 4;
    /// The flow's own tuple belongs to the main entry of a translated flow.
    pub const CLASH: u32 = 8;
    /// The pod speaks to itself.
    pub const HAIRPIN: u32 = 16;
}

/// A packet being decided. It lives in per-CPU scratch; each step sets all that later steps read.
#[derive(Clone, Copy, Default, Debug)]
#[repr(C)]
pub struct Flow<A> {
    /// Source in the packet.
    pub source: A,
    /// Destination in the packet.
    pub destination: A,
    /// Source after translation.
    pub from: A,
    /// Destination after translation.
    pub to: A,
    /// Source port in the packet.
    pub source_port: Port,
    /// Destination port in the packet.
    pub destination_port: Port,
    /// Source port after translation.
    pub from_port: Port,
    /// Destination port after translation.
    pub to_port: Port,
    /// Offset of the transport header.
    pub l4: u32,
    /// Offset of the checksum in the transport header, 0 when there is none to keep.
    pub checksum: u32,
    /// IP protocol number.
    pub protocol: u32,
    /// Identification, of a fragment.
    pub packet_id: u32,
    /// TCP flags as the header has them, or the ICMP type.
    pub tcp: u32,
    /// Bits of [`shape`].
    pub shape: u32,
    /// Bits of [`decided`].
    pub decided: u32,
    /// Where the packet came from and goes to: `via` words.
    pub via: [u32; 2],
    /// Peer classes of source and destination.
    pub class: [u32; 2],
    /// Policy ids: what the source may send, what the destination may receive.
    pub policy: [u32; 2],
    /// `peer_flag` bits of source and destination.
    pub peer: [u32; 2],
    /// MACs of source and destination where they are local pods.
    pub mac: [Mac; 2],
    /// Service id, 0 for none.
    pub service: u32,
    /// Policy id that was asked last.
    pub judged_by: u32,
    /// Rule that decided.
    pub rule: u32,
    /// Which policy was asked last: `abi::direction`.
    pub judged: u32,
    /// Policy epoch of the decision.
    pub epoch: u32,
    /// Length of the packet without its link header.
    pub length: u32,
    /// For [`forget`](crate::bits::forget).
    pub scratch: u32,
    /// Key of the last lookup among connections: too large for the stack, in IPv6.
    pub looked_up: ConntrackKey<A>,
    /// Of an ICMP error, the packet it quotes.
    pub quoted: Quoted<A>,
}

/// The packet inside an ICMP error.
#[derive(Clone, Copy, Default, Debug)]
#[repr(C)]
pub struct Quoted<A> {
    /// Its source.
    pub source: A,
    /// Its destination.
    pub destination: A,
    /// Its source port, or echo identifier.
    pub source_port: Port,
    /// Its destination port, or echo identifier.
    pub destination_port: Port,
    /// IP protocol number.
    pub protocol: u32,
    /// Offset of its transport header.
    pub l4: u32,
}

/// TCP flag bits.
pub mod tcp {
    /// FIN.
    pub const FIN: u32 = 1;
    /// SYN.
    pub const SYN: u32 = 2;
    /// RST.
    pub const RST: u32 = 4;
    /// ACK.
    pub const ACK: u32 = 16;
}

impl<A: Address> Flow<A> {
    /// Whether all bits of `shape` are set.
    #[inline(always)]
    pub fn is(&self, shape: u32) -> bool {
        self.shape & shape == shape
    }

    /// Whether it is the first packet of a TCP connection.
    #[inline(always)]
    pub fn opens(&self) -> bool {
        let flags = self.tcp & (tcp::SYN | tcp::ACK | tcp::RST);
        // One comparison, not two.
        self.protocol << 8 | flags == (abi::protocol::TCP as u32) << 8 | tcp::SYN
    }

    /// Forgets earlier decisions: nothing is translated.
    #[inline(always)]
    pub fn untranslated(&mut self) {
        self.from = self.source;
        self.from_port = self.source_port;
        self.to = self.destination;
        self.to_port = self.destination_port;
        self.decided = 0;
        self.service = 0;
        self.judged_by = 0;
        self.rule = 0;
        self.judged = 0;
    }

    /// Key of the tuple in the packet, and 1 if its source is the key's `low` end.
    #[inline(always)]
    pub fn key(&self) -> (ConntrackKey<A>, u32) {
        key_of(&self.source, &self.destination, self.source_port, self.destination_port, self.protocol)
    }

    /// Key of the tuple after translation.
    #[inline(always)]
    pub fn translated_key(&self) -> (ConntrackKey<A>, u32) {
        key_of(&self.from, &self.to, self.from_port, self.to_port, self.protocol)
    }
}

/// The key of a tuple in either direction, and 1 if its source is the key's `low` end.
#[inline(always)]
pub fn key_of<A: Address>(
    source: &A,
    destination: &A,
    source_port: Port,
    destination_port: Port,
    protocol: u32,
) -> (ConntrackKey<A>, u32) {
    let (sport, dport) = (source_port.0 as u32, destination_port.0 as u32);
    let low = (source.less(destination) | source.same(destination) & less(sport, dport)) as u32;
    let chosen = mask(low);
    let key = ConntrackKey {
        low: A::select(chosen, *destination, *source),
        high: A::select(chosen, *source, *destination),
        low_port: Port(select(chosen, dport, sport) as u16),
        high_port: Port(select(chosen, sport, dport) as u16),
        protocol,
    };
    (key, low)
}

#[cfg(test)]
mod tests {
    use core::net::{Ipv4Addr, Ipv6Addr};

    use abi::{Addr4, Addr6};

    use proptest::prelude::*;

    use super::*;

    fn check<A: Address + core::fmt::Debug>(a: A, b: A, p: Port, q: Port) {
        let (forward, low_forward) = key_of(&a, &b, p, q, 6);
        let (back, low_back) = key_of(&b, &a, q, p, 6);
        assert_eq!(forward, back);
        if (a, p) != (b, q) {
            assert_eq!(low_forward + low_back, 1, "exactly one end is low");
        }
    }

    proptest! {
        #[test]
        fn both_directions_have_one_key(a: u32, b: u32, p: u16, q: u16) {
            check(Addr4::from(Ipv4Addr::from(a)), Addr4::from(Ipv4Addr::from(b)), Port::new(p), Port::new(q));
            check(Addr4(a), Addr4(a), Port::new(p), Port::new(q));
        }

        #[test]
        fn both_directions_have_one_key_in_ipv6(a: u128, b: u128, bit in 0u32..128, p: u16, q: u16) {
            let (a, b) = (Ipv6Addr::from(a), Ipv6Addr::from(b));
            check(Addr6::from(a), Addr6::from(b), Port::new(p), Port::new(q));
            let near = Ipv6Addr::from(u128::from(a) ^ (1 << bit));
            check(Addr6::from(a), Addr6::from(near), Port::new(p), Port::new(q));
        }
    }
}
