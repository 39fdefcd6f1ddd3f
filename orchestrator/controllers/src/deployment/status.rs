//! Status and conditions of a Deployment, in the words that `kubectl rollout status` reads.
use std::time::Duration;

use chrono::{DateTime, Utc};
use client::Error;

use super::numbers::bounds;
use crate::objects::{Condition, Deployment, DeploymentStatus, ReplicaSet, condition};

const PROGRESSING: &str = "Progressing";
const AVAILABLE: &str = "Available";
const REPLICA_FAILURE: &str = "ReplicaFailure";
/// The rollout is over.
pub(super) const NEW_SET_AVAILABLE: &str = "NewReplicaSetAvailable";
const DEADLINE_EXCEEDED: &str = "ProgressDeadlineExceeded";
const PAUSED: &str = "DeploymentPaused";
/// A deadline of this many seconds is none.
const NO_DEADLINE: i64 = i32::MAX as i64;

/// The status that the sets add up to.
pub(super) fn status(
    deployment: &Deployment,
    all: &[&ReplicaSet],
    new: Option<&ReplicaSet>,
    now: DateTime<Utc>,
) -> DeploymentStatus {
    let sum = |of: fn(&ReplicaSet) -> i64| all.iter().map(|set| of(set)).sum::<i64>();
    let available = sum(|set| set.status.available_replicas);
    let old = &deployment.status;
    let mut status = DeploymentStatus {
        observed_generation: deployment.metadata.generation,
        replicas: sum(|set| set.status.replicas),
        updated_replicas: new.map_or(0, |set| set.status.replicas),
        ready_replicas: sum(|set| set.status.ready_replicas),
        available_replicas: available,
        unavailable_replicas: (sum(ReplicaSet::replicas) - available).max(0),
        collision_count: old.collision_count,
        conditions: old.conditions.clone(),
    };
    let enough = available >= deployment.replicas() - bounds(deployment).unavailable;
    let (value, reason, message) = match enough {
        true => ("True", "MinimumReplicasAvailable", "Deployment has minimum availability."),
        false => ("False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability."),
    };
    set(&mut status, AVAILABLE, value, reason, message.into(), false, now);
    status
}

/// Whether the rollout is over: all pods are new and available.
pub(super) fn is_complete(deployment: &Deployment, status: &DeploymentStatus) -> bool {
    let desired = deployment.replicas();
    status.updated_replicas == desired && status.replicas == desired && status.available_replicas == desired
}

/// Brings the Progressing condition up to date. `created` says which set is about to be made. Returns when a deadline
/// has to be looked at.
pub(super) fn progress(
    deployment: &Deployment,
    status: &mut DeploymentStatus,
    new: Option<&ReplicaSet>,
    created: Option<&str>,
    now: DateTime<Utc>,
) -> Option<Duration> {
    let current = condition(&status.conditions, PROGRESSING).cloned();
    let reason = current.as_ref().map(|current| &*current.reason);
    if deployment.spec.paused {
        if reason.is_some_and(|reason| reason != PAUSED) || current.is_none() {
            set(status, PROGRESSING, "Unknown", PAUSED, "Deployment is paused".into(), true, now);
        }
        return None;
    }
    if reason == Some(PAUSED) {
        set(status, PROGRESSING, "Unknown", "DeploymentResumed", "Deployment is resumed".into(), true, now);
    }
    if let Some(name) = created {
        let message = format!("Created new replica set \"{name}\"");
        set(status, PROGRESSING, "True", "NewReplicaSetCreated", message, true, now);
        return deadline(deployment, status, now);
    }
    let name = new.map_or_else(
        || format!("Deployment \"{}\"", deployment.metadata.name),
        |set| format!("ReplicaSet \"{}\"", set.metadata.name),
    );
    if current.is_none()
        && let Some(new) = new
    {
        let message = format!("Found new replica set \"{}\"", new.metadata.name);
        set(status, PROGRESSING, "True", "FoundNewReplicaSet", message, true, now);
    }
    let settled = status.replicas == status.updated_replicas && reason == Some(NEW_SET_AVAILABLE);
    if settled {
        // A pod that fails later is no failed rollout.
        return None;
    }
    if is_complete(deployment, status) {
        let message = format!("{name} has successfully progressed.");
        set(status, PROGRESSING, "True", NEW_SET_AVAILABLE, message, true, now);
        return None;
    }
    if has_progressed(&deployment.status, status) {
        set(status, PROGRESSING, "True", "ReplicaSetUpdated", format!("{name} is progressing."), true, now);
    } else if has_timed_out(deployment, status, now) {
        let message = format!("{name} has timed out progressing.");
        set(status, PROGRESSING, "False", DEADLINE_EXCEEDED, message, false, now);
        return None;
    }
    deadline(deployment, status, now)
}

