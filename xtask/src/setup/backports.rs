//! A bpftool that knows tcx: Debian 12's own does not, and its `bpftool net` shows nothing of ours.
//!
//! The machine's package sources stay as they are: apt is given a list of its own for this one package.

use crate::checkout::{Stage, target};
use anyhow::{Context, Result};
use rig::command::{command, output, run};
use std::fs;

/// tcx came to bpftool with 7.3 (Linux 6.6).
const TCX_SINCE: (u32, u32) = (7, 3);
const SOURCE: &str = "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] \
    http://deb.debian.org/debian bookworm-backports main\n";

/// Whether this machine's bpftool does not show tcx programs.
pub fn bpftool_is_old() -> bool {
    let version = output(&mut command("bpftool", ["version"]));
    let version = version.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    version.ok().as_deref().and_then(parse).is_none_or(|version| version < TCX_SINCE)
}

/// `bpftool v7.5.0` -> (7, 5).
fn parse(text: &str) -> Option<(u32, u32)> {
    let version = text.lines().next()?.strip_prefix("bpftool v")?;
    let mut numbers = version.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Installs it from Debian's backports. Only people look through bpftool, so a mirror without backports is told and no
/// failure.
pub fn install_bpftool() {
    if let Err(error) = try_install() {
        println!("    bpftool stays as it is, and `bpftool net` will not show tcx programs: {error:#}");
    }
}

fn try_install() -> Result<()> {
    let _stage = Stage::begin("installing a bpftool that knows tcx from Debian's backports");
    let directory = target().join("tools/backports");
    let lists = directory.join("lists");
    fs::create_dir_all(lists.join("partial"))
        .with_context(|| format!("cannot make {}", directory.display()))?;
    let source = directory.join("sources.list");
    fs::write(&source, SOURCE).with_context(|| format!("cannot write {}", source.display()))?;
    let apt = |words: &[&str]| {
        let mut apt = command("apt-get", [format!("-oDir::Etc::sourcelist={}", source.display())]);
        apt.arg("-oDir::Etc::sourceparts=-").arg(format!("-oDir::State::lists={}", lists.display()));
        apt.args(words).env("DEBIAN_FRONTEND", "noninteractive");
        apt
    };
    run(&mut apt(&["update", "-q"])).context("Debian's backports cannot be read")?;
    run(&mut apt(&["install", "-y", "-q", "--no-install-recommends", "bpftool/bookworm-backports"]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        assert_eq!(parse("bpftool v7.5.0\nusing libbpf v1.5\n"), Some((7, 5)));
        assert!(parse("bpftool v7.1.0").unwrap() < TCX_SINCE);
        assert_eq!(parse("something else"), None);
    }
}
