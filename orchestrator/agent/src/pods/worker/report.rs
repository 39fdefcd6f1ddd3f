//! Telling: the pod's status to the API server, and what the node's HTTP server shows of it.

use chrono::Utc;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{Worker, is_ready};
use crate::objects::{Pod, PodCondition};
use crate::pods::shared::{ContainerView, PodView};
use crate::pods::state::{Run, StopCause};
use crate::pods::status::{self, Context};
use crate::pods::timeline::CONDITION;

impl Worker {
    pub(super) fn publish(&mut self) {
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
}

/// What was reported last, in the form in which it is reported.
pub(super) fn own_report(pod: &Pod) -> Value {
    const OWN: &[&str] =
        &["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled", CONDITION];
    let mut status = pod.status.clone();
    status.conditions.retain(|condition| OWN.contains(&condition.kind.as_str()));
    status.conditions.sort_by_key(|condition| OWN.iter().position(|own| *own == condition.kind));
    serde_json::to_value(status).unwrap_or_else(|_| json!({}))
}
