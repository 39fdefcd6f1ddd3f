//! The thread that makes the kernel hold what the caches say.

use std::{
    error::Error,
    sync::Arc,
    time::{Duration, Instant},
};

use client::backoff::Backoff;
use netplan::{GRACE, Ids, Snapshot};
use parking_lot::MutexGuard;
use prometheus::{Histogram, IntCounter};
use telemetry::Registry;

use super::{
    kernel::Kernel,
    names::NameBook,
    state::{Inner, State},
};

/// After a failed write to the kernel: long enough not to spin, short enough that a passing failure is not felt.
const RETRY_FIRST: Duration = Duration::from_millis(50);
/// A failure that stays (no memory, a map that somebody took away) is tried again this often.
const RETRY_MAX: Duration = Duration::from_secs(2);
/// Between rounds the compiler rests as long as the round took, so that an unsettled cluster costs half a CPU at most; but no
/// change waits longer than this, a hundredth of what a person notices in a rollout.
const REST_MAX: Duration = Duration::from_millis(100);
/// From a handful of pods to a cluster of many thousands.
const COMPILE_SECONDS: &[f64] = &[0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5];

/// What the compiler counts.
#[derive(Clone, Debug)]
pub(super) struct Metrics {
    compile: Histogram,
    failures: IntCounter,
}

/// What the thread does next.
enum Work {
    Compile(Box<Round>),
    /// The kernel holds this revision already.
    Acknowledge(u64),
}

/// What is taken for one compilation.
struct Round {
    snapshot: Snapshot,
    /// When the oldest change in it was seen.
    seen: Instant,
}

/// When the next round may or must be.
#[derive(Debug)]
struct Schedule {
    /// Not before this, unless somebody waits.
    rested: Instant,
    /// The last round failed: nothing is in the kernel that the caches say, and the next try is then.
    retry: Option<Instant>,
    /// What is on its way out can go then.
    tidy: Option<Instant>,
    backoff: Backoff,
}

/// Runs until the network stops.
pub(super) fn run(state: &State, kernel: &dyn Kernel, metrics: &Metrics) {
    let mut ids = kernel.ids();
    let epoch = Instant::now();
    let mut schedule = Schedule::new(epoch);
    while let Some(work) = state.next_work(kernel, &schedule) {
        match work {
            Work::Compile(round) => {
                let began = Instant::now();
                ids.set_now(began - epoch);
                let unsettled = state.program(kernel, *round, &mut ids, metrics);
                schedule.note(began, unsettled);
            }
            Work::Acknowledge(revision) => state.acknowledge(revision),
        }
    }
}

// === impl Metrics ===

impl Metrics {
    pub(super) fn new(registry: &Registry) -> Self {
        Metrics {
            compile: registry.histogram(
                "bowsprit_network_compile_seconds",
                "Time to compile the cluster's state into the contents of the maps.",
                COMPILE_SECONDS,
            ),
            failures: registry.counter(
                "bowsprit_network_failures_total",
                "Plans that the kernel did not take; each is tried again.",
            ),
        }
    }
}

// === impl Schedule ===

impl Schedule {
    fn new(now: Instant) -> Self {
        Schedule { rested: now, retry: None, tidy: None, backoff: Backoff::new(RETRY_FIRST, RETRY_MAX) }
    }

    /// Notes a round that began at `began`: whether something is on its way out, or that it failed.
    fn note(&mut self, began: Instant, unsettled: Result<bool, ()>) {
        let now = Instant::now();
        self.rested = now + (now - began).min(REST_MAX);
        match unsettled {
            Ok(unsettled) => {
                self.backoff.reset();
                self.retry = None;
                self.tidy = unsettled.then(|| now + GRACE);
            }
            Err(()) => self.retry = Some(now + self.backoff.next_wait()),
        }
    }

    /// When the next round is due; `None` while there is nothing to do.
    fn due(&self, dirty: bool, somebody_waits: bool, now: Instant) -> Option<Instant> {
        if self.retry.is_some() {
            return self.retry;
        }
        let change = dirty.then_some(if somebody_waits { now } else { self.rested });
        change.into_iter().chain(self.tidy).min()
    }
}

// === impl State ===

