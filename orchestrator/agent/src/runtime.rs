//! The container runtime as the agent needs it. The unit is the pod: an implementation may give a pod a pause container
//! (`containerd`, through CRI), or none at all, without the pod worker noticing. `fake` serves the control-plane tests.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use tokio::sync::mpsc;

use crate::objects::PodRef;

pub mod containerd;
pub mod fake;

/// Everything that outlives a container of a pod: its namespaces, address, cgroup and log directory.
#[derive(Clone, Debug, Default)]
pub struct PodConfig {
    /// Which pod; also recorded in the runtime so that a restarted agent finds it again.
    pub pod: PodRef,
    /// Grows by one each time the pod's instance has to be replaced.
    pub attempt: u32,
    /// Host name; empty with the node's network.
    pub hostname: String,
    /// Directory of the containers' logs.
    pub log_directory: String,
    /// resolv.conf; `None` leaves the node's.
    pub dns: Option<DnsSettings>,
    /// Recorded with the pod.
    pub labels: BTreeMap<String, String>,
    /// Recorded with the pod.
    pub annotations: BTreeMap<String, String>,
    /// cgroup below which the pod's containers live.
    pub cgroup_parent: String,
    /// Namespaces shared with the node or between containers.
    pub namespaces: Namespaces,
    /// Kernel parameters.
    pub sysctls: BTreeMap<String, String>,
    /// Host ports, for runtimes that map them.
    pub ports: Vec<HostPort>,
    /// User, groups and filter of the pod's own process, where the runtime needs one.
    pub security: Security,
}

/// Namespaces shared with the node or between containers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Namespaces {
    /// The node's network.
    pub host_network: bool,
    /// The node's processes.
    pub host_pid: bool,
    /// The node's IPC.
    pub host_ipc: bool,
    /// One PID namespace for all containers.
    pub share_processes: bool,
}

/// Contents of a resolv.conf.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DnsSettings {
    /// `nameserver` lines.
    pub servers: Vec<String>,
    /// `search` domains.
    pub searches: Vec<String>,
    /// `options`.
    pub options: Vec<String>,
}

/// A port of the node that leads to the pod.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HostPort {
    /// TCP, UDP or SCTP.
    pub protocol: String,
    /// Port in the pod.
    pub container_port: u16,
    /// Port on the node.
    pub host_port: u16,
    /// Address on the node, empty for all.
    pub host_ip: String,
}

/// One run of one container.
#[derive(Clone, Debug, Default)]
pub struct ContainerConfig {
    /// Container name.
    pub name: String,
    /// How often it was started before.
    pub attempt: u32,
    /// Image as the runtime resolved it.
    pub image_id: String,
    /// Image as the pod names it.
    pub image: String,
    /// Entry point; empty for the image's.
    pub command: Vec<String>,
    /// Arguments; empty for the image's.
    pub args: Vec<String>,
    /// Directory; empty for the image's.
    pub working_dir: String,
    /// Environment in order.
    pub env: Vec<(String, String)>,
    /// Bind mounts.
    pub mounts: Vec<Mount>,
    /// Recorded with the container.
    pub labels: BTreeMap<String, String>,
    /// Recorded with the container.
    pub annotations: BTreeMap<String, String>,
    /// Log file below the pod's log directory.
    pub log_path: String,
    /// Keep stdin open.
    pub stdin: bool,
    /// Close stdin after the first attach.
    pub stdin_once: bool,
    /// Allocate a terminal.
    pub tty: bool,
    /// cgroup limits.
    pub resources: Resources,
    /// User, capabilities, privileges.
    pub security: Security,
}

/// A bind mount.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Mount {
    /// Where it appears.
    pub container_path: String,
    /// What is mounted.
    pub host_path: String,
    /// Read-only.
    pub readonly: bool,
    /// How later mounts travel.
    pub propagation: Propagation,
}

/// How later mounts travel between node and container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Propagation {
    /// Not at all.
    #[default]
    Private,
    /// Into the container.
    HostToContainer,
    /// Both ways.
    Bidirectional,
}

/// cgroup limits of a container; zero leaves a knob alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// Relative weight.
    pub cpu_shares: i64,
    /// Microseconds a period.
    pub cpu_quota: i64,
    /// Length of a period in microseconds.
    pub cpu_period: i64,
    /// Memory bound.
    pub memory_bytes: i64,
    /// Badness added in an out-of-memory kill.
    pub oom_score_adj: i64,
}

