//! What a worker knows of its pod, and how events change it. No IO: the worker feeds it, `machine` reads it to decide,
//! `status` reads it to report. A restarted agent builds it from the runtime's records (`adopt`).

use std::net::IpAddr;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::time::Instant;

use super::backoff::Backoff;
use crate::objects::{ContainerStatus, Pod, RestartPolicy, TerminatedReport};
use crate::runtime::{ContainerRecord, Exit, ImageRecord, PodInstance, PodRecord, RecordState};

mod adopt;

/// Restart waits: Kubernetes' numbers, settable because five minutes suit not everybody.
#[derive(Clone, Copy, Debug)]
pub struct RestartLimits {
    /// Wait after the second exit.
    pub first: Duration,
    /// Longest wait.
    pub max: Duration,
    /// A run of this length forgets earlier exits.
    pub reset_after: Duration,
}

impl Default for RestartLimits {
    fn default() -> Self {
        RestartLimits {
            first: Duration::from_secs(10),
            max: Duration::from_secs(300),
            reset_after: Duration::from_secs(600),
        }
    }
}

/// Waits after failed pulls: Kubernetes' numbers; registries dislike more.
const PULL_FIRST: Duration = Duration::from_secs(10);
const PULL_MAX: Duration = Duration::from_secs(300);

/// Waits after other failures (sandbox, volumes, configuration): what is missing usually appears soon.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// A runtime that is down is asked again this often, beside the moment when its events reconnect.
const UNAVAILABLE_RETRY: Duration = Duration::from_secs(1);
/// After so many attempts without a runtime the pod's events say so.
const AWAY_TOLD: u32 = 3;

/// A failure is reported as such this long before it becomes a wait: readers see both.
const PROBLEM_FRESH: Duration = Duration::from_secs(2);

/// Everything a worker knows of its pod.
#[derive(Debug)]
pub struct PodState {
    /// The pod's directories.
    pub volumes: Step,
    /// Wait after failed volumes.
    pub volumes_backoff: Backoff,
    /// The pod in the runtime.
    pub instance: Instance,
    /// Wait after a failed instance.
    pub instance_backoff: Backoff,
    /// Attempts in a row that found no runtime.
    pub away: u32,
    /// Number of the next instance.
    pub attempts: u32,
    /// Instances that were replaced and not yet removed.
    pub old_instances: Vec<String>,
    /// Init containers, then app containers, in the pod's order.
    pub containers: Vec<ContainerState>,
    /// The newest addresses; kept after the instance stopped.
    pub ips: Vec<IpAddr>,
    /// When the node took the pod on.
    pub start_time: DateTime<Utc>,
    /// Present once the pod has to go or has failed as a whole.
    pub stop: Option<StopOrder>,
    /// Everything is gone and the object may go too.
    pub finished: bool,
    limits: RestartLimits,
}

/// A preparation and how it went.
#[derive(Debug)]
pub enum Step {
    /// Not begun.
    Needed,
    /// Going on.
    Busy,
    /// Done.
    Ready,
    /// Failed; tried again after a wait.
    Failed,
}

/// The pod in the runtime.
#[derive(Debug)]
pub enum Instance {
    /// None yet, or none any more.
    None,
    /// Being made.
    Creating,
    /// Alive.
    Ready(PodInstance),
    /// Its process or network ended by itself; still to be stopped.
    Dead {
        /// Its id.
        id: String,
    },
    /// Being stopped.
    Stopping {
        /// Its id.
        id: String,
    },
    /// Stopped; its containers' records are kept for their logs.
    Stopped {
        /// Its id.
        id: String,
    },
}

/// Which part a container plays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Runs to completion before the next.
    Init,
    /// Starts in its turn and keeps running.
    Sidecar,
    /// The pod's purpose.
    App,
}

