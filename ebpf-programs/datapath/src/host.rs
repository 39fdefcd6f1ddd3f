//! The datapath outside the kernel: tables of ordinary collections and packets of bytes, for tests and for `trace`.

mod bytes;
pub mod cases;
mod frame;
mod memory;
mod text;
pub mod world;

pub use bytes::Bytes;
pub use frame::{Body, Frame, Transport};
pub use memory::{Memory, Table};
pub use text::{Names, read, write};
pub use world::{HostFamily, World};

use abi::Hook;

use crate::context::{AtNode, AtOverlay, AtPod, AtUplink, Context};
use crate::hooks::{decide, refuse};
use crate::leave::uplink_egress;
use crate::observe::Observer;
use crate::verdict::Verdict;

/// Decides a packet as the program of a hook does, its drop reported and answered.
pub fn run<F: HostFamily, O: Observer>(
    tables: &Memory<F>,
    packet: &mut Bytes,
    hook: Hook,
    observer: &mut O,
) -> Verdict {
    let mut cx = Context::<F, _, _, _>::new(packet, tables, observer);
    let verdict = match hook {
        Hook::PodEgress => decide::<F, AtPod, _, _, _>(&mut cx),
        Hook::NodeEgress => decide::<F, AtNode, _, _, _>(&mut cx),
        Hook::UplinkIngress => decide::<F, AtUplink, _, _, _>(&mut cx),
        Hook::OverlayIngress => decide::<F, AtOverlay, _, _, _>(&mut cx),
        Hook::UplinkEgress | Hook::Socket => uplink_egress(&mut cx),
    };
    refuse(&mut cx, hook as u8, verdict)
}
