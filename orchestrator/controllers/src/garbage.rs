//! Garbage collection: objects whose owners are all gone go too; foreground deletion and orphaning are carried out.
//!
//! What is kept of the cluster is small: the uid of every object, and metadata only of those that have owners or are
//! being deleted in a way that concerns this controller ([`graph`]). Every decision to delete is checked against the
//! API server first: a cache may be behind, a deletion cannot be taken back.
use std::sync::Arc;

use client::{
    ApiResource, DeleteOptions, Error, Meta, OwnerReference, Patch, Propagation, discovery::discover,
    objects::PartialObject,
};
use parking_lot::Mutex;
use serde_json::json;

use crate::{
    Context,
    work::{Next, WorkQueue},
};

mod feed;
pub mod graph;

use graph::{Graph, Node, Uid};

/// Finalizer of an object that waits for its dependents to go first.
pub const FOREGROUND: &str = "foregroundDeletion";
/// Finalizer of an object whose dependents shall live on.
pub const ORPHAN: &str = "orphan";
/// Objects worked on at a time.
const WORKERS: usize = 8;
/// Resources whose objects own nothing and are owned by nothing, and of which there are many.
const IGNORED: &[&str] = &["events"];

/// Runs the controller.
pub async fn run(ctx: Context) {
    let mut backoff = client::backoff::Backoff::new(feed::RETRY_FIRST, feed::RETRY_MAX);
    let found = loop {
        match discover(&ctx.client).await {
            Ok(found) => break found,
            Err(error) => {
                tracing::debug!(
                    error = error.chain(),
                    "cannot learn which resources there are; trying again"
                );
                tokio::time::sleep(backoff.next_wait()).await;
            }
        }
    };
    let collected = found.into_iter().filter(|each| {
        each.has("list")
            && each.has("watch")
            && each.has("delete")
            && !IGNORED.contains(&&*each.resource.plural)
    });
    let collector = Collector {
        ctx: &ctx,
        resources: collected.map(|each| Arc::new(each.resource)).collect(),
        graph: Mutex::default(),
        queue: WorkQueue::default(),
    };
    let synced = tokio::sync::Semaphore::new(0);
    let feeds = collector.resources.iter().map(|resource| feed::run(&collector, resource.clone(), &synced));
    let wanted = u32::try_from(collector.resources.len()).unwrap_or(u32::MAX);
    let work = async {
        // An object that a feed has not told of yet would count as gone. The semaphore is never closed.
        if let Ok(permits) = synced.acquire_many(wanted).await {
            permits.forget();
            collector.queue.work("garbage", &ctx.metrics, WORKERS, |uid| collector.reconcile(uid)).await;
        }
    };
    tokio::join!(futures::future::join_all(feeds), work);
}

pub(crate) struct Collector<'a> {
    ctx: &'a Context,
    resources: Vec<Arc<ApiResource>>,
    graph: Mutex<Graph>,
    queue: WorkQueue<Uid>,
}

/// What the API server says of an object's owners.
#[derive(Default)]
struct Owners {
    /// There, and not waiting for their dependents.
    solid: usize,
    /// Waiting for their dependents to go.
    waiting: usize,
    /// Gone.
    dangling: Vec<OwnerReference>,
}

