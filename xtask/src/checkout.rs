//! Where this checkout is, and how its parts call each other.

use anyhow::{Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// The checkout's top directory.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask/ has a parent: the checkout")
}

/// Where cargo puts what it builds.
pub fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// The cargo that runs us, in the checkout.
pub fn cargo(arguments: &[&str]) -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(arguments).current_dir(root());
    cargo
}

/// Runs a command whose output the person sees.
pub fn run(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .map_err(|error| anyhow::anyhow!("cannot start `{}`: {error}", rig::command::words(command)))?;
    if !status.success() {
        bail!("`{}` ended with {status}", rig::command::words(command));
    }
    Ok(())
}

/// A stage with a name and, where it takes long, an estimate; says how long it took when it is dropped.
pub struct Stage {
    name: String,
    began: Instant,
}

/// Stages shorter than this are not worth a second line.
const WORTH_TELLING: Duration = Duration::from_secs(2);

impl Stage {
    /// Says that the stage begins.
    pub fn begin(name: &str) -> Self {
        println!("==> {name}");
        Self { name: name.to_owned(), began: Instant::now() }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let took = self.began.elapsed();
        if took > WORTH_TELLING {
            println!("    {}: {:.1} s", self.name, took.as_secs_f64());
        }
    }
}
