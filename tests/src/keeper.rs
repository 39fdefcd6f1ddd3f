//! Keeps one process running: what systemd does for a unit on a real node.
//!
//! `rig keep SPEC PID_FILE` holds the listening sockets (so that a client's connection waits in the backlog while the process is
//! being restarted), puts the process into its namespaces and cgroup, writes its output to a file and starts it again
//! when it ends. SIGTERM to the keeper is SIGTERM to the process, and then the end of both.

use crate::journal::{Journal, Process, Resource, wait_for};
use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, setns};
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant};

/// A process that ended this soon after its start is given a rest before the next try.
const QUICK: Duration = Duration::from_secs(1);
/// That rest: long enough not to burn a core, short enough not to be noticed by a person.
const REST: Duration = Duration::from_millis(500);
/// systemd's protocol for inherited sockets numbers them from here.
const FIRST_INHERITED: i32 = 3;

/// The end of the line that the keeper writes to its log when it starts its process again.
pub const AGAIN: &str = "starting it again";

/// What to keep running, and where.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Spec {
    /// For logs: `node-1/bowsprit`.
    pub name: String,
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Added to the environment.
    pub env: Vec<(String, String)>,
    /// Namespace files to enter, in order (`/run/netns/X`, `/proc/PID/ns/mnt`).
    pub namespaces: Vec<PathBuf>,
    /// The cgroup directory to put the process in.
    pub cgroup: Option<PathBuf>,
    /// Loopback ports of the machine's own namespace whose listening sockets the process inherits (LISTEN_FDS).
    pub listen: Vec<u16>,
    /// Where stdout and stderr go, appended.
    pub log: PathBuf,
    /// Where the pid and start time of the process stand, see [`Process::save`].
    pub pid_file: PathBuf,
}

static CHILD: AtomicI32 = AtomicI32::new(0);
static ENDING: AtomicI32 = AtomicI32::new(0);

extern "C" fn pass_on(signal: libc::c_int) {
    ENDING.store(1, Ordering::SeqCst);
    let child = CHILD.load(Ordering::SeqCst);
    if child > 0 {
        // SAFETY: kill(2) is async-signal-safe.
        unsafe { libc::kill(child, signal) };
    }
}

/// A fork and a few system calls away, on a busy machine.
const READY: Duration = Duration::from_secs(10);

/// Starts one of the rig's own processes (a keeper, a holder), which outlives us. It is ready once it has written its pid
/// to `pid_file`, which is on its command line so that it can be found before that.
///
/// # Errors
/// When it ends instead: repeats what it said.
pub fn begin(
    mut program: Command,
    what: &str,
    pid_file: &Path,
    log: &Path,
    journal: &mut Journal,
) -> Result<Process> {
    journal.record(&Resource::Process(pid_file.to_owned()))?;
    let output = File::create(log).with_context(|| format!("cannot make {}", log.display()))?;
    program.arg(pid_file).stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
    // A Ctrl-C is meant for us.
    let mut child = program.process_group(0).spawn().with_context(|| format!("cannot start {what}"))?;
    let mut ended = None;
    let ready = || Process::load(pid_file).filter(Process::runs);
    wait_for(READY, || {
        ended = child.try_wait().ok().flatten();
        ended.is_some() || ready().is_some()
    })
    .with_context(|| format!("{what} does not come up"))?;
    if let Some(status) = ended {
        let said = std::fs::read_to_string(log).unwrap_or_default();
        bail!("{what} ended with {status}: {}", said.trim());
    }
    ready().with_context(|| format!("{what} ended at once"))
}

