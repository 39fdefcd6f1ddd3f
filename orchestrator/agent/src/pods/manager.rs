//! Gives each pod of the node a worker, and each worker what concerns it. Starts with what the runtime holds, so that a
//! restarted agent goes on where the last one stopped; lists again only when the runtime's events had a gap.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::build::ANNOTATION_GRACE;
use super::shared::Shared;
use super::worker::{Input, Worker};
use crate::objects::{Container, Pod, PodRef, RestartPolicy};
use crate::runtime::{PodRecord, RuntimeEvent};

/// Pause before the runtime is listed again after a failure.
const RELIST_RETRY: Duration = Duration::from_millis(200);

/// A change of the pods that are bound to this node.
#[derive(Debug)]
pub enum PodChange {
    /// New or changed.
    Upsert(Arc<Pod>),
    /// Gone; its last state.
    Delete(Arc<Pod>),
    /// All that existed at the start have been told.
    Synced,
}

/// Hands pods to workers.
pub struct Manager {
    shared: Arc<Shared>,
    workers: HashMap<String, mpsc::Sender<Input>>,
    tasks: JoinSet<String>,
    /// Pods that came while the last worker of the same uid was still leaving.
    records: HashMap<String, Arc<PodRecord>>,
    synced: bool,
}

// === impl Manager ===

impl Manager {
    /// A manager for an agent that has just started.
    pub fn new(shared: Arc<Shared>) -> Self {
        Manager {
            shared,
            workers: HashMap::new(),
            tasks: JoinSet::new(),
            records: HashMap::new(),
            synced: false,
        }
    }

    /// Runs for ever, or until the changes end. The runtime is asked first what it holds: a pod whose containers run
    /// already must not get new ones.
    pub async fn run(mut self, mut changes: mpsc::Receiver<PodChange>) {
        let mut events = self.shared.runtime.events();
        while let Some(event) = events.recv().await {
            if event == RuntimeEvent::Connected {
                break;
            }
        }
        self.records = self.list().await;
        self.release_vanished().await;
        loop {
            tokio::select! {
                change = changes.recv() => match change {
                    Some(change) => self.change(change).await,
                    None => return,
                },
                event = events.recv() => match event {
                    Some(RuntimeEvent::Connected) => self.relist().await,
                    Some(event) => self.route(event).await,
                    None => return,
                },
                Some(left) = self.tasks.join_next() => {
                    if let Ok(uid) = left {
                        self.workers.remove(&uid);
                    }
                }
            }
        }
    }

    async fn change(&mut self, change: PodChange) {
        match change {
            PodChange::Upsert(pod) => {
                let uid = pod.metadata.uid.to_string();
                if let Some(worker) = self.workers.get(&uid)
                    && worker.send(Input::Pod(pod.clone())).await.is_ok()
                {
                    return;
                }
                let record = self.records.remove(&uid);
                self.begin(pod, record.as_deref());
            }
            PodChange::Delete(pod) => {
                if let Some(worker) = self.workers.get(&*pod.metadata.uid) {
                    // A worker that has left has nothing to be told any more.
                    worker.send(Input::Gone(pod)).await.ok();
                }
            }
            PodChange::Synced => {
                self.synced = true;
                self.adopt_orphans().await;
                self.remove_stale_directories();
            }
        }
    }

    fn begin(&mut self, pod: Arc<Pod>, record: Option<&PodRecord>) {
        let uid = pod.metadata.uid.to_string();
        let (worker, sender) = Worker::new(self.shared.clone(), pod, record);
        self.workers.insert(uid.clone(), sender);
        self.tasks.spawn(async move {
            worker.run().await;
            uid
        });
    }

    async fn route(&self, event: RuntimeEvent) {
        if let Some(owner) = self.shared.routes.owner(&event) {
            owner.send(Input::Event(event)).await.ok();
        }
    }

    async fn list(&self) -> HashMap<String, Arc<PodRecord>> {
        loop {
            match self.shared.runtime.pods().await {
                Ok(records) => {
                    return records
                        .into_iter()
                        .map(|record| (record.pod.uid.clone(), Arc::new(record)))
                        .collect();
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot list the runtime's pods yet");
                    tokio::time::sleep(RELIST_RETRY).await;
                }
            }
        }
    }

    /// Before any pod is begun: addresses and devices of sandboxes that the runtime lost while no agent was there.
    async fn release_vanished(&self) {
        let instances = self.records.values().flat_map(|record| &record.instances);
        let sandboxes: HashSet<String> = instances.map(|instance| instance.id.clone()).collect();
        let network = self.shared.network.clone();
        let released = tokio::task::spawn_blocking(move || network.reconcile(&sandboxes)).await;
        match released {
            Ok(Ok(0)) => {}
            Ok(Ok(count)) => {
                tracing::info!(count, "released what sandboxes held that are gone from the runtime")
            }
            Ok(Err(error)) => {
                self.shared.metrics.failures.with_label_values(&["reconcile-network"]).inc();
                tracing::error!(
                    error,
                    "addresses of vanished sandboxes stay taken until the agent starts again"
                );
            }
            Err(error) => tracing::error!(%error, "releasing what vanished sandboxes held panicked"),
        }
    }

    async fn relist(&mut self) {
        let records = self.list().await;
        for (uid, worker) in &self.workers {
            worker.send(Input::Relisted(records.get(uid).cloned())).await.ok();
        }
        self.records = records;
        if self.synced {
            self.adopt_orphans().await;
        }
    }

    /// Pods that the runtime holds and that have no object any more are ended as if they had just been deleted.
    async fn adopt_orphans(&mut self) {
        for (uid, record) in std::mem::take(&mut self.records) {
            if self.workers.contains_key(&uid) {
                continue;
            }
            tracing::info!(pod = %record.pod, "ends: its object is gone");
            let pod = Arc::new(reconstructed(&record));
            self.begin(pod.clone(), Some(&record));
            if let Some(worker) = self.workers.get(&uid) {
                worker.send(Input::Gone(pod)).await.ok();
            }
        }
    }

    /// Directories of pods that neither the API server nor the runtime knows.
    fn remove_stale_directories(&self) {
        let known: HashSet<&String> = self.workers.keys().collect();
        for uid in self.shared.volumes.known_uids() {
            if !known.contains(&uid)
                && let Err(error) = self.shared.volumes.teardown(&uid)
            {
                tracing::warn!(uid, %error, "directory of a pod that is gone not removed");
            }
        }
    }
}

/// As much of a pod's object as the runtime has recorded: enough to end it properly.
fn reconstructed(record: &PodRecord) -> Pod {
    let PodRef { namespace, name, uid } = record.pod.clone();
    let mut pod = Pod::default();
    pod.metadata.namespace = namespace.into();
    pod.metadata.name = name.into();
    pod.metadata.uid = uid.into();
    pod.spec.restart_policy = RestartPolicy::Never;
    let mut seen = HashSet::new();
    for container in &record.containers {
        if seen.insert(container.name.clone()) {
            pod.spec.containers.push(Container { name: container.name.clone(), ..Container::default() });
        }
        if let Some(grace) = container.annotations.get(ANNOTATION_GRACE).and_then(|text| text.parse().ok()) {
            pod.spec.termination_grace_period_seconds = grace;
        }
    }
    pod
}
