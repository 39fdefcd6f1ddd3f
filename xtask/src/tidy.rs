//! `cargo xtask tidy`: what a reviewer should not have to say.

use crate::checkout::{Stage, cargo, root, run as run_visibly};
use anyhow::{Context, Result, bail, ensure};
use rig::command::{command, read};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Who may use whom inside the workspace: the direction in which the architecture lets knowledge flow.
const MAY_USE: &[(&str, &[&str])] = &[
    ("abi", &[]),
    ("agent", &["client", "cri", "dataplane", "netplan", "observe", "pki", "telemetry"]),
    ("api", &[]),
    ("bench", &["cri", "pki", "tests"]),
    ("apiserver", &["api", "pki", "store", "telemetry"]),
    ("client", &["api", "pki", "telemetry"]),
    ("controllers", &["api", "client", "telemetry"]),
    ("cri", &[]),
    ("dataplane", &["abi", "netplan", "telemetry"]),
    ("datapath", &["abi"]),
    ("netplan", &["abi", "datapath"]),
    ("observe", &["abi", "client", "dataplane", "telemetry"]),
    ("pki", &[]),
    ("scheduler", &["api", "client", "telemetry"]),
    ("store", &[]),
    ("telemetry", &[]),
    ("tests", &[]),
    ("workload", &[]),
    ("xtask", &["tests"]),
];
/// Wires everything, so it may use everything.
const WIRING: &str = "bowsprit";

/// Licences that go with Apache-2.0 in one binary.
const LICENCES: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "MIT-0",
    "OpenSSL",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// A file longer than this is several files.
const FILE_LINES_MAX: usize = 900;

/// All checks; each says what is wrong and where.
pub fn run() -> Result<()> {
    let _stage = Stage::begin("tidy: formatting, lints of both targets, crate rules, licences");
    run_visibly(&mut cargo(&["fmt", "--all", "--check"])).context("`cargo fmt --all` mends this")?;
    sources()?;
    let metadata = metadata()?;
    crate_rules(&metadata)?;
    licences(&metadata)?;
    unused_dependencies(&metadata)?;
    run_visibly(&mut cargo(&["clippy", "--quiet", "--workspace", "--all-targets", "--", "-Dwarnings"]))?;
    ebpf()
}

fn metadata() -> Result<Value> {
    let text = read(&mut cargo(&["metadata", "--format-version=1", "--locked"]))
        .context("Cargo.lock is not up to date")?;
    serde_json::from_str(&text).context("cargo metadata prints JSON")
}

/// The eBPF side is a workspace of its own, with its own toolchain.
fn ebpf() -> Result<()> {
    let programs = root().join("ebpf-programs/programs");
    let mut format = Command::new("cargo");
    run_visibly(format.args(["fmt", "--check"]).current_dir(&programs))
        .context("`cargo fmt` in ebpf-programs/programs mends this")?;
    let mut lint = Command::new("/usr/bin/cargo-clippy");
    lint.args([
        "clippy",
        "--quiet",
        "--release",
        "--target",
        "bpfel-unknown-none",
        "-Zbuild-std=core",
        "--",
        "-Dwarnings",
    ]);
    lint.current_dir(&programs)
        .env("RUSTC_BOOTSTRAP", "1")
        .env("RUSTC", "/usr/bin/rustc")
        .env("CARGO", "/usr/bin/cargo")
        .env("CARGO_TARGET_DIR", crate::checkout::target().join("bpf-clippy"))
        .env_remove("RUSTUP_TOOLCHAIN");
    run_visibly(&mut lint).context("clippy finds something on the eBPF side")
}

/// Every Rust file says what it is, has a bearable length, and stands under `foo.rs`, not `foo/mod.rs`.
fn sources() -> Result<()> {
    let listed = read(
        command("git", ["ls-files", "--cached", "--others", "--exclude-standard", "*.rs"])
            .current_dir(root()),
    )?;
    let mut complaints = Vec::new();
    for file in listed.lines() {
        let Ok(text) = fs::read_to_string(root().join(file)) else { continue };
        if !text.trim_start_matches("#![no_std]\n").trim_start_matches("#![no_main]\n").starts_with("//!") {
            complaints.push(format!("{file}: does not begin with `//!` and what it is"));
        }
        if text.lines().count() > FILE_LINES_MAX {
            complaints.push(format!("{file}: has over {FILE_LINES_MAX} lines"));
        }
        if file.ends_with("/mod.rs") {
            complaints.push(format!("{file}: modules are `foo.rs` beside `foo/`"));
        }
    }
    conclude(complaints)
}

fn conclude(complaints: Vec<String>) -> Result<()> {
    if complaints.is_empty() {
        return Ok(());
    }
    bail!("{} things are untidy:\n{}", complaints.len(), complaints.join("\n"))
}

