//! Node lifecycle: a node that falls silent is marked, tainted, and its pods go elsewhere.
//!
//! Three stages, each a pure decision: is it heard of ([`health`]), which taints follow from its conditions ([`taints`]),
//! which pods have to go and when ([`evict`]). The links tell of a silence within a second (endpoints leave then, see
//! [`crate::endpoints`]); where a node has no link to this server, its lease tells, on this process's own clock.
//!
//! From silence to replacement: [`health::LINK_GRACE`] + [`evict::LOST_TOLERATION`] and one scheduling, under 15 s.
use std::{collections::HashMap, sync::Arc};

use chrono::{DateTime, Utc};
use client::{
    DeleteOptions, Delta, Error, Informer, Meta, ObjectKey, ObjectReference, Patch,
    informer::{Scope, Store},
    objects::{PartialObject, rfc3339},
};
use futures::{StreamExt, stream};
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::json;
use tokio::time::Instant;

use crate::{
    Context, Liveness, liveness,
    objects::{Node, Pod, Taint, condition},
    replicaset::condition_json,
    work::{Next, WorkQueue, follow},
};

pub mod evict;
pub mod health;
pub mod taints;

use health::{Heard, Verdict};

/// Nodes worked on at a time.
const WORKERS: usize = 8;
/// Pods of one node deleted or marked at a time.
const REQUESTS_MAX: usize = 32;
/// Where nodes keep their leases.
const LEASES: &str = "kube-node-lease";

/// A node's lease, of which only matters that it changes.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
struct Lease {
    metadata: Meta,
}

client::resource!(Lease: "coordination.k8s.io" / "v1" / "leases", "Lease", namespaced);

/// Runs the controller.
pub async fn run(ctx: Context) {
    let (nodes, pods) = (ctx.informers.get::<Node>(), ctx.informers.get::<Pod>());
    let leases: Informer<Lease> =
        Informer::start_scoped(ctx.client.clone(), Scope::all::<Lease>().namespace(LEASES));
    let controller = Controller {
        ctx: &ctx,
        nodes: nodes.store().clone(),
        pods: pods.store().clone(),
        started: Instant::now(),
        lost: Mutex::default(),
        leases: Mutex::default(),
        taints_seen: Mutex::default(),
        queue: WorkQueue::default(),
    };
    nodes.synced().await;
    pods.synced().await;
    leases.synced().await;
    tokio::join!(
        follow(nodes.subscribe(), |delta| match delta {
            Delta::Synced => {}
            Delta::Upsert { new, .. } => controller.queue.add(new.metadata.key()),
            Delta::Delete(old) => controller.forget(&old.metadata.name),
        }),
        follow(pods.subscribe(), |delta| controller.pod_changed(&delta)),
        follow(leases.subscribe(), |delta| controller.lease_changed(&delta)),
        liveness::follow(ctx.liveness.clone(), |old, new| controller.liveness_changed(old, new)),
        controller.queue.work("nodes", &ctx.metrics, WORKERS, |key| controller.reconcile(key)),
    );
}

/// When taints of a node were first seen, by key.
type FirstSeen = HashMap<Box<str>, DateTime<Utc>>;

struct Controller<'a> {
    ctx: &'a Context,
    nodes: Arc<Store<Node>>,
    pods: Arc<Store<Pod>>,
    started: Instant,
    /// Since when links are silent.
    lost: Mutex<HashMap<Box<str>, Instant>>,
    /// When each lease was last seen to change.
    leases: Mutex<HashMap<Box<str>, Instant>>,
    /// When taints that do not say it themselves were first seen, by node.
    taints_seen: Mutex<HashMap<Box<str>, FirstSeen>>,
    queue: WorkQueue<ObjectKey>,
}

