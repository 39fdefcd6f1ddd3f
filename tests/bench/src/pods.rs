//! Pods on one node: from the create to Running, one at a time and fifty at once.

use crate::cluster::{Ground, PATIENCE, await_nodes};
use crate::connection::{Access, Watch};
use anyhow::{Context, Result, ensure};
use hyper::Method;
use hyper::body::Bytes;
use rig::cluster::{Cluster, Spec};
use rig::figures::Bar::AtMost;
use rig::figures::{Figures, cpu_time, ms, quantile};
use serde_json::Value;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

const ONE_BY_ONE: usize = 30;
const AT_ONCE: usize = 50;
const RUNS: usize = 3;
const COLLECTION: &str = "/api/v1/namespaces/default/pods";
/// Milliseconds from create to Running, p50 and p99: what the runtime takes without us (runc; `node.md` of the design),
/// and 20 more.
const START: (f64, f64) = (136.0 + 20.0, 157.0 + 20.0);

/// `bench pods`.
pub fn run(ground: &Ground) -> Result<()> {
    let mut figures = Figures::begin("pods", "one node, its image present");
    ground.with(1, |spec| measure(spec, &mut figures))?;
    figures.finish()
}

fn measure(spec: Spec, figures: &mut Figures) -> Result<()> {
    let cluster = Cluster::up(spec, &|_| ())?;
    await_nodes(&cluster)?;
    let process = |name: &str| cluster.process(1, name).with_context(|| format!("{name} runs"));
    let (ours, containerd) = (process("bowsprit")?.pid, process("containerd")?.pid);
    let access = Access::from_kubeconfig(&cluster.layout.kubeconfig())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(async {
        one_by_one(&access, figures).await?;
        many(&access, ours, figures).await
    });
    figures.add("resident afterwards: bowsprit", "MiB", &[rig::resident_mib(ours)], None);
    figures.add("resident afterwards: containerd", "MiB", &[rig::resident_mib(containerd)], None);
    cluster.explained(1, "bowsprit", result)
}

async fn one_by_one(access: &Access, figures: &mut Figures) -> Result<()> {
    let (mut running, mut gone) = (Vec::new(), Vec::new());
    let mut pods = Pods::watch(access).await?;
    for number in 0..ONE_BY_ONE {
        let name = format!("one-{number}");
        let began = Instant::now();
        pods.create(&name).await?;
        pods.until_running(1).await?;
        running.push(began.elapsed());
        let began = Instant::now();
        pods.delete(&name).await?;
        pods.until_gone().await?;
        gone.push(began.elapsed());
    }
    let all = |samples: &[Duration]| samples.iter().map(|sample| ms(*sample)).collect::<Vec<_>>();
    figures.add("one at a time, create to Running, p50", "ms", &all(&running), AtMost(START.0));
    figures.add(
        "one at a time, create to Running, p99",
        "ms",
        &[ms(quantile(&mut running, 0.99))],
        AtMost(START.1),
    );
    figures.add("one at a time, delete to gone, p50", "ms", &all(&gone), None);
    Ok(())
}

async fn many(access: &Access, pid: i32, figures: &mut Figures) -> Result<()> {
    let (mut running, mut gone, mut resident, mut cpus) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for run in 0..RUNS {
        let mut pods = Pods::watch(access).await?;
        let names: Vec<String> = (0..AT_ONCE).map(|number| format!("many-{run}-{number}")).collect();
        let before = cpu_time(pid);
        let began = Instant::now();
        for name in &names {
            pods.create(name).await?;
        }
        pods.until_running(AT_ONCE).await?;
        running.push(began.elapsed().as_secs_f64());
        cpus.push(cpu_time(pid).saturating_sub(before).as_secs_f64());
        resident.push(rig::resident_mib(pid));
        let began = Instant::now();
        for name in &names {
            pods.delete(name).await?;
        }
        pods.until_gone().await?;
        gone.push(began.elapsed().as_secs_f64());
    }
    figures.add(&format!("{AT_ONCE} at once, until all Running"), "s", &running, AtMost(3.3));
    figures.add(&format!("{AT_ONCE} at once, our CPU for that"), "s", &cpus, None);
    figures.add(&format!("{AT_ONCE} at once, until all gone"), "s", &gone, AtMost(3.0));
    figures.add(&format!("resident with {AT_ONCE} pods"), "MiB", &resident, AtMost(100.0));
    Ok(())
}

/// The pods of the namespace as a watch tells of them.
struct Pods {
    connection: crate::connection::Connection,
    watch: Watch,
    there: BTreeSet<String>,
    running: BTreeSet<String>,
}

impl Pods {
    async fn watch(access: &Access) -> Result<Self> {
        let watch = Watch::open(access, &format!("{COLLECTION}?watch=true")).await?;
        let connection = access.connect().await?;
        Ok(Self { connection, watch, there: BTreeSet::new(), running: BTreeSet::new() })
    }

    async fn create(&mut self, name: &str) -> Result<()> {
        let pod = format!(
            r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"name":"{name}"}},"spec":{{"terminationGracePeriodSeconds":5,"containers":[{{"name":"c","image":"localhost/workload:1"}}]}}}}"#
        );
        self.there.insert(name.to_owned());
        self.connection.ask(Method::POST, COLLECTION, Bytes::from(pod)).await.map(drop)
    }

    async fn delete(&mut self, name: &str) -> Result<()> {
        self.connection.ask(Method::DELETE, &format!("{COLLECTION}/{name}"), Bytes::new()).await.map(drop)
    }

    async fn until_running(&mut self, count: usize) -> Result<()> {
        while self.running.len() < count {
            self.step().await.context("not all pods run")?;
        }
        Ok(())
    }

    async fn until_gone(&mut self) -> Result<()> {
        while !self.there.is_empty() {
            self.step().await.with_context(|| format!("not all pods go: {:?}", self.there))?;
        }
        Ok(())
    }

    async fn step(&mut self) -> Result<()> {
        let event = tokio::time::timeout(PATIENCE, self.watch.next()).await.context("nothing happens")??;
        let pod: &Value = &event["object"];
        let name = pod["metadata"]["name"].as_str().unwrap_or_default();
        match event["type"].as_str() {
            Some("DELETED") => {
                self.there.remove(name);
                self.running.remove(name);
            }
            Some("ADDED" | "MODIFIED") if pod["status"]["phase"] == "Running" => {
                self.running.insert(name.to_owned());
            }
            Some("ADDED" | "MODIFIED") => {}
            _ => ensure!(false, "the watch failed: {event}"),
        }
        Ok(())
    }
}
