//! The command line: what can be said, not what is done about it.

use crate::{node, server, up};
use anyhow::Result;
use clap::{Args, Parser, Subcommand, ValueEnum};
use ipnet::IpNet;
use serde::Serialize;
use std::net::IpAddr;
use std::path::PathBuf;

/// A Kubernetes-compatible orchestrator whose network is eBPF.
#[derive(Debug, Parser)]
#[command(name = "bowsprit", version)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// API server, scheduler and controllers.
    Server(ServerArguments),
    /// A node: pods, their network, and this node's share of every Service and policy.
    Agent(AgentArguments),
    /// Server and agent in one process.
    Up(UpArguments),
    /// The effective configuration.
    Config(ConfigArguments),
    /// Watch flows and drops, with the names of pods, Services and policies.
    Flows(node::flows::FlowsArguments),
    /// What a pod went through from its creation, and what it waits for now.
    Why(server::why::WhyArguments),
    /// The kernel half on its own.
    Dataplane(DataplaneArguments),
    /// Called by the container runtime; speaks CNI on stdin and stdout.
    Cni,
}

impl Command {
    pub(crate) fn run(self) -> Result<()> {
        match self {
            Self::Server(arguments) => server::run(arguments),
            Self::Agent(arguments) => node::run(arguments),
            Self::Up(arguments) => up::run(arguments),
            Self::Config(arguments) => arguments.run(),
            Self::Flows(arguments) => node::flows::run(arguments),
            Self::Why(arguments) => server::why::run(arguments),
            Self::Dataplane(arguments) => arguments.run(),
            Self::Cni => anyhow::bail!(
                "`bowsprit cni` is for the container runtime: it needs CNI_COMMAND in its environment"
            ),
        }
    }
}

/// Said once, used by every part of a process.
#[derive(Debug, Clone, Args, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct CommonArguments {
    /// YAML with the names of these flags as keys.
    #[arg(long, env = "BOWSPRIT_CONFIG")]
    pub(crate) config: Option<PathBuf>,
    /// Where state that must survive a restart is kept.
    #[arg(long, env = "BOWSPRIT_DATA_DIR", default_value = "/var/lib/bowsprit")]
    pub(crate) data_dir: PathBuf,
    /// Where sockets are; may be empty after a reboot.
    #[arg(long, env = "BOWSPRIT_RUN_DIR", default_value = "/run/bowsprit")]
    pub(crate) run_dir: PathBuf,
    /// What is logged: a level, or `target=level,...`.
    #[arg(long, env = "BOWSPRIT_LOG", default_value = "info")]
    pub(crate) log: String,
    /// Pod addresses of the whole cluster.
    #[arg(long, env = "BOWSPRIT_CLUSTER_CIDR", default_value = "10.244.0.0/16")]
    pub(crate) cluster_cidr: IpNet,
    /// Addresses that Services get.
    #[arg(long, env = "BOWSPRIT_SERVICE_CIDR", default_value = "10.96.0.0/16")]
    pub(crate) service_cidr: IpNet,
    /// Ports that NodePort Services get.
    #[arg(long, env = "BOWSPRIT_SERVICE_NODE_PORT_RANGE", default_value = "30000-32767")]
    pub(crate) service_node_port_range: PortRange,
}

/// `FIRST-LAST`, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PortRange {
    pub(crate) first: u16,
    pub(crate) last: u16,
}

impl std::str::FromStr for PortRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no range of ports such as 30000-32767");
        let (first, last) = text.split_once('-').ok_or_else(wrong)?;
        let range =
            Self { first: first.parse().map_err(|_| wrong())?, last: last.parse().map_err(|_| wrong())? };
        if range.first == 0 || range.first > range.last { Err(wrong()) } else { Ok(range) }
    }
}

impl Serialize for PortRange {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{}-{}", self.first, self.last))
    }
}

/// API server, scheduler, controllers.
#[derive(Debug, Clone, Args, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct ServerOnly {
    /// `embedded:PATH` or `etcd:ENDPOINT,...`; embedded under the data directory when it is not said.
    #[arg(long, env = "BOWSPRIT_STORE")]
    pub(crate) store: Option<String>,
    /// The CA that signed etcd's certificate.
    #[arg(long, env = "BOWSPRIT_ETCD_CA")]
    pub(crate) etcd_ca: Option<PathBuf>,
    /// This server's certificate towards etcd.
    #[arg(long, env = "BOWSPRIT_ETCD_CERT", requires = "etcd_key")]
    pub(crate) etcd_cert: Option<PathBuf>,
    /// Its key.
    #[arg(long, env = "BOWSPRIT_ETCD_KEY", requires = "etcd_cert")]
    pub(crate) etcd_key: Option<PathBuf>,
    /// The address that the API server listens on.
    #[arg(long, env = "BOWSPRIT_BIND_ADDRESS", default_value = "0.0.0.0")]
    pub(crate) bind_address: IpAddr,
    /// The port that the API server listens on.
    #[arg(long, env = "BOWSPRIT_SECURE_PORT", default_value_t = 6443)]
    pub(crate) secure_port: u16,
    /// The address under which pods and nodes reach this API server; the default route's when it is not said.
    #[arg(long, env = "BOWSPRIT_ADVERTISE_ADDRESS")]
    pub(crate) advertise_address: Option<IpAddr>,
    /// More names and addresses for the API server's certificate.
    #[arg(long, env = "BOWSPRIT_TLS_SAN", value_delimiter = ',')]
    pub(crate) tls_san: Vec<String>,
    /// Where the admin's kubeconfig is written; under the data directory when it is not said.
    #[arg(long, env = "BOWSPRIT_KUBECONFIG_OUT")]
    pub(crate) kubeconfig_out: Option<PathBuf>,
    /// The server's URL in that kubeconfig.
    #[arg(long, env = "BOWSPRIT_KUBECONFIG_SERVER")]
    pub(crate) kubeconfig_server: Option<String>,
}

