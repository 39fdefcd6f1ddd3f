//! One pod: takes in what happens to it (`inputs`), lets `machine` decide, begins what was decided as tasks (`steps`), and
//! reports (`report`). It never waits for a task, so that a deletion is heard in the middle of a slow image pull.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::sync::{RwLock, mpsc};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use super::actions::Target;
use super::machine;
use super::ops::{ImageProblem, StartProblem, Steps};
use super::probes::{ProbeReport, Probes};
use super::shared::Shared;
use super::state::PodState;
use super::timeline::{CONDITION, Timeline};
use crate::objects::{Container, Pod, PodCondition, PodRef};
use crate::runtime::{ContainerRecord, ImageRecord, PodInstance, PodRecord, RuntimeEvent};
use crate::volumes::{Keeper, Prepared};

mod inputs;
mod report;
mod steps;

/// Inputs waiting for one worker. It takes them in at once; a pod's containers and probes rarely say ten things together.
pub const INPUTS_MAX: usize = 128;

/// What a worker is told.
#[derive(Debug)]
pub enum Input {
    /// The object, new or changed.
    Pod(Arc<Pod>),
    /// The object is gone; its last state.
    Gone(Arc<Pod>),
    /// Something ended in the runtime.
    Event(RuntimeEvent),
    /// Everything that the runtime holds of the pod, after events may have been missed.
    Relisted(Option<Arc<PodRecord>>),
    /// Volumes were made.
    Volumes(Result<Prepared, String>),
    /// The instance was made; or not, for lack of an answer (`true`) or otherwise.
    Created(Result<PodInstance, Option<String>>),
    /// The instance was stopped.
    InstanceStopped,
    /// An image was looked for.
    Image(usize, Result<ImageRecord, ImageProblem>),
    /// A run began.
    Started(usize, String, DateTime<Utc>),
    /// A run did not begin.
    NotStarted(usize, StartProblem),
    /// A postStart hook failed.
    HookFailed(String),
    /// The runtime's record of a run that should have ended; `None` when it holds none.
    Inspected(String, Option<Box<ContainerRecord>>),
    /// A probe has news.
    Probe(ProbeReport),
    /// Everything of the pod is gone.
    Finished,
}

/// The task that is responsible for one pod.
pub struct Worker {
    shared: Arc<Shared>,
    pod: Arc<Pod>,
    reference: PodRef,
    state: PodState,
    timeline: Timeline,
    sender: mpsc::Sender<Input>,
    inputs: mpsc::Receiver<Input>,
    tasks: JoinSet<()>,
    fetches: HashMap<usize, AbortHandle>,
    probes: HashMap<usize, Probes>,
    prepared: Prepared,
    keeper: Option<Keeper>,
    ending: Arc<RwLock<()>>,
    conditions: Vec<PodCondition>,
    reported_timeline: Option<String>,
    was_running: bool,
    was_ready: bool,
}

// === impl Worker ===

impl Worker {
    /// A worker for a pod that the runtime may hold already. Answers the way to tell it things.
    pub fn new(
        shared: Arc<Shared>,
        pod: Arc<Pod>,
        record: Option<&PodRecord>,
    ) -> (Self, mpsc::Sender<Input>) {
        let (sender, inputs) = mpsc::channel(INPUTS_MAX);
        let limits = shared.settings.restart_limits;
        let state = PodState::adopt(&pod, record, limits, Instant::now());
        let timeline = Timeline::begin(shared.metrics.clone());
        shared.timelines.insert(&pod.metadata.namespace, &pod.metadata.name, timeline.clone());
        let worker = Worker {
            reference: pod.reference(),
            conditions: pod.status.conditions.clone(),
            was_running: pod.status.phase == "Running",
            was_ready: is_ready(&pod.status.conditions),
            reported_timeline: find(&pod.status.conditions, CONDITION).and_then(|held| held.message.clone()),
            state,
            timeline,
            sender: sender.clone(),
            inputs,
            tasks: JoinSet::new(),
            fetches: HashMap::new(),
            probes: HashMap::new(),
            prepared: Prepared::default(),
            keeper: None,
            ending: Arc::default(),
            shared,
            pod,
        };
        (worker, sender)
    }

