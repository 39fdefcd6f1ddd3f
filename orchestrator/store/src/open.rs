//! Opening a store: the engine that the configuration names, with its requests counted.

use std::{sync::Arc, time::Duration, time::Instant};

use async_trait::async_trait;
use prometheus::Registry;

use crate::{
    EngineConfig, KeyRange, LeaseId, RangeOptions, RangeResult, Revision, Store, StoreConfig, StoreError,
    Txn, TxnResult, WatchStream, embedded::EmbeddedStore, etcd::EtcdStore, metrics::Metrics,
};

/// Opens the store. Its metrics are registered in `registry`, which serves one store.
pub async fn open(config: StoreConfig, registry: &Registry) -> Result<Arc<dyn Store>, StoreError> {
    let metrics = Arc::new(Metrics::register(registry)?);
    match &config.engine {
        EngineConfig::Embedded { path } => {
            let store = EmbeddedStore::open(path, &config, metrics.clone()).await?;
            Ok(Arc::new(Counted { store, metrics }))
        }
        EngineConfig::Etcd { endpoints } => {
            let store = EtcdStore::open(endpoints, &config, metrics.clone()).await?;
            Ok(Arc::new(Counted { store, metrics }))
        }
    }
}

/// A store whose requests are counted.
struct Counted<S> {
    store: S,
    metrics: Arc<Metrics>,
}

#[async_trait]
impl<S: Store> Store for Counted<S> {
    async fn range(&self, range: KeyRange, options: RangeOptions) -> Result<RangeResult, StoreError> {
        let start = Instant::now();
        let result = self.store.range(range, options).await;
        self.metrics.count("range", start, &result);
        result
    }

    async fn txn(&self, txn: Txn) -> Result<TxnResult, StoreError> {
        let start = Instant::now();
        let result = self.store.txn(txn).await;
        self.metrics.count("txn", start, &result);
        result
    }

    async fn watch(&self, range: KeyRange, from: Revision) -> Result<WatchStream, StoreError> {
        let start = Instant::now();
        let result = self.store.watch(range, from).await;
        self.metrics.count("watch", start, &result);
        result
    }

    async fn revision(&self) -> Result<Revision, StoreError> {
        let start = Instant::now();
        let result = self.store.revision().await;
        self.metrics.count("revision", start, &result);
        result
    }

    async fn request_progress(&self) -> Result<(), StoreError> {
        let start = Instant::now();
        let result = self.store.request_progress().await;
        self.metrics.count("progress", start, &result);
        result
    }

    fn progress_is_reliable(&self) -> bool {
        self.store.progress_is_reliable()
    }

    async fn lease_grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        let start = Instant::now();
        let result = self.store.lease_grant(ttl).await;
        self.metrics.count("lease_grant", start, &result);
        result
    }

    async fn lease_keepalive(&self, lease: LeaseId) -> Result<(), StoreError> {
        let start = Instant::now();
        let result = self.store.lease_keepalive(lease).await;
        self.metrics.count("lease_keepalive", start, &result);
        result
    }

    async fn lease_revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        let start = Instant::now();
        let result = self.store.lease_revoke(lease).await;
        self.metrics.count("lease_revoke", start, &result);
        result
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        let start = Instant::now();
        let result = self.store.compact(revision).await;
        self.metrics.count("compact", start, &result);
        result
    }

    async fn close(&self) {
        self.store.close().await;
    }

    fn describe(&self) -> String {
        self.store.describe()
    }
}
