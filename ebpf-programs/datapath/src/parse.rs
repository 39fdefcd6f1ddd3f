//! From bytes to a flow: network header, fragments, ports.

use abi::{Port, protocol};

use crate::address::Address;
use crate::family::Family;
use crate::flow::{Flow, shape};
use crate::packet::{L3, Packet};
use crate::tables::Tables;
use crate::verdict::{Step, need, refuse};

/// The longest transport header that is read.
const TRANSPORT: u32 = 20;

/// Fills what the packet itself says about the flow.
#[inline(always)]
pub fn parse<F: Family, P: Packet, T: Tables<F>>(packet: &mut P, tables: &T) -> Step {
    let flow = need!(tables.flow(), Internal);
    need!(packet.pull(L3 + F::HEADER + TRANSPORT), Truncated);
    F::parse(packet, flow)?;
    flow.length = packet.length() - L3;
    flow.tcp = 0;
    flow.checksum = 0;
    if !flow.is(shape::LATER_FRAGMENT) {
        transport::<F, P>(packet, flow)?;
    }
    if flow.shape & (shape::FIRST_FRAGMENT | shape::LATER_FRAGMENT) == 0 {
        return Ok(());
    }
    tables.fragment_ports()
}

/// Reads the transport header. Each is read at once, never a byte at a variable offset.
#[inline(always)]
fn transport<F: Family, P: Packet>(packet: &P, flow: &mut Flow<F::Address>) -> Step {
    match flow.protocol as u8 {
        protocol::TCP => {
            let header: [u16; 10] = need!(packet.read(flow.l4), Truncated);
            ports(flow, header[0], header[1]);
            flow.tcp = (header[6] >> 8) as u32;
            flow.checksum = 16;
            flow.shape |= shape::PSEUDO;
        }
        protocol::UDP => {
            let header: [u16; 4] = need!(packet.read(flow.l4), Truncated);
            ports(flow, header[0], header[1]);
            flow.checksum = 6;
            flow.shape |= shape::PSEUDO;
        }
        protocol::SCTP => {
            let header: [u16; 6] = need!(packet.read(flow.l4), Truncated);
            ports(flow, header[0], header[1]);
        }
        number if number == F::ICMP => {
            let header: [u16; 4] = need!(packet.read(flow.l4), Truncated);
            icmp::<F>(flow, header)
        }
        _ => refuse!(UnsupportedProtocol),
    }
    Ok(())
}

#[inline(always)]
fn ports<A: Address>(flow: &mut Flow<A>, source: u16, destination: u16) {
    flow.source_port = Port(source);
    flow.destination_port = Port(destination);
    flow.shape |= shape::PORTS;
}

/// An echo's identifier stands for both ports; other messages have none.
#[inline(always)]
fn icmp<F: Family>(flow: &mut Flow<F::Address>, header: [u16; 4]) {
    let icmp_type = header[0].to_ne_bytes()[0] as u32;
    flow.tcp = icmp_type;
    flow.checksum = 2;
    let mut id = 0;
    if F::is_echo(icmp_type) {
        flow.shape |= shape::ECHO;
        id = header[2];
    } else if F::is_icmp_error(icmp_type) {
        flow.shape |= shape::ICMP_ERROR;
    }
    if F::ICMP_PSEUDO {
        flow.shape |= shape::PSEUDO;
    }
    flow.source_port = Port(id);
    flow.destination_port = Port(id);
}
