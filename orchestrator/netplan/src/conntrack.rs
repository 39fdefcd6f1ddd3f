//! What a connection on record is worth: when it is over, and which entry is its other half.

use abi::{ConntrackEntry, ConntrackKey, ct_flag, ct_protocol, protocol, tcp_state};
use datapath::flow::key_of;

use crate::family::Address;

/// An address that both sides of the kernel boundary know how to order.
pub trait Ordered: Address + datapath::Address {}

impl<A: Address + datapath::Address> Ordered for A {}

/// A packet without payload: IP header, TCP header, and the 20 bytes of options that a SYN has; later ones have fewer.
const BARE_TCP_BYTES_V4: u64 = 20 + 20 + 20;
const BARE_TCP_BYTES_V6: u64 = 40 + 20 + 20;

/// Idle times in the unit of `last_seen`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdleTimes {
    /// TCP that both ends use.
    pub established: u32,
    /// TCP that was not answered.
    pub syn: u32,
    /// TCP that is over.
    pub closing: u32,
    /// Everything else.
    pub other: u32,
}

/// Whether nothing more is expected of this entry alone. Of a translated connection ask for both halves.
pub fn expired<A>(key: &ConntrackKey<A>, entry: &ConntrackEntry<A>, now: u32, times: &IdleTimes) -> bool {
    let limit = if (key.protocol & 0xff) as u8 != protocol::TCP {
        times.other
    } else if tcp_state::closed(entry.tcp) {
        times.closing
    } else if tcp_state::established(entry.tcp) || one_sided(entry) {
        times.established
    } else {
        times.syn
    };
    // The clock wraps after a century; a packet may be newer than our idea of now.
    now.wrapping_sub(entry.last_seen) as i32 > limit as i32
}

/// Whether this is a TCP connection that began at most `age_max` units ago and whose responder has not said anything to it but
/// handshake and acknowledgements: it may sit in a queue, on the way or in front of a server that has no CPU.
///
/// Of a translated connection this is said of the main entry, which sees what the responder says.
pub fn unanswered<A: Address>(
    key: &ConntrackKey<A>,
    entry: &ConntrackEntry<A>,
    now: u32,
    age_max: u32,
) -> bool {
    let over = entry.tcp & (tcp_state::RST | tcp_state::FIN_RESPONDER) != 0;
    let header = if A::V6 { BARE_TCP_BYTES_V6 } else { BARE_TCP_BYTES_V4 };
    let silent = entry.bytes[1] <= entry.packets[1] * header;
    let age = now.wrapping_sub(entry.created) as i32;
    leads_to_responder(key, entry) && !over && silent && age <= age_max as i32
}

/// Whether this is a TCP connection as its responder knows it: without translation, or the main entry.
pub fn leads_to_responder<A>(key: &ConntrackKey<A>, entry: &ConntrackEntry<A>) -> bool {
    key.protocol & 0xff == u32::from(protocol::TCP) && entry.flags & ct_flag::ALIAS == 0
}

/// Half of a translated connection sees one direction only: traffic at all means that the other end answered.
fn one_sided<A>(entry: &ConntrackEntry<A>) -> bool {
    let translated = entry.flags & (ct_flag::ALIAS | ct_flag::NAT) != 0;
    translated && entry.tcp & (tcp_state::SEEN_INITIATOR | tcp_state::SEEN_RESPONDER) != 0
}

/// The key of the other half of a translated connection.
pub fn other_half<A: Ordered>(key: &ConntrackKey<A>, entry: &ConntrackEntry<A>) -> Option<ConntrackKey<A>> {
    if entry.flags & (ct_flag::ALIAS | ct_flag::NAT) == 0 {
        return None;
    }
    let (mut other, _) = key_of(
        &entry.other_initiator,
        &entry.other_responder,
        entry.other_initiator_port,
        entry.other_responder_port,
        key.protocol & 0xff,
    );
    if entry.flags & ct_flag::CLASHED != 0 {
        other.protocol |= ct_protocol::CLASH;
    }
    Some(other)
}

/// Whether two entries are halves of the same connection: each names the other. A client that uses its port again gets a new
/// alias while the main entry of its last connection, which names the same alias, is still on record.
pub fn are_halves<A: Ordered>(
    one: (&ConntrackKey<A>, &ConntrackEntry<A>),
    other: (&ConntrackKey<A>, &ConntrackEntry<A>),
) -> bool
where
    ConntrackKey<A>: PartialEq,
{
    let names = |one: (&_, &_), other: (&_, &_)| other_half(one.0, one.1).as_ref() == Some(other.0);
    names(one, other) && names(other, one)
}

