//! The two address families: where their headers keep things.

use abi::{Addr4, Addr6, PodNetns, State, protocol};

use crate::address::Address;
use crate::checksum::{fold, sum_words, update};
use crate::flow::{Flow, Quoted, shape};
use crate::get;
use crate::packet::{HEADERS_MAX, L3, Packet, Plain};
use crate::tables::Shared;
use crate::verdict::{Step, need, refuse};

/// An address family. One code path serves both; this is all in which they differ.
pub trait Family: Copy + Default + 'static {
    /// Its addresses.
    type Address: Address;
    /// 4 or 6, as events carry it.
    const VERSION: u8;
    /// Its ICMP's protocol number.
    const ICMP: u8;
    /// Offsets of source and destination in the network header.
    const SOURCE: u32;
    /// As above.
    const DESTINATION: u32;
    /// Length of the network header without options.
    const HEADER: u32;
    /// Whether ICMP's checksum covers the addresses.
    const ICMP_PSEUDO: bool;

    /// What an ICMP error quotes: the network header and eight octets.
    type Quote: Plain;
    /// "Nobody listens on this port".
    const UNREACHABLE: IcmpError;
    /// "It does not fit, and must not be fragmented".
    const TOO_BIG: IcmpError;

    /// Reads the network header into the flow.
    fn parse<P: Packet>(packet: &P, flow: &mut Flow<Self::Address>) -> Step;
    /// Corrects the network header's own checksum after an address changed.
    fn adjust_header<P: Packet>(packet: &mut P, l3: u32, difference: u32) -> Option<()>;
    /// Reads source, destination, protocol and transport offset of the packet that an ICMP error quotes at `l3`.
    fn parse_quoted<P: Packet>(packet: &P, l3: u32, flow: &mut Quoted<Self::Address>) -> Step;
    /// Writes a network header without options in front of `length` octets of transport.
    fn write_header<P: Packet>(
        packet: &mut P,
        source: &Self::Address,
        destination: &Self::Address,
        protocol: u8,
        length: u32,
    ) -> Option<()>;
    /// Sum of a quote's half-words.
    fn quote_sum(quote: &Self::Quote) -> u32;
    /// Sum of the pseudo-header; the order of the ends does not matter.
    #[inline(always)]
    fn pseudo_sum(flow: &Flow<Self::Address>, protocol: u8, length: u32) -> u32 {
        let numbers = (protocol as u16).to_be() as u32 + (length as u16).to_be() as u32;
        fold(fold(flow.source.sum()) + fold(flow.destination.sum()) + numbers)
    }
    /// Whether an ICMP message of this type quotes another packet.
    fn is_icmp_error(icmp_type: u32) -> bool;
    /// Whether an ICMP message of this type is an echo or its reply.
    fn is_echo(icmp_type: u32) -> bool;
    /// 1 if the address is one of this node's, by `STATE`.
    fn is_node(state: Shared<'_, State>, address: &Self::Address) -> u64;
    /// The node's address towards the outside.
    fn node_address(state: Shared<'_, State>) -> Self::Address;
    /// The address of a pod's namespace.
    fn pod_address(pod: Shared<'_, PodNetns>) -> Self::Address;
    /// The first address of the node's pod CIDR.
    fn overlay_address(state: Shared<'_, State>) -> Self::Address;
}

/// Type and code of an ICMP error.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IcmpError {
    /// Its type.
    pub icmp_type: u8,
    /// Its code.
    pub code: u8,
}

/// Hop limit of packets made here.
const HOPS: u8 = 64;

/// IPv4.
#[derive(Clone, Copy, Default, Debug)]
pub struct V4;

/// IPv6.
#[derive(Clone, Copy, Default, Debug)]
pub struct V6;

/// The IPv4 header without options.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Header4 {
    pub version_length: u8,
    pub service: u8,
    pub length: u16,
    pub id: u16,
    pub fragment: u16,
    pub hops: u8,
    pub protocol: u8,
    pub checksum: u16,
    pub source: Addr4,
    pub destination: Addr4,
}

// SAFETY: integers at their natural offsets, 20 bytes, no padding.
unsafe impl Plain for Header4 {}

/// The IPv6 header.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Header6 {
    pub version_flow: u32,
    pub length: u16,
    pub next: u8,
    pub hops: u8,
    pub source: Addr6,
    pub destination: Addr6,
}

// SAFETY: integers at their natural offsets, 40 bytes, no padding.
unsafe impl Plain for Header6 {}

/// "Don't fragment", "more fragments" and the offset, in the host's order.
pub(crate) const FRAGMENT_DONT: u16 = 0x4000;
const FRAGMENT_MORE: u16 = 0x2000;
const FRAGMENT_OFFSET: u16 = 0x1fff;

/// Offset of the checksum in the IPv4 header.
const CHECKSUM4: u32 = 10;

impl Family for V4 {
    type Address = Addr4;
    const VERSION: u8 = 4;
    const ICMP: u8 = protocol::ICMP;
    const SOURCE: u32 = 12;
    const DESTINATION: u32 = 16;
    const HEADER: u32 = 20;
    const ICMP_PSEUDO: bool = false;
    type Quote = [u32; 7];
    const UNREACHABLE: IcmpError = IcmpError { icmp_type: 3, code: 3 };
    const TOO_BIG: IcmpError = IcmpError { icmp_type: 3, code: 4 };

