//! What a packet of a connection on record costs: held to a bound that only a mistake exceeds; `benches/programs.rs` tells
//! how much it is.

use abi::Hook;
use datapath::host::cases::Player;
use datapath::host::{Bytes, World, read};
use datapath::{V4, V6};

use crate::kernel::{Kernel, KernelFamily, devices};

/// Nanoseconds: several times what this kind of machine takes when it is busy.
const BOUND: u32 = 3000;

/// Nanoseconds of each kind of packet, the mean of so many runs.
pub fn costs<F: KernelFamily>(repeat: u32) -> Vec<(String, u32)>
where
    abi::ServiceKey<F::Address>: aya::Pod,
    abi::Backend<F::Address>: aya::Pod,
{
    devices();
    let mut world = World::<F>::default();
    let mut kernel = Kernel::load(&mut world);
    kernel.hold(&world);
    let mut player = Player::default();
    let mut costs = Vec::new();
    for (at, hook, ifindex, open, data) in [
        ("a", Hook::PodEgress, 110, "tcp a:1 > b:80 S", "tcp a:1 > b:80 A len 100"),
        ("a", Hook::PodEgress, 110, "tcp a:2 > r:80 S", "tcp a:2 > r:80 A len 100"),
        ("a", Hook::PodEgress, 110, "tcp a:3 > world:80 S", "tcp a:3 > world:80 A len 100"),
        ("stack", Hook::NodeEgress, 104, "tcp overlay:1 > a:80 S", "tcp overlay:1 > a:80 A len 100"),
        ("uplink", Hook::UplinkIngress, 102, "tcp world:1 > a:80 S", "tcp world:1 > a:80 A len 100"),
        ("uplink", Hook::UplinkIngress, 102, "tcp world:1 > node:22 S", "tcp world:1 > node:22 A len 100"),
        ("leaves", Hook::UplinkEgress, 102, "tcp node:22 > world:1 SA", "tcp node:22 > world:1 A len 100"),
    ] {
        player.send::<F>(&mut kernel, &world, at, open);
        let packet = Bytes::new(read::<F>(data, &world.names).build::<F>(), ifindex);
        let name = format!("IPv{} {hook:?} {}", F::VERSION, data.trim_end_matches(" A len 100"));
        costs.push((name, kernel.cost(hook, &packet, repeat)));
    }
    costs
}

fn check<F: KernelFamily>()
where
    abi::ServiceKey<F::Address>: aya::Pod,
    abi::Backend<F::Address>: aya::Pod,
{
    for (name, cost) in costs::<F>(20_000) {
        assert!(cost < BOUND, "{name} takes {cost} ns");
    }
}

#[test]
fn packets_on_record_are_cheap() {
    check::<V4>();
}

#[test]
fn packets_on_record_are_cheap_in_ipv6() {
    check::<V6>();
}
