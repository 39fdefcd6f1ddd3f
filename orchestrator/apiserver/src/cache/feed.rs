//! The feed: one watch over the store's whole `/registry/`, split by resource.
//!
//! It loads everything at one revision, follows the store from there, and starts over when history is gone. Its
//! revision is what consistent reads wait for.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use store::{Event, KeyRange, KeyValue, RangeOptions, Revision, Store, StoreError, WatchItem, WatchStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::fanout;
use super::resource::{Change, ResourceCache};

/// Where all objects are kept in the store.
pub const REGISTRY: &str = "/registry/";

/// Keys read from the store at once while loading: a few MiB an answer.
const LOAD_PAGE: usize = 2_000;
/// Revisions taken from the store's watch at once; more only make the first of them wait for the last.
const BATCH: usize = 256;
/// How long a consistent read waits before it asks the store for progress: longer than a commit needs to come by itself.
const PROGRESS_AFTER: Duration = Duration::from_millis(20);
/// How long a consistent read waits in all; Kubernetes waits as long.
const WAIT_MAX: Duration = Duration::from_secs(3);
/// Pause between attempts to reach a store that does not answer.
const RETRY: Duration = Duration::from_millis(250);

/// Who is told of keys that are no objects, such as claims of addresses.
pub trait Sink: Send + Sync + 'static {
    /// All keys under the sink's prefix, as of loading.
    fn replace(&self, keys: Vec<KeyValue>);
    /// One change.
    fn apply(&self, event: &Event);
}

/// Reads the store for all caches.
pub struct Feed {
    store: Arc<dyn Store>,
    resources: HashMap<String, Arc<ResourceCache>>,
    sinks: HashMap<String, Arc<dyn Sink>>,
    observed: watch::Sender<Revision>,
}

/// Why a consistent read is not possible now.
#[derive(Debug, thiserror::Error)]
pub enum FreshError {
    /// The store does not say what is current.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The feed did not get there in time.
    #[error("the watch cache is at revision {observed} and did not reach {wanted} within {} s", WAIT_MAX.as_secs())]
    Behind {
        /// The revision waited for.
        wanted: Revision,
        /// The revision reached.
        observed: Revision,
    },
}

// === impl Feed ===

impl Feed {
    /// A feed for the given resources (keyed `group/plural`, the core group as `core`) and sinks.
    pub fn new(
        store: Arc<dyn Store>,
        observed: watch::Sender<Revision>,
        resources: HashMap<String, Arc<ResourceCache>>,
        sinks: HashMap<String, Arc<dyn Sink>>,
    ) -> Arc<Self> {
        Arc::new(Self { store, resources, sinks, observed })
    }

    /// Loads everything, then follows the store in a task until `stop`.
    pub async fn start(self: &Arc<Self>, stop: CancellationToken) -> Result<(), StoreError> {
        let stream = self.load().await?;
        for cache in self.resources.values() {
            let fanout = fanout::run(cache.clone());
            let stop = stop.clone();
            tokio::spawn(async move { stop.run_until_cancelled_owned(fanout).await });
        }
        let feed = self.clone();
        tokio::spawn(async move { stop.run_until_cancelled(feed.run(stream)).await });
        Ok(())
    }

    /// The revision that all caches have reached.
    pub fn observed(&self) -> Revision {
        *self.observed.borrow()
    }

    /// The store that is read.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// Waits until the caches hold every write acknowledged before the call. `false` says that they may not, because
    /// the store cannot be asked for progress: the caller must read from the store.
    pub async fn fresh(&self) -> Result<bool, FreshError> {
        let revision = self.store.revision().await?;
        if self.store.progress_is_reliable() {
            return self.reached(revision).await.map(|()| true);
        }
        // Every write to `/registry/` is an event of the one watch, so that the caches get there all the same,
        // unless the revision is that of a key elsewhere.
        let mut observed = self.observed.subscribe();
        Ok(tokio::time::timeout(PROGRESS_AFTER, observed.wait_for(|at| *at >= revision)).await.is_ok())
    }

    /// Waits until the caches hold everything up to `revision`.
    pub async fn reached(&self, wanted: Revision) -> Result<(), FreshError> {
        if self.observed() >= wanted {
            return Ok(());
        }
        let mut observed = self.observed.subscribe();
        if tokio::time::timeout(PROGRESS_AFTER, observed.wait_for(|at| *at >= wanted)).await.is_ok() {
            return Ok(());
        }
        // Only a write outside of `/registry/`, or a slow store, brings us here.
        if self.store.progress_is_reliable() {
            _ = self.store.request_progress().await;
        }
        let reached = tokio::time::timeout(WAIT_MAX, observed.wait_for(|at| *at >= wanted)).await.is_ok();
        if reached { Ok(()) } else { Err(FreshError::Behind { wanted, observed: self.observed() }) }
    }

