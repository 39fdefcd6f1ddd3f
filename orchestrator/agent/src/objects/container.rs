//! The container part of a pod: what to run, with what, and how to tell whether it lives.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};

use super::RestartPolicy;

/// A container to run.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Container {
    /// Unique within the pod.
    pub name: String,
    /// Image reference.
    pub image: String,
    /// When to ask a registry; empty means by tag.
    pub image_pull_policy: String,
    /// Replaces the image's entry point.
    pub command: Vec<String>,
    /// Replaces the image's arguments.
    pub args: Vec<String>,
    /// Replaces the image's directory.
    pub working_dir: String,
    /// Declared ports; host ports and named probe ports are read from here.
    pub ports: Vec<ContainerPort>,
    /// Single variables; they win over `env_from`.
    pub env: Vec<EnvVar>,
    /// Whole ConfigMaps and Secrets as variables.
    pub env_from: Vec<EnvFrom>,
    /// Requests and limits.
    pub resources: ResourceRequirements,
    /// Where volumes appear.
    pub volume_mounts: Vec<VolumeMount>,
    /// Restarts the container on failure.
    pub liveness_probe: Option<Probe>,
    /// Decides whether the container gets traffic.
    pub readiness_probe: Option<Probe>,
    /// Holds the other two back until it has passed once.
    pub startup_probe: Option<Probe>,
    /// Hooks after start and before stop.
    pub lifecycle: Lifecycle,
    /// File whose content becomes the termination message.
    pub termination_message_path: String,
    /// `File` or `FallbackToLogsOnError`.
    pub termination_message_policy: String,
    /// User, capabilities, privileges.
    pub security_context: SecurityContext,
    /// Keep stdin open.
    pub stdin: bool,
    /// Close stdin after the first attach.
    pub stdin_once: bool,
    /// Allocate a terminal.
    pub tty: bool,
    /// `Always` on an init container makes it a sidecar.
    pub restart_policy: Option<RestartPolicy>,
}

/// A declared port.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct ContainerPort {
    /// Name that probes and Services may use.
    pub name: String,
    /// Port inside the pod.
    pub container_port: u16,
    /// Port on the node, zero for none.
    pub host_port: u16,
    /// Address on the node.
    #[serde(rename = "hostIP")]
    pub host_ip: String,
    /// TCP, UDP or SCTP.
    pub protocol: String,
}

/// One environment variable.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct EnvVar {
    /// Variable name.
    pub name: String,
    /// Literal value with `$(VAR)` references.
    pub value: String,
    /// Value from elsewhere.
    pub value_from: Option<EnvVarSource>,
}

/// Where a variable's value comes from; one is set.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct EnvVarSource {
    /// A field of the pod.
    pub field_ref: Option<FieldRef>,
    /// A request or limit.
    pub resource_field_ref: Option<ResourceFieldRef>,
    /// An entry of a ConfigMap.
    pub config_map_key_ref: Option<KeyRef>,
    /// An entry of a Secret.
    pub secret_key_ref: Option<KeyRef>,
}

/// A field of the pod.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct FieldRef {
    /// Such as `metadata.name`.
    pub field_path: String,
}

/// A request or limit of a container.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct ResourceFieldRef {
    /// Which container; the own one when empty.
    pub container_name: String,
    /// Such as `limits.cpu`.
    pub resource: String,
    /// Unit to divide by; `1` when absent.
    pub divisor: Option<Quantity>,
}

/// One entry of a ConfigMap or Secret.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct KeyRef {
    /// Object name.
    pub name: String,
    /// Entry.
    pub key: String,
    /// Absence is no error.
    pub optional: bool,
}

/// A whole ConfigMap or Secret as variables.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct EnvFrom {
    /// Put before every name.
    pub prefix: String,
    /// Source.
    pub config_map_ref: Option<ObjectRef>,
    /// Source.
    pub secret_ref: Option<ObjectRef>,
}

/// A ConfigMap or Secret by name.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct ObjectRef {
    /// Object name.
    pub name: String,
    /// Absence is no error.
    pub optional: bool,
}

/// A number with a unit, as written; `resources` interprets it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Quantity(pub String);

impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Either {
            Text(String),
            Number(serde_json::Number),
        }
        Ok(match Either::deserialize(input)? {
            Either::Text(text) => Quantity(text),
            Either::Number(number) => Quantity(number.to_string()),
        })
    }
}

/// Requests and limits by resource name.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct ResourceRequirements {
    /// Upper bounds, enforced.
    pub limits: BTreeMap<String, Quantity>,
    /// What the scheduler reserved.
    pub requests: BTreeMap<String, Quantity>,
}

/// Where a volume appears in a container.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct VolumeMount {
    /// Volume name.
    pub name: String,
    /// Path in the container.
    pub mount_path: String,
    /// Directory or file within the volume.
    pub sub_path: String,
    /// As `sub_path`, with `$(VAR)` expansion.
    pub sub_path_expr: String,
    /// Mounted read-only.
    pub read_only: bool,
    /// `None`, `HostToContainer` or `Bidirectional`.
    pub mount_propagation: Option<String>,
}

