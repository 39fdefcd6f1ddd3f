//! What a ReplicaSet needs: pure.
use std::{
    cmp::{Ordering, Reverse},
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use chrono::{DateTime, Utc};
use client::informer::Store;

use super::until_available;
use crate::objects::{Pod, ReplicaSet, ReplicaSetStatus};

/// Pods with a lower value go first when there are too many.
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// What to do, and what the status is before it is done.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// Pods without an owner that the selector selects.
    pub adopt: Vec<Arc<Pod>>,
    /// Own pods that the selector no longer selects.
    pub release: Vec<Arc<Pod>>,
    /// How many pods to create.
    pub create: usize,
    /// Pods to delete, the most dispensable first.
    pub delete: Vec<Arc<Pod>>,
    /// Counts of the pods as they are.
    pub status: ReplicaSetStatus,
    /// When a pod's time alone changes the status.
    pub look_again: Option<Duration>,
}

/// Decides for a set. `pods` are its own and those of its namespace without owner; `deleted` are uids of pods whose
/// deletion the cache does not show yet; `all` tells how many pods of the set's Deployment share a node.
pub fn plan(
    set: &ReplicaSet,
    pods: &[Arc<Pod>],
    deleted: &HashSet<Box<str>>,
    all: &Store<Pod>,
    now: DateTime<Utc>,
) -> Plan {
    let mut plan = Plan::default();
    let mut claimed: Vec<&Arc<Pod>> = Vec::new();
    let deleting = set.metadata.is_deleting();
    for pod in pods {
        let ours = pod.metadata.controller().is_some_and(|owner| owner.uid == set.metadata.uid);
        let selected = set.spec.selector.selects(&pod.metadata);
        match (ours, selected) {
            (true, true) => claimed.push(pod),
            (true, false) if !deleting => plan.release.push(pod.clone()),
            (false, true) if !deleting && pod.is_active() && pod.metadata.controller().is_none() => {
                plan.adopt.push(pod.clone());
                claimed.push(pod);
            }
            _ => {}
        }
    }
    claimed.retain(|pod| pod.is_active() && !deleted.contains(&pod.metadata.uid));
    plan.status = counts(set, &claimed, now);
    plan.look_again = until_available(&claimed, set.spec.min_ready_seconds, now);
    if deleting {
        return plan;
    }
    let wanted = usize::try_from(set.replicas()).unwrap_or(0);
    if claimed.len() < wanted {
        plan.create = wanted - claimed.len();
    } else if claimed.len() > wanted {
        let crowds = crowds(set, all);
        let surplus = claimed.len() - wanted;
        claimed.sort_by(|a, b| dispensable(a, b, &crowds));
        plan.delete = claimed.into_iter().take(surplus).cloned().collect();
    }
    plan
}

fn counts(set: &ReplicaSet, pods: &[&Arc<Pod>], now: DateTime<Utc>) -> ReplicaSetStatus {
    let template_labels = set.spec.template["metadata"]["labels"].as_object();
    let labeled = |pod: &Pod| {
        let mut labels = template_labels.into_iter().flatten();
        labels.all(|(key, value)| pod.metadata.labels.get(key) == value.as_str())
    };
    let available = |pod: &Pod| {
        pod.ready_since().is_some_and(|since| (now - since).num_seconds() >= set.spec.min_ready_seconds)
            || (pod.is_ready() && set.spec.min_ready_seconds == 0)
    };
    let count = |what: &dyn Fn(&Pod) -> bool| pods.iter().filter(|pod| what(pod)).count() as i64;
    ReplicaSetStatus {
        replicas: pods.len() as i64,
        fully_labeled_replicas: count(&labeled),
        ready_replicas: count(&Pod::is_ready),
        available_replicas: count(&available),
        ..ReplicaSetStatus::default()
    }
}

/// Active pods by node, of all sets that the owner of this one owns: removing from the fullest node keeps the spread.
fn crowds(set: &ReplicaSet, all: &Store<Pod>) -> HashMap<Box<str>, usize> {
    let mut crowds = HashMap::new();
    let related = all.in_namespace(&set.metadata.namespace);
    let labels = related.iter().filter(|pod| pod.is_active() && !pod.spec.node_name.is_empty());
    let hashless: Vec<_> =
        set.spec.selector.parsed.requirements.iter().filter(|one| one.key != "pod-template-hash").collect();
    for pod in labels.filter(|pod| hashless.iter().all(|one| one.matches(pod.metadata.labels.get(&one.key))))
    {
        *crowds.entry(pod.spec.node_name.clone()).or_default() += 1;
    }
    crowds
}

/// Orders pods so that the most dispensable is first: not placed, not running, not ready, cheap, on a crowded node, ready
/// for the shortest time, restarted most often, youngest.
fn dispensable(a: &Pod, b: &Pod, crowds: &HashMap<Box<str>, usize>) -> Ordering {
    let placed = |pod: &Pod| !pod.spec.node_name.is_empty();
    let phase = |pod: &Pod| match &*pod.status.phase {
        "Pending" => 0,
        "Running" => 2,
        _ => 1,
    };
    let cost =
        |pod: &Pod| pod.metadata.annotations.get(DELETION_COST).and_then(|cost| cost.parse::<i32>().ok());
    let crowd = |pod: &Pod| Reverse(crowds.get(&pod.spec.node_name).copied().unwrap_or_default());
    let by = |pod: &Pod| (placed(pod), phase(pod), pod.is_ready(), cost(pod).unwrap_or_default(), crowd(pod));
    let young = |pod: &Pod| {
        (Reverse(pod.ready_since()), Reverse(pod.restarts()), Reverse(pod.metadata.creation_timestamp))
    };
    by(a)
        .cmp(&by(b))
        .then_with(|| young(a).cmp(&young(b)))
        .then_with(|| a.metadata.name.cmp(&b.metadata.name))
}

#[cfg(test)]
mod tests;
