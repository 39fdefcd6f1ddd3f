//! The steps of a pod's life, carried out: each is one task that tells its worker what came of it. Failures that are
//! worth another try go back to the worker, which waits as `state` says; only ending things is tried again right here,
//! because nothing else can be done about it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use dataplane::hurry;
use tokio::sync::RwLock;
use tokio::time::Instant;

use super::actions::{self, Target};
use super::build::{self, BuildError, RunInputs};
use super::shared::Shared;
use super::timeline::Timeline;
use crate::cluster::EventKind;
use crate::env::{self, EnvInputs};
use crate::errors::chain;
use crate::objects::{Container, Handler, Pod};
use crate::runtime::{ImageRecord, PodInstance, RuntimeError};
use crate::slots::Urgency;
use crate::volumes::Prepared;

/// What a container gets after its preStop hook used up the grace: Kubernetes' number.
const AFTER_HOOK_MIN: Duration = Duration::from_secs(2);

/// Pause between tries to end something.
const END_RETRY_FIRST: Duration = Duration::from_millis(200);
const END_RETRY_MAX: Duration = Duration::from_secs(10);

/// A postStart hook has no deadline of its own; this bounds a stuck one.
const POST_START_MAX: Duration = Duration::from_secs(600);

/// Everything a step needs to know of its pod.
#[derive(Clone)]
pub struct Steps {
    /// The node.
    pub shared: Arc<Shared>,
    /// The pod's object when the step began.
    pub pod: Arc<Pod>,
    /// Where stages are recorded.
    pub timeline: Timeline,
    /// Shared while the runtime is stopping a container of the pod.
    pub ending: Arc<RwLock<()>>,
}

/// Why an image is not here.
#[derive(Debug)]
pub enum ImageProblem {
    /// The runtime did not answer.
    Unavailable,
    /// It is not to be had.
    Failed {
        /// A word for the status.
        reason: &'static str,
        /// A sentence.
        message: String,
    },
}

/// Why a run was not made.
#[derive(Debug)]
pub enum StartProblem {
    /// The runtime did not answer.
    Unavailable,
    /// It was not made.
    Failed {
        /// A word for the status.
        reason: &'static str,
        /// A sentence.
        message: String,
    },
    /// It was made and did not start.
    Refused {
        /// Its id.
        id: String,
        /// A sentence.
        message: String,
    },
}

/// How a run is to end.
pub struct StopPlan {
    /// Its id.
    pub id: String,
    /// When SIGKILL is due.
    pub deadline: Instant,
    /// Revision to wait for before SIGTERM; zero for none.
    pub revision: u64,
    /// Addresses under which Services lead to the pod.
    pub ips: Vec<IpAddr>,
    /// Where its hook is aimed.
    pub target: Target,
}

// === impl Steps ===

impl Steps {
    /// Makes the pod's volumes.
    pub async fn prepare_volumes(&self, ips: &[IpAddr]) -> Result<Prepared, String> {
        let began = Instant::now();
        if self.pod.spec.volumes.is_empty() {
            return Ok(Prepared::default());
        }
        match self.shared.volumes.prepare(&self.pod, ips).await {
            Ok(prepared) => {
                self.timeline.record("volumes", "", began, "");
                Ok(prepared)
            }
            Err(error) => {
                let message = chain(&error);
                self.warn(None, "FailedMount", &format!("MountVolume.SetUp failed for {message}"));
                self.timeline.record("volumes", "", began, message.clone());
                self.failed("volumes");
                Err(message)
            }
        }
    }

    /// Makes the pod in the runtime.
    ///
    /// # Errors
    /// What the runtime's absence looks like; nothing when there is another cause, of which the pod has been told.
    pub async fn create_instance(&self, attempt: u32) -> Result<PodInstance, Option<String>> {
        let config = match build::pod_config(&self.pod, attempt, &self.shared.settings) {
            Ok(config) => config,
            Err(error) => return Err(self.instance_failed(&error.to_string(), false)),
        };
        let directories = std::fs::create_dir_all(&config.log_directory).and_then(|()| {
            std::fs::create_dir_all(self.shared.volumes.pod_directory(&self.pod.metadata.uid))
        });
        if let Err(error) = directories {
            let message = format!("cannot make {}: {error}", config.log_directory);
            return Err(self.instance_failed(&message, false));
        }
        self.shared.settings.cgroups.prepare(&self.pod);
        let queued = Instant::now();
        let _slot = self.shared.starts.acquire(Urgency::Later).await;
        self.note_wait("queued", "", queued);
        let _hurry = hurry();
        let began = Instant::now();
        match self.shared.runtime.create_pod(&config).await {
            Ok(instance) => {
                self.timeline.record("sandbox", "", began, "");
                Ok(instance)
            }
            Err(error) => {
                self.timeline.record("sandbox", "", began, error.to_string());
                Err(self.instance_failed(&error.to_string(), error.is_unavailable()))
            }
        }
    }

