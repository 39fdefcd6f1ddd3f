//! ICMP errors: they go where the packet they speak of came from, translated inside and out, and ask no policy.

use abi::{Hook, Port, ct_flag, ct_protocol, protocol};

use crate::address::Address;
use crate::bits::mask;
use crate::checksum::{ChecksumChange, difference, fold};
use crate::conntrack::{Found, other_tuple};
use crate::context::{Context, Place, at, note};
use crate::deliver::deliver;
use crate::family::Family;
use crate::flow::{Flow, Quoted, key_of};
use crate::get;
use crate::observe::{Note, Observer};
use crate::packet::{L3, Packet};
use crate::tables::Tables;
use crate::verdict::{Kind, Step, Verdict, drop_code, need, refuse};

/// Length of the ICMP header in front of the quote.
const ICMP_HEADER: u32 = 8;

/// Most of a quote that is read: a network header with options and the ports behind it.
const QUOTED: u32 = 68;

/// Decides an ICMP error by the connection it quotes; [`receive`](crate::hooks::receive) left it in scratch. The host
/// gets those of the uplink that are about its own.
#[inline(always)]
pub fn related<F: Family, H: Place, P: Packet, T: Tables<F>, O: Observer>(
    cx: &mut Context<'_, F, P, T, O>,
) -> Verdict {
    let Some(flow) = cx.tables.flow() else { return Verdict::drop(drop_code!(Internal)) };
    if let Err(code) = quote::<F, P>(cx.packet, flow.l4 + ICMP_HEADER, &mut flow.quoted) {
        return unknown::<H>(Verdict::drop(code));
    }
    let found = find::<F, T>(cx.tables, &flow.quoted);
    let Some(found) = found else {
        return unknown::<H>(Verdict::drop(drop_code!(IcmpUnrelated)));
    };
    note!(cx.observer, Note::Related);
    let from = found.via(found.reply);
    if at::<H>(Hook::PodEgress) && from != abi::via::POD | cx.packet.ifindex() & abi::via::ARGUMENT {
        return Verdict::drop(drop_code!(Spoofed));
    }
    let translates = found.translates();
    if translates {
        other_tuple(flow, found.entry, found.reply);
        if let Err(code) = translate::<F, P>(cx.packet, flow) {
            return Verdict::drop(code);
        }
    }
    let to = found.via(found.reply ^ 1);
    let mac = found.mac(found.reply ^ 1);
    deliver::<F, H, P, T, O>(cx, to, mac, translates)
}

/// What becomes of an error that speaks of nothing on record.
#[inline(always)]
fn unknown<H: Place>(verdict: Verdict) -> Verdict {
    if at::<H>(Hook::UplinkIngress) { Verdict::new(Kind::Pass, 0) } else { verdict }
}

/// Reads the quoted packet's tuple.
#[inline(always)]
fn quote<F: Family, P: Packet>(packet: &mut P, l3: u32, quoted: &mut Quoted<F::Address>) -> Step {
    need!(packet.pull(l3 + QUOTED), Truncated);
    F::parse_quoted(packet, l3, quoted)?;
    let header: [u16; 4] = need!(packet.read(quoted.l4), Truncated);
    let number = quoted.protocol as u8;
    if number == protocol::TCP || number == protocol::UDP || number == protocol::SCTP {
        quoted.source_port = Port(header[0]);
        quoted.destination_port = Port(header[1]);
    } else if number == F::ICMP && F::is_echo(header[0].to_ne_bytes()[0] as u32) {
        quoted.source_port = Port(header[2]);
        quoted.destination_port = Port(header[2]);
    } else {
        refuse!(IcmpUnrelated)
    }
    Ok(())
}

/// The entry of the quoted packet. The error goes against it: `reply` is 1 if it is from the responder's side.
#[inline(always)]
fn find<'t, F: Family, T: Tables<F>>(
    tables: &'t T,
    quoted: &Quoted<F::Address>,
) -> Option<Found<'t, F::Address>> {
    let (mut key, low) = key_of(
        &quoted.source,
        &quoted.destination,
        quoted.source_port,
        quoted.destination_port,
        quoted.protocol,
    );
    let entry = tables.conntrack(&key)?;
    let flags = get!(entry.flags);
    let reply = (flags & ct_flag::ORIG_LOW) ^ low ^ 1;
    if reply == 0 && flags & (ct_flag::NAT | ct_flag::ALIAS) == ct_flag::NAT {
        // The initiator's side of a translated flow speaks of the alias; this is another flow of that tuple.
        key.protocol |= ct_protocol::CLASH;
        let entry = tables.conntrack(&key)?;
        let flags = get!(entry.flags);
        return Some(Found { entry, flags, reply: (flags & ct_flag::ORIG_LOW) ^ low ^ 1 });
    }
    Some(Found { entry, flags, reply })
}

/// Gives the error, and the packet in it, the addresses that its receiver knows. The flow's tuple after translation is
/// that of a packet that goes the error's way, so the quoted one has its ends the other way round.
#[inline(always)]
fn translate<F: Family, P: Packet>(packet: &mut P, flow: &Flow<F::Address>) -> Step {
    let quoted = &flow.quoted;
    // A router on the way speaks for itself; the end of the connection speaks as the receiver knows it.
    let is_end = mask(flow.source.same(&quoted.destination) as u32);
    let source = F::Address::select(is_end, flow.source, flow.from);
    let outer = difference(
        fold(source.sum()) + fold(flow.to.sum()),
        fold(flow.source.sum()) + fold(flow.destination.sum()),
    );
    need!(packet.write(L3 + F::SOURCE, source), Rewrite);
    need!(packet.write(L3 + F::DESTINATION, flow.to), Rewrite);
    need!(F::adjust_header(packet, L3, outer), Rewrite);

    let inner = flow.l4 + ICMP_HEADER;
    let addresses = difference(
        fold(flow.to.sum()) + fold(flow.from.sum()),
        fold(quoted.source.sum()) + fold(quoted.destination.sum()),
    );
    need!(packet.write(inner + F::SOURCE, flow.to), Rewrite);
    need!(packet.write(inner + F::DESTINATION, flow.from), Rewrite);
    need!(F::adjust_header(packet, inner, addresses), Rewrite);
    let ports = translate_ports::<F, P>(packet, flow)?;
    // A header with a checksum of its own sums up to the same as before.
    let content = if F::ICMP_PSEUDO { fold(addresses) + fold(ports) } else { ports };
    let pseudo = if F::ICMP_PSEUDO { outer } else { 0 };
    let change = ChecksumChange { content, pseudo, udp: false, v6: F::VERSION == 6 };
    need!(packet.adjust_checksum(flow.l4 + flow.checksum, change), Rewrite);
    Ok(())
}

/// The quoted packet's ports or identifier; gives the difference they make. Its own transport checksum is left as it
/// was: what is quoted is cut off anyway, and no receiver verifies it.
#[inline(always)]
fn translate_ports<F: Family, P: Packet>(
    packet: &mut P,
    flow: &Flow<F::Address>,
) -> Result<u32, abi::DropCode> {
    let quoted = &flow.quoted;
    if quoted.protocol == F::ICMP as u32 {
        need!(packet.write(quoted.l4 + 4, flow.to_port.0), Rewrite);
        return Ok(difference(flow.to_port.0 as u32, quoted.source_port.0 as u32));
    }
    need!(packet.write(quoted.l4, [flow.to_port.0, flow.from_port.0]), Rewrite);
    Ok(difference(
        flow.to_port.0 as u32 + flow.from_port.0 as u32,
        quoted.source_port.0 as u32 + quoted.destination_port.0 as u32,
    ))
}
