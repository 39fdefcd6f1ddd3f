//! What the dataplane of one node is told at start.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use abi::names::{self, MapSpec};
use ipnet::IpNet;
use netplan::snapshot::Routing;
use serde::{Deserialize, Serialize};

/// The part of its usual size that a table without use gets: the node's own few IPv6 flows may still pass it.
const IDLE_SHARE: u32 = 64;
/// An LRU table must have some entries for each CPU.
const IDLE_ENTRIES_MIN: u32 = 1024;

/// Configuration of a node's dataplane.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Config {
    /// The node's own directory on a bpffs: maps and links are pinned below it.
    pub bpffs: PathBuf,
    /// The node's cgroup v2 directory: sockets of the processes below it see Services.
    pub cgroup: PathBuf,
    /// Where address records are kept, on a disk that survives a reboot of the agent (not of the machine: pods do not either).
    pub state: PathBuf,
    /// The socket on which the CNI plugin finds the agent.
    pub cni_socket: PathBuf,
    /// The device that leads out of the node; that of the default route if empty.
    pub uplink: String,
    /// Whether pods of other nodes are reached through VXLAN, or by routes (`native`).
    #[serde(with = "routing")]
    pub routing: Routing,
    /// VXLAN network identifier of the cluster.
    pub vni: u32,
    /// UDP port of the tunnel.
    pub vxlan_port: u16,
    /// The pods' MTU; 0 to derive it from the uplink.
    pub mtu: u32,
    /// Addresses of all pods of the cluster.
    pub pod_cidrs: Vec<IpNet>,
    /// Addresses of all Services of the cluster.
    pub service_cidrs: Vec<IpNet>,
    /// Flows from pods to addresses outside the cluster leave with the node's address.
    pub masquerade: bool,
    /// Report new and closed connections, not only drops.
    pub flow_events: bool,
    /// Sizes of maps by name, where the default is not right.
    pub map_sizes: BTreeMap<String, u32>,
    /// How long a CNI ADD waits for the pod's policy to be in the kernel.
    #[serde(with = "seconds")]
    pub policy_wait: Duration,
    /// Idle times of connections.
    pub timeouts: Timeouts,
}

/// How long idle connections are remembered, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Timeouts {
    /// TCP that both ends use.
    pub tcp_established: u32,
    /// TCP that was not answered.
    pub tcp_syn: u32,
    /// TCP that is over.
    pub tcp_closing: u32,
    /// Everything else.
    pub other: u32,
}

impl Default for Timeouts {
    fn default() -> Self {
        Timeouts {
            tcp_established: abi::timeout::TCP_ESTABLISHED,
            tcp_syn: abi::timeout::TCP_SYN,
            tcp_closing: abi::timeout::TCP_CLOSING,
            other: abi::timeout::OTHER,
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Config {
            bpffs: "/sys/fs/bpf/bowsprit/node".into(),
            cgroup: "/sys/fs/cgroup".into(),
            state: "/var/lib/bowsprit/cni".into(),
            cni_socket: "/run/bowsprit/cni.sock".into(),
            uplink: String::new(),
            routing: Routing::Vxlan,
            vni: abi::Config::DEFAULT.vni,
            vxlan_port: abi::Config::DEFAULT.vxlan_port.get(),
            mtu: 0,
            pod_cidrs: vec![net("10.244.0.0/16")],
            service_cidrs: vec![net("10.96.0.0/16")],
            masquerade: true,
            flow_events: true,
            map_sizes: BTreeMap::new(),
            // Longer than an informer needs to catch up with a busy server, shorter than the runtime's own patience.
            policy_wait: Duration::from_secs(10),
            timeouts: Timeouts::default(),
        }
    }
}

fn net(text: &str) -> IpNet {
    text.parse().expect("invariant: the default prefixes are well-formed")
}

impl Config {
    /// The number of entries of a map.
    pub fn map_size(&self, spec: &MapSpec) -> u32 {
        // What the kernel makes of the number of elements of these is not for people to change.
        let fixed = [names::STATE.name, names::METRICS.name].contains(&spec.name);
        match self.map_sizes.get(spec.name) {
            Some(size) if !fixed => *size,
            _ if self.is_idle(spec) => (spec.max_entries / IDLE_SHARE).max(IDLE_ENTRIES_MIN),
            _ => spec.max_entries,
        }
    }

    /// Whether a preallocated map has nothing to hold: half of all its memory would be for IPv6 in clusters without any.
    fn is_idle(&self, spec: &MapSpec) -> bool {
        let preallocated = [names::CONNTRACK6, names::SOCK_REVERSE6, names::AFFINITY6, names::FRAGMENTS6];
        let mut cidrs = self.pod_cidrs.iter().chain(&self.service_cidrs);
        preallocated.contains(spec) && !cidrs.any(|cidr| cidr.addr().is_ipv6())
    }

    /// What the compilers may count on.
    pub fn limits(&self) -> netplan::Limits {
        let size = |spec| self.map_size(&spec);
        netplan::Limits {
            policy: size(names::POLICY) as usize,
            policy_ranges: size(names::POLICY_RANGES),
            peers: size(names::PEERS4).min(size(names::PEERS6)) as usize,
            peer_cidrs: size(names::PEER_CIDRS4).min(size(names::PEER_CIDRS6)) as usize,
            endpoints: size(names::ENDPOINTS4).min(size(names::ENDPOINTS6)) as usize,
            services: size(names::SERVICES4).min(size(names::SERVICES6)) as usize,
            backends: size(names::BACKENDS4).min(size(names::BACKENDS6)),
            nodes: size(names::NODES),
        }
    }
}

/// `vxlan` or `native`.
mod routing {
    use netplan::snapshot::Routing;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(routing: &Routing, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(match routing {
            Routing::Vxlan => "vxlan",
            Routing::Native => "native",
        })
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Routing, D::Error> {
        match &*String::deserialize(deserializer)? {
            "vxlan" => Ok(Routing::Vxlan),
            "native" => Ok(Routing::Native),
            other => Err(D::Error::custom(format!("routing is `{other}`: it must be `vxlan` or `native`"))),
        }
    }
}

/// A duration as a whole number of seconds.
mod seconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(duration.as_secs())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        u64::deserialize(deserializer).map(Duration::from_secs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_for_ipv6_are_small_where_there_is_none() {
        let mut config = Config::default();
        assert_eq!(config.map_size(&names::CONNTRACK6), names::CONNTRACK6.max_entries / IDLE_SHARE);
        assert_eq!(config.map_size(&names::CONNTRACK4), names::CONNTRACK4.max_entries);
        config.pod_cidrs.push(net("fd00:10::/48"));
        assert_eq!(config.map_size(&names::CONNTRACK6), names::CONNTRACK6.max_entries);
        config.map_sizes.insert("CONNTRACK6".into(), 77);
        assert_eq!(config.map_size(&names::CONNTRACK6), 77);
    }

    #[test]
    fn the_default_configuration_survives_being_written() {
        let config = Config::default();
        let text = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<Config>(&text).unwrap(), config);
    }
}
