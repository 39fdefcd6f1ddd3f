//! `cargo xtask`: everything a developer or a curious person does with this checkout.

mod bench;
mod build;
mod checkout;
mod cluster;
mod schema;
mod setup;
mod suites;
mod tidy;

use anyhow::Result;
use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Build, test and run Bowsprit from its checkout.
#[derive(Parser)]
#[command(bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    job: Job,
}

#[derive(Subcommand)]
enum Job {
    /// Install what this machine lacks: packages by apt, tools by cargo. Takes seconds when nothing is missing.
    Setup,
    /// Build the binary, the eBPF object in it, and the rig.
    Build {
        /// Optimised, as it is measured by `bench`.
        #[arg(long)]
        release: bool,
    },
    /// Set up, build, start a cluster of several nodes on this machine, and show an application running on it.
    Up(cluster::Up),
    /// Take the cluster down; nothing of it stays.
    Down {
        /// Another cluster than this checkout's own.
        #[arg(long)]
        name: Option<String>,
    },
    /// Nodes, pods and processes of the cluster.
    Status {
        /// Another cluster than this checkout's own.
        #[arg(long)]
        name: Option<String>,
    },
    /// A shell on a node, in its network and mount namespaces.
    Shell {
        /// `node-1`, `node-2`, ... or `outside`.
        node: String,
        /// A command to run instead of a shell.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
    /// `kubectl` on the cluster.
    Kubectl {
        /// What kubectl gets.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// `bowsprit` on the cluster: `bowsprit flows --drops`, `bowsprit why pod/NAME`.
    Bowsprit {
        /// What bowsprit gets.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Set up, tidy, and run all tests, as CI does.
    Test(suites::Test),
    /// Measure this machine: release build, medians; the figures are kept in target/bench/figures.json.
    Bench(bench::Bench),
    /// Formatting, lints of both targets, crate rules, licences.
    Tidy,
    /// Derive the table of facts in orchestrator/api/schema from the published definitions.
    Schema,
}

fn main() -> ExitCode {
    let result = run(Arguments::parse().job);
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(job: Job) -> Result<ExitCode> {
    match job {
        Job::Setup => setup::run()?,
        Job::Build { release } => {
            setup::run()?;
            build::all(if release { build::Profile::Release } else { build::Profile::Dev })?;
        }
        Job::Up(up) => up.run()?,
        Job::Down { name } => cluster::down(name)?,
        Job::Status { name } => cluster::status(name)?,
        Job::Shell { node, command } => return cluster::shell(&node, &command),
        Job::Kubectl { arguments } => return cluster::kubectl(&arguments),
        Job::Bowsprit { arguments } => return cluster::bowsprit(&arguments),
        Job::Test(test) => test.run()?,
        Job::Bench(bench) => bench.run()?,
        Job::Tidy => tidy::run()?,
        Job::Schema => schema::run()?,
    }
    Ok(ExitCode::SUCCESS)
}
