//! Pods on one node: from the create to Running and from the delete to gone, one at a time and fifty at once. Beside each
//! stands what the runtime takes for the same without us (`floor`), measured in turn: the machine's speed changes.

use crate::cluster::{Ground, PATIENCE, await_nodes};
use crate::connection::{Access, Watch};
use crate::floor::{self, BarePod, Floor};
use anyhow::{Context, Result, ensure};
use futures::{StreamExt, TryStreamExt, stream};
use hyper::Method;
use hyper::body::Bytes;
use rig::cluster::{Cluster, Spec};
use rig::figures::Bar::AtMost;
use rig::figures::{Figures, cpu_time, ms, quantile};
use rig::journal::wait_for;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

const ONE_BY_ONE: usize = 30;
const AT_ONCE: usize = 50;
const RUNS: usize = 3;
const COLLECTION: &str = "/api/v1/namespaces/default/pods";
/// Milliseconds that we may add to what the runtime takes for one pod.
const ADDED: f64 = 20.0;
/// How much longer than the runtime's own best we may take for many.
const RATIO: f64 = 1.1;

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
        let node = cluster.layout.node(1);
        let floor = Floor::prepare(&node)?;
        let logs = node.directory.join("bowsprit/agent/logs");
        one_by_one(&access, &logs, &floor, figures).await?;
        many(&access, &logs, &floor, ours, figures).await
    });
    figures.add("resident afterwards: bowsprit", "MiB", &[rig::resident_mib(ours)], None);
    figures.add("resident afterwards: containerd", "MiB", &[rig::resident_mib(containerd)], None);
    cluster.explained(1, "bowsprit", result)
}

async fn one_by_one(access: &Access, logs: &Path, floor: &Floor, figures: &mut Figures) -> Result<()> {
    let (mut running, mut gone) = (Vec::new(), Vec::new());
    let (mut bare_running, mut bare_gone) = (Vec::new(), Vec::new());
    let mut pods = Pods::watch(access).await?;
    for number in 0..ONE_BY_ONE {
        let name = format!("one-{number}");
        floor.until_idle().await?;
        let began = Instant::now();
        let bare = floor.start(&name).await?;
        bare_running.push(began.elapsed());
        floor.until_heard(&name)?;
        let began = Instant::now();
        floor.stop(&bare).await?;
        bare_gone.push(began.elapsed());
        floor.remove(&bare).await?;

        let began = Instant::now();
        pods.create(&name).await?;
        pods.until_running(1).await?;
        running.push(began.elapsed());
        until_heard(logs, &name)?;
        let began = Instant::now();
        pods.delete(&name).await?;
        pods.until_gone().await?;
        gone.push(began.elapsed());
    }
    one_figure("create to Running", running, bare_running, figures);
    one_figure("delete to gone", gone, bare_gone, figures);
    Ok(())
}

/// As `Floor::until_heard`, for one of our pods.
fn until_heard(logs: &Path, name: &str) -> Result<()> {
    let of_pod = format!("default_{name}_");
    let heard = || {
        let directories = std::fs::read_dir(logs).into_iter().flatten().flatten();
        let mut own = directories.filter(|entry| entry.file_name().to_string_lossy().starts_with(&of_pod));
        own.any(|entry| floor::says_something(&entry.path().join("c/0.log")))
    };
    wait_for(PATIENCE, heard).with_context(|| format!("pod {name} logs nothing below {}", logs.display()))
}

/// One pod's times, and how far they lie above the runtime's own.
fn one_figure(what: &str, mut ours: Vec<Duration>, mut bare: Vec<Duration>, figures: &mut Figures) {
    let all = |samples: &[Duration]| samples.iter().map(|sample| ms(*sample)).collect::<Vec<_>>();
    figures.add(&format!("one at a time, {what}"), "ms", &all(&ours), None);
    figures.add("    the runtime's own floor", "ms", &all(&bare), None);
    for (name, share) in [("p50", 0.5), ("p99", 0.99)] {
        let (ours, bare) = (ms(quantile(&mut ours, share)), ms(quantile(&mut bare, share)));
        figures.add(&format!("    above that floor, {name}"), "ms", &[ours - bare], AtMost(ADDED));
    }
}

async fn many(access: &Access, logs: &Path, floor: &Floor, pid: i32, figures: &mut Figures) -> Result<()> {
    let (mut running, mut gone, mut resident, mut cpus) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut bare_running, mut bare_gone) = (Vec::new(), Vec::new());
    for run in 0..RUNS {
        floor.until_idle().await?;
        let began = Instant::now();
        let bare = many_bare(floor, run).await?;
        bare_running.push(began.elapsed().as_secs_f64());
        (0..AT_ONCE).try_for_each(|number| floor.until_heard(&format!("many-{run}-{number}")))?;
        let began = Instant::now();
        end_bare(floor, bare).await?;
        bare_gone.push(began.elapsed().as_secs_f64());

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
        names.iter().try_for_each(|name| until_heard(logs, name))?;
        let began = Instant::now();
        for name in &names {
            pods.delete(name).await?;
        }
        pods.until_gone().await?;
        gone.push(began.elapsed().as_secs_f64());
    }
    many_figure("until all Running", 3.3, &running, &bare_running, figures);
    figures.add(&format!("{AT_ONCE} at once, our CPU for that"), "s", &cpus, None);
    many_figure("until all gone", 3.0, &gone, &bare_gone, figures);
    figures.add(&format!("resident with {AT_ONCE} pods"), "MiB", &resident, AtMost(100.0));
    Ok(())
}

/// What many pods took, and beside what the runtime takes for as many.
fn many_figure(what: &str, bar: f64, ours: &[f64], bare: &[f64], figures: &mut Figures) {
    figures.add(&format!("{AT_ONCE} at once, {what}"), "s", ours, AtMost(bar));
    figures.add(&format!("    the runtime's own, {} at a time", floor::AT_ONCE), "s", bare, None);
    let ratios: Vec<f64> = ours.iter().zip(bare).map(|(ours, bare)| ours / bare).collect();
    figures.add("    ours to the runtime's own", "x", &ratios, AtMost(RATIO));
}

async fn many_bare(floor: &Floor, run: usize) -> Result<Vec<BarePod>> {
    let names = (0..AT_ONCE).map(|number| format!("many-{run}-{number}"));
    stream::iter(names)
        .map(|name| async move { floor.start(&name).await })
        .buffer_unordered(floor::AT_ONCE)
        .try_collect()
        .await
}

/// All of it, the removal too: it is work that must be done, if not before a pod's object may go.
async fn end_bare(floor: &Floor, pods: Vec<BarePod>) -> Result<()> {
    stream::iter(pods)
        .map(|pod| async move {
            floor.stop(&pod).await?;
            floor.remove(&pod).await
        })
        .buffer_unordered(floor::AT_ONCE)
        .try_collect()
        .await
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
