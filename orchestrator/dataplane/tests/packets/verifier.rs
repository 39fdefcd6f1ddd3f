//! Every program loads, within budgets that a change must not exceed unseen.

use abi::names::program;
use aya::programs::{Program, ProgramInfo};
use aya::{Ebpf, EbpfLoader};

use crate::kernel::OBJECT;

/// Instructions the verifier may walk for one program; the kernel's own limit is a million. `uplink_ingress` passed 20,000
/// with the search for a source port: 64 tries instead of 8, and tuples whose connections are over are taken over.
pub const VERIFIED_MAX: u32 = 22_000;

/// The object, DWARF stripped and BTF kept, in bytes: it is part of the binary.
const OBJECT_MAX: usize = 1 << 20;

/// All programs of the object.
fn programs() -> impl Iterator<Item = &'static str> {
    program::TCX.iter().chain(program::SOCK_ADDR).copied().chain([program::SOCK_RELEASE])
}

fn load(ebpf: &mut Ebpf, name: &str) -> ProgramInfo {
    let result = match ebpf.program_mut(name).unwrap_or_else(|| panic!("no program is called {name}")) {
        Program::SchedClassifier(program) => {
            dataplane::patiently(|| program.load()).and_then(|()| program.info())
        }
        Program::CgroupSockAddr(program) => {
            dataplane::patiently(|| program.load()).and_then(|()| program.info())
        }
        Program::CgroupSock(program) => dataplane::patiently(|| program.load()).and_then(|()| program.info()),
        other => panic!("{name} is a {:?}", other.prog_type()),
    };
    result.unwrap_or_else(|error| panic!("{name}: {error:?}"))
}

/// Every program as the kernel has it.
pub fn loaded() -> Vec<(&'static str, ProgramInfo)> {
    let mut loader = EbpfLoader::new();
    for spec in abi::names::MAPS.iter().filter(|spec| spec.max_entries > 8192) {
        loader.map_max_entries(spec.name, 8192);
    }
    let mut ebpf = loader.load(OBJECT).expect("the object loads");
    programs().map(|name| (name, load(&mut ebpf, name))).collect()
}

/// Instructions that the verifier walked.
pub fn verified(info: &ProgramInfo) -> u32 {
    info.verified_instruction_count().expect("kernels since 5.16 tell")
}

#[test]
fn the_verifier_accepts_every_program_within_its_budget() {
    let all = loaded().into_iter().map(|(name, info)| (name, verified(&info)));
    let over: Vec<_> = all.filter(|(_, verified)| *verified > VERIFIED_MAX).collect();
    assert!(over.is_empty(), "over {VERIFIED_MAX} verified instructions: {over:?}");
}

#[test]
fn the_object_is_small() {
    assert!(OBJECT.len() < OBJECT_MAX, "{} bytes", OBJECT.len());
}