/// How packets get from node to node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum RoutingMode {
    /// Encapsulated: needs nothing of the network between the nodes.
    Vxlan,
    /// By routes: the nodes share a segment.
    Native,
}

/// Pods, network, node status.
#[derive(Debug, Clone, Args, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct AgentOnly {
    /// The node's name; the machine's host name when it is not said.
    #[arg(long, env = "BOWSPRIT_NODE_NAME")]
    pub(crate) node_name: Option<String>,
    /// The node's address; the default route's when it is not said.
    #[arg(long, env = "BOWSPRIT_NODE_IP")]
    pub(crate) node_ip: Option<IpAddr>,
    /// Labels for the node when it registers: `key=value,...`.
    #[arg(long, env = "BOWSPRIT_NODE_LABELS", value_delimiter = ',')]
    pub(crate) node_labels: Vec<String>,
    /// The socket of the container runtime (CRI v1).
    #[arg(long, env = "BOWSPRIT_CONTAINER_RUNTIME", default_value = "/run/containerd/containerd.sock")]
    pub(crate) container_runtime: PathBuf,
    /// The cgroup that holds this node, below the root of every hierarchy; its pods get `pods` below it.
    #[arg(long, env = "BOWSPRIT_CGROUP_ROOT", default_value = "/bowsprit")]
    pub(crate) cgroup_root: String,
    /// The bpffs; maps and links are pinned in a directory of the node's own below it.
    #[arg(long, env = "BOWSPRIT_BPFFS", default_value = "/sys/fs/bpf")]
    pub(crate) bpffs: PathBuf,
    /// Where the container runtime looks for CNI plugins.
    #[arg(long, env = "BOWSPRIT_CNI_BIN_DIR", default_value = "/opt/cni/bin")]
    pub(crate) cni_bin_dir: PathBuf,
    /// Where the container runtime looks for CNI configuration.
    #[arg(long, env = "BOWSPRIT_CNI_CONF_DIR", default_value = "/etc/cni/net.d")]
    pub(crate) cni_conf_dir: PathBuf,
    /// How packets get from node to node.
    #[arg(long, env = "BOWSPRIT_ROUTING_MODE", value_enum, default_value = "vxlan")]
    pub(crate) routing_mode: RoutingMode,
    /// The device towards the other nodes; the one of the node's address when it is not said.
    #[arg(long, env = "BOWSPRIT_UPLINK")]
    pub(crate) uplink: Option<String>,
    /// The port of this agent, for the API server only.
    #[arg(long, env = "BOWSPRIT_AGENT_PORT", default_value_t = 10250)]
    pub(crate) agent_port: u16,
    /// How many pods this node takes.
    #[arg(long, env = "BOWSPRIT_MAX_PODS", default_value_t = 110)]
    pub(crate) max_pods: u32,
}

#[derive(Debug, Clone, Args, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct ServerArguments {
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) common: CommonArguments,
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) server: ServerOnly,
}

#[derive(Debug, Clone, Args, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct AgentArguments {
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) common: CommonArguments,
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) agent: AgentOnly,
    /// The server's URL, `https://HOST:6443`.
    #[arg(long = "server", env = "BOWSPRIT_SERVER")]
    #[serde(rename = "server")]
    pub(crate) url: String,
    /// What the server wrote to `server/token` in its data directory: proves the server to us and us to the server.
    #[arg(long, env = "BOWSPRIT_TOKEN", hide_env_values = true)]
    #[serde(skip)]
    pub(crate) token: Option<String>,
}

#[derive(Debug, Clone, Args, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct UpArguments {
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) common: CommonArguments,
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) server: ServerOnly,
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) agent: AgentOnly,
}

#[derive(Debug, Args)]
pub(crate) struct ConfigArguments {
    #[command(subcommand)]
    what: ConfigCommand,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Print what `bowsprit up` (or server, agent) would run with, as a configuration file.
    Show {
        #[command(subcommand)]
        of: ShownCommand,
    },
}

#[derive(Debug, Subcommand)]
enum ShownCommand {
    /// As `bowsprit server`.
    Server(ServerArguments),
    /// As `bowsprit agent`.
    Agent(AgentArguments),
    /// As `bowsprit up`.
    Up(UpArguments),
}

impl ConfigArguments {
    fn run(self) -> Result<()> {
        let ConfigCommand::Show { of } = self.what;
        let value = match of {
            ShownCommand::Server(arguments) => serde_json::to_value(arguments)?,
            ShownCommand::Agent(arguments) => serde_json::to_value(arguments)?,
            ShownCommand::Up(arguments) => serde_json::to_value(arguments)?,
        };
        print!("{}", serde_saphyr::to_string(&value)?);
        Ok(())
    }
}

#[derive(Debug, Args)]
pub(crate) struct DataplaneArguments {
    #[command(subcommand)]
    what: DataplaneCommand,
}

#[derive(Debug, Subcommand)]
enum DataplaneCommand {
    /// Remove every link, map, device and route that the agent made, and nothing else.
    Detach(AgentDirectories),
}

/// Which node's dataplane.
#[derive(Debug, Args)]
struct AgentDirectories {
    #[command(flatten)]
    common: CommonArguments,
    #[command(flatten)]
    agent: AgentOnly,
}

impl DataplaneArguments {
    fn run(self) -> Result<()> {
        let DataplaneCommand::Detach(AgentDirectories { common, agent }) = self.what;
        node::detach(&common, &agent)
    }
}
