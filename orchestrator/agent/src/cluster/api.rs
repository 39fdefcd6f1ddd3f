//! The cluster through its API server.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use client::events::{Recorder, Severity};
use client::informer::Scope;
use client::{
    Client, DeleteOptions, Delta, Error, Informer, Informers, Meta, ObjectKey, ObjectReference, Patch,
    Preconditions, Resource,
};
use futures::StreamExt;
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::{Cluster, ClusterError, EventKind, Lookup, ServiceAccountToken, StopGate};
use crate::objects::{ConfigMap, Pod, PodRef, Secret, Service};

/// The cluster through its API server.
pub struct ApiCluster {
    client: Client,
    recorder: Recorder,
    services: Informer<Service>,
    config_maps: Followed<ConfigMap>,
    secrets: Followed<Secret>,
}

/// Names the resource whose subresource gives tokens.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct ServiceAccount {
    metadata: Meta,
}

client::resource!(ServiceAccount: "" / "v1" / "serviceaccounts", "ServiceAccount", namespaced);

/// What a patch or delete of a pod answers: nothing that is used.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Answer {
    metadata: Meta,
}

client::resource!(Answer: "" / "v1" / "pods", "Pod", namespaced);

#[derive(Deserialize)]
struct TokenReply {
    status: TokenStatus,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct TokenStatus {
    token: String,
    expiration_timestamp: DateTime<Utc>,
}

// === impl ApiCluster ===

impl ApiCluster {
    /// The cluster behind `informers`' client. `node` is where events come from.
    pub fn new(informers: &Informers, node: &str) -> Self {
        let client = informers.client().clone();
        ApiCluster {
            recorder: Recorder::start(client.clone(), "bowsprit-agent", node),
            services: informers.get(),
            config_maps: Followed::new(client.clone()),
            secrets: Followed::new(client.clone()),
            client,
        }
    }
}

/// Tells failures apart by what can be done about them.
fn classify(what: &str, error: &Error) -> ClusterError {
    let uid_differs = error.is_conflict() && error.to_string().to_lowercase().contains("uid");
    if error.is_not_found() || uid_differs {
        return ClusterError::Gone { what: what.to_owned() };
    }
    let reason = error.chain();
    match error.code() {
        Some(400..=404 | 405..=408 | 410..=428 | 431..=499) if !error.is_conflict() => {
            ClusterError::Refused { reason }
        }
        _ => ClusterError::Unavailable { reason },
    }
}

#[async_trait]
impl Cluster for ApiCluster {
    async fn patch_pod_status(&self, pod: &PodRef, patch: Value) -> Result<(), ClusterError> {
        let patched = self
            .client
            .patch::<Answer>(Patch::Strategic, &pod.namespace, &pod.name, Some("status"), &patch)
            .await;
        patched.map(drop).map_err(|error| classify(&format!("pod {pod}"), &error))
    }

    async fn delete_pod(&self, pod: &PodRef) -> Result<(), ClusterError> {
        let options = DeleteOptions {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions { uid: Some(pod.uid.clone()), resource_version: None }),
            ..DeleteOptions::default()
        };
        let deleted = self.client.delete::<Answer>(&pod.namespace, &pod.name, &options).await;
        deleted.map_err(|error| classify(&format!("pod {pod}"), &error))
    }

