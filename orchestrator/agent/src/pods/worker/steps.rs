//! Doing: begins what `machine` decided, each step as a task of its own that tells the worker what came of it.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::{Input, Worker, seconds};
use crate::pods::actions::Target;
use crate::pods::machine::{self, Action, sooner};
use crate::pods::ops::StopPlan;
use crate::pods::probes::Probes;
use crate::pods::shared::Shared;
use crate::pods::state::{ImageState, Instance, Run, StopCause};
use crate::runtime::{ContainerRecord, ImageRecord, RecordState};

/// Looks at a record that still says running: half a second in all.
const LOOKS_MAX: u32 = 25;
const LOOK_PAUSE: Duration = Duration::from_millis(20);
/// Pause before a runtime that is away is asked again.
const AWAY_PAUSE: Duration = Duration::from_millis(500);

impl Worker {
    /// Begins everything that can begin now; answers when time alone would change that.
    pub(super) fn step(&mut self) -> Option<Instant> {
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
            ImageState::Present(image) => image.clone(),
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

    pub(super) fn stop(&mut self, index: usize, id: String, deadline: Instant, revision: u64) {
        let Some(spec) = self.spec(&self.state.containers[index].name).cloned() else { return };
        let (steps, sender) = (self.steps(), self.sender.clone());
        let ips = steps.addresses(&self.state.ips).to_vec();
        let plan = StopPlan { target: self.target(spec, &id), ips, id, deadline, revision };
        self.tasks.spawn(async move {
            steps.stop_container(&plan).await;
            // The event of the end is usually here already; this settles it also if it was missed.
            let record = look(&steps.shared, &plan.id).await;
            sender.send(Input::Inspected(plan.id, record)).await.ok();
        });
    }

    pub(super) fn inspect(&mut self, id: String) {
        let (shared, sender) = (self.shared.clone(), self.sender.clone());
        self.tasks.spawn(async move {
            let record = look(&shared, &id).await;
            sender.send(Input::Inspected(id, record)).await.ok();
        });
    }

    /// The last report first, then the object, and the node's traces meanwhile: they carry the pod's uid, so that a successor
    /// of its name is not disturbed by them; what could disturb one, addresses and ports, went with the instance. The
    /// runtime's records go last: until then an agent that was killed finds the pod again and cleans up after it.
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
            let let_go = async {
                if deleted {
                    steps.shared.reporter.flush(&uid).await;
                    steps.delete_object().await;
                }
            };
            futures::join!(cleaned, let_go);
            for id in instances {
                steps.remove_instance(&id).await;
            }
            Input::Finished
        });
    }

    pub(super) fn begin_probes(&mut self, index: usize, id: &str) {
        let container = &self.state.containers[index];
        let Some(spec) = self.spec(&container.name).cloned() else { return };
        if spec.startup_probe.is_none() && spec.liveness_probe.is_none() && spec.readiness_probe.is_none() {
            return;
        }
        let (started, ready) = (container.started, container.ready && spec.readiness_probe.is_some());
        let probes = Probes::begin(self.target(spec, id), started, ready, self.sender.clone());
        self.probes.insert(index, probes);
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
