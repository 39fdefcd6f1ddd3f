//! Between our types and CRI's. Pure; the labels written here are what a restarted agent reads back.

use std::collections::{BTreeMap, HashMap};

use chrono::{DateTime, Utc};
use cri::runtime as pb;

use crate::objects::PodRef;
use crate::runtime::{
    ContainerConfig, ContainerRecord, DnsSettings, Exit, HostPort, ImageRecord, Mount, Namespaces, PodConfig,
    PodInstance, Profile, Propagation, Readiness, RecordState, Resources, Security,
};

/// Labels under which every Kubernetes tool looks for pods in a runtime.
pub(super) const LABEL_POD_NAME: &str = "io.kubernetes.pod.name";
pub(super) const LABEL_POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
pub(super) const LABEL_POD_UID: &str = "io.kubernetes.pod.uid";
pub(super) const LABEL_CONTAINER_NAME: &str = "io.kubernetes.container.name";

/// What a container sees masked and read-only under /proc unless it asks for `Unmasked`.
const MASKED_PATHS: &[&str] = &[
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];
const READONLY_PATHS: &[&str] = &["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

pub(super) fn sandbox_config(config: &PodConfig) -> pb::PodSandboxConfig {
    let mut labels: HashMap<String, String> = config.labels.clone().into_iter().collect();
    labels.extend(identity_labels(&config.pod));
    pb::PodSandboxConfig {
        metadata: Some(pb::PodSandboxMetadata {
            name: config.pod.name.clone(),
            uid: config.pod.uid.clone(),
            namespace: config.pod.namespace.clone(),
            attempt: config.attempt,
        }),
        hostname: config.hostname.clone(),
        log_directory: config.log_directory.clone(),
        dns_config: config.dns.as_ref().map(dns),
        port_mappings: config.ports.iter().map(port_mapping).collect(),
        labels,
        annotations: config.annotations.clone().into_iter().collect(),
        linux: Some(pb::LinuxPodSandboxConfig {
            cgroup_parent: config.cgroup_parent.clone(),
            security_context: Some(sandbox_security(config)),
            sysctls: config.sysctls.clone().into_iter().collect(),
            ..pb::LinuxPodSandboxConfig::default()
        }),
    }
}

fn identity_labels(pod: &PodRef) -> [(String, String); 3] {
    [
        (LABEL_POD_NAME.to_owned(), pod.name.clone()),
        (LABEL_POD_NAMESPACE.to_owned(), pod.namespace.clone()),
        (LABEL_POD_UID.to_owned(), pod.uid.clone()),
    ]
}

fn dns(settings: &DnsSettings) -> pb::DnsConfig {
    pb::DnsConfig {
        servers: settings.servers.clone(),
        searches: settings.searches.clone(),
        options: settings.options.clone(),
    }
}

fn port_mapping(port: &HostPort) -> pb::PortMapping {
    let protocol = match port.protocol.as_str() {
        "UDP" => pb::Protocol::Udp,
        "SCTP" => pb::Protocol::Sctp,
        _ => pb::Protocol::Tcp,
    };
    pb::PortMapping {
        protocol: protocol.into(),
        container_port: port.container_port.into(),
        host_port: port.host_port.into(),
        host_ip: port.host_ip.clone(),
    }
}

fn namespace_options(namespaces: Namespaces) -> pb::NamespaceOption {
    let node_or = |host: bool, other: pb::NamespaceMode| if host { pb::NamespaceMode::Node } else { other };
    let pid = if namespaces.share_processes { pb::NamespaceMode::Pod } else { pb::NamespaceMode::Container };
    pb::NamespaceOption {
        network: node_or(namespaces.host_network, pb::NamespaceMode::Pod).into(),
        pid: node_or(namespaces.host_pid, pid).into(),
        ipc: node_or(namespaces.host_ipc, pb::NamespaceMode::Pod).into(),
        target_id: String::new(),
    }
}

fn sandbox_security(config: &PodConfig) -> pb::LinuxSandboxSecurityContext {
    let security = &config.security;
    pb::LinuxSandboxSecurityContext {
        namespace_options: Some(namespace_options(config.namespaces)),
        run_as_user: security.run_as_user.map(int64),
        run_as_group: security.run_as_user.and(security.run_as_group).map(int64),
        supplemental_groups: security.supplemental_groups.clone(),
        privileged: security.privileged,
        seccomp: Some(profile(&security.seccomp)),
        ..pb::LinuxSandboxSecurityContext::default()
    }
}

pub(super) fn container_config(pod: &PodConfig, container: &ContainerConfig) -> pb::ContainerConfig {
    let mut labels: HashMap<String, String> = container.labels.clone().into_iter().collect();
    labels.extend(identity_labels(&pod.pod));
    labels.insert(LABEL_CONTAINER_NAME.to_owned(), container.name.clone());
    pb::ContainerConfig {
        metadata: Some(pb::ContainerMetadata { name: container.name.clone(), attempt: container.attempt }),
        image: Some(pb::ImageSpec {
            image: container.image_id.clone(),
            user_specified_image: container.image.clone(),
            ..pb::ImageSpec::default()
        }),
        command: container.command.clone(),
        args: container.args.clone(),
        working_dir: container.working_dir.clone(),
        envs: container.env.iter().map(key_value).collect(),
        mounts: container.mounts.iter().map(mount).collect(),
        devices: Vec::new(),
        labels,
        annotations: container.annotations.clone().into_iter().collect(),
        log_path: container.log_path.clone(),
        stdin: container.stdin,
        stdin_once: container.stdin_once,
        tty: container.tty,
        linux: Some(pb::LinuxContainerConfig {
            resources: Some(resources(&container.resources)),
            security_context: Some(container_security(pod.namespaces, &container.security)),
        }),
    }
}

fn key_value((key, value): &(String, String)) -> pb::KeyValue {
    pb::KeyValue { key: key.clone(), value: value.clone() }
}

fn mount(mount: &Mount) -> pb::Mount {
    let propagation = match mount.propagation {
        Propagation::Private => pb::MountPropagation::PropagationPrivate,
        Propagation::HostToContainer => pb::MountPropagation::PropagationHostToContainer,
        Propagation::Bidirectional => pb::MountPropagation::PropagationBidirectional,
    };
    pb::Mount {
        container_path: mount.container_path.clone(),
        host_path: mount.host_path.clone(),
        readonly: mount.readonly,
        selinux_relabel: false,
        propagation: propagation.into(),
    }
}

fn resources(resources: &Resources) -> pb::LinuxContainerResources {
    pb::LinuxContainerResources {
        cpu_period: resources.cpu_period,
        cpu_quota: resources.cpu_quota,
        cpu_shares: resources.cpu_shares,
        memory_limit_in_bytes: resources.memory_bytes,
        oom_score_adj: resources.oom_score_adj,
        ..pb::LinuxContainerResources::default()
    }
}

fn container_security(namespaces: Namespaces, security: &Security) -> pb::LinuxContainerSecurityContext {
    let show_all = security.privileged || security.unmasked_proc;
    let paths = |list: &[&str]| -> Vec<String> {
        if show_all { Vec::new() } else { list.iter().map(|path| (*path).to_owned()).collect() }
    };
    pb::LinuxContainerSecurityContext {
        capabilities: Some(pb::Capability {
            add_capabilities: security.add_capabilities.clone(),
            drop_capabilities: security.drop_capabilities.clone(),
            add_ambient_capabilities: Vec::new(),
        }),
        privileged: security.privileged,
        namespace_options: Some(namespace_options(namespaces)),
        run_as_user: security.run_as_user.map(int64),
        // CRI refuses a group without a user.
        run_as_group: security.run_as_user.and(security.run_as_group).map(int64),
        readonly_rootfs: security.readonly_rootfs,
        supplemental_groups: security.supplemental_groups.clone(),
        no_new_privs: security.no_new_privileges,
        masked_paths: paths(MASKED_PATHS),
        readonly_paths: paths(READONLY_PATHS),
        seccomp: Some(profile(&security.seccomp)),
        apparmor: security.apparmor.as_ref().map(profile),
        ..pb::LinuxContainerSecurityContext::default()
    }
}

fn profile(profile: &Profile) -> pb::SecurityProfile {
    use pb::security_profile::ProfileType;
    let (kind, reference) = match profile {
        Profile::Unconfined => (ProfileType::Unconfined, ""),
        Profile::RuntimeDefault => (ProfileType::RuntimeDefault, ""),
        Profile::Localhost(reference) => (ProfileType::Localhost, reference.as_str()),
    };
    pb::SecurityProfile { profile_type: kind.into(), localhost_ref: reference.to_owned() }
}

fn int64(value: i64) -> pb::Int64Value {
    pb::Int64Value { value }
}

pub(super) fn image_spec(reference: &str) -> pb::ImageSpec {
    pb::ImageSpec { image: reference.to_owned(), ..pb::ImageSpec::default() }
}

/// `None` for a sandbox that no Kubernetes agent made.
pub(super) fn instance(status: &pb::PodSandboxStatus) -> Option<PodInstance> {
    let metadata = status.metadata.as_ref()?;
    status.labels.get(LABEL_POD_UID)?;
    let network = status.network.clone().unwrap_or_default();
    let ips = std::iter::once(network.ip)
        .chain(network.additional_ips.into_iter().map(|ip| ip.ip))
        .filter_map(|ip| ip.parse().ok())
        .collect();
    Some(PodInstance {
        id: status.id.clone(),
        pod: PodRef {
            namespace: metadata.namespace.clone(),
            name: metadata.name.clone(),
            uid: metadata.uid.clone(),
        },
        attempt: metadata.attempt,
        ready: status.state() == pb::PodSandboxState::SandboxReady,
        ips,
        created_at: nanoseconds(status.created_at),
    })
}

pub(super) fn container(status: pb::ContainerStatus) -> ContainerRecord {
    let state = match status.state() {
        pb::ContainerState::ContainerRunning => {
            RecordState::Running { started_at: nanoseconds(status.started_at).unwrap_or_else(Utc::now) }
        }
        pb::ContainerState::ContainerCreated => RecordState::Created,
        pb::ContainerState::ContainerExited | pb::ContainerState::ContainerUnknown => {
            RecordState::Exited(Exit {
                code: status.exit_code,
                reason: exit_reason(&status.reason, status.exit_code),
                message: status.message.clone(),
                started_at: nanoseconds(status.started_at),
                finished_at: nanoseconds(status.finished_at),
            })
        }
    };
    let metadata = status.metadata.unwrap_or_default();
    ContainerRecord {
        id: status.id,
        instance_id: String::new(),
        name: metadata.name,
        attempt: metadata.attempt,
        image_id: status.image_ref,
        state,
        annotations: status.annotations.into_iter().collect::<BTreeMap<_, _>>(),
        log_path: status.log_path,
    }
}

/// containerd 1.6 says OOMKilled also when only a child was killed and the container ended well: the code decides.
fn exit_reason(reason: &str, code: i32) -> String {
    match reason {
        "OOMKilled" if code == 0 => "Completed".to_owned(),
        "" if code == 0 => "Completed".to_owned(),
        "" => "Error".to_owned(),
        other => other.to_owned(),
    }
}

pub(super) fn image(image: pb::Image) -> ImageRecord {
    ImageRecord {
        id: image.id,
        tags: image.repo_tags,
        digests: image.repo_digests,
        bytes: image.size,
        uid: image.uid.map(|uid| uid.value),
        username: image.username,
        pinned: image.pinned,
    }
}

pub(super) fn readiness(status: &pb::RuntimeStatus) -> Readiness {
    let find = |kind: &str| status.conditions.iter().find(|condition| condition.r#type == kind);
    let holds = |kind: &str| find(kind).is_some_and(|condition| condition.status);
    let message = status
        .conditions
        .iter()
        .filter(|condition| !condition.status)
        .map(|condition| format!("{}: {}", condition.reason, condition.message))
        .collect::<Vec<_>>()
        .join("; ");
    Readiness { runtime: holds("RuntimeReady"), network: holds("NetworkReady"), message }
}

fn nanoseconds(value: i64) -> Option<DateTime<Utc>> {
    (value > 0).then(|| DateTime::from_timestamp_nanos(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identity_survives_the_way_through_the_runtime() {
        let config = PodConfig {
            pod: PodRef { namespace: "shop".into(), name: "web".into(), uid: "u1".into() },
            attempt: 3,
            ..PodConfig::default()
        };
        let sent = sandbox_config(&config);
        let status = pb::PodSandboxStatus {
            id: "s1".into(),
            metadata: sent.metadata,
            labels: sent.labels,
            network: Some(pb::PodSandboxNetworkStatus {
                ip: "10.244.0.7".into(),
                additional_ips: Vec::new(),
            }),
            ..pb::PodSandboxStatus::default()
        };
        let found = instance(&status).expect("ours");
        assert_eq!((found.pod, found.attempt, found.ready), (config.pod, 3, true));
        assert_eq!(found.ips, vec!["10.244.0.7".parse::<std::net::IpAddr>().expect("an address")]);
    }

    #[test]
    fn a_sandbox_of_others_is_left_alone() {
        let status = pb::PodSandboxStatus {
            metadata: Some(pb::PodSandboxMetadata::default()),
            ..pb::PodSandboxStatus::default()
        };
        assert_eq!(instance(&status), None);
    }

    #[test]
    fn a_child_killed_for_memory_does_not_fail_a_container_that_ended_well() {
        assert_eq!(exit_reason("OOMKilled", 0), "Completed");
        assert_eq!(exit_reason("OOMKilled", 137), "OOMKilled");
        assert_eq!(exit_reason("", 1), "Error");
    }

    #[test]
    fn a_group_alone_is_not_sent() {
        let security = Security { run_as_group: Some(7), ..Security::default() };
        assert_eq!(container_security(Namespaces::default(), &security).run_as_group, None);
    }
}