struct Member<'a> {
    name: &'a str,
    manifest: PathBuf,
    dependencies: Vec<&'a str>,
}

fn members(metadata: &Value) -> Result<Vec<Member<'_>>> {
    let packages = metadata["packages"].as_array().context("metadata lists packages")?;
    let ours = metadata["workspace_members"].as_array().context("metadata lists members")?;
    packages.iter().filter(|package| ours.contains(&package["id"])).map(member).collect()
}

fn member(package: &Value) -> Result<Member<'_>> {
    let text = |value: &'_ Value| value.as_str().map(str::to_owned);
    let dependencies = package["dependencies"].as_array().context("a package has dependencies")?;
    Ok(Member {
        name: package["name"].as_str().context("a package has a name")?,
        manifest: text(&package["manifest_path"]).context("a package has a manifest")?.into(),
        // Tests may look further than the code they test.
        dependencies: dependencies
            .iter()
            .filter(|dependency| dependency["kind"].is_null())
            .filter_map(|dependency| dependency["name"].as_str())
            .collect(),
    })
}

fn crate_rules(metadata: &Value) -> Result<()> {
    let rules: BTreeMap<&str, &[&str]> = MAY_USE.iter().copied().collect();
    let members = members(metadata)?;
    let mut complaints = Vec::new();
    for member in &members {
        let manifest = fs::read_to_string(&member.manifest)?;
        if !manifest.contains("[lints]\nworkspace = true") {
            complaints.push(format!("{}: its Cargo.toml lacks `[lints] workspace = true`", member.name));
        }
        if member.name == WIRING {
            continue;
        }
        let Some(allowed) = rules.get(member.name) else {
            complaints.push(format!("{}: xtask/src/tidy.rs does not say whom it may use", member.name));
            continue;
        };
        let ours = |name: &&&str| members.iter().any(|other| other.name == **name);
        for used in member.dependencies.iter().filter(ours).filter(|name| !allowed.contains(name)) {
            complaints.push(format!("{} uses {used}: the architecture does not let it", member.name));
        }
    }
    conclude(complaints)
}

fn licences(metadata: &Value) -> Result<()> {
    let packages = metadata["packages"].as_array().context("metadata lists packages")?;
    let mut complaints = Vec::new();
    for package in packages {
        let (name, licence) =
            (package["name"].as_str().unwrap_or("?"), package["license"].as_str().unwrap_or(""));
        // `A OR B`: one of them will do; `A AND B`: all must.
        let choices = licence.replace('/', " OR ").replace(['(', ')'], "");
        let fits = choices
            .split(" OR ")
            .any(|choice| choice.split(" AND ").all(|part| LICENCES.contains(&part.trim())));
        if !fits {
            complaints
                .push(format!("{name}: its licence `{licence}` is not on the list in xtask/src/tidy.rs"));
        }
    }
    conclude(complaints)
}

/// A dependency that no source file of its crate mentions is not used.
fn unused_dependencies(metadata: &Value) -> Result<()> {
    let mut complaints = Vec::new();
    for member in members(metadata)? {
        let directory = member.manifest.parent().context("a manifest lies in a directory")?;
        let text = rust_text(directory)?;
        for dependency in member.dependencies.iter().filter(|name| !mentions(&text, name)) {
            complaints
                .push(format!("{}: depends on {dependency}, but no source file mentions it", member.name));
        }
    }
    conclude(complaints)
}

/// Crates that other crates' macros or generated code name, though no line of ours does.
const NAMED_BY_GENERATED_CODE: &[&str] = &["prost", "tonic-prost", "prost-types"];

fn mentions(text: &str, dependency: &str) -> bool {
    if NAMED_BY_GENERATED_CODE.contains(&dependency) {
        return true;
    }
    // The rig is the library of the package `tests`.
    let name = if dependency == "tests" { "rig".to_owned() } else { dependency.replace('-', "_") };
    text.match_indices(&name).any(|(at, _)| {
        let boundary = |c: Option<char>| c.is_none_or(|c| !c.is_alphanumeric() && c != '_');
        boundary(text[..at].chars().next_back()) && boundary(text[at + name.len()..].chars().next())
    })
}

fn rust_text(directory: &Path) -> Result<String> {
    let mut text = String::new();
    let mut directories = vec![directory.to_owned()];
    while let Some(next) = directories.pop() {
        for entry in fs::read_dir(&next)? {
            let path = entry?.path();
            let nested_crate = path.is_dir() && path.join("Cargo.toml").exists();
            if path.is_dir() && !nested_crate && !path.ends_with("target") {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                text.push_str(&fs::read_to_string(&path)?);
            }
        }
    }
    ensure!(!text.is_empty(), "{} holds no Rust", directory.display());
    Ok(text)
}
