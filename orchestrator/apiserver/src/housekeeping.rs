//! What is done now and then: the store's history is given up, caches let go of old events, objects are counted.

use std::sync::Arc;
use std::time::Duration;

use store::{Revision, StoreError};
use tokio_util::sync::CancellationToken;

use crate::app::Api;

/// How often caches are looked at.
const INTERVAL: Duration = Duration::from_secs(30);
/// Rounds between compactions, which are five minutes as in Kubernetes: pages of lists can be continued that long.
const ROUNDS_PER_COMPACTION: u32 = 10;

/// Keeps house until `stop`.
pub async fn run(api: Arc<Api>, stop: CancellationToken) {
    let mut interval = tokio::time::interval(INTERVAL);
    let mut before: Option<Revision> = None;
    for round in 0_u32.. {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = interval.tick() => {}
        }
        for resource in api.resources.iter().filter(|resource| !resource.is_view()) {
            let Some(cache) = &resource.cache else { continue };
            cache.trim();
            let labels = [&*resource.kind.plural, &*resource.kind.group];
            api.metrics.objects.with_label_values(&labels).set(cache.len() as i64);
        }
        if round.is_multiple_of(ROUNDS_PER_COMPACTION) {
            let now = api.feed.observed();
            if let Some(revision) = before.replace(now) {
                compact(&api, revision).await;
            }
        }
    }
}

/// Gives up what was history five minutes ago.
async fn compact(api: &Api, revision: Revision) {
    match api.feed.store().compact(revision).await {
        // Another server was faster.
        Ok(()) | Err(StoreError::Compacted { .. }) => {}
        Err(error) => {
            tracing::warn!(%error, revision, "the store's history was not compacted; it is tried again")
        }
    }
}
