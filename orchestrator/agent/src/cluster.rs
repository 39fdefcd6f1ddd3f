//! What the pod workers need of the cluster, as a trait: the API server through `client` in production, memory in tests.

use std::sync::Arc;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use tokio::sync::watch;

use crate::objects::{ConfigMap, Pod, PodRef, Secret, Service};

pub mod api;
pub mod fake;

/// Severity of an Event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// As expected.
    Normal,
    /// Worth a look.
    Warning,
}

/// A token of a service account, bound to a pod.
#[derive(Clone, Debug)]
pub struct ServiceAccountToken {
    /// The token.
    pub token: String,
    /// When it stops being valid.
    pub expires_at: DateTime<Utc>,
}

/// Why the cluster did not do what was asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ClusterError {
    /// The object, or this incarnation of it, is gone.
    #[error("{what} is gone")]
    Gone {
        /// The object.
        what: String,
    },
    /// Nobody answered, or said to come back later.
    #[error("API server: {reason}")]
    Unavailable {
        /// What happened.
        reason: String,
    },
    /// The request was understood and refused.
    #[error("API server refused: {reason}")]
    Refused {
        /// The server's words.
        reason: String,
    },
}

/// The newest known state of one object, kept current while this is held.
pub struct Lookup<T> {
    /// `None` until the server has answered once.
    receiver: watch::Receiver<Option<Option<Arc<T>>>>,
    /// Ends the subscription when the last holder lets go.
    _subscription: Option<Arc<dyn Send + Sync>>,
}

impl<T> Clone for Lookup<T> {
    fn clone(&self) -> Self {
        Lookup { receiver: self.receiver.clone(), _subscription: self._subscription.clone() }
    }
}

impl<T> Lookup<T> {
    /// A view of `receiver`; `subscription` is dropped with the last clone.
    pub fn new(
        receiver: watch::Receiver<Option<Option<Arc<T>>>>,
        subscription: Option<Arc<dyn Send + Sync>>,
    ) -> Self {
        Lookup { receiver, _subscription: subscription }
    }

    /// The object, or `None` when it does not exist. Waits until the server has answered.
    pub async fn get(&self) -> Option<Arc<T>> {
        let mut receiver = self.receiver.clone();
        // The sender only goes away with the agent itself.
        match receiver.wait_for(Option::is_some).await {
            Ok(known) => known.clone().flatten(),
            Err(_) => None,
        }
    }

    /// Waits until the server has answered and counts that answer as seen.
    pub async fn seen(&mut self) -> Option<Arc<T>> {
        let found = self.get().await;
        self.receiver.mark_unchanged();
        found
    }

    /// Waits until the object changes after what was last `seen`.
    pub async fn changed(&mut self) {
        if self.receiver.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// The API server as the pod workers use it.
#[async_trait]
pub trait Cluster: Send + Sync + 'static {
    /// Applies a strategic merge patch to a pod's status, on condition of its uid.
    async fn patch_pod_status(&self, pod: &PodRef, patch: serde_json::Value) -> Result<(), ClusterError>;
    /// Removes a pod's object at once, on condition of its uid.
    async fn delete_pod(&self, pod: &PodRef) -> Result<(), ClusterError>;
    /// A token for the pod's service account.
    async fn service_account_token(
        &self,
        pod: &PodRef,
        service_account: &str,
        audience: &str,
        seconds: i64,
    ) -> Result<ServiceAccountToken, ClusterError>;
    /// Follows a ConfigMap.
    fn config_map(&self, namespace: &str, name: &str) -> Lookup<ConfigMap>;
    /// Follows a Secret.
    fn secret(&self, namespace: &str, name: &str) -> Lookup<Secret>;
    /// The Services of a namespace, and `default/kubernetes`. Waits until they are known.
    async fn services(&self, namespace: &str) -> Vec<Arc<Service>>;
    /// Records an Event about a pod, or about one container of it. Never waits.
    fn event(&self, pod: &Pod, container: Option<&str>, kind: EventKind, reason: &str, message: &str);
}

/// Decides when a terminating pod may be told to stop: once no node sends it new connections any more.
#[async_trait]
pub trait StopGate: Send + Sync + 'static {
    /// Returns once every Ready node's kernel has passed `revision`. The caller bounds the wait.
    async fn passed(&self, revision: u64);
}

/// A gate that is always open, for nodes without a cluster network.
pub struct OpenGate;

#[async_trait]
impl StopGate for OpenGate {
    async fn passed(&self, _revision: u64) {}
}
