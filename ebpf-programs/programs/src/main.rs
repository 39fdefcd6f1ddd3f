//! The eBPF programs: maps behind the datapath's `Tables`, socket buffers behind its `Packet`, one thin entry point a
//! hook. No decision is taken here; see the `datapath` crate.
#![no_std]
#![no_main]

mod log;
mod maps;
mod output;
mod packet;
mod sock;
mod stages;
mod tables;
mod tc;

/// A program cannot unwind, and the verifier refuses one that could reach this loop.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// Some helpers are for programs under a licence that the kernel takes for free; Apache-2.0 is not on its list, and
/// this dual declaration covers the object that links them.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
