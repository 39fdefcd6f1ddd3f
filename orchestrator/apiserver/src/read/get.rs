//! Get one object.

use std::sync::Arc;

use api::ApiError;
use store::{KeyRange, RangeOptions};

use crate::cache::{Entry, Feed};
use crate::error::{from_fresh, from_reached, from_store};
use crate::options::Version;
use crate::resources::Resource;

/// The object, at least as new as the version asked for; without one, as it is now.
pub async fn get(
    feed: &Feed,
    resource: &Resource,
    namespace: &str,
    name: &str,
    version: Version,
) -> Result<Arc<Entry>, ApiError> {
    let cache = resource.objects()?;
    match version {
        Version::Any => {}
        Version::At(revision) => feed.reached(revision).await.map_err(from_reached)?,
        Version::Unset if feed.fresh().await.map_err(from_fresh)? => {}
        Version::Unset => return stored(feed, resource, namespace, name).await,
    }
    let found = cache.get(&resource.path(namespace, name));
    found.ok_or_else(|| ApiError::not_found(&*resource.kind, name))
}

/// The object as the store has it now.
pub async fn stored(
    feed: &Feed,
    resource: &Resource,
    namespace: &str,
    name: &str,
) -> Result<Arc<Entry>, ApiError> {
    let cache = resource.objects()?;
    let range = KeyRange::key(resource.key(namespace, name));
    let read = feed.store().range(range, RangeOptions::default()).await.map_err(from_store)?;
    let found = read.items.into_iter().next().and_then(|kv| cache.entry(kv));
    found.ok_or_else(|| ApiError::not_found(&*resource.kind, name))
}
