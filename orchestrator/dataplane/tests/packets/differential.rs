//! Random and damaged packets: the kernel decides each as the host's functions do, to the source line and the byte.
//!
//! Where the datapath takes a random number (a SNAT port), the two may differ in it: such flows are left out, and the
//! tables of packets look at them.

use std::env;

use abi::{ConntrackEntry, ConntrackKey, FragmentKey, Hook};
use aya::Pod;
use datapath::host::{Bytes, World, read, run};
use datapath::{Silent, V4, V6, Verdict};

use crate::kernel::{Kernel, KernelFamily, devices};

/// Packets of one family in a test; `BOWSPRIT_PACKETS` asks for more.
const PACKETS: u32 = 20_000;

/// Packets after which both sides forget their connections: enough for tuples to meet again.
const PACKETS_OF_A_ROUND: u32 = 200;

/// A generator that anyone can run again: SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    fn of<'a>(&mut self, items: &[&'a str]) -> &'a str {
        items[self.below(items.len())]
    }
}

/// Places whose flows need no random number: no SNAT, one backend a Service.
const PLACES: &[&str] = &[
    "a", "b", "friend", "guarded", "tied", "new", "r", "ghost", "gone", "node", "node2", "overlay", "world",
    "web", "far", "host", "ext", "none", "nobody",
];
const PORTS: &[&str] = &["1", "80", "443", "8080", "53", "30080", "30083", "30099", "6443"];
const FLAGS: &[&str] = &["S", "S", "SA", "A", "FA", "R", "RA", "S len 40", "A ack 7 len 9"];
const HOOKS: [Hook; 5] =
    [Hook::PodEgress, Hook::PodEgress, Hook::NodeEgress, Hook::UplinkIngress, Hook::OverlayIngress];
const DEVICES: [u32; 7] = [110, 111, 112, 113, 114, 115, 104];

/// A packet's line.
fn line(random: &mut Random) -> String {
    let (from, to) = (random.of(PLACES), random.of(PLACES));
    let (sport, dport) = (random.of(PORTS), random.of(PORTS));
    match random.below(10) {
        0 => format!("udp {from}:{sport} > {to}:{dport} len {}", random.below(60)),
        1 => format!("echo {from} > {to} id {sport}"),
        2 => format!("icmp 3/{} {from} > {to} : tcp {to}:{dport} > {from}:{sport}", random.below(5)),
        3 => format!("icmp 3/3 {from} > {to} : udp {to}:{dport} > {}:{sport}", random.of(PLACES)),
        4 => format!("sctp {from}:{sport} > {to}:{dport}"),
        _ => format!("tcp {from}:{sport} > {to}:{dport} {}", random.of(FLAGS)),
    }
}

/// Every third packet loses or changes some bytes.
fn damage(random: &mut Random, frame: &mut Vec<u8>) {
    if random.below(3) != 0 {
        return;
    }
    for _ in 0..1 + random.below(3) {
        let at = 14 + random.below(frame.len() - 14);
        frame[at] ^= 1 << random.below(8);
    }
    if random.below(4) == 0 {
        // BPF_PROG_TEST_RUN takes no frame without a network header.
        frame.truncate((14 + random.below(frame.len() - 13)).max(54));
    }
}

/// Whether a verdict depends on chance: a SNAT port was claimed, or looked for.
fn by_chance<F: KernelFamily>(world: &World<F>) -> bool {
    let flow = world.tables.last_flow();
    flow.decided & (datapath::flow::decided::SOURCE | datapath::flow::decided::CLASH) != 0
}

fn compare<F: KernelFamily>(seed: u64)
where
    ConntrackKey<F::Address>: Pod,
    ConntrackEntry<F::Address>: Pod,
    FragmentKey<F::Address>: Pod,
    abi::ServiceKey<F::Address>: Pod,
    abi::Backend<F::Address>: Pod,
{
    devices();
    let mut world = World::<F>::default();
    let mut kernel = Kernel::load(&mut world);
    kernel.hold(&world);
    let mut random = Random(seed);
    let packets = env::var("BOWSPRIT_PACKETS").ok().and_then(|count| count.parse().ok()).unwrap_or(PACKETS);
    let (mut sent, mut dropped) = (0, 0);
    while sent < packets {
        kernel.forget::<F>();
        world.tables.conntrack.clear();
        world.tables.fragments.clear();
        let mut history = Vec::new();
        for _ in 0..PACKETS_OF_A_ROUND {
            let text = line(&mut random);
            let mut frame = read::<F>(&text, &world.names).build::<F>();
            damage(&mut random, &mut frame);
            let hook = HOOKS[random.below(HOOKS.len())];
            let ifindex = DEVICES[random.below(DEVICES.len())];
            let mut here = Bytes::new(frame, ifindex);
            // No tunnel source: BPF_PROG_TEST_RUN cannot give one either.
            here.tunnel_source = [u32::MAX; 4];
            let mut there = here.clone();
            history.push(format!("{hook:?} on {ifindex}: {text}"));
            let mine: Verdict = run(&world.tables, &mut here, hook, &mut Silent);
            if by_chance(&world) {
                break;
            }
            let its = kernel.decide_as::<F>(hook, &mut there);
            let context =
                || format!("IPv{}, seed {seed}, packet {sent}:\n{}", F::VERSION, history.join("\n"));
            assert_eq!(format!("{mine:?}"), format!("{its:?}"), "{}", context());
            assert_eq!(here.frame, there.frame, "bytes after {mine:?}, {}", context());
            sent += 1;
            dropped += u32::from(mine.dropped().is_some());
        }
    }
    println!("IPv{}: {sent} packets decided alike, {dropped} of them dropped", F::VERSION);
    assert!(dropped > sent / 20 && dropped < sent, "the packets are worth sending");
}

#[test]
fn ipv4_packets_are_decided_alike() {
    compare::<V4>(4);
}

#[test]
fn ipv6_packets_are_decided_alike() {
    compare::<V6>(6);
}