/// One container of the pod.
#[derive(Debug)]
pub struct ContainerState {
    /// Container name.
    pub name: String,
    /// Its part.
    pub role: Role,
    /// Its image.
    pub image: ImageState,
    /// The resolved image of the newest run.
    pub image_id: String,
    /// The newest run.
    pub run: Run,
    /// How the run before ended.
    pub last: Option<Ended>,
    /// Number of the next run.
    pub attempt: u32,
    /// Wait between runs.
    pub backoff: Backoff,
    /// Why the newest attempt to make a run failed.
    pub problem: Option<Problem>,
    /// Must run again although it ended well: its instance was replaced.
    pub rerun: bool,
    /// The startup probe has passed.
    pub started: bool,
    /// The readiness probe says so.
    pub ready: bool,
}

/// A container's image.
#[derive(Debug)]
pub enum ImageState {
    /// Not looked at for the next run.
    Unknown,
    /// Being looked for or pulled.
    Busy,
    /// Here.
    Present(ImageRecord),
    /// Not to be had.
    Failed,
}

/// The newest run of a container.
#[derive(Debug)]
pub enum Run {
    /// Never ran.
    Waiting,
    /// Being made.
    Starting,
    /// Running.
    Running {
        /// Container id.
        id: String,
        /// Start of the run.
        started_at: DateTime<Utc>,
        /// It was told to stop.
        stopping: bool,
        /// The kernel killed one of its processes for memory.
        out_of_memory: bool,
    },
    /// Ended.
    Exited(Ended),
}

/// A run that ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Ended {
    /// Container id.
    pub id: String,
    /// How.
    pub exit: Exit,
}

/// Why a run could not be made.
#[derive(Debug)]
pub struct Problem {
    /// A word, such as `ErrImagePull`.
    pub reason: &'static str,
    /// The word while waiting for the next attempt; the same unless images are concerned.
    pub waiting_reason: &'static str,
    /// A sentence.
    pub message: String,
    /// Wait for the next attempt.
    pub backoff: Backoff,
    /// Until then the failure itself is reported, afterwards the wait.
    pub fresh_until: Instant,
}

/// The pod has to go.
#[derive(Clone, Debug, PartialEq)]
pub struct StopOrder {
    /// Why.
    pub cause: StopCause,
    /// Revision at which the pod became terminating; zero when no traffic can be waited for.
    pub revision: u64,
    /// When SIGKILL is due.
    pub deadline: Instant,
}

/// Why a pod has to go.
#[derive(Clone, Debug, PartialEq)]
pub enum StopCause {
    /// Its object is being deleted; it is to be removed once the pod is gone.
    Deleted,
    /// Its object is gone already.
    Orphaned,
    /// The node ends it; its object stays and says why.
    Failed {
        /// A word, such as `DeadlineExceeded`.
        reason: &'static str,
        /// A sentence.
        message: String,
    },
}

// === impl PodState ===

impl PodState {
    /// A pod that this node has never seen.
    pub fn new(pod: &Pod, limits: RestartLimits) -> Self {
        let inits = pod.spec.init_containers.iter().map(|container| match container.restart_policy {
            Some(RestartPolicy::Always) => (container, Role::Sidecar),
            _ => (container, Role::Init),
        });
        let apps = pod.spec.containers.iter().map(|container| (container, Role::App));
        let containers = inits
            .chain(apps)
            .map(|(container, role)| ContainerState::new(&container.name, role, limits))
            .collect();
        PodState {
            volumes: Step::Needed,
            volumes_backoff: retry(),
            instance: Instance::None,
            instance_backoff: retry(),
            away: 0,
            attempts: 0,
            old_instances: Vec::new(),
            containers,
            ips: Vec::new(),
            start_time: Utc::now(),
            stop: None,
            finished: false,
            limits,
        }
    }

    /// The instance, while it lives.
    pub fn live_instance(&self) -> Option<&PodInstance> {
        match &self.instance {
            Instance::Ready(instance) => Some(instance),
            _ => None,
        }
    }

