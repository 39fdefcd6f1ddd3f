//! How many pods a second are created, scheduled and bound. Ignored by default: a figure, not a verdict; run it with
//! `cargo test -p controllers --release --test rate -- --ignored --nocapture`.
mod rig;

use std::time::Instant;

use client::{Client, Delta, Informer};
use controllers::objects::{Node, Pod};
use futures::{StreamExt, stream};
use rig::{Cluster, resource};
use serde_json::{Value, json};

const NODES: usize = 1000;
const PODS: usize = 5000;
/// Requests under way: as many as a busy controller has.
const CLIENTS: usize = 64;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement of a minute"]
async fn pods_per_second() {
    let mut cluster = Cluster::bare().await;
    let admin = cluster.admin.clone();
    let account = json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": "default" } });
    let accounts = resource("", "serviceaccounts", "ServiceAccount", true);
    let patch = client::Patch::Apply { manager: "test", force: true };
    admin
        .patch_as::<Value>(&accounts, patch, "default", "default", None, &account)
        .await
        .expect("an account");
    each(NODES, |n| add_node(admin.clone(), n)).await;
    cluster.run_scheduler();

    // Counted by a watch, as a person would not: lists of thousands of pods would be most of what is measured.
    let informer = Informer::<Pod>::start(admin.clone());
    informer.synced().await;
    let mut pods = informer.subscribe();
    let started = Instant::now();
    let created = each(PODS, |n| add_pod(admin.clone(), n));
    let bound = async {
        let mut bound = 0;
        while bound < PODS {
            if let Delta::Upsert { old, new } = pods.recv().await {
                let was = old.is_some_and(|old| !old.spec.node_name.is_empty());
                bound += usize::from(!was && !new.spec.node_name.is_empty());
            }
        }
    };
    tokio::join!(created, bound);
    let seconds = started.elapsed().as_secs_f64();
    println!(
        "{PODS} pods on {NODES} nodes created and bound in {seconds:.2} s: {:.0}/s",
        PODS as f64 / seconds
    );
}

async fn each<F: Future<Output = ()>>(count: usize, make: impl Fn(usize) -> F) {
    stream::iter((0..count).map(make)).buffer_unordered(CLIENTS).collect::<()>().await;
}

async fn add_node(client: Client, n: usize) {
    let name = format!("node-{n}");
    let node = json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": name } });
    client.create::<Node>("", &node).await.expect("a node");
    let allocatable = json!({ "cpu": "4", "memory": "32Gi", "pods": "110" });
    let ready = json!({ "type": "Ready", "status": "True" });
    let status =
        json!({ "status": { "allocatable": allocatable, "capacity": allocatable, "conditions": [ready] } });
    let patch = client::Patch::Strategic;
    client.patch::<Node>(patch, "", &name, Some("status"), &status).await.expect("its status");
}

async fn add_pod(client: Client, n: usize) {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": format!("pod-{n}"), "namespace": "default" },
        "spec": { "containers": [{ "name": "c", "image": "x",
            "resources": { "requests": { "cpu": "100m", "memory": "64Mi" } } }] },
    });
    client.create::<Pod>("default", &pod).await.expect("a pod");
}