    /// Runs until nothing of the pod is left.
    pub async fn run(mut self) {
        self.shared.metrics.pods.inc();
        self.resume().await;
        loop {
            self.check_deadlines();
            let wake = self.step();
            self.publish();
            let input = tokio::select! {
                input = self.inputs.recv() => input,
                () = sleep_until(wake) => continue,
                Some(done) = self.tasks.join_next() => {
                    if let Err(error) = done
                        && error.is_panic()
                    {
                        tracing::error!(pod = %self.reference, %error, "a step of the pod's life panicked");
                    }
                    continue;
                }
            };
            let Some(input) = input else { break };
            if matches!(input, Input::Finished) {
                break;
            }
            self.take(input);
            // Things that come together are reported together.
            while let Ok(input) = self.inputs.try_recv() {
                if matches!(input, Input::Finished) {
                    self.leave();
                    return;
                }
                self.take(input);
            }
        }
        self.leave();
    }

    fn leave(&mut self) {
        self.shared.views.remove(&self.reference);
        self.shared.reporter.forget(&self.reference.uid);
        self.shared.timelines.remove(&self.reference.namespace, &self.reference.name, &self.timeline);
        self.shared.metrics.pods.dec();
    }

    /// Takes up what an earlier life of the agent left running.
    async fn resume(&mut self) {
        let reported = report::own_report(&self.pod);
        self.shared.reporter.assume(&self.reference.uid, reported);
        let live = self.state.live_instance().map(|instance| instance.id.clone());
        let running = self.state.containers.iter().filter_map(|container| container.running_id());
        for id in running.map(str::to_owned).chain(live).collect::<Vec<_>>() {
            for event in self.shared.routes.claim(&id, self.sender.clone()) {
                self.take(Input::Event(event));
            }
        }
        for index in 0..self.state.containers.len() {
            if let Some(id) = self.state.containers[index].running_id().map(str::to_owned) {
                self.begin_probes(index, &id);
            }
        }
        let pod = self.pod.clone();
        self.note_deletion(&pod, true);
    }

    fn steps(&self) -> Steps {
        Steps {
            shared: self.shared.clone(),
            pod: self.pod.clone(),
            timeline: self.timeline.clone(),
            ending: self.ending.clone(),
        }
    }

    fn spec(&self, name: &str) -> Option<&Container> {
        self.pod.all_containers().find(|container| container.name == name)
    }

    fn target(&self, spec: Container, id: &str) -> Target {
        let ips =
            if self.pod.spec.host_network { &self.shared.settings.facts.host_ips } else { &self.state.ips };
        Target {
            ip: ips.first().copied(),
            id: id.to_owned(),
            container: Arc::new(spec),
            runtime: self.shared.runtime.clone(),
        }
    }

    fn spawn(&mut self, step: impl Future<Output = Input> + Send + 'static) {
        let sender = self.sender.clone();
        self.tasks.spawn(async move {
            // Nobody listens only when the worker is gone, and its tasks with it.
            sender.send(step.await).await.ok();
        });
    }

    fn active_deadline(&self) -> Option<Instant> {
        let limit = self.pod.spec.active_deadline_seconds.filter(|_| self.state.stop.is_none())?;
        let left = self.state.start_time + chrono::Duration::seconds(limit) - Utc::now();
        Some(Instant::now() + left.to_std().unwrap_or_default())
            .filter(|_| machine::outlook(&self.pod, &self.state) != machine::Outlook::Over)
    }
}

fn find<'a>(conditions: &'a [PodCondition], kind: &str) -> Option<&'a PodCondition> {
    conditions.iter().find(|condition| condition.kind == kind)
}

fn is_ready(conditions: &[PodCondition]) -> bool {
    find(conditions, "Ready").is_some_and(|ready| ready.status == "True")
}

fn seconds(count: i64) -> Duration {
    Duration::from_secs(u64::try_from(count).unwrap_or(0))
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
