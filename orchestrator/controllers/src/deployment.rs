//! Deployment: replaces the pods of one template by those of the next, a few at a time or all at once.
//!
//! A Deployment owns one ReplicaSet a template; a rollout is moving replicas from the old sets to the new one. What to
//! move is decided by [`plan`], one step a look; each step's effect brings the next look. Undoing is setting an old
//! template again: its set is found, gets the newest revision number and grows.
use std::sync::Arc;

use chrono::Utc;
use client::{DeleteOptions, Error, ObjectKey, ObjectReference, OwnerReference, Patch, informer::Store};
use serde_json::{Map, Value, json};

use crate::{
    Context,
    context::Written,
    objects::{Deployment, Pod, ReplicaSet},
    replicaset::{change_owner, condition_json},
    work::{Next, WorkQueue, follow, sides},
};

mod numbers;
mod plan;
mod status;
mod template;

pub use plan::{Plan, Step, plan};

/// Deployments worked on at a time.
const WORKERS: usize = 16;

/// Runs the controller.
pub async fn run(ctx: Context) {
    let deployments = ctx.informers.get::<Deployment>();
    let (sets, pods) = (ctx.informers.get::<ReplicaSet>(), ctx.informers.get::<Pod>());
    let controller = Controller {
        ctx: &ctx,
        deployments: deployments.store().clone(),
        sets: sets.store().clone(),
        pods: pods.store().clone(),
        written_sets: Written::default(),
        written_status: Written::default(),
        queue: WorkQueue::default(),
    };
    deployments.synced().await;
    sets.synced().await;
    pods.synced().await;
    tokio::join!(
        follow(deployments.subscribe(), |delta| {
            sides(&delta).for_each(|deployment| controller.queue.add(deployment.metadata.key()));
        }),
        follow(sets.subscribe(), |delta| sides(&delta).for_each(|set| controller.set_changed(set))),
        follow(pods.subscribe(), |delta| {
            // Only Recreate waits for pods to be gone; all else shows in the sets.
            if let client::Delta::Delete(pod) = delta {
                controller.pod_gone(&pod);
            }
        }),
        controller.queue.work("deployment", &ctx.metrics, WORKERS, |key| controller.reconcile(key)),
    );
}

struct Controller<'a> {
    ctx: &'a Context,
    deployments: Arc<Store<Deployment>>,
    sets: Arc<Store<ReplicaSet>>,
    pods: Arc<Store<Pod>>,
    /// Writes of sets, which the cache of sets shows, and of status, which the cache of Deployments shows.
    written_sets: Written<ObjectKey>,
    written_status: Written<ObjectKey>,
    queue: WorkQueue<ObjectKey>,
}

