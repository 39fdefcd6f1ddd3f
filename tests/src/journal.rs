//! What a cluster has on this machine, one JSON line a resource, written and synced before the resource is made.
//!
//! The journal is replayed backwards by `down`. Undoing something that was never made, or was undone before, is no error:
//! that is what makes both `up` and `down` safe to interrupt anywhere.

use crate::command::{command, run};
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A cgroup's processes are gone this long after `cgroup.kill`; 18 ms were measured with 50 pods.
const KILL: Duration = Duration::from_secs(10);

/// Something on this machine that a cluster made and that outlives the program that made it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resource {
    /// A directory with all that is in it.
    Directory(PathBuf),
    /// One file or socket.
    File(PathBuf),
    /// A named network namespace (`ip netns`).
    NetworkNamespace(String),
    /// A cgroup subtree, relative to the root of every hierarchy; its processes are killed.
    Cgroup(String),
    /// A process that has this file on its command line, and writes its pid and start time to it (see [`Process`]).
    Process(PathBuf),
}

/// A pid and when it was started, in clock ticks since boot: together they are never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Process id in the machine's PID namespace.
    pub pid: i32,
    /// Field 22 of `/proc/PID/stat`.
    pub started: u64,
}

impl Process {
    /// The process as it is now, or `None` when there is none with this pid.
    #[must_use]
    pub fn of(pid: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The command name may hold spaces and parentheses: fields are counted from the last one.
        let after_name = stat.rsplit_once(')')?.1;
        let state = after_name.split_whitespace().next()?;
        let started = after_name.split_whitespace().nth(19)?.parse().ok()?;
        // The first thread ends before the others do, which still hold the process's files and ports.
        let lives = state != "Z" || fs::read_dir(format!("/proc/{pid}/task")).ok()?.count() > 1;
        lives.then_some(Self { pid, started })
    }

    /// This process.
    ///
    /// # Errors
    /// When `/proc` is not mounted.
    pub fn own() -> Result<Self> {
        Self::of(i32::try_from(std::process::id())?).context("this process is not in /proc: is it mounted?")
    }

    /// Reads the file that [`Process::save`] wrote.
    #[must_use]
    pub fn load(file: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(file).ok()?).ok()
    }

    /// The processes that were started with `argument` on their command line.
    fn with_argument(argument: &Path) -> Vec<Self> {
        let is_given = |pid: i32| {
            fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|words| {
                words.split(|byte| *byte == 0).any(|word| word == argument.as_os_str().as_bytes())
            })
        };
        let entries = fs::read_dir("/proc").map(Iterator::flatten).into_iter().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.filter(|pid| is_given(*pid)).filter_map(Self::of).collect()
    }

    /// Writes pid and start time to `file`, whole or not at all.
    ///
    /// # Errors
    /// When the directory is not writable.
    pub fn save(&self, file: &Path) -> Result<()> {
        let staged = file.with_extension("new");
        fs::write(&staged, serde_json::to_vec(self)?)
            .with_context(|| format!("cannot write {}", staged.display()))?;
        fs::rename(&staged, file).with_context(|| format!("cannot write {}", file.display()))
    }

    /// Whether this very process still runs.
    #[must_use]
    pub fn runs(&self) -> bool {
        Self::of(self.pid) == Some(*self)
    }

    /// Sends a signal, if this very process still runs.
    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        if self.runs() {
            // The process may end between the check and the signal: then there is nothing left to do.
            let _gone = nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.pid), signal);
        }
    }
}

/// The journal of one cluster.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
}