/// The keeper's whole life.
///
/// # Errors
/// When the spec cannot be read, a port is taken, or the process cannot be started at all.
pub fn keep(spec_file: &Path, pid_file: &Path) -> Result<()> {
    let spec: Spec = serde_json::from_slice(
        &std::fs::read(spec_file).with_context(|| format!("cannot read {}", spec_file.display()))?,
    )
    .with_context(|| format!("{} is no keeper's spec", spec_file.display()))?;
    let listeners = spec.listen.iter().map(|port| listen(*port)).collect::<Result<Vec<_>>>()?;
    for signal in [libc::SIGTERM, libc::SIGINT] {
        // SAFETY: the handler only touches atomics and kill(2).
        unsafe { libc::signal(signal, pass_on as *const () as libc::sighandler_t) };
    }
    Process::own()?.save(pid_file)?;
    loop {
        let began = Instant::now();
        let mut child = start(&spec, &listeners)?;
        let status = child.wait()?;
        CHILD.store(0, Ordering::SeqCst);
        if ENDING.load(Ordering::SeqCst) != 0 {
            return Ok(());
        }
        eprintln!("rig: {} ended with {status}: {AGAIN}", spec.name);
        if began.elapsed() < QUICK {
            std::thread::sleep(REST);
        }
    }
}

fn listen(port: u16) -> Result<TcpListener> {
    TcpListener::bind(("127.0.0.1", port)).with_context(|| format!("port {port} on loopback is in use"))
}

fn start(spec: &Spec, listeners: &[TcpListener]) -> Result<Child> {
    let (program, arguments) = spec.argv.split_first().context("a keeper's spec names a program")?;
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&spec.log)
        .with_context(|| format!("cannot open {}", spec.log.display()))?;
    let namespaces = spec
        .namespaces
        .iter()
        .map(|path| File::open(path).with_context(|| format!("cannot open the namespace {}", path.display())))
        .collect::<Result<Vec<_>>>()?;
    let sockets: Vec<i32> = listeners.iter().map(AsRawFd::as_raw_fd).collect();
    let processes = spec.cgroup.as_ref().map(|directory| directory.join("cgroup.procs"));
    // The protocol wants the process's own pid in LISTEN_PID, which only a process that is about to become it can say.
    let mut command = Command::new("/bin/sh");
    command.args(["-c", r#"export LISTEN_PID=$$; exec "$@""#, "keeper", program]).args(arguments);
    command.envs(spec.env.iter().map(|(k, v)| (k, v))).stdin(Stdio::null());
    command.stdout(log.try_clone()?).stderr(log);
    if !sockets.is_empty() {
        command.env("LISTEN_FDS", sockets.len().to_string());
    }
    let enter = move || {
        if let Some(file) = &processes {
            std::fs::write(file, "0")?;
        }
        for namespace in &namespaces {
            setns(namespace, CloneFlags::empty())?;
        }
        // Last: the numbers that the sockets get may be those of the namespaces' descriptors.
        inherit(&sockets)
    };
    // SAFETY: between fork and exec this only makes system calls on descriptors and paths that were prepared before.
    unsafe { command.pre_exec(enter) };
    let child = command.spawn().with_context(|| format!("cannot start {program} for {}", spec.name))?;
    let pid = i32::try_from(child.id()).context("a pid is positive")?;
    CHILD.store(pid, Ordering::SeqCst);
    if let Some(process) = Process::of(pid) {
        process.save(&spec.pid_file)?;
    }
    Ok(child)
}

/// Moves the sockets to 3, 4, ... where LISTEN_FDS has them, in two steps because the ranges may overlap.
fn inherit(sockets: &[i32]) -> std::io::Result<()> {
    let first_free = FIRST_INHERITED + i32::try_from(sockets.len()).unwrap_or(i32::MAX);
    let mut parked = Vec::with_capacity(sockets.len());
    for socket in sockets {
        // SAFETY: duplicates a descriptor that is open in this process.
        let copy = unsafe { libc::fcntl(*socket, libc::F_DUPFD_CLOEXEC, first_free) };
        if copy < 0 {
            return Err(std::io::Error::last_os_error());
        }
        parked.push(copy);
    }
    for (copy, target) in parked.iter().zip(FIRST_INHERITED..) {
        // SAFETY: as above; dup2 clears close-on-exec on the target.
        if unsafe { libc::dup2(*copy, target) } < 0 {
            return Err(std::io::Error::last_os_error());
        }
    }
    Ok(())
}
