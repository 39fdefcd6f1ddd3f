//! Every case of [`host::cases`](crate::host::cases), in both families.

use abi::Hook;

use crate::host::cases::{Bench, Player, all};
use crate::host::{Bytes, HostFamily, World, run};
use crate::{Silent, V4, V6, Verdict};

/// The host's functions over a world's tables.
pub(super) struct Host<'w, F: HostFamily>(pub(super) &'w World<F>);

impl<F: HostFamily> Bench<F> for Host<'_, F> {
    fn decide(&mut self, hook: Hook, packet: &mut Bytes) -> Verdict {
        run(&self.0.tables, packet, hook, &mut Silent)
    }
}

fn play<F: HostFamily>() {
    for case in all().filter(|case| F::VERSION == 4 || !case.only_v4) {
        let world = World::<F>::default();
        Player::default().play(&mut Host(&world), &world, case);
    }
}

#[test]
fn ipv4_packets_are_decided_as_the_tables_say() {
    play::<V4>();
}

#[test]
fn ipv6_packets_are_decided_as_the_tables_say() {
    play::<V6>();
}
