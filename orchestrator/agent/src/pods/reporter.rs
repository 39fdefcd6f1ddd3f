//! Writes pod statuses to the API server: one write at a time for each pod, so that they arrive in order; the newest
//! waiting one replaces older ones; a bound over all pods. A failed write is tried again until it succeeds or the pod is
//! gone.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::{Notify, Semaphore};

use crate::cluster::{Cluster, ClusterError};
use crate::metrics::Metrics;
use crate::objects::PodRef;

/// Writes in flight over all pods: enough to fill one HTTP/2 connection, few enough not to delay leases behind them.
const WRITES_AT_ONCE: usize = 16;
/// Pause after a failed write; doubled up to the bound.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(5);

/// Writes pod statuses.
#[derive(Clone)]
pub struct Reporter {
    cluster: Arc<dyn Cluster>,
    pods: Arc<Mutex<HashMap<String, Entry>>>,
    writes: Arc<Semaphore>,
    idle: Arc<Notify>,
    metrics: Metrics,
}

#[derive(Default)]
struct Entry {
    written: Value,
    waiting: Option<Value>,
    busy: bool,
}

// === impl Reporter ===

impl Reporter {
    /// A reporter to `cluster`.
    pub fn new(cluster: Arc<dyn Cluster>, metrics: Metrics) -> Self {
        let writes = Arc::new(Semaphore::new(WRITES_AT_ONCE));
        Reporter { cluster, pods: Arc::default(), writes, idle: Arc::default(), metrics }
    }

    /// What the API server holds already: not written again.
    pub fn assume(&self, uid: &str, status: Value) {
        self.pods.lock().entry(uid.to_owned()).or_default().written = status;
    }

    /// Has `status` written as soon as the writes before it are done.
    pub fn report(&self, pod: &PodRef, status: Value) {
        let mut pods = self.pods.lock();
        let entry = pods.entry(pod.uid.clone()).or_default();
        if entry.waiting.is_none() && !entry.busy && entry.written == status {
            return;
        }
        entry.waiting = Some(status);
        if !std::mem::replace(&mut entry.busy, true) {
            tokio::spawn(self.clone().write_waiting(pod.clone()));
        }
    }

    /// Waits until everything reported of a pod is written.
    pub async fn flush(&self, uid: &str) {
        loop {
            let idle = self.idle.notified();
            if !self.pods.lock().get(uid).is_some_and(|entry| entry.busy) {
                return;
            }
            idle.await;
        }
    }

    /// Forgets a pod that is gone.
    pub fn forget(&self, uid: &str) {
        self.pods.lock().remove(uid);
    }

    async fn write_waiting(self, pod: PodRef) {
        loop {
            let (status, before) = {
                let mut pods = self.pods.lock();
                let Some(entry) = pods.get_mut(&pod.uid) else { break };
                match entry.waiting.take() {
                    Some(status) if status != entry.written => (status, entry.written.clone()),
                    _ => {
                        entry.busy = false;
                        break;
                    }
                }
            };
            self.write(&pod, &status, &before).await;
            if let Some(entry) = self.pods.lock().get_mut(&pod.uid) {
                entry.written = status;
            }
        }
        self.idle.notify_waiters();
    }

    async fn write(&self, pod: &PodRef, status: &Value, before: &Value) {
        let patch = patch(pod, status, before);
        let mut pause = RETRY_FIRST;
        loop {
            let result = {
                let _permit = self.writes.acquire().await;
                self.cluster.patch_pod_status(pod, patch.clone()).await
            };
            match result {
                Ok(()) => {
                    self.metrics.status_writes.inc();
                    return;
                }
                Err(ClusterError::Gone { .. }) => return,
                // Trying a refused report again would only be refused again; the next change makes another one.
                Err(error @ ClusterError::Refused { .. }) => {
                    tracing::error!(%pod, %error, "pod status was refused");
                    return;
                }
                Err(error) => {
                    tracing::warn!(%pod, %error, "pod status not written yet");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(RETRY_MAX);
                }
            }
            // Something newer is waiting: this one need not arrive any more.
            if self.pods.lock().get(&pod.uid).is_none_or(|entry| entry.waiting.is_some()) {
                return;
            }
        }
    }
}

/// A strategic patch merges lists that have a key: addresses that changed are replaced expressly, fields that went are
/// set to null. The uid is a precondition.
fn patch(pod: &PodRef, status: &Value, before: &Value) -> Value {
    let mut patch = status.clone();
    for list in ["podIPs", "hostIPs"] {
        let changed = before[list].is_array() && before[list] != status[list];
        if let Some(items) = patch.get_mut(list).and_then(Value::as_array_mut).filter(|_| changed) {
            items.push(json!({"$patch": "replace"}));
        }
    }
    if let (Some(fields), Some(old)) = (patch.as_object_mut(), before.as_object()) {
        for gone in old.keys() {
            if !fields.contains_key(gone) {
                fields.insert(gone.clone(), Value::Null);
            }
        }
    }
    json!({"metadata": {"uid": pod.uid}, "status": patch})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::fake::FakeCluster;

    fn pod() -> PodRef {
        PodRef { namespace: "shop".into(), name: "web".into(), uid: "u".into() }
    }

    #[tokio::test]
    async fn the_newest_waits_and_equal_ones_are_not_written() {
        let cluster = Arc::new(FakeCluster::default());
        let reporter = Reporter::new(cluster.clone(), Metrics::unregistered().expect("metrics"));
        for phase in ["Pending", "Pending", "Running"] {
            reporter.report(&pod(), json!({"phase": phase}));
        }
        reporter.flush("u").await;
        reporter.report(&pod(), json!({"phase": "Running"}));
        reporter.flush("u").await;
        assert_eq!(cluster.statuses("u"), [json!({"phase": "Running"})]);
    }

    #[test]
    fn what_went_is_nulled_and_changed_addresses_are_replaced() {
        let before = json!({"reason": "x", "podIPs": [{"ip": "10.0.0.1"}]});
        let made = patch(&pod(), &json!({"phase": "Running", "podIPs": [{"ip": "10.0.0.2"}]}), &before);
        assert_eq!(made["status"]["reason"], Value::Null);
        assert_eq!(made["status"]["podIPs"], json!([{"ip": "10.0.0.2"}, {"$patch": "replace"}]));
        assert_eq!(made["metadata"]["uid"], "u");
    }
}
