//! One step of a Deployment: pure.
use std::{sync::Arc, time::Duration};

use chrono::{DateTime, Utc};

use super::{
    numbers::{Sized, bounds, is_recreate, new_size, old_sizes, proportional_sizes},
    status, template,
};
use crate::objects::{Deployment, DeploymentStatus, ReplicaSet};

/// Old sets kept for undoing, if the Deployment does not say.
const HISTORY_DEFAULT: usize = 10;

/// What to do now, and what to say.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// In this order.
    pub steps: Vec<Step>,
    /// The Deployment's status.
    pub status: DeploymentStatus,
    /// The Deployment's revision annotation.
    pub revision: Option<String>,
    /// When time alone changes the plan.
    pub look_again: Option<Duration>,
}

/// One write.
#[derive(Clone, Debug)]
pub enum Step {
    /// Make the set of the current template.
    Create {
        /// Its name.
        name: String,
        /// Hash of its template.
        hash: String,
        /// Its size.
        replicas: i64,
        /// Its annotations.
        annotations: Vec<(String, String)>,
    },
    /// Change a set.
    Write {
        /// Which one.
        set: Arc<ReplicaSet>,
        /// Its size, if that changes.
        replicas: Option<i64>,
        /// Annotations that change.
        annotations: Vec<(String, String)>,
    },
    /// Delete a set that history no longer keeps.
    Delete(Arc<ReplicaSet>),
}

/// Decides for a Deployment with these sets; `has_pods` tells whether a set has pods that have not ended.
pub fn plan(
    deployment: &Deployment,
    sets: &[Arc<ReplicaSet>],
    has_pods: &dyn Fn(&ReplicaSet) -> bool,
    now: DateTime<Utc>,
) -> Plan {
    let mut planner = Planner::new(deployment, sets, now);
    let created = if deployment.metadata.is_deleting() {
        None
    } else if deployment.spec.paused || planner.is_scaling() {
        planner.number_new();
        planner.scale();
        None
    } else {
        planner.roll(has_pods)
    };
    planner.finish(created)
}

struct Planner<'a> {
    deployment: &'a Deployment,
    now: DateTime<Utc>,
    new: Option<&'a Arc<ReplicaSet>>,
    old: Vec<&'a Arc<ReplicaSet>>,
    plan: Plan,
}

impl<'a> Planner<'a> {
    fn new(deployment: &'a Deployment, sets: &'a [Arc<ReplicaSet>], now: DateTime<Utc>) -> Self {
        let same = |set: &&Arc<ReplicaSet>| template::is_same(&deployment.spec.template, &set.spec.template);
        // Of several with one template the oldest counts, so that all who look agree.
        let new =
            sets.iter().filter(same).min_by_key(|set| (set.metadata.creation_timestamp, &set.metadata.name));
        let old =
            sets.iter().filter(|set| new.is_none_or(|new| new.metadata.uid != set.metadata.uid)).collect();
        Self { deployment, now, new, old, plan: Plan::default() }
    }

