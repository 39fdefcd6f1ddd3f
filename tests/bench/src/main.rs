//! `cargo xtask bench`: what this machine measures, printed as tables. Release builds, medians, never a test.

mod api;
mod connection;
mod figures;
mod net;
mod pods;

use std::path::PathBuf;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let binaries =
        std::env::var_os("BOWSPRIT_BINARIES").map(PathBuf::from).unwrap_or_else(|| "target/release".into());
    let clusters =
        std::env::var_os("BOWSPRIT_CLUSTERS").map(PathBuf::from).unwrap_or_else(|| "target/cluster".into());
    let result = match arguments.first().map(String::as_str) {
        Some("api") => api::run(&binaries),
        Some("net") => net::run(&binaries, &clusters),
        Some("pods") => pods::run(&binaries, &clusters),
        _ => Err(anyhow::anyhow!("usage: bench api|pods|net")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}
