//! What the eBPF programs cost: nanoseconds of a packet on record by BPF_PROG_TEST_RUN's own clock, and what the verifier
//! walks at load. Needs root; `cargo xtask bench programs`.

#[path = "../tests/packets/cost.rs"]
#[allow(dead_code, unused_imports, reason = "the tests in it are none here")]
mod cost;
#[path = "../tests/packets/kernel.rs"]
#[allow(dead_code, reason = "the tests use more of it")]
mod kernel;
#[path = "../tests/packets/verifier.rs"]
#[allow(dead_code, reason = "the tests in it are none here")]
mod verifier;

use datapath::{V4, V6};
use rig::figures::{Bar, Figures};

const RUNS: usize = 3;
/// Packets of one run.
const REPEAT: u32 = 1_000_000;

fn main() {
    let mut figures = Figures::begin("programs", "the eBPF programs, packets of connections on record");
    for costs in [cost::costs::<V4>, cost::costs::<V6>] {
        let runs: Vec<_> = (0..RUNS).map(|_| costs(REPEAT)).collect();
        for (at, (name, _)) in runs[0].iter().enumerate() {
            let samples: Vec<f64> = runs.iter().map(|run| f64::from(run[at].1)).collect();
            figures.add(name, "ns", &samples, None);
        }
    }
    for (name, info) in verifier::loaded() {
        let verified = f64::from(verifier::verified(&info));
        let most = Bar::AtMost(f64::from(verifier::VERIFIED_MAX));
        figures.add(&format!("{name}, verified"), "instructions", &[verified], most);
        let size = f64::from(info.size_translated().expect("kernels since 4.13 tell")) / 8.0;
        figures.add(&format!("{name}, its own"), "instructions", &[size], None);
    }
    figures.finish().expect("the figures can be written");
}
