//! The loop around the core: changes come in from informers, bindings and reports go out.
use std::{sync::Arc, time::Duration};

use chrono::Utc;
use client::{
    Client, Delta, Error, Informers, ObjectKey, ObjectReference, Patch, Subscription,
    events::Recorder,
    objects::{PartialObject, rfc3339},
};
use serde::Deserialize;
use serde_json::json;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until},
};

use crate::{
    cluster::{Cluster, Improved},
    decide::{Chooser, Unfit},
    metrics::Metrics,
    objects::{Node, Pod},
    queue::Queue,
};

/// Bindings under way at a time. The store commits what is queued in one group: some hundreds fill it, more only wait.
const BINDINGS_MAX: usize = 256;
/// Decisions between looks at what has changed: some milliseconds of work.
const DECISIONS_BATCH: usize = 64;
/// Numbers of waiting pods are counted at most this often.
const METRICS_INTERVAL: Duration = Duration::from_secs(1);

/// What can be configured.
#[derive(Clone, Debug)]
pub struct Config {
    /// Pods that name this scheduler, or none, are ours.
    pub scheduler_name: String,
}

impl Default for Config {
    fn default() -> Self {
        Self { scheduler_name: "default-scheduler".into() }
    }
}

/// Schedules pods for as long as it is polled. Run it while leading.
pub async fn run(
    config: Config,
    client: Client,
    informers: &Informers,
    recorder: Recorder,
    metrics: Metrics,
) {
    let mut nodes = informers.get::<Node>().subscribe();
    let mut pods = informers.get::<Pod>().subscribe();
    let mut driver = Driver::new(config, client, recorder, metrics);
    // Without all nodes, pods would be called unschedulable; without all pods, nodes would be overcommitted.
    driver.fill(&mut nodes, &mut pods).await;
    loop {
        driver.take_changes(&mut nodes, &mut pods);
        let wake = driver.queue.tick(Instant::now());
        let more = driver.decide_batch();
        driver.report_depth();
        if more {
            tokio::task::yield_now().await;
            continue;
        }
        let timer = async {
            match wake {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            delta = nodes.recv() => driver.node_changed(delta),
            delta = pods.recv() => driver.pod_changed(delta),
            Some(result) = driver.writes.join_next() => driver.written(result.ok()),
            () = timer => {}
        }
    }
}

struct Driver {
    config: Config,
    client: Client,
    recorder: Recorder,
    metrics: Metrics,
    cluster: Cluster,
    queue: Queue,
    chooser: Chooser,
    writes: JoinSet<Written>,
    reported: Option<Instant>,
}

/// A write that has ended.
enum Written {
    Bound { pod: Arc<Pod>, node: Box<str>, result: Result<(), Error> },
    Reported,
}

/// The server answers a binding with a Status, of which nothing is of interest.
#[derive(Deserialize)]
struct Ignored {}

impl Driver {
    fn new(config: Config, client: Client, recorder: Recorder, metrics: Metrics) -> Self {
        Self {
            config,
            client,
            recorder,
            metrics,
            cluster: Cluster::default(),
            queue: Queue::default(),
            chooser: Chooser::default(),
            writes: JoinSet::new(),
            reported: None,
        }
    }

    // === changes ===

    async fn fill(&mut self, nodes: &mut Subscription<Node>, pods: &mut Subscription<Pod>) {
        loop {
            match nodes.recv().await {
                Delta::Synced => break,
                delta => self.node_changed(delta),
            }
        }
        loop {
            match pods.recv().await {
                Delta::Synced => break,
                delta => self.pod_changed(delta),
            }
        }
    }

    fn take_changes(&mut self, nodes: &mut Subscription<Node>, pods: &mut Subscription<Pod>) {
        while let Some(result) = self.writes.try_join_next() {
            self.written(result.ok());
        }
        while let Some(delta) = nodes.try_recv() {
            self.node_changed(delta);
        }
        while let Some(delta) = pods.try_recv() {
            self.pod_changed(delta);
        }
    }

    fn node_changed(&mut self, delta: Delta<Node>) {
        match delta {
            Delta::Synced => {}
            Delta::Upsert { new, .. } => {
                let improved = self.cluster.set_node(new.clone());
                if improved != Improved::default() {
                    self.queue.node_improved(&self.cluster, &new.metadata.name, improved, Instant::now());
                }
            }
            Delta::Delete(old) => self.cluster.remove_node(&old.metadata.name),
        }
    }

    fn pod_changed(&mut self, delta: Delta<Pod>) {
        let freed = match delta {
            Delta::Synced => None,
            Delta::Upsert { new, .. } => {
                let freed = self.cluster.set_pod(&new);
                if self.is_waiting(&new) {
                    self.queue.set(new, Instant::now());
                } else {
                    self.queue.remove(&new.metadata.key());
                }
                freed
            }
            Delta::Delete(old) => {
                let key = old.metadata.key();
                self.queue.remove(&key);
                self.cluster.remove_pod(&key)
            }
        };
        self.room_on(freed);
    }

    fn is_waiting(&self, pod: &Pod) -> bool {
        let ours = pod.scheduler_name.is_empty() || *pod.scheduler_name == *self.config.scheduler_name;
        ours && pod.node_name.is_empty() && !pod.finished && !pod.gated && !pod.metadata.is_deleting()
    }

    fn room_on(&mut self, node: Option<Box<str>>) {
        if let Some(node) = node {
            let improved = Improved { room: true, ..Improved::default() };
            self.queue.node_improved(&self.cluster, &node, improved, Instant::now());
        }
    }

    // === decisions ===

    /// Decides for some pods; whether there may be more to decide now.
    fn decide_batch(&mut self) -> bool {
        for _ in 0..DECISIONS_BATCH {
            if self.writes.len() >= BINDINGS_MAX {
                return false;
            }
            let Some(pod) = self.queue.pop() else { return false };
            let started = std::time::Instant::now();
            let decision = self.chooser.choose(&pod, &self.cluster);
            self.metrics.decision.observe(started.elapsed().as_secs_f64());
            match decision {
                Ok(node) => self.bind(pod, node),
                Err(unfit) => self.reject(&pod, &unfit),
            }
        }
        true
    }

    fn bind(&mut self, pod: Arc<Pod>, node: Box<str>) {
        self.metrics.attempts.with_label_values(&["scheduled"]).inc();
        self.cluster.assume(&pod, &node);
        let client = self.client.clone();
        self.writes.spawn(async move {
            let meta = &pod.metadata;
            let binding = json!({
                "apiVersion": "v1",
                "kind": "Binding",
                "metadata": { "name": meta.name, "namespace": meta.namespace, "uid": meta.uid },
                "target": { "apiVersion": "v1", "kind": "Node", "name": node },
            });
            let result =
                client.create_subresource::<Pod, Ignored>(&meta.namespace, &meta.name, "binding", &binding);
            let result = result.await.map(drop);
            Written::Bound { pod, node, result }
        });
    }

    fn written(&mut self, written: Option<Written>) {
        let Some(Written::Bound { pod, node, result }) = written else { return };
        let (key, now) = (pod.metadata.key(), Instant::now());
        let Err(error) = result else {
            if let Some((waited, _)) = self.queue.history(&key, now) {
                self.metrics.waited.observe(waited.as_secs_f64());
            }
            let message = format!("Successfully assigned {key} to {node}");
            self.recorder.normal(ObjectReference::of(&*pod), "Scheduled", message);
            return;
        };
        self.metrics.bind_errors.inc();
        tracing::debug!(pod = %key, %node, error = error.chain(), "binding failed");
        // If the binding did happen and only its answer was lost, the informer will say so.
        let freed = self.cluster.remove_pod(&key);
        self.queue.retry(&key, now);
        self.room_on(freed);
        if !error.is_not_found() && !error.is_conflict() {
            self.report(&pod, &format!("binding rejected: {error}"), "SchedulerError");
        }
    }

    fn reject(&mut self, pod: &Arc<Pod>, unfit: &Unfit) {
        self.metrics.attempts.with_label_values(&["unschedulable"]).inc();
        let key: ObjectKey = pod.metadata.key();
        self.queue.unschedulable(&key, unfit, Instant::now());
        self.report(pod, &unfit.to_string(), "Unschedulable");
    }

    /// Tells why: an event each time, the condition when it says something new.
    fn report(&mut self, pod: &Arc<Pod>, message: &str, reason: &'static str) {
        self.recorder.warning(ObjectReference::of(&**pod), "FailedScheduling", message);
        if *pod.unscheduled_message == *message {
            return;
        }
        let (client, pod) = (self.client.clone(), pod.clone());
        let condition = json!({
            "type": "PodScheduled",
            "status": "False",
            "reason": reason,
            "message": message,
            "lastTransitionTime": rfc3339(Utc::now()),
            "lastProbeTime": null,
        });
        self.writes.spawn(async move {
            let meta = &pod.metadata;
            let change = json!({ "metadata": { "uid": meta.uid }, "status": { "conditions": [condition] } });
            let resource = <Pod as client::Resource>::api_resource();
            let (namespace, name) = (&meta.namespace, &meta.name);
            let patched = client
                .patch_as::<PartialObject>(
                    &resource,
                    Patch::Strategic,
                    namespace,
                    name,
                    Some("status"),
                    &change,
                )
                .await;
            if let Err(error) = patched {
                tracing::debug!(pod = %meta.key(), error = error.chain(), "condition not written");
            }
            Written::Reported
        });
    }

    fn report_depth(&mut self) {
        let now = Instant::now();
        if self.reported.is_none_or(|at| now.duration_since(at) >= METRICS_INTERVAL) {
            self.reported = Some(now);
            self.metrics.depth(self.queue.depth());
        }
    }
}
