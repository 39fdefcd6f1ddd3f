//! ReplicaSet: keeps a number of pods running.
//!
//! What to do is decided by [`plan`]; doing it is slow to start when creations fail, so that a quota or a broken
//! template costs a few requests and not thousands. Pods that this controller created or deleted and that the cache
//! does not show yet are waited for ([`Written`]) or remembered.
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use chrono::{DateTime, Utc};
use client::{
    DeleteOptions, Error, ObjectKey, ObjectReference, OwnerReference, Patch,
    informer::Store,
    objects::{PartialObject, rfc3339},
};
use futures::{StreamExt, stream};
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::{
    Context,
    context::Written,
    objects::{Pod, ReplicaSet, ReplicaSetStatus, condition},
    work::{Next, WorkQueue, follow, sides},
};

mod plan;

pub use plan::{Plan, plan};

/// Sets worked on at a time.
const WORKERS: usize = 16;
/// Requests under way for one set: enough to fill the store's commit groups.
const REQUESTS_MAX: usize = 64;
/// Creations and deletions in one pass; the rest follows in the next. Kubernetes' figure.
const BURST_MAX: usize = 500;

/// Runs the controller.
pub async fn run(ctx: Context) {
    let (sets, pods) = (ctx.informers.get::<ReplicaSet>(), ctx.informers.get::<Pod>());
    let controller = Controller {
        sets: sets.store().clone(),
        pods: pods.store().clone(),
        written: Written::default(),
        deleted: Mutex::default(),
        queue: WorkQueue::default(),
        ctx: &ctx,
    };
    sets.synced().await;
    pods.synced().await;
    tokio::join!(
        follow(sets.subscribe(), |delta| sides(&delta)
            .for_each(|set| controller.queue.add(set.metadata.key()))),
        follow(pods.subscribe(), |delta| sides(&delta).for_each(|pod| controller.pod_changed(pod))),
        controller.queue.work("replicaset", &ctx.metrics, WORKERS, |key| controller.reconcile(key)),
    );
}

struct Controller<'a> {
    ctx: &'a Context,
    sets: Arc<Store<ReplicaSet>>,
    pods: Arc<Store<Pod>>,
    written: Written<ObjectKey>,
    /// Pods that were deleted and that the cache still shows as if they were not, by set.
    deleted: Mutex<HashMap<ObjectKey, HashSet<Box<str>>>>,
    queue: WorkQueue<ObjectKey>,
}

