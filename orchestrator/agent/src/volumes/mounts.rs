//! Mounts that volumes need: memory-backed directories, scratch space, and parts of volumes (`subPath`) pinned by a bind
//! mount so that a container cannot swap them for a link to somewhere else.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Component, Path, PathBuf};

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{FchmodatFlags, Mode, fchmodat, fstat, mkdirat};

use super::VolumeError;

/// Fails an operation on `path` of `volume`.
fn fail(volume: &str, action: &'static str, path: &Path, source: impl Into<io::Error>) -> VolumeError {
    VolumeError::Io { volume: volume.to_owned(), action, path: path.to_path_buf(), source: source.into() }
}

/// Makes `directory` a tmpfs, unless it is one already.
pub(super) fn memory_backed(volume: &str, directory: &Path) -> Result<(), VolumeError> {
    tmpfs(volume, directory, "mode=0755".to_owned())
}

/// Makes scratch space for any user; existing content stays.
pub(super) fn scratch(
    volume: &str,
    directory: &Path,
    in_memory: bool,
    limit: Option<i64>,
    group: Option<i64>,
) -> Result<(), VolumeError> {
    let existed = directory.exists();
    if in_memory {
        let size = limit.map(|bytes| format!(",size={bytes}")).unwrap_or_default();
        tmpfs(volume, directory, format!("mode=0777{size}"))?;
    }
    if existed {
        return Ok(());
    }
    fs::create_dir_all(directory).map_err(|error| fail(volume, "create", directory, error))?;
    let mode = if let Some(group) = group.and_then(|group| u32::try_from(group).ok()) {
        chown(directory, None, Some(group)).map_err(|error| fail(volume, "chown", directory, error))?;
        0o2777
    } else {
        0o777
    };
    fs::set_permissions(directory, fs::Permissions::from_mode(mode))
        .map_err(|error| fail(volume, "chmod", directory, error))
}

fn tmpfs(volume: &str, directory: &Path, options: String) -> Result<(), VolumeError> {
    fs::create_dir_all(directory).map_err(|error| fail(volume, "create", directory, error))?;
    if is_mount_point(directory) {
        return Ok(());
    }
    mount(
        Some("tmpfs"),
        directory,
        Some("tmpfs"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
        Some(options.as_str()),
    )
    .map_err(|error| fail(volume, "mount tmpfs on", directory, error))
}

fn is_mount_point(directory: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let device = |path: &Path| fs::metadata(path).map(|found| found.dev()).ok();
    let parent = directory.parent().unwrap_or(Path::new("/"));
    device(directory) != device(parent)
}

/// Unmounts everything mounted at or below `directory`.
pub fn unmount_below(directory: &Path) -> io::Result<()> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let mut targets: Vec<PathBuf> = mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|target| PathBuf::from(unescape(target)))
        .filter(|target| target.starts_with(directory))
        .collect();
    // The newest mount is the last line: what lies above must go first.
    targets.reverse();
    for target in targets {
        // Lazily: a process that still holds a file there must not keep the pod from going.
        umount2(&target, MntFlags::MNT_DETACH)?;
    }
    Ok(())
}

/// mountinfo writes blanks and backslashes in octal.
fn unescape(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        match rest.get(at + 1..at + 4).and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                out.push(char::from(byte));
                rest = &rest[at + 4..];
            }
            None => {
                out.push('\\');
                rest = &rest[at + 1..];
            }
        }
    }
    out.push_str(rest);
    out
}

/// Pins parts of a pod's volumes.
pub struct SubPaths<'a> {
    /// The pod's directory; the pins live below it.
    pub pod_directory: &'a Path,
    /// The container that gets them.
    pub container: &'a str,
}

// === impl SubPaths ===

impl SubPaths<'_> {
    /// A path that stays `sub_path` of the volume at `root`, whatever happens in the volume later. A missing directory
    /// is made. `index` tells the container's mounts apart.
    pub fn pin(
        &self,
        volume: &str,
        root: &Path,
        sub_path: &str,
        index: usize,
    ) -> Result<PathBuf, VolumeError> {
        if !super::stays_inside(sub_path) {
            return Err(VolumeError::BadPath { volume: volume.to_owned(), path: sub_path.to_owned() });
        }
        let whole = root.join(sub_path);
        let found = open_beneath(root, sub_path).map_err(|error| fail(volume, "open", &whole, error))?;
        let source = PathBuf::from(format!("/proc/self/fd/{}", found.as_raw_fd()));
        let is_directory =
            fs::metadata(&source).map_err(|error| fail(volume, "stat", &whole, error))?.is_dir();
        let pins = self.pod_directory.join("volume-subpaths").join(volume).join(self.container);
        fs::create_dir_all(&pins).map_err(|error| fail(volume, "create", &pins, error))?;
        let pin = pins.join(index.to_string());
        // A pin of an earlier run of the container points at what the volume held then.
        let _ = umount2(&pin, MntFlags::MNT_DETACH);
        let made = if is_directory { fs::create_dir_all(&pin) } else { fs::write(&pin, "") };
        made.map_err(|error| fail(volume, "create", &pin, error))?;
        mount(Some(&source), &pin, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)
            .map_err(|error| fail(volume, "bind mount", &pin, error))?;
        Ok(pin)
    }
}

/// Opens `path` without ever leaving `root`, making missing directories.
fn open_beneath(root: &Path, path: &str) -> nix::Result<OwnedFd> {
    let root = open(root, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    match openat2(root.as_fd(), path, how) {
        Err(nix::errno::Errno::ENOENT) => {}
        other => return other,
    }
    // A new directory is as open as its volume: the container's user is not known here, and may be any.
    let mode = Mode::from_bits_truncate(fstat(root.as_fd())?.st_mode);
    let mut level = root;
    for part in Path::new(path).components() {
        let Component::Normal(name) = part else { continue };
        match mkdirat(level.as_fd(), name, mode) {
            Ok(()) => fchmodat(level.as_fd(), name, mode, FchmodatFlags::FollowSymlink)?,
            Err(nix::errno::Errno::EEXIST) => {}
            Err(error) => return Err(error),
        }
        level = openat2(level.as_fd(), name, how)?;
    }
    Ok(level)
}
