//! What the node reports about a pod, computed from its object and state. Pure; the wording is Kubernetes', because
//! clients match on it.

use chrono::{DateTime, Utc};
use tokio::time::Instant;

use super::machine::{self, Outlook};
use super::state::{ContainerState, Instance, PodState, Role, Run, StopCause};
use crate::objects::{
    ContainerStateReport, ContainerStatus, Pod, PodCondition, PodIp, PodStatus, RestartPolicy, RunningReport,
    TerminatedReport, WaitingReport,
};
use crate::resources;
use crate::runtime::Exit;

/// Prefix of container ids in the API.
const RUNTIME_PREFIX: &str = "containerd://";

/// What a report depends on besides the pod.
pub struct Context<'a> {
    /// The node's addresses, first one first.
    pub host_ips: &'a [std::net::IpAddr],
    /// Conditions as last reported: their times stay while their status does.
    pub previous: &'a [PodCondition],
    /// Wall clock.
    pub time: DateTime<Utc>,
    /// Monotonic clock, for waits.
    pub now: Instant,
}

/// The pod's status.
pub fn report(pod: &Pod, state: &PodState, context: &Context<'_>) -> PodStatus {
    let statuses = |app: bool| -> Vec<ContainerStatus> {
        let chosen = state.containers.iter().filter(|container| (container.role == Role::App) == app);
        chosen.map(|container| container_status(pod, state, container, context.now)).collect()
    };
    let (init_container_statuses, container_statuses) = (statuses(false), statuses(true));
    let (phase, reason, message) = phase(pod, state);
    let ips: Vec<PodIp> =
        own_ips(pod, state, context).iter().map(|ip| PodIp { ip: ip.to_string() }).collect();
    let host_ips: Vec<PodIp> = context.host_ips.iter().map(|ip| PodIp { ip: ip.to_string() }).collect();
    PodStatus {
        phase: phase.to_owned(),
        conditions: conditions(pod, state, phase, &container_statuses, context),
        message,
        reason,
        host_ip: host_ips.first().map(|ip| ip.ip.clone()),
        host_ips,
        pod_ip: ips.first().map(|ip| ip.ip.clone()),
        pod_ips: ips,
        start_time: Some(state.start_time),
        init_container_statuses,
        container_statuses,
        qos_class: resources::qos_class(pod).name().to_owned(),
    }
}

/// With the node's network the pod's addresses are the node's.
fn own_ips<'a>(pod: &Pod, state: &'a PodState, context: &Context<'a>) -> &'a [std::net::IpAddr] {
    let lives = !matches!(state.instance, Instance::None | Instance::Creating) || !state.ips.is_empty();
    match (pod.spec.host_network, lives) {
        (true, true) => context.host_ips,
        _ => &state.ips,
    }
}

/// Phase, reason and message.
fn phase(pod: &Pod, state: &PodState) -> (&'static str, Option<String>, Option<String>) {
    if let Some(StopCause::Failed { reason, message }) = state.stop.as_ref().map(|order| &order.cause) {
        return ("Failed", Some((*reason).to_owned()), Some(message.clone()));
    }
    let apps: Vec<&ContainerState> =
        state.containers.iter().filter(|container| container.role == Role::App).collect();
    let init_failed = state.containers.iter().any(|container| {
        container.role == Role::Init
            && pod.spec.restart_policy == RestartPolicy::Never
            && container.ended().is_some_and(|exit| exit.code != 0)
    });
    if init_failed {
        return ("Failed", None, None);
    }
    let begun =
        |container: &&ContainerState| !matches!(container.run, Run::Waiting) && !is_first_start(container);
    if !apps.iter().all(begun) {
        return ("Pending", None, None);
    }
    let over = state.stop.is_some() || machine::outlook(pod, state) == Outlook::Over;
    if !over || apps.iter().any(|container| container.is_active()) {
        return ("Running", None, None);
    }
    let well = apps.iter().all(|container| container.ended().is_some_and(|exit| exit.code == 0));
    (if well { "Succeeded" } else { "Failed" }, None, None)
}

fn is_first_start(container: &ContainerState) -> bool {
    matches!(container.run, Run::Starting) && container.last.is_none()
}

// === containers ===

