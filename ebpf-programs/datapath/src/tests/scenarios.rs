//! What takes a change of the tables between packets.

use abi::{
    Port, PortRange, Service, class, ct_flag, event_kind, protocol, scope, service_flag, state_flag,
    tcp_state, verdict,
};

use super::cases::Host;
use crate::host::cases::Player;
use crate::host::world::GUARD;
use crate::host::{HostFamily, World};
use crate::{Address, V4, V6};

/// A world, and who sends packets through it.
struct Rig<F: HostFamily> {
    world: World<F>,
    player: Player,
}

impl<F: HostFamily> Rig<F> {
    fn new() -> Self {
        Rig { world: World::default(), player: Player::default() }
    }

    /// Sends a packet; gives the verdict.
    fn verdict(&mut self, at: &str, text: &str) -> String {
        self.send(at, text).0
    }

    fn send(&mut self, at: &str, text: &str) -> (String, String) {
        self.player.send(&mut Host(&self.world), &self.world, at, text)
    }

    fn new_epoch(&self) {
        self.world.tables.state.update(&0, |state| state.epoch += 1);
    }

    /// Number of reports of a kind so far.
    fn reports(&self, kind: u8) -> usize {
        self.world.tables.events.borrow().iter().filter(|event| event.kind == kind).count()
    }
}

