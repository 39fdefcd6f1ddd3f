//! `cargo xtask build`: one command for the binary, the eBPF object inside it, the rig and the workload.

use crate::checkout::{Stage, cargo, run, target};
use anyhow::{Context, Result};
use std::path::PathBuf;

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
    let directory = target().join(profile.directory());
    let first = !directory.join("bowsprit").exists();
    let estimate = if first { " (the first build takes some minutes)" } else { "" };
    let _stage = Stage::begin(&format!("building{estimate}"));
    let mut build = cargo(&["build", "--quiet", "--package", "bowsprit", "--package", "tests", "--bins"]);
    if profile == Profile::Release {
        build.arg("--release");
    }
    run(&mut build)?;
    workload(profile, &directory)?;
    Ok(directory)
}

/// The workload is linked statically: its image holds nothing else.
fn workload(profile: Profile, directory: &std::path::Path) -> Result<()> {
    let triple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let rustflags =
        format!("target.{triple}.rustflags=[\"-Ctarget-feature=+crt-static\", \"-Cstrip=debuginfo\"]");
    let mut build =
        cargo(&["build", "--quiet", "--package", "workload", "--target", &triple, "--config", &rustflags]);
    if profile == Profile::Release {
        build.arg("--release");
    }
    run(&mut build)?;
    let built = target().join(&triple).join(profile.directory()).join("workload");
    let wanted = directory.join("workload");
    // Copied only when it changed: a running cluster may have it open.
    if std::fs::read(&built).ok() != std::fs::read(&wanted).ok() {
        std::fs::copy(&built, &wanted).with_context(|| format!("cannot copy {}", built.display()))?;
    }
    Ok(())
}