    /// The container of this name.
    pub fn index_of(&self, name: &str) -> Option<usize> {
        self.containers.iter().position(|container| container.name == name)
    }

    /// The container that runs under this id.
    pub fn running_index(&self, id: &str) -> Option<usize> {
        self.containers.iter().position(|container| container.running_id() == Some(id))
    }

    /// Volumes are in place, or are not.
    pub fn volumes_done(&mut self, well: bool, now: Instant) {
        if well {
            self.volumes = Step::Ready;
        } else {
            self.volumes = Step::Failed;
            self.volumes_backoff.fail(now);
        }
    }

    /// The pod is there.
    pub fn instance_created(&mut self, instance: PodInstance) {
        self.attempts = instance.attempt + 1;
        if !instance.ips.is_empty() {
            self.ips = instance.ips.clone();
        }
        self.instance_backoff = retry();
        self.away = 0;
        self.instance = Instance::Ready(instance);
    }

    /// The pod could not be made. Each attempt has a number of its own, because the runtime may still hold the last. Says
    /// whether the runtime has been away for long enough to tell of it: not when it only restarts, and not every second.
    pub fn instance_failed(&mut self, unavailable: bool, now: Instant) -> bool {
        self.instance = Instance::None;
        if unavailable {
            self.instance_backoff.wait_until(now + UNAVAILABLE_RETRY);
            self.away += 1;
        } else {
            self.attempts += 1;
            self.instance_backoff.fail(now);
            self.away = 0;
        }
        self.away == AWAY_TOLD
    }

    /// The instance ended by itself.
    pub fn instance_died(&mut self, id: &str) -> bool {
        match &self.instance {
            Instance::Ready(instance) if instance.id == id => {
                self.instance = Instance::Dead { id: id.to_owned() };
                true
            }
            _ => false,
        }
    }

    /// The instance was stopped: nothing of it runs any more, whether or not its containers' ends were reported.
    pub fn instance_stopped(&mut self, now: Instant) {
        let Instance::Stopping { id } = std::mem::replace(&mut self.instance, Instance::None) else { return };
        let running: Vec<String> = self
            .containers
            .iter()
            .filter_map(|container| container.running_id().map(str::to_owned))
            .collect();
        for id in running {
            self.exited(&id, lost("the pod's sandbox ended"), now);
        }
        self.instance = Instance::Stopped { id };
    }

    /// A stopped instance makes room for the next one: every container has to run again in it.
    pub fn replace_instance(&mut self) {
        if let Instance::Stopped { id } = std::mem::replace(&mut self.instance, Instance::None) {
            self.old_instances.push(id);
        }
        for container in &mut self.containers {
            container.rerun |= matches!(container.run, Run::Exited(_));
        }
    }

    /// The image is here.
    pub fn image_present(&mut self, index: usize, image: ImageRecord) {
        let container = &mut self.containers[index];
        if container.problem.as_ref().is_some_and(|problem| problem.concerns_image()) {
            container.problem = None;
        }
        container.image = ImageState::Present(image);
    }

    /// The image is not to be had.
    pub fn image_failed(&mut self, index: usize, reason: &'static str, message: String, now: Instant) {
        let container = &mut self.containers[index];
        container.image = ImageState::Failed;
        let waiting_reason = if reason == "ErrImagePull" { "ImagePullBackOff" } else { reason };
        container.fail(reason, waiting_reason, message, Backoff::new(PULL_FIRST, PULL_MAX), now);
    }

    /// A run could not be made.
    pub fn start_failed(&mut self, index: usize, reason: &'static str, message: String, now: Instant) {
        let container = &mut self.containers[index];
        container.restore_after_failed_start();
        container.image = ImageState::Unknown;
        container.fail(reason, reason, message, retry(), now);
    }