/// Runs a scenario in both families.
macro_rules! both {
    ($(#[doc = $doc:literal])* $name:ident, $rig:ident => $body:block) => {
        $(#[doc = $doc])*
        #[test]
        fn $name() {
            fn scenario<F: HostFamily>() {
                #[allow(unused_mut, reason = "some scenarios only look")]
                let mut $rig = Rig::<F>::new();
                $body
            }
            scenario::<V4>();
            scenario::<V6>();
        }
    };
}

both!(a_connection_that_a_new_policy_forbids_is_cut, rig => {
    assert_eq!(rig.verdict("a", "tcp a:1 > guarded:8080 S"), "drop PolicyIngress");
    rig.world.allow_all(GUARD, class::FIRST);
    assert_eq!(rig.verdict("a", "tcp a:1 > guarded:8080 S"), "pod guarded");
    rig.world.allow(GUARD, class::FIRST, &[]);
    assert_eq!(rig.verdict("a", "tcp a:1 > guarded:8080 A"), "pod guarded", "nothing is asked before the epoch moves");
    rig.new_epoch();
    assert_eq!(rig.verdict("guarded", "tcp guarded:8080 > a:1 A"), "drop PolicyRevoked", "asked in its own direction");
    assert_eq!(rig.verdict("a", "tcp a:1 > guarded:8080 A"), "drop PolicyIngress");
    assert_eq!(rig.verdict("friend", "tcp friend:1 > guarded:8080 S"), "pod guarded");
});

both!(an_allowed_connection_lives_through_any_number_of_epochs, rig => {
    assert_eq!(rig.verdict("friend", "tcp friend:1 > guarded:8080 S"), "pod guarded");
    assert_eq!(rig.verdict("a", "tcp a:1 > web:80 S"), "pod b");
    for _ in 0..3 {
        rig.new_epoch();
        assert_eq!(rig.verdict("guarded", "tcp guarded:8080 > friend:1 A"), "pod friend");
        assert_eq!(rig.verdict("a", "tcp a:1 > web:80 A"), "pod b");
        assert_eq!(rig.verdict("b", "tcp b:8080 > a:1 A"), "pod a");
    }
});

both!(translated_connections_live_through_epochs, rig => {
    let talks = [
        [("a", "tcp a:1 > world:443 S"), ("leaves", "tcp a:1 > world:443 S"), ("uplink", "tcp world:443 > node:* A")],
        [("a", "tcp a:2 > self:80 S"), ("a", "tcp a:8080 > overlay:* SA"), ("a", "tcp a:2 > self:80 A")],
        [("uplink", "tcp world:3 > node:30081 S"), ("tunnel", "tcp r:8080 > overlay:* SA"), ("uplink", "tcp world:3 > node:30081 A")],
        [("uplink", "tcp world:4 > node:30080 S"), ("b", "tcp b:8080 > world:4 SA"), ("uplink", "tcp world:4 > node:30080 A")],
    ];
    for talk in talks {
        for (at, text) in talk {
            rig.new_epoch();
            let verdict = rig.verdict(at, text);
            assert!(!verdict.starts_with("drop"), "{at} {text}: {verdict}");
        }
    }
});

both!(a_pod_that_may_no_longer_leave_hears_no_more, rig => {
    rig.world.allow_all(crate::host::world::TIE, class::WORLD);
    assert_eq!(rig.verdict("tied", "tcp tied:1 > world:443 S"), "pass");
    rig.verdict("leaves", "tcp tied:1 > world:443 S");
    assert_eq!(rig.verdict("uplink", "tcp world:443 > node:* SA"), "pod tied");
    rig.world.allow(crate::host::world::TIE, class::WORLD, &[]);
    rig.new_epoch();
    assert_eq!(rig.verdict("uplink", "tcp world:443 > node:* A"), "drop PolicyRevoked");
    assert_eq!(rig.verdict("tied", "tcp tied:1 > world:443 A"), "drop PolicyRevoked");
    assert_eq!(rig.verdict("tied", "tcp tied:1 > world:443 A"), "drop PolicyEgress");
});

both!(the_nodes_own_ports_are_not_given_to_pods, rig => {
    // The node uses a port of the range towards the same place.
    assert_eq!(rig.verdict("leaves", "tcp node:10240 > world:443 S"), "pass");
    rig.world.tables.turn.set(0);
    rig.verdict("a", "tcp a:1 > world:443 S");
    rig.world.tables.turn.set(0);
    let (verdict, sent) = rig.send("leaves", "tcp a:1 > world:443 S");
    assert_eq!((verdict.as_str(), sent.as_str()), ("pass", "tcp node:* > world:443 S"));
    assert_eq!(rig.verdict("uplink", "tcp world:443 > node:* SA"), "pod a");
    assert_eq!(rig.verdict("leaves", "tcp node:* > world:443 S"), "drop ConntrackClash", "and the pod's is the pod's");
    assert_eq!(rig.verdict("uplink", "tcp world:443 > node:10240 SA"), "host", "the node's own answer is its own");
});

both!(a_service_through_which_a_policy_forbids_the_backend_is_cut, rig => {
    rig.world.backend(10, "guarded", 8080, 1);
    assert_eq!(rig.verdict("friend", "tcp friend:1 > web:80 S"), "pod guarded");
    rig.world.allow(GUARD, class::FIRST + 1, &[]);
    rig.new_epoch();
    assert_eq!(rig.verdict("friend", "tcp friend:1 > web:80 A"), "drop PolicyRevoked");
});

both!(new_connections_go_to_ready_backends_and_old_ones_stay, rig => {
    assert_eq!(rig.verdict("a", "tcp a:1 > web:80 S"), "pod b");
    rig.world.backend(50, "friend", 8080, 1);
    rig.world.front(Some("web"), 80, scope::INTERNAL, Service { id: 1, base: 50, ready: 1, ready_local: 1, ..Default::default() });
    assert_eq!(rig.verdict("a", "tcp a:1 > web:80 A"), "pod b");
    assert_eq!(rig.verdict("a", "tcp a:1 > web:80 S"), "pod b", "a repeated SYN stays too");
    assert_eq!(rig.verdict("a", "tcp a:2 > web:80 S"), "pod friend");
    assert_eq!(rig.verdict("b", "tcp b:8080 > a:1 R"), "pod a");
    assert_eq!(rig.verdict("a", "tcp a:1 > web:80 S"), "pod friend", "after a reset it is chosen again");
});

both!(terminating_backends_serve_only_while_none_is_ready, rig => {
    rig.world.backend(50, "friend", 8080, 1);
    rig.world.backend(51, "b", 8080, 1);
    let service = Service { id: 1, base: 50, ready: 1, terminating: 1, ..Default::default() };
    rig.world.front(Some("web"), 80, scope::INTERNAL, service);
    for port in 1..20 {
        assert_eq!(rig.verdict("a", &format!("tcp a:{port} > web:80 S")), "pod friend");
    }
    rig.world.front(Some("web"), 80, scope::INTERNAL, Service { base: 51, ready: 0, ..service });
    assert_eq!(rig.verdict("a", "tcp a:99 > web:80 S"), "pod b");
});

both!(traffic_policy_local_uses_what_is_local, rig => {
    rig.world.backend(50, "b", 8080, 7);
    rig.world.backend(51, "r", 8080, 7);
    let service = Service { id: 7, base: 50, ready: 2, ready_local: 1, flags: service_flag::LOCAL, ..Default::default() };
    rig.world.front(None, 30084, scope::EXTERNAL, service);
    for port in 1..20 {
        assert_eq!(rig.verdict("uplink", &format!("tcp world:{port} > node:30084 S")), "pod b");
    }
});

both!(backends_are_chosen_evenly, rig => {
    for (slot, pod) in ["b", "friend", "guarded"].into_iter().enumerate() {
        rig.world.backend(50 + slot as u32, pod, 8080, 1);
    }
    rig.world.allow_all(GUARD, class::ANY);
    rig.world.allow_all(GUARD, class::FIRST);
    rig.world.front(Some("web"), 80, scope::INTERNAL, Service { id: 1, base: 50, ready: 3, ..Default::default() });
    let mut counts = std::collections::HashMap::new();
    for port in 1..=300 {
        *counts.entry(rig.verdict("a", &format!("tcp a:{port} > web:80 S"))).or_insert(0) += 1;
    }
    assert!(counts.len() == 3 && counts.values().all(|count| (80..=120).contains(count)), "{counts:?}");
});

both!(affinity_keeps_a_client_until_it_times_out, rig => {
    for (slot, pod) in ["b", "friend"].into_iter().enumerate() {
        rig.world.backend(50 + slot as u32, pod, 8080, 1);
    }
    let service = Service { id: 1, base: 50, ready: 2, affinity_seconds: 100, ..Default::default() };
    rig.world.front(Some("web"), 80, scope::INTERNAL, service);
    let first = rig.verdict("a", "tcp a:1 > web:80 S");
    for port in 2..30 {
        assert_eq!(rig.verdict("a", &format!("tcp a:{port} > web:80 S")), first);
    }
    // The service changes: the slice moves, and a backend comes in front of the client's.
    rig.world.backend(60, "guarded", 8080, 1);
    rig.world.backend(61, "b", 8080, 1);
    rig.world.backend(62, "friend", 8080, 1);
    rig.world.front(Some("web"), 80, scope::INTERNAL, Service { base: 60, ready: 3, ..service });
    assert_eq!(rig.verdict("a", "tcp a:40 > web:80 S"), first);
    let now = rig.world.tables.now.get();
    rig.world.tables.now.set(now + 101);
    let later: std::collections::HashSet<String> = (50..80)
        .map(|port| {
            rig.world.tables.affinity.remove(&abi::AffinityKey { client: rig.world.address("a"), service: 1 });
            rig.verdict("a", &format!("tcp a:{port} > web:80 S"))
        })
        .collect();
    assert!(later.len() > 1, "forgotten, it may go anywhere: {later:?}");
});

both!(a_full_table_refuses_and_says_so, rig => {
    rig.world.tables.conntrack.limit(2);
    assert_eq!(rig.verdict("a", "tcp a:1 > b:80 S"), "pod b");
    assert_eq!(rig.verdict("a", "tcp a:2 > web:80 S"), "drop ConntrackFull", "a translated flow takes two");
    assert_eq!(rig.world.tables.conntrack.len(), 1, "and leaves no half behind");
    assert_eq!(rig.verdict("a", "tcp a:2 > b:80 S"), "pod b");
    assert_eq!(rig.verdict("a", "tcp a:3 > b:80 S"), "drop ConntrackFull");
    assert_eq!(rig.verdict("b", "tcp b:80 > a:1 SA"), "pod a", "live ones go on");
});

both!(under_pressure_the_heaviest_are_refused, rig => {
    rig.world.tables.heavy_sources.put(rig.world.address("a"), 1);
    assert_eq!(rig.verdict("a", "tcp a:1 > b:80 S"), "pod b");
    rig.world.tables.state.update(&0, |state| state.flags = state_flag::CONNTRACK_PRESSURE);
    assert_eq!(rig.verdict("a", "tcp a:1 > b:80 A"), "pod b");
    assert_eq!(rig.verdict("a", "tcp a:2 > b:80 S"), "drop HeavySource");
    assert_eq!(rig.verdict("b", "tcp b:1 > a:80 S"), "pod a");
});

both!(a_full_policy_map_denies_with_a_reason_of_its_own, rig => {
    rig.world.tables.policy.remove(&abi::PolicyKey { policy: GUARD, class: class::ANY });
    assert_eq!(rig.verdict("a", "tcp a:1 > guarded:80 S"), "drop PolicyIngress");
    rig.world.tables.state.update(&0, |state| state.flags = state_flag::POLICY_FULL);
    assert_eq!(rig.verdict("a", "tcp a:1 > guarded:80 S"), "drop PolicyTableFull");
});

both!(many_port_ranges_are_searched, rig => {
    // Every third port from 3000 on, and the same in UDP behind it.
    let count = 700;
    for i in 0..count {
        let range = |protocol, index: u32| PortRange {
            protocol,
            verdict: verdict::ALLOW,
            first: 3000 + 3 * i as u16,
            last: 3000 + 3 * i as u16,
            rule: index as u16,
        };
        rig.world.tables.policy_ranges.put(5000 + i, range(protocol::TCP, i));
    }
    // What lies behind a slice is another's.
    for i in count..2048 {
        rig.world.tables.policy_ranges.put(5000 + i, PortRange::default());
    }
    let entry = abi::PolicyEntry { rule_base: 10, ranges_base: 5000, count, ..Default::default() };
    rig.world.tables.policy.put(abi::PolicyKey { policy: GUARD, class: class::FIRST }, entry);
    for (port, expected) in [(3000, "pod guarded"), (3001, "drop PolicyIngress"), (2999, "drop PolicyIngress"),
        (3003, "pod guarded"), (5097, "pod guarded"), (5098, "drop PolicyIngress"), (5100, "drop PolicyIngress"), (4500, "pod guarded")] {
        assert_eq!(rig.verdict("a", &format!("tcp a:1 > guarded:{port} S")), expected, "{port}");
        assert_eq!(rig.verdict("a", &format!("udp a:1 > guarded:{port}")), "drop PolicyIngress", "{port}");
    }
    let flow = rig.world.tables.last_flow();
    assert_eq!((flow.judged_by, flow.rule), (GUARD, 10));
});

both!(every_port_of_source_nat_is_used_before_it_gives_up, rig => {
    rig.world.tables.config.get_mut().snat_mask = 3;
    let mut failed = 0;
    for host_port in 1..=5 {
        let verdict = rig.verdict("uplink", &format!("tcp world:{host_port} > node:30081 S"));
        failed += usize::from(verdict == "drop SnatExhausted");
    }
    assert_eq!(failed, 1, "four ports for five clients of one backend");
});

both!(a_source_port_is_free_again_when_its_connection_is_over, rig => {
    rig.world.tables.config.get_mut().snat_mask = 3;
    let first = rig.world.tables.config.get_mut().snat_first;
    let open = |rig: &mut Rig<F>, port: u16| rig.verdict("uplink", &format!("tcp world:{port} > node:30081 S"));
    for client in 1..=4 {
        assert_eq!(open(&mut rig, client), "tunnel 2");
    }
    assert_eq!(open(&mut rig, 5), "drop SnatExhausted");
    for close in [format!("tcp r:8080 > overlay:{} FA", first + 2), format!("tcp r:8080 > overlay:{} R", first + 3)] {
        rig.verdict("tunnel", &close);
    }
    assert_eq!(open(&mut rig, 6), "tunnel 2", "reset: over");
    assert_eq!(rig.world.tables.last_flow().from_port.get(), first + 3);
    assert_eq!(open(&mut rig, 7), "drop SnatExhausted", "half closed: not over");
    rig.verdict("uplink", "tcp world:3 > node:30081 FA");
    assert_eq!(open(&mut rig, 8), "tunnel 2", "closed by both: over");
    assert_eq!(rig.world.tables.last_flow().from_port.get(), first + 2);
    // What is late of the connection before does not end the new one.
    rig.verdict("uplink", "tcp world:3 > node:30081 R");
    assert_eq!(rig.verdict("tunnel", &format!("tcp r:8080 > overlay:{} SA", first + 2)), "route");
});

both!(a_question_that_was_answered_gives_its_source_port_back, rig => {
    rig.world.tables.config.get_mut().snat_mask = 0;
    let ask = |rig: &mut Rig<F>, port: u16| {
        rig.verdict("a", &format!("udp a:{port} > world:53"));
        rig.verdict("leaves", &format!("udp a:{port} > world:53"))
    };
    assert_eq!(ask(&mut rig, 1), "pass");
    assert_eq!(rig.verdict("uplink", "udp world:53 > node:*"), "pod a");
    assert_eq!(ask(&mut rig, 2), "drop SnatExhausted", "it may ask again");
    rig.world.tables.now.set(rig.world.tables.now.get() + 6);
    assert_eq!(ask(&mut rig, 2), "pass");
    for _ in 0..2 {
        assert_eq!(rig.verdict("uplink", "udp world:53 > node:*"), "pod a");
    }
    rig.world.tables.now.set(rig.world.tables.now.get() + 6);
    assert_eq!(ask(&mut rig, 3), "drop SnatExhausted", "a conversation keeps its port");
});

both!(ends_are_reported_once_with_all_counters, rig => {
    for (at, packet) in [
        ("a", "tcp a:1 > web:80 S"),
        ("b", "tcp b:8080 > a:1 SA"),
        ("a", "tcp a:1 > web:80 A len 100"),
        ("a", "tcp a:1 > web:80 FA"),
        ("b", "tcp b:8080 > a:1 FA"),
        ("a", "tcp a:1 > web:80 A"),
        ("a", "tcp a:1 > web:80 R"),
    ] {
        rig.verdict(at, packet);
    }
    assert_eq!((rig.reports(event_kind::NEW), rig.reports(event_kind::CLOSE)), (1, 1));
    let events = rig.world.tables.events.borrow();
    let close = events.iter().find(|event| event.kind == event_kind::CLOSE).unwrap();
    assert_eq!(close.source, rig.world.address("a").words());
    assert_eq!(close.destination, rig.world.address("web").words());
    assert_eq!(close.backend, rig.world.address("b").words());
    assert_eq!((close.destination_port, close.backend_port), (Port::new(80), Port::new(8080)));
    assert_eq!(close.packets, [3, 2]);
    assert_eq!((close.service, close.source_class), (1, class::FIRST));
});

both!(both_halves_of_a_translated_connection_know_its_end, rig => {
    rig.verdict("a", "tcp a:1 > web:80 S");
    rig.verdict("b", "tcp b:8080 > a:1 SA");
    rig.verdict("b", "tcp b:8080 > a:1 RA");
    let entries = rig.world.tables.conntrack.all();
    assert_eq!(entries.len(), 2);
    for (_, entry) in entries {
        assert!(tcp_state::closed(entry.tcp), "{entry:?}");
        assert!(entry.flags & ct_flag::CLOSE_REPORTED != 0);
    }
});

both!(a_late_end_does_not_end_the_next_connection, rig => {
    assert_eq!(rig.verdict("a", "tcp a:1 > web:80 S"), "pod b");
    rig.verdict("b", "tcp b:8080 > a:1 SA");
    rig.verdict("a", "tcp a:1 > web:80 R");
    // The client takes its port again, and the service has another backend now.
    rig.world.backend(10, "friend", 8080, 1);
    assert_eq!(rig.verdict("a", "tcp a:1 > web:80 S"), "pod friend");
    rig.verdict("b", "tcp b:8080 > a:1 FA");
    let entries = rig.world.tables.conntrack.all();
    let to_friend = rig.world.address("friend");
    let alias = entries.iter().find(|(_, entry)| entry.other_responder == to_friend).unwrap().1;
    assert_eq!(alias.tcp & tcp_state::ENDING, 0, "{alias:?}");
});

both!(a_packet_that_does_not_fit_the_tunnel_is_answered, rig => {
    let (verdict, packet) = rig.send("a", "udp a:1 > r:80 len 1500 df");
    assert_eq!(verdict, "answer TooBig");
    assert!(packet.starts_with(if F::VERSION == 4 { "icmp 3/4 r > a" } else { "icmp 2/0 r > a" }), "{packet}");
    assert_eq!(rig.verdict("a", "udp a:1 > b:80 len 1500 df"), "pod b", "on the node it does");
    assert_eq!(rig.verdict("a", "udp a:1 > r:80 len 1000 df"), "tunnel 2");
});

both!(drops_are_reported_with_their_line, rig => {
    rig.verdict("a", "tcp a:1 > guarded:80 S");
    let events = rig.world.tables.events.borrow();
    let event = events.last().unwrap();
    let code = abi::DropCode::from_word(event.drop).unwrap();
    assert_eq!((event.kind, code.reason()), (event_kind::DROP, Some(abi::Reason::PolicyIngress)));
    assert_eq!(code.source(), "datapath/src/policy.rs");
    assert!(code.line() > 0);
    assert_eq!((event.policy, event.rule, event.service), (GUARD, GUARD * 100, 0));
    assert_eq!(event.ifindex, rig.world.ifindex("a"));
});

both!(without_the_tunnel_pods_elsewhere_are_routed, rig => {
    rig.world.tables.config.get_mut().features &= !abi::feature::VXLAN;
    assert_eq!(rig.verdict("a", "tcp a:1 > r:80 S"), "route");
    assert_eq!(rig.verdict("uplink", "tcp r:80 > a:1 SA"), "pod a");
    assert_eq!(rig.verdict("uplink", "tcp r:5 > a:80 S"), "pod a");
    assert_eq!(rig.verdict("a", "tcp a:80 > r:5 SA"), "route");
    assert_eq!(rig.verdict("leaves", "tcp a:80 > r:5 SA"), "pass");
    assert_eq!(rig.send("uplink", "tcp world:5 > node:30081 S"), ("route".into(), "tcp overlay:* > r:8080 S".into()));
    assert_eq!(rig.send("uplink", "tcp r:8080 > overlay:* SA"), ("route".into(), "tcp node:30081 > world:5 SA".into()));
    assert_eq!(rig.verdict("uplink", "tcp b:5 > a:80 S"), "drop Spoofed");
    assert_eq!(rig.verdict("a", "udp a:1 > r:80 len 1500 df"), "route", "no tunnel, no smaller packets");
});

mod sockets {
    use super::*;
    use crate::socket::{Request, connect, release, reverse};

    fn request<F: HostFamily>(world: &World<F>, name: &str, port: u16) -> Request<F::Address> {
        Request {
            address: world.address(name),
            port: Port::new(port),
            protocol: protocol::TCP,
            socket: 77,
            netns: 5,
        }
    }

    both!(a_socket_is_pointed_at_a_backend_and_told_the_service, rig => {
        let tables = &rig.world.tables;
        let mut asked = request(&rig.world, "web", 80);
        assert_eq!(connect::<F, _>(tables, &mut asked), Ok(true));
        assert_eq!((asked.address, asked.port), (rig.world.address("b"), Port::new(8080)));
        let mut peer = asked;
        assert!(reverse::<F, _>(tables, &mut peer));
        assert_eq!((peer.address, peer.port), (rig.world.address("web"), Port::new(80)));
        release::<F, _>(tables, &asked);
        assert!(!reverse::<F, _>(tables, &mut asked));
    });

    both!(what_is_no_service_is_left_alone, rig => {
        for (name, port) in [("b", 8080), ("world", 80), ("node", 22), ("b", 30080), ("web", 81)] {
            let mut asked = request(&rig.world, name, port);
            assert_eq!(connect::<F, _>(&rig.world.tables, &mut asked), Ok(false), "{name}:{port}");
        }
    });

    both!(node_ports_of_any_node_are_services, rig => {
        for name in ["node", "node2", "overlay2"] {
            let mut asked = request(&rig.world, name, 30081);
            assert_eq!(connect::<F, _>(&rig.world.tables, &mut asked), Ok(true), "{name}");
            assert_eq!(asked.address, rig.world.address("r"));
        }
    });

    both!(a_service_without_backends_refuses, rig => {
        let mut asked = request(&rig.world, "none", 80);
        let refused = connect::<F, _>(&rig.world.tables, &mut asked).unwrap_err();
        assert_eq!(refused.reason(), Some(abi::Reason::NoBackend));
    });
}