    #[inline(always)]
    fn parse<P: Packet>(packet: &P, flow: &mut Flow<Addr4>) -> Step {
        let header: Header4 = need!(packet.read(L3), Truncated);
        let words = (header.version_length & 15) as u32;
        if header.version_length >> 4 != 4 || words < 5 {
            refuse!(BadHeader)
        }
        let fragment = u16::from_be(header.fragment);
        flow.source = header.source;
        flow.destination = header.destination;
        flow.protocol = header.protocol as u32;
        flow.l4 = L3 + words * 4;
        flow.packet_id = header.id as u32;
        flow.shape = shape4(fragment);
        Ok(())
    }

    #[inline(always)]
    fn adjust_header<P: Packet>(packet: &mut P, l3: u32, difference: u32) -> Option<()> {
        let checksum: u16 = packet.read(l3 + CHECKSUM4)?;
        packet.write(l3 + CHECKSUM4, update(checksum, difference))
    }

    #[inline(always)]
    fn parse_quoted<P: Packet>(packet: &P, l3: u32, quoted: &mut Quoted<Addr4>) -> Step {
        let header: Header4 = need!(packet.read(l3), Truncated);
        let words = (header.version_length & 15) as u32;
        if words < 5 {
            refuse!(BadHeader)
        }
        quoted.source = header.source;
        quoted.destination = header.destination;
        quoted.protocol = header.protocol as u32;
        quoted.l4 = l3 + words * 4;
        Ok(())
    }

    #[inline(always)]
    fn write_header<P: Packet>(
        packet: &mut P,
        source: &Addr4,
        destination: &Addr4,
        protocol: u8,
        length: u32,
    ) -> Option<()> {
        let total = (Self::HEADER + length) as u16;
        let mut words = [
            u32::from_be_bytes([0x45, 0, (total >> 8) as u8, total as u8]).to_be(),
            (FRAGMENT_DONT as u32).to_be(),
            u32::from_ne_bytes([HOPS, protocol, 0, 0]),
            source.0,
            destination.0,
        ];
        words[2] |= (!sum_words(&words) & 0xffff) << 16;
        packet.write(L3, words)
    }

    #[inline(always)]
    fn quote_sum(quote: &[u32; 7]) -> u32 {
        sum_words(quote)
    }

    #[inline(always)]
    fn is_icmp_error(icmp_type: u32) -> bool {
        // Destination unreachable, source quench, redirect, time exceeded, parameter problem.
        icmp_type < 32 && 1u32 << icmp_type & (1 << 3 | 1 << 4 | 1 << 5 | 1 << 11 | 1 << 12) != 0
    }

    #[inline(always)]
    fn is_echo(icmp_type: u32) -> bool {
        icmp_type == 0 || icmp_type == 8
    }

    #[inline(always)]
    fn is_node(state: Shared<'_, State>, address: &Addr4) -> u64 {
        let mine = [get!(state.node4[0]), get!(state.node4[1]), get!(state.node4[2]), get!(state.node4[3])];
        address.same(&mine[0]) | address.same(&mine[1]) | address.same(&mine[2]) | address.same(&mine[3])
    }

    #[inline(always)]
    fn node_address(state: Shared<'_, State>) -> Addr4 {
        get!(state.node4[0])
    }

    #[inline(always)]
    fn pod_address(pod: Shared<'_, PodNetns>) -> Addr4 {
        get!(pod.address4)
    }

    #[inline(always)]
    fn overlay_address(state: Shared<'_, State>) -> Addr4 {
        get!(state.overlay4)
    }
}

/// `shape` bits of an IPv4 fragment field.
#[inline(always)]
fn shape4(fragment: u16) -> u32 {
    let dont = if fragment & FRAGMENT_DONT != 0 { shape::DONT_FRAGMENT } else { 0 };
    if fragment & FRAGMENT_OFFSET != 0 {
        dont | shape::LATER_FRAGMENT
    } else if fragment & FRAGMENT_MORE != 0 {
        dont | shape::FIRST_FRAGMENT
    } else {
        dont
    }
}

impl Family for V6 {
    type Address = Addr6;
    const VERSION: u8 = 6;
    const ICMP: u8 = protocol::ICMP6;
    const SOURCE: u32 = 8;
    const DESTINATION: u32 = 24;
    const HEADER: u32 = 40;
    const ICMP_PSEUDO: bool = true;
    type Quote = [u32; 12];
    const UNREACHABLE: IcmpError = IcmpError { icmp_type: 1, code: 4 };
    const TOO_BIG: IcmpError = IcmpError { icmp_type: 2, code: 0 };

