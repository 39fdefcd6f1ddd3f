//! What the container runtime takes for a pod by itself: the same calls over CRI, on the same node, with nobody between.
//!
//! Its sandboxes use the handler `containerd::BARE`, whose CNI plugin only prints an address: no agent is asked.

use crate::cluster::PATIENCE;
use anyhow::{Context, Result, ensure};
use cri::runtime as pb;
use cri::runtime::runtime_service_client::RuntimeServiceClient;
use cri::tonic::transport::Channel;
use rig::containerd::{BARE, WORKLOAD_IMAGE};
use rig::journal::wait_for;
use rig::layout::NodeLayout;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Starts or stops at once with which the runtime gets most done on two cores (design/node.md).
pub const AT_ONCE: usize = 4;
/// Seconds until SIGKILL; the workload ends at once.
const GRACE: i64 = 5;
/// Between looks at what the runtime still has: CRI of containerd 1.6 tells of no removal.
const LOOK: Duration = Duration::from_millis(5);
/// The container's log, in the directory of its pod's.
const LOG: &str = "c.log";
/// The smallest network there is: an answer. A documentation address (RFC 5737).
const PLUGIN: &str = r#"#!/bin/sh
[ "$CNI_COMMAND" = ADD ] || exit 0
echo '{"cniVersion":"0.4.0","interfaces":[{"name":"eth0","sandbox":"'"$CNI_NETNS"'"}],"ips":[{"version":"4","interface":0,"address":"192.0.2.1/32"}]}'
"#;
const NETWORK: &str = r#"{"cniVersion":"0.4.0","name":"bare","type":"bare"}"#;

/// The runtime of a node, asked directly.
#[derive(Clone)]
pub struct Floor {
    runtime: RuntimeServiceClient<Channel>,
    cgroup: String,
    logs: PathBuf,
}

/// What the runtime has of one pod.
pub struct BarePod {
    sandbox: String,
    container: String,
}

// === impl Floor ===

impl Floor {
    /// Gives the node's runtime the bare network. Needs a tokio runtime.
    pub fn prepare(node: &NodeLayout) -> Result<Self> {
        let cni = node.directory.join("cni");
        let plugin = cni.join("bin").join(BARE);
        let network = cni.join(format!("{BARE}.d")).join("10-bare.conf");
        fs::write(&plugin, PLUGIN)
            .and_then(|()| fs::set_permissions(&plugin, fs::Permissions::from_mode(0o755)))
            .and_then(|()| fs::write(&network, NETWORK))
            .with_context(|| format!("cannot write {} and {}", plugin.display(), network.display()))?;
        let logs = node.directory.join("bare-logs");
        fs::create_dir_all(&logs).with_context(|| format!("cannot make {}", logs.display()))?;
        let channel = cri::unix_channel(&node.containerd_socket().display().to_string())?;
        Ok(Self {
            runtime: RuntimeServiceClient::new(channel),
            cgroup: format!("{}/{BARE}", node.cgroup),
            logs,
        })
    }