    /// The runtime did not answer: nothing was learned about the container.
    pub fn runtime_unavailable(&mut self, index: usize, now: Instant) {
        let container = &mut self.containers[index];
        if matches!(container.run, Run::Starting) {
            container.restore_after_failed_start();
        }
        container.image = ImageState::Unknown;
        container.backoff.wait_until(now + UNAVAILABLE_RETRY);
    }

    /// The runtime is back: nothing waits for it any longer.
    pub fn runtime_back(&mut self) {
        self.instance_backoff.release();
    }

    /// A run began.
    pub fn started(&mut self, index: usize, id: String, started_at: DateTime<Utc>, has_startup_probe: bool) {
        let container = &mut self.containers[index];
        if let ImageState::Present(image) = std::mem::replace(&mut container.image, ImageState::Unknown) {
            container.image_id = image.id;
        }
        container.attempt += 1;
        container.problem = None;
        container.rerun = false;
        container.started = !has_startup_probe;
        container.ready = false;
        container.run = Run::Running { id, started_at, stopping: false, out_of_memory: false };
    }

    /// A run was made and could not be started: for the pod that is a run that ended at once.
    pub fn start_refused(&mut self, index: usize, id: String, message: String, now: Instant) {
        self.started(index, id.clone(), Utc::now(), false);
        let at = Some(Utc::now());
        let exit =
            Exit { code: 128, reason: "StartError".to_owned(), message, started_at: at, finished_at: at };
        self.exited(&id, exit, now);
    }

    /// A run ended. Answers which container, unless the id is unknown.
    pub fn exited(&mut self, id: &str, mut exit: Exit, now: Instant) -> Option<usize> {
        let index = self.running_index(id)?;
        let limits = self.limits;
        let container = &mut self.containers[index];
        let Run::Running { started_at, out_of_memory, .. } = container.run else { return None };
        exit.started_at = exit.started_at.or(Some(started_at));
        if out_of_memory && exit.code != 0 {
            exit.reason = "OOMKilled".to_owned();
        }
        let ran = exit.finished_at.map(|end| end - started_at).and_then(|ran| ran.to_std().ok());
        if ran.unwrap_or_default() >= limits.reset_after {
            container.backoff.reset_forgiving();
        }
        container.backoff.fail(now);
        container.ready = false;
        container.started = false;
        container.run = Run::Exited(Ended { id: id.to_owned(), exit });
        Some(index)
    }

    /// The kernel killed a process of this container; the report may come before or after the end of the run.
    pub fn out_of_memory(&mut self, killed: &str) {
        for container in &mut self.containers {
            match &mut container.run {
                Run::Running { id, out_of_memory, .. } if id == killed => *out_of_memory = true,
                Run::Exited(ended) if ended.id == killed && ended.exit.code == 137 => {
                    ended.exit.reason = "OOMKilled".to_owned();
                }
                _ => {}
            }
        }
    }

    /// Gives the order to stop. An earlier deadline replaces a later one, never the other way round; then those who were
    /// told to stop already are told again.
    pub fn order_stop(&mut self, order: StopOrder) {
        let sooner = self.stop.as_ref().is_none_or(|held| order.deadline < held.deadline);
        let final_cause = !matches!(order.cause, StopCause::Failed { .. });
        match &mut self.stop {
            None => self.stop = Some(order),
            Some(held) => {
                held.deadline = held.deadline.min(order.deadline);
                // A pod that failed can still be deleted; one that is being deleted cannot fail any more.
                if final_cause {
                    held.cause = order.cause;
                    held.revision = order.revision;
                }
            }
        }
        if sooner {
            for container in &mut self.containers {
                if let Run::Running { stopping, .. } = &mut container.run {
                    *stopping = false;
                }
            }
        }
    }

    /// Instances that the runtime holds and that are not the pod's present one. None while one is being made: it may be
    /// among them.
    pub fn strays(&self, record: Option<&PodRecord>) -> Vec<String> {
        let own = match &self.instance {
            Instance::Creating => return Vec::new(),
            Instance::None => None,
            Instance::Ready(instance) => Some(&instance.id),
            Instance::Dead { id } | Instance::Stopping { id } | Instance::Stopped { id } => Some(id),
        };
        let held = record.into_iter().flat_map(|record| &record.instances);
        held.filter(|instance| Some(&instance.id) != own && !self.old_instances.contains(&instance.id))
            .map(|instance| instance.id.clone())
            .collect()
    }

