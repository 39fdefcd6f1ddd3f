//! A cluster in memory: records what the node reports and serves what tests put in.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use chrono::{Duration, Utc};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use super::{Cluster, ClusterError, EventKind, Lookup, ServiceAccountToken};
use crate::objects::{ConfigMap, Pod, PodRef, Secret, Service};

type Slot<T> = watch::Sender<Option<Option<Arc<T>>>>;

/// An Event that was recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FakeEvent {
    /// Pod name.
    pub pod: String,
    /// Severity.
    pub kind: EventKind,
    /// Reason.
    pub reason: String,
    /// Message.
    pub message: String,
}

/// A cluster in memory.
#[derive(Default)]
pub struct FakeCluster {
    config_maps: Mutex<HashMap<String, Slot<ConfigMap>>>,
    secrets: Mutex<HashMap<String, Slot<Secret>>>,
    tokens: AtomicU64,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    statuses: HashMap<String, Vec<serde_json::Value>>,
    deleted: Vec<String>,
    events: Vec<FakeEvent>,
}

// === impl FakeCluster ===

impl FakeCluster {
    /// Makes or replaces a ConfigMap.
    pub fn set_config_map(&self, namespace: &str, name: &str, json: serde_json::Value) {
        let value: ConfigMap = serde_json::from_value(json).expect("a ConfigMap");
        slot(&self.config_maps, namespace, name).send_replace(Some(Some(Arc::new(value))));
    }

    /// Makes or replaces a Secret.
    pub fn set_secret(&self, namespace: &str, name: &str, json: serde_json::Value) {
        let value: Secret = serde_json::from_value(json).expect("a Secret");
        slot(&self.secrets, namespace, name).send_replace(Some(Some(Arc::new(value))));
    }

    /// All statuses that were reported for a pod (by uid), in order.
    pub fn statuses(&self, uid: &str) -> Vec<serde_json::Value> {
        self.state.lock().statuses.get(uid).cloned().unwrap_or_default()
    }

    /// Events so far.
    pub fn events(&self) -> Vec<FakeEvent> {
        self.state.lock().events.clone()
    }

    /// Waits until the newest status of a pod (by uid) passes `test`; panics with it after a minute.
    pub async fn wait_status(
        &self,
        uid: &str,
        test: impl Fn(&serde_json::Value) -> bool,
    ) -> serde_json::Value {
        let wait = async {
            loop {
                let changed = self.changed.notified();
                let newest = self.state.lock().statuses.get(uid).and_then(|all| all.last().cloned());
                if let Some(status) = newest.filter(|status| test(status)) {
                    return status;
                }
                changed.await;
            }
        };
        match tokio::time::timeout(crate::runtime::fake::PATIENCE, wait).await {
            Ok(status) => status,
            Err(_) => panic!("{uid}: {:#?}\n{:#?}", self.statuses(uid).last(), self.events()),
        }
    }

    /// Waits until a pod (by uid) was deleted by the node; panics after a minute.
    pub async fn wait_deleted(&self, uid: &str) {
        let wait = async {
            loop {
                let changed = self.changed.notified();
                if self.state.lock().deleted.iter().any(|deleted| deleted == uid) {
                    return;
                }
                changed.await;
            }
        };
        let waited = tokio::time::timeout(crate::runtime::fake::PATIENCE, wait).await;
        assert!(
            waited.is_ok(),
            "{uid} was not deleted: {:#?}\n{:#?}",
            self.statuses(uid).last(),
            self.events()
        );
    }
}

/// Unlike the real cluster, an object that nobody set is known to be absent.
fn slot<T>(map: &Mutex<HashMap<String, Slot<T>>>, namespace: &str, name: &str) -> Slot<T> {
    map.lock().entry(format!("{namespace}/{name}")).or_insert_with(|| watch::Sender::new(Some(None))).clone()
}

#[async_trait]
impl Cluster for FakeCluster {
    async fn patch_pod_status(&self, pod: &PodRef, patch: serde_json::Value) -> Result<(), ClusterError> {
        self.state.lock().statuses.entry(pod.uid.clone()).or_default().push(patch["status"].clone());
        self.changed.notify_waiters();
        Ok(())
    }

    async fn delete_pod(&self, pod: &PodRef) -> Result<(), ClusterError> {
        self.state.lock().deleted.push(pod.uid.clone());
        self.changed.notify_waiters();
        Ok(())
    }

    async fn service_account_token(
        &self,
        _pod: &PodRef,
        service_account: &str,
        _audience: &str,
        seconds: i64,
    ) -> Result<ServiceAccountToken, ClusterError> {
        let number = self.tokens.fetch_add(1, Ordering::Relaxed) + 1;
        Ok(ServiceAccountToken {
            token: format!("token-of-{service_account}-{number}"),
            expires_at: Utc::now() + Duration::seconds(seconds),
        })
    }

    fn config_map(&self, namespace: &str, name: &str) -> Lookup<ConfigMap> {
        Lookup::new(slot(&self.config_maps, namespace, name).subscribe(), None)
    }

    fn secret(&self, namespace: &str, name: &str) -> Lookup<Secret> {
        Lookup::new(slot(&self.secrets, namespace, name).subscribe(), None)
    }

    async fn services(&self, _namespace: &str) -> Vec<Arc<Service>> {
        Vec::new()
    }

    fn event(&self, pod: &Pod, _container: Option<&str>, kind: EventKind, reason: &str, message: &str) {
        self.state.lock().events.push(FakeEvent {
            pod: pod.metadata.name.to_string(),
            kind,
            reason: reason.to_owned(),
            message: message.to_owned(),
        });
        self.changed.notify_waiters();
    }
}