    /// Returns once the runtime has no pod any more: what is still being removed after a pod's object went is nobody else's
    /// burden.
    pub async fn until_idle(&self) -> Result<()> {
        let mut runtime = self.runtime.clone();
        let deadline = Instant::now() + PATIENCE;
        while !runtime
            .list_pod_sandbox(pb::ListPodSandboxRequest::default())
            .await?
            .into_inner()
            .items
            .is_empty()
        {
            ensure!(Instant::now() < deadline, "the runtime keeps pods that are gone");
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    /// A pod of one container, up to the answer that it runs.
    pub async fn start(&self, name: &str) -> Result<BarePod> {
        let mut runtime = self.runtime.clone();
        let config = self.sandbox_config(name);
        let request =
            pb::RunPodSandboxRequest { config: Some(config.clone()), runtime_handler: BARE.to_owned() };
        let sandbox = runtime.run_pod_sandbox(request).await?.into_inner().pod_sandbox_id;
        let request = pb::CreateContainerRequest {
            pod_sandbox_id: sandbox.clone(),
            config: Some(container_config()),
            sandbox_config: Some(config),
        };
        let container = runtime.create_container(request).await?.into_inner().container_id;
        let request = pb::StartContainerRequest { container_id: container.clone() };
        runtime.start_container(request).await?;
        Ok(BarePod { sandbox, container })
    }

    /// Returns once the pod's application has said that it is there: before that it does not hear SIGTERM.
    pub fn until_heard(&self, name: &str) -> Result<()> {
        let log = self.logs.join(name).join(LOG);
        wait_for(PATIENCE, || says_something(&log)).with_context(|| format!("nothing in {}", log.display()))
    }

    /// Ends a pod's processes and gives its network back.
    pub async fn stop(&self, pod: &BarePod) -> Result<()> {
        let mut runtime = self.runtime.clone();
        let request = pb::StopContainerRequest { container_id: pod.container.clone(), timeout: GRACE };
        runtime.stop_container(request).await?;
        let request = pb::StopPodSandboxRequest { pod_sandbox_id: pod.sandbox.clone() };
        runtime.stop_pod_sandbox(request).await?;
        Ok(())
    }

    /// Removes what the runtime still knows of a stopped pod.
    pub async fn remove(&self, pod: &BarePod) -> Result<()> {
        let mut runtime = self.runtime.clone();
        let request = pb::RemovePodSandboxRequest { pod_sandbox_id: pod.sandbox.clone() };
        runtime.remove_pod_sandbox(request).await?;
        Ok(())
    }

    fn sandbox_config(&self, name: &str) -> pb::PodSandboxConfig {
        let metadata = pb::PodSandboxMetadata {
            name: name.to_owned(),
            uid: name.to_owned(),
            namespace: BARE.to_owned(),
            attempt: 0,
        };
        let security = pb::LinuxSandboxSecurityContext {
            namespace_options: Some(namespaces()),
            seccomp: Some(unconfined()),
            ..pb::LinuxSandboxSecurityContext::default()
        };
        pb::PodSandboxConfig {
            metadata: Some(metadata),
            hostname: name.to_owned(),
            log_directory: self.logs.join(name).display().to_string(),
            linux: Some(pb::LinuxPodSandboxConfig {
                cgroup_parent: format!("{}/{name}", self.cgroup),
                security_context: Some(security),
                ..pb::LinuxPodSandboxConfig::default()
            }),
            ..pb::PodSandboxConfig::default()
        }
    }
}

fn container_config() -> pb::ContainerConfig {
    let security = pb::LinuxContainerSecurityContext {
        namespace_options: Some(namespaces()),
        seccomp: Some(unconfined()),
        ..pb::LinuxContainerSecurityContext::default()
    };
    pb::ContainerConfig {
        metadata: Some(pb::ContainerMetadata { name: "c".to_owned(), attempt: 0 }),
        image: Some(pb::ImageSpec { image: WORKLOAD_IMAGE.to_owned(), ..pb::ImageSpec::default() }),
        log_path: LOG.to_owned(),
        linux: Some(pb::LinuxContainerConfig {
            security_context: Some(security),
            ..pb::LinuxContainerConfig::default()
        }),
        ..pb::ContainerConfig::default()
    }
}

/// Whether a log has a line.
pub fn says_something(log: &Path) -> bool {
    fs::metadata(log).is_ok_and(|found| found.len() > 0)
}

/// As a pod has them that asks for nothing.
fn namespaces() -> pb::NamespaceOption {
    pb::NamespaceOption { pid: pb::NamespaceMode::Container.into(), ..pb::NamespaceOption::default() }
}

fn unconfined() -> pb::SecurityProfile {
    pb::SecurityProfile {
        profile_type: pb::security_profile::ProfileType::Unconfined.into(),
        ..pb::SecurityProfile::default()
    }
}