    /// Stops the pod in the runtime and gives its address back; returns when that is done.
    pub async fn stop_instance(&self, id: &str) {
        // The event of a container's end comes before the runtime has put it away; asked to stop the pod in between, it
        // kills that container a second time.
        drop(self.ending.write().await);
        let mut retry = END_RETRY_FIRST;
        let began = Instant::now();
        loop {
            let result = {
                let _slot = self.shared.stops.acquire(Urgency::First).await;
                let _hurry = hurry();
                self.shared.runtime.stop_pod(id).await
            };
            match result {
                Ok(()) => break,
                Err(error) => {
                    if !error.is_unavailable() {
                        self.warn(None, "FailedKillPod", &format!("error killing pod: {error}"));
                        self.failed("stop");
                    }
                    retry = pause(retry).await;
                }
            }
        }
        self.timeline.record("sandbox-stopped", "", began, "");
    }

    /// Sees to it that a container's image is here, as its pull policy says.
    pub async fn fetch_image(&self, container: &Container) -> Result<ImageRecord, ImageProblem> {
        let began = Instant::now();
        let (image, name) = (container.image.as_str(), container.name.as_str());
        let runtime = &self.shared.runtime;
        let held = match runtime.image(image).await {
            Ok(held) => held,
            Err(error) if error.is_unavailable() => return Err(ImageProblem::Unavailable),
            Err(error) => return Err(self.image_failed(name, "InvalidImageName", image, &error.to_string())),
        };
        match (container.image_pull_policy.as_str(), held) {
            ("Never", None) => {
                let message = format!("Container image \"{image}\" is not present with pull policy of Never");
                self.warn(Some(name), "ErrImageNeverPull", &message);
                self.failed("image");
                return Err(ImageProblem::Failed { reason: "ErrImageNeverPull", message });
            }
            ("Always", _) | (_, None) => {}
            (_, Some(held)) => {
                let message = format!("Container image \"{image}\" already present on machine");
                self.note(Some(name), "Pulled", &message);
                self.timeline.record("image", name, began, "already present");
                return Ok(held);
            }
        }
        self.note(Some(name), "Pulling", &format!("Pulling image \"{image}\""));
        match runtime.pull_image(image).await {
            Ok(()) => {}
            Err(error) if error.is_unavailable() => return Err(ImageProblem::Unavailable),
            Err(error) => {
                self.timeline.record("image", name, began, error.to_string());
                return Err(self.image_failed(name, "ErrImagePull", image, &error.to_string()));
            }
        }
        let took = began.elapsed();
        let message = format!("Successfully pulled image \"{image}\" in {}ms", took.as_millis());
        self.note(Some(name), "Pulled", &message);
        self.timeline.record("image", name, began, "pulled");
        match runtime.image(image).await {
            Ok(Some(held)) => Ok(held),
            Ok(None) => {
                Err(self.image_failed(name, "ErrImagePull", image, "it was removed right after the pull"))
            }
            Err(_) => Err(ImageProblem::Unavailable),
        }
    }

