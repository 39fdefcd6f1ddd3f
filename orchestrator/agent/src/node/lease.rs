//! The node's lease: renewed so that a server which has no link to this node still knows that it lives.

use std::time::Duration;

use chrono::Utc;
use client::objects::rfc3339_micros;
use client::{Client, Error, Meta, Patch};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::watch;

/// Where nodes keep their leases.
const NAMESPACE: &str = "kube-node-lease";
/// Kubernetes' numbers: a node is given up when it has missed four renewals.
const DURATION_SECONDS: u64 = 40;
const RENEW: Duration = Duration::from_secs(10);
/// After a failure, sooner: the link may be back in a moment.
const RETRY: Duration = Duration::from_secs(1);

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Lease {
    metadata: Meta,
}

client::resource!(Lease: "coordination.k8s.io" / "v1" / "leases", "Lease", namespaced);

/// Renews the node's lease from its registration on, for ever. `uid` is the node's, and the newest one if its object was deleted
/// and made again: the lease goes with the object.
pub async fn keep(client: Client, node: String, mut uid: watch::Receiver<Option<String>>) {
    // One line when it begins to be refused and one when it works again: an outage is not told every second. A server
    // that is not reached is the client's to tell of.
    let mut told = false;
    loop {
        let Ok(known) = uid.wait_for(Option::is_some).await.map(|known| known.clone().unwrap_or_default())
        else {
            return;
        };
        let wait = match renew(&client, &node, &known).await {
            Ok(()) => {
                if std::mem::take(&mut told) {
                    tracing::info!(node, "lease renewed again");
                }
                RENEW
            }
            Err(error) => {
                if !error.is_transport() && !std::mem::replace(&mut told, true) {
                    tracing::warn!(
                        node,
                        error = error.chain(),
                        "lease not renewed; trying again every second"
                    );
                }
                RETRY
            }
        };
        tokio::time::sleep(wait).await;
    }
}

async fn renew(client: &Client, node: &str, uid: &str) -> Result<(), Error> {
    let now = rfc3339_micros(Utc::now());
    let patch = json!({"spec": {"renewTime": now}});
    match client.patch::<Lease>(Patch::Merge, NAMESPACE, node, None, &patch).await {
        Err(error) if error.is_not_found() => {}
        other => return other.map(drop),
    }
    let owner = json!({"apiVersion": "v1", "kind": "Node", "name": node, "uid": uid});
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": node, "namespace": NAMESPACE, "ownerReferences": [owner]},
        "spec": {"holderIdentity": node, "leaseDurationSeconds": DURATION_SECONDS, "renewTime": now},
    });
    client.create::<Lease>(NAMESPACE, &lease).await.map(drop)
}
