//! The `bowsprit` binary: command line, configuration, wiring. What it wires lives in the other crates.

mod cli;
mod config;
mod exit;
mod kubeconfig;
mod log;
mod node;
mod server;
mod signals;
mod up;

use std::process::ExitCode;

/// Objects are trees of small strings: with glibc's allocator a third of the API server's time goes to it. How it is set
/// up stands in `.cargo/config.toml`.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    // containerd calls the plugin for every pod: nothing else may start before it.
    if dataplane::cni::is_plugin_call() {
        return ExitCode::from(u8::try_from(dataplane::cni::plugin_main()).unwrap_or(1));
    }
    exit::conclude(config::parse().and_then(cli::Command::run))
}
