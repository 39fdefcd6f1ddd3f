//! The runtime over CRI v1 on a unix socket; exits and OOM kills from containerd's event stream, because CRI has one only
//! from containerd 1.7 on. `convert` maps between our types and CRI's.

use std::collections::HashMap;
use std::time::Duration;

use async_trait::async_trait;
use cri::runtime as pb;
use cri::runtime::image_service_client::ImageServiceClient;
use cri::runtime::runtime_service_client::RuntimeServiceClient;
use cri::tonic::transport::Channel;
use cri::tonic::{Code, Request, Response, Status};
use tokio::sync::mpsc;

use super::{
    ContainerConfig, ContainerRecord, ExecOutput, ImageRecord, PodConfig, PodInstance, PodRecord, PodRuntime,
    Readiness, RuntimeError, RuntimeEvent, RuntimeInfo, StreamRequest,
};

mod convert;
mod events;

/// Deadline of calls that only read or change the runtime's own records. They take milliseconds; containerd answers
/// them late only when the machine is out of CPU.
const CALL_TIMEOUT: Duration = Duration::from_secs(15);

/// Deadline of calls that start or end processes and networks: kubelet's default for CRI.
const WORK_TIMEOUT: Duration = Duration::from_secs(120);

/// Deadline of an image pull: a few gigabytes over a slow line.
const PULL_TIMEOUT: Duration = Duration::from_secs(15 * 60);

/// containerd finds everything again within half a second of a restart and refuses calls until then.
const STARTING_UP: &str = "server is not initialized yet";

/// containerd through CRI.
#[derive(Clone)]
pub struct Containerd {
    runtime: RuntimeServiceClient<Channel>,
    images: ImageServiceClient<Channel>,
    channel: Channel,
}

// === impl Containerd ===

impl Containerd {
    /// A client of the runtime at `endpoint` (an absolute socket path); does not connect yet.
    pub fn new(endpoint: &str) -> Result<Self, cri::ChannelError> {
        let channel = cri::unix_channel(endpoint)?;
        Ok(Containerd {
            runtime: RuntimeServiceClient::new(channel.clone())
                .max_decoding_message_size(cri::MESSAGE_BYTES_MAX),
            images: ImageServiceClient::new(channel.clone())
                .max_decoding_message_size(cri::MESSAGE_BYTES_MAX),
            channel,
        })
    }

    fn runtime(&self) -> RuntimeServiceClient<Channel> {
        self.runtime.clone()
    }

    fn images_client(&self) -> ImageServiceClient<Channel> {
        self.images.clone()
    }

