//! Informers: a cache of one resource, kept by list and watch, read as snapshots and followed by subscriptions.
//!
//! One per (kind, projection) and process: take them from [`Informers`]. The watch resumes where it broke; when the
//! server no longer has what was missed (410), a new list is swapped in and only the differences are told.
use std::{
    any::{Any, TypeId},
    collections::HashMap,
    sync::Arc,
    time::Duration,
};

use futures::StreamExt;
use parking_lot::Mutex;
use tokio::{sync::watch, task::AbortHandle};

use crate::{
    ApiResource, Client, Error, HasMeta, ListOptions, Resource, Revision,
    backoff::{Backoff, jitter},
    watch::{Event, Watch},
};

mod store;
mod subscription;

pub use store::{IndexFn, Store};
pub use subscription::{Delta, Subscription};

/// A local server that restarts is back in well under a second.
const RETRY_FIRST: Duration = Duration::from_millis(50);
/// A server that stays away is asked at least this often: nodes shall see it within seconds of its return.
const RETRY_MAX: Duration = Duration::from_secs(5);
/// Watches are renewed now and then, so that load spreads again over servers; Kubernetes' clients do so too.
const WATCH_TIMEOUT_MIN: Duration = Duration::from_secs(300);
const WATCH_TIMEOUT_MAX: Duration = Duration::from_secs(600);

/// What an informer caches.
#[derive(Clone, Debug)]
pub struct Scope {
    /// Which resource.
    pub resource: ApiResource,
    /// Of which namespace; all if empty.
    pub namespace: String,
    /// Which of its objects.
    pub options: ListOptions,
    /// Whether the server need send metadata only.
    pub metadata_only: bool,
}

/// A running informer; it stops when all its handles and subscriptions are gone.
pub struct Informer<T: HasMeta> {
    store: Arc<Store<T>>,
    task: Arc<AbortOnDrop>,
}

#[derive(Debug)]
pub(crate) struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl<T: HasMeta> Clone for Informer<T> {
    fn clone(&self) -> Self {
        Self { store: self.store.clone(), task: self.task.clone() }
    }
}

// === impl Scope ===

impl Scope {
    /// All objects of a projection.
    pub fn all<T: Resource>() -> Self {
        Self::of(T::api_resource())
    }

    /// All objects of a resource.
    pub fn of(resource: ApiResource) -> Self {
        Self { resource, namespace: String::new(), options: ListOptions::default(), metadata_only: false }
    }

    /// Only those that the field selector selects.
    pub fn fields(mut self, selector: impl Into<String>) -> Self {
        self.options.fields = selector.into();
        self
    }

    /// Only those of one namespace.
    pub fn namespace(mut self, namespace: impl Into<String>) -> Self {
        self.namespace = namespace.into();
        self
    }
}

// === impl Informer ===

impl<T: Resource> Informer<T> {
    /// Starts an informer over all objects, with the projection's indexes.
    pub fn start(client: Client) -> Self {
        Self::start_scoped(client, Scope::all::<T>())
    }

    /// Starts an informer over some objects, with the projection's indexes.
    pub fn start_scoped(client: Client, scope: Scope) -> Self {
        Self::start_with(client, scope, T::indexes())
    }
}

impl<T: HasMeta> Informer<T> {
    /// Starts an informer with the given indexes.
    pub fn start_with(client: Client, scope: Scope, indexes: Vec<(&'static str, IndexFn<T>)>) -> Self {
        let store = Arc::new(Store::new(indexes));
        let reflector = Reflector { client, scope, store: store.clone() };
        let task = tokio::spawn(reflector.run());
        Self { store, task: Arc::new(AbortOnDrop(task.abort_handle())) }
    }

    /// The cache.
    pub fn store(&self) -> &Arc<Store<T>> {
        &self.store
    }

    /// Follows the cache: first all it holds, then [`Delta::Synced`] once it is complete, then every change.
    pub fn subscribe(&self) -> Subscription<T> {
        self.store.subscribe(self.task.clone())
    }

    /// Waits until the first list is in the cache.
    pub async fn synced(&self) {
        let mut revisions = self.revisions();
        while !self.store.is_synced() {
            if revisions.changed().await.is_err() {
                return;
            }
        }
    }

    /// The newest revision that the cache reflects; changes with every event, also with bookmarks.
    pub fn revisions(&self) -> watch::Receiver<Revision> {
        self.store.revisions()
    }
}

// === the reflector ===

struct Reflector<T> {
    client: Client,
    scope: Scope,
    store: Arc<Store<T>>,
}

/// How a watch ended.
enum Ended {
    /// It may be resumed from the cache's revision.
    Resume,
    /// What was missed is gone.
    Relist,
}

impl<T: HasMeta> Reflector<T> {
    async fn run(self) {
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MAX);
        loop {
            match self.list().await {
                Ok(()) => backoff.reset(),
                Err(error) => {
                    self.wait(&mut backoff, "list", &error).await;
                    continue;
                }
            }
            self.watch_until_gone(&mut backoff).await;
        }
    }