impl Controller<'_> {
    fn set_changed(&self, set: &ReplicaSet) {
        let namespace = &set.metadata.namespace;
        match set.metadata.controller() {
            Some(owner) if &*owner.kind == "Deployment" => {
                self.queue.add(ObjectKey::new(namespace, &owner.name))
            }
            Some(_) => {}
            None => {
                let all = self.deployments.in_namespace(namespace);
                let selecting = all.iter().filter(|own| own.spec.selector.selects(&set.metadata));
                selecting.for_each(|deployment| self.queue.add(deployment.metadata.key()));
            }
        }
    }

    fn pod_gone(&self, pod: &Pod) {
        let Some(owner) = pod.metadata.controller().filter(|owner| &*owner.kind == "ReplicaSet") else {
            return;
        };
        if let Some(set) = self.sets.find(&pod.metadata.namespace, &owner.name) {
            self.set_changed(&set);
        }
    }

    async fn reconcile(&self, key: ObjectKey) -> Result<Next, Error> {
        let Some(deployment) = self.deployments.get(&key) else { return Ok(Next::Done) };
        if !self.written_sets.is_seen(&key, &self.sets)
            || !self.written_status.is_seen(&key, &self.deployments)
        {
            return Ok(Next::Done);
        }
        if deployment.spec.selector.parsed.is_everything() {
            let message = "This deployment is selecting all pods. A non-empty selector is required.";
            self.ctx.recorder.warning(ObjectReference::of(&*deployment), "SelectingAll", message);
            return Ok(Next::Done);
        }
        let sets = self.claim(&deployment).await?;
        let old_pods = |set: &ReplicaSet| {
            let pods = self.pods.by_index("owner", &set.metadata.uid);
            pods.iter().any(|pod| !pod.is_finished())
        };
        let mut plan = plan(&deployment, &sets, &old_pods, Utc::now());
        let failure = self.carry_out(&deployment, &mut plan).await.err();
        self.write(&deployment, &plan).await?;
        match failure {
            Some(error) => Err(error),
            None => Ok(plan.look_again.map_or(Next::Done, Next::After)),
        }
    }

    /// Its own sets, after adopting those it selects and releasing those it no longer does.
    async fn claim(&self, deployment: &Arc<Deployment>) -> Result<Vec<Arc<ReplicaSet>>, Error> {
        let meta = &deployment.metadata;
        let mut sets = Vec::new();
        for set in self.sets.by_index("owner", &meta.uid) {
            if deployment.spec.selector.selects(&set.metadata) || meta.is_deleting() {
                sets.push(set);
            } else {
                self.note(deployment, change_owner(self.ctx, &**deployment, &*set, false).await?);
            }
        }
        for set in self.sets.by_index("orphan", &meta.namespace) {
            let selected = deployment.spec.selector.selects(&set.metadata);
            if selected && !meta.is_deleting() && !set.metadata.is_deleting() {
                self.note(deployment, change_owner(self.ctx, &**deployment, &*set, true).await?);
                sets.push(set);
            }
        }
        Ok(sets)
    }

    fn note(&self, deployment: &Deployment, revision: client::Revision) {
        self.written_sets.note(&deployment.metadata.key(), revision);
    }

    // === doing ===

    async fn carry_out(&self, deployment: &Arc<Deployment>, plan: &mut Plan) -> Result<(), Error> {
        for step in std::mem::take(&mut plan.steps) {
            match step {
                Step::Create { name, hash, replicas, annotations } => {
                    let created = self.create(deployment, &name, &hash, replicas, &annotations).await;
                    if let Err(error) = created {
                        return self.create_failed(deployment, plan, &name, error).await;
                    }
                }
                Step::Write { set, replicas, annotations } => {
                    self.write_set(deployment, &set, replicas, &annotations).await?;
                }
                Step::Delete(set) => {
                    let meta = &set.metadata;
                    let options = DeleteOptions::uid(&meta.uid);
                    match self.ctx.client.delete::<ReplicaSet>(&meta.namespace, &meta.name, &options).await {
                        Err(error) if !error.is_not_found() => return Err(error),
                        _ => {}
                    }
                }
            }
        }
        Ok(())
    }

    async fn create(
        &self,
        deployment: &Arc<Deployment>,
        name: &str,
        hash: &str,
        replicas: i64,
        annotations: &[(String, String)],
    ) -> Result<(), Error> {
        let meta = &deployment.metadata;
        let (template, selector) = template::with_hash(deployment, hash);
        let annotations: Map<String, Value> =
            annotations.iter().map(|(key, value)| (key.clone(), value.clone().into())).collect();
        let set = json!({
            "apiVersion": "apps/v1",
            "kind": "ReplicaSet",
            "metadata": {
                "name": name,
                "namespace": meta.namespace,
                "labels": template["metadata"]["labels"],
                "annotations": annotations,
                "ownerReferences": [OwnerReference::controller(&**deployment)],
            },
            "spec": {
                "replicas": replicas,
                "minReadySeconds": deployment.spec.min_ready_seconds,
                "selector": selector,
                "template": template,
            },
        });
        let created = self.ctx.client.create::<ReplicaSet>(&meta.namespace, &set).await?;
        self.note(deployment, created.metadata.resource_version);
        if replicas > 0 {
            self.tell_scaled(deployment, name, 0, replicas);
        }
        Ok(())
    }

    /// A set of this name exists: it is ours and the cache is behind, or two templates have one hash, and the next
    /// attempt takes another.
    async fn create_failed(
        &self,
        deployment: &Arc<Deployment>,
        plan: &mut Plan,
        name: &str,
        error: Error,
    ) -> Result<(), Error> {
        if error.is_already_exists() {
            let existing = self.ctx.client.get::<ReplicaSet>(&deployment.metadata.namespace, name).await?;
            let ours =
                existing.metadata.controller().is_some_and(|owner| owner.uid == deployment.metadata.uid);
            if ours && template::is_same(&deployment.spec.template, &existing.spec.template) {
                self.note(deployment, existing.metadata.resource_version);
                return Ok(());
            }
            plan.status.collision_count = Some(plan.status.collision_count.unwrap_or_default() + 1);
            return Err(error);
        }
        if error.is_namespace_terminating() {
            return Ok(());
        }
        status::creation_failed(&mut plan.status, name, &error, Utc::now());
        let message = format!("Failed to create new replica set \"{name}\": {error}");
        self.ctx.recorder.warning(ObjectReference::of(&**deployment), "ReplicaSetCreateError", message);
        Err(error)
    }

    async fn write_set(
        &self,
        deployment: &Arc<Deployment>,
        set: &ReplicaSet,
        replicas: Option<i64>,
        annotations: &[(String, String)],
    ) -> Result<(), Error> {
        let annotations: Map<String, Value> =
            annotations.iter().map(|(key, value)| (key.clone(), value.clone().into())).collect();
        // The version makes two steps decided on one state impossible, also across two leaders.
        let mut change = json!({
            "metadata": { "resourceVersion": set.metadata.resource_version.to_string(), "annotations": annotations },
            "spec": { "minReadySeconds": deployment.spec.min_ready_seconds },
        });
        if let Some(replicas) = replicas {
            change["spec"]["replicas"] = replicas.into();
        }
        let (namespace, name) = (&set.metadata.namespace, &set.metadata.name);
        let written =
            self.ctx.client.patch::<ReplicaSet>(Patch::Merge, namespace, name, None, &change).await?;
        self.note(deployment, written.metadata.resource_version);
        if let Some(replicas) = replicas.filter(|replicas| *replicas != set.replicas()) {
            self.tell_scaled(deployment, name, set.replicas(), replicas);
        }
        Ok(())
    }

    fn tell_scaled(&self, deployment: &Deployment, set: &str, from: i64, to: i64) {
        let direction = if to > from { "up" } else { "down" };
        let message = format!("Scaled {direction} replica set {set} from {from} to {to}");
        self.ctx.recorder.normal(ObjectReference::of(deployment), "ScalingReplicaSet", message);
    }

    /// The revision annotation and the status, as far as they change.
    async fn write(&self, deployment: &Deployment, plan: &Plan) -> Result<(), Error> {
        let meta = &deployment.metadata;
        let current = meta.annotations.get(template::REVISION);
        if let Some(revision) = plan.revision.as_deref().filter(|revision| current != Some(*revision)) {
            let change = json!({ "metadata": { "annotations": { template::REVISION: revision } } });
            let patched =
                self.ctx.client.patch::<Deployment>(Patch::Merge, &meta.namespace, &meta.name, None, &change);
            match patched.await {
                Err(error) if !error.is_not_found() => return Err(error),
                _ => {}
            }
        }
        let wanted = &plan.status;
        if *wanted == deployment.status {
            return Ok(());
        }
        let change = json!({ "status": {
            "observedGeneration": wanted.observed_generation,
            "replicas": wanted.replicas,
            "updatedReplicas": wanted.updated_replicas,
            "readyReplicas": wanted.ready_replicas,
            "availableReplicas": wanted.available_replicas,
            "unavailableReplicas": wanted.unavailable_replicas,
            "collisionCount": wanted.collision_count,
            "conditions": wanted.conditions.iter().map(condition_json).collect::<Vec<_>>(),
        } });
        let (namespace, name) = (&meta.namespace, &meta.name);
        match self
            .ctx
            .client
            .patch::<Deployment>(Patch::Merge, namespace, name, Some("status"), &change)
            .await
        {
            // Progress is measured against the status: the next look must see this one.
            Ok(written) => self.written_status.note(&meta.key(), written.metadata.resource_version),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }
}