impl State {
    /// Waits for something to do; `None` at the end.
    fn next_work(&self, kernel: &dyn Kernel, schedule: &Schedule) -> Option<Work> {
        let mut inner = self.inner.lock();
        loop {
            if inner.stopping {
                return None;
            }
            if let Err(why) = inner.complete(&self.node) {
                self.hinder(Some(&why));
                self.changed.wait(&mut inner);
                continue;
            }
            let now = Instant::now();
            let due = schedule.due(inner.dirty.is_some(), inner.waiting > 0, now);
            if due.is_some_and(|due| due <= now) {
                return Some(Work::Compile(Box::new(self.round(kernel, &mut inner))));
            }
            // Nothing to write, so what is held is what that revision says.
            let current = inner.dirty.is_none() && schedule.retry.is_none();
            if current && inner.revision != *self.applied.borrow() {
                return Some(Work::Acknowledge(inner.revision));
            }
            match due {
                Some(due) => drop(self.changed.wait_until(&mut inner, due)),
                None => self.changed.wait(&mut inner),
            }
        }
    }

    fn round(&self, kernel: &dyn Kernel, inner: &mut MutexGuard<'_, Inner>) -> Round {
        // The newest endpoints, whether their follower has run or not: CNI waits for them.
        inner.cache.endpoints = kernel.endpoints().borrow().clone();
        let seen = inner.dirty.take().unwrap_or_else(Instant::now);
        let revision = inner.revision;
        Round { snapshot: inner.cache.snapshot(&self.node, &self.cluster, revision), seen }
    }

    fn acknowledge(&self, revision: u64) {
        self.applied.send_if_modified(|held| std::mem::replace(held, revision) != revision);
    }

    /// Makes the kernel hold one round; whether something of it is still on its way out.
    fn program(
        &self,
        kernel: &dyn Kernel,
        round: Round,
        ids: &mut Ids,
        metrics: &Metrics,
    ) -> Result<bool, ()> {
        let Round { snapshot, seen } = round;
        let own = snapshot.nodes.iter().find(|node| node.name == snapshot.node);
        let cidrs = own.map(|node| node.pod_cidrs.clone()).unwrap_or_default();
        if !cidrs.is_empty() {
            kernel.set_pod_cidrs(&cidrs);
        }
        let timer = metrics.compile.start_timer();
        let plan = netplan::compile(&snapshot, ids);
        timer.observe_duration();
        let applied = kernel.apply(&plan).map_err(|error| {
            metrics.failures.inc();
            tracing::error!(
                error = &error as &dyn Error,
                "the kernel does not hold the newest plan; trying again"
            );
            self.hinder(Some(&format!(
                "the kernel does not hold the newest state of the cluster: {}",
                chain(&error)
            )));
        })?;
        if applied.changes > 0 {
            kernel.programmed(seen.elapsed());
        }
        self.acknowledge(applied.revision);
        self.change(|inner| inner.programmed.set(&plan));
        self.hinder(cidrs.is_empty().then_some("the node has no podCIDR yet"));
        self.names.send_replace(Arc::new(NameBook::new(snapshot, &plan)));
        Ok(plan.unsettled)
    }
}

// === impl Inner ===

impl Inner {
    /// Whether a snapshot would say everything; what is missing otherwise.
    fn complete(&self, node: &str) -> Result<(), String> {
        if !self.unsynced.is_empty() {
            let missing: Vec<&str> = self.unsynced.iter().copied().collect();
            return Err(format!("the API server has not yet said what there is of {}", missing.join(", ")));
        }
        // Without its own addresses everything would be taken out of the kernel; a node that was deleted registers again.
        if !self.cache.has_node(node) {
            return Err(format!("there is no node {node} at the API server (yet)"));
        }
        Ok(())
    }
}

/// An error with all its causes.
fn chain(error: &dyn Error) -> String {
    let (mut text, mut cause) = (error.to_string(), error.source());
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_are_due_as_the_last_one_went() {
        let began = Instant::now();
        let mut schedule = Schedule::new(began);
        assert_eq!(schedule.due(false, false, began), None);
        assert_eq!(schedule.due(true, false, began), Some(began), "a first change at once");

        schedule.note(began, Ok(true));
        let now = Instant::now();
        assert_eq!(schedule.due(true, false, now), Some(schedule.rested), "a pause as long as the round");
        assert_eq!(schedule.due(true, true, now), Some(now), "but CNI does not wait for it");
        let tidy = schedule.due(false, false, now).expect("a time to tidy up");
        assert!(tidy >= began + GRACE);

        schedule.note(began, Err(()));
        let retry = schedule.due(false, false, now).expect("a next try");
        assert_eq!(schedule.due(true, true, now), Some(retry), "no change comes before it");
        assert!(retry <= Instant::now() + RETRY_FIRST);

        schedule.note(began, Ok(false));
        assert_eq!(schedule.due(false, false, now), None);
    }
}
