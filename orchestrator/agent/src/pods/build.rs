//! Turns a pod's object into what the runtime is asked for. Pure but for the files that it names.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use super::files;
use super::settings::PodSettings;
use crate::env;
use crate::objects::{Container, Pod, SeccompProfile, VolumeMount};
use crate::resources;
use crate::runtime::{
    ContainerConfig, HostPort, ImageRecord, Mount, Namespaces, PodConfig, Profile, Propagation, Security,
};
use crate::volumes::{Prepared, SubPaths, VolumeError};

/// Annotations under which a run is recorded in the runtime.
const ANNOTATION_RESTARTS: &str = "io.kubernetes.container.restartCount";
const ANNOTATION_MESSAGE_PATH: &str = "io.kubernetes.container.terminationMessagePath";
const ANNOTATION_MESSAGE_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";
/// Grace of a pod whose object is gone when the agent comes back.
pub const ANNOTATION_GRACE: &str = "io.kubernetes.pod.terminationGracePeriod";

/// Directory below which seccomp profiles of type Localhost lie.
const SECCOMP_DIRECTORY: &str = "/var/lib/kubelet/seccomp";

/// A pod or container that cannot be made as asked.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A feature that the runtime would silently ignore.
    #[error("pod asks for {feature}, which this node's container runtime cannot provide")]
    Unsupported {
        /// What was asked for.
        feature: &'static str,
    },
    /// runAsNonRoot is violated or cannot be checked.
    #[error("{reason}")]
    RunAsNonRoot {
        /// Kubernetes' words.
        reason: String,
    },
    /// A mount of a volume that the pod does not have.
    #[error("container {container} mounts volume {volume:?}, which the pod does not have")]
    NoSuchVolume {
        /// Container name.
        container: String,
        /// Volume name.
        volume: String,
    },
    /// A part of a volume.
    #[error(transparent)]
    SubPath(#[from] VolumeError),
    /// A file of the pod.
    #[error("cannot write {path:?}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// The pod itself.
pub fn pod_config(pod: &Pod, attempt: u32, settings: &PodSettings) -> Result<PodConfig, BuildError> {
    if pod.spec.host_users == Some(false) {
        return Err(BuildError::Unsupported { feature: "a user namespace (hostUsers: false)" });
    }
    let reference = pod.reference();
    let (short, full) = files::host_names(pod, &settings.cluster_domain);
    let hostname = match full {
        _ if pod.spec.host_network => String::new(),
        Some(full) if pod.spec.set_hostname_as_fqdn => full,
        _ => short,
    };
    Ok(PodConfig {
        attempt,
        hostname,
        log_directory: files::log_directory(settings, &reference).to_string_lossy().into_owned(),
        dns: Some(files::dns(pod, settings)),
        labels: (&pod.metadata.labels).into(),
        annotations: BTreeMap::new(),
        cgroup_parent: settings.cgroups.path_of(pod),
        namespaces: Namespaces {
            host_network: pod.spec.host_network,
            host_pid: pod.spec.host_pid,
            host_ipc: pod.spec.host_ipc,
            share_processes: pod.spec.share_process_namespace,
        },
        sysctls: pod
            .spec
            .security_context
            .sysctls
            .iter()
            .map(|sysctl| (sysctl.name.clone(), sysctl.value.clone()))
            .collect(),
        ports: pod.spec.containers.iter().flat_map(host_ports).collect(),
        security: pod_security(pod),
        pod: reference,
    })
}

fn host_ports(container: &Container) -> impl Iterator<Item = HostPort> + '_ {
    container.ports.iter().filter(|port| port.host_port > 0).map(|port| HostPort {
        protocol: port.protocol.clone(),
        container_port: port.container_port,
        host_port: port.host_port,
        host_ip: port.host_ip.clone(),
    })
}

/// The pause process needs no more than the pod's most privileged container.
fn pod_security(pod: &Pod) -> Security {
    Security {
        run_as_user: pod.spec.security_context.run_as_user,
        run_as_group: pod.spec.security_context.run_as_group,
        supplemental_groups: groups(pod),
        privileged: pod.all_containers().any(|container| container.security_context.privileged),
        seccomp: profile(pod.spec.security_context.seccomp_profile.as_ref()),
        ..Security::default()
    }
}

