//! The client against the real API server: over TLS, with tokens, and in elections.
mod rig;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use client::{
    Client, ConnectConfig, Credentials, Delta, Informer,
    leader::{Election, resign, run_while_leading},
};
use controllers::objects::ConfigMap;
use rig::{Cluster, resource};
use serde_json::json;
use tokio::sync::Semaphore;

fn remote(cluster: &Cluster, credentials: Credentials) -> Client {
    let bootstrap = matches!(credentials, Credentials::Bootstrap(_));
    let config = ConnectConfig {
        servers: vec![format!("https://{}", cluster.bound.addresses[0])],
        ca: (!bootstrap).then(|| cluster.pki.ca.certificate().clone()),
        credentials,
    };
    Client::connect(&config).expect("a client")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_informer_follows_over_one_connection() {
    let cluster = Cluster::bare().await;
    let client = remote(&cluster, Credentials::Certificate(cluster.pki.admin.clone()));
    let informer = Informer::<ConfigMap>::start(client);
    let mut changes = informer.subscribe();
    while changes.recv().await != Delta::Synced {}
    let maps = resource("", "configmaps", "ConfigMap", true);
    let map = |value: &str| json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "a", "namespace": "default" }, "data": { "k": value } });
    for value in ["1", "2"] {
        cluster.apply(&maps, map(value)).await;
        let Delta::Upsert { new, .. } = changes.recv().await else { panic!("it was written") };
        assert_eq!(new.data.get("k"), Some(value));
    }
    cluster.admin.delete_as(&maps, "default", "a", &Default::default()).await.expect("it goes");
    assert!(matches!(changes.recv().await, Delta::Delete(_)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_are_refused_and_tokens_know_their_cluster() {
    let cluster = Cluster::bare().await;
    let maps = resource("", "configmaps", "ConfigMap", true);
    let stranger = remote(&cluster, Credentials::Bearer("nobody".into()));
    let refused = stranger.get_as::<rig::Any>(&maps, "default", "x").await.expect_err("refused");
    assert_eq!(refused.code(), Some(401), "{refused}");
    let joining = remote(&cluster, Credentials::Bootstrap(cluster.pki.token.clone()));
    let refused = joining.get_as::<rig::Any>(&maps, "default", "x").await.expect_err("refused");
    assert_eq!(refused.code(), Some(403), "known, but not for this: {refused}");
    assert_eq!(joining.pinned_ca().as_ref(), Some(cluster.pki.ca.certificate()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_candidate_leads_at_a_time() {
    let cluster = Cluster::bare().await;
    let (leading, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let terms = Arc::new(Semaphore::new(0));
    let candidate = |identity: &str| {
        let (client, leading, most, terms) =
            (cluster.admin.clone(), leading.clone(), most.clone(), terms.clone());
        let election =
            Election { namespace: "kube-system".into(), name: "test".into(), identity: identity.into() };
        let task = election.clone();
        let task = tokio::spawn(async move {
            run_while_leading(&client, &task, || async {
                most.fetch_max(leading.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                let _term = Term(leading.clone());
                terms.add_permits(1);
                std::future::pending().await
            })
            .await;
        });
        (task, election)
    };
    let term = || async { terms.acquire().await.expect("open").forget() };
    let (first, election) = candidate("one");
    tokio::time::timeout(Duration::from_secs(5), term()).await.expect("a free lease is taken at once");
    let (_second, _) = candidate("two");
    tokio::time::timeout(Duration::from_secs(3), term()).await.expect_err("a held lease is not");
    // A server that comes back under its name goes on with its own lease.
    first.abort();
    _ = first.await;
    let (first, _) = candidate("one");
    tokio::time::timeout(Duration::from_secs(5), term()).await.expect("its own lease is taken at once");
    first.abort();
    _ = first.await;
    resign(&cluster.admin, &election).await.expect("it is given back");
    tokio::time::timeout(Duration::from_secs(5), term())
        .await
        .expect("a lease that is given back is taken at once");
    assert_eq!(most.load(Ordering::SeqCst), 1);
}

/// Counts a leader for as long as it leads.
struct Term(Arc<AtomicUsize>);

impl Drop for Term {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}