    async fn service_account_token(
        &self,
        pod: &PodRef,
        service_account: &str,
        audience: &str,
        seconds: i64,
    ) -> Result<ServiceAccountToken, ClusterError> {
        let audiences: Vec<&str> =
            Some(audience).filter(|audience| !audience.is_empty()).into_iter().collect();
        let request = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "spec": {
                "audiences": audiences, "expirationSeconds": seconds,
                "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": pod.name, "uid": pod.uid},
            },
        });
        let reply: Result<TokenReply, Error> = self
            .client
            .create_subresource::<ServiceAccount, _>(&pod.namespace, service_account, "token", &request)
            .await;
        let what = format!("service account {}/{service_account}", pod.namespace);
        let status = reply.map_err(|error| classify(&what, &error))?.status;
        Ok(ServiceAccountToken { token: status.token, expires_at: status.expiration_timestamp })
    }

    fn config_map(&self, namespace: &str, name: &str) -> Lookup<ConfigMap> {
        self.config_maps.follow(namespace, name)
    }

    fn secret(&self, namespace: &str, name: &str) -> Lookup<Secret> {
        self.secrets.follow(namespace, name)
    }

    async fn services(&self, namespace: &str) -> Vec<Arc<Service>> {
        self.services.synced().await;
        let store = self.services.store();
        let mut found = store.in_namespace(namespace);
        if namespace != "default" {
            found.extend(store.find("default", "kubernetes"));
        }
        // Services that are being listed in no order would reorder a container's environment on each restart.
        found.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
        found
    }

    fn event(&self, pod: &Pod, container: Option<&str>, kind: EventKind, reason: &str, message: &str) {
        let mut subject = ObjectReference::of(pod);
        if let Some(name) = container {
            let init = pod.spec.init_containers.iter().any(|container| container.name == name);
            let list = if init { "initContainers" } else { "containers" };
            subject.field_path = format!("spec.{list}{{{name}}}");
        }
        let severity = match kind {
            EventKind::Normal => Severity::Normal,
            EventKind::Warning => Severity::Warning,
        };
        self.recorder.record(subject, severity, reason, message);
    }
}

// === single objects ===

/// Objects that pods of this node refer to, each followed by a watch of its own name, as long as somebody reads it: a
/// node may not read the others.
struct Followed<T> {
    client: Client,
    held: Mutex<HashMap<ObjectKey, Weak<Following<T>>>>,
}

struct Following<T> {
    receiver: watch::Receiver<Option<Option<Arc<T>>>>,
    pump: tokio::task::JoinHandle<()>,
}

impl<T> Drop for Following<T> {
    fn drop(&mut self) {
        self.pump.abort();
    }
}

// === impl Followed ===

impl<T: Resource> Followed<T> {
    fn new(client: Client) -> Self {
        Followed { client, held: Mutex::default() }
    }

    fn follow(&self, namespace: &str, name: &str) -> Lookup<T> {
        let key = ObjectKey::new(namespace, name);
        let mut held = self.held.lock();
        let following = held.get(&key).and_then(Weak::upgrade).unwrap_or_else(|| {
            held.retain(|_, following| following.strong_count() > 0);
            let following = Arc::new(self.start(namespace, name));
            held.insert(key, Arc::downgrade(&following));
            following
        });
        Lookup::new(following.receiver.clone(), Some(following))
    }

    fn start(&self, namespace: &str, name: &str) -> Following<T> {
        let scope = Scope::all::<T>().namespace(namespace).fields(format!("metadata.name={name}"));
        let informer = Informer::<T>::start_scoped(self.client.clone(), scope);
        let (sender, receiver) = watch::channel(None);
        let pump = tokio::spawn(async move {
            let mut deltas = informer.subscribe();
            while let Some(delta) = deltas.next().await {
                match delta {
                    Delta::Synced => {
                        sender.send_if_modified(|held| {
                            let absent = held.is_none();
                            held.get_or_insert_with(Default::default);
                            absent
                        });
                    }
                    Delta::Upsert { new, .. } => drop(sender.send_replace(Some(Some(new)))),
                    Delta::Delete(_) => drop(sender.send_replace(Some(None))),
                }
            }
        });
        Following { receiver, pump }
    }
}

// === the gate ===

/// Opens when the minimum over all Ready nodes, as the server tells it, has passed a revision.
pub struct LinkGate(pub watch::Receiver<client::nodelink::LinkState>);

#[async_trait]
impl StopGate for LinkGate {
    async fn passed(&self, revision: u64) {
        let mut link = self.0.clone();
        if link.wait_for(|link| link.minimum >= revision).await.is_err() {
            // The link only ends with the agent.
            std::future::pending::<()>().await;
        }
    }
}