/// The failure of the new set is the Deployment's.
pub(super) fn copy_failure(status: &mut DeploymentStatus, new: Option<&ReplicaSet>) {
    status.conditions.retain(|own| &*own.r#type != REPLICA_FAILURE);
    let failure = new.and_then(|set| condition(&set.status.conditions, REPLICA_FAILURE));
    status.conditions.extend(failure.cloned());
}

/// The new set could not be made.
pub(super) fn creation_failed(status: &mut DeploymentStatus, name: &str, error: &Error, now: DateTime<Utc>) {
    let message = format!("Failed to create new replica set \"{name}\": {error}");
    set(status, PROGRESSING, "False", "ReplicaSetCreateError", message, true, now);
}

fn has_progressed(old: &DeploymentStatus, new: &DeploymentStatus) -> bool {
    let outdated = |status: &DeploymentStatus| status.replicas - status.updated_replicas;
    new.updated_replicas > old.updated_replicas
        || outdated(new) < outdated(old)
        || new.ready_replicas > old.ready_replicas
        || new.available_replicas > old.available_replicas
}

fn limit(deployment: &Deployment) -> Option<i64> {
    deployment.spec.progress_deadline_seconds.filter(|seconds| *seconds < NO_DEADLINE)
}

fn has_timed_out(deployment: &Deployment, status: &DeploymentStatus, now: DateTime<Utc>) -> bool {
    let Some(current) = condition(&status.conditions, PROGRESSING) else { return false };
    if &*current.reason == DEADLINE_EXCEEDED {
        return true;
    }
    let since = current.last_update_time.or(current.last_transition_time);
    since.zip(limit(deployment)).is_some_and(|(since, limit)| (now - since).num_seconds() >= limit)
}

fn deadline(deployment: &Deployment, status: &DeploymentStatus, now: DateTime<Utc>) -> Option<Duration> {
    let current =
        condition(&status.conditions, PROGRESSING).filter(|current| &*current.reason != DEADLINE_EXCEEDED)?;
    let since = current.last_update_time.or(current.last_transition_time)?;
    // One more second, because times are written in whole ones.
    let left = limit(deployment)? - (now - since).num_seconds() + 1;
    Some(Duration::from_secs(u64::try_from(left).unwrap_or(1).max(1)))
}

/// Writes a condition; the transition time changes with its value only. With `touch`, saying the same again counts as an
/// update, which is how progress is dated.
fn set(
    status: &mut DeploymentStatus,
    r#type: &str,
    value: &str,
    reason: &str,
    message: String,
    touch: bool,
    now: DateTime<Utc>,
) {
    let now = DateTime::from_timestamp(now.timestamp(), 0).unwrap_or(now);
    let old = condition(&status.conditions, r#type);
    if let Some(old) = old
        && !touch
        && *old.status == *value
        && *old.reason == *reason
    {
        return;
    }
    let transition = old.filter(|old| *old.status == *value).and_then(|old| old.last_transition_time);
    let condition = Condition {
        r#type: r#type.into(),
        status: value.into(),
        reason: reason.into(),
        message: message.into(),
        last_transition_time: Some(transition.unwrap_or(now)),
        last_update_time: Some(now),
    };
    match status.conditions.iter_mut().find(|own| *own.r#type == *r#type) {
        Some(own) => *own = condition,
        None => status.conditions.push(condition),
    }
}
