//! Fragments follow their first: it alone has ports, so they are remembered by what all of them share.

use abi::{FragmentKey, FragmentValue, Port, protocol};

use crate::family::Family;
use crate::flow::{Flow, shape};
use crate::get;
use crate::tables::Tables;
use crate::verdict::{Step, need};

#[inline(always)]
fn key<F: Family>(flow: &Flow<F::Address>) -> FragmentKey<F::Address> {
    FragmentKey {
        source: flow.source,
        destination: flow.destination,
        id: flow.packet_id,
        protocol: flow.protocol,
    }
}

/// Remembers the ports of a first fragment, or gives a later one those of the first.
#[inline(always)]
pub fn fragment<F: Family, T: Tables<F>>(tables: &T) -> Step {
    let flow = need!(tables.flow(), Internal);
    if flow.is(shape::FIRST_FRAGMENT) {
        remember::<F, T>(tables, flow);
        return Ok(());
    }
    follow::<F, T>(tables, flow)
}

#[inline(always)]
fn remember<F: Family, T: Tables<F>>(tables: &T, flow: &Flow<F::Address>) {
    let value = FragmentValue { source_port: flow.source_port, destination_port: flow.destination_port };
    tables.fragment_put(&key::<F>(flow), &value);
}

#[inline(always)]
fn follow<F: Family, T: Tables<F>>(tables: &T, flow: &mut Flow<F::Address>) -> Step {
    let first = need!(tables.fragment(&key::<F>(flow)), FragmentUnknown);
    flow.source_port = get!(first.source_port);
    flow.destination_port = get!(first.destination_port);
    if flow.protocol == F::ICMP as u32 && flow.source_port != Port(0) {
        flow.shape |= shape::ECHO;
    }
    if flow.protocol == protocol::TCP as u32 {
        // Not a SYN, whatever the first one was.
        flow.tcp = crate::flow::tcp::ACK;
    }
    Ok(())
}
