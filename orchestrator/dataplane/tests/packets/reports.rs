//! What the kernel's programs report and count.

use abi::names;
use abi::{DropCode, Hook, MetricValue, Port, Reason, event_kind, metric};
use aya::maps::PerCpuArray;
use datapath::host::cases::{Bench, Player};
use datapath::host::{Bytes, World};
use datapath::{Address, V4};

use crate::kernel::{Kernel, devices};

/// Packets counted at an index, over all CPUs.
fn counted(kernel: &mut Kernel, index: u32) -> u64 {
    let map = kernel.map(names::METRICS.name);
    let map = PerCpuArray::<_, MetricValue>::try_from(map).expect("a per-CPU array");
    map.get(&index, 0).expect("an element").iter().map(|value| value.packets).sum()
}

#[test]
fn drops_are_counted_and_reported_with_their_line() {
    devices();
    let mut world = World::<V4>::default();
    let mut kernel = Kernel::load(&mut world);
    kernel.hold(&world);
    let mut player = Player::default();
    player.send::<V4>(&mut kernel, &world, "a", "tcp a:1 > web:80 S");
    player.send::<V4>(&mut kernel, &world, "a", "tcp a:2 > guarded:80 S");
    player.send::<V4>(&mut kernel, &world, "a", "udp a:3 > none:80 len 9");
    let events = kernel.events();
    let kinds: Vec<u8> = events.iter().map(|event| event.kind).collect();
    assert_eq!(kinds, [event_kind::NEW, event_kind::DROP, event_kind::DROP]);

    let new = &events[0];
    assert_eq!((new.service, new.hook, new.family), (1, Hook::PodEgress as u8, 4));
    assert_eq!(new.destination, world.address("web").words());
    assert_eq!((new.backend, new.backend_port), (world.address("b").words(), Port::new(8080)));
    assert!(new.time_ns > 0);

    let code = DropCode::from_word(events[1].drop).expect("why");
    assert_eq!((code.reason(), code.source()), (Some(Reason::PolicyIngress), "datapath/src/policy.rs"));
    assert_eq!((events[1].policy, events[1].length), (datapath::host::world::GUARD, 40));
    let code = DropCode::from_word(events[2].drop).expect("why");
    assert_eq!(code.reason(), Some(Reason::NoBackend), "what is answered is reported too");

    let hook = Hook::PodEgress;
    assert_eq!(counted(&mut kernel, metric::index_of(metric::FORWARDED, hook as u32)), 1);
    assert_eq!(counted(&mut kernel, metric::index(Reason::PolicyIngress, hook)), 1);
    assert_eq!(counted(&mut kernel, metric::index(Reason::NoBackend, hook)), 1);
}

#[test]
fn frames_that_are_not_ip_are_counted() {
    devices();
    let mut world = World::<V4>::default();
    let mut kernel = Kernel::load(&mut world);
    kernel.hold(&world);
    let mut frame = vec![0u8; 60];
    frame[12..14].copy_from_slice(&0x88cc_u16.to_be_bytes());
    let _ = Bench::<V4>::decide(&mut kernel, Hook::PodEgress, &mut Bytes::new(frame, 110));
    assert_eq!(counted(&mut kernel, metric::index(Reason::NotIp, Hook::PodEgress)), 1);
}