/// The initiator's and the responder's address and port, by the names of this entry.
pub fn ends<A: Copy>(key: &ConntrackKey<A>, entry: &ConntrackEntry<A>) -> [(A, u16); 2] {
    let (low, high) = ((key.low, key.low_port.get()), (key.high, key.high_port.get()));
    if entry.flags & ct_flag::ORIG_LOW != 0 { [low, high] } else { [high, low] }
}

#[cfg(test)]
mod tests {
    use abi::{Addr4, Port};

    use super::*;

    const TIMES: IdleTimes = IdleTimes { established: 8000, syn: 60, closing: 10, other: 30 };

    fn key(protocol: u8) -> ConntrackKey<Addr4> {
        let (low, high) = (Addr4(1), Addr4(2));
        ConntrackKey { low, high, low_port: Port::new(1), high_port: Port::new(2), protocol: protocol.into() }
    }

    fn check(protocol: u8, tcp: u32, idle: u32, expect: bool) {
        let entry = ConntrackEntry::<Addr4> { tcp, last_seen: 1000, ..Default::default() };
        assert_eq!(
            expired(&key(protocol), &entry, 1000u32.wrapping_add(idle), &TIMES),
            expect,
            "{protocol} {tcp:b} {idle}"
        );
    }

    #[test]
    fn each_state_has_its_own_patience() {
        let both = tcp_state::SEEN_INITIATOR | tcp_state::SEEN_RESPONDER;
        check(protocol::TCP, 0, 60, false);
        check(protocol::TCP, 0, 61, true);
        check(protocol::TCP, both, 61, false);
        check(protocol::TCP, both, 8001, true);
        check(protocol::TCP, both | tcp_state::RST, 11, true);
        check(protocol::TCP, both | tcp_state::FIN_INITIATOR, 11, false);
        check(protocol::UDP, 0, 31, true);
        check(protocol::UDP, 0, 0u32.wrapping_sub(1), false);
    }

    #[test]
    fn a_connection_is_answered_by_payload_not_by_acknowledgements() {
        let check = |protocol: u8, change: fn(&mut ConntrackEntry<Addr4>), expect: bool| {
            let mut entry = ConntrackEntry::<Addr4> { created: 1000, ..Default::default() };
            change(&mut entry);
            assert_eq!(unanswered(&key(protocol), &entry, 1003, 3), expect, "{entry:?}");
        };
        check(protocol::TCP, |_| {}, true);
        check(protocol::UDP, |_| {}, false);
        check(protocol::TCP, |entry| entry.created = 999, false);
        check(protocol::TCP, |entry| entry.created = 1004, true);
        check(protocol::TCP, |entry| (entry.packets[1], entry.bytes[1]) = (2, 60 + 52), true);
        check(protocol::TCP, |entry| (entry.packets[1], entry.bytes[1]) = (3, 60 + 52 + 172), false);
        check(protocol::TCP, |entry| entry.tcp = tcp_state::RST, false);
        check(protocol::TCP, |entry| entry.tcp = tcp_state::FIN_RESPONDER, false);
        check(protocol::TCP, |entry| entry.tcp = tcp_state::FIN_INITIATOR, true);
        check(protocol::TCP, |entry| entry.flags = ct_flag::ALIAS, false);
    }

    #[test]
    fn halves_name_each_other() {
        let alias = ConntrackEntry {
            flags: ct_flag::ALIAS,
            other_initiator: Addr4(9),
            other_responder: Addr4(4),
            other_initiator_port: Port::new(7),
            other_responder_port: Port::new(8),
            ..Default::default()
        };
        let main = other_half(&key(6), &alias).unwrap();
        assert_eq!((main.low, main.low_port.get(), main.high_port.get()), (Addr4(4), 8, 7));
        assert_eq!(other_half(&key(6), &ConntrackEntry { flags: 0, ..alias }), None);

        // The main entry, 4:8 <-> 9:7, names the alias by the client (2:2, which began) and the service (1:1).
        let own = ConntrackEntry {
            flags: ct_flag::NAT,
            other_initiator: Addr4(2),
            other_responder: Addr4(1),
            other_initiator_port: Port::new(2),
            other_responder_port: Port::new(1),
            ..Default::default()
        };
        assert!(are_halves((&main, &own), (&key(6), &alias)));
        let reused = ConntrackEntry { other_initiator_port: Port::new(70), ..alias };
        assert!(
            !are_halves((&main, &own), (&key(6), &reused)),
            "the client's next connection has that alias"
        );
    }
}
