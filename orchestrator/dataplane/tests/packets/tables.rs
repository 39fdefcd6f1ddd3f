//! The tables of packets, a sentence a row, through BPF_PROG_TEST_RUN.

use abi::{ConntrackEntry, ConntrackKey, FragmentKey};
use aya::Pod;
use datapath::host::World;
use datapath::host::cases::{Case, Player, all};
use datapath::{V4, V6};

use crate::kernel::{Kernel, KernelFamily, devices};

/// BPF_PROG_TEST_RUN gives a packet no tunnel to have come out of: cases that need one are played on the host only.
fn playable(case: &Case) -> bool {
    case.rows.iter().all(|row| row.at != "tunnel")
}

fn play<F: KernelFamily>()
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
    let mut played = 0;
    for case in all().filter(|case| (F::VERSION == 4 || !case.only_v4) && playable(case)) {
        kernel.forget::<F>();
        Player::default().play(&mut kernel, &world, case);
        played += 1;
    }
    assert!(played >= 15, "{played} cases were played");
}

#[test]
fn ipv4_packets_are_decided_as_the_tables_say() {
    play::<V4>();
}

#[test]
fn ipv6_packets_are_decided_as_the_tables_say() {
    play::<V6>();
}
