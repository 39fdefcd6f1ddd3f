//! The servers over one store: who they are, where they are reached, and what their nodes say.
//!
//! Each keeps one ephemeral key alive. From all of them follow the endpoints of the `kubernetes` Service and what the
//! hub must know of nodes that are linked elsewhere. A server that is alone writes its key once.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use store::{Event, KeyValue, LeaseId, Op, Store, StoreError, Txn};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::app::Api;
use crate::bootstrap;
use crate::cache::feed::{REGISTRY, Sink};
use crate::nodelink::Hub;
use crate::nodelink::hub::Peer;

/// Where the servers' keys are, below [`REGISTRY`].
pub const SERVERS: &str = "bowsprit.dev/servers";
/// A server that has not renewed its key for this long is gone from the endpoints.
const LEASE: Duration = Duration::from_secs(10);
/// Renewals: three may fail.
const RENEWAL: Duration = Duration::from_secs(3);
/// With several servers, what the nodes say is written at most this often.
const PUBLISH_INTERVAL: Duration = Duration::from_millis(50);

/// One server's key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Presence {
    /// Where it is reached.
    pub address: SocketAddr,
    /// What its nodes say.
    #[serde(flatten)]
    pub peer: Peer,
}

/// All servers, as the feed sees their keys.
pub struct Servers {
    own: String,
    hub: Arc<Hub>,
    known: Mutex<BTreeMap<String, Presence>>,
    changed: Notify,
    /// Why the store did not take the last renewal.
    trouble: Mutex<Option<String>>,
}

// === impl Servers ===

impl Servers {
    /// This server under a name of its own; `hub` is told what others say.
    pub fn new(hub: Arc<Hub>) -> Arc<Self> {
        let own = uuid::Uuid::new_v4().to_string();
        Arc::new(Self {
            own,
            hub,
            known: Mutex::default(),
            changed: Notify::new(),
            trouble: Mutex::default(),
        })
    }

    /// Keeps this server's key and the Service's endpoints until `stop`.
    pub async fn run(self: Arc<Self>, api: Arc<Api>, stop: CancellationToken) {
        let mut local = self.hub.local();
        let mut lease = None;
        let mut endpoints: Vec<SocketAddr> = Vec::new();
        let mut renewal = tokio::time::interval(RENEWAL);
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                _ = renewal.tick() => {
                    let says = local.borrow().clone();
                    let renewed = self.renew(api.feed.store(), &mut lease, &api, &says).await;
                    *self.trouble.lock() = renewed.err().map(|error| error.to_string());
                }
                changed = local.changed(), if !self.is_alone() => {
                    if changed.is_err() {
                        break;
                    }
                    let says = local.borrow_and_update().clone();
                    if let Some(lease) = lease
                        && let Err(error) = self.publish(api.feed.store(), lease, &api, &says).await
                    {
                        tracing::debug!(%error, "what the nodes say is not published");
                    }
                    tokio::time::sleep(PUBLISH_INTERVAL).await;
                }
                () = self.changed.notified() => {}
            }
            let now: Vec<SocketAddr> = self.known.lock().values().map(|server| server.address).collect();
            if !now.is_empty() && now != endpoints && bootstrap::endpoints(&api, &now).await.is_ok() {
                endpoints = now;
            }
        }
        if let Some(lease) = lease {
            _ = api.feed.store().lease_revoke(lease).await;
        }
    }

    /// Whether the store takes writes, as of a few seconds ago.
    pub fn check(&self) -> Result<(), String> {
        self.trouble.lock().clone().map_or(Ok(()), Err)
    }

    fn is_alone(&self) -> bool {
        self.known.lock().keys().all(|id| *id == self.own)
    }

    async fn renew(
        &self,
        store: &Arc<dyn Store>,
        lease: &mut Option<LeaseId>,
        api: &Api,
        says: &Peer,
    ) -> Result<(), StoreError> {
        if let Some(held) = *lease {
            match store.lease_keepalive(held).await {
                Err(StoreError::LeaseNotFound { .. }) => *lease = None,
                other => return other,
            }
        }
        let granted = store.lease_grant(LEASE).await?;
        self.publish(store, granted, api, says).await?;
        *lease = Some(granted);
        Ok(())
    }

    async fn publish(
        &self,
        store: &Arc<dyn Store>,
        lease: LeaseId,
        api: &Api,
        says: &Peer,
    ) -> Result<(), StoreError> {
        let presence = Presence { address: api.advertised(), peer: says.clone() };
        let value = serde_json::to_vec(&presence).expect("invariant: a presence is plain data");
        let key = format!("{REGISTRY}{SERVERS}/{}", self.own);
        let put = Op::Put { key: key.into(), value: value.into(), lease: Some(lease) };
        store.txn(Txn { compare: Vec::new(), then: vec![put], or_else_get: Vec::new() }).await.map(drop)
    }

    fn put(&self, key: &[u8], value: &[u8]) {
        let Some(id) = id_of(key) else { return };
        let Ok(presence) = serde_json::from_slice::<Presence>(value) else { return };
        if id != self.own {
            self.hub.peer(id, Some(presence.peer.clone()));
        }
        self.known.lock().insert(id.to_owned(), presence);
    }
}

impl Sink for Servers {
    fn replace(&self, keys: Vec<KeyValue>) {
        self.known.lock().clear();
        keys.iter().for_each(|kv| self.put(&kv.key, &kv.value));
        self.changed.notify_one();
    }

    fn apply(&self, event: &Event) {
        match event {
            Event::Put { kv, .. } => self.put(&kv.key, &kv.value),
            Event::Delete { key, .. } => {
                let Some(id) = id_of(key) else { return };
                self.known.lock().remove(id);
                self.hub.peer(id, None);
            }
        }
        self.changed.notify_one();
    }
}

fn id_of(key: &[u8]) -> Option<&str> {
    std::str::from_utf8(key).ok()?.strip_prefix(REGISTRY)?.strip_prefix(SERVERS)?.strip_prefix('/')
}
