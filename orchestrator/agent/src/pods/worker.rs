//! One pod: takes in what happens to it, lets `machine` decide, begins what was decided as tasks, and reports. It never
//! waits for a task, so that a deletion is heard in the middle of a slow image pull.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use super::actions::Target;
use super::files;
use super::machine::{self, Action};
use super::ops::{ImageProblem, StartProblem, Steps, StopPlan};
use super::probes::{ProbeKind, ProbeNews, ProbeReport, Probes};
use super::shared::{ContainerView, PodView, Shared};
use super::state::{Instance, PodState, Run, StopCause, StopOrder};
use super::status::{self, Context};
use super::timeline::{CONDITION, Timeline};
use crate::objects::{Container, Pod, PodCondition, PodRef};
use crate::runtime::{ContainerRecord, Exit, ImageRecord, PodInstance, PodRecord, RecordState, RuntimeEvent};
use crate::volumes::{Keeper, Prepared};

/// Inputs waiting for one worker. It takes them in at once; a pod's containers and probes rarely say ten things together.
pub const INPUTS_MAX: usize = 128;

/// An object only goes before its pod when somebody forced it: the pod is not to linger.
const FORCED_GRACE_SECONDS: i64 = 2;

/// Looks at a record that still says running: half a second in all.
const LOOKS_MAX: u32 = 25;
const LOOK_PAUSE: Duration = Duration::from_millis(20);
/// Pause before a runtime that is away is asked again.
const AWAY_PAUSE: Duration = Duration::from_millis(500);

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
    Created(Result<PodInstance, bool>),
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
        let reported = own_report(&self.pod);
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

    // --- taking in

    fn take(&mut self, input: Input) {
        let now = Instant::now();
        match input {
            Input::Pod(pod) => {
                self.note_deletion(&pod, false);
                if let Some(keeper) = &self.keeper {
                    keeper.update(&pod, &self.state.ips);
                }
                self.pod = pod;
            }
            Input::Gone(last) => self.note_gone(&last),
            Input::Event(event) => self.take_event(event, now),
            Input::Relisted(record) => self.relisted(record.as_deref(), now),
            Input::Volumes(result) => self.take_volumes(result, now),
            Input::Created(Ok(instance)) => self.created(instance),
            Input::Created(Err(unavailable)) => self.state.instance_failed(unavailable, now),
            Input::InstanceStopped => self.instance_stopped(now),
            Input::Image(index, result) => self.take_image(index, result, now),
            Input::Started(index, id, at) => self.started(index, id, at),
            Input::NotStarted(index, problem) => self.not_started(index, problem, now),
            Input::HookFailed(id) => self.kill(&id, "FailedPostStartHook", None),
            Input::Inspected(id, record) => self.inspected(&id, record.map(|record| *record), now),
            Input::Probe(report) => self.take_probe(report),
            Input::Finished => {}
        }
    }

    fn note_deletion(&mut self, pod: &Arc<Pod>, resumed: bool) {
        let Some(at) = pod.metadata.deletion_timestamp else { return };
        let grace = seconds(pod.metadata.deletion_grace_period_seconds.unwrap_or(0));
        // The server's clock may differ; only after a restart is there nothing else to go by.
        let left = if resumed { (at - Utc::now()).to_std().unwrap_or_default().min(grace) } else { grace };
        let first = !self.state.stop.as_ref().is_some_and(|order| order.cause == StopCause::Deleted);
        let shortened =
            self.pod.metadata.deletion_grace_period_seconds != pod.metadata.deletion_grace_period_seconds;
        if first || shortened {
            let revision = if first { pod.metadata.resource_version } else { 0 };
            self.order_stop(StopCause::Deleted, revision, left);
        }
    }

    fn note_gone(&mut self, last: &Pod) {
        let granted = last.metadata.deletion_grace_period_seconds.unwrap_or(FORCED_GRACE_SECONDS);
        let grace =
            seconds(granted.min(last.spec.termination_grace_period_seconds).min(FORCED_GRACE_SECONDS));
        self.order_stop(StopCause::Orphaned, 0, grace);
    }

    fn order_stop(&mut self, cause: StopCause, revision: u64, grace: Duration) {
        self.state.order_stop(StopOrder { cause, revision, deadline: Instant::now() + grace });
        // A pull that nobody needs any more would hold the pod for minutes.
        for (index, fetch) in self.fetches.drain() {
            fetch.abort();
            self.state.containers[index].image = super::state::ImageState::Unknown;
        }
    }

    fn check_deadlines(&mut self) {
        let Some(limit) = self.pod.spec.active_deadline_seconds else { return };
        let over = Utc::now() - self.state.start_time >= chrono::Duration::seconds(limit);
        let active =
            self.state.stop.is_none() && machine::outlook(&self.pod, &self.state) != machine::Outlook::Over;
        if over && active {
            let message = "Pod was active on the node longer than the specified deadline".to_owned();
            self.steps().note(None, "DeadlineExceeded", &message);
            let grace = seconds(self.pod.spec.termination_grace_period_seconds);
            self.order_stop(StopCause::Failed { reason: "DeadlineExceeded", message }, 0, grace);
        }
    }

    fn take_event(&mut self, event: RuntimeEvent, now: Instant) {
        match event {
            RuntimeEvent::Connected => {}
            RuntimeEvent::OutOfMemory { id } => self.state.out_of_memory(&id),
            RuntimeEvent::Exited { id, code, at } => {
                if self.state.instance_died(&id) {
                    let message = "Pod sandbox changed, it will be killed and re-created.";
                    self.steps().note(None, "SandboxChanged", message);
                    return;
                }
                let Some(index) = self.state.running_index(&id) else { return };
                let unexplained = matches!(
                    self.state.containers[index].run,
                    Run::Running { stopping: false, out_of_memory: false, .. }
                );
                // SIGKILL by nobody we know: the runtime may know that it was for memory.
                if code == 137 && unexplained {
                    self.inspect(id);
                    return;
                }
                let reason = if code == 0 { "Completed" } else { "Error" };
                let exit = Exit {
                    code,
                    reason: reason.to_owned(),
                    message: String::new(),
                    started_at: None,
                    finished_at: Some(at),
                };
                self.exited(&id, exit, now);
            }
        }
    }

    fn inspected(&mut self, id: &str, record: Option<ContainerRecord>, now: Instant) {
        let exit = match record.map(|record| record.state) {
            Some(RecordState::Exited(exit)) => exit,
            Some(RecordState::Running { .. } | RecordState::Created) => return,
            None => Exit {
                code: 137,
                reason: "Error".to_owned(),
                message: String::new(),
                started_at: None,
                finished_at: Some(Utc::now()),
            },
        };
        self.exited(id, exit, now);
    }

    fn exited(&mut self, id: &str, mut exit: Exit, now: Instant) {
        let Some(index) = self.state.running_index(id) else { return };
        self.probes.remove(&index);
        self.shared.routes.release(id);
        let container = &self.state.containers[index];
        if let Some(spec) = self.spec(&container.name) {
            let attempt = container.attempt.saturating_sub(1);
            let settings = &self.shared.settings;
            let message = files::message_file(settings, &self.reference.uid, &spec.name, attempt);
            let log =
                files::log_directory(settings, &self.reference).join(files::log_path(&spec.name, attempt));
            let text = files::termination_message(spec, &message, &log, exit.code);
            if !text.is_empty() {
                exit.message = text;
            }
        }
        self.state.exited(id, exit, now);
        let container = &self.state.containers[index];
        if self.state.stop.is_none() && !container.backoff.current.is_zero() {
            let again = match machine::outlook(&self.pod, &self.state) {
                machine::Outlook::Run(starts) => starts.contains(&index),
                machine::Outlook::Over => false,
            };
            if again {
                let name = container.name.clone();
                let pod =
                    format!("{}_{}({})", self.reference.name, self.reference.namespace, self.reference.uid);
                let message = format!("Back-off restarting failed container {name} in pod {pod}");
                self.steps().warn(Some(&name), "BackOff", &message);
            }
        }
    }

    fn relisted(&mut self, record: Option<&PodRecord>, now: Instant) {
        let before: Vec<Option<String>> =
            self.state.containers.iter().map(|container| container.running_id().map(str::to_owned)).collect();
        self.state.reconcile(record, now);
        // An instance whose making was cut off by the gap belongs to nobody.
        for stray in self.state.strays(record) {
            let steps = self.steps();
            self.tasks.spawn(async move { steps.remove_instance(&stray).await });
        }
        for (index, id) in before.into_iter().enumerate() {
            if let Some(id) = id.filter(|_| self.state.containers[index].running_id().is_none()) {
                self.probes.remove(&index);
                self.shared.routes.release(&id);
            }
        }
    }

    fn take_volumes(&mut self, result: Result<Prepared, String>, now: Instant) {
        self.state.volumes_done(result.is_ok(), now);
        if let Ok(prepared) = result {
            self.keeper = self.shared.volumes.keep(&self.pod, &self.state.ips, &prepared);
            self.prepared = prepared;
        }
    }

    fn created(&mut self, instance: PodInstance) {
        let id = instance.id.clone();
        self.state.instance_created(instance);
        for event in self.shared.routes.claim(&id, self.sender.clone()) {
            self.take(Input::Event(event));
        }
        if let Some(keeper) = &self.keeper {
            keeper.update(&self.pod, &self.state.ips);
        }
        for old in std::mem::take(&mut self.state.old_instances) {
            let steps = self.steps();
            self.tasks.spawn(async move { steps.remove_instance(&old).await });
        }
    }

    fn instance_stopped(&mut self, now: Instant) {
        if let Instance::Stopping { id } = &self.state.instance {
            self.shared.routes.release(id);
        }
        self.state.instance_stopped(now);
        self.probes.clear();
    }

    fn take_image(&mut self, index: usize, result: Result<ImageRecord, ImageProblem>, now: Instant) {
        self.fetches.remove(&index);
        match result {
            Ok(image) => self.state.image_present(index, image),
            Err(ImageProblem::Unavailable) => self.state.runtime_unavailable(index, now),
            Err(ImageProblem::Failed { reason, message }) => {
                self.state.image_failed(index, reason, message, now);
                let container = &self.state.containers[index];
                let wait =
                    container.problem.as_ref().map(|problem| problem.backoff.current).unwrap_or_default();
                if let Some(spec) = self.spec(&container.name).filter(|_| reason == "ErrImagePull") {
                    let (name, image) = (spec.name.clone(), spec.image.clone());
                    let wait = status::short_duration(wait);
                    let message = format!("Back-off pulling image \"{image}\" (next attempt in {wait})");
                    self.steps().note(Some(&name), "BackOff", &message);
                }
            }
        }
    }

    fn started(&mut self, index: usize, id: String, at: DateTime<Utc>) {
        let Some(spec) = self.spec(&self.state.containers[index].name).cloned() else { return };
        let again = self.state.containers[index].attempt > 0;
        self.state.started(index, id.clone(), at, spec.startup_probe.is_some());
        self.state.containers[index].ready = spec.readiness_probe.is_none();
        if again {
            self.shared.metrics.restarts.inc();
        }
        self.begin_probes(index, &id);
    }

    fn not_started(&mut self, index: usize, problem: StartProblem, now: Instant) {
        match problem {
            StartProblem::Unavailable => self.state.runtime_unavailable(index, now),
            StartProblem::Failed { reason, message } => self.state.start_failed(index, reason, message, now),
            StartProblem::Refused { id, message } => self.state.start_refused(index, id, message, now),
        }
    }

    fn take_probe(&mut self, report: ProbeReport) {
        let Some(index) = self.state.running_index(&report.id) else { return };
        let name = self.state.containers[index].name.clone();
        let kind = report.kind;
        match &report.news {
            ProbeNews::Failed(why) | ProbeNews::Bad(why) => {
                self.shared.metrics.probe_failures.with_label_values(&[kind.name()]).inc();
                let message = format!("{} probe failed: {why}", kind.name());
                self.steps().warn(Some(&name), "Unhealthy", &message);
            }
            ProbeNews::Well => {
                let (at, took) = (self.timeline.clone(), Duration::ZERO);
                at.record_took(&format!("{}-probe", kind.name().to_lowercase()), &name, took, "passed");
            }
        }
        match (kind, report.news) {
            (_, ProbeNews::Failed(_)) => {}
            (ProbeKind::Startup, ProbeNews::Well) => self.state.containers[index].started = true,
            (ProbeKind::Readiness, news) => {
                self.state.containers[index].ready = matches!(news, ProbeNews::Well);
            }
            (ProbeKind::Liveness, ProbeNews::Well) => {}
            (ProbeKind::Startup | ProbeKind::Liveness, ProbeNews::Bad(_)) => {
                let probe = self.spec(&name).and_then(|spec| match kind {
                    ProbeKind::Startup => spec.startup_probe.as_ref(),
                    _ => spec.liveness_probe.as_ref(),
                });
                let grace = probe.and_then(|probe| probe.termination_grace_period_seconds).map(seconds);
                let why = format!(
                    "Container {name} failed {} probe, will be restarted",
                    kind.name().to_lowercase()
                );
                self.kill(&report.id, &why, grace);
            }
        }
    }

    /// Ends a run that has to be replaced.
    fn kill(&mut self, id: &str, why: &str, grace: Option<Duration>) {
        let Some(index) = self.state.running_index(id) else { return };
        if matches!(self.state.containers[index].run, Run::Running { stopping: true, .. }) {
            return;
        }
        let name = self.state.containers[index].name.clone();
        self.steps().note(Some(&name), "Killing", why);
        let grace = grace.unwrap_or_else(|| seconds(self.pod.spec.termination_grace_period_seconds));
        machine::begin(&mut self.state, &Action::Stop { index, id: id.to_owned() });
        self.stop(index, id.to_owned(), Instant::now() + grace, 0);
    }

    // --- doing

    /// Begins everything that can begin now; answers when time alone would change that.
    fn step(&mut self) -> Option<Instant> {
        loop {
            let plan = machine::decide(&self.pod, &self.state, Instant::now());
            if plan.actions.is_empty() {
                return sooner(plan.wake, self.active_deadline());
            }
            for action in plan.actions {
                self.begin(action);
            }
        }
    }

    fn begin(&mut self, action: Action) {
        let stale = self.stale_run(&action);
        machine::begin(&mut self.state, &action);
        let (steps, sender) = (self.steps(), self.sender.clone());
        match action {
            Action::PrepareVolumes => {
                let ips = self.state.ips.clone();
                self.spawn(async move { Input::Volumes(steps.prepare_volumes(&ips).await) });
            }
            Action::CreateInstance => {
                let attempt = self.state.attempts;
                self.spawn(async move { Input::Created(steps.create_instance(attempt).await) });
            }
            Action::StopInstance { id } => self.spawn(async move {
                steps.stop_instance(&id).await;
                Input::InstanceStopped
            }),
            Action::FetchImage { index } => {
                let Some(spec) = self.spec(&self.state.containers[index].name).cloned() else { return };
                let task = async move {
                    let result = steps.fetch_image(&spec).await;
                    sender.send(Input::Image(index, result)).await.ok();
                };
                let handle = self.tasks.spawn(task);
                self.fetches.insert(index, handle);
            }
            Action::Start { index } => self.start(index, stale),
            Action::Stop { index, id } => {
                let name = &self.state.containers[index].name;
                steps.note(Some(name), "Killing", &format!("Stopping container {name}"));
                let order = self.state.stop.as_ref();
                let grace = seconds(self.pod.spec.termination_grace_period_seconds);
                let deadline = order.map_or_else(|| Instant::now() + grace, |order| order.deadline);
                let revision = order.map_or(0, |order| order.revision);
                self.stop(index, id, deadline, revision);
            }
            Action::Finish => self.finish(),
        }
    }

    /// The run before the last one is only kept until the next begins.
    fn stale_run(&self, action: &Action) -> Option<String> {
        let Action::Start { index } = action else { return None };
        let container = &self.state.containers[*index];
        match (&container.run, &container.last) {
            (Run::Exited(_), Some(last)) => Some(last.id.clone()).filter(|id| !id.is_empty()),
            _ => None,
        }
    }

    fn start(&mut self, index: usize, stale: Option<String>) {
        let container = &self.state.containers[index];
        let (Some(spec), Some(instance)) =
            (self.spec(&container.name).cloned(), self.state.live_instance().cloned())
        else {
            return;
        };
        let image = match &container.image {
            super::state::ImageState::Present(image) => image.clone(),
            _ => ImageRecord::default(),
        };
        let (steps, sender, attempt) = (self.steps(), self.sender.clone(), container.attempt);
        let volumes = self.prepared.clone();
        let ip = steps.addresses(&instance.ips).first().copied();
        self.tasks.spawn(async move {
            match steps.start(&spec, attempt, &image, &volumes, &instance).await {
                Ok((id, at)) => {
                    sender.send(Input::Started(index, id.clone(), at)).await.ok();
                    for event in steps.shared.routes.claim(&id, sender.clone()) {
                        sender.send(Input::Event(event)).await.ok();
                    }
                    if let Some(stale) = stale
                        && let Err(error) = steps.shared.runtime.remove_container(&stale).await
                    {
                        tracing::debug!(%stale, %error, "an old run stays until its pod goes");
                    }
                    let runtime = steps.shared.runtime.clone();
                    let target = Target { ip, id: id.clone(), container: Arc::new(spec), runtime };
                    if let Some(hook) = &target.container.lifecycle.post_start
                        && steps.post_start(&target, hook).await.is_err()
                    {
                        sender.send(Input::HookFailed(id)).await.ok();
                    }
                }
                Err(problem) => {
                    sender.send(Input::NotStarted(index, problem)).await.ok();
                }
            }
        });
    }

    fn stop(&mut self, index: usize, id: String, deadline: Instant, revision: u64) {
        let Some(spec) = self.spec(&self.state.containers[index].name).cloned() else { return };
        let plan = StopPlan { target: self.target(spec, &id), id, deadline, revision };
        let (steps, sender) = (self.steps(), self.sender.clone());
        self.tasks.spawn(async move {
            steps.stop_container(&plan).await;
            // The event of the end is usually here already; this settles it also if it was missed.
            let record = look(&steps.shared, &plan.id).await;
            sender.send(Input::Inspected(plan.id, record)).await.ok();
        });
    }

    fn inspect(&mut self, id: String) {
        let (shared, sender) = (self.shared.clone(), self.sender.clone());
        self.tasks.spawn(async move {
            let record = look(&shared, &id).await;
            sender.send(Input::Inspected(id, record)).await.ok();
        });
    }

    /// The last report first, then the node's traces, then the object: a reader never sees the object gone while
    /// something of the pod is left that could disturb its successor.
    fn finish(&mut self) {
        self.keeper = None;
        self.publish();
        let deleted = self.state.stop.as_ref().is_some_and(|order| order.cause == StopCause::Deleted);
        let stopped = match &self.state.instance {
            Instance::Stopped { id } => Some(id.clone()),
            _ => None,
        };
        let instances: Vec<String> = stopped.into_iter().chain(self.state.old_instances.drain(..)).collect();
        let (steps, uid) = (self.steps(), self.reference.uid.clone());
        self.spawn(async move {
            let cleaned = steps.clean_up();
            let reported = async {
                if deleted {
                    steps.shared.reporter.flush(&uid).await;
                }
            };
            futures::join!(cleaned, reported);
            if deleted {
                steps.delete_object().await;
            }
            for id in instances {
                steps.remove_instance(&id).await;
            }
            Input::Finished
        });
    }

    fn begin_probes(&mut self, index: usize, id: &str) {
        let container = &self.state.containers[index];
        let Some(spec) = self.spec(&container.name).cloned() else { return };
        if spec.startup_probe.is_none() && spec.liveness_probe.is_none() && spec.readiness_probe.is_none() {
            return;
        }
        let (started, ready) = (container.started, container.ready && spec.readiness_probe.is_some());
        let probes = Probes::begin(self.target(spec, id), started, ready, self.sender.clone());
        self.probes.insert(index, probes);
    }

    // --- reporting

    fn publish(&mut self) {
        let context = Context {
            host_ips: &self.shared.settings.facts.host_ips,
            previous: &self.conditions,
            time: Utc::now(),
            now: Instant::now(),
        };
        let mut made = status::report(&self.pod, &self.state, &context);
        self.conditions.clone_from(&made.conditions);
        let running = made.phase == "Running";
        let ready = is_ready(&made.conditions);
        if running && !self.was_running {
            self.timeline.running();
        }
        // The timeline is reported when something worth a report happens anyway.
        if (running && !self.was_running) || (ready && !self.was_ready) {
            self.reported_timeline = Some(self.timeline.to_json());
        }
        (self.was_running, self.was_ready) = (running, ready);
        if let Some(timeline) = &self.reported_timeline {
            made.conditions.push(PodCondition {
                kind: CONDITION.to_owned(),
                status: "True".to_owned(),
                reason: Some("Started".to_owned()),
                message: Some(timeline.clone()),
                last_transition_time: Some(self.state.start_time),
            });
        }
        let status = serde_json::to_value(&made).unwrap_or(Value::Null);
        self.shared.views.set(self.view(&status), self.state.stop.is_some());
        let gone = self.state.stop.as_ref().is_some_and(|order| order.cause == StopCause::Orphaned);
        if !gone {
            self.shared.reporter.report(&self.reference, status);
        }
    }

    fn view(&self, status: &Value) -> PodView {
        let containers = self.state.containers.iter().map(|container| {
            let id = match &container.run {
                Run::Running { id, .. } => Some(id.clone()),
                Run::Exited(ended) => Some(ended.id.clone()),
                Run::Starting | Run::Waiting => container.last.as_ref().map(|ended| ended.id.clone()),
            };
            ContainerView {
                name: container.name.clone(),
                id,
                running: container.running_id().is_some(),
                attempt: container.attempt.checked_sub(1),
                waiting: container.problem.as_ref().map(|problem| problem.reason.to_owned()),
            }
        });
        PodView {
            reference: self.reference.clone(),
            pod: self.pod.clone(),
            status: status.clone(),
            instance: self.state.live_instance().map(|instance| instance.id.clone()),
            containers: containers.collect(),
        }
    }

    // --- small helpers

    fn steps(&self) -> Steps {
        Steps { shared: self.shared.clone(), pod: self.pod.clone(), timeline: self.timeline.clone() }
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

/// The record of a run that has ended. containerd's own record may lag behind its event by some milliseconds, and a
/// runtime that is away is waited for.
async fn look(shared: &Shared, id: &str) -> Option<Box<ContainerRecord>> {
    let mut tries = LOOKS_MAX;
    loop {
        let pause = match shared.runtime.container(id).await {
            Ok(record) if tries == 0 || matches!(record.state, RecordState::Exited(_)) => {
                return Some(Box::new(record));
            }
            Ok(_) => LOOK_PAUSE,
            Err(error) if error.is_unavailable() => AWAY_PAUSE,
            Err(_) => return None,
        };
        tries = tries.saturating_sub(1);
        tokio::time::sleep(pause).await;
    }
}

/// What was reported last, in the form in which it is reported.
fn own_report(pod: &Pod) -> Value {
    const OWN: &[&str] =
        &["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled", CONDITION];
    let mut status = pod.status.clone();
    status.conditions.retain(|condition| OWN.contains(&condition.kind.as_str()));
    status.conditions.sort_by_key(|condition| OWN.iter().position(|own| *own == condition.kind));
    serde_json::to_value(status).unwrap_or_else(|_| json!({}))
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

fn sooner(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