    async fn instance(&self, id: &str) -> Result<Option<PodInstance>, RuntimeError> {
        let request = pb::PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: false };
        let mut client = self.runtime();
        match within("PodSandboxStatus", CALL_TIMEOUT, client.pod_sandbox_status(request)).await {
            Ok(reply) => Ok(reply.status.as_ref().and_then(convert::instance)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A reply without a body means that the container vanished between list and look.
    async fn container_if_there(&self, id: &str) -> Result<Option<ContainerRecord>, RuntimeError> {
        match self.container(id).await {
            Ok(record) => Ok(Some(record)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Awaits a call under a deadline and tells the runtime's failures apart.
async fn within<T>(
    call: &'static str,
    limit: Duration,
    future: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, RuntimeError> {
    match tokio::time::timeout(limit, future).await {
        Ok(Ok(reply)) => Ok(reply.into_inner()),
        Ok(Err(status)) => Err(classify(call, &status)),
        Err(_) => Err(RuntimeError::Timeout { call, seconds: limit.as_secs() }),
    }
}

fn classify(call: &'static str, status: &Status) -> RuntimeError {
    let reason = status.message().to_owned();
    match status.code() {
        Code::NotFound => RuntimeError::NotFound { call, reason },
        Code::Unavailable => RuntimeError::Unavailable { reason: connection_reason(status) },
        Code::Unknown if reason.contains(STARTING_UP) => RuntimeError::Unavailable { reason },
        // A connection that broke in mid-call surfaces as `Unknown` with a transport source.
        Code::Unknown | Code::Cancelled | Code::Internal if std::error::Error::source(status).is_some() => {
            RuntimeError::Unavailable { reason: connection_reason(status) }
        }
        _ => RuntimeError::Refused { call, reason },
    }
}

/// The innermost cause says what happened to the socket; the outer ones only say "transport error".
fn connection_reason(status: &Status) -> String {
    let mut cause: &dyn std::error::Error = status;
    while let Some(source) = cause.source() {
        cause = source;
    }
    match cause.to_string() {
        text if text.is_empty() => status.message().to_owned(),
        text => text,
    }
}

/// Success when the thing was gone already.
fn gone_is_fine(result: Result<(), RuntimeError>) -> Result<(), RuntimeError> {
    match result {
        Err(error) if error.is_not_found() => Ok(()),
        other => other,
    }
}

#[async_trait]
impl PodRuntime for Containerd {
    async fn info(&self) -> Result<RuntimeInfo, RuntimeError> {
        let mut client = self.runtime();
        let request = pb::VersionRequest { version: "v1".to_owned() };
        let reply = within("Version", CALL_TIMEOUT, client.version(request)).await?;
        Ok(RuntimeInfo { name: reply.runtime_name, version: reply.runtime_version })
    }

    async fn readiness(&self) -> Result<Readiness, RuntimeError> {
        let mut client = self.runtime();
        let reply = within("Status", CALL_TIMEOUT, client.status(pb::StatusRequest::default())).await?;
        Ok(convert::readiness(&reply.status.unwrap_or_default()))
    }

    async fn pods(&self) -> Result<Vec<PodRecord>, RuntimeError> {
        let (mut sandboxes, mut containers) = (self.runtime(), self.runtime());
        let (sandboxes, containers) = tokio::try_join!(
            within(
                "ListPodSandbox",
                CALL_TIMEOUT,
                sandboxes.list_pod_sandbox(pb::ListPodSandboxRequest::default())
            ),
            within(
                "ListContainers",
                CALL_TIMEOUT,
                containers.list_containers(pb::ListContainersRequest::default())
            ),
        )?;
        let mut records: HashMap<String, PodRecord> = HashMap::new();
        let mut owners: HashMap<String, String> = HashMap::new();
        for sandbox in sandboxes.items {
            let Some(instance) = self.instance(&sandbox.id).await? else { continue };
            owners.insert(sandbox.id, instance.pod.uid.clone());
            let record = records
                .entry(instance.pod.uid.clone())
                .or_insert_with(|| PodRecord { pod: instance.pod.clone(), ..PodRecord::default() });
            record.instances.push(instance);
        }
        for container in containers.containers {
            let Some(record) = owners.get(&container.pod_sandbox_id).and_then(|uid| records.get_mut(uid))
            else {
                continue;
            };
            if let Some(mut found) = self.container_if_there(&container.id).await? {
                found.instance_id = container.pod_sandbox_id;
                record.containers.push(found);
            }
        }
        let mut records: Vec<PodRecord> = records.into_values().collect();
        for record in &mut records {
            record.instances.sort_by_key(|instance| std::cmp::Reverse(instance.attempt));
            record.containers.sort_by_key(|container| std::cmp::Reverse(container.attempt));
        }
        Ok(records)
    }

    fn events(&self) -> mpsc::Receiver<RuntimeEvent> {
        events::subscribe(self.channel.clone())
    }

    async fn create_pod(&self, config: &PodConfig) -> Result<PodInstance, RuntimeError> {
        let mut client = self.runtime();
        let request = pb::RunPodSandboxRequest {
            config: Some(convert::sandbox_config(config)),
            runtime_handler: String::new(),
        };
        let id = within("RunPodSandbox", WORK_TIMEOUT, client.run_pod_sandbox(request)).await?.pod_sandbox_id;
        self.instance(&id).await?.ok_or_else(|| RuntimeError::NotFound {
            call: "PodSandboxStatus",
            reason: format!("sandbox {id} of pod {} vanished after its creation", config.pod),
        })
    }

    async fn stop_pod(&self, instance: &str) -> Result<(), RuntimeError> {
        let mut client = self.runtime();
        let request = pb::StopPodSandboxRequest { pod_sandbox_id: instance.to_owned() };
        let result = within("StopPodSandbox", WORK_TIMEOUT, client.stop_pod_sandbox(request)).await;
        gone_is_fine(result.map(drop))
    }

    async fn remove_pod(&self, instance: &str) -> Result<(), RuntimeError> {
        let mut client = self.runtime();
        let request = pb::RemovePodSandboxRequest { pod_sandbox_id: instance.to_owned() };
        let result = within("RemovePodSandbox", WORK_TIMEOUT, client.remove_pod_sandbox(request)).await;
        gone_is_fine(result.map(drop))
    }

    async fn start_container(
        &self,
        instance: &str,
        pod: &PodConfig,
        container: &ContainerConfig,
    ) -> Result<String, RuntimeError> {
        let mut client = self.runtime();
        let request = pb::CreateContainerRequest {
            pod_sandbox_id: instance.to_owned(),
            config: Some(convert::container_config(pod, container)),
            sandbox_config: Some(convert::sandbox_config(pod)),
        };
        let id =
            within("CreateContainer", WORK_TIMEOUT, client.create_container(request)).await?.container_id;
        let request = pb::StartContainerRequest { container_id: id.clone() };
        match within("StartContainer", WORK_TIMEOUT, client.start_container(request)).await {
            Ok(_) => Ok(id),
            Err(error @ RuntimeError::Unavailable { .. }) => Err(error),
            Err(error) => Err(RuntimeError::StartFailed { id, reason: error.to_string() }),
        }
    }

    async fn container(&self, id: &str) -> Result<ContainerRecord, RuntimeError> {
        let mut client = self.runtime();
        let request = pb::ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
        let reply = within("ContainerStatus", CALL_TIMEOUT, client.container_status(request)).await?;
        Ok(convert::container(reply.status.unwrap_or_default()))
    }

    async fn stop_container(&self, id: &str, grace: Duration) -> Result<(), RuntimeError> {
        let mut client = self.runtime();
        let timeout = i64::try_from(grace.as_secs()).unwrap_or(i64::MAX);
        let request = pb::StopContainerRequest { container_id: id.to_owned(), timeout };
        gone_is_fine(
            within("StopContainer", grace + WORK_TIMEOUT, client.stop_container(request)).await.map(drop),
        )
    }

    async fn remove_container(&self, id: &str) -> Result<(), RuntimeError> {
        let mut client = self.runtime();
        let request = pb::RemoveContainerRequest { container_id: id.to_owned() };
        gone_is_fine(
            within("RemoveContainer", WORK_TIMEOUT, client.remove_container(request)).await.map(drop),
        )
    }

    async fn reopen_log(&self, id: &str) -> Result<(), RuntimeError> {
        let mut client = self.runtime();
        let request = pb::ReopenContainerLogRequest { container_id: id.to_owned() };
        within("ReopenContainerLog", CALL_TIMEOUT, client.reopen_container_log(request)).await.map(drop)
    }

    async fn exec(
        &self,
        id: &str,
        command: &[String],
        timeout: Duration,
    ) -> Result<ExecOutput, RuntimeError> {
        let mut client = self.runtime();
        let request = pb::ExecSyncRequest {
            container_id: id.to_owned(),
            cmd: command.to_vec(),
            timeout: i64::try_from(timeout.as_secs().max(1)).unwrap_or(i64::MAX),
        };
        match within("ExecSync", timeout + CALL_TIMEOUT, client.exec_sync(request)).await {
            Ok(reply) => {
                let mut output = reply.stdout;
                output.extend_from_slice(&reply.stderr);
                Ok(ExecOutput { code: reply.exit_code, output })
            }
            Err(RuntimeError::Refused { reason, .. }) if reason.contains("timeout") => {
                Err(RuntimeError::Timeout { call: "ExecSync", seconds: timeout.as_secs() })
            }
            Err(error) => Err(error),
        }
    }

    async fn stream_url(&self, request: &StreamRequest) -> Result<String, RuntimeError> {
        let mut client = self.runtime();
        match request {
            StreamRequest::Exec { container, command, streams } => {
                let request = pb::ExecRequest {
                    container_id: container.clone(),
                    cmd: command.clone(),
                    tty: streams.tty,
                    stdin: streams.stdin,
                    stdout: streams.stdout,
                    stderr: streams.stderr,
                };
                Ok(within("Exec", CALL_TIMEOUT, client.exec(request)).await?.url)
            }
            StreamRequest::Attach { container, streams } => {
                let request = pb::AttachRequest {
                    container_id: container.clone(),
                    tty: streams.tty,
                    stdin: streams.stdin,
                    stdout: streams.stdout,
                    stderr: streams.stderr,
                };
                Ok(within("Attach", CALL_TIMEOUT, client.attach(request)).await?.url)
            }
            StreamRequest::PortForward { instance, ports } => {
                let request = pb::PortForwardRequest {
                    pod_sandbox_id: instance.clone(),
                    port: ports.iter().map(|port| i32::from(*port)).collect(),
                };
                Ok(within("PortForward", CALL_TIMEOUT, client.port_forward(request)).await?.url)
            }
        }
    }

    async fn image(&self, reference: &str) -> Result<Option<ImageRecord>, RuntimeError> {
        let mut client = self.images_client();
        let request = pb::ImageStatusRequest { image: Some(convert::image_spec(reference)), verbose: false };
        let reply = within("ImageStatus", CALL_TIMEOUT, client.image_status(request)).await?;
        Ok(reply.image.map(convert::image))
    }

    async fn pull_image(&self, reference: &str) -> Result<(), RuntimeError> {
        let mut client = self.images_client();
        let request = pb::PullImageRequest {
            image: Some(convert::image_spec(reference)),
            ..pb::PullImageRequest::default()
        };
        within("PullImage", PULL_TIMEOUT, client.pull_image(Request::new(request))).await.map(drop)
    }

    async fn images(&self) -> Result<Vec<ImageRecord>, RuntimeError> {
        let mut client = self.images_client();
        let reply =
            within("ListImages", CALL_TIMEOUT, client.list_images(pb::ListImagesRequest::default())).await?;
        Ok(reply.images.into_iter().map(convert::image).collect())
    }

    async fn remove_image(&self, id: &str) -> Result<(), RuntimeError> {
        let mut client = self.images_client();
        let request = pb::RemoveImageRequest { image: Some(convert::image_spec(id)) };
        gone_is_fine(within("RemoveImage", WORK_TIMEOUT, client.remove_image(request)).await.map(drop))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runtime_that_starts_is_unavailable_not_broken() {
        let status = Status::unknown("server is not initialized yet");
        assert!(classify("Status", &status).is_unavailable());
        let status = Status::unknown("failed to reserve container name");
        assert!(!classify("CreateContainer", &status).is_unavailable());
        assert!(classify("StopContainer", &Status::not_found("no such container")).is_not_found());
    }
}
