//! Projections of API objects: only the fields that the node reads. Neighbours read these and nothing else of an object,
//! so an agent never holds a whole one.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use client::Meta;
use client::objects::nullable;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

mod container;
mod volume;

pub use container::*;
pub use volume::*;

/// Names one pod: what an operation, a log line and an event speak about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PodRef {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub name: String,
    /// The pod's uid: a pod recreated under the same name is another pod.
    pub uid: String,
}

impl std::fmt::Display for PodRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A pod as the node sees it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pod {
    /// Identity, labels, deletion.
    pub metadata: Meta,
    /// What to run.
    pub spec: PodSpec,
    /// What was last reported: read back after an agent restart.
    pub status: PodStatus,
}

client::resource!(Pod: "" / "v1" / "pods", "Pod", namespaced);

impl<'de> Deserialize<'de> for Pod {
    /// In Kubernetes' JSON null counts as absent, at any depth: manifests are full of `command: null`.
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Fields {
            metadata: Meta,
            spec: PodSpec,
            status: PodStatus,
        }
        let mut tree = serde_json::Value::deserialize(input)?;
        remove_nulls(&mut tree);
        let Fields { metadata, spec, status } = Fields::deserialize(tree).map_err(D::Error::custom)?;
        Ok(Pod { metadata, spec, status })
    }
}

fn remove_nulls(tree: &mut serde_json::Value) {
    match tree {
        serde_json::Value::Object(fields) => {
            fields.retain(|_, value| !value.is_null());
            fields.values_mut().for_each(remove_nulls);
        }
        serde_json::Value::Array(items) => items.iter_mut().for_each(remove_nulls),
        _ => {}
    }
}

impl Pod {
    /// The pod's name, namespace and uid.
    pub fn reference(&self) -> PodRef {
        PodRef {
            namespace: self.metadata.namespace.to_string(),
            name: self.metadata.name.to_string(),
            uid: self.metadata.uid.to_string(),
        }
    }

    /// Init containers, then app containers.
    pub fn all_containers(&self) -> impl Iterator<Item = &Container> {
        self.spec.init_containers.iter().chain(&self.spec.containers)
    }
}

/// Desired state of a pod.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct PodSpec {
    /// Run in order, each to completion, before the app containers.
    pub init_containers: Vec<Container>,
    /// The app containers.
    pub containers: Vec<Container>,
    /// Volumes that containers mount.
    pub volumes: Vec<Volume>,
    /// When an exited container runs again.
    pub restart_policy: RestartPolicy,
    /// Time between SIGTERM and SIGKILL unless the delete says otherwise.
    pub termination_grace_period_seconds: i64,
    /// The pod fails when it runs longer.
    pub active_deadline_seconds: Option<i64>,
    /// Source of resolv.conf.
    pub dns_policy: DnsPolicy,
    /// Additions to resolv.conf.
    pub dns_config: Option<DnsConfig>,
    /// The node it is bound to.
    pub node_name: String,
    /// Identity towards the API.
    pub service_account_name: String,
    /// Share the node's network namespace.
    pub host_network: bool,
    /// Share the node's PID namespace.
    #[serde(rename = "hostPID")]
    pub host_pid: bool,
    /// Share the node's IPC namespace.
    #[serde(rename = "hostIPC")]
    pub host_ipc: bool,
    /// `false` asks for a user namespace.
    pub host_users: Option<bool>,
    /// One PID namespace for all containers.
    pub share_process_namespace: bool,
    /// Host name inside the pod; the pod's name when empty.
    pub hostname: String,
    /// Makes the pod's FQDN `<hostname>.<subdomain>.<namespace>.svc.<cluster domain>`.
    pub subdomain: String,
    /// Use the FQDN as kernel host name.
    #[serde(rename = "setHostnameAsFQDN")]
    pub set_hostname_as_fqdn: bool,
    /// Lines for /etc/hosts.
    pub host_aliases: Vec<HostAlias>,
    /// Security settings that containers inherit.
    pub security_context: PodSecurityContext,
    /// Service environment variables of the pod's own namespace; on unless `false`.
    pub enable_service_links: Option<bool>,
    /// Conditions set by others that readiness waits for.
    pub readiness_gates: Vec<ReadinessGate>,
}

impl Default for PodSpec {
    fn default() -> Self {
        PodSpec {
            init_containers: Vec::new(),
            containers: Vec::new(),
            volumes: Vec::new(),
            restart_policy: RestartPolicy::Always,
            termination_grace_period_seconds: 30,
            active_deadline_seconds: None,
            dns_policy: DnsPolicy::ClusterFirst,
            dns_config: None,
            node_name: String::new(),
            service_account_name: String::new(),
            host_network: false,
            host_pid: false,
            host_ipc: false,
            host_users: None,
            share_process_namespace: false,
            hostname: String::new(),
            subdomain: String::new(),
            set_hostname_as_fqdn: false,
            host_aliases: Vec::new(),
            security_context: PodSecurityContext::default(),
            enable_service_links: None,
            readiness_gates: Vec::new(),
        }
    }
}

