//! One decision: a node for a pod, or the reasons why there is none.
use std::{collections::BTreeMap, fmt};

use crate::{
    cluster::Cluster,
    filter::{Reason, filter},
    objects::Pod,
    score,
};

/// In small clusters all nodes are looked at.
const NODES_ALWAYS: usize = 100;
/// In large ones, so many feasible nodes are compared as percent of all; less the larger the cluster (Kubernetes' rule).
const PERCENT_START: usize = 50;
const PERCENT_MIN: usize = 5;
const NODES_PER_PERCENT: usize = 125;

/// Chooses nodes. Remembers where it stopped, so that all nodes have their turn.
#[derive(Debug, Default)]
pub struct Chooser {
    start: usize,
    feasible: Vec<usize>,
}

/// No node can take the pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unfit {
    /// Number of nodes.
    pub nodes: usize,
    /// On how many nodes each reason holds.
    pub reasons: BTreeMap<Reason, usize>,
}

impl Chooser {
    /// The node that should run the pod.
    pub fn choose(&mut self, pod: &Pod, cluster: &Cluster) -> Result<Box<str>, Unfit> {
        let mut unfit = Unfit { nodes: cluster.node_count(), reasons: BTreeMap::new() };
        let (total, wanted) = (cluster.len(), enough(cluster.node_count()));
        self.feasible.clear();
        let mut looked_at = 0;
        while looked_at < total && self.feasible.len() < wanted {
            let index = (self.start + looked_at) % total;
            looked_at += 1;
            let Some((node, info)) = cluster.at(index) else { continue };
            match filter(pod, node, info) {
                Ok(()) => self.feasible.push(index),
                Err(reasons) => {
                    reasons.into_iter().for_each(|reason| *unfit.reasons.entry(reason).or_default() += 1);
                }
            }
        }
        self.start = (self.start + looked_at) % total.max(1);
        let best = score::best(pod, cluster, &self.feasible).and_then(|index| cluster.at(index));
        best.map(|(node, _)| node.metadata.name.clone()).ok_or(unfit)
    }
}

/// How many feasible nodes are enough to compare.
fn enough(nodes: usize) -> usize {
    if nodes <= NODES_ALWAYS {
        return nodes;
    }
    let percent = PERCENT_START.saturating_sub(nodes / NODES_PER_PERCENT).max(PERCENT_MIN);
    (nodes * percent / 100).max(NODES_ALWAYS)
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nodes == 0 {
            return f.write_str("no nodes available to schedule pods");
        }
        let mut reasons: Vec<String> =
            self.reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        reasons.sort();
        write!(f, "0/{} nodes are available: {}.", self.nodes, reasons.join(", "))
    }
}

#[cfg(test)]
mod tests;
