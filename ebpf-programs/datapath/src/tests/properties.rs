//! What holds for any packet.

use abi::Hook;
use proptest::prelude::*;

use crate::host::cases::Player;
use crate::host::world::{NODE2_UNDERLAY, World};
use crate::host::{Bytes, Frame, HostFamily, run};
use crate::{Kind, Silent, V4, V6};

use super::cases::Host;

const HOOKS: [Hook; 5] =
    [Hook::PodEgress, Hook::NodeEgress, Hook::UplinkIngress, Hook::UplinkEgress, Hook::OverlayIngress];

/// A packet between places that exist, damaged at some bytes, cut somewhere.
fn damaged<F: HostFamily>(world: &World<F>, text: &str, damage: &[(u16, u8)], cut: usize) -> Vec<u8> {
    let mut frame = crate::host::read::<F>(text, &world.names).build::<F>();
    for (at, value) in damage {
        let at = *at as usize % frame.len();
        frame[at] ^= value;
    }
    frame.truncate(cut.max(14));
    frame
}

/// Lines of packets between the test cluster's places.
pub(super) fn line() -> impl Strategy<Value = String> {
    let place = prop::sample::select(vec![
        "a", "b", "friend", "guarded", "tied", "r", "ghost", "gone", "node", "node2", "overlay", "world",
        "web", "far", "self", "host", "ext", "none",
    ]);
    let port = prop::sample::select(vec![1u16, 80, 443, 8080, 30080, 30081, 30083, 10300, 53]);
    let kind = prop::sample::select(vec!["tcp", "tcp", "tcp", "udp", "sctp", "echo", "icmp 3/3", "icmp 3/4"]);
    let flags = prop::sample::select(vec!["S", "SA", "A", "FA", "R", "RA", "S len 40"]);
    (kind, place.clone(), port.clone(), place, port, flags).prop_map(
        |(kind, from, sport, to, dport, flags)| match kind {
            "tcp" => format!("tcp {from}:{sport} > {to}:{dport} {flags}"),
            "echo" => format!("echo {from} > {to} id {sport}"),
            "udp" | "sctp" => format!("{kind} {from}:{sport} > {to}:{dport} len 40"),
            error => format!("{error} {from} > {to} : tcp {to}:{dport} > {from}:{sport}"),
        },
    )
}

fn survives<F: HostFamily>(world: &World<F>, frame: Vec<u8>, hook: Hook, ifindex: u32) {
    let mut packet = Bytes { tunnel_source: NODE2_UNDERLAY, ..Bytes::new(frame.clone(), ifindex) };
    let verdict = run(&world.tables, &mut packet, hook, &mut Silent);
    assert!(verdict.kind() <= Kind::Drop as u32, "{verdict:?} is no verdict");
    if verdict.is(Kind::Drop) {
        assert!(verdict.dropped().and_then(abi::DropCode::reason).is_some());
        assert_eq!(packet.frame, frame, "what is dropped was not touched");
    }
}

/// A whole packet stays whole: every checksum holds after any decision.
fn stays_right<F: HostFamily>(world: &World<F>, text: &str, hook: Hook, ifindex: u32) {
    let frame = crate::host::read::<F>(text, &world.names).build::<F>();
    let mut packet = Bytes { tunnel_source: NODE2_UNDERLAY, ..Bytes::new(frame, ifindex) };
    let verdict = run(&world.tables, &mut packet, hook, &mut Silent);
    let after = Frame::parse::<F>(&packet.frame).expect("still a packet");
    assert!(after.wrong.is_empty(), "{text} at {hook:?}: {verdict:?}, {:?}", after.wrong);
}

/// Whoever opens a connection through a Service hears from the Service, whatever happened in between.
fn answers_come_back<F: HostFamily>(noise: &[(String, usize)], service: &str, port: u16) {
    let world = World::<F>::default();
    let mut player = Player::default();
    let mut bench = Host(&world);
    for (text, hook) in noise {
        stays_right(&world, text, HOOKS[*hook], world.ifindex("a"));
    }
    let open = format!("tcp a:5555 > {service}:{port} S");
    let (verdict, sent) = player.send(&mut bench, &world, "a", &open);
    let mut words = sent.split_whitespace();
    let (from, to) = (words.nth(1).unwrap().to_owned(), words.nth(1).unwrap().to_owned());
    let at = match verdict.as_str() {
        "tunnel 2" => "tunnel",
        "host" => "stack",
        pod => pod.strip_prefix("pod ").unwrap_or_else(|| panic!("{open}: {verdict}")),
    };
    let (_, heard) = player.send(&mut bench, &world, at, &format!("tcp {to} > {from} SA"));
    assert_eq!(heard, format!("tcp {service}:{port} > a:5555 SA"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn no_packet_does_harm(
        lines in prop::collection::vec((line(), 0usize..5, 110u32..116), 1..12),
        damage in prop::collection::vec((0u16..120, 1u8..), 0..3),
        cut in 14usize..200,
    ) {
        let (v4, v6) = (World::<V4>::default(), World::<V6>::default());
        for (text, hook, ifindex) in &lines {
            survives(&v4, damaged(&v4, text, &damage, cut), HOOKS[*hook], *ifindex);
            survives(&v6, damaged(&v6, text, &damage, cut), HOOKS[*hook], *ifindex);
        }
    }

    #[test]
    fn checksums_hold(lines in prop::collection::vec((line(), 0usize..5, 110u32..116), 1..12)) {
        let (v4, v6) = (World::<V4>::default(), World::<V6>::default());
        for (text, hook, ifindex) in &lines {
            stays_right(&v4, text, HOOKS[*hook], *ifindex);
            stays_right(&v6, text, HOOKS[*hook], *ifindex);
        }
    }

    #[test]
    fn a_client_hears_from_its_service(
        noise in prop::collection::vec((line(), 0usize..5), 0..20),
        which in prop::sample::select(vec![("web", 80), ("far", 80), ("self", 80), ("host", 443), ("node2", 30080)]),
    ) {
        answers_come_back::<V4>(&noise, which.0, which.1);
        answers_come_back::<V6>(&noise, which.0, which.1);
    }
}
