//! Where everything of a cluster stands on the machine, and what it is called.
//!
//! Durable state is under `target/cluster/<name>` of the checkout; sockets, whose paths must be short, under
//! `/run/bowsprit-rig/<name>`. Every name carries the cluster's, so clusters of several checkouts and tests run side by side.

use std::path::{Path, PathBuf};

/// The cluster's own network: a bridge in a namespace of its own, nothing of it is visible outside.
pub const SEGMENT: &str = "172.31.0";
/// Prefix length of [`SEGMENT`].
pub const SEGMENT_PREFIX: u8 = 24;
/// The router of the segment, in the namespace `outside`: the nodes' default gateway.
pub const GATEWAY: &str = "172.31.0.254";
/// An address beyond the router, for what leaves the cluster (a documentation address, RFC 5737).
pub const BEYOND: &str = "192.0.2.10";
/// Where the API server listens on its node.
pub const API_PORT: u16 = 6443;

/// Names and paths of one cluster.
#[derive(Debug, Clone)]
pub struct Layout {
    /// The cluster's name; prefix of all its namespaces and cgroups.
    pub name: String,
    /// Durable state.
    pub directory: PathBuf,
}

impl Layout {
    /// The layout of the cluster `name` under `clusters` (usually `target/cluster`).
    #[must_use]
    pub fn new(clusters: &Path, name: &str) -> Self {
        Self { name: name.to_owned(), directory: clusters.join(name) }
    }

    /// The journal stands beside the directory: it must outlive it.
    #[must_use]
    pub fn journal(&self) -> PathBuf {
        self.directory.with_extension("journal")
    }

    /// Sockets and pid files; on tmpfs where `/run` is.
    #[must_use]
    pub fn run_directory(&self) -> PathBuf {
        Path::new("/run/bowsprit-rig").join(&self.name)
    }

    /// What a later command needs to know of a running cluster.
    #[must_use]
    pub fn description(&self) -> PathBuf {
        self.directory.join("cluster.json")
    }

    /// The admin's kubeconfig, with the address on the machine's loopback.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.directory.join("admin.kubeconfig")
    }

    /// The namespace that holds the bridge.
    #[must_use]
    pub fn bridge_namespace(&self) -> String {
        format!("{}-net", self.name)
    }

    /// The namespace of a machine that is no node: clients from outside, and the segment's router.
    #[must_use]
    pub fn outside_namespace(&self) -> String {
        format!("{}-outside", self.name)
    }

    /// The node with number `index`, counted from 1.
    #[must_use]
    pub fn node(&self, index: usize) -> NodeLayout {
        let name = format!("node-{index}");
        NodeLayout {
            namespace: format!("{}-{name}", self.name),
            address: format!("{SEGMENT}.{}", 10 + index),
            directory: self.directory.join(&name),
            run_directory: self.run_directory().join(&name),
            cgroup: format!("/{}/{name}", self.name),
            index,
            name,
        }
    }
}

/// Names and paths of one node.
#[derive(Debug, Clone)]
pub struct NodeLayout {
    /// Counted from 1; the first is the server.
    pub index: usize,
    /// The Kubernetes node's name.
    pub name: String,
    /// Its network namespace.
    pub namespace: String,
    /// Its address on the segment.
    pub address: String,
    /// Durable state.
    pub directory: PathBuf,
    /// Sockets and pid files.
    pub run_directory: PathBuf,
    /// Its subtree, relative to the root of every cgroup hierarchy.
    pub cgroup: String,
}

impl NodeLayout {
    /// Where the network namespace can be entered.
    #[must_use]
    pub fn namespace_file(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.namespace)
    }

    /// containerd's socket.
    #[must_use]
    pub fn containerd_socket(&self) -> PathBuf {
        self.run_directory.join("containerd.sock")
    }

    /// The log of one of the node's processes.
    #[must_use]
    pub fn log(&self, process: &str) -> PathBuf {
        self.directory.join(format!("{process}.log"))
    }

    /// What the keeper of one of the node's processes was told; see `keeper::Spec`.
    #[must_use]
    pub fn keeper_spec(&self, process: &str) -> PathBuf {
        self.run_directory.join(format!("{process}.json"))
    }

    /// The pid file of one of the node's processes.
    #[must_use]
    pub fn pid_file(&self, process: &str) -> PathBuf {
        self.run_directory.join(format!("{process}.pid"))
    }
}
