//! Pods created and bound per second, by the real server, on nodes that are only objects.

use crate::api::each;
use crate::connection::{Access, Watch};
use crate::server::Server;
use anyhow::{Context, Result, ensure};
use hyper::Method;
use hyper::body::Bytes;
use rig::figures::Bar::AtLeast;
use rig::figures::{Figures, cpu_time};
use serde_json::json;
use std::path::Path;
use std::time::{Duration, Instant};

const NODES: u64 = 1000;
const PODS: u64 = 5000;
const RUNS: usize = 3;
/// Room for a /24 for each of the nodes.
const CLUSTER_CIDR: &str = "10.0.0.0/10";
/// Requests under way: as many as a busy controller has.
const CLIENTS: u64 = 64;
const PATIENCE: Duration = Duration::from_secs(60);

const NODE_COLLECTION: &str = "/api/v1/nodes";
const POD_COLLECTION: &str = "/api/v1/namespaces/default/pods";

/// `bench scheduler`.
pub fn run(binaries: &Path) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(measure(&binaries.join("bowsprit")))
}

async fn measure(binary: &Path) -> Result<()> {
    let mut figures =
        Figures::begin("scheduler", "pods on nodes that are only objects, through the real server");
    let (mut created, mut bound, mut cpus, mut resident) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..RUNS {
        let server = Server::begin_with(binary, &["--cluster-cidr", CLUSTER_CIDR]).await?;
        await_account(&server.access).await?;
        each(&server.access, CLIENTS, NODES, |mut connection, number| async move {
            let (node, status) = node(number);
            connection.ask(Method::POST, NODE_COLLECTION, node).await?;
            let path = format!("{NODE_COLLECTION}/node-{number}/status");
            connection.ask(Method::PUT, &path, status).await?;
            Ok(connection)
        })
        .await?;
        let mut watch = Watch::open(&server.access, &format!("{POD_COLLECTION}?watch=true")).await?;
        let before = cpu_time(server.pid());
        let began = Instant::now();
        let access = server.access.clone();
        let creates = tokio::spawn(async move {
            let result = each(&access, CLIENTS, PODS, |mut connection, number| async move {
                connection.ask(Method::POST, POD_COLLECTION, pod(number)).await?;
                Ok(connection)
            });
            result.await.map(|_| began.elapsed())
        });
        // Counted by a watch, as a person would not: lists of thousands of pods would be most of what is measured.
        tokio::time::timeout(PATIENCE, all_bound(&mut watch)).await.context("not all pods were bound")??;
        let (bound_in, created_in) = (began.elapsed(), creates.await??);
        let cpu = cpu_time(server.pid()).saturating_sub(before);
        #[expect(clippy::cast_precision_loss, reason = "a small count")]
        let pods = PODS as f64;
        created.push(pods / created_in.as_secs_f64());
        bound.push(pods / bound_in.as_secs_f64());
        cpus.push(cpu.as_secs_f64() * 1e6 / pods);
        resident.push(rig::resident_mib(server.pid()));
    }
    let name = format!("{PODS} pods on {NODES} nodes");
    figures.add(&format!("{name}, created and bound"), "/s", &bound, AtLeast(3000.0));
    figures.add(&format!("{name}, created"), "/s", &created, None);
    figures.add(&format!("{name}, CPU of the server"), "us/pod", &cpus, None);
    figures.add(&format!("{name}, resident"), "MiB", &resident, None);
    figures.finish()
}

/// Pods that name no service account need the namespace's own, which a controller makes.
async fn await_account(access: &Access) -> Result<()> {
    let collection = "/api/v1/namespaces/default/serviceaccounts";
    let mut watch = Watch::open(access, &format!("{collection}?watch=true")).await?;
    loop {
        let event =
            tokio::time::timeout(PATIENCE, watch.next()).await.context("no service account comes")??;
        if event["object"]["metadata"]["name"] == "default" {
            return Ok(());
        }
    }
}

async fn all_bound(watch: &mut Watch) -> Result<()> {
    let mut bound = 0;
    while bound < PODS {
        let event = watch.next().await?;
        ensure!(event["type"] != "ERROR", "the watch failed: {event}");
        // Nothing else changes these pods: their nodes have no agents.
        bound += u64::from(event["type"] == "MODIFIED" && event["object"]["spec"]["nodeName"].is_string());
    }
    Ok(())
}

/// A node, and the same with the status that makes it fit for pods.
fn node(number: u64) -> (Bytes, Bytes) {
    let mut node = json!({
        "apiVersion": "v1", "kind": "Node", "metadata": { "name": format!("node-{number}") },
    });
    let bare = Bytes::from(node.to_string());
    let allocatable = json!({ "cpu": "4", "memory": "32Gi", "pods": "110" });
    let ready = json!({ "type": "Ready", "status": "True" });
    node["status"] = json!({ "allocatable": allocatable, "capacity": allocatable, "conditions": [ready] });
    (bare, Bytes::from(node.to_string()))
}

fn pod(number: u64) -> Bytes {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": format!("pod-{number}") },
        "spec": { "containers": [{ "name": "c", "image": "x",
            "resources": { "requests": { "cpu": "100m", "memory": "64Mi" } } }] },
    });
    Bytes::from(pod.to_string())
}
