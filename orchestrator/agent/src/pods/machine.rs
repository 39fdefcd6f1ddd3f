//! Decides what to do next for a pod, from its object and its state: pure and level-triggered. The worker carries the
//! actions out, marks them as begun in the state, and asks again after every event.

use tokio::time::Instant;

use super::state::{ContainerState, ImageState, Instance, PodState, Role, Run, Step, StopCause};
use crate::objects::{Pod, RestartPolicy};
use crate::runtime::Exit;

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Make the pod's volumes.
    PrepareVolumes,
    /// Make the pod in the runtime.
    CreateInstance,
    /// End the pod in the runtime.
    StopInstance {
        /// Its id.
        id: String,
    },
    /// See to it that a container's image is here.
    FetchImage {
        /// Which container.
        index: usize,
    },
    /// Make and start a run of a container.
    Start {
        /// Which container.
        index: usize,
    },
    /// End a container's run.
    Stop {
        /// Which container.
        index: usize,
        /// Its run.
        id: String,
    },
    /// Everything has ended: clean up and let the object go.
    Finish,
}

/// What to do now and when to look again.
#[derive(Debug, Default)]
pub struct Plan {
    /// To begin now, all at once.
    pub actions: Vec<Action>,
    /// When time alone changes the answer.
    pub wake: Option<Instant>,
}

/// What the containers still have to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Outlook {
    /// The pod has done its work or failed: nothing runs again.
    Over,
    /// These are to run as soon as nothing holds them back.
    Run(Vec<usize>),
}

/// What to do next.
pub fn decide(pod: &Pod, state: &PodState, now: Instant) -> Plan {
    let mut plan = Plan::default();
    if state.finished {
        return plan;
    }
    if let Some(order) = &state.stop {
        let ended = wind_down(state, &mut plan);
        if ended && !matches!(order.cause, StopCause::Failed { .. }) {
            plan.actions.push(Action::Finish);
        }
        return plan;
    }
    match outlook(pod, state) {
        Outlook::Over => drop(wind_down(state, &mut plan)),
        Outlook::Run(starts) => run(state, &starts, now, &mut plan),
    }
    plan
}

/// Whether an exited container runs again.
pub fn restarts(policy: RestartPolicy, exit: &Exit) -> bool {
    match policy {
        RestartPolicy::Always => true,
        RestartPolicy::OnFailure => exit.code != 0,
        RestartPolicy::Never => false,
    }
}

/// What the containers still have to do. Init containers go one after the other, then all apps together.
pub fn outlook(pod: &Pod, state: &PodState) -> Outlook {
    let policy = pod.spec.restart_policy;
    let done_for_good =
        |container: &ContainerState| container.ended().is_some_and(|exit| !restarts(policy, exit));
    let apps_over =
        state.containers.iter().filter(|container| container.role == Role::App).all(done_for_good);
    if apps_over {
        return Outlook::Over;
    }
    let mut starts = Vec::new();
    for (index, container) in state.containers.iter().enumerate() {
        let passed = match (container.role, &container.run) {
            (Role::App, Run::Waiting) => {
                starts.push(index);
                true
            }
            (Role::App, Run::Exited(ended)) => {
                if restarts(policy, &ended.exit) {
                    starts.push(index);
                }
                true
            }
            (Role::App, _) => true,
            (Role::Init, Run::Exited(ended)) if ended.exit.code == 0 && !container.rerun => true,
            (Role::Init, Run::Exited(ended)) if ended.exit.code != 0 && policy == RestartPolicy::Never => {
                return Outlook::Over;
            }
            (Role::Sidecar, Run::Running { .. }) => container.started,
            (Role::Init | Role::Sidecar, Run::Starting | Run::Running { .. }) => false,
            (Role::Sidecar, Run::Exited(_)) => {
                starts.push(index);
                !container.rerun
            }
            (Role::Init | Role::Sidecar, Run::Waiting | Run::Exited(_)) => {
                starts.push(index);
                false
            }
        };
        if !passed {
            break;
        }
    }
    Outlook::Run(starts)
}

