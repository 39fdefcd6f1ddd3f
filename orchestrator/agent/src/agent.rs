//! Puts the node together: one list of what is started with what. The network half is `network`'s and is started beside
//! this; the two meet in the applied revision that comes in and the routes that are served.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use client::nodelink::{self, LinkState};
use client::{Delta, Informer, Informers, Revision, informer::Scope};
use futures::StreamExt;
use pki::tls::ServingCertificate;
use rustls_pki_types::CertificateDer;
use telemetry::Registry;
use telemetry::health::{Health, Scope as HealthScope};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::cgroups::Cgroups;
use crate::cluster::api::{ApiCluster, LinkGate};
use crate::logs::rotation::{self, RotationLimits};
use crate::metrics::Metrics;
use crate::node::facts::Capacity;
use crate::node::{self, NodeConfig, RuntimeHealth};
use crate::objects::Pod;
use crate::pods::manager::{Manager, PodChange};
use crate::pods::settings::PodSettings;
use crate::pods::shared::Shared;
use crate::pods::state::RestartLimits;
use crate::pods::timeline::Timelines;
use crate::pods::traffic::PodNetwork;
use crate::runtime::PodRuntime;
use crate::runtime::containerd::Containerd;
use crate::server::{Server, ServerConfig, ServerError};
use crate::volumes::NodeFacts;

/// Changes of pods that wait for the manager: as many as a node has pods, twice.
const CHANGES_PENDING_MAX: usize = 256;

/// What a node is told at its start.
#[derive(Clone, Debug)]
pub struct Config {
    /// The node's name.
    pub node_name: String,
    /// Its addresses, first one first.
    pub node_ips: Vec<IpAddr>,
    /// Labels beside those that every node has.
    pub node_labels: BTreeMap<String, String>,
    /// How many pods it takes.
    pub max_pods: u32,
    /// Where its HTTPS server listens.
    pub listen: SocketAddr,
    /// State that must survive a restart; pods are kept below.
    pub data_directory: PathBuf,
    /// The containers' logs.
    pub logs_directory: PathBuf,
    /// Socket of the container runtime.
    pub runtime_endpoint: String,
    /// cgroup of the pods, below the root of every hierarchy.
    pub cgroup_root: String,
    /// Cluster DNS servers; empty while the cluster has none.
    pub cluster_dns: Vec<IpAddr>,
    /// Domain of cluster DNS.
    pub cluster_domain: String,
    /// The node's resolver configuration.
    pub resolv_conf: PathBuf,
    /// How restarts of containers wait.
    pub restart_limits: RestartLimits,
    /// How large logs may grow.
    pub rotation_limits: RotationLimits,
}

/// What a node is given from outside.
pub struct Deps {
    /// The API server as this node, and the process's informers over it.
    pub informers: Informers,
    /// What the HTTPS server presents.
    pub serving: Arc<ServingCertificate>,
    /// Authority of those who may call it.
    pub client_ca: CertificateDer<'static>,
    /// The process's metrics.
    pub registry: Registry,
    /// The process's health.
    pub health: Health,
    /// The newest revision that this node's kernel holds.
    pub applied: watch::Receiver<Revision>,
    /// The pods' network.
    pub network: Arc<dyn PodNetwork>,
    /// Where the pods' stages are kept; the network adds its own.
    pub timelines: Timelines,
    /// Served beside the node's own paths, such as `/bowsprit/flows`. Metrics and health are added here.
    pub routes: Router,
}