/// When an exited container runs again.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
pub enum RestartPolicy {
    /// Always.
    #[default]
    Always,
    /// When its exit code was not zero.
    OnFailure,
    /// Never.
    Never,
}

/// Source of a pod's resolv.conf.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
pub enum DnsPolicy {
    /// Cluster DNS, but the node's for host network pods.
    #[default]
    ClusterFirst,
    /// Cluster DNS also with host network.
    ClusterFirstWithHostNet,
    /// The node's.
    Default,
    /// Only what `dnsConfig` holds.
    None,
}

/// Additions to resolv.conf.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct DnsConfig {
    /// Appended name servers.
    pub nameservers: Vec<String>,
    /// Appended search domains.
    pub searches: Vec<String>,
    /// Merged options; a later one of the same name wins.
    pub options: Vec<DnsOption>,
}

/// One resolver option.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct DnsOption {
    /// Option name, as in resolv.conf.
    pub name: String,
    /// Its value, for options that take one.
    pub value: Option<String>,
}

/// A line of /etc/hosts.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct HostAlias {
    /// Address.
    pub ip: String,
    /// Names for it.
    pub hostnames: Vec<String>,
}

/// A condition that readiness waits for.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct ReadinessGate {
    /// The condition's type.
    pub condition_type: String,
}

/// Security settings that a pod's containers inherit.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct PodSecurityContext {
    /// User id of every container that sets none.
    pub run_as_user: Option<i64>,
    /// Group id of every container that sets none.
    pub run_as_group: Option<i64>,
    /// Refuse to run as root.
    pub run_as_non_root: Option<bool>,
    /// Further groups of every process.
    pub supplemental_groups: Vec<i64>,
    /// Group that owns the pod's volumes.
    pub fs_group: Option<i64>,
    /// System call filter.
    pub seccomp_profile: Option<SeccompProfile>,
    /// Kernel parameters of the pod's namespaces.
    pub sysctls: Vec<Sysctl>,
    /// AppArmor profile.
    pub app_armor_profile: Option<SeccompProfile>,
}

/// One kernel parameter.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct Sysctl {
    /// Dotted name.
    pub name: String,
    /// Value to write.
    pub value: String,
}

/// What a node reports about a pod. Written whole; read back after an agent restart.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct PodStatus {
    /// Pending, Running, Succeeded or Failed.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub phase: String,
    /// The five conditions that a node owns, and those of others.
    pub conditions: Vec<PodCondition>,
    /// Explains the phase in a sentence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Explains the phase in a word, such as `Evicted`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The node's address.
    #[serde(rename = "hostIP", skip_serializing_if = "Option::is_none")]
    pub host_ip: Option<String>,
    /// The node's addresses.
    #[serde(rename = "hostIPs", skip_serializing_if = "Vec::is_empty")]
    pub host_ips: Vec<PodIp>,
    /// The pod's first address.
    #[serde(rename = "podIP", skip_serializing_if = "Option::is_none")]
    pub pod_ip: Option<String>,
    /// The pod's addresses.
    #[serde(rename = "podIPs", skip_serializing_if = "Vec::is_empty")]
    pub pod_ips: Vec<PodIp>,
    /// When the node took the pod on.
    #[serde(skip_serializing_if = "Option::is_none", with = "optional_time")]
    pub start_time: Option<DateTime<Utc>>,
    /// States of the init containers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub init_container_statuses: Vec<ContainerStatus>,
    /// States of the app containers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub container_statuses: Vec<ContainerStatus>,
    /// Guaranteed, Burstable or BestEffort.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub qos_class: String,
}

/// An address of a pod or of its node.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(default)]
pub struct PodIp {
    /// Textual address.
    pub ip: String,
}

/// One condition of a pod.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct PodCondition {
    /// Such as `Ready`.
    #[serde(rename = "type")]
    pub kind: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// Serialised as null when absent: a strategic patch keeps what it does not mention.
    pub reason: Option<String>,
    /// As `reason`.
    pub message: Option<String>,
    /// When `status` changed last.
    #[serde(with = "optional_time")]
    pub last_transition_time: Option<DateTime<Utc>>,
}

/// Reported state of one container.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct ContainerStatus {
    /// Container name.
    pub name: String,
    /// Present state.
    pub state: ContainerStateReport,
    /// State of the previous run.
    pub last_state: ContainerStateReport,
    /// Takes part in readiness.
    pub ready: bool,
    /// How often it was started again.
    pub restart_count: u32,
    /// Image as given.
    pub image: String,
    /// Image as resolved.
    #[serde(rename = "imageID")]
    pub image_id: String,
    /// `containerd://<id>`.
    #[serde(rename = "containerID", skip_serializing_if = "Option::is_none")]
    pub container_id: Option<String>,
    /// Running, and its startup probe has passed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started: Option<bool>,
}

