//! Taking in: what a worker is told changes its state, and nothing here waits.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::time::Instant;

use super::{Input, Worker, seconds};
use crate::objects::Pod;
use crate::pods::files;
use crate::pods::machine::{self, Action, Outlook};
use crate::pods::ops::{ImageProblem, StartProblem};
use crate::pods::probes::{ProbeKind, ProbeNews, ProbeReport};
use crate::pods::state::{ImageState, Instance, Run, StopCause, StopOrder};
use crate::pods::status;
use crate::runtime::{ContainerRecord, Exit, ImageRecord, PodInstance, PodRecord, RecordState, RuntimeEvent};
use crate::volumes::Prepared;

/// An object only goes before its pod when somebody forced it: the pod is not to linger.
const FORCED_GRACE_SECONDS: i64 = 2;

impl Worker {
    pub(super) fn take(&mut self, input: Input) {
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
            Input::Created(Err(away)) => self.instance_failed(away, now),
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

    fn instance_failed(&mut self, away: Option<String>, now: Instant) {
        let tell = self.state.instance_failed(away.is_some(), now);
        if let Some(reason) = away.filter(|_| tell) {
            self.steps().warn_of_instance(&reason);
        }
    }

    pub(super) fn note_deletion(&mut self, pod: &Arc<Pod>, resumed: bool) {
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
            self.state.containers[index].image = ImageState::Unknown;
        }
    }

    pub(super) fn check_deadlines(&mut self) {
        let Some(limit) = self.pod.spec.active_deadline_seconds else { return };
        let over = Utc::now() - self.state.start_time >= chrono::Duration::seconds(limit);
        let active = self.state.stop.is_none() && machine::outlook(&self.pod, &self.state) != Outlook::Over;
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
                Outlook::Run(starts) => starts.contains(&index),
                Outlook::Over => false,
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
}
