//! `bowsprit agent`: joins the cluster, brings up the node's network, then its pods.

pub(crate) mod flows;
mod runtime_files;

use crate::cli::{AgentArguments, AgentOnly, CommonArguments, RoutingMode};
use crate::exit::BadConfiguration;
use crate::server::{default_address, hostname};
use crate::signals;
use agent::agent::{Agent, Deps};
use agent::logs::rotation::RotationLimits;
use agent::network;
use agent::node::join::{JoinConfig, join};
use agent::pods::state::RestartLimits;
use agent::pods::timeline::Timelines;
use anyhow::{Context, Result};
use client::{Client, Informers};
use pki::tls::ServingCertificate;
use rustls_pki_types::CertificateDer;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use telemetry::health::Health;

/// Two: pod starts are bounded elsewhere, and what waits is the runtime, not us.
const WORKERS: usize = 2;

/// Runs an agent until it is told to end.
pub(crate) fn run(arguments: AgentArguments) -> Result<()> {
    crate::log::begin(&arguments.common)?;
    dataplane::check_privileges().context("a node")?;
    runtime()?.block_on(async {
        let node = Node::from_arguments(&arguments.common, &arguments.agent)?;
        let token = arguments
            .token
            .as_deref()
            .map(|text| text.parse().map_err(|error| BadConfiguration(format!("--token: {error}"))));
        let joined = join(JoinConfig {
            servers: vec![arguments.url.clone()],
            token: token.transpose()?,
            node_name: node.name.clone(),
            node_ips: vec![node.ip],
            directory: arguments.common.data_dir.join("agent/pki"),
        })
        .await?;
        let identity = NodeIdentity {
            client: joined.client.clone(),
            serving: Arc::clone(&joined.serving),
            ca: joined.ca.clone(),
        };
        let renewal = tokio::spawn(joined.renew());
        let running = start(&node, identity, telemetry::Registry::new(), Health::new()).await?;
        let signal = tokio::select! {
            signal = signals::termination() => signal?,
            () = running.run() => anyhow::bail!("a part of the agent ended; its log says which"),
        };
        tracing::info!(signal, "ending; pods and traffic go on");
        renewal.abort();
        Ok(())
    })
}

/// The node's own runtime, apart from a control plane in the same process.
pub(crate) fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .thread_name("node")
        .enable_all()
        .build()
        .context("cannot start the node's threads")
}

/// How a node reaches its server, and what it serves with.
pub(crate) struct NodeIdentity {
    pub(crate) client: Client,
    pub(crate) serving: Arc<ServingCertificate>,
    pub(crate) ca: CertificateDer<'static>,
}

/// A node as it was asked for, with what was left open filled in.
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) ip: IpAddr,
    labels: BTreeMap<String, String>,
    common: CommonArguments,
    agent: AgentOnly,
}

impl Node {
    pub(crate) fn from_arguments(common: &CommonArguments, agent: &AgentOnly) -> Result<Self> {
        let label = |text: &String| {
            let (key, value) = text
                .split_once('=')
                .ok_or_else(|| BadConfiguration(format!("--node-labels: `{text}` is not key=value")))?;
            Ok::<_, BadConfiguration>((key.to_owned(), value.to_owned()))
        };
        Ok(Self {
            name: agent.node_name.clone().unwrap_or_else(|| hostname().to_lowercase()),
            ip: agent.node_ip.map_or_else(default_address, Ok)?,
            labels: agent.node_labels.iter().map(label).collect::<Result<_, _>>()?,
            common: common.clone(),
            agent: agent.clone(),
        })
    }

    fn dataplane(&self) -> dataplane::Config {
        let Self { name, common, agent, .. } = self;
        dataplane::Config {
            bpffs: agent.bpffs.join("bowsprit").join(name),
            cgroup: runtime_files::cgroup_v2(&agent.cgroup_root),
            state: common.data_dir.join("agent/cni"),
            cni_socket: common.run_dir.join("cni.sock"),
            uplink: agent.uplink.clone().unwrap_or_default(),
            routing: match agent.routing_mode {
                RoutingMode::Vxlan => netplan::snapshot::Routing::Vxlan,
                RoutingMode::Native => netplan::snapshot::Routing::Native,
            },
            pod_cidrs: vec![common.cluster_cidr],
            service_cidrs: vec![common.service_cidr],
            ..dataplane::Config::default()
        }
    }

    fn agent_config(&self) -> agent::agent::Config {
        let Self { name, ip, labels, common, agent } = self;
        agent::agent::Config {
            node_name: name.clone(),
            node_ips: vec![*ip],
            node_labels: labels.clone(),
            max_pods: agent.max_pods,
            listen: SocketAddr::new(*ip, agent.agent_port),
            data_directory: common.data_dir.join("agent"),
            logs_directory: common.data_dir.join("agent/logs"),
            runtime_endpoint: agent.container_runtime.display().to_string(),
            cgroup_root: format!("{}/pods", agent.cgroup_root),
            cluster_dns: Vec::new(),
            cluster_domain: "cluster.local".to_owned(),
            resolv_conf: PathBuf::from("/etc/resolv.conf"),
            restart_limits: RestartLimits::default(),
            rotation_limits: RotationLimits::default(),
        }
    }
}

/// A node at work.
pub(crate) struct Running {
    agent: Agent,
    network: Arc<network::Network>,
    node: tokio::task::JoinHandle<()>,
}

impl Running {
    /// Runs until a part ends, which none should.
    pub(crate) async fn run(self) {
        let Self { agent, network, node } = self;
        agent.run().await;
        node.abort();
        drop(network);
    }
}

/// Starts the network and then the pods.
pub(crate) async fn start(
    node: &Node,
    identity: NodeIdentity,
    registry: telemetry::Registry,
    health: Health,
) -> Result<Running> {
    let NodeIdentity { client, serving, ca } = identity;
    std::fs::create_dir_all(&node.common.run_dir)
        .with_context(|| format!("cannot make {}", node.common.run_dir.display()))?;
    let config = network::Config { node: node.name.clone(), dataplane: node.dataplane() };
    let timelines = Timelines::default();
    let network = network::start(config, client.clone(), &health, &registry, timelines.clone()).await?;
    let network = Arc::new(network);
    runtime_files::install_plugins(&node.agent.cni_bin_dir)?;
    let deps = Deps {
        informers: Informers::new(client),
        serving,
        client_ca: ca,
        registry,
        health,
        applied: network.applied_revision(),
        network: network.clone(),
        timelines,
        routes: observe::http::router(network.flows().clone()),
    };
    let agent = Agent::start(node.agent_config(), deps).await.context("the agent")?;
    tracing::info!(node = node.name, address = %agent.address(), "the node runs");
    let installer = runtime_files::Installer {
        directory: node.agent.cni_conf_dir.clone(),
        socket: node.common.run_dir.join("cni.sock"),
    };
    let obstacle = network.obstacle();
    let task = tokio::spawn(installer.keep(obstacle));
    Ok(Running { agent, network, node: task })
}

/// `bowsprit dataplane detach`.
pub(crate) fn detach(common: &CommonArguments, agent: &AgentOnly) -> Result<()> {
    let node = Node::from_arguments(common, agent)?;
    dataplane::detach(&node.dataplane()).context("the dataplane")
}
