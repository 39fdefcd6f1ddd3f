//! Clusters for the suites: made on first use, shared, taken down at the end.

use anyhow::{Context, Result};
use rig::cluster::{self, Cluster, Routing, Spec, Store};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// The names of all clusters that were asked for, made or not.
static NAMES: Mutex<Vec<String>> = Mutex::new(Vec::new());

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
    cluster::down(&spec.clusters, &spec.name)
        .context("an earlier run left a cluster that cannot be taken down")?;
    NAMES
        .lock()
        .map_err(|_| anyhow::anyhow!("a test panicked while it made a cluster"))?
        .push(spec.name.clone());
    Cluster::up(spec, &|_| ())
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