impl Controller<'_> {
    // === changes ===

    fn forget(&self, node: &str) {
        self.lost.lock().remove(node);
        self.leases.lock().remove(node);
        self.taints_seen.lock().remove(node);
    }

    /// A pod that arrives on a tainted node, or comes to tolerate less, may have to go.
    fn pod_changed(&self, delta: &Delta<Pod>) {
        let Delta::Upsert { old, new } = delta else { return };
        let moved = old.as_ref().is_none_or(|old| old.spec != new.spec);
        let tainted =
            |node: Arc<Node>| node.spec.taints.iter().any(|taint| &*taint.effect == evict::NO_EXECUTE);
        if moved && self.nodes.find("", &new.spec.node_name).is_some_and(tainted) {
            self.queue.add(ObjectKey::new("", &new.spec.node_name));
        }
    }

    fn lease_changed(&self, delta: &Delta<Lease>) {
        let Delta::Upsert { old, new } = delta else { return };
        let name = new.metadata.name.clone();
        // The first sight of a lease says nothing about when it was renewed.
        let since = if old.is_some() { Instant::now() } else { self.started };
        self.leases.lock().insert(name.clone(), since);
        let marked = |node: Arc<Node>| health::is_marked(&node);
        if self.nodes.find("", &name).is_some_and(marked) {
            self.queue.add(ObjectKey::new("", &name));
        }
    }

    fn liveness_changed(&self, old: &Liveness, new: &Liveness) {
        for node in liveness::changed(old, new) {
            match new.get(node) {
                Some(false) => _ = self.lost.lock().entry(node.into()).or_insert_with(Instant::now),
                _ => _ = self.lost.lock().remove(node),
            }
            self.queue.add(ObjectKey::new("", node));
        }
    }

    // === doing ===

    async fn reconcile(&self, key: ObjectKey) -> Result<Next, Error> {
        let Some(node) = self.nodes.get(&key) else { return Ok(Next::Done) };
        let heard = self.heard(&node);
        let verdict = health::judge(&heard, Instant::now());
        if verdict == Verdict::Gone {
            self.mark_unknown(&node).await?;
        }
        self.write_taints(&node).await?;
        let evicted = self.evict(&node, heard.lost_since.is_some() && verdict == Verdict::Gone).await?;
        Ok(match verdict {
            Verdict::LookAgain(wait) => evicted.sooner(Next::After(wait)),
            Verdict::Heard | Verdict::Gone => evicted,
        })
    }

    fn heard(&self, node: &Node) -> Heard {
        let name = &node.metadata.name;
        Heard {
            connected: self.ctx.liveness.borrow().get(&**name) == Some(&true),
            lost_since: self.lost.lock().get(name).copied(),
            lease: self.leases.lock().get(name).copied().unwrap_or(self.started),
        }
    }

    async fn mark_unknown(&self, node: &Arc<Node>) -> Result<(), Error> {
        let conditions = health::unknown_conditions(&node.status.conditions, Utc::now());
        if conditions.is_empty() {
            return Ok(());
        }
        let conditions: Vec<_> = conditions.iter().map(condition_json).collect();
        let name = &node.metadata.name;
        // The version: an agent that comes back this moment must not be overruled.
        let change = json!({
            "metadata": { "resourceVersion": node.metadata.resource_version.to_string() },
            "status": { "conditions": conditions },
        });
        self.ctx.client.patch::<Node>(Patch::Strategic, "", name, Some("status"), &change).await?;
        let message = format!("Node {name} status is now: NodeNotReady");
        self.ctx.recorder.normal(ObjectReference::of(&**node), "NodeNotReady", message);
        self.mark_pods(name).await
    }

    /// What runs on a silent node is not known to be ready.
    async fn mark_pods(&self, node: &str) -> Result<(), Error> {
        let ready =
            self.pods.by_index("node", node).into_iter().filter(|pod| pod.is_ready() && pod.is_active());
        // Collected first: an iterator over borrowed pods in a future would keep the future from being Send.
        let marks: Vec<_> = ready.map(|pod| self.mark_pod(pod)).collect();
        let results: Vec<_> = stream::iter(marks).buffer_unordered(REQUESTS_MAX).collect().await;
        results.into_iter().collect()
    }

    async fn mark_pod(&self, pod: Arc<Pod>) -> Result<(), Error> {
        let mut ready = condition(&pod.status.conditions, "Ready").cloned().unwrap_or_default();
        ready.status = "False".into();
        ready.last_transition_time = Some(Utc::now());
        let meta = &pod.metadata;
        let change =
            json!({ "metadata": { "uid": meta.uid }, "status": { "conditions": [condition_json(&ready)] } });
        let resource = <Pod as client::Resource>::api_resource();
        let (client, namespace, name) = (&self.ctx.client, &meta.namespace, &meta.name);
        let patched = client
            .patch_as::<PartialObject>(&resource, Patch::Strategic, namespace, name, Some("status"), &change)
            .await;
        match patched {
            Err(error) if !error.is_not_found() && !error.is_conflict() => Err(error),
            _ => Ok(()),
        }
    }

    async fn write_taints(&self, node: &Node) -> Result<(), Error> {
        let Some(wanted) = taints::wanted(node, Utc::now()) else { return Ok(()) };
        let taints: Vec<_> = wanted.iter().map(taint_json).collect();
        let change = json!({
            "metadata": { "resourceVersion": node.metadata.resource_version.to_string() },
            "spec": { "taints": taints },
        });
        match self.ctx.client.patch::<Node>(Patch::Merge, "", &node.metadata.name, None, &change).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }

    // === evictions ===

    async fn evict(&self, node: &Node, lost: bool) -> Result<Next, Error> {
        let since = self.since(node);
        if since.is_empty() {
            return Ok(Next::Done);
        }
        if lost && self.is_alone(node) {
            // Nobody is left to take the pods: it is this server that has lost its nodes, or all is lost anyway.
            return Ok(Next::Done);
        }
        let (now, pods) = (Utc::now(), self.pods.by_index("node", &node.metadata.name));
        let mut next = Next::Done;
        let mut due = Vec::new();
        for pod in pods.into_iter().filter(|pod| pod.is_active()) {
            match evict::at(&pod, &since, lost) {
                None => {}
                Some(at) if at <= now => due.push(pod),
                Some(at) => next = next.sooner(Next::After((at - now).to_std().unwrap_or_default())),
            }
        }
        let deletions: Vec<_> = due.into_iter().map(|pod| self.delete(pod)).collect();
        let results: Vec<_> = stream::iter(deletions).buffer_unordered(REQUESTS_MAX).collect().await;
        results.into_iter().collect::<Result<(), _>>()?;
        Ok(next)
    }

    /// The taints that drive pods away, and since when they do.
    fn since(&self, node: &Node) -> Vec<(Taint, DateTime<Utc>)> {
        let driving = node.spec.taints.iter().filter(|taint| &*taint.effect == evict::NO_EXECUTE);
        let mut all = self.taints_seen.lock();
        let seen = all.entry(node.metadata.name.clone()).or_default();
        let since: Vec<_> = driving
            .map(|taint| {
                let first = *seen.entry(taint.key.clone()).or_insert_with(Utc::now);
                (taint.clone(), taint.time_added.unwrap_or(first))
            })
            .collect();
        seen.retain(|key, _| since.iter().any(|(taint, _)| taint.key == *key));
        if seen.is_empty() {
            all.remove(&node.metadata.name);
        }
        since
    }

    fn is_alone(&self, node: &Node) -> bool {
        let ready = |other: &Node| {
            condition(&other.status.conditions, "Ready").is_some_and(|ready| &*ready.status == "True")
        };
        !self.nodes.all().iter().any(|other| other.metadata.name != node.metadata.name && ready(other))
    }

    async fn delete(&self, pod: Arc<Pod>) -> Result<(), Error> {
        let meta = &pod.metadata;
        match self.ctx.client.delete::<Pod>(&meta.namespace, &meta.name, &DeleteOptions::uid(&meta.uid)).await
        {
            Err(error) if !error.is_not_found() && !error.is_conflict() => Err(error),
            _ => {
                let message = format!("Marking for deletion Pod {}", meta.key());
                self.ctx.recorder.normal(ObjectReference::of(&*pod), "TaintManagerEviction", message);
                Ok(())
            }
        }
    }
}

fn taint_json(taint: &Taint) -> serde_json::Value {
    let mut value = json!({ "key": taint.key, "effect": taint.effect });
    if !taint.value.is_empty() {
        value["value"] = taint.value.as_ref().into();
    }
    if let Some(added) = taint.time_added {
        value["timeAdded"] = rfc3339(added).into();
    }
    value
}
