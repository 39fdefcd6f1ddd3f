//! Answers in the place of whoever was asked for: a TCP reset, or an ICMP error.
//!
//! The packet is made over in place and sent back by the device it came from, so that a client learns at once what it
//! would otherwise wait for.

use abi::{DropCode, Reason, protocol};

use crate::checksum::{ChecksumChange, fold, sum_words};
use crate::family::{Family, IcmpError};
use crate::flow::{Flow, shape, tcp};
use crate::get;
use crate::packet::{L3, Packet};
use crate::tables::Tables;

/// Length of a TCP header without options.
const TCP_HEADER: u32 = 20;
/// Length of an ICMP error's own header.
const ICMP_HEADER: u32 = 8;
/// A checksum field before anything was added: ones' complement zero, whether it will hold a whole sum or a partial one.
const NOTHING: u32 = 0xffff;

/// Whether a drop for this reason is answered.
#[inline(always)]
pub fn is_answered(code: DropCode) -> bool {
    const ANSWERED: u32 = 1 << Reason::NoBackend as u32
        | 1 << Reason::NoService as u32
        | 1 << Reason::NoLocalBackend as u32
        | 1 << Reason::TooBig as u32;
    code.word() >> 24 < 32 && 1u32 << (code.word() >> 24) & ANSWERED != 0
}

/// Makes the packet the answer to itself. `None` if it may not be answered (a reset, an ICMP error, a later fragment,
/// network options) or is too short.
#[inline(always)]
pub fn answer<F: Family, P: Packet, T: Tables<F>>(
    packet: &mut P,
    tables: &T,
    flow: &Flow<F::Address>,
    code: DropCode,
) -> Option<()> {
    if flow.shape & (shape::LATER_FRAGMENT | shape::ICMP_ERROR) != 0 || flow.l4 != L3 + F::HEADER {
        return None;
    }
    if code.word() >> 24 == Reason::TooBig as u32 {
        let config = tables.config();
        return error::<F, P>(packet, flow, F::TOO_BIG, get!(config.overlay_mtu));
    }
    if flow.protocol == protocol::TCP as u32 {
        return reset::<F, P>(packet, flow);
    }
    error::<F, P>(packet, flow, F::UNREACHABLE, 0)
}

/// A reset as RFC 9293 3.10.7.1 wants it for a port that nobody listens on.
#[inline(always)]
fn reset<F: Family, P: Packet>(packet: &mut P, flow: &Flow<F::Address>) -> Option<()> {
    if flow.tcp & tcp::RST != 0 {
        return None;
    }
    let header: [u32; 4] = packet.read(flow.l4)?;
    let data_offset = (u32::from_be(header[3]) >> 28) * 4;
    let payload = flow.length.wrapping_sub(F::HEADER).wrapping_sub(data_offset);
    let (sequence, acknowledges, flags) = if flow.tcp & tcp::ACK != 0 {
        (header[2], 0, tcp::RST)
    } else {
        // SYN and FIN take a number each.
        let taken = payload.wrapping_add((flow.tcp >> 1 & 1) + (flow.tcp & 1));
        (0, u32::from_be(header[1]).wrapping_add(taken).to_be(), tcp::RST | tcp::ACK)
    };
    packet.resize(L3 + F::HEADER + TCP_HEADER)?;
    turn_back::<F, P>(packet, flow, protocol::TCP, TCP_HEADER)?;
    let ports = flow.destination_port.0 as u32 | (flow.source_port.0 as u32) << 16;
    let offset_flags = (5 << 28 | flags << 16).to_be();
    packet.write(L3 + F::HEADER, [ports, sequence, acknowledges, offset_flags, NOTHING])?;
    let change = ChecksumChange {
        content: sum_words(&[ports, sequence, acknowledges, offset_flags]),
        pseudo: F::pseudo_sum(flow, protocol::TCP, TCP_HEADER),
        udp: false,
        v6: F::VERSION == 6,
    };
    packet.adjust_checksum(L3 + F::HEADER + 16, change)
}

/// An ICMP error that quotes the network header and the eight octets behind it.
#[inline(always)]
fn error<F: Family, P: Packet>(
    packet: &mut P,
    flow: &Flow<F::Address>,
    kind: IcmpError,
    argument: u32,
) -> Option<()> {
    let quote: F::Quote = packet.read(L3)?;
    let length = ICMP_HEADER + size_of::<F::Quote>() as u32;
    packet.resize(L3 + F::HEADER + length)?;
    turn_back::<F, P>(packet, flow, F::ICMP, length)?;
    let first = u32::from_ne_bytes([kind.icmp_type, kind.code, 0, 0]);
    let second = argument.to_be();
    let pseudo = if F::ICMP_PSEUDO { F::pseudo_sum(flow, F::ICMP, length) } else { 0 };
    let sum = sum_words(&[first, second]) + F::quote_sum(&quote) + pseudo;
    let checksum = !(fold(sum)) & 0xffff;
    packet.write(L3 + F::HEADER, [first | checksum << 16, second])?;
    packet.write(L3 + F::HEADER + ICMP_HEADER, quote)
}

/// Swaps the link addresses and writes a network header from the destination to the source.
#[inline(always)]
fn turn_back<F: Family, P: Packet>(
    packet: &mut P,
    flow: &Flow<F::Address>,
    protocol: u8,
    length: u32,
) -> Option<()> {
    let macs: [[u16; 3]; 2] = packet.read(0)?;
    packet.write(0, [macs[1], macs[0]])?;
    F::write_header(packet, &flow.destination, &flow.source, protocol, length)
}
