//! Keeps the graph current for one resource: list, watch, list again when the watch has lost its place.
//!
//! No informer: its cache would hold metadata of every object of the cluster, of which the graph needs a number each.
use std::{collections::HashSet, sync::Arc, time::Duration};

use client::{
    ApiResource, Error, ListOptions, Revision, backoff::Backoff, objects::PartialObject, watch::Event,
};
use futures::StreamExt;
use tokio::sync::Semaphore;

use super::{Collector, graph::Uid};

/// A server that restarts is back in well under a second.
pub(super) const RETRY_FIRST: Duration = Duration::from_millis(50);
/// Garbage can wait.
pub(super) const RETRY_MAX: Duration = Duration::from_secs(30);

/// Feeds the graph for ever. Adds one permit to `synced` after the first list.
pub(super) async fn run(collector: &Collector<'_>, resource: Arc<ApiResource>, synced: &Semaphore) {
    let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MAX);
    let mut first = true;
    loop {
        match list(collector, &resource).await {
            Ok(revision) => {
                if first {
                    synced.add_permits(1);
                    first = false;
                }
                backoff.reset();
                watch(collector, &resource, revision, &mut backoff).await;
            }
            Err(error) => {
                tracing::debug!(
                    resource = resource.plural,
                    error = error.chain(),
                    "cannot list; trying again"
                );
                tokio::time::sleep(backoff.next_wait()).await;
            }
        }
    }
}

async fn list(collector: &Collector<'_>, resource: &Arc<ApiResource>) -> Result<Revision, Error> {
    let list =
        collector.ctx.client.list_as::<PartialObject>(resource, "", &ListOptions::default(), true).await?;
    let mut affected = Vec::new();
    {
        let mut graph = collector.graph.lock();
        let mut seen = HashSet::with_capacity(list.items.len());
        for object in &list.items {
            seen.insert(Uid::of(&object.metadata.uid));
            affected.extend(graph.observe(resource, &object.metadata));
        }
        affected.extend(graph.forget_all_but(resource, &seen));
    }
    affected.into_iter().for_each(|uid| collector.queue.add(uid));
    Ok(list.revision)
}

/// Resumes the watch for as long as the server can.
async fn watch(
    collector: &Collector<'_>,
    resource: &Arc<ApiResource>,
    mut from: Revision,
    backoff: &mut Backoff,
) {
    loop {
        let before = from;
        match watch_once(collector, resource, &mut from).await {
            Err(error) if error.is_expired() => return,
            Err(error) => {
                tracing::debug!(
                    resource = resource.plural,
                    error = error.chain(),
                    "the watch broke off; resuming"
                );
            }
            Ok(()) => {}
        }
        if from == before {
            tokio::time::sleep(backoff.next_wait()).await;
        } else {
            backoff.reset();
        }
    }
}

async fn watch_once(
    collector: &Collector<'_>,
    resource: &Arc<ApiResource>,
    from: &mut Revision,
) -> Result<(), Error> {
    let options = ListOptions::default();
    let mut events =
        collector.ctx.client.watch_as::<PartialObject>(resource, "", &options, *from, None, true).await?;
    while let Some(event) = events.next().await {
        let affected = match event? {
            Event::Upsert(object) => {
                *from = object.metadata.resource_version;
                collector.graph.lock().observe(resource, &object.metadata)
            }
            Event::Delete(object) => {
                *from = object.metadata.resource_version;
                collector.graph.lock().forget(Uid::of(&object.metadata.uid))
            }
            Event::Bookmark(revision) => {
                *from = revision;
                Vec::new()
            }
        };
        affected.into_iter().for_each(|uid| collector.queue.add(uid));
    }
    Ok(())
}
