//! `cargo xtask setup`: what this machine lacks, installed with apt and cargo; seconds when it lacks nothing.
//!
//! No package that is installed here may leave a service running: the rig starts its own containerd and etcd, in their own
//! directories and namespaces.

mod backports;

use crate::checkout::{Stage, run as run_visibly, target};
use anyhow::{Context, Result, bail, ensure};
use rig::command::{command, output, run as run_to_end};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A package, and the file that shows that what we need of it is there, whoever installed it.
struct Package {
    name: &'static str,
    shown_by: &'static [&'static str],
    why: &'static str,
}

const fn package(name: &'static str, shown_by: &'static [&'static str], why: &'static str) -> Package {
    Package { name, shown_by, why }
}

/// Needed to build and to run, on Debian 12.
const PACKAGES: &[Package] = &[
    package("build-essential", &["/usr/bin/gcc", "/usr/bin/make"], "SQLite and ring hold C"),
    package("containerd", &["/usr/bin/containerd", "/usr/bin/ctr"], "runs the pods"),
    package("runc", &["/usr/bin/runc", "/usr/sbin/runc"], "runs the containers"),
    package("etcd-server", &["/usr/bin/etcd"], "the store of `--store etcd` and of its tests"),
    package("busybox-static", &["/bin/busybox"], "the shell of the test image"),
    package("iproute2", &["/usr/sbin/ip", "/sbin/ip"], "makes the nodes' namespaces"),
    package("iptables", &["/usr/sbin/iptables-save"], "only to show that nothing uses it"),
    package("nftables", &["/usr/sbin/nft"], "only to show that nothing uses it"),
    package("bpftool", &["/usr/sbin/bpftool"], "shows the programs that are attached"),
    package("procps", &["/usr/sbin/sysctl", "/sbin/sysctl"], "sets the router's forwarding"),
    package("openssl", &["/usr/bin/openssl"], "certificates of the test etcd"),
    package("protobuf-compiler", &["/usr/bin/protoc"], "the etcd client's build step calls it"),
    package(
        "libprotobuf-dev",
        &["/usr/include/google/protobuf/descriptor.proto"],
        "the etcd client's build step reads them",
    ),
];

/// Needed for the eBPF side where no rustup toolchain has rust-src: a compiler with the source of `core`.
const EBPF_PACKAGES: &[Package] = &[
    package("rustc-web", &["/usr/bin/rustc"], "compiles the eBPF side"),
    package("cargo-web", &["/usr/bin/cargo"], "builds the eBPF side"),
    package(
        "rust-web-src",
        &["/usr/lib/rustlib/src/rust/library/core/src/lib.rs"],
        "`core` for the eBPF target",
    ),
    package("rust-web-clippy", &["/usr/bin/clippy-driver"], "lints the eBPF side"),
    package("llvm-22-dev", &["/usr/lib/llvm-22/bin/llvm-config"], "bpf-linker is built on it"),
    package("libpolly-22-dev", &["/usr/lib/llvm-22/lib/libPolly.a"], "bpf-linker is built on it"),
];

const BPF_LINKER_VERSION: &str = "0.13.0";

/// Installs what is missing. Idempotent.
pub fn run_quietly_if_done() -> Result<()> {
    run_inner(false)
}

/// `cargo xtask setup`.
pub fn run() -> Result<()> {
    run_inner(true)
}

fn run_inner(tell_when_done: bool) -> Result<()> {
    let missing = missing_packages();
    let linker_missing = !has_bpf_linker();
    let bpftool_old = backports::bpftool_is_old();
    if missing.is_empty() && !linker_missing && !bpftool_old {
        if tell_when_done {
            println!("setup: nothing is missing");
        }
        return Ok(());
    }
    ensure!(rig::is_root(), "setup installs packages: run it as root");
    if !missing.is_empty() {
        install(&missing)?;
    }
    if linker_missing {
        install_bpf_linker()?;
    }
    if bpftool_old {
        let _no_services = NoServices::begin()?;
        backports::install_bpftool();
    }
    Ok(())
}

fn is_missing(package: &Package) -> bool {
    !package.shown_by.iter().any(|path| Path::new(path).exists())
}

fn missing_packages() -> Vec<&'static Package> {
    PACKAGES
        .iter()
        .chain(EBPF_PACKAGES)
        .chain(package_kubectl())
        .filter(|package| is_missing(package))
        .collect()
}

/// Any kubectl will do; Debian's is old, so it comes only where there is none.
fn package_kubectl() -> Option<&'static Package> {
    const KUBECTL: &Package =
        &package("kubernetes-client", &["/usr/bin/kubectl"], "kubectl, where there is none");
    let found =
        output(&mut command(&rig::cluster::kubectl_binary().to_string_lossy(), ["version", "--client"]))
            .is_ok();
    (!found).then_some(KUBECTL)
}

fn install(missing: &[&Package]) -> Result<()> {
    let _stage = Stage::begin(&format!(
        "installing {} packages with apt (a few minutes on a fresh machine)",
        missing.len()
    ));
    for package in missing {
        println!("    {}: {}", package.name, package.why);
    }
    ensure!(
        Path::new("/usr/bin/apt-get").exists(),
        "this is no Debian: install by hand: {}",
        names(missing).join(" ")
    );
    let _no_services = NoServices::begin()?;
    let apt = |words: &[&str]| {
        let mut apt = command("apt-get", words);
        apt.env("DEBIAN_FRONTEND", "noninteractive");
        apt
    };
    run_to_end(&mut apt(&["update", "-q"])).context("apt cannot read its package lists")?;
    let mut install = apt(&["install", "-y", "-q", "--no-install-recommends"]);
    run_to_end(install.args(names(missing))).context("apt cannot install what is missing")?;
    let still: Vec<_> =
        missing.iter().filter(|package| is_missing(package)).map(|package| package.name).collect();
    if !still.is_empty() {
        bail!("apt installed {}, but the files that show it are not there", still.join(", "));
    }
    Ok(())
}

fn names<'a>(packages: &[&'a Package]) -> Vec<&'a str> {
    packages.iter().map(|package| package.name).collect()
}

/// Debian asks this script whether a package may start its service; ours says no, and is removed again.
struct NoServices {
    made: Option<PathBuf>,
}

impl NoServices {
    fn begin() -> Result<Self> {
        let path = PathBuf::from("/usr/sbin/policy-rc.d");
        if path.exists() {
            return Ok(Self { made: None });
        }
        fs::write(&path, "#!/bin/sh\nexit 101\n")
            .with_context(|| format!("cannot write {}", path.display()))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        Ok(Self { made: Some(path) })
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if let Some(path) = &self.made
            && let Err(error) = fs::remove_file(path)
        {
            eprintln!(
                "setup: cannot remove {}: {error}; remove it by hand, or no package will start its service",
                path.display()
            );
        }
    }
}

fn has_bpf_linker() -> bool {
    let version = output(&mut command("bpf-linker", ["--version"]));
    version.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains(BPF_LINKER_VERSION))
}

fn install_bpf_linker() -> Result<()> {
    let _stage = Stage::begin("installing bpf-linker with cargo (about a minute)");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut install = Command::new(cargo);
    install.args([
        "install",
        "--quiet",
        "--locked",
        "bpf-linker",
        "--version",
        BPF_LINKER_VERSION,
        "--no-default-features",
        "--features",
        "llvm-22",
    ]);
    install.env("LLVM_PREFIX", "/usr/lib/llvm-22").env("CARGO_TARGET_DIR", target().join("tools"));
    run_visibly(&mut install)
}
