//! `cargo xtask bench`: builds with the release profile and runs what measures: `tests/bench` over the built binaries, and
//! the benches of crates whose insides are measured.

use crate::checkout::{cargo, root, run as run_visibly, target};
use crate::{build, setup};
use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use std::process::Command;

/// What can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum What {
    /// Start to API ready, to node Ready, to an application that serves; memory and CPU of idle processes.
    Start,
    /// Requests per second, lists, watches and memory of the API server.
    Api,
    /// Pods created and bound per second on 1,000 nodes that are only objects.
    Scheduler,
    /// Pods created until Running, one at a time and 50 at once.
    Pods,
    /// Paths between pods beside a plain veth pair.
    Net,
    /// Nanoseconds per packet and verified instructions of the eBPF programs.
    Programs,
    /// CNI ADD in a burst.
    Cni,
    /// From a snapshot to the contents of the maps.
    Plan,
}

/// Which benches to run.
#[derive(Args)]
pub struct Bench {
    /// All of them when none is named.
    #[arg(value_enum)]
    what: Vec<What>,
}

impl Bench {
    /// Builds and measures; goes on after a bench that failed, and fails at the end.
    pub fn run(self) -> Result<()> {
        setup::run_quietly_if_done()?;
        let all = if self.what.is_empty() { What::value_variants().to_vec() } else { self.what };
        if all.iter().any(|what| what.inside_of().is_none()) {
            build::all(build::Profile::Release)?;
            run_visibly(&mut cargo(&["build", "--quiet", "--release", "--package", "bench"]))?;
        }
        let mut failed = Vec::new();
        for what in all {
            let mut bench = what.command();
            bench
                .env("BOWSPRIT_BINARIES", target().join("release"))
                .env("BOWSPRIT_CLUSTERS", root().join("target/cluster"))
                .env("BOWSPRIT_FIGURES", root().join("target/bench"));
            if let Err(error) = run_visibly(&mut bench).with_context(|| format!("{what:?}")) {
                failed.push(format!("{error:#}"));
            }
        }
        if !failed.is_empty() {
            bail!("{} benches failed:\n{}", failed.len(), failed.join("\n"));
        }
        Ok(())
    }
}

impl What {
    /// The crate and the name of a bench that needs no built binaries.
    fn inside_of(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::Programs => Some(("dataplane", "programs")),
            Self::Cni => Some(("dataplane", "cni")),
            Self::Plan => Some(("netplan", "plan")),
            Self::Start | Self::Api | Self::Scheduler | Self::Pods | Self::Net => None,
        }
    }

    fn command(self) -> Command {
        if let Some((package, name)) = self.inside_of() {
            return cargo(&["bench", "--quiet", "--package", package, "--bench", name]);
        }
        let mut bench = Command::new(target().join("release/bench"));
        bench.arg(format!("{self:?}").to_lowercase());
        bench
    }
}
