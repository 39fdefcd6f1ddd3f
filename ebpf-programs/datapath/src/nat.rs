//! Rewrites a packet's addresses and ports, with every checksum that covers them.

use abi::protocol;

use crate::address::Address;
use crate::checksum::{ChecksumChange, difference, fold};
use crate::family::Family;
use crate::flow::{Flow, shape};
use crate::packet::{L3, Packet};
use crate::verdict::{Step, need, refuse};

/// Puts the flow's tuple after translation in place of the one that it was parsed from.
#[inline(always)]
pub fn rewrite<F: Family, P: Packet>(packet: &mut P, flow: &Flow<F::Address>) -> Step {
    let addresses = difference(
        fold(flow.from.sum()) + fold(flow.to.sum()),
        fold(flow.source.sum()) + fold(flow.destination.sum()),
    );
    need!(packet.write(L3 + F::SOURCE, flow.from), Rewrite);
    need!(packet.write(L3 + F::DESTINATION, flow.to), Rewrite);
    need!(F::adjust_header(packet, L3, addresses), Rewrite);
    if flow.is(shape::LATER_FRAGMENT) {
        return Ok(());
    }
    let ports = rewrite_ports::<F, P>(packet, flow)?;
    if flow.checksum == 0 {
        return Ok(());
    }
    let change = ChecksumChange {
        content: ports,
        pseudo: if flow.is(shape::PSEUDO) { addresses } else { 0 },
        udp: flow.protocol == protocol::UDP as u32,
        v6: F::VERSION == 6,
    };
    need!(packet.adjust_checksum(flow.l4 + flow.checksum, change), Rewrite);
    Ok(())
}

/// Writes ports or the echo identifier; gives the difference that they make.
#[inline(always)]
fn rewrite_ports<F: Family, P: Packet>(
    packet: &mut P,
    flow: &Flow<F::Address>,
) -> Result<u32, abi::DropCode> {
    let (old_source, old_destination) = (flow.source_port.0 as u32, flow.destination_port.0 as u32);
    let (source, destination) = (flow.from_port.0 as u32, flow.to_port.0 as u32);
    if flow.is(shape::ECHO) {
        need!(packet.write(flow.l4 + 4, flow.from_port.0), Rewrite);
        return Ok(difference(source, old_source));
    }
    if !flow.is(shape::PORTS) || (source == old_source && destination == old_destination) {
        return Ok(0);
    }
    if flow.protocol == protocol::SCTP as u32 {
        // Its checksum is a CRC over the whole packet; a device may have been asked to make it, or not.
        refuse!(Rewrite)
    }
    need!(packet.write(flow.l4, [flow.from_port.0, flow.to_port.0]), Rewrite);
    Ok(difference(source + destination, old_source + old_destination))
}
