//! The end-to-end suites: real clusters on this machine, made once, shared by the suites that leave them as they were.
//!
//! The harness is our own `main` because clusters must be taken down after the last test, also after a failed one, and
//! because what they leave behind is itself a test.

mod absence;
mod faults;
mod fixture;
mod load;
mod network;
mod no_request_lost;
mod node_loss;
mod people;
mod refusals;
mod rig_itself;
mod seen;
mod servers;
mod sessions;
mod shop;
mod stores;

use libtest_mimic::{Arguments, Trial};
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // Two cores: tests that share a machine this small run one after the other.
    arguments.test_threads = Some(1);
    let suites = [
        rig_itself::trials(),
        people::trials(),
        refusals::trials(),
        shop::trials(),
        network::trials(),
        seen::trials(),
        sessions::trials(),
        no_request_lost::trials(),
        node_loss::trials(),
        absence::trials(),
        faults::trials(),
        stores::trials(),
        servers::trials(),
    ];
    let trials: Vec<Trial> = suites.into_iter().flatten().collect();
    let conclusion = libtest_mimic::run(&arguments, trials);
    let left = fixture::take_everything_down();
    for complaint in &left {
        eprintln!("left behind: {complaint}");
    }
    if conclusion.has_failed() || !left.is_empty() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
