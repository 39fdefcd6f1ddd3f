//! Tables of packets, a sentence a row: what the datapath does with each, in either family, on the host and in the kernel.
//!
//! The rows of a case follow each other through the same tables. `*` is the port that source NAT claimed.

mod pods;
mod services;
mod uplink;

use abi::Hook;

use super::frame::Frame;
use super::world::{NET, NODE2_UNDERLAY, OVERLAY, UPLINK, World};
use super::{Bytes, HostFamily, read, write};
use crate::verdict::{Kind, Verdict};

/// One packet and what becomes of it.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// A sentence.
    pub says: &'static str,
    /// Where it is seen: a pod's name, `stack` (the node's own), `uplink`, `leaves` (by the uplink), `tunnel` (from the
    /// second node), `forger` (through the tunnel from elsewhere).
    pub at: &'static str,
    /// The packet.
    pub send: &'static str,
    /// `pass`, `host`, `pod NAME`, `tunnel N`, `route`, `answer REASON`, `drop REASON`.
    pub verdict: &'static str,
    /// The packet afterwards; empty: as it was sent.
    pub gets: &'static str,
}

/// Rows that follow each other.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// What they are about.
    pub name: &'static str,
    /// They need IPv4.
    pub only_v4: bool,
    /// The packets.
    pub rows: &'static [Row],
}

/// All cases.
pub fn all() -> impl Iterator<Item = &'static Case> {
    [pods::CASES, services::CASES, uplink::CASES].into_iter().flatten()
}

/// A row.
const fn row(
    says: &'static str,
    at: &'static str,
    send: &'static str,
    verdict: &'static str,
    gets: &'static str,
) -> Row {
    Row { says, at, send, verdict, gets }
}

/// A case for both families.
const fn case(name: &'static str, rows: &'static [Row]) -> Case {
    Case { name, only_v4: false, rows }
}

/// A case for IPv4.
const fn case4(name: &'static str, rows: &'static [Row]) -> Case {
    Case { name, only_v4: true, rows }
}

/// Where packets are decided: the host's functions, or the kernel's programs.
pub trait Bench<F: HostFamily> {
    /// Decides a packet; it is changed in place.
    fn decide(&mut self, hook: Hook, packet: &mut Bytes) -> Verdict;
}

/// The port that source NAT claimed last, which `*` stands for.
#[derive(Default)]
pub struct Player {
    claimed: Option<u16>,
}

/// Ports of source NAT, as `Config::DEFAULT` has them.
const CLAIMED: core::ops::Range<u16> = 10_240..26_624;

impl Player {
    /// Sends the packets of a case; panics with the sentence of a row that does not come true.
    pub fn play<F: HostFamily>(&mut self, bench: &mut impl Bench<F>, world: &World<F>, case: &Case) {
        for row in case.rows {
            let (verdict, gets) = self.send(bench, world, row.at, row.send);
            let expected = if row.gets.is_empty() { row.send } else { row.gets };
            let expected = self.normal::<F>(world, expected);
            let context = format!("{}, IPv{}: {}", case.name, F::VERSION, row.says);
            assert_eq!(verdict, row.verdict, "{context}\n  {} {}", row.at, row.send);
            assert_eq!(gets, expected, "{context}\n  {} {}", row.at, row.send);
        }
    }

    /// Sends one packet; gives the verdict and the packet as text.
    pub fn send<F: HostFamily>(
        &mut self,
        bench: &mut impl Bench<F>,
        world: &World<F>,
        at: &str,
        text: &str,
    ) -> (String, String) {
        let text = text.replace('*', &self.claimed.unwrap_or(0).to_string());
        let frame = read::<F>(&text, &world.names);
        let (hook, mut packet) = place(world, at, frame.build::<F>());
        let verdict = bench.decide(hook, &mut packet);
        let after = Frame::parse::<F>(&packet.frame);
        let after = after.unwrap_or_else(|| panic!("{text}: what is left is no packet: {:?}", packet.frame));
        for port in [after.source_port.get(), after.destination_port.get()] {
            if CLAIMED.contains(&port) {
                self.claimed = Some(port);
            }
        }
        (tell(world, verdict), self.mark(write::<F>(&after, &world.names)))
    }

    /// A row's text as [`write`] writes it.
    fn normal<F: HostFamily>(&self, world: &World<F>, text: &str) -> String {
        let text = text.replace('*', &self.claimed.unwrap_or(0).to_string());
        self.mark(write::<F>(&quoted_as_parsed::<F>(read::<F>(&text, &world.names)), &world.names))
    }

    fn mark(&self, text: String) -> String {
        match self.claimed {
            Some(port) => text.replace(&port.to_string(), "*"),
            None => text,
        }
    }
}

/// A frame as it looks when it was built and taken apart again.
fn quoted_as_parsed<F: HostFamily>(frame: Frame) -> Frame {
    Frame::parse::<F>(&frame.build::<F>()).unwrap_or(frame)
}

/// The hook that a row names, and the packet as it is seen there.
fn place<F: HostFamily>(world: &World<F>, at: &str, frame: Vec<u8>) -> (Hook, Bytes) {
    let (hook, ifindex) = match at {
        "stack" => (Hook::NodeEgress, NET),
        "uplink" => (Hook::UplinkIngress, UPLINK),
        "leaves" => (Hook::UplinkEgress, UPLINK),
        "tunnel" | "forger" => (Hook::OverlayIngress, OVERLAY),
        pod => (Hook::PodEgress, world.ifindex(pod)),
    };
    let mut packet = Bytes::new(frame, ifindex);
    if at == "tunnel" {
        packet.tunnel_source = NODE2_UNDERLAY;
    }
    (hook, packet)
}

/// A verdict as rows have it.
pub fn tell<F: HostFamily>(world: &World<F>, verdict: Verdict) -> String {
    let reason = || abi::DropCode::from_word(verdict.argument()).and_then(abi::DropCode::reason);
    let name = || reason().map_or("?", abi::Reason::name);
    let argument = verdict.argument();
    if verdict.is(Kind::Pod) {
        let pods = world.tables.endpoints.all();
        let pod = pods.into_iter().find(|(_, endpoint)| endpoint.ifindex == argument);
        let words = pod.map(|(address, _)| crate::Address::words(&address)).unwrap_or_default();
        return format!("pod {}", world.names.name::<F>(words));
    }
    match verdict {
        v if v.is(Kind::Pass) => "pass".into(),
        v if v.is(Kind::Host) => "host".into(),
        v if v.is(Kind::Tunnel) => format!("tunnel {argument}"),
        v if v.is(Kind::Route) => "route".into(),
        v if v.is(Kind::Answer) => format!("answer {}", name()),
        v if v.is(Kind::Drop) => format!("drop {}", name()),
        other => format!("{other:?}"),
    }
}