impl Journal {
    /// Opens or makes the journal at `path`. As long as it is open nobody else makes or removes anything of the cluster.
    ///
    /// # Errors
    /// When the file cannot be made, or an `up` or `down` of the same cluster has it open.
    pub fn open(path: &Path) -> Result<Self> {
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .with_context(|| format!("cannot open the journal {}", path.display()))?;
        // The lock goes with the process, however it ends.
        match file.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), file }),
            Err(TryLockError::WouldBlock) => bail!(
                "another `up` or `down` of this cluster is at work (it has {} open): wait for its end or interrupt it",
                path.display()
            ),
            Err(TryLockError::Error(error)) => {
                Err(error).with_context(|| format!("cannot lock the journal {}", path.display()))
            }
        }
    }

    /// Undoes everything in it; see [`replay`].
    ///
    /// # Errors
    /// As [`replay`].
    pub fn replay(self) -> Result<()> {
        replay(&self.path)
    }

    /// Notes that `resource` is about to be made. It is on disk when this returns.
    ///
    /// # Errors
    /// When the disk refuses: then the resource must not be made.
    pub fn record(&mut self, resource: &Resource) -> Result<()> {
        let mut line = serde_json::to_vec(resource)?;
        line.push(b'\n');
        self.file
            .write_all(&line)
            .and_then(|()| self.file.sync_data())
            .with_context(|| format!("cannot write to the journal {}", self.path.display()))
    }

    /// All that was noted in the journal at `path`, oldest first; a line cut short by a crash was never acted on.
    #[must_use]
    pub fn read(path: &Path) -> Vec<Resource> {
        let text = fs::read_to_string(path).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }
}

/// Undoes everything in the journal at `path`, newest first, and then removes the journal itself.
///
/// # Errors
/// What could not be undone, all of it; the journal then stays for another try.
pub fn replay(path: &Path) -> Result<()> {
    let resources = Journal::read(path);
    let mut complaints = Vec::new();
    for resource in resources.iter().rev() {
        if let Err(error) = undo(resource) {
            complaints.push(format!("{resource:?}: {error:#}"));
        }
    }
    if !complaints.is_empty() {
        anyhow::bail!(
            "could not take everything down; run it again after looking at:\n{}",
            complaints.join("\n")
        );
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).context("cannot remove the journal")
        }
        _ => Ok(()),
    }
}

fn undo(resource: &Resource) -> Result<()> {
    match resource {
        Resource::Directory(path) => remove_directory(path),
        Resource::File(path) => match fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", path.display()))
            }
            _ => Ok(()),
        },
        Resource::NetworkNamespace(name) => {
            if Path::new("/run/netns").join(name).exists() {
                run(&mut command("ip", ["netns", "delete", name]))?;
            }
            Ok(())
        }
        Resource::Cgroup(path) => remove_cgroups(path),
        Resource::Process(file) => end_process(file),
    }
}

/// Ends the process that wrote the file, and one that was started to write it and had no time to.
fn end_process(file: &Path) -> Result<()> {
    for process in Process::load(file).into_iter().chain(Process::with_argument(file)) {
        process.signal(nix::sys::signal::Signal::SIGKILL);
        wait_for(KILL, || !process.runs())
            .with_context(|| format!("process {} does not end", process.pid))?;
    }
    Ok(())
}

/// Removes a directory after unmounting what is mounted below it in this mount namespace.
fn remove_directory(path: &Path) -> Result<()> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let below = |target: &&str| Path::new(target).starts_with(path);
    for target in mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(1))
        .filter(below)
        .collect::<Vec<_>>()
        .iter()
        .rev()
    {
        nix::mount::umount2(*target, nix::mount::MntFlags::MNT_DETACH)
            .with_context(|| format!("cannot unmount {target}"))?;
    }
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// The roots of all cgroup hierarchies that are mounted, v2 and v1.
pub(crate) fn cgroup_roots() -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let is_cgroup = |line: &&str| line.split(' ').nth(2).is_some_and(|kind| kind.starts_with("cgroup"));
    mounts.lines().filter(is_cgroup).filter_map(|line| line.split(' ').nth(1)).map(PathBuf::from).collect()
}

/// The mount point of cgroup v2: the only hierarchy, or beside the v1 ones on hybrid machines.
#[must_use]
pub fn cgroup_v2_root() -> Option<PathBuf> {
    cgroup_roots().into_iter().find(|root| root.join("cgroup.controllers").exists())
}