    fn all(&self) -> Vec<&'a ReplicaSet> {
        self.old.iter().copied().chain(self.new).map(|set| &**set).collect()
    }

    fn desired(&self) -> i64 {
        self.deployment.replicas()
    }

    fn max(&self) -> i64 {
        self.desired() + bounds(self.deployment).surge
    }

    // === sizes ===

    /// Whether the desired number has changed since the sets were last sized.
    fn is_scaling(&self) -> bool {
        let active = self.all().into_iter().filter(|set| set.replicas() > 0);
        let mut noted = active.filter_map(|set| template::number(set, template::DESIRED_REPLICAS));
        noted.any(|noted| noted != self.desired())
    }

    fn scale(&mut self) {
        let all = self.all();
        let active: Vec<_> = all.iter().copied().filter(|set| set.replicas() > 0).collect();
        let latest = || self.new.map(|set| &**set).or_else(|| newest(&all));
        let single = match active[..] {
            [] => latest(),
            [one] => Some(one),
            _ => None,
        };
        if let Some(one) = single {
            return self.size(one, self.desired());
        }
        if self.is_saturated() {
            let old: Vec<&ReplicaSet> = self.old.iter().map(|set| &***set).collect();
            old.into_iter().filter(|set| set.replicas() > 0).for_each(|set| self.size(set, 0));
        } else if is_recreate(self.deployment) {
            // Two versions at a time must not be; the rollout itself brings the new one to its size.
        } else {
            for Sized { set, replicas } in proportional_sizes(self.deployment, &active) {
                self.size(set, replicas);
            }
        }
    }

    fn is_saturated(&self) -> bool {
        self.new.is_some_and(|set| {
            let noted = template::number(set, template::DESIRED_REPLICAS) == Some(self.desired());
            noted && set.replicas() == self.desired() && set.status.available_replicas == self.desired()
        })
    }

    /// Has the set written if its size or its notes about sizes change.
    fn size(&mut self, set: &ReplicaSet, replicas: i64) {
        let annotations = template::size_annotations(Some(set), self.desired(), self.max());
        let replicas = Some(replicas).filter(|replicas| *replicas != set.replicas());
        if replicas.is_none() && annotations.is_empty() {
            return;
        }
        let same = |own: &&&Arc<ReplicaSet>| own.metadata.uid == set.metadata.uid;
        if let Some(set) = self.old.iter().chain(&self.new).find(same).map(|set| Arc::clone(set)) {
            self.write(set, replicas, annotations);
        }
    }

    /// A set is written once a step: its version would not fit a second time.
    fn write(&mut self, set: Arc<ReplicaSet>, replicas: Option<i64>, annotations: Vec<(String, String)>) {
        for step in &mut self.plan.steps {
            if let Step::Write { set: own, replicas: own_replicas, annotations: own_annotations } = step
                && own.metadata.uid == set.metadata.uid
            {
                *own_replicas = replicas.or(*own_replicas);
                own_annotations.extend(annotations);
                return;
            }
        }
        self.plan.steps.push(Step::Write { set, replicas, annotations });
    }

    // === rollout ===

    /// Returns the name of the set that is to be created, if one is.
    fn roll(&mut self, has_pods: &dyn Fn(&ReplicaSet) -> bool) -> Option<String> {
        if is_recreate(self.deployment) {
            let old: Vec<&ReplicaSet> = self.old.iter().map(|set| &***set).collect();
            let running = old.iter().any(|set| set.replicas() > 0 || has_pods(set));
            old.iter().filter(|set| set.replicas() > 0).for_each(|set| self.size(set, 0));
            if running {
                self.number_new();
                return None;
            }
        }
        let Some(new) = self.new else { return Some(self.create()) };
        self.number_new();
        let size = new_size(self.deployment, &self.all(), Some(new));
        if size != new.replicas() {
            self.size(new, size);
            return None;
        }
        self.size(new, size);
        let old: Vec<&ReplicaSet> =
            self.old.iter().map(|set| &***set).filter(|set| set.replicas() > 0).collect();
        for Sized { set, replicas } in old_sizes(self.deployment, new, &old) {
            if replicas != set.replicas() {
                self.size(set, replicas);
            }
        }
        None
    }

    fn create(&mut self) -> String {
        let revision = template::newest_revision(self.all()) + 1;
        let collisions = self.deployment.status.collision_count.unwrap_or_default();
        let hash = template::hash(&self.deployment.spec.template, collisions);
        let name = format!("{}-{hash}", self.deployment.metadata.name);
        let mut annotations = template::annotations(self.deployment, None, revision);
        annotations.extend(template::size_annotations(None, self.desired(), self.max()));
        let replicas = new_size(self.deployment, &self.all(), None);
        self.plan.steps.push(Step::Create { name: name.clone(), hash, replicas, annotations });
        self.plan.revision = Some(revision.to_string());
        name
    }

    /// The new set has the highest number and the Deployment's annotations.
    fn number_new(&mut self) {
        let Some(new) = self.new else { return };
        let newest = template::newest_revision(self.old.iter().map(|set| &***set));
        let own = template::number(new, template::REVISION).unwrap_or_default();
        let revision = own.max(newest + 1);
        let annotations = template::annotations(self.deployment, Some(new), revision);
        let min_ready = new.spec.min_ready_seconds != self.deployment.spec.min_ready_seconds;
        if !annotations.is_empty() || min_ready {
            self.write(new.clone(), None, annotations);
        }
        self.plan.revision = Some(revision.to_string());
    }

    // === what is said, and what is forgotten ===

    fn finish(mut self, created: Option<String>) -> Plan {
        let (all, new) = (self.all(), self.new.map(|set| &**set));
        let mut status = status::status(self.deployment, &all, new, self.now);
        if !self.deployment.metadata.is_deleting() {
            self.plan.look_again =
                status::progress(self.deployment, &mut status, new, created.as_deref(), self.now);
        }
        status::copy_failure(&mut status, new);
        if status::is_complete(self.deployment, &status) && !self.deployment.metadata.is_deleting() {
            self.forget();
        }
        self.plan.status = status;
        self.plan
    }

    /// Old sets beyond the history go, the oldest first, if nothing of them is left.
    fn forget(&mut self) {
        let keep = self.deployment.spec.revision_history_limit.unwrap_or(HISTORY_DEFAULT);
        let mut old: Vec<_> = self.old.iter().filter(|set| !set.metadata.is_deleting()).collect();
        old.sort_by_key(|set| (template::number(set, template::REVISION), set.metadata.creation_timestamp));
        let surplus = old.len().saturating_sub(keep);
        let empty = |set: &ReplicaSet| {
            let seen = set.status.observed_generation >= set.metadata.generation;
            set.replicas() == 0 && set.status.replicas == 0 && seen
        };
        let gone: Vec<_> =
            old.into_iter().take(surplus).filter(|set| empty(set)).map(|set| Arc::clone(set)).collect();
        self.plan.steps.extend(gone.into_iter().map(Step::Delete));
    }
}

fn newest<'a>(sets: &[&'a ReplicaSet]) -> Option<&'a ReplicaSet> {
    sets.iter()
        .copied()
        .max_by_key(|set| (template::number(set, template::REVISION), set.metadata.creation_timestamp))
}

#[cfg(test)]
mod tests;