fn container_status(
    pod: &Pod,
    state: &PodState,
    container: &ContainerState,
    now: Instant,
) -> ContainerStatus {
    let spec = pod.all_containers().find(|spec| spec.name == container.name);
    let present = present(pod, state, container, now);
    let last = match (&container.run, &present.waiting) {
        // While it waits for its next run, the newest run is the last one.
        (Run::Exited(ended), Some(_)) => Some(ended),
        _ => container.last.as_ref(),
    };
    let id = match &container.run {
        Run::Running { id, .. } => Some(id.clone()),
        Run::Exited(ended) => Some(ended.id.clone()),
        Run::Starting | Run::Waiting => container.last.as_ref().map(|ended| ended.id.clone()),
    };
    ContainerStatus {
        name: container.name.clone(),
        started: Some(container.started && present.running.is_some()),
        ready: is_ready(container),
        restart_count: container.attempt.saturating_sub(1),
        image: spec.map(|spec| spec.image.clone()).unwrap_or_default(),
        image_id: container.image_id.clone(),
        container_id: id.filter(|id| !id.is_empty()).map(|id| format!("{RUNTIME_PREFIX}{id}")),
        last_state: ContainerStateReport {
            terminated: last.map(|ended| terminated(&ended.id, &ended.exit)),
            ..ContainerStateReport::default()
        },
        state: present,
    }
}

/// An init container is ready once it is done; all others while they run and their probe says so.
fn is_ready(container: &ContainerState) -> bool {
    match (&container.run, container.role) {
        (Run::Exited(ended), Role::Init) => ended.exit.code == 0,
        (Run::Running { .. }, Role::App | Role::Sidecar) => container.started && container.ready,
        _ => false,
    }
}

fn present(pod: &Pod, state: &PodState, container: &ContainerState, now: Instant) -> ContainerStateReport {
    match &container.run {
        Run::Running { started_at, .. } => ContainerStateReport {
            running: Some(RunningReport { started_at: Some(*started_at) }),
            ..ContainerStateReport::default()
        },
        Run::Exited(ended) => match waits_to_run_again(pod, state, container, now) {
            Some(waiting) => waiting_state(waiting),
            None => ended_state(&ended.id, &ended.exit),
        },
        // A run that is being made shows the one before, as long as there is one.
        Run::Starting => match &container.last {
            Some(ended) => ended_state(&ended.id, &ended.exit),
            None => waiting_state(first_wait(pod)),
        },
        Run::Waiting => waiting_state(match &container.problem {
            Some(problem) => problem_wait(problem, now),
            None => first_wait(pod),
        }),
    }
}

fn waits_to_run_again(
    pod: &Pod,
    state: &PodState,
    container: &ContainerState,
    now: Instant,
) -> Option<WaitingReport> {
    if state.stop.is_some() {
        return None;
    }
    if let Some(problem) = &container.problem {
        return Some(problem_wait(problem, now));
    }
    let again = match machine::outlook(pod, state) {
        Outlook::Run(starts) => starts.iter().any(|index| std::ptr::eq(&state.containers[*index], container)),
        Outlook::Over => false,
    };
    (again && container.backoff.holds(now) && !container.backoff.current.is_zero()).then(|| WaitingReport {
        reason: "CrashLoopBackOff".to_owned(),
        message: Some(format!(
            "back-off {} restarting failed container={} pod={}_{}({})",
            short_duration(container.backoff.current),
            container.name,
            pod.metadata.name,
            pod.metadata.namespace,
            pod.metadata.uid
        )),
    })
}

fn problem_wait(problem: &super::state::Problem, now: Instant) -> WaitingReport {
    let reason = if problem.fresh_until > now { problem.reason } else { problem.waiting_reason };
    WaitingReport { reason: reason.to_owned(), message: Some(problem.message.clone()) }
}

/// Upstream says PodInitializing for everything in a pod that has init containers.
fn first_wait(pod: &Pod) -> WaitingReport {
    let reason = if pod.spec.init_containers.is_empty() { "ContainerCreating" } else { "PodInitializing" };
    WaitingReport { reason: reason.to_owned(), message: None }
}

fn waiting_state(waiting: WaitingReport) -> ContainerStateReport {
    ContainerStateReport { waiting: Some(waiting), ..ContainerStateReport::default() }
}

fn ended_state(id: &str, exit: &Exit) -> ContainerStateReport {
    ContainerStateReport { terminated: Some(terminated(id, exit)), ..ContainerStateReport::default() }
}

fn terminated(id: &str, exit: &Exit) -> TerminatedReport {
    TerminatedReport {
        exit_code: exit.code,
        reason: exit.reason.clone(),
        message: Some(exit.message.clone()).filter(|message| !message.is_empty()),
        started_at: exit.started_at,
        finished_at: exit.finished_at,
        container_id: Some(format!("{RUNTIME_PREFIX}{id}")).filter(|_| !id.is_empty()),
    }
}