/// What one run of a container is made from.
pub struct RunInputs<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// The container.
    pub container: &'a Container,
    /// Number of the run.
    pub attempt: u32,
    /// Its image.
    pub image: &'a ImageRecord,
    /// Its environment.
    pub env: Vec<(String, String)>,
    /// The pod's volumes.
    pub volumes: &'a Prepared,
    /// The pod's addresses.
    pub ips: &'a [IpAddr],
    /// The node.
    pub settings: &'a PodSettings,
}

/// One run of a container. Writes the pod's /etc/hosts and the run's message file.
pub fn container_config(inputs: RunInputs<'_>) -> Result<ContainerConfig, BuildError> {
    let RunInputs { pod, container, attempt, image, env, volumes, ips, settings } = inputs;
    let security = container_security(pod, container);
    check_non_root(pod, container, &security, image)?;
    let expand = |list: &[String]| list.iter().map(|text| env::expand(text, &env)).collect::<Vec<_>>();
    let mut mounts = volume_mounts(pod, container, volumes, &env, settings)?;
    mounts.extend(own_mounts(pod, container, attempt, ips, settings, &mounts)?);
    Ok(ContainerConfig {
        name: container.name.clone(),
        attempt,
        image_id: image.id.clone(),
        image: container.image.clone(),
        command: expand(&container.command),
        args: expand(&container.args),
        working_dir: container.working_dir.clone(),
        mounts,
        labels: BTreeMap::new(),
        annotations: BTreeMap::from([
            (ANNOTATION_RESTARTS.to_owned(), attempt.to_string()),
            (ANNOTATION_MESSAGE_PATH.to_owned(), files::message_path(container).to_owned()),
            (ANNOTATION_MESSAGE_POLICY.to_owned(), container.termination_message_policy.clone()),
            (ANNOTATION_GRACE.to_owned(), pod.spec.termination_grace_period_seconds.to_string()),
        ]),
        log_path: files::log_path(&container.name, attempt),
        stdin: container.stdin,
        stdin_once: container.stdin_once,
        tty: container.tty,
        resources: resources::container_resources(pod, container, settings.memory_capacity),
        security,
        env,
    })
}

// === mounts ===

fn volume_mounts(
    pod: &Pod,
    container: &Container,
    volumes: &Prepared,
    env: &[(String, String)],
    settings: &PodSettings,
) -> Result<Vec<Mount>, BuildError> {
    let pod_directory = settings.pods_directory.join(&*pod.metadata.uid);
    let pins = SubPaths { pod_directory: &pod_directory, container: &container.name };
    let mounts = container.volume_mounts.iter().enumerate();
    let made = mounts.map(|(index, mount)| {
        let root = volumes.paths.get(&mount.name).ok_or_else(|| BuildError::NoSuchVolume {
            container: container.name.clone(),
            volume: mount.name.clone(),
        })?;
        let sub_path = sub_path(mount, env);
        let host_path =
            if sub_path.is_empty() { root.clone() } else { pins.pin(&mount.name, root, &sub_path, index)? };
        Ok(Mount {
            container_path: absolute(&mount.mount_path),
            host_path: host_path.to_string_lossy().into_owned(),
            readonly: mount.read_only || is_content(pod, &mount.name),
            propagation: match mount.mount_propagation.as_deref() {
                Some("Bidirectional") => Propagation::Bidirectional,
                Some("HostToContainer") => Propagation::HostToContainer,
                _ => Propagation::Private,
            },
        })
    });
    made.collect()
}

fn sub_path(mount: &VolumeMount, env: &[(String, String)]) -> String {
    if mount.sub_path_expr.is_empty() {
        mount.sub_path.clone()
    } else {
        env::expand(&mount.sub_path_expr, env)
    }
}

fn absolute(path: &str) -> String {
    if path.starts_with('/') { path.to_owned() } else { format!("/{path}") }
}

/// Volumes that the node writes are never writable inside.
fn is_content(pod: &Pod, name: &str) -> bool {
    pod.spec.volumes.iter().any(|volume| {
        volume.name == name
            && (volume.config_map.is_some()
                || volume.secret.is_some()
                || volume.projected.is_some()
                || volume.downward_api.is_some())
    })
}

