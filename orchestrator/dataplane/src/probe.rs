//! What the kernel must offer, asked once at start: what is missing is named with the kernel that brings it and the remedy.

use std::{
    fs, io,
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use nix::{
    mount::{MsFlags, mount},
    sys::statfs::{BPF_FS_MAGIC, CGROUP2_SUPER_MAGIC, FsType, statfs},
};

use crate::{
    config::Config,
    error::{Error, Result},
    sys,
};

/// Where a bpffs is mounted by convention.
const BPFFS: &str = "/sys/fs/bpf";

/// The loopback device of every network namespace.
const LOOPBACK: u32 = 1;

/// Checks privileges, file systems and features, and mounts the bpffs if nobody did.
pub fn check(config: &Config) -> Result<()> {
    privileges()?;
    bpffs(&config.bpffs)?;
    cgroup(&config.cgroup)?;
    tcx()?;
    let release = nix::sys::utsname::uname().map(|uts| uts.release().to_string_lossy().into_owned());
    tracing::info!(
        kernel = release.unwrap_or_default(),
        "tcx, cgroup v2 socket hooks and bpffs are available"
    );
    Ok(())
}

fn privileges() -> Result<()> {
    if nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    Err(Error::Feature {
        feature: "the right to load eBPF programs for this user",
        since: "6.1",
        remedy: "run the agent as root".into(),
        source: io::Error::from(io::ErrorKind::PermissionDenied),
    })
}

fn bpffs(directory: &Path) -> Result<()> {
    if !is_kind(&existing(directory), BPF_FS_MAGIC) && directory.starts_with(BPFFS) {
        fs::create_dir_all(BPFFS).map_err(Error::file("making", BPFFS))?;
        if !is_kind(Path::new(BPFFS), BPF_FS_MAGIC) {
            mount(Some("bpffs"), BPFFS, Some("bpf"), MsFlags::empty(), None::<&str>)
                .map_err(|errno| missing_bpffs(directory, errno.into()))?;
            tracing::info!(path = BPFFS, "mounted a bpffs");
        }
    }
    if is_kind(&existing(directory), BPF_FS_MAGIC) {
        return Ok(());
    }
    Err(missing_bpffs(directory, io::Error::from(io::ErrorKind::NotFound)))
}

fn missing_bpffs(directory: &Path, source: io::Error) -> Error {
    let remedy = format!(
        "mount one: `mount -t bpf bpffs {BPFFS}`, and let `bpffs` ({}) be below it",
        directory.display()
    );
    Error::Feature { feature: "a bpffs to pin maps and links on", since: "4.4", remedy, source }
}

fn cgroup(directory: &Path) -> Result<()> {
    fs::create_dir_all(directory).map_err(Error::file("making", directory))?;
    if is_kind(directory, CGROUP2_SUPER_MAGIC) {
        return Ok(());
    }
    Err(Error::Feature {
        feature: "a cgroup v2 hierarchy at the configured path",
        since: "4.5",
        remedy: format!(
            "`cgroup` is {}: let it be below /sys/fs/cgroup, or /sys/fs/cgroup/unified on a hybrid host",
            directory.display()
        ),
        source: io::Error::from(io::ErrorKind::InvalidInput),
    })
}

/// Attaches a program that does nothing to the loopback device, and lets go of it.
fn tcx() -> Result<()> {
    let feature = |source: io::Error| Error::Feature {
        feature: "tcx links",
        since: "6.6",
        remedy: "run a newer kernel".into(),
        source,
    };
    let program = sys::load_empty_classifier().map_err(feature)?;
    sys::link_create(program.as_fd(), LOOPBACK, sys::TCX_INGRESS).map_err(feature)?;
    Ok(())
}

fn is_kind(path: &Path, kind: FsType) -> bool {
    statfs(path).is_ok_and(|status| status.filesystem_type() == kind)
}

/// The nearest directory that exists.
fn existing(path: &Path) -> PathBuf {
    path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/")).into()
}