fn remove_cgroups(relative: &str) -> Result<()> {
    let relative = relative.trim_start_matches('/');
    let mut directories: Vec<PathBuf> = cgroup_roots().iter().map(|root| root.join(relative)).collect();
    directories.retain(|directory| directory.exists());
    // First in all hierarchies: what lives in one of them makes its cgroups in the others anew.
    for directory in &directories {
        kill_cgroup(directory)?;
        wait_for(KILL, || processes_below(directory).is_empty())
            .with_context(|| format!("processes stay in {}", directory.display()))?;
    }
    for directory in &directories {
        // A cgroup can refuse removal for a moment after its last process is gone.
        wait_for(KILL, || remove_cgroup_tree(directory))
            .with_context(|| format!("cannot remove {}", directory.display()))?;
    }
    Ok(())
}

fn kill_cgroup(directory: &Path) -> Result<()> {
    let kill = directory.join("cgroup.kill");
    if kill.exists() {
        return fs::write(&kill, "1").with_context(|| format!("cannot write {}", kill.display()));
    }
    for pid in processes_below(directory) {
        let _gone =
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
    }
    Ok(())
}

fn processes_below(directory: &Path) -> Vec<i32> {
    let mut pids: Vec<i32> = fs::read_to_string(directory.join("cgroup.procs"))
        .unwrap_or_default()
        .lines()
        .filter_map(|line| line.parse().ok())
        .collect();
    for child in children(directory) {
        pids.extend(processes_below(&child));
    }
    pids
}

fn children(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

fn remove_cgroup_tree(directory: &Path) -> bool {
    for child in children(directory) {
        remove_cgroup_tree(&child);
    }
    match fs::remove_dir(directory) {
        Ok(()) => true,
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
    }
}

/// Asks `done` every few milliseconds until it says yes. For things that the kernel gives no event for.
///
/// # Errors
/// After `limit`.
pub fn wait_for(limit: Duration, mut done: impl FnMut() -> bool) -> Result<()> {
    let deadline = Instant::now() + limit;
    while !done() {
        anyhow::ensure!(Instant::now() < deadline, "waited {} s in vain", limit.as_secs());
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replay_undoes_what_exists_and_forgives_what_does_not() {
        let base = std::env::temp_dir().join(format!("rig-journal-{}", std::process::id()));
        let (made, never_made) = (base.join("made"), base.join("never"));
        fs::create_dir_all(made.join("deep")).unwrap();
        let path = base.join("journal");
        let mut journal = Journal::open(&path).unwrap();
        for resource in [Resource::Directory(made.clone()), Resource::Directory(never_made)] {
            journal.record(&resource).unwrap();
        }
        // A crash in the middle of a line.
        OpenOptions::new().append(true).open(&path).unwrap().write_all(b"{\"directo").unwrap();
        assert!(Journal::open(&path).unwrap_err().to_string().contains("another `up` or `down`"));
        journal.replay().unwrap();
        assert!(!made.exists() && !path.exists());
        fs::remove_dir_all(base).unwrap();
    }

    #[test]
    fn a_process_that_did_not_write_its_file_yet_is_ended_too() {
        let file = std::env::temp_dir().join(format!("rig-pid-{}", std::process::id()));
        let mut child = std::process::Command::new("sh")
            .args(["-c", "read x", "sh"])
            .arg(&file)
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let started = i32::try_from(child.id()).unwrap();
        // Until the shell runs its command line is ours.
        wait_for(KILL, || Process::with_argument(&file).iter().any(|process| process.pid == started))
            .unwrap();
        undo(&Resource::Process(file)).unwrap();
        assert!(!child.wait().unwrap().success());
    }

    #[test]
    fn a_process_is_known_by_pid_and_start() {
        let me = Process::of(i32::try_from(std::process::id()).unwrap()).unwrap();
        assert!(me.runs());
        assert!(!Process { started: me.started + 1, ..me }.runs());
    }
}