    /// Makes and starts one run of a container.
    pub async fn start(
        &self,
        container: &Container,
        attempt: u32,
        image: &ImageRecord,
        volumes: &Prepared,
        instance: &PodInstance,
    ) -> Result<(String, DateTime<Utc>), StartProblem> {
        let ips = self.addresses(&instance.ips);
        let env = self.environment(container, ips).await?;
        let settings = &self.shared.settings;
        let inputs = RunInputs { pod: &self.pod, container, attempt, image, env, volumes, ips, settings };
        let config =
            build::container_config(inputs).map_err(|error| self.config_failed(container, &error))?;
        let pod = build::pod_config(&self.pod, instance.attempt, settings)
            .map_err(|error| self.config_failed(container, &error))?;
        let name = container.name.as_str();
        let queued = Instant::now();
        let _slot = self.shared.starts.acquire(Urgency::First).await;
        self.note_wait("queued", name, queued);
        let _hurry = hurry();
        let began = Instant::now();
        match self.shared.runtime.start_container(&instance.id, &pod, &config).await {
            Ok(id) => {
                self.timeline.record("started", name, began, "");
                self.note(Some(name), "Created", &format!("Created container: {name}"));
                self.note(Some(name), "Started", &format!("Started container {name}"));
                Ok((id, Utc::now()))
            }
            Err(error) if error.is_unavailable() => Err(StartProblem::Unavailable),
            Err(error) => {
                self.timeline.record("started", name, began, error.to_string());
                self.warn(Some(name), "Failed", &format!("Error: {error}"));
                self.failed("start");
                let message = error.to_string();
                Err(match error {
                    RuntimeError::StartFailed { id, .. } => StartProblem::Refused { id, message },
                    _ => StartProblem::Failed { reason: "CreateContainerError", message },
                })
            }
        }
    }

    /// Runs the hook after a start; its failure is the container's.
    pub async fn post_start(&self, target: &Target, hook: &Handler) -> Result<(), String> {
        let began = Instant::now();
        let result = actions::perform(target, hook, POST_START_MAX).await;
        self.timeline.record("post-start", &target.container.name, began, "");
        result.map_err(|why| {
            let message = format!("PostStartHook failed: {why}");
            self.warn(Some(&target.container.name), "FailedPostStartHook", &message);
            message
        })
    }

    /// Ends a run within its grace: the hook, and the wait for the cluster to let go, go before SIGTERM.
    pub async fn stop_container(&self, plan: &StopPlan) {
        let name = plan.target.container.name.as_str();
        let ((), hook) = futures::join!(self.traffic_moved(plan), self.pre_stop(plan));
        let left = plan.deadline.saturating_duration_since(Instant::now());
        let left = if hook { left.max(AFTER_HOOK_MIN) } else { left };
        // CRI counts whole seconds, and zero means SIGKILL at once.
        let grace = Duration::from_secs(left.as_secs() + u64::from(left.subsec_nanos() > 0));
        let began = Instant::now();
        let mut retry = END_RETRY_FIRST;
        while let Err(error) = self.end_run(&plan.id, grace).await {
            if !error.is_unavailable() {
                self.warn(Some(name), "FailedKillPod", &format!("error killing container {name}: {error}"));
                self.failed("stop");
            }
            retry = pause(retry).await;
        }
        self.timeline.record("stopped", name, began, "");
    }

    async fn end_run(&self, id: &str, grace: Duration) -> Result<(), RuntimeError> {
        let _ending = self.ending.read().await;
        self.shared.runtime.stop_container(id, grace).await
    }

    /// True when there was a hook to run.
    async fn pre_stop(&self, plan: &StopPlan) -> bool {
        let container = &plan.target.container;
        let Some(hook) = &container.lifecycle.pre_stop else { return false };
        let left = plan.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        let began = Instant::now();
        if let Err(why) = actions::perform(&plan.target, hook, left).await {
            self.warn(Some(&container.name), "FailedPreStopHook", &format!("PreStopHook failed: {why}"));
        }
        self.timeline.record("pre-stop", &container.name, began, "");
        true
    }

