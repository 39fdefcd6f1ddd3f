//! What all pods of this node have in common.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use super::state::RestartLimits;
use crate::cgroups::Cgroups;
use crate::volumes::NodeFacts;

/// What all pods of this node have in common.
#[derive(Clone, Debug)]
pub struct PodSettings {
    /// The node's name.
    pub node_name: String,
    /// Directory of everything kept for pods, one directory a pod.
    pub pods_directory: PathBuf,
    /// Directory of the containers' logs.
    pub logs_directory: PathBuf,
    /// Where pods go in the cgroup hierarchies.
    pub cgroups: Cgroups,
    /// Addresses and size of the node.
    pub facts: Arc<NodeFacts>,
    /// All memory of the node, for out-of-memory scores.
    pub memory_capacity: i64,
    /// Cluster DNS servers; empty while the cluster has none, which makes every pod use the node's.
    pub cluster_dns: Vec<IpAddr>,
    /// Domain of cluster DNS.
    pub cluster_domain: String,
    /// The node's resolver configuration.
    pub resolv_conf: PathBuf,
    /// How restarts wait.
    pub restart_limits: RestartLimits,
}
