//! Pods on one node: from the create to Running, one at a time and fifty at once.

use crate::connection::Access;
use crate::figures::{ms, quantile};
use anyhow::{Context, Result};
use hyper::Method;
use hyper::body::Bytes;
use rig::cluster::{self, Cluster, Routing, Spec, Store};
use std::path::Path;
use std::time::{Duration, Instant};

const ONE_BY_ONE: usize = 30;
const AT_ONCE: usize = 50;
const PATIENCE: Duration = Duration::from_secs(120);
const COLLECTION: &str = "/api/v1/namespaces/default/pods";

/// `bench pods`.
pub fn run(binaries: &Path, clusters: &Path) -> Result<()> {
    let name = "bench".to_owned();
    cluster::down(clusters, &name)?;
    let spec = Spec {
        name: name.clone(),
        nodes: 1,
        store: Store::Embedded,
        routing: Routing::Vxlan,
        binaries: binaries.to_owned(),
        clusters: clusters.to_owned(),
        flags: Vec::new(),
    };
    let result = measure(spec);
    cluster::down(clusters, &name)?;
    result
}

fn measure(spec: Spec) -> Result<()> {
    let began = Instant::now();
    let cluster = Cluster::up(spec, &|_| ())?;
    println!("cluster of one node: API ready after {:.2} s", began.elapsed().as_secs_f64());
    rig::journal::wait_for(PATIENCE, || cluster.ask(&["get", "node/node-1"]).is_ok())
        .context("the node registers")?;
    cluster.ask(&["wait", "--for=condition=Ready", "node", "--all", "--timeout=60s"])?;
    println!("                     node Ready after {:.2} s", began.elapsed().as_secs_f64());
    let server = cluster.process(1, "bowsprit").context("the server runs")?;
    println!("resident with 0 pods           {:>9.1} MiB", rig::resident_mib(server.pid));
    let access = Access::from_kubeconfig(&cluster.layout.kubeconfig())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut each = Vec::new();
        for number in 0..ONE_BY_ONE {
            let name = format!("one-{number}");
            let began = Instant::now();
            start(&access, &name).await?;
            await_running(&access, std::slice::from_ref(&name)).await?;
            each.push(began.elapsed());
            delete(&access, &name).await?;
            await_gone(&access).await?;
        }
        println!(
            "create to Running, one at a time, p50 / p99 {:>6.0} / {:.0} ms",
            ms(quantile(&mut each, 0.5)),
            ms(quantile(&mut each, 0.99))
        );
        let names: Vec<String> = (0..AT_ONCE).map(|number| format!("many-{number}")).collect();
        let began = Instant::now();
        for name in &names {
            start(&access, name).await?;
        }
        await_running(&access, &names).await?;
        println!("{AT_ONCE} at once, until all Running  {:>9.2} s", began.elapsed().as_secs_f64());
        println!("resident with {AT_ONCE} pods          {:>9.1} MiB", rig::resident_mib(server.pid));
        let began = Instant::now();
        for name in &names {
            delete(&access, name).await?;
        }
        await_gone(&access).await?;
        println!("{AT_ONCE} at once, until all gone     {:>9.2} s", began.elapsed().as_secs_f64());
        Ok(())
    })
}

async fn start(access: &Access, name: &str) -> Result<()> {
    let pod = format!(
        r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"name":"{name}"}},"spec":{{"terminationGracePeriodSeconds":5,"containers":[{{"name":"c","image":"localhost/workload:1"}}]}}}}"#
    );
    access.connect().await?.ask(Method::POST, COLLECTION, Bytes::from(pod)).await.map(drop)
}

async fn delete(access: &Access, name: &str) -> Result<()> {
    access.connect().await?.ask(Method::DELETE, &format!("{COLLECTION}/{name}"), Bytes::new()).await.map(drop)
}

/// Polls in steps far below what is measured: a watch would be faster by less than that, and adds its own parsing.
async fn await_running(access: &Access, names: &[String]) -> Result<()> {
    let mut connection = access.connect().await?;
    let began = Instant::now();
    loop {
        let list: serde_json::Value =
            serde_json::from_slice(&connection.ask(Method::GET, COLLECTION, Bytes::new()).await?)?;
        let pods = list["items"].as_array().context("a list has items")?;
        let running = pods.iter().filter(|pod| {
            pod["status"]["phase"] == "Running" && names.iter().any(|name| pod["metadata"]["name"] == *name)
        });
        if running.count() == names.len() {
            return Ok(());
        }
        anyhow::ensure!(began.elapsed() < PATIENCE, "not all pods run: {list}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

async fn await_gone(access: &Access) -> Result<()> {
    let mut connection = access.connect().await?;
    let began = Instant::now();
    loop {
        let list: serde_json::Value =
            serde_json::from_slice(&connection.ask(Method::GET, COLLECTION, Bytes::new()).await?)?;
        if list["items"].as_array().is_some_and(Vec::is_empty) {
            return Ok(());
        }
        anyhow::ensure!(began.elapsed() < PATIENCE, "not all pods go: {list}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
