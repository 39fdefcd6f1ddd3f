//! Who waits for a node. A pod is in one of three places: *active*, to be tried now, by priority and then age; *backoff*,
//! to be tried at a time; *unschedulable*, to be tried when something changes that may help it.
//!
//! Pure: time is an argument.
use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use client::ObjectKey;
use tokio::time::Instant;

use crate::{
    cluster::{Cluster, Improved},
    decide::Unfit,
    filter::{Reason, filter},
    objects::Pod,
};

/// Wait after a first failed attempt; doubles up to [`BACKOFF_MAX`]. Kubernetes' figures.
const BACKOFF_FIRST: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// A pod that nothing has woken for so long is tried anyway, in case a change was not understood as helpful.
const UNSCHEDULABLE_MAX: Duration = Duration::from_secs(300);

/// The queue.
#[derive(Debug, Default)]
pub struct Queue {
    pods: HashMap<ObjectKey, Waiting>,
    /// Highest priority first, then the earliest.
    active: BTreeSet<(std::cmp::Reverse<i64>, u64, ObjectKey)>,
    /// By time, then key.
    timed: BTreeSet<(Instant, ObjectKey)>,
    arrivals: u64,
}

/// A pod that waits.
#[derive(Debug)]
struct Waiting {
    pod: Arc<Pod>,
    arrival: u64,
    attempts: u32,
    since: Instant,
    place: Where,
}

#[derive(Debug)]
enum Where {
    Active,
    /// Taken out by [`Queue::pop`]: being tried, or being bound.
    Trying,
    Backoff {
        until: Instant,
    },
    Unschedulable {
        reasons: BTreeSet<Reason>,
        backoff_until: Instant,
        flush_at: Instant,
    },
}

/// Numbers of waiting pods.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Depth {
    /// To be tried now.
    pub active: usize,
    /// Waiting for a time.
    pub backoff: usize,
    /// Waiting for a change.
    pub unschedulable: usize,
}

// === impl Queue ===

impl Queue {
    /// A pod without a node is new or has changed. A change of what it asks for is worth a try at once.
    pub fn set(&mut self, pod: Arc<Pod>, now: Instant) {
        let key = pod.metadata.key();
        let Some(waiting) = self.pods.get_mut(&key) else {
            self.arrivals += 1;
            let arrival = self.arrivals;
            let waiting = Waiting { pod, arrival, attempts: 0, since: now, place: Where::Trying };
            self.pods.insert(key.clone(), waiting);
            self.activate(&key);
            return;
        };
        let same = asks_the_same(&waiting.pod, &pod);
        let trying = matches!(waiting.place, Where::Trying);
        if same || trying {
            waiting.pod = pod;
            return;
        }
        self.leave(&key);
        if let Some(waiting) = self.pods.get_mut(&key) {
            waiting.pod = pod;
        }
        self.activate(&key);
    }

    /// A pod is gone, has its node, or is not ours.
    pub fn remove(&mut self, key: &ObjectKey) {
        self.leave(key);
        self.pods.remove(key);
    }

    /// The next pod to try.
    pub fn pop(&mut self) -> Option<Arc<Pod>> {
        let (_, _, key) = self.active.pop_first()?;
        let waiting = self.pods.get_mut(&key).expect("invariant: active keys are of waiting pods");
        waiting.place = Where::Trying;
        waiting.attempts += 1;
        Some(waiting.pod.clone())
    }

    /// No node could take the pod that was popped: it waits for a change.
    pub fn unschedulable(&mut self, key: &ObjectKey, unfit: &Unfit, now: Instant) {
        let Some(waiting) = self.pods.get_mut(key) else { return };
        let flush_at = now + UNSCHEDULABLE_MAX;
        waiting.place = Where::Unschedulable {
            reasons: unfit.reasons.keys().cloned().collect(),
            backoff_until: now + backoff(waiting.attempts),
            flush_at,
        };
        self.timed.insert((flush_at, key.clone()));
    }

    /// The pod that was popped could not be bound: it is tried again after a while.
    pub fn retry(&mut self, key: &ObjectKey, now: Instant) {
        let Some(waiting) = self.pods.get_mut(key) else { return };
        let until = now + backoff(waiting.attempts);
        waiting.place = Where::Backoff { until };
        self.timed.insert((until, key.clone()));
    }