/// As Go prints durations: `10s`, `1m20s`, `5m0s`.
pub(super) fn short_duration(duration: std::time::Duration) -> String {
    let seconds = duration.as_secs();
    if seconds < 60 { format!("{seconds}s") } else { format!("{}m{}s", seconds / 60, seconds % 60) }
}

// === conditions ===

fn conditions(
    pod: &Pod,
    state: &PodState,
    phase: &str,
    statuses: &[ContainerStatus],
    context: &Context<'_>,
) -> Vec<PodCondition> {
    let sandbox = condition("PodReadyToStartContainers", state.live_instance().is_some(), None);
    let initialized = initialized(state, phase);
    let containers_ready = containers_ready(state, phase, statuses);
    let ready = ready(pod, &containers_ready);
    let scheduled = condition("PodScheduled", true, None);
    [sandbox, initialized, ready, containers_ready, scheduled]
        .into_iter()
        .map(|condition| with_time(condition, context))
        .collect()
}

fn condition(kind: &str, holds: bool, why: Option<(&str, String)>) -> PodCondition {
    let (reason, message) = why.unzip();
    PodCondition {
        kind: kind.to_owned(),
        status: if holds { "True" } else { "False" }.to_owned(),
        reason: reason.map(str::to_owned),
        message: message.filter(|message| !message.is_empty()),
        last_transition_time: None,
    }
}

fn initialized(state: &PodState, phase: &str) -> PodCondition {
    if phase == "Succeeded" {
        return condition("Initialized", true, Some(("PodCompleted", String::new())));
    }
    let pending: Vec<&str> = state
        .containers
        .iter()
        .filter(|container| match (container.role, &container.run) {
            (Role::Init, Run::Exited(ended)) => ended.exit.code != 0,
            (Role::Init, _) => true,
            (Role::Sidecar, Run::Waiting | Run::Starting) => true,
            (Role::Sidecar, Run::Running { .. }) => !container.started,
            _ => false,
        })
        .map(|container| container.name.as_str())
        .collect();
    if pending.is_empty() {
        return condition("Initialized", true, None);
    }
    let message = format!("containers with incomplete status: [{}]", pending.join(" "));
    condition("Initialized", false, Some(("ContainersNotInitialized", message)))
}

fn containers_ready(state: &PodState, phase: &str, statuses: &[ContainerStatus]) -> PodCondition {
    let kind = "ContainersReady";
    match phase {
        "Succeeded" => return condition(kind, false, Some(("PodCompleted", String::new()))),
        "Failed" => return condition(kind, false, Some(("PodFailed", String::new()))),
        _ => {}
    }
    let sidecars = state.containers.iter().filter(|container| container.role == Role::Sidecar);
    let unready: Vec<&str> = sidecars
        .filter(|container| !is_ready(container))
        .map(|container| container.name.as_str())
        .chain(statuses.iter().filter(|status| !status.ready).map(|status| status.name.as_str()))
        .collect();
    if unready.is_empty() {
        return condition(kind, true, None);
    }
    let message = format!("containers with unready status: [{}]", unready.join(" "));
    condition(kind, false, Some(("ContainersNotReady", message)))
}

fn ready(pod: &Pod, containers_ready: &PodCondition) -> PodCondition {
    if containers_ready.status != "True" {
        return PodCondition { kind: "Ready".to_owned(), ..containers_ready.clone() };
    }
    let missing: Vec<String> = pod
        .spec
        .readiness_gates
        .iter()
        .filter_map(|gate| {
            let found = pod.status.conditions.iter().find(|condition| condition.kind == gate.condition_type);
            match found.map(|condition| condition.status.as_str()) {
                Some("True") => None,
                Some(other) => Some(format!(
                    "the status of pod readiness gate {:?} is not \"True\", but {other}",
                    gate.condition_type
                )),
                None => Some(format!(
                    "corresponding condition of pod readiness gate {:?} does not exist.",
                    gate.condition_type
                )),
            }
        })
        .collect();
    if missing.is_empty() {
        return condition("Ready", true, None);
    }
    condition("Ready", false, Some(("ReadinessGatesNotReady", missing.join(", "))))
}

fn with_time(mut condition: PodCondition, context: &Context<'_>) -> PodCondition {
    let before = context.previous.iter().find(|previous| previous.kind == condition.kind);
    condition.last_transition_time = match before {
        Some(previous) if previous.status == condition.status => previous.last_transition_time,
        _ => None,
    }
    .or(Some(context.time));
    condition
}

#[cfg(test)]
mod tests;