    /// Brings the state in line with what the runtime really holds, after events may have been missed.
    pub fn reconcile(&mut self, record: Option<&PodRecord>, now: Instant) {
        self.runtime_back();
        let live = record.and_then(|record| record.instances.iter().find(|instance| instance.ready));
        if let Instance::Ready(held) = &self.instance
            && live.map(|instance| &instance.id) != Some(&held.id)
        {
            self.instance = Instance::Dead { id: held.id.clone() };
        }
        let running: Vec<String> = self
            .containers
            .iter()
            .filter_map(|container| container.running_id().map(str::to_owned))
            .collect();
        for id in running {
            let found =
                record.and_then(|record| record.containers.iter().find(|container| container.id == id));
            match found.map(|container| &container.state) {
                Some(RecordState::Running { .. } | RecordState::Created) => {}
                Some(RecordState::Exited(exit)) => drop(self.exited(&id, exit.clone(), now)),
                None => drop(self.exited(&id, lost("the runtime no longer knows the container"), now)),
            }
        }
    }
}

// === impl ContainerState ===

impl ContainerState {
    fn new(name: &str, role: Role, limits: RestartLimits) -> Self {
        ContainerState {
            name: name.to_owned(),
            role,
            image: ImageState::Unknown,
            image_id: String::new(),
            run: Run::Waiting,
            last: None,
            attempt: 0,
            backoff: Backoff::forgiving_once(limits.first, limits.max),
            problem: None,
            rerun: false,
            started: false,
            ready: false,
        }
    }

    /// Id of the present run.
    pub fn running_id(&self) -> Option<&str> {
        match &self.run {
            Run::Running { id, .. } => Some(id),
            _ => None,
        }
    }

    /// Something of it runs or is about to.
    pub fn is_active(&self) -> bool {
        matches!(self.run, Run::Starting | Run::Running { .. })
    }

    /// How the newest run ended, once it has.
    pub fn ended(&self) -> Option<&Exit> {
        match &self.run {
            Run::Exited(ended) => Some(&ended.exit),
            _ => None,
        }
    }

    /// Marks the next run as being made; the one before becomes the last.
    pub fn begin_start(&mut self) {
        if let Run::Exited(ended) = std::mem::replace(&mut self.run, Run::Starting) {
            self.last = Some(ended);
        }
    }

    fn restore_after_failed_start(&mut self) {
        self.run = match self.last.take() {
            Some(ended) => Run::Exited(ended),
            None => Run::Waiting,
        };
    }

    fn fail(
        &mut self,
        reason: &'static str,
        waiting_reason: &'static str,
        message: String,
        fresh: Backoff,
        now: Instant,
    ) {
        let mut backoff = match self.problem.take() {
            Some(problem) if problem.reason == reason => problem.backoff,
            _ => fresh,
        };
        backoff.fail(now);
        let fresh_until = now + PROBLEM_FRESH;
        self.problem = Some(Problem { reason, waiting_reason, message, backoff, fresh_until });
    }
}

impl Problem {
    fn concerns_image(&self) -> bool {
        matches!(self.reason, "ErrImagePull" | "ErrImageNeverPull" | "InvalidImageName")
    }
}

fn retry() -> Backoff {
    Backoff::new(RETRY_FIRST, RETRY_MAX)
}

/// The end of a run that nobody saw.
fn lost(why: &str) -> Exit {
    Exit {
        code: 137,
        reason: "ContainerStatusUnknown".to_owned(),
        message: format!("The container could not be located: {why}"),
        started_at: None,
        finished_at: Some(Utc::now()),
    }
}
