//! What all pod workers of a node share: the runtime, the cluster, bounds, and the way back from a container's id to its
//! worker.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use client::ObjectKey;
use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::reporter::Reporter;
use super::settings::PodSettings;
use super::timeline::Timelines;
use super::traffic::PodNetwork;
use super::worker::Input;
use crate::cluster::{Cluster, StopGate};
use crate::metrics::Metrics;
use crate::objects::{Pod, PodRef};
use crate::runtime::{PodRuntime, RuntimeEvent};
use crate::slots::{STARTS_AT_ONCE, STOPS_AT_ONCE, Slots};
use crate::volumes::Volumes;

/// Ends of containers whose start has not been reported yet: as many as can start at once would do; the rest are ends of
/// containers that nobody waits for.
const UNCLAIMED_MAX: usize = 1024;

/// What all pod workers of a node share.
pub struct Shared {
    /// Runs pods.
    pub runtime: Arc<dyn PodRuntime>,
    /// The API server.
    pub cluster: Arc<dyn Cluster>,
    /// Holds SIGTERM back until traffic has moved.
    pub gate: Arc<dyn StopGate>,
    /// The pods' network.
    pub network: Arc<dyn PodNetwork>,
    /// Makes volumes.
    pub volumes: Volumes,
    /// What all pods have in common.
    pub settings: PodSettings,
    /// Bounds starts.
    pub starts: Slots,
    /// Bounds stops.
    pub stops: Slots,
    /// Writes statuses.
    pub reporter: Reporter,
    /// How pods came to run.
    pub timelines: Timelines,
    /// From container ids to workers.
    pub routes: Routes,
    /// What the node's HTTP server shows.
    pub views: Views,
    /// Counted.
    pub metrics: Metrics,
}

// === impl Shared ===

impl Shared {
    /// Puts the parts together.
    pub fn new(
        runtime: Arc<dyn PodRuntime>,
        cluster: Arc<dyn Cluster>,
        gate: Arc<dyn StopGate>,
        network: Arc<dyn PodNetwork>,
        settings: PodSettings,
        metrics: Metrics,
    ) -> Self {
        let pods = settings.pods_directory.clone();
        Shared {
            volumes: Volumes::new(cluster.clone(), settings.facts.clone(), pods),
            starts: Slots::new(STARTS_AT_ONCE),
            stops: Slots::new(STOPS_AT_ONCE),
            reporter: Reporter::new(cluster.clone(), metrics.clone()),
            timelines: Timelines::default(),
            routes: Routes::default(),
            views: Views::default(),
            runtime,
            cluster,
            gate,
            network,
            settings,
            metrics,
        }
    }
}

/// From ids of containers and instances to their pods' workers.
#[derive(Default)]
pub struct Routes {
    inner: Mutex<RoutesInner>,
}

#[derive(Default)]
struct RoutesInner {
    owners: HashMap<String, mpsc::Sender<Input>>,
    unclaimed: VecDeque<RuntimeEvent>,
}

// === impl Routes ===

impl Routes {
    /// From now on events about `id` go to `owner`; answers those that came before.
    pub fn claim(&self, id: &str, owner: mpsc::Sender<Input>) -> Vec<RuntimeEvent> {
        let mut inner = self.inner.lock();
        inner.owners.insert(id.to_owned(), owner);
        let all = std::mem::take(&mut inner.unclaimed);
        let (own, others): (VecDeque<_>, VecDeque<_>) =
            all.into_iter().partition(|event| subject(event) == Some(id));
        inner.unclaimed = others;
        own.into()
    }

    /// Nobody waits for events about `id` any longer.
    pub fn release(&self, id: &str) {
        self.inner.lock().owners.remove(id);
    }

    /// The worker that `event` concerns; without one it is kept for a while.
    pub fn owner(&self, event: &RuntimeEvent) -> Option<mpsc::Sender<Input>> {
        let id = subject(event)?;
        let mut inner = self.inner.lock();
        if let Some(owner) = inner.owners.get(id) {
            return Some(owner.clone());
        }
        if inner.unclaimed.len() == UNCLAIMED_MAX {
            inner.unclaimed.pop_front();
        }
        inner.unclaimed.push_back(event.clone());
        None
    }
}

fn subject(event: &RuntimeEvent) -> Option<&str> {
    match event {
        RuntimeEvent::Exited { id, .. } | RuntimeEvent::OutOfMemory { id } => Some(id),
        RuntimeEvent::Connected => None,
    }
}

/// A pod as the node's HTTP server needs it.
#[derive(Clone, Debug)]
pub struct PodView {
    /// Which pod.
    pub reference: PodRef,
    /// Its object.
    pub pod: Arc<Pod>,
    /// Its status as the node sees it.
    pub status: serde_json::Value,
    /// Its instance in the runtime, while it lives.
    pub instance: Option<String>,
    /// Its containers.
    pub containers: Vec<ContainerView>,
}

/// A container as the node's HTTP server needs it.
#[derive(Clone, Debug)]
pub struct ContainerView {
    /// Container name.
    pub name: String,
    /// Id of its newest run.
    pub id: Option<String>,
    /// Whether that runs.
    pub running: bool,
    /// Number of its newest run; its log has this name.
    pub attempt: Option<u32>,
    /// Why it does not run, in a word.
    pub waiting: Option<String>,
}

/// The pods of this node, by namespace and name.
#[derive(Clone, Default)]
pub struct Views {
    pods: Arc<Mutex<HashMap<ObjectKey, Arc<PodView>>>>,
}

// === impl Views ===

impl Views {
    /// A pod.
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<PodView>> {
        self.pods.lock().get(&ObjectKey::new(namespace, name)).cloned()
    }

    /// All pods.
    pub fn all(&self) -> Vec<Arc<PodView>> {
        self.pods.lock().values().cloned().collect()
    }

    /// Shows a pod. One that is `leaving` does not take the place of a newer one of the same name.
    pub(super) fn set(&self, view: PodView, leaving: bool) {
        let key = ObjectKey::new(&view.reference.namespace, &view.reference.name);
        let mut pods = self.pods.lock();
        let other = pods.get(&key).is_some_and(|held| held.reference.uid != view.reference.uid);
        if !(leaving && other) {
            pods.insert(key, Arc::new(view));
        }
    }

    /// Forgets a pod, unless a newer one of the same name has taken its place.
    pub(super) fn remove(&self, pod: &PodRef) {
        let key = ObjectKey::new(&pod.namespace, &pod.name);
        let mut pods = self.pods.lock();
        if pods.get(&key).is_some_and(|view| view.reference.uid == pod.uid) {
            pods.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_end_that_comes_before_its_start_was_reported_is_kept() {
        let routes = Routes::default();
        let oom = RuntimeEvent::OutOfMemory { id: "c1".into() };
        assert!(routes.owner(&oom).is_none());
        assert!(routes.owner(&RuntimeEvent::OutOfMemory { id: "c2".into() }).is_none());
        let (sender, _inputs) = mpsc::channel(1);
        assert_eq!(routes.claim("c1", sender.clone()), std::slice::from_ref(&oom));
        assert!(routes.claim("c1", sender).is_empty());
        assert!(routes.owner(&oom).is_some());
        routes.release("c1");
        assert!(routes.owner(&oom).is_none());
    }
}
