//! Builds the eBPF object and hands its path to `include_bytes_aligned!` as `BOWSPRIT_BPF`.
//!
//! The BPF target has no prebuilt `core`, so this takes a toolchain that has core's source: Debian's rustc-web with
//! rust-web-src, or a rustup nightly with rust-src. The nested cargo has a target directory of its own, `bpf` beside the
//! profile's, because the outer one is locked by the cargo that runs this script. DWARF is stripped, BTF is kept.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// What every complaint ends with.
const REMEDY: &str = "run `cargo xtask setup`, which installs it";

/// The BPF target: little-endian, as all machines that we run on.
const TARGET: &str = "bpfel-unknown-none";

/// `-Cdebuginfo=2` is what BTF is made from. LLVM's own expansion of memory intrinsics leaves memset and memmove as calls;
/// without it they become loads and stores, which the verifier follows faster.
const RUSTFLAGS: &[&str] = &[
    "-Cdebuginfo=2",
    "-Clinker=bpf-linker",
    "-Clink-arg=--btf",
    "-Clink-arg=--disable-expand-memcpy-in-order",
];

/// A cargo and rustc that can build `core`.
struct Toolchain {
    cargo: Vec<OsString>,
    rustc: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(complaint) => {
            eprintln!("building the eBPF programs: {complaint}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), String> {
    let sources = manifest_directory()?.join("../../ebpf-programs");
    watch(&sources);
    let out = PathBuf::from(variable("OUT_DIR")?);
    let target = target_directory(&out)?;
    let built = build(&sources.join("programs"), &target)?;
    let object = out.join("programs.o");
    fs::copy(&built, &object).map_err(|error| format!("copying {}: {error}", built.display()))?;
    strip(&object)?;
    println!("cargo::rustc-env=BOWSPRIT_BPF={}", object.display());
    Ok(())
}

fn variable(name: &str) -> Result<OsString, String> {
    env::var_os(name).ok_or_else(|| format!("cargo did not set {name}"))
}

fn manifest_directory() -> Result<PathBuf, String> {
    variable("CARGO_MANIFEST_DIR").map(PathBuf::from)
}

/// Only what the object is made of makes it again.
fn watch(sources: &Path) {
    for path in [
        "abi/src",
        "abi/Cargo.toml",
        "datapath/src",
        "datapath/Cargo.toml",
        "programs/src",
        "programs/Cargo.toml",
        "programs/Cargo.lock",
    ] {
        println!("cargo::rerun-if-changed={}", sources.join(path).display());
    }
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=LLVM_PREFIX");
}

/// `<target>/bpf`, from `<target>/<profile>/build/<package>/out`.
fn target_directory(out: &Path) -> Result<PathBuf, String> {
    let target = out.ancestors().nth(4);
    Ok(target.ok_or_else(|| format!("{} is not where cargo puts it", out.display()))?.join("bpf"))
}

/// Runs the nested cargo; gives the object's path.
fn build(programs: &Path, target: &Path) -> Result<PathBuf, String> {
    let path = search_path()?;
    if find_in(&path, "bpf-linker").is_none() {
        return Err(format!("bpf-linker is not on the PATH nor in cargo's bin directory; {REMEDY}"));
    }
    let toolchain = toolchain()?;
    let mut command = Command::new(&toolchain.cargo[0]);
    command.args(&toolchain.cargo[1..]);
    // What the outer cargo says to its own children would be taken for the nested one's.
    for name in
        ["RUSTC", "RUSTDOC", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER", "RUSTFLAGS", "RUSTUP_TOOLCHAIN"]
    {
        command.env_remove(name);
    }
    command.args(["build", "--release", "--locked", "--target", TARGET, "-Zbuild-std=core"]);
    if env::var_os("CARGO_FEATURE_LOG").is_some() {
        command.args(["--features", "log"]);
    }
    command
        .current_dir(programs)
        .env("PATH", &path)
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", RUSTFLAGS.join("\x1f"))
        .env("CARGO_TARGET_DIR", target);
    if let Some(rustc) = &toolchain.rustc {
        command.env("RUSTC", rustc);
    }
    let status =
        command.status().map_err(|error| format!("starting {:?}: {error}; {REMEDY}", toolchain.cargo[0]))?;
    if !status.success() {
        return Err(format!("the nested cargo failed ({status}); its messages are above"));
    }
    Ok(target.join(TARGET).join("release/programs"))
}

/// PATH, and cargo's own bin directory, where `cargo install` puts bpf-linker.
fn search_path() -> Result<OsString, String> {
    let mut directories: Vec<PathBuf> = env::split_paths(&env::var_os("PATH").unwrap_or_default()).collect();
    let home = env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo"));
    let cargo_home = env::var_os("CARGO_HOME").map(PathBuf::from).or(home);
    directories.extend(cargo_home.map(|home| home.join("bin")));
    env::join_paths(directories).map_err(|error| format!("PATH: {error}"))
}

fn find_in(path: &OsString, program: &str) -> Option<PathBuf> {
    env::split_paths(path).map(|directory| directory.join(program)).find(|file| file.is_file())
}

/// Debian's toolchain if it has core's source, else a rustup nightly that has.
fn toolchain() -> Result<Toolchain, String> {
    let debian = Path::new("/usr/bin/rustc");
    if debian.is_file() && Path::new("/usr/bin/cargo").is_file() && has_source(Command::new(debian)) {
        return Ok(Toolchain { cargo: vec!["/usr/bin/cargo".into()], rustc: Some(debian.into()) });
    }
    let mut nightly = Command::new("rustup");
    nightly.args(["run", "nightly", "rustc"]);
    if has_source(nightly) {
        let cargo = ["rustup", "run", "nightly", "cargo"].map(OsString::from);
        return Ok(Toolchain { cargo: cargo.into(), rustc: None });
    }
    Err(format!(
        "neither /usr/bin/rustc nor a rustup nightly has the source of core (rust-web-src, rust-src); {REMEDY}"
    ))
}

/// Whether a rustc's sysroot has the source of `core`.
fn has_source(mut rustc: Command) -> bool {
    rustc.env_remove("RUSTUP_TOOLCHAIN").args(["--print", "sysroot"]);
    let Ok(output) = rustc.output() else { return false };
    let sysroot = String::from_utf8_lossy(&output.stdout);
    let core = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core/src/lib.rs");
    output.status.success() && core.is_file()
}

/// Strips DWARF in place.
fn strip(object: &Path) -> Result<(), String> {
    let prefix = env::var_os("LLVM_PREFIX").map_or_else(|| PathBuf::from("/usr/lib/llvm-22"), PathBuf::from);
    let own = prefix.join("bin/llvm-strip");
    let program = if own.is_file() { own } else { PathBuf::from("llvm-strip") };
    let status = Command::new(&program).arg("--strip-debug").arg(object).status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{} failed ({status})", program.display())),
        Err(error) => Err(format!("starting {}: {error}; {REMEDY}", program.display())),
    }
}