/// Stops what runs: first apps, then sidecars from the last to the first, then the instance. True once all has ended.
fn wind_down(state: &PodState, plan: &mut Plan) -> bool {
    let mut stop = |index: usize, container: &ContainerState| {
        if let Run::Running { id, stopping: false, .. } = &container.run {
            plan.actions.push(Action::Stop { index, id: id.clone() });
        }
    };
    let active = |container: &&(usize, &ContainerState)| container.1.is_active();
    let all: Vec<(usize, &ContainerState)> = state.containers.iter().enumerate().collect();
    let (sidecars, others): (Vec<_>, Vec<_>) =
        all.into_iter().partition(|(_, container)| container.role == Role::Sidecar);
    if others.iter().any(|one| active(&one)) {
        others.iter().for_each(|(index, container)| stop(*index, container));
        return false;
    }
    if let Some((index, container)) = sidecars.iter().rev().find(active) {
        stop(*index, container);
        return false;
    }
    match &state.instance {
        Instance::Ready(instance) => plan.actions.push(Action::StopInstance { id: instance.id.clone() }),
        Instance::Dead { id } => plan.actions.push(Action::StopInstance { id: id.clone() }),
        Instance::Creating | Instance::Stopping { .. } => {}
        // Volumes in the making end by themselves; removing them under the maker's hands would leave pieces.
        Instance::None | Instance::Stopped { .. } => return !matches!(state.volumes, Step::Busy),
    }
    false
}

/// Everything that does not depend on each other begins at once: volumes, the instance, and images.
fn run(state: &PodState, starts: &[usize], now: Instant, plan: &mut Plan) {
    let mut wait = |until: Option<Instant>| plan.wake = sooner(plan.wake, until);
    let mut actions = Vec::new();
    match &state.volumes {
        Step::Failed if state.volumes_backoff.holds(now) => wait(state.volumes_backoff.until),
        Step::Needed | Step::Failed => actions.push(Action::PrepareVolumes),
        Step::Busy | Step::Ready => {}
    }
    match &state.instance {
        Instance::Dead { id } => actions.push(Action::StopInstance { id: id.clone() }),
        Instance::None | Instance::Stopped { .. } if state.instance_backoff.holds(now) => {
            wait(state.instance_backoff.until);
        }
        Instance::None | Instance::Stopped { .. } => actions.push(Action::CreateInstance),
        Instance::Creating | Instance::Ready(_) | Instance::Stopping { .. } => {}
    }
    let can_start = state.live_instance().is_some() && matches!(state.volumes, Step::Ready);
    for &index in starts {
        let container = &state.containers[index];
        if container.backoff.holds(now) {
            wait(container.backoff.until);
            continue;
        }
        if let Some(problem) = container.problem.as_ref().filter(|problem| problem.backoff.holds(now)) {
            wait(problem.backoff.until);
            wait(Some(problem.fresh_until).filter(|until| *until > now));
            continue;
        }
        match container.image {
            ImageState::Unknown | ImageState::Failed => actions.push(Action::FetchImage { index }),
            ImageState::Present(_) if can_start => actions.push(Action::Start { index }),
            ImageState::Present(_) | ImageState::Busy => {}
        }
    }
    plan.actions = actions;
}

/// The earlier of two moments, where there are any.
pub fn sooner(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

/// Marks an action as begun, so that it is not decided again while it goes on.
pub fn begin(state: &mut PodState, action: &Action) {
    match action {
        Action::PrepareVolumes => state.volumes = Step::Busy,
        Action::CreateInstance => {
            state.replace_instance();
            state.instance = Instance::Creating;
        }
        Action::StopInstance { id } => state.instance = Instance::Stopping { id: id.clone() },
        Action::FetchImage { index } => state.containers[*index].image = ImageState::Busy,
        Action::Start { index } => state.containers[*index].begin_start(),
        Action::Stop { index, .. } => {
            if let Run::Running { stopping, .. } = &mut state.containers[*index].run {
                *stopping = true;
            }
        }
        Action::Finish => state.finished = true,
    }
}

#[cfg(test)]
mod tests;