/// /etc/hosts and the termination message, unless the container mounts something of its own there.
fn own_mounts(
    pod: &Pod,
    container: &Container,
    attempt: u32,
    ips: &[IpAddr],
    settings: &PodSettings,
    taken: &[Mount],
) -> Result<Vec<Mount>, BuildError> {
    let mut mounts = Vec::new();
    let free = |path: &str| taken.iter().all(|mount| mount.container_path != path);
    let mount = |path: &str, file: PathBuf| Mount {
        container_path: path.to_owned(),
        host_path: file.to_string_lossy().into_owned(),
        ..Mount::default()
    };
    if free("/etc/hosts") {
        let file = settings.pods_directory.join(&*pod.metadata.uid).join("etc-hosts");
        let node_hosts = if pod.spec.host_network {
            std::fs::read_to_string("/etc/hosts").unwrap_or_default()
        } else {
            String::new()
        };
        let text = files::hosts(pod, ips, &settings.cluster_domain, &node_hosts);
        write_file(&file, &text)?;
        mounts.push(mount("/etc/hosts", file));
    }
    let message_path = files::message_path(container);
    if free(message_path) {
        let file = files::message_file(settings, &pod.metadata.uid, &container.name, attempt);
        files::writable_file(&file).map_err(|source| BuildError::File { path: file.clone(), source })?;
        mounts.push(mount(message_path, file));
    }
    Ok(mounts)
}

fn write_file(path: &std::path::Path, text: &str) -> Result<(), BuildError> {
    let fail = |source| BuildError::File { path: path.to_path_buf(), source };
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(fail)?;
    }
    std::fs::write(path, text).map_err(fail)
}

// === security ===

fn groups(pod: &Pod) -> Vec<i64> {
    let context = &pod.spec.security_context;
    context.supplemental_groups.iter().copied().chain(context.fs_group).collect()
}

fn container_security(pod: &Pod, container: &Container) -> Security {
    let (own, shared) = (&container.security_context, &pod.spec.security_context);
    let escalation_off = own.allow_privilege_escalation == Some(false);
    Security {
        run_as_user: own.run_as_user.or(shared.run_as_user),
        run_as_group: own.run_as_group.or(shared.run_as_group),
        supplemental_groups: groups(pod),
        privileged: own.privileged,
        readonly_rootfs: own.read_only_root_filesystem,
        no_new_privileges: escalation_off && !own.privileged,
        add_capabilities: own.capabilities.add.clone(),
        drop_capabilities: own.capabilities.drop.clone(),
        seccomp: profile(own.seccomp_profile.as_ref().or(shared.seccomp_profile.as_ref())),
        apparmor: own
            .app_armor_profile
            .as_ref()
            .or(shared.app_armor_profile.as_ref())
            .map(|given| profile(Some(given))),
        unmasked_proc: own.proc_mount.as_deref() == Some("Unmasked"),
    }
}

fn profile(given: Option<&SeccompProfile>) -> Profile {
    match given.map(|given| (given.kind.as_str(), given.localhost_profile.as_deref())) {
        Some(("RuntimeDefault", _)) => Profile::RuntimeDefault,
        Some(("Localhost", Some(name))) => Profile::Localhost(format!("{SECCOMP_DIRECTORY}/{name}")),
        _ => Profile::Unconfined,
    }
}

fn check_non_root(
    pod: &Pod,
    container: &Container,
    security: &Security,
    image: &ImageRecord,
) -> Result<(), BuildError> {
    let wanted = container.security_context.run_as_non_root.or(pod.spec.security_context.run_as_non_root)
        == Some(true);
    if !wanted {
        return Ok(());
    }
    let reason = match (security.run_as_user, image.uid, image.username.as_str()) {
        (Some(0), ..) => format!(
            "container's runAsUser breaks non-root policy (pod: \"{}\", container: {})",
            pod.reference(),
            container.name
        ),
        (Some(_), ..) => return Ok(()),
        (None, Some(0), _) => format!(
            "container has runAsNonRoot and image will run as root (pod: \"{}\", container: {})",
            pod.reference(),
            container.name
        ),
        (None, Some(_), _) => return Ok(()),
        (None, None, "") => format!(
            "container has runAsNonRoot and image will run as root (pod: \"{}\", container: {})",
            pod.reference(),
            container.name
        ),
        (None, None, user) => format!(
            "container has runAsNonRoot and image has non-numeric user ({user}), cannot verify user is non-root (pod: \"{}\", container: {})",
            pod.reference(),
            container.name
        ),
    };
    Err(BuildError::RunAsNonRoot { reason })
}
