//! What the kernel must offer, asked once at start: what is missing is named with the kernel that brings it and the remedy.

use std::{
    fs, io,
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use nix::{
    mount::{MsFlags, mount},
    sys::statfs::{BPF_FS_MAGIC, CGROUP2_SUPER_MAGIC, FsType, statfs},
    unistd::Uid,
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
    check_privileges()?;
    bpffs(&config.bpffs)?;
    cgroup(&config.cgroup)?;
    attach_and_let_go().map_err(without_tcx)?;
    tracing::info!(kernel = release(), "tcx, cgroup v2 socket hooks and bpffs are available");
    Ok(())
}

/// Whether this process may load eBPF programs at all.
///
/// # Errors
/// When it may not; names the remedy.
pub fn check_privileges() -> Result<()> {
    privileges(nix::unistd::geteuid())
}

fn privileges(user: Uid) -> Result<()> {
    if user.is_root() {
        return Ok(());
    }
    Err(not_permitted(io::Error::from(io::ErrorKind::PermissionDenied)))
}

fn not_permitted(source: io::Error) -> Error {
    Error::Privileges { action: "load eBPF programs", source }
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
fn attach_and_let_go() -> io::Result<()> {
    let program = sys::load_empty_classifier()?;
    sys::link_create(program.as_fd(), LOOPBACK, sys::TCX_INGRESS).map(drop)
}

/// What it means when that fails: a kernel that does not know tcx does not know the attach type.
fn without_tcx(source: io::Error) -> Error {
    match source.kind() {
        io::ErrorKind::PermissionDenied => not_permitted(source),
        _ => Error::Feature {
            feature: "tcx links",
            since: "6.6",
            remedy: format!("run a newer kernel than this {}", release()),
            source,
        },
    }
}

fn release() -> String {
    nix::sys::utsname::uname()
        .map_or_else(|_| "one".into(), |uts| uts.release().to_string_lossy().into_owned())
}

fn is_kind(path: &Path, kind: FsType) -> bool {
    statfs(path).is_ok_and(|status| status.filesystem_type() == kind)
}

/// The nearest directory that exists.
fn existing(path: &Path) -> PathBuf {
    path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/")).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a person is told, the kernel's reason left out.
    fn told<T>(result: Result<T>) -> String {
        result.err().expect("a complaint").to_string()
    }

    #[test]
    fn what_is_missing_is_named_with_the_remedy() {
        let elsewhere = tempfile::tempdir().expect("a directory");
        for (complaint, subject, remedy) in [
            (told(privileges(Uid::from_raw(1000))), "may not load eBPF programs", "as root"),
            (
                told::<()>(Err(without_tcx(io::Error::from_raw_os_error(libc::EPERM)))),
                "may not load",
                "CAP_BPF",
            ),
            (
                told::<()>(Err(without_tcx(io::Error::from_raw_os_error(libc::EINVAL)))),
                "tcx links",
                "Linux 6.6",
            ),
            (told(bpffs(elsewhere.path())), "a bpffs", "mount -t bpf bpffs /sys/fs/bpf"),
            (told(cgroup(elsewhere.path())), "cgroup v2", "/sys/fs/cgroup"),
        ] {
            assert!(complaint.contains(subject) && complaint.contains(remedy), "{complaint}");
        }
        assert!(told(bpffs(elsewhere.path())).contains(&elsewhere.path().display().to_string()));
    }
}