impl Collector<'_> {
    async fn reconcile(&self, uid: Uid) -> Result<Next, Error> {
        let Some(node) = self.graph.lock().node(uid).cloned() else { return Ok(Next::Done) };
        if node.orphaning {
            return self.orphan(uid, &node).await;
        }
        if node.foreground {
            return self.delete_dependents(uid, &node).await;
        }
        if node.deleting || node.owners.is_empty() {
            return Ok(Next::Done);
        }
        self.judge(uid, &node).await
    }

    /// An object with owners: goes when none of them is left.
    async fn judge(&self, uid: Uid, node: &Node) -> Result<Next, Error> {
        let suspicious = {
            let graph = self.graph.lock();
            node.owners.iter().any(|owner| {
                !graph.is_alive(Uid::of(&owner.uid)) || graph.waits_for_dependents(Uid::of(&owner.uid))
            })
        };
        if !suspicious {
            return Ok(Next::Done);
        }
        let Some(live) = self.read(node).await? else { return Ok(Next::Done) };
        if Uid::of(&live.uid) != uid || live.is_deleting() {
            return Ok(Next::Done);
        }
        let owners = self.owners(&live).await?;
        if owners.solid > 0 {
            return self.drop_dangling(node, &live, &owners.dangling).await;
        }
        let policy = if owners.waiting > 0 && self.graph.lock().has_dependents(uid) {
            Propagation::Foreground
        } else {
            Propagation::Background
        };
        self.delete(node, &live.uid, policy).await
    }

    async fn owners(&self, live: &Meta) -> Result<Owners, Error> {
        let mut found = Owners::default();
        for reference in &live.owner_references {
            let Some(resource) = self.resource(reference) else {
                // A kind that this server does not have cannot be judged: keep what it owns.
                tracing::debug!(
                    kind = &*reference.kind,
                    owner = &*reference.name,
                    "an owner of an unknown kind"
                );
                found.solid += 1;
                continue;
            };
            let namespace = if resource.namespaced { &*live.namespace } else { "" };
            match self.ctx.client.get_as::<PartialObject>(resource, namespace, &reference.name).await {
                Ok(owner) if owner.metadata.uid != reference.uid => found.dangling.push(reference.clone()),
                Ok(owner) if waits(&owner.metadata) => found.waiting += 1,
                Ok(_) => found.solid += 1,
                Err(error) if error.is_not_found() => found.dangling.push(reference.clone()),
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    fn resource(&self, reference: &OwnerReference) -> Option<&ApiResource> {
        let group = reference.api_version.split_once('/').map_or("", |(group, _)| group);
        self.resources
            .iter()
            .map(|resource| &**resource)
            .find(|r| *r.kind == *reference.kind && r.group == group)
    }

    async fn read(&self, node: &Node) -> Result<Option<Meta>, Error> {
        match self
            .ctx
            .client
            .get_as::<PartialObject>(&node.resource, &node.key.namespace, &node.key.name)
            .await
        {
            Ok(object) => Ok(Some(object.metadata)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn delete(&self, node: &Node, uid: &str, policy: Propagation) -> Result<Next, Error> {
        let options = DeleteOptions::uid(uid).propagation(policy);
        match self.ctx.client.delete_as(&node.resource, &node.key.namespace, &node.key.name, &options).await {
            // A conflict says that another object has the name now: this one is gone.
            Err(error) if !error.is_not_found() && !error.is_conflict() => Err(error),
            _ => Ok(Next::Done),
        }
    }

    /// Some owners are left: references to the others go.
    async fn drop_dangling(
        &self,
        node: &Node,
        live: &Meta,
        dangling: &[OwnerReference],
    ) -> Result<Next, Error> {
        if !dangling.is_empty() {
            let kept: Vec<_> = live.owner_references.iter().filter(|own| !dangling.contains(own)).collect();
            self.patch(node, live, json!({ "ownerReferences": kept })).await?;
        }
        Ok(Next::Done)
    }

    /// Foreground: dependents that block the owner go first, then the finalizer.
    async fn delete_dependents(&self, uid: Uid, node: &Node) -> Result<Next, Error> {
        let dependents = self.graph.lock().dependents(uid);
        let mut blocked = false;
        for (dependent_uid, dependent) in &dependents {
            let reference = dependent.owners.iter().find(|owner| Uid::of(&owner.uid) == uid);
            blocked |= reference.and_then(|owner| owner.block_owner_deletion) == Some(true);
            self.queue.add(*dependent_uid);
        }
        // The last dependent's end has this looked at again.
        if blocked { Ok(Next::Done) } else { self.drop_finalizer(node, FOREGROUND).await }
    }

    /// Orphaning: dependents lose their reference first, then the finalizer goes.
    async fn orphan(&self, uid: Uid, node: &Node) -> Result<Next, Error> {
        let dependents = self.graph.lock().dependents(uid);
        for (_, dependent) in &dependents {
            let Some(live) = self.read(dependent).await? else { continue };
            let kept: Vec<_> = live.owner_references.iter().filter(|own| Uid::of(&own.uid) != uid).collect();
            if kept.len() < live.owner_references.len() {
                self.patch(dependent, &live, json!({ "ownerReferences": kept })).await?;
            }
        }
        self.drop_finalizer(node, ORPHAN).await
    }

    async fn drop_finalizer(&self, node: &Node, finalizer: &str) -> Result<Next, Error> {
        let Some(live) = self.read(node).await? else { return Ok(Next::Done) };
        let kept: Vec<_> = live.finalizers.iter().filter(|own| &***own != finalizer).collect();
        if kept.len() < live.finalizers.len() {
            self.patch(node, &live, json!({ "finalizers": kept })).await?;
        }
        Ok(Next::Done)
    }

    /// Lists in metadata are written whole, so the revision that they were read at goes along: a writer in between wins.
    async fn patch(&self, node: &Node, live: &Meta, mut metadata: serde_json::Value) -> Result<(), Error> {
        metadata["uid"] = json!(live.uid);
        metadata["resourceVersion"] = json!(live.resource_version.to_string());
        let body = json!({ "metadata": metadata });
        let (namespace, name) = (&node.key.namespace, &node.key.name);
        let patched = self.ctx.client.patch_as::<PartialObject>(
            &node.resource,
            Patch::Merge,
            namespace,
            name,
            None,
            &body,
        );
        match patched.await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }
}

fn waits(owner: &Meta) -> bool {
    owner.is_deleting() && owner.finalizers.iter().any(|finalizer| &**finalizer == FOREGROUND)
}
