//! From the start of the server's process to an application that serves, and what the processes take when nothing happens.

use crate::cluster::{Ground, PATIENCE, await_nodes, checkout};
use crate::connection::Watch;
use crate::server::await_ready;
use anyhow::{Context, Result};
use rig::cluster::{Cluster, Spec};
use rig::figures::Bar::AtMost;
use rig::figures::{Figures, cpu_time};
use rig::journal::wait_for;
use rig::layout::Layout;
use std::time::{Duration, Instant};

const RUNS: usize = 3;
/// Time in which a cluster that has just come up finds its rest.
const SETTLE: Duration = Duration::from_secs(10);
/// Long enough for several heartbeats of everything.
const IDLE: Duration = Duration::from_secs(30);
/// Nodes of the cluster that runs the shop, as `cargo xtask up` makes it.
const NODES: usize = 3;

/// When things happened, from the start of the server's process.
struct Times {
    api: Duration,
    node: Duration,
}

/// `bench start`.
pub fn run(ground: &Ground) -> Result<()> {
    let mut figures = Figures::begin("start", "one node, then the shop on three");
    let (mut apis, mut nodes, mut resident, mut idle) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for run in 0..RUNS {
        ground.with(1, |spec| {
            let (cluster, times) = timed_up(spec)?;
            apis.push(times.api.as_secs_f64());
            nodes.push(times.node.as_secs_f64());
            std::thread::sleep(SETTLE);
            let pid = cluster.process(1, "bowsprit").context("the server runs")?.pid;
            resident.push(rig::resident_mib(pid));
            if run == 0 {
                idle.push(idle_percent(&[pid])[0]);
            }
            Ok(())
        })?;
    }
    figures.add("one node: start to API ready", "s", &apis, AtMost(0.3));
    figures.add("one node: start to node Ready", "s", &nodes, AtMost(1.0));
    figures.add("one node: resident, no pods", "MiB", &resident, AtMost(100.0));
    figures.add("one node: idle CPU, no pods", "% of a core", &idle, AtMost(0.5));
    let mut shops = Shops::default();
    for run in 0..RUNS {
        ground.with(NODES, |spec| shops.measure(spec, run == 0))?;
    }
    for (name, unit, values) in shops.0 {
        figures.add(&name, unit, &values, None);
    }
    figures.finish()
}

/// Makes the cluster while another thread looks at the clock.
fn timed_up(spec: Spec) -> Result<(Cluster, Times)> {
    let layout = Layout::new(&spec.clusters, &spec.name);
    std::thread::scope(|scope| {
        let watching = scope.spawn(|| observe(&layout));
        let cluster = Cluster::up(spec, &|_| ())?;
        let times = watching.join().map_err(|_| anyhow::anyhow!("the observer panicked"))??;
        Ok((cluster, times))
    })
}

fn observe(layout: &Layout) -> Result<Times> {
    let process = layout.node(1).pid_file("bowsprit");
    wait_for(PATIENCE, || process.exists()).context("the server is not started")?;
    let since = |began: std::time::SystemTime| began.elapsed().context("the clock goes forward");
    let started = std::fs::metadata(&process)?.modified()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let access = await_ready(&layout.kubeconfig(), PATIENCE).await?;
        let api = since(started)?;
        let mut watch = Watch::open(&access, "/api/v1/nodes?watch=true").await?;
        let ready = async {
            loop {
                let event = watch.next().await?;
                let conditions = event["object"]["status"]["conditions"].as_array().cloned();
                let ready = |condition: &serde_json::Value| {
                    condition["type"] == "Ready" && condition["status"] == "True"
                };
                if conditions.unwrap_or_default().iter().any(ready) {
                    return anyhow::Ok(());
                }
            }
        };
        tokio::time::timeout(PATIENCE, ready).await.context("the node does not become Ready")??;
        Ok(Times { api, node: since(started)? })
    })
}

/// What was measured of clusters that run the shop: name, unit, one value of each run.
#[derive(Default)]
struct Shops(Vec<(String, &'static str, Vec<f64>)>);

// === impl Shops ===

impl Shops {
    fn add(&mut self, name: String, unit: &'static str, value: f64) {
        match self.0.iter_mut().find(|figure| figure.0 == name) {
            Some(figure) => figure.2.push(value),
            None => self.0.push((name, unit, vec![value])),
        }
    }

    fn measure(&mut self, spec: Spec, with_idle: bool) -> Result<()> {
        let began = Instant::now();
        let cluster = Cluster::up(spec, &|_| ())?;
        await_nodes(&cluster)?;
        self.add("three nodes: from nothing to Ready".into(), "s", began.elapsed().as_secs_f64());
        let processes = processes(&cluster)?;
        std::thread::sleep(SETTLE);
        self.memory(&processes, "no pods");
        let began = Instant::now();
        rig::shop::deploy(&cluster, &checkout().join("deploy/examples"))?;
        self.add("three nodes: shop applied to all serving".into(), "s", began.elapsed().as_secs_f64());
        std::thread::sleep(SETTLE);
        self.memory(&processes, "the shop");
        if with_idle {
            let pids: Vec<i32> = processes.iter().map(|(_, pid)| *pid).collect();
            for ((name, _), percent) in processes.iter().zip(idle_percent(&pids)) {
                self.add(format!("{name}: idle CPU with the shop"), "% of a core", percent);
            }
        }
        Ok(())
    }

    fn memory(&mut self, processes: &[(String, i32)], what: &str) {
        for (name, pid) in processes {
            self.add(format!("{name}: resident, {what}"), "MiB", rig::resident_mib(*pid));
        }
    }
}

fn processes(cluster: &Cluster) -> Result<Vec<(String, i32)>> {
    let mut all = Vec::new();
    for node in cluster.nodes() {
        for process in ["bowsprit", "containerd"] {
            let running = cluster.process(node.index, process);
            let role = if node.index == 1 && process == "bowsprit" { " (all)" } else { "" };
            let pid = running.with_context(|| format!("{process} runs on {}", node.name))?.pid;
            all.push((format!("{} {process}{role}", node.name), pid));
        }
    }
    Ok(all)
}

/// How much of a core each process uses while nobody asks for anything.
fn idle_percent(pids: &[i32]) -> Vec<f64> {
    let before: Vec<Duration> = pids.iter().map(|pid| cpu_time(*pid)).collect();
    let began = Instant::now();
    std::thread::sleep(IDLE);
    let took = began.elapsed().as_secs_f64();
    let used = pids.iter().zip(before).map(|(pid, before)| cpu_time(*pid).saturating_sub(before));
    used.map(|used| 100.0 * used.as_secs_f64() / took).collect()
}