    /// Removes all that the node made for the pod, apart from its records in the runtime.
    pub async fn clean_up(&self) {
        let shared = self.shared.clone();
        let reference = self.pod.reference();
        let began = Instant::now();
        let directories = tokio::task::spawn_blocking(move || {
            let logs = super::files::log_directory(&shared.settings, &reference);
            if let Err(error) = shared.volumes.teardown(&reference.uid) {
                tracing::warn!(pod = %reference, %error, "volumes not removed; tried again when the agent restarts");
            }
            match std::fs::remove_dir_all(&logs) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    tracing::warn!(pod = %reference, ?logs, %error, "logs not removed");
                }
                _ => {}
            }
        });
        if directories.await.is_err() {
            tracing::error!(pod = %self.pod.reference(), "cleaning up a pod panicked");
        }
        let cgroups = &self.shared.settings.cgroups;
        cgroups.remove(&cgroups.path_of(&self.pod)).await;
        self.timeline.record("cleaned-up", "", began, "");
    }

    /// Removes the pod's API object; returns once it is gone.
    pub async fn delete_object(&self) {
        let mut retry = END_RETRY_FIRST;
        let reference = self.pod.reference();
        loop {
            match self.shared.cluster.delete_pod(&reference).await {
                Ok(()) | Err(crate::cluster::ClusterError::Gone { .. }) => return,
                Err(error) => {
                    tracing::warn!(pod = %reference, %error, "pod object not removed yet");
                    retry = pause(retry).await;
                }
            }
        }
    }

    /// Removes an instance's records from the runtime, after the stops that somebody waits for.
    pub async fn remove_instance(&self, id: &str) {
        let mut retry = END_RETRY_FIRST;
        loop {
            let result = {
                let _slot = self.shared.stops.acquire(Urgency::Later).await;
                self.shared.runtime.remove_pod(id).await
            };
            let Err(error) = result else { break };
            tracing::debug!(pod = %self.pod.reference(), %error, "instance not removed yet");
            retry = pause(retry).await;
        }
        self.shared.routes.release(id);
    }

    /// Records something told for information.
    pub fn note(&self, container: Option<&str>, reason: &str, message: &str) {
        self.shared.cluster.event(&self.pod, container, EventKind::Normal, reason, message);
    }

    /// Records that something is wrong.
    pub fn warn(&self, container: Option<&str>, reason: &str, message: &str) {
        self.shared.cluster.event(&self.pod, container, EventKind::Warning, reason, message);
    }

    /// With the node's network the pod's addresses are the node's.
    pub fn addresses<'a>(&'a self, own: &'a [IpAddr]) -> &'a [IpAddr] {
        if self.pod.spec.host_network { &self.shared.settings.facts.host_ips } else { own }
    }

    async fn environment(
        &self,
        container: &Container,
        ips: &[IpAddr],
    ) -> Result<Vec<(String, String)>, StartProblem> {
        let namespace = &self.pod.metadata.namespace;
        let cluster = &self.shared.cluster;
        let (map_names, secret_names) = env::referenced_objects(container);
        let mut config_maps = BTreeMap::new();
        for name in map_names {
            if let Some(found) = cluster.config_map(namespace, &name).get().await {
                config_maps.insert(name, found);
            }
        }
        let mut secrets = BTreeMap::new();
        for name in secret_names {
            if let Some(found) = cluster.secret(namespace, &name).get().await {
                secrets.insert(name, found);
            }
        }
        let services = cluster.services(namespace).await;
        env::environment(&EnvInputs {
            pod: &self.pod,
            container,
            pod_ips: ips,
            host_ips: &self.shared.settings.facts.host_ips,
            services: &services,
            config_maps: &config_maps,
            secrets: &secrets,
            allocatable: &self.shared.settings.facts.allocatable,
        })
        .map_err(|error| self.config_error(container, error.to_string()))
    }

    fn config_failed(&self, container: &Container, error: &BuildError) -> StartProblem {
        self.config_error(container, chain(error))
    }

    fn config_error(&self, container: &Container, message: String) -> StartProblem {
        self.warn(Some(&container.name), "Failed", &format!("Error: {message}"));
        self.failed("config");
        StartProblem::Failed { reason: "CreateContainerConfigError", message }
    }

    fn image_failed(&self, container: &str, reason: &'static str, image: &str, why: &str) -> ImageProblem {
        let message = format!("Failed to pull image \"{image}\": {why}");
        self.warn(Some(container), "Failed", &message);
        self.warn(Some(container), "Failed", &format!("Error: {reason}"));
        self.failed("image");
        ImageProblem::Failed { reason, message }
    }

    fn instance_failed(&self, message: &str, unavailable: bool) -> Option<String> {
        if unavailable {
            return Some(message.to_owned());
        }
        self.warn_of_instance(message);
        self.failed("sandbox");
        None
    }

    /// Says on the pod why it has no sandbox.
    pub fn warn_of_instance(&self, message: &str) {
        self.warn(None, "FailedCreatePodSandBox", &format!("Failed to create pod sandbox: {message}"));
    }

    fn failed(&self, operation: &str) {
        self.shared.metrics.failures.with_label_values(&[operation]).inc();
    }

    /// Waits of less than a millisecond are no stage.
    fn note_wait(&self, stage: &str, container: &str, began: Instant) {
        if began.elapsed() >= Duration::from_millis(1) {
            self.timeline.record(stage, container, began, "");
        }
    }
}

async fn pause(retry: Duration) -> Duration {
    tokio::time::sleep(retry).await;
    (retry * 2).min(END_RETRY_MAX)
}