    /// A node has got better: pods that now fit it are tried again, once their backoff is over.
    pub fn node_improved(&mut self, cluster: &Cluster, name: &str, improved: Improved, now: Instant) {
        let Some((node, info)) = cluster.node(name) else { return };
        let mut helped = Vec::new();
        for (key, waiting) in &mut self.pods {
            let Where::Unschedulable { reasons, backoff_until, .. } = &mut waiting.place else { continue };
            // Pods rejected while there was no node at all have no reasons.
            let hope =
                improved.new || reasons.is_empty() || reasons.iter().any(|reason| may_help(improved, reason));
            if !hope {
                continue;
            }
            match filter(&waiting.pod, node, info) {
                Ok(()) => helped.push((key.clone(), *backoff_until)),
                // What this node lacks now is worth waiting for, too.
                Err(more) => reasons.extend(more),
            }
        }
        for (key, until) in helped {
            self.leave(&key);
            self.wait_or_activate(&key, until, now);
        }
    }

    /// Moves what is due. Returns when the next is.
    pub fn tick(&mut self, now: Instant) -> Option<Instant> {
        while let Some((at, key)) = self.timed.first() {
            if *at > now {
                return Some(*at);
            }
            let key = key.clone();
            self.leave(&key);
            self.activate(&key);
        }
        None
    }

    /// How long the pod has waited, and for how many attempts.
    pub fn history(&self, key: &ObjectKey, now: Instant) -> Option<(Duration, u32)> {
        self.pods.get(key).map(|waiting| (now.duration_since(waiting.since), waiting.attempts))
    }

    /// Numbers of waiting pods.
    pub fn depth(&self) -> Depth {
        let mut depth = Depth { active: self.active.len(), ..Depth::default() };
        for waiting in self.pods.values() {
            match waiting.place {
                Where::Backoff { .. } => depth.backoff += 1,
                Where::Unschedulable { .. } => depth.unschedulable += 1,
                Where::Active | Where::Trying => {}
            }
        }
        depth
    }

    fn activate(&mut self, key: &ObjectKey) {
        let Some(waiting) = self.pods.get_mut(key) else { return };
        waiting.place = Where::Active;
        self.active.insert((std::cmp::Reverse(waiting.pod.priority), waiting.arrival, key.clone()));
    }

    fn wait_or_activate(&mut self, key: &ObjectKey, until: Instant, now: Instant) {
        if until <= now {
            return self.activate(key);
        }
        if let Some(waiting) = self.pods.get_mut(key) {
            waiting.place = Where::Backoff { until };
            self.timed.insert((until, key.clone()));
        }
    }

    /// Takes the pod out of whichever order it is in.
    fn leave(&mut self, key: &ObjectKey) {
        let Some(waiting) = self.pods.get(key) else { return };
        match &waiting.place {
            Where::Active => {
                self.active.remove(&(std::cmp::Reverse(waiting.pod.priority), waiting.arrival, key.clone()));
            }
            Where::Backoff { until } => _ = self.timed.remove(&(*until, key.clone())),
            Where::Unschedulable { flush_at, .. } => _ = self.timed.remove(&(*flush_at, key.clone())),
            Where::Trying => {}
        }
    }
}

fn backoff(attempts: u32) -> Duration {
    BACKOFF_FIRST.saturating_mul(1 << attempts.saturating_sub(1).min(10)).min(BACKOFF_MAX)
}

fn may_help(improved: Improved, reason: &Reason) -> bool {
    match reason {
        Reason::TooManyPods | Reason::Insufficient(_) | Reason::Ports => improved.room,
        Reason::Unschedulable | Reason::Taint { .. } => improved.taints,
        Reason::Affinity => improved.labels,
        Reason::Name => improved.new,
    }
}

/// Whether two states of a pod are the same to the scheduler: conditions that it writes itself wake nobody.
fn asks_the_same(old: &Pod, new: &Pod) -> bool {
    let plain = |pod: &Pod| Pod {
        metadata: client::Meta { uid: pod.metadata.uid.clone(), ..client::Meta::default() },
        unscheduled_message: "".into(),
        ..pod.clone()
    };
    plain(old) == plain(new)
}

#[cfg(test)]
mod tests;
