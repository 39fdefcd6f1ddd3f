//! `cargo xtask build`: one command for the binary, the eBPF object inside it, the rig and the workload.

use crate::checkout::{Stage, cargo, run, target};
use anyhow::{Context, Result};
use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::Command;

/// Which of cargo's profiles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// Used by `up`, the tests and CI.
    Dev,
    /// Used by `bench` only.
    Release,
}

impl Profile {
    fn directory(self) -> &'static str {
        match self {
            Self::Dev => "debug",
            Self::Release => "release",
        }
    }
}

/// Builds everything that runs in a cluster; returns the directory that holds `bowsprit`, `rig` and `workload`.
pub fn all(profile: Profile) -> Result<PathBuf> {
    let directory = rig(profile)?;
    bowsprit(profile)?;
    Ok(directory)
}

/// Builds what makes a cluster's machine part: `rig` and `workload`.
pub fn rig(profile: Profile) -> Result<PathBuf> {
    let directory = target().join(profile.directory());
    let _stage = Stage::begin("building the rig and the workload");
    run(cargo_build(profile).args(["--package", "tests", "--bins"]))?;
    workload(profile, &directory)?;
    Ok(directory)
}

/// Builds the binary with the eBPF object in it.
pub fn bowsprit(profile: Profile) -> Result<()> {
    let first = !target().join(profile.directory()).join("bowsprit").exists();
    let estimate = if first { " (the first build takes about 6 minutes on two cores)" } else { "" };
    let _stage = Stage::begin(&format!("building bowsprit{estimate}"));
    run(cargo_build(profile).args(["--package", "bowsprit", "--bins"]))
}

/// `cargo build`; a person who watches sees cargo's own progress.
fn cargo_build(profile: Profile) -> Command {
    let mut build = cargo(&["build"]);
    if !std::io::stdout().is_terminal() {
        build.arg("--quiet");
    }
    if profile == Profile::Release {
        build.arg("--release");
    }
    build
}

/// The workload is linked statically: its image holds nothing else.
fn workload(profile: Profile, directory: &std::path::Path) -> Result<()> {
    let triple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let rustflags =
        format!("target.{triple}.rustflags=[\"-Ctarget-feature=+crt-static\", \"-Cstrip=debuginfo\"]");
    run(cargo_build(profile).args(["--package", "workload", "--target", &triple, "--config", &rustflags]))?;
    let built = target().join(&triple).join(profile.directory()).join("workload");
    let wanted = directory.join("workload");
    // Copied only when it changed: a running cluster may have it open.
    if std::fs::read(&built).ok() != std::fs::read(&wanted).ok() {
        std::fs::copy(&built, &wanted).with_context(|| format!("cannot copy {}", built.display()))?;
    }
    Ok(())
}