impl Controller<'_> {
    fn pod_changed(&self, pod: &Pod) {
        let namespace = &pod.metadata.namespace;
        match pod.metadata.controller() {
            Some(owner) if &*owner.kind == "ReplicaSet" => {
                self.queue.add(ObjectKey::new(namespace, &owner.name))
            }
            Some(_) => {}
            None => {
                let sets = self.sets.in_namespace(namespace);
                let selecting = sets.iter().filter(|set| set.spec.selector.selects(&pod.metadata));
                selecting.for_each(|set| self.queue.add(set.metadata.key()));
            }
        }
    }

    async fn reconcile(&self, key: ObjectKey) -> Result<Next, Error> {
        let Some(set) = self.sets.get(&key) else {
            self.deleted.lock().remove(&key);
            return Ok(Next::Done);
        };
        if !self.written.is_seen(&key, &self.pods) {
            return Ok(Next::Done);
        }
        let mut pods = self.pods.by_index("owner", &set.metadata.uid);
        pods.extend(self.pods.by_index("orphan", &key.namespace));
        let deleted = self.forget_seen_deletions(&key, &pods);
        let plan = plan(&set, &pods, &deleted, &self.pods, Utc::now());
        let failure = self.carry_out(&set, &plan).await;
        self.write_status(&set, &plan, failure.as_ref()).await?;
        match failure {
            Some(error) => Err(error),
            None => Ok(plan.look_again.map_or(Next::Done, Next::After)),
        }
    }

    /// Deletions that the cache does not show yet; those it shows are forgotten.
    fn forget_seen_deletions(&self, key: &ObjectKey, pods: &[Arc<Pod>]) -> HashSet<Box<str>> {
        let mut deleted = self.deleted.lock();
        let Some(uids) = deleted.get_mut(key) else { return HashSet::new() };
        let shown = pods.iter().filter(|pod| !pod.metadata.is_deleting()).map(|pod| &pod.metadata.uid);
        let shown: HashSet<&Box<str>> = shown.collect();
        uids.retain(|uid| shown.contains(uid));
        let unseen = uids.clone();
        if unseen.is_empty() {
            deleted.remove(key);
        }
        unseen
    }

    // === doing ===

    /// Returns the first failure. Everything is tried regardless, except creations after failed ones.
    async fn carry_out(&self, set: &Arc<ReplicaSet>, plan: &Plan) -> Option<Error> {
        let mut failure = None;
        let owners =
            plan.adopt.iter().map(|pod| (pod, true)).chain(plan.release.iter().map(|pod| (pod, false)));
        for (pod, adopt) in owners {
            if let Err(error) = self.set_owner(set, pod, adopt).await {
                failure.get_or_insert(error);
            }
        }
        if plan.create > 0 {
            failure = failure.or(self.create(set, plan.create.min(BURST_MAX)).await);
        }
        // Collected first: an iterator over borrowed pods in a future would keep the future from being Send.
        let deletions: Vec<_> = plan.delete.iter().take(BURST_MAX).map(|pod| self.delete(set, pod)).collect();
        let results: Vec<_> = stream::iter(deletions).buffer_unordered(REQUESTS_MAX).collect().await;
        failure.or(results.into_iter().find_map(Result::err))
    }

    /// Batches double as long as they succeed.
    async fn create(&self, set: &Arc<ReplicaSet>, mut count: usize) -> Option<Error> {
        let body = pod_body(set);
        let mut batch = 1;
        while count > 0 {
            let now = count.min(batch);
            let creations = (0..now).map(|_| self.create_one(set, &body));
            let results: Vec<_> = stream::iter(creations).buffer_unordered(REQUESTS_MAX).collect().await;
            if let Some(error) = results.into_iter().find_map(Result::err) {
                // What is left is given up until the failure is gone; a namespace that goes away needs no pods at all.
                return (!error.is_namespace_terminating()).then_some(error);
            }
            count -= now;
            batch *= 2;
        }
        None
    }

    async fn create_one(&self, set: &Arc<ReplicaSet>, body: &Value) -> Result<(), Error> {
        let reference = || ObjectReference::of(&**set);
        match self.ctx.client.create::<Pod>(&set.metadata.namespace, body).await {
            Ok(pod) => {
                self.written.note(&set.metadata.key(), pod.metadata.resource_version);
                let message = format!("Created pod: {}", pod.metadata.name);
                self.ctx.recorder.normal(reference(), "SuccessfulCreate", message);
                Ok(())
            }
            Err(error) => {
                self.ctx.recorder.warning(reference(), "FailedCreate", format!("Error creating: {error}"));
                Err(error)
            }
        }
    }

    async fn delete(&self, set: &Arc<ReplicaSet>, pod: &Arc<Pod>) -> Result<(), Error> {
        let (key, meta) = (set.metadata.key(), &pod.metadata);
        self.deleted.lock().entry(key.clone()).or_default().insert(meta.uid.clone());
        let result =
            self.ctx.client.delete::<Pod>(&meta.namespace, &meta.name, &DeleteOptions::uid(&meta.uid)).await;
        match result {
            Err(error) if !error.is_not_found() => {
                if let Some(uids) = self.deleted.lock().get_mut(&key) {
                    uids.remove(&meta.uid);
                }
                let message = format!("Error deleting: {error}");
                self.ctx.recorder.warning(ObjectReference::of(&**set), "FailedDelete", message);
                Err(error)
            }
            _ => {
                let message = format!("Deleted pod: {}", meta.name);
                self.ctx.recorder.normal(ObjectReference::of(&**set), "SuccessfulDelete", message);
                Ok(())
            }
        }
    }

    async fn set_owner(&self, set: &Arc<ReplicaSet>, pod: &Arc<Pod>, adopt: bool) -> Result<(), Error> {
        let written = change_owner(self.ctx, &**set, &**pod, adopt).await?;
        self.written.note(&set.metadata.key(), written);
        Ok(())
    }

    async fn write_status(
        &self,
        set: &ReplicaSet,
        plan: &Plan,
        failure: Option<&Error>,
    ) -> Result<(), Error> {
        let wanted = status(set, plan, failure, Utc::now());
        if wanted == set.status {
            return Ok(());
        }
        let conditions: Vec<_> = wanted.conditions.iter().map(condition_json).collect();
        let change = json!({ "status": {
            "replicas": wanted.replicas,
            "fullyLabeledReplicas": wanted.fully_labeled_replicas,
            "readyReplicas": wanted.ready_replicas,
            "availableReplicas": wanted.available_replicas,
            "observedGeneration": wanted.observed_generation,
            "conditions": conditions,
        } });
        let (namespace, name) = (&set.metadata.namespace, &set.metadata.name);
        let patched =
            self.ctx.client.patch::<ReplicaSet>(Patch::Merge, namespace, name, Some("status"), &change);
        match patched.await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }
}