/// Hooks of a container's life.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Lifecycle {
    /// After the start; its failure kills the container.
    pub post_start: Option<Handler>,
    /// Before SIGTERM, within the grace period.
    pub pre_stop: Option<Handler>,
}

/// What a hook or probe does; one is set.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Handler {
    /// Run a command in the container.
    pub exec: Option<ExecAction>,
    /// Request a URL.
    pub http_get: Option<HttpGetAction>,
    /// Open a connection.
    pub tcp_socket: Option<TcpSocketAction>,
    /// Ask gRPC health (probes).
    pub grpc: Option<GrpcAction>,
    /// Just wait (hooks).
    pub sleep: Option<SleepAction>,
}

/// A command to run in the container.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct ExecAction {
    /// Argument vector; no shell.
    pub command: Vec<String>,
}

/// A URL to request.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpGetAction {
    /// Path and query.
    pub path: String,
    /// Number or name of a port.
    pub port: IntOrString,
    /// Host to connect to; the pod when empty.
    pub host: String,
    /// `HTTP` or `HTTPS`.
    pub scheme: String,
    /// Further headers.
    pub http_headers: Vec<HttpHeader>,
}

/// One header.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct HttpHeader {
    /// Header name.
    pub name: String,
    /// Header value.
    pub value: String,
}

/// A connection to open.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct TcpSocketAction {
    /// Number or name of a port.
    pub port: IntOrString,
    /// Host to connect to; the pod when empty.
    pub host: String,
}

/// A gRPC health check.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct GrpcAction {
    /// Port number.
    pub port: u16,
    /// Service asked about.
    pub service: Option<String>,
}

/// A pause.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct SleepAction {
    /// Length in seconds.
    pub seconds: u64,
}

/// A port by number or name.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(untagged)]
pub enum IntOrString {
    /// A number.
    Int(i64),
    /// A name, or a number as text.
    Text(String),
}

impl Default for IntOrString {
    fn default() -> Self {
        IntOrString::Int(0)
    }
}

impl IntOrString {
    /// The port that this stands for in `container`.
    pub fn resolve(&self, container: &Container) -> Option<u16> {
        match self {
            IntOrString::Int(number) => u16::try_from(*number).ok().filter(|port| *port > 0),
            IntOrString::Text(text) => text.parse().ok().or_else(|| {
                container.ports.iter().find(|port| port.name == *text).map(|port| port.container_port)
            }),
        }
    }
}

/// A periodic check of a container.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Probe {
    /// What to do.
    #[serde(flatten)]
    pub handler: Handler,
    /// Seconds after the start before the first one.
    pub initial_delay_seconds: u64,
    /// Seconds that one may take.
    pub timeout_seconds: u64,
    /// Seconds between two.
    pub period_seconds: u64,
    /// Successes in a row that turn a failed state.
    pub success_threshold: u32,
    /// Failures in a row that turn a good state.
    pub failure_threshold: u32,
    /// Replaces the pod's grace when this probe kills.
    pub termination_grace_period_seconds: Option<i64>,
}

impl Default for Probe {
    fn default() -> Self {
        Probe {
            handler: Handler::default(),
            initial_delay_seconds: 0,
            timeout_seconds: 1,
            period_seconds: 10,
            success_threshold: 1,
            failure_threshold: 3,
            termination_grace_period_seconds: None,
        }
    }
}

/// User, capabilities and privileges of a container.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct SecurityContext {
    /// User id.
    pub run_as_user: Option<i64>,
    /// Group id.
    pub run_as_group: Option<i64>,
    /// Refuse to run as root.
    pub run_as_non_root: Option<bool>,
    /// Root file system read-only.
    pub read_only_root_filesystem: bool,
    /// All capabilities and devices.
    pub privileged: bool,
    /// `false` sets no_new_privs.
    pub allow_privilege_escalation: Option<bool>,
    /// Capabilities to add and drop.
    pub capabilities: Capabilities,
    /// System call filter; the pod's when absent.
    pub seccomp_profile: Option<SeccompProfile>,
    /// AppArmor profile; the pod's when absent.
    pub app_armor_profile: Option<SeccompProfile>,
    /// `Unmasked` shows all of /proc.
    pub proc_mount: Option<String>,
}

/// Capabilities to add and drop.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct Capabilities {
    /// Added; `ALL` for all.
    pub add: Vec<String>,
    /// Dropped; `ALL` for all.
    pub drop: Vec<String>,
}

/// A seccomp or AppArmor profile; both have this shape.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct SeccompProfile {
    /// `RuntimeDefault`, `Unconfined` or `Localhost`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Name of a profile on the node.
    pub localhost_profile: Option<String>,
}
