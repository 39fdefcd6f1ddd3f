//! What an operator can choose about the API server. The `bowsprit` binary composes it from file, flags and environment.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::Duration;

/// Where the API server listens when nothing else is said: Kubernetes' own port on all addresses.
pub const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 6443);
/// Service addresses when nothing else is said.
pub const DEFAULT_SERVICE_CIDR: &str = "10.96.0.0/16";
/// Node ports when nothing else is said.
pub const DEFAULT_NODE_PORTS: RangeInclusive<u16> = 30_000..=32_767;
/// Port on which agents serve logs, exec, attach and port-forward.
pub const DEFAULT_AGENT_PORT: u16 = 10_250;

/// The API server's configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where to listen; ignored when a socket is inherited. Port 0 chooses a free one.
    pub listen: SocketAddr,
    /// The address under which pods and nodes reach this server; `None` takes the one that it listens on.
    pub advertise: Option<SocketAddr>,
    /// Where cluster addresses of Services come from.
    pub service_cidr: ipnet::IpNet,
    /// Where node ports come from.
    pub node_ports: RangeInclusive<u16>,
    /// The agents' port.
    pub agent_port: u16,
    /// How long requests may go on after a shutdown began.
    pub drain: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: DEFAULT_LISTEN,
            advertise: None,
            service_cidr: DEFAULT_SERVICE_CIDR.parse().expect("invariant: the constant is a CIDR"),
            node_ports: DEFAULT_NODE_PORTS,
            agent_port: DEFAULT_AGENT_PORT,
            drain: Duration::from_secs(10),
        }
    }
}
