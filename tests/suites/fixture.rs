//! Clusters for the suites: made on first use, shared, taken down at the end.

use anyhow::{Context, Result, ensure};
use rig::cluster::{self, Cluster, Routing, Spec, Store};
use rig::shop;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

/// The names of all clusters that were asked for, made or not.
static NAMES: Mutex<Vec<String>> = Mutex::new(Vec::new());
/// The cluster with the shop on it; an error is kept too, so that it is told once for each suite and not tried again.
static SHOP: OnceLock<Result<Cluster, String>> = OnceLock::new();

/// The same over etcd, on one node.
static OVER_ETCD: OnceLock<Result<Cluster, String>> = OnceLock::new();

/// A node joins in a few seconds; three of them on two busy cores in some more.
const JOIN: Duration = Duration::from_secs(90);

/// Where `bowsprit`, `rig` and `workload` were built to; `cargo xtask test` says it.
pub fn binaries() -> PathBuf {
    std::env::var_os("BOWSPRIT_BINARIES").map_or_else(|| checkout().join("target/debug"), PathBuf::from)
}

/// The checkout's top directory.
pub fn checkout() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ has a parent: the checkout")
}

fn clusters() -> PathBuf {
    checkout().join("target/cluster")
}

/// A spec for a cluster of this test run; `kind` tells several of them apart.
pub fn spec(kind: &str, nodes: usize) -> Spec {
    let checkout = cluster::default_name(checkout());
    let name = format!("t{}{kind}", &checkout[checkout.len() - 4..]);
    Spec {
        name,
        nodes,
        store: Store::Embedded,
        routing: Routing::Vxlan,
        binaries: binaries(),
        clusters: clusters(),
        flags: Vec::new(),
    }
}

/// Makes the cluster; what an earlier, interrupted run left of it is taken down first.
pub fn make(spec: Spec) -> Result<Cluster> {
    register(&spec.name)?;
    Cluster::up(spec, &|_| ())
}

/// Makes the cluster and waits until all of its nodes are Ready.
pub fn make_ready(spec: Spec) -> Result<Cluster> {
    let cluster = make(spec)?;
    await_nodes(&cluster)?;
    Ok(cluster)
}

fn await_nodes(cluster: &Cluster) -> Result<()> {
    let count = |words: &[&str]| cluster.ask(words).map(|names| names.lines().count()).unwrap_or(0);
    let joined =
        rig::journal::wait_for(JOIN, || count(&["get", "nodes", "-o", "name"]) >= cluster.spec.nodes);
    cluster.explained(cluster.spec.nodes, "bowsprit", joined.context("not every node registers"))?;
    let ready = cluster.ask(&["wait", "--for=condition=Ready", "node", "--all", "--timeout=60s"]);
    cluster.explained(cluster.spec.nodes, "bowsprit", ready.map(drop))
}

/// The shared cluster of three nodes with the shop on it. Suites leave it as they found it.
pub fn shop() -> Result<&'static Cluster> {
    shared(&SHOP, spec("shop", 3))
}

/// The shared cluster of one node over etcd with the shop on it. Suites leave it as they found it.
pub fn over_etcd() -> Result<&'static Cluster> {
    shared(&OVER_ETCD, Spec { store: Store::Etcd, ..spec("etcd", 1) })
}

fn shared(place: &'static OnceLock<Result<Cluster, String>>, spec: Spec) -> Result<&'static Cluster> {
    let made = place.get_or_init(|| {
        let build = || -> Result<Cluster> {
            let cluster = make_ready(spec)?;
            shop::deploy(&cluster, &checkout().join("deploy/examples"))?;
            Ok(cluster)
        };
        build().map_err(|error| format!("{error:#}"))
    });
    made.as_ref().map_err(|error| anyhow::anyhow!("the shared cluster: {error}"))
}

/// Notes that something on this machine carries the name, so that it is looked for after the last test.
pub fn register(name: &str) -> Result<()> {
    cluster::down(&clusters(), name).context("an earlier run left a cluster that cannot be taken down")?;
    NAMES
        .lock()
        .map_err(|_| anyhow::anyhow!("a test panicked while it made a cluster"))?
        .push(name.to_owned());
    Ok(())
}

/// Applies a manifest given as text.
pub fn apply(cluster: &Cluster, manifest: &str) -> Result<()> {
    use std::io::Write;
    let mut kubectl = cluster.kubectl(&["apply", "-f", "-"]);
    let mut child = kubectl
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()?;
    child.stdin.take().context("stdin is piped")?.write_all(manifest.as_bytes())?;
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "kubectl apply: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// Takes all clusters of this run down and returns what is left of them on the machine.
pub fn take_everything_down() -> Vec<String> {
    let names = NAMES.lock().map(|names| names.clone()).unwrap_or_default();
    let mut complaints = Vec::new();
    for name in names {
        if let Err(error) = cluster::down(&clusters(), &name) {
            complaints.push(format!("{error:#}"));
        }
        complaints.extend(rig::leftovers::of(&name));
    }
    complaints
}