/// The node could not start.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The runtime's socket is no path.
    #[error(transparent)]
    Runtime(#[from] cri::ChannelError),
    /// The HTTPS server.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// cgroups cannot be read.
    #[error("cannot read the cgroup hierarchies: {0}")]
    Cgroups(#[source] std::io::Error),
    /// A directory cannot be made.
    #[error("cannot make {path:?}: {source} (is the agent run as root?)")]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// A metric's name is taken.
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
}

/// A running node; it stops when dropped, and leaves its pods running.
pub struct Agent {
    server: Server,
    tasks: JoinSet<()>,
}

// === impl Agent ===

impl Agent {
    /// Starts everything; does not wait for the runtime or the API server.
    pub async fn start(config: Config, deps: Deps) -> Result<Self, AgentError> {
        let Deps { informers, serving, client_ca, registry, health, applied, network, timelines, routes } =
            deps;
        for path in [&config.data_directory, &config.logs_directory] {
            std::fs::create_dir_all(path)
                .map_err(|source| AgentError::Directory { path: path.clone(), source })?;
        }
        let runtime: Arc<dyn PodRuntime> = Arc::new(Containerd::new(&config.runtime_endpoint)?);
        let metrics = Metrics::register(registry.prometheus())?;
        let capacity = Capacity::read(&config.data_directory);
        let client = informers.client().clone();
        let (link, link_state) = watch::channel(LinkState::default());
        let cluster = Arc::new(ApiCluster::new(&informers, &config.node_name));
        let settings = pod_settings(&config, capacity)?;
        let gate = Arc::new(LinkGate(link_state));
        let mut shared = Shared::new(runtime.clone(), cluster, gate, network, settings, metrics);
        shared.timelines = timelines;
        let shared = Arc::new(shared);

        let routes = routes.merge(telemetry::http::router(registry, health.clone()));
        let listen = config.listen;
        let server =
            Server::start(ServerConfig { listen, certificate: serving, client_ca, routes }, shared.clone());
        let server = server.await?;

        let mut tasks = JoinSet::new();
        let (runtime_health, runtime_seen) = watch::channel(RuntimeHealth::default());
        check_runtime(&health, runtime_seen);
        let (registered, uid) = watch::channel(None);
        let node = node_config(&config, capacity, server.address().port());
        tasks.spawn(node::keep_status(client.clone(), node, runtime, runtime_health, registered));
        tasks.spawn(node::keep_lease(client.clone(), config.node_name.clone(), uid));
        tasks.spawn(nodelink::run(client.clone(), config.node_name.clone(), applied, link));
        let (changes, receiver) = mpsc::channel(CHANGES_PENDING_MAX);
        let scope = Scope::all::<Pod>().fields(format!("spec.nodeName={}", config.node_name));
        tasks.spawn(follow_pods(Informer::start_scoped(client, scope), changes));
        tasks.spawn(Manager::new(shared.clone()).run(receiver));
        tasks.spawn(rotation::run(shared, config.rotation_limits));
        Ok(Agent { server, tasks })
    }

    /// Where the HTTPS server listens.
    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// Runs until a part ends, which none should.
    pub async fn run(mut self) {
        if let Some(Err(error)) = self.tasks.join_next().await {
            tracing::error!(%error, "a part of the agent ended");
        }
    }
}

fn pod_settings(config: &Config, capacity: Capacity) -> Result<PodSettings, AgentError> {
    let facts = NodeFacts { host_ips: config.node_ips.clone(), allocatable: capacity.allocatable() };
    Ok(PodSettings {
        node_name: config.node_name.clone(),
        pods_directory: config.data_directory.join("pods"),
        logs_directory: config.logs_directory.clone(),
        cgroups: Cgroups::discover(&config.cgroup_root).map_err(AgentError::Cgroups)?,
        facts: Arc::new(facts),
        memory_capacity: capacity.memory,
        cluster_dns: config.cluster_dns.clone(),
        cluster_domain: config.cluster_domain.clone(),
        resolv_conf: config.resolv_conf.clone(),
        restart_limits: config.restart_limits,
    })
}

fn node_config(config: &Config, capacity: Capacity, port: u16) -> NodeConfig {
    NodeConfig {
        name: config.node_name.clone(),
        ips: config.node_ips.clone(),
        labels: config.node_labels.clone(),
        max_pods: config.max_pods,
        port,
        capacity,
        data_directory: config.data_directory.clone(),
    }
}

fn check_runtime(health: &Health, seen: watch::Receiver<RuntimeHealth>) {
    health.check("runtime", HealthScope::Ready, move || {
        let held = seen.borrow();
        if held.readiness.runtime { Ok(()) } else { Err(held.readiness.message.clone()) }
    });
}

async fn follow_pods(informer: Informer<Pod>, changes: mpsc::Sender<PodChange>) {
    let mut deltas = informer.subscribe();
    while let Some(delta) = deltas.next().await {
        let change = match delta {
            Delta::Synced => PodChange::Synced,
            Delta::Upsert { new, .. } => PodChange::Upsert(new),
            Delta::Delete(old) => PodChange::Delete(old),
        };
        if changes.send(change).await.is_err() {
            return;
        }
    }
}
