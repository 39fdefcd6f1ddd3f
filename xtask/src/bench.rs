//! `cargo xtask bench`: builds with the release profile and runs `tests/bench`, which measures.

use crate::checkout::{cargo, root, run as run_visibly, target};
use crate::{build, setup};
use anyhow::Result;
use std::process::Command;

/// Builds and measures.
pub fn run(what: &str) -> Result<()> {
    setup::run_quietly_if_done()?;
    let binaries = build::all(build::Profile::Release)?;
    run_visibly(&mut cargo(&["build", "--quiet", "--release", "--package", "bench"]))?;
    let mut bench = Command::new(target().join("release/bench"));
    bench
        .arg(what)
        .env("BOWSPRIT_BINARIES", binaries)
        .env("BOWSPRIT_CLUSTERS", root().join("target/cluster"));
    run_visibly(&mut bench)
}