    #[inline(always)]
    fn parse<P: Packet>(packet: &P, flow: &mut Flow<Addr6>) -> Step {
        let header: Header6 = need!(packet.read(L3), Truncated);
        if header.version_flow as u8 >> 4 != 6 {
            refuse!(BadHeader)
        }
        flow.source = header.source;
        flow.destination = header.destination;
        flow.packet_id = 0;
        // IPv6 never fragments on the way.
        flow.shape = shape::DONT_FRAGMENT;
        if !is_extension(header.next) {
            flow.protocol = header.next as u32;
            flow.l4 = L3 + Self::HEADER;
            return Ok(());
        }
        let walked = packet.extension_headers(header.next);
        if walked == 0 {
            refuse!(ExtensionHeaders)
        }
        flow.l4 = (walked & 0xffff) as u32;
        flow.protocol = (walked >> 16) as u32 & 0xff;
        flow.shape |= (walked >> 24) as u32 & 3;
        flow.packet_id = (walked >> 32) as u32;
        Ok(())
    }

    #[inline(always)]
    fn adjust_header<P: Packet>(_: &mut P, _: u32, _: u32) -> Option<()> {
        Some(())
    }

    #[inline(always)]
    fn parse_quoted<P: Packet>(packet: &P, l3: u32, quoted: &mut Quoted<Addr6>) -> Step {
        let header: Header6 = need!(packet.read(l3), Truncated);
        quoted.source = header.source;
        quoted.destination = header.destination;
        quoted.protocol = header.next as u32;
        quoted.l4 = l3 + Self::HEADER;
        Ok(())
    }

    #[inline(always)]
    fn write_header<P: Packet>(
        packet: &mut P,
        source: &Addr6,
        destination: &Addr6,
        protocol: u8,
        length: u32,
    ) -> Option<()> {
        let length = (length as u16).to_be_bytes();
        packet.write(L3, [0x60, u32::from_ne_bytes([length[0], length[1], protocol, HOPS])])?;
        packet.write(L3 + Self::SOURCE, [*source, *destination])
    }

    #[inline(always)]
    fn quote_sum(quote: &[u32; 12]) -> u32 {
        sum_words(quote)
    }

    #[inline(always)]
    fn is_icmp_error(icmp_type: u32) -> bool {
        (1..=4).contains(&icmp_type)
    }

    #[inline(always)]
    fn is_echo(icmp_type: u32) -> bool {
        icmp_type == 128 || icmp_type == 129
    }

    #[inline(always)]
    fn is_node(state: Shared<'_, State>, address: &Addr6) -> u64 {
        let mine = [get!(state.node6[0]), get!(state.node6[1]), get!(state.node6[2]), get!(state.node6[3])];
        address.same(&mine[0]) | address.same(&mine[1]) | address.same(&mine[2]) | address.same(&mine[3])
    }

    #[inline(always)]
    fn node_address(state: Shared<'_, State>) -> Addr6 {
        get!(state.node6[0])
    }

    #[inline(always)]
    fn pod_address(pod: Shared<'_, PodNetns>) -> Addr6 {
        get!(pod.address6)
    }

    #[inline(always)]
    fn overlay_address(state: Shared<'_, State>) -> Addr6 {
        get!(state.overlay6)
    }
}

/// Most extension headers that are walked: real packets have one or two.
const EXTENSIONS_MAX: u32 = 4;
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION_OPTIONS: u8 = 60;

#[inline(always)]
fn is_extension(next: u8) -> bool {
    matches!(next, HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION_OPTIONS)
}

/// Walks the extension headers behind an IPv6 header, the first of type `next`: transport offset in bits 0..16, its
/// protocol in 16..24, fragment bits of [`shape`] in 24..26, identification in 32..64; 0 when they are too many, too
/// long or cut off.
#[inline(always)]
pub fn walk_extension_headers<P: Packet>(packet: &P, next: u8) -> u64 {
    let mut next = next;
    let mut offset = L3 + V6::HEADER;
    let mut fragment = 0u64;
    let mut id = 0u64;
    let mut walked = 0;
    while walked < EXTENSIONS_MAX && is_extension(next) {
        let Some(header) = packet.read::<[u32; 2]>(offset) else { return 0 };
        let bytes = header[0].to_ne_bytes();
        let units = bytes[1] as u32;
        let length = match next {
            FRAGMENT => {
                let place = u16::from_be_bytes([bytes[2], bytes[3]]);
                fragment = fragment_shape6(place) as u64;
                id = header[1] as u64;
                8
            }
            AUTHENTICATION => (units + 2) * 4,
            _ => (units + 1) * 8,
        };
        offset += length;
        if offset > HEADERS_MAX {
            return 0;
        }
        next = bytes[0];
        walked += 1;
        if fragment == shape::LATER_FRAGMENT as u64 {
            break;
        }
    }
    if is_extension(next) && fragment != shape::LATER_FRAGMENT as u64 {
        return 0;
    }
    offset as u64 | (next as u64) << 16 | fragment << 24 | id << 32
}

/// `shape` bits of the offset field of an IPv6 fragment header.
#[inline(always)]
fn fragment_shape6(place: u16) -> u32 {
    if place & 0xfff8 != 0 {
        shape::LATER_FRAGMENT
    } else if place & 1 != 0 {
        shape::FIRST_FRAGMENT
    } else {
        0
    }
}