    async fn list(&self) -> Result<(), Error> {
        let Scope { resource, namespace, options, metadata_only } = &self.scope;
        let list = self.client.list_as(resource, namespace, options, *metadata_only).await?;
        self.store.replace(list.items, list.revision);
        Ok(())
    }

    /// Resumes the watch for as long as the server can.
    async fn watch_until_gone(&self, backoff: &mut Backoff) {
        loop {
            let before = self.store.revision();
            match self.watch().await {
                Ok(Ended::Resume) => {
                    // A server that ends watches at once, without an event, must not be asked in a tight loop.
                    if self.store.revision() == before {
                        tokio::time::sleep(backoff.next_wait()).await;
                    } else {
                        backoff.reset();
                    }
                }
                Ok(Ended::Relist) => return,
                Err(error) => self.wait(backoff, "watch", &error).await,
            }
        }
    }

    async fn watch(&self) -> Result<Ended, Error> {
        let Scope { resource, namespace, options, metadata_only } = &self.scope;
        let timeout = jitter(WATCH_TIMEOUT_MIN, WATCH_TIMEOUT_MAX);
        let watch = self
            .client
            .watch_as(resource, namespace, options, self.store.revision(), Some(timeout), *metadata_only)
            .await;
        let mut watch: Watch<T> = match watch {
            Err(error) if error.is_expired() => return Ok(Ended::Relist),
            other => other?,
        };
        while let Some(event) = watch.next().await {
            match event {
                Ok(Event::Upsert(object)) => self.store.upsert(object),
                Ok(Event::Delete(object)) => self.store.delete(&object),
                Ok(Event::Bookmark(revision)) => self.store.advance(revision),
                Err(error) if error.is_expired() => return Ok(Ended::Relist),
                Err(error) => return Err(error),
            }
        }
        Ok(Ended::Resume)
    }

    async fn wait(&self, backoff: &mut Backoff, verb: &'static str, error: &Error) {
        let wait = backoff.next_wait();
        let (resource, failures) = (&self.scope.resource.plural, backoff.failures());
        // The first failure is what every restart of a server looks like; of a longer one the transport tells.
        if failures > 1 && !error.is_transport() {
            tracing::warn!(
                resource,
                verb,
                failures,
                error = error.chain(),
                "the cache is not current; trying again"
            );
        } else {
            tracing::debug!(resource, verb, error = error.chain(), "trying again");
        }
        tokio::time::sleep(wait).await;
    }
}

// === shared informers ===

/// The informers of a process, one per projection, started when first asked for.
#[derive(Clone)]
pub struct Informers {
    client: Client,
    started: Arc<Mutex<HashMap<TypeId, Arc<dyn Any + Send + Sync>>>>,
}

impl Informers {
    /// None yet.
    pub fn new(client: Client) -> Self {
        Self { client, started: Arc::default() }
    }

    /// The informer of a projection.
    pub fn get<T: Resource>(&self) -> Informer<T> {
        let mut started = self.started.lock();
        let entry = started
            .entry(TypeId::of::<T>())
            .or_insert_with(|| Arc::new(Informer::<T>::start(self.client.clone())));
        entry.downcast_ref::<Informer<T>>().expect("invariant: entries are keyed by their type").clone()
    }

    /// The client they use.
    pub fn client(&self) -> &Client {
        &self.client
    }
}

#[cfg(test)]
mod tests;
