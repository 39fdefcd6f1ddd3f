//! Pods that no agent will ever end: bound to a node that does not exist any more, or deleted before they were bound.
//!
//! A node that is only unreachable keeps its pods: that is for the node lifecycle. Here the node's object is gone.
use std::{sync::Arc, time::Duration};

use client::{DeleteOptions, Error, ObjectKey, informer::Store};

use crate::{
    Context,
    objects::{Node, Pod},
    work::{Next, WorkQueue, follow, sides},
};

/// A node that was deleted by mistake, or is being replaced, registers again within this time.
const NODE_ABSENT: Duration = Duration::from_secs(20);
/// Pods worked on at a time.
const WORKERS: usize = 4;

/// Runs the controller.
pub async fn run(ctx: Context) {
    let (pods, nodes) = (ctx.informers.get::<Pod>(), ctx.informers.get::<Node>());
    pods.synced().await;
    nodes.synced().await;
    let queue = WorkQueue::<ObjectKey>::default();
    let reconcile = |key: ObjectKey| {
        let (ctx, pods, nodes) = (&ctx, pods.store(), nodes.store());
        async move { collect(ctx, &key, pods, nodes).await }
    };
    tokio::join!(
        follow(pods.subscribe(), |delta| {
            let concerns = |pod: &&Pod| pod.metadata.is_deleting() || is_orphaned(pod, nodes.store());
            for pod in sides(&delta).filter(concerns) {
                schedule(&queue, pod, nodes.store());
            }
        }),
        follow(nodes.subscribe(), |delta| {
            if let client::Delta::Delete(node) = delta {
                let bound =
                    pods.store().all().into_iter().filter(|pod| *pod.spec.node_name == *node.metadata.name);
                bound.for_each(|pod| queue.add_after(pod.metadata.key(), NODE_ABSENT));
            }
        }),
        queue.work("pod-gc", &ctx.metrics, WORKERS, reconcile),
    );
}

fn schedule(queue: &WorkQueue<ObjectKey>, pod: &Pod, nodes: &Arc<Store<Node>>) {
    if is_orphaned(pod, nodes) {
        queue.add_after(pod.metadata.key(), NODE_ABSENT);
    } else if pod.spec.node_name.is_empty() {
        queue.add(pod.metadata.key());
    }
}

fn is_orphaned(pod: &Pod, nodes: &Arc<Store<Node>>) -> bool {
    !pod.spec.node_name.is_empty() && nodes.get(&ObjectKey::new("", &pod.spec.node_name)).is_none()
}

async fn collect(
    ctx: &Context,
    key: &ObjectKey,
    pods: &Arc<Store<Pod>>,
    nodes: &Arc<Store<Node>>,
) -> Result<Next, Error> {
    let Some(pod) = pods.get(key) else { return Ok(Next::Done) };
    let never_bound = pod.metadata.is_deleting() && pod.spec.node_name.is_empty();
    if !never_bound && !is_orphaned(&pod, nodes) {
        return Ok(Next::Done);
    }
    if !never_bound {
        // The cache may lack a node that has just registered.
        match ctx.client.get::<Node>("", &pod.spec.node_name).await {
            Ok(_) => return Ok(Next::Done),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
        tracing::info!(
            pod = &*key.name,
            namespace = &*key.namespace,
            node = &*pod.spec.node_name,
            "its node is gone: removing the pod"
        );
    }
    let options = DeleteOptions::uid(&pod.metadata.uid).grace(0);
    match ctx.client.delete::<Pod>(&key.namespace, &key.name, &options).await {
        Err(error) if !error.is_not_found() && !error.is_conflict() => Err(error),
        _ => Ok(Next::Done),
    }
}