/// Exactly one of the three is present, or none when nothing is known.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct ContainerStateReport {
    /// Not running yet or not running again yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waiting: Option<WaitingReport>,
    /// Running.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub running: Option<RunningReport>,
    /// Ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub terminated: Option<TerminatedReport>,
}

/// Why a container does not run yet.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(default)]
pub struct WaitingReport {
    /// A word, such as `CrashLoopBackOff`.
    pub reason: String,
    /// A sentence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// Since when a container runs.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct RunningReport {
    /// Start of the present run.
    #[serde(with = "optional_time")]
    pub started_at: Option<DateTime<Utc>>,
}

/// How a container ended.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct TerminatedReport {
    /// Exit code; 128 + n after signal n.
    pub exit_code: i32,
    /// `Completed`, `Error`, `OOMKilled`...
    pub reason: String,
    /// The container's termination message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Start of that run.
    #[serde(with = "optional_time")]
    pub started_at: Option<DateTime<Utc>>,
    /// End of that run.
    #[serde(with = "optional_time")]
    pub finished_at: Option<DateTime<Utc>>,
    /// `containerd://<id>`.
    #[serde(rename = "containerID", skip_serializing_if = "Option::is_none")]
    pub container_id: Option<String>,
}

/// API times have whole seconds.
pub(crate) mod optional_time {
    use chrono::{DateTime, SecondsFormat, Utc};
    use serde::{Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(time: &Option<DateTime<Utc>>, out: S) -> Result<S::Ok, S::Error> {
        match time {
            Some(time) => out.serialize_str(&time.to_rfc3339_opts(SecondsFormat::Secs, true)),
            None => out.serialize_none(),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        input: D,
    ) -> Result<Option<DateTime<Utc>>, D::Error> {
        Option::deserialize(input)
    }
}

/// A ConfigMap's contents.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct ConfigMap {
    /// Identity.
    pub metadata: Meta,
    /// Text entries.
    #[serde(deserialize_with = "nullable")]
    pub data: BTreeMap<String, String>,
    /// Binary entries, base64 on the wire.
    #[serde(deserialize_with = "nullable")]
    pub binary_data: BTreeMap<String, String>,
}

/// A Secret's contents.
#[derive(Clone, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Secret {
    /// Identity.
    pub metadata: Meta,
    /// Entries, base64 on the wire.
    #[serde(deserialize_with = "nullable")]
    pub data: BTreeMap<String, String>,
}

impl std::fmt::Debug for Secret {
    /// Secrets reach logs through `{:?}` all too easily: only the keys are shown.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Secret").field("name", &self.metadata.name).field("keys", &self.data.keys()).finish()
    }
}

/// A Service as environment variables describe it.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Service {
    /// Identity.
    pub metadata: Meta,
    /// Address and ports.
    pub spec: ServiceSpec,
}

/// Address and ports of a Service.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceSpec {
    /// Virtual address; `None` or empty when it has none.
    #[serde(rename = "clusterIP", deserialize_with = "nullable")]
    pub cluster_ip: String,
    /// Ports in order.
    #[serde(deserialize_with = "nullable")]
    pub ports: Vec<ServicePort>,
}

/// One port of a Service.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct ServicePort {
    /// Port name, may be empty.
    pub name: String,
    /// TCP, UDP or SCTP.
    pub protocol: String,
    /// Port of the virtual address.
    pub port: u16,
}

client::resource!(ConfigMap: "" / "v1" / "configmaps", "ConfigMap", namespaced);
client::resource!(Secret: "" / "v1" / "secrets", "Secret", namespaced);
client::resource!(Service: "" / "v1" / "services", "Service", namespaced);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_counts_as_absent_at_any_depth() {
        let pod: Pod = serde_json::from_str(
            r#"{"metadata":{"name":"a","labels":null,"resourceVersion":"7"},"status":null,
            "spec":{"volumes":null,"restartPolicy":null,"containers":[{"name":"c","command":null,
            "livenessProbe":{"httpGet":{"port":"http","path":null},"periodSeconds":null},
            "ports":[{"name":"http","containerPort":8080}]}]}}"#,
        )
        .expect("a pod");
        assert_eq!(pod.metadata.resource_version, 7);
        assert_eq!(pod.spec.termination_grace_period_seconds, 30);
        let container = &pod.spec.containers[0];
        let probe = container.liveness_probe.as_ref().expect("a probe");
        assert_eq!((probe.period_seconds, probe.failure_threshold), (10, 3));
        let port = probe.handler.http_get.as_ref().map(|action| action.port.resolve(container));
        assert_eq!(port, Some(Some(8080)));
    }

    #[test]
    fn a_secret_shows_its_keys_only() {
        let secret: Secret =
            serde_json::from_str(r#"{"data":{"password":"aHVudGVyMg=="}}"#).expect("a secret");
        let shown = format!("{secret:?}");
        assert!(shown.contains("password") && !shown.contains("aHVudGVyMg"), "{shown}");
    }
}
