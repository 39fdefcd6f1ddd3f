//! Reports: what a flow was, and what became of it.

use abi::{ConntrackEntry, DropCode, Event, Hook, Port, ct_flag, event_kind, feature};

use crate::address::Address;
use crate::bits::{mask, select};
use crate::conntrack::Found;
use crate::family::Family;
use crate::flow::Flow;
use crate::get;
use crate::socket::Request;
use crate::tables::{Shared, Tables};

/// What every event says about its packet. Every field is written: the record's memory is whatever it was.
#[inline(always)]
fn describe<F: Family>(event: &mut Event, flow: &Flow<F::Address>, kind: u8, hook: u8, ifindex: u32) {
    event.kind = kind;
    event.hook = hook;
    event.family = F::VERSION;
    event.protocol = flow.protocol as u8;
    event.tcp_flags = flow.tcp as u8;
    event.direction = flow.judged as u8;
    event.reserved = 0;
    event.source = flow.source.words();
    event.destination = flow.destination.words();
    event.backend = flow.to.words();
    event.source_port = flow.source_port;
    event.destination_port = flow.destination_port;
    event.backend_port = flow.to_port;
    event.reserved2 = 0;
    event.drop = 0;
    event.ifindex = ifindex;
    event.length = flow.length;
    event.source_class = flow.class[0];
    event.destination_class = flow.class[1];
    event.policy = flow.judged_by;
    event.rule = flow.rule;
    event.service = flow.service;
    event.epoch = flow.epoch;
    event.reserved3 = 0;
    event.packets = [0; 2];
    event.bytes = [0; 2];
}

/// A connection began.
#[inline(always)]
pub fn began<F: Family, T: Tables<F>>(tables: &T, flow: &Flow<F::Address>, hook: Hook, ifindex: u32) {
    let config = tables.config();
    if get!(config.features) & feature::FLOW_EVENTS != 0 {
        tables.report(|event| describe::<F>(event, flow, event_kind::NEW, hook as u8, ifindex));
    }
}

/// A packet was dropped, or answered instead of delivered.
#[inline(always)]
pub fn dropped<F: Family, T: Tables<F>>(
    tables: &T,
    flow: &Flow<F::Address>,
    hook: u8,
    ifindex: u32,
    code: DropCode,
) {
    tables.report(|event| {
        describe::<F>(event, flow, event_kind::DROP, hook, ifindex);
        event.drop = code.word();
    });
}

/// A socket was refused.
#[inline(always)]
pub fn refused<F: Family, T: Tables<F>>(tables: &T, request: &Request<F::Address>, code: DropCode) {
    tables.report(|event| {
        *event = Event {
            kind: event_kind::DROP,
            hook: Hook::Socket as u8,
            family: F::VERSION,
            protocol: request.protocol,
            destination: request.address.words(),
            destination_port: request.port,
            drop: code.word(),
            ..Event::default()
        };
    });
}

/// A TCP connection ended. The two entries of a translated one count a direction each.
#[inline(always)]
pub fn closed<F: Family, T: Tables<F>>(
    tables: &T,
    flow: &Flow<F::Address>,
    found: &Found<'_, F::Address>,
    other: Option<Shared<'_, ConntrackEntry<F::Address>>>,
) {
    let config = tables.config();
    if get!(config.features) & feature::FLOW_EVENTS == 0 {
        return;
    }
    let entry = found.entry;
    let mut totals = counters(entry);
    if let Some(other) = other {
        let more = counters(other);
        totals = [totals[0] + more[0], totals[1] + more[1], totals[2] + more[2], totals[3] + more[3]];
    }
    tables.report(|event| {
        describe::<F>(event, flow, event_kind::CLOSE, 0, 0);
        ends::<F>(event, flow, found);
        event.source_class = get!(entry.class[0]);
        event.destination_class = get!(entry.class[1]);
        event.service = get!(entry.service);
        event.policy = 0;
        event.rule = 0;
        event.epoch = get!(entry.epoch);
        event.packets = [totals[0], totals[1]];
        event.bytes = [totals[2], totals[3]];
    });
}

#[inline(always)]
fn counters<A>(entry: Shared<'_, ConntrackEntry<A>>) -> [u64; 4] {
    [get!(entry.packets[0]), get!(entry.packets[1]), get!(entry.bytes[0]), get!(entry.bytes[1])]
}

/// Names the ends of a connection as its initiator does, whichever entry and direction the packet had.
#[inline(always)]
fn ends<F: Family>(event: &mut Event, flow: &Flow<F::Address>, found: &Found<'_, F::Address>) {
    let entry = found.entry;
    let reply = mask(found.reply);
    let alias = mask((found.flags & ct_flag::ALIAS) / ct_flag::ALIAS);
    let port = |mask, zero: Port, one: Port| Port(select(mask, zero.0 as u32, one.0 as u32) as u16);
    let address = F::Address::select;

    let initiator = address(reply, flow.source, flow.destination);
    let responder = address(reply, flow.destination, flow.source);
    let (other_initiator, other_responder) = (get!(entry.other_initiator), get!(entry.other_responder));
    event.source = address(alias, other_initiator, initiator).words();
    event.destination = address(alias, other_responder, responder).words();
    event.backend = address(alias, responder, other_responder).words();

    let initiator = port(reply, flow.source_port, flow.destination_port);
    let responder = port(reply, flow.destination_port, flow.source_port);
    let (other_initiator, other_responder) =
        (get!(entry.other_initiator_port), get!(entry.other_responder_port));
    event.source_port = port(alias, other_initiator, initiator);
    event.destination_port = port(alias, other_responder, responder);
    event.backend_port = port(alias, responder, other_responder);
}