/// User, capabilities and privileges.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Security {
    /// User id.
    pub run_as_user: Option<i64>,
    /// Group id.
    pub run_as_group: Option<i64>,
    /// Further groups.
    pub supplemental_groups: Vec<i64>,
    /// All capabilities and devices.
    pub privileged: bool,
    /// Read-only root file system.
    pub readonly_rootfs: bool,
    /// Never gain privileges by execve.
    pub no_new_privileges: bool,
    /// Capabilities added.
    pub add_capabilities: Vec<String>,
    /// Capabilities dropped.
    pub drop_capabilities: Vec<String>,
    /// System call filter.
    pub seccomp: Profile,
    /// AppArmor profile; `None` asks for nothing.
    pub apparmor: Option<Profile>,
    /// Show all of /proc.
    pub unmasked_proc: bool,
}

/// A seccomp or AppArmor profile.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Profile {
    /// No filter: Kubernetes' default.
    #[default]
    Unconfined,
    /// The runtime's own.
    RuntimeDefault,
    /// A file or profile of the node.
    Localhost(String),
}

/// A pod as the runtime knows it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PodInstance {
    /// The runtime's id.
    pub id: String,
    /// Whose it is.
    pub pod: PodRef,
    /// Its number.
    pub attempt: u32,
    /// Alive; false after its process or network ended.
    pub ready: bool,
    /// Addresses, first one first; empty with the node's network.
    pub ips: Vec<IpAddr>,
    /// When it was made.
    pub created_at: Option<DateTime<Utc>>,
}

/// A container as the runtime knows it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ContainerRecord {
    /// The runtime's id.
    pub id: String,
    /// Instance it belongs to.
    pub instance_id: String,
    /// Container name.
    pub name: String,
    /// Its number.
    pub attempt: u32,
    /// Image as resolved.
    pub image_id: String,
    /// Where it is in its life.
    pub state: RecordState,
    /// As given at creation.
    pub annotations: BTreeMap<String, String>,
    /// Log file on the node.
    pub log_path: String,
}

/// Where a container is in its life.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum RecordState {
    /// Made, never started: a start that was interrupted.
    #[default]
    Created,
    /// Running since.
    Running {
        /// Start of the run.
        started_at: DateTime<Utc>,
    },
    /// Ended.
    Exited(Exit),
}

/// How a container ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Exit {
    /// Exit code; 128 + n after signal n.
    pub code: i32,
    /// `Completed`, `Error`, `OOMKilled`...
    pub reason: String,
    /// Termination message.
    pub message: String,
    /// Start of that run.
    pub started_at: Option<DateTime<Utc>>,
    /// End of that run.
    pub finished_at: Option<DateTime<Utc>>,
}

/// All that the runtime holds of one pod.
#[derive(Clone, Debug, Default)]
pub struct PodRecord {
    /// Whose it is.
    pub pod: PodRef,
    /// Its instances, newest first; more than one while an old one is being removed.
    pub instances: Vec<PodInstance>,
    /// Its containers, newest first.
    pub containers: Vec<ContainerRecord>,
}

/// What happened in the runtime.
#[derive(Clone, Debug, PartialEq)]
pub enum RuntimeEvent {
    /// The stream (re)started: whatever happened before may have been missed, so list again.
    Connected,
    /// A container or an instance ended.
    Exited {
        /// Its id.
        id: String,
        /// Exit code.
        code: i32,
        /// When.
        at: DateTime<Utc>,
    },
    /// The kernel killed a process of a container for memory.
    OutOfMemory {
        /// The container's id.
        id: String,
    },
}

/// An image on the node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ImageRecord {
    /// The runtime's id.
    pub id: String,
    /// Names.
    pub tags: Vec<String>,
    /// Names by digest.
    pub digests: Vec<String>,
    /// Size on disk.
    pub bytes: u64,
    /// Numeric user that it runs as.
    pub uid: Option<i64>,
    /// Named user that it runs as.
    pub username: String,
    /// Never removed to make room.
    pub pinned: bool,
}

/// Result of a command that ran in a container.
#[derive(Clone, Debug, Default)]
pub struct ExecOutput {
    /// Exit code.
    pub code: i32,
    /// stdout, then stderr.
    pub output: Vec<u8>,
}

/// A session to open in a pod.
#[derive(Clone, Debug)]
pub enum StreamRequest {
    /// Run a command.
    Exec {
        /// Container id.
        container: String,
        /// Argument vector.
        command: Vec<String>,
        /// Streams wanted.
        streams: Streams,
    },
    /// Join the container's own process.
    Attach {
        /// Container id.
        container: String,
        /// Streams wanted.
        streams: Streams,
    },
    /// Reach ports of the pod.
    PortForward {
        /// Instance id.
        instance: String,
        /// Ports named in the request; empty when streams name them.
        ports: Vec<u16>,
    },
}

