//! `cargo xtask bench`: what this machine measures, printed as tables. Release builds, medians, never a test.

mod api;
mod cluster;
mod connection;
mod floor;
mod net;
mod pods;
mod scheduler;
mod server;
mod start;

use cluster::Ground;
use std::path::PathBuf;
use std::process::ExitCode;

fn main() -> ExitCode {
    let directory = |variable: &str, default: &str| {
        std::env::var_os(variable).map_or_else(|| default.into(), PathBuf::from)
    };
    let ground = Ground {
        binaries: directory("BOWSPRIT_BINARIES", "target/release"),
        clusters: directory("BOWSPRIT_CLUSTERS", "target/cluster"),
    };
    let what = std::env::args().nth(1).unwrap_or_default();
    let result = match what.as_str() {
        "start" => start::run(&ground),
        "api" => api::run(&ground.binaries),
        "scheduler" => scheduler::run(&ground.binaries),
        "pods" => pods::run(&ground),
        "net" => net::run(&ground),
        _ => Err(anyhow::anyhow!("usage: bench start|api|scheduler|pods|net")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench {what}: {error:#}");
            ExitCode::FAILURE
        }
    }
}
