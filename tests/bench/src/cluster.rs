//! Clusters for benches: one at a time, of release binaries, taken down whatever happens.

use anyhow::{Context, Result};
use rig::cluster::{self, Cluster, Routing, Spec, Store};
use rig::journal::wait_for;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Far more than a node takes to join.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Where to build clusters, and from what.
pub struct Ground {
    /// The directory with `bowsprit`, `rig` and `workload`.
    pub binaries: PathBuf,
    /// Where clusters keep their state.
    pub clusters: PathBuf,
}

impl Ground {
    /// What the benches' cluster is made from.
    pub fn spec(&self, nodes: usize) -> Spec {
        Spec {
            name: name(),
            nodes,
            store: Store::Embedded,
            routing: Routing::Vxlan,
            binaries: self.binaries.clone(),
            clusters: self.clusters.clone(),
            flags: Vec::new(),
        }
    }

    /// Measures on a fresh cluster and takes it down, also after an error.
    pub fn with<T>(&self, nodes: usize, measure: impl FnOnce(Spec) -> Result<T>) -> Result<T> {
        cluster::down(&self.clusters, &name())?;
        let result = measure(self.spec(nodes));
        let down = cluster::down(&self.clusters, &name());
        let result = result?;
        down?;
        Ok(result)
    }
}

/// Several checkouts may measure side by side, however little their figures are worth then.
fn name() -> String {
    let checkout = cluster::default_name(checkout());
    format!("b{}", &checkout[checkout.len() - 6..])
}

/// The checkout's top directory.
pub fn checkout() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("tests/bench lies in the checkout")
}

/// Waits until every node is Ready.
pub fn await_nodes(cluster: &Cluster) -> Result<()> {
    let count = || cluster.ask(&["get", "nodes", "-o", "name"]).map_or(0, |names| names.lines().count());
    let joined = wait_for(PATIENCE, || count() >= cluster.spec.nodes).context("not every node registers");
    cluster.explained(cluster.spec.nodes, "bowsprit", joined)?;
    let ready = cluster.ask(&["wait", "--for=condition=Ready", "node", "--all", "--timeout=60s"]);
    cluster.explained(cluster.spec.nodes, "bowsprit", ready.map(drop))
}