/// Makes `owner` the controller of `object`, or takes it away; returns the revision of the write. The uid in the patch
/// makes it fail if another object has the name meanwhile.
pub(crate) async fn change_owner<O: client::Resource, T: client::Resource>(
    ctx: &Context,
    owner: &O,
    object: &T,
    adopt: bool,
) -> Result<client::Revision, Error> {
    let meta = object.meta();
    let change = if adopt {
        // The cache may be behind: an owner that is going must not adopt.
        let live = ctx.client.get::<O>(&owner.meta().namespace, &owner.meta().name).await?;
        if live.meta().uid != owner.meta().uid || live.meta().is_deleting() {
            return Ok(0);
        }
        json!({ "metadata": { "uid": meta.uid, "ownerReferences": [OwnerReference::controller(owner)] } })
    } else {
        let reference = json!({ "$patch": "delete", "uid": owner.meta().uid });
        json!({ "metadata": { "uid": meta.uid, "ownerReferences": [reference] } })
    };
    let resource = T::api_resource();
    let patched = ctx
        .client
        .patch_as::<PartialObject>(&resource, Patch::Strategic, &meta.namespace, &meta.name, None, &change)
        .await;
    match patched {
        Ok(object) => Ok(object.metadata.resource_version),
        Err(error) if error.is_not_found() => Ok(0),
        Err(error) => Err(error),
    }
}

pub(crate) fn condition_json(condition: &crate::objects::Condition) -> Value {
    let mut value = json!({
        "type": condition.r#type,
        "status": condition.status,
        "reason": condition.reason,
        "message": condition.message,
        "lastTransitionTime": condition.last_transition_time.map(rfc3339),
    });
    if let Some(updated) = condition.last_update_time {
        value["lastUpdateTime"] = rfc3339(updated).into();
    }
    value
}

/// The pod to create: the template with a name of its own and its owner.
fn pod_body(set: &ReplicaSet) -> Value {
    let template = &set.spec.template;
    let mut metadata = json!({
        "generateName": format!("{}-", set.metadata.name),
        "namespace": set.metadata.namespace,
        "ownerReferences": [OwnerReference::controller(set)],
    });
    for field in ["labels", "annotations", "finalizers"] {
        if let Some(value) = template["metadata"].get(field).filter(|value| !value.is_null()) {
            metadata[field] = value.clone();
        }
    }
    json!({ "apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"] })
}

fn status(set: &ReplicaSet, plan: &Plan, failure: Option<&Error>, now: DateTime<Utc>) -> ReplicaSetStatus {
    let mut conditions = set.status.conditions.clone();
    match failure {
        Some(error) => {
            let reason = if plan.create > 0 { "FailedCreate" } else { "FailedDelete" };
            let old = condition(&conditions, "ReplicaFailure");
            let since = old.and_then(|old| old.last_transition_time).unwrap_or(now);
            let failed = crate::objects::Condition {
                r#type: "ReplicaFailure".into(),
                status: "True".into(),
                reason: reason.into(),
                message: error.to_string().into(),
                last_transition_time: Some(since),
                last_update_time: None,
            };
            conditions.retain(|own| &*own.r#type != "ReplicaFailure");
            conditions.push(failed);
        }
        None => conditions.retain(|own| &*own.r#type != "ReplicaFailure"),
    }
    ReplicaSetStatus { conditions, observed_generation: set.metadata.generation, ..plan.status.clone() }
}

/// Time until the next of the pods has been ready for long enough.
fn until_available(pods: &[&Arc<Pod>], min_ready: i64, now: DateTime<Utc>) -> Option<Duration> {
    let waits = pods.iter().filter_map(|pod| {
        let left = min_ready - (now - pod.ready_since()?).num_seconds();
        (left > 0).then(|| Duration::from_secs(left.unsigned_abs()))
    });
    waits.min()
}
