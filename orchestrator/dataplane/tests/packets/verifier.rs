//! Every program loads, within budgets that a change must not exceed unseen.

use abi::names::program;
use aya::programs::{Program, ProgramInfo};
use aya::{Ebpf, EbpfLoader};

use crate::kernel::OBJECT;

/// Instructions the verifier may walk for one program; the kernel's own limit is a million.
const VERIFIED_MAX: u32 = 20_000;

/// The object, DWARF stripped and BTF kept, in bytes: it is part of the binary.
const OBJECT_MAX: usize = 1 << 20;

/// All programs of the object.
fn programs() -> impl Iterator<Item = &'static str> {
    program::TCX.iter().chain(program::SOCK_ADDR).copied().chain([program::SOCK_RELEASE])
}

fn load(ebpf: &mut Ebpf, name: &str) -> ProgramInfo {
    let result = match ebpf.program_mut(name).unwrap_or_else(|| panic!("no program is called {name}")) {
        Program::SchedClassifier(program) => program.load().and_then(|()| program.info()),
        Program::CgroupSockAddr(program) => program.load().and_then(|()| program.info()),
        Program::CgroupSock(program) => program.load().and_then(|()| program.info()),
        other => panic!("{name} is a {:?}", other.prog_type()),
    };
    result.unwrap_or_else(|error| panic!("{name}: {error:?}"))
}

#[test]
fn the_verifier_accepts_every_program_within_its_budget() {
    let mut loader = EbpfLoader::new();
    for spec in abi::names::MAPS.iter().filter(|spec| spec.max_entries > 8192) {
        loader.map_max_entries(spec.name, 8192);
    }
    let mut ebpf = loader.load(OBJECT).expect("the object loads");
    let mut over = Vec::new();
    for name in programs() {
        let info = load(&mut ebpf, name);
        let verified = info.verified_instruction_count().unwrap_or(0);
        let translated = info.size_translated().unwrap_or(0) / 8;
        println!(
            "{name:18} verified {verified:6}  instructions {translated:6}  machine code {:6} B",
            info.size_jitted()
        );
        if verified > VERIFIED_MAX {
            over.push((name, verified));
        }
    }
    assert!(over.is_empty(), "over {VERIFIED_MAX} verified instructions: {over:?}");
}

#[test]
fn the_object_is_small() {
    assert!(OBJECT.len() < OBJECT_MAX, "{} bytes", OBJECT.len());
}