/// Streams of an exec or attach session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Streams {
    /// Input.
    pub stdin: bool,
    /// Output.
    pub stdout: bool,
    /// Errors; excluded by `tty`.
    pub stderr: bool,
    /// Terminal.
    pub tty: bool,
}

/// What the runtime says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuntimeInfo {
    /// Such as `containerd`.
    pub name: String,
    /// Its version.
    pub version: String,
}

/// Whether the runtime can take pods.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Readiness {
    /// Containers can run.
    pub runtime: bool,
    /// Pods can get addresses.
    pub network: bool,
    /// Why not.
    pub message: String,
}

/// Why the runtime did not do what was asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RuntimeError {
    /// Nobody answers, or it is still starting: try again.
    #[error("container runtime is unavailable: {reason} (is containerd running?)")]
    Unavailable {
        /// What the connection said.
        reason: String,
    },
    /// The thing is not there.
    #[error("{call}: not found: {reason}")]
    NotFound {
        /// Operation.
        call: &'static str,
        /// The runtime's words.
        reason: String,
    },
    /// Longer than its deadline.
    #[error("{call} took longer than {seconds} s")]
    Timeout {
        /// Operation.
        call: &'static str,
        /// The deadline.
        seconds: u64,
    },
    /// The container was made and could not be started.
    #[error("{reason}")]
    StartFailed {
        /// The container that was made.
        id: String,
        /// The runtime's words.
        reason: String,
    },
    /// The runtime refused.
    #[error("{call}: {reason}")]
    Refused {
        /// Operation.
        call: &'static str,
        /// The runtime's words.
        reason: String,
    },
}

impl RuntimeError {
    /// The same call may succeed without anything else changing.
    pub fn is_unavailable(&self) -> bool {
        matches!(self, RuntimeError::Unavailable { .. })
    }

    /// The thing is gone: for a removal as good as success.
    pub fn is_not_found(&self) -> bool {
        matches!(self, RuntimeError::NotFound { .. })
    }
}

/// A container runtime, one pod at a time.
#[async_trait]
pub trait PodRuntime: Send + Sync + 'static {
    /// Name and version.
    async fn info(&self) -> Result<RuntimeInfo, RuntimeError>;
    /// Whether pods can run now.
    async fn readiness(&self) -> Result<Readiness, RuntimeError>;

    /// Everything that the runtime holds. Used after a gap in `events` only.
    async fn pods(&self) -> Result<Vec<PodRecord>, RuntimeError>;
    /// What happens from now on, beginning with `Connected`. Events are never lost silently: a gap is a new `Connected`.
    fn events(&self) -> mpsc::Receiver<RuntimeEvent>;

    /// Makes the pod's namespaces, address and cgroup.
    async fn create_pod(&self, config: &PodConfig) -> Result<PodInstance, RuntimeError>;
    /// Kills what still runs in the instance and gives its address back. Idempotent.
    async fn stop_pod(&self, instance: &str) -> Result<(), RuntimeError>;
    /// Forgets a stopped instance and its containers. Idempotent.
    async fn remove_pod(&self, instance: &str) -> Result<(), RuntimeError>;

    /// Makes and starts a container; answers its id once its process runs.
    async fn start_container(
        &self,
        instance: &str,
        pod: &PodConfig,
        container: &ContainerConfig,
    ) -> Result<String, RuntimeError>;
    /// One container's present state.
    async fn container(&self, id: &str) -> Result<ContainerRecord, RuntimeError>;
    /// The container's stop signal, then SIGKILL after `grace`. Idempotent; returns when it has ended.
    async fn stop_container(&self, id: &str, grace: Duration) -> Result<(), RuntimeError>;
    /// Forgets an ended container. Idempotent.
    async fn remove_container(&self, id: &str) -> Result<(), RuntimeError>;
    /// Opens the container's log file anew, after it was renamed.
    async fn reopen_log(&self, id: &str) -> Result<(), RuntimeError>;

    /// Runs a command to its end.
    async fn exec(&self, id: &str, command: &[String], timeout: Duration)
    -> Result<ExecOutput, RuntimeError>;
    /// URL of the runtime's streaming server for one session, to be spoken to in SPDY/3.1.
    async fn stream_url(&self, request: &StreamRequest) -> Result<String, RuntimeError>;

    /// The image behind a reference, if it is here.
    async fn image(&self, reference: &str) -> Result<Option<ImageRecord>, RuntimeError>;
    /// Fetches an image from its registry.
    async fn pull_image(&self, reference: &str) -> Result<(), RuntimeError>;
    /// All images here.
    async fn images(&self) -> Result<Vec<ImageRecord>, RuntimeError>;
    /// Removes an image. Idempotent.
    async fn remove_image(&self, id: &str) -> Result<(), RuntimeError>;
}
