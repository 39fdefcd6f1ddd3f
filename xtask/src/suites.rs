//! `cargo xtask test`: what CI runs, in the order in which a failure is cheapest.

use crate::checkout::{Stage, cargo, run as run_visibly, target};
use crate::{build, setup, tidy};
use anyhow::{Result, ensure};
use clap::Args;

/// Which tests.
#[derive(Args)]
pub struct Test {
    /// Leave out formatting and lints.
    #[arg(long)]
    no_tidy: bool,
    /// Passed to the test binaries: a filter, `--nocapture`.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    filter: Vec<String>,
}

impl Test {
    /// Everything, or what the filter selects.
    pub fn run(&self) -> Result<()> {
        setup::run_quietly_if_done()?;
        ensure!(rig::is_root(), "the tests load eBPF programs and make namespaces: run them as root");
        // The suites start the built binary on several nodes.
        let binaries = build::all(build::Profile::Dev)?;
        if !self.no_tidy {
            tidy::run()?;
        }
        let _stage = Stage::begin("testing");
        let mut test = cargo(&["test", "--quiet", "--workspace", "--no-fail-fast"]);
        test.env("BOWSPRIT_BINARIES", binaries).env("BOWSPRIT_CLUSTERS", target().join("cluster"));
        if !self.filter.is_empty() {
            test.arg("--").args(&self.filter);
        }
        run_visibly(&mut test)
    }
}