    async fn load(&self) -> Result<WatchStream, StoreError> {
        let mut by_resource: HashMap<&str, Vec<KeyValue>> = HashMap::new();
        let mut range = KeyRange::prefix(REGISTRY);
        let mut options = RangeOptions { limit: LOAD_PAGE, ..RangeOptions::default() };
        loop {
            let page = self.store.range(range.clone(), options.clone()).await?;
            options.revision = Some(page.revision);
            if let Some(last) = page.items.last().filter(|_| page.more) {
                range = range.after(&last.key);
            }
            for item in page.items {
                if let Some(name) = self.name_of(&item.key) {
                    by_resource.entry(name).or_default().push(item);
                }
            }
            if !page.more {
                break;
            }
        }
        let revision = options.revision.unwrap_or_default();
        let stream = self.store.watch(KeyRange::prefix(REGISTRY), revision + 1).await?;
        for (name, cache) in &self.resources {
            let items = by_resource.remove(name.as_str()).unwrap_or_default();
            cache.replace(items.into_iter().filter_map(|item| cache.entry(item)).collect(), revision);
        }
        for (name, sink) in &self.sinks {
            sink.replace(by_resource.remove(name.as_str()).unwrap_or_default());
        }
        self.observed.send_replace(revision);
        Ok(stream)
    }

    async fn run(&self, mut stream: WatchStream) {
        loop {
            let error = self.follow(stream).await;
            tracing::warn!(error = error.to_string(), "the watch of the store ended; reconnecting");
            stream = self.resume().await;
        }
    }

    /// A new watch: from where the old one ended if history still has that, else after loading all anew.
    async fn resume(&self) -> WatchStream {
        loop {
            let resumed = match self.store.watch(KeyRange::prefix(REGISTRY), self.observed() + 1).await {
                Err(StoreError::Compacted { .. }) => self.load().await,
                other => other,
            };
            match resumed {
                Ok(stream) => return stream,
                Err(error) => tracing::debug!(%error, "the store cannot be watched yet"),
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    async fn follow(&self, stream: WatchStream) -> StoreError {
        let mut stream = stream.ready_chunks(BATCH);
        while let Some(items) = stream.next().await {
            if let Err(error) = self.apply(items) {
                return error;
            }
        }
        StoreError::Closed
    }

    fn apply(&self, items: Vec<Result<WatchItem, StoreError>>) -> Result<(), StoreError> {
        let mut changes: Vec<(&Arc<ResourceCache>, Vec<Change>)> = Vec::new();
        let mut reached = self.observed();
        let mut failed = None;
        for item in items {
            match item {
                Ok(WatchItem::Progress { revision }) => reached = reached.max(revision),
                Ok(WatchItem::Events { revision, events }) => {
                    events.into_iter().for_each(|event| self.sort(event, &mut changes));
                    reached = reached.max(revision);
                }
                Err(error) => failed = Some(error),
            }
        }
        for (cache, changes) in changes {
            cache.apply(changes);
        }
        if reached > self.observed() {
            self.observed.send_replace(reached);
        }
        failed.map_or(Ok(()), Err)
    }

    fn sort<'a>(&'a self, event: Event, changes: &mut Vec<(&'a Arc<ResourceCache>, Vec<Change>)>) {
        let Some(name) = resource_of(event.key()) else { return };
        if let Some(sink) = self.sinks.get(name) {
            sink.apply(&event);
        }
        let Some(cache) = self.resources.get(name) else { return };
        let Some(change) = cache.prepare(event) else { return };
        match changes.iter_mut().find(|(own, _)| Arc::ptr_eq(own, cache)) {
            Some((_, list)) => list.push(change),
            None => changes.push((cache, vec![change])),
        }
    }

    fn name_of(&self, key: &Bytes) -> Option<&str> {
        let name = resource_of(key)?;
        let known = self.resources.get_key_value(name).map(|(name, _)| name.as_str());
        known.or_else(|| self.sinks.get_key_value(name).map(|(name, _)| name.as_str()))
    }
}

/// The `group/plural` part of a key.
fn resource_of(key: &[u8]) -> Option<&str> {
    let rest = std::str::from_utf8(key.strip_prefix(REGISTRY.as_bytes())?).ok()?;
    let group = rest.find('/')?;
    let plural = rest[group + 1..].find('/')?;
    Some(&rest[..group + 1 + plural])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_resource_of_a_key() {
        assert_eq!(resource_of(b"/registry/core/pods/a/b"), Some("core/pods"));
        assert_eq!(resource_of(b"/registry/apps/deployments/x"), Some("apps/deployments"));
        assert_eq!(resource_of(b"/registry/core/pods"), None);
        assert_eq!(resource_of(b"/elsewhere/core/pods/a"), None);
    }
}
