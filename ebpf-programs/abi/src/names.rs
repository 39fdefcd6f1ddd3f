//! Names and default sizes of maps and programs. The names are the ABI: pins carry them.

/// Directory of the pinned maps of one node, under its bpffs directory.
pub const PIN_DIRECTORY_PREFIX: &str = "v";

/// The `.rodata` global that holds [`Config`](crate::Config).
pub const CONFIG: &str = "CONFIG";

/// Programs, by the name of their symbol.
pub mod program {
    /// tcx ingress on the host's side of each pod link.
    pub const POD_EGRESS: &str = "pod_egress";
    /// tcx ingress on `bowsprit_net`.
    pub const NODE_EGRESS: &str = "node_egress";
    /// tcx ingress on the uplink.
    pub const UPLINK_INGRESS: &str = "uplink_ingress";
    /// tcx egress on the uplink.
    pub const UPLINK_EGRESS: &str = "uplink_egress";
    /// tcx ingress on the VXLAN device.
    pub const OVERLAY_INGRESS: &str = "overlay_ingress";
    /// All tcx programs.
    pub const TCX: &[&str] = &[POD_EGRESS, NODE_EGRESS, UPLINK_INGRESS, UPLINK_EGRESS, OVERLAY_INGRESS];
    /// `cgroup/connect4`.
    pub const SOCK_CONNECT4: &str = "sock_connect4";
    /// `cgroup/connect6`.
    pub const SOCK_CONNECT6: &str = "sock_connect6";
    /// `cgroup/sendmsg4`.
    pub const SOCK_SENDMSG4: &str = "sock_sendmsg4";
    /// `cgroup/sendmsg6`.
    pub const SOCK_SENDMSG6: &str = "sock_sendmsg6";
    /// `cgroup/recvmsg4`.
    pub const SOCK_RECVMSG4: &str = "sock_recvmsg4";
    /// `cgroup/recvmsg6`.
    pub const SOCK_RECVMSG6: &str = "sock_recvmsg6";
    /// `cgroup/getpeername4`.
    pub const SOCK_GETPEERNAME4: &str = "sock_getpeername4";
    /// `cgroup/getpeername6`.
    pub const SOCK_GETPEERNAME6: &str = "sock_getpeername6";
    /// `cgroup/sock_release`.
    pub const SOCK_RELEASE: &str = "sock_release";
    /// All `cgroup_sock_addr` programs.
    pub const SOCK_ADDR: &[&str] = &[
        SOCK_CONNECT4,
        SOCK_CONNECT6,
        SOCK_SENDMSG4,
        SOCK_SENDMSG6,
        SOCK_RECVMSG4,
        SOCK_RECVMSG6,
        SOCK_GETPEERNAME4,
        SOCK_GETPEERNAME6,
    ];
}

/// A map: name, default number of entries, and why that many.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MapSpec {
    /// Name of the symbol and of the pin.
    pub name: &'static str,
    /// Entries (bytes for the ring buffer), before configuration.
    pub max_entries: u32,
    /// Where the number comes from.
    pub why: &'static str,
}

/// Declares the constants, the table and their sizes together.
macro_rules! maps {
    ($($(#[doc = $doc:literal])+ $constant:ident = $size:expr, $why:literal;)*) => {
        $($(#[doc = $doc])+ pub const $constant: MapSpec =
            MapSpec { name: stringify!($constant), max_entries: $size, why: $why };)*
        /// Every map, in the order in which they are written; removal goes the other way.
        pub const MAPS: &[MapSpec] = &[$($constant),*];
    };
}

maps! {
    /// ARRAY, u32 -> `Node`.
    NODES = 8192, "5,000 nodes are the largest cluster Kubernetes promises";
    /// HASH, address -> `Peer`.
    PEERS4 = 163_840, "150,000 pods and 5,000 nodes";
    /// HASH, address -> `Peer`.
    PEERS6 = 163_840, "as PEERS4";
    /// LPM_TRIE, `CidrKey` -> `Peer`.
    PEER_CIDRS4 = 16_384, "each node's pod CIDR and 10,000 prefixes of ipBlocks";
    /// LPM_TRIE, `CidrKey` -> `Peer`.
    PEER_CIDRS6 = 16_384, "as PEER_CIDRS4";
    /// ARRAY, u32 -> `PortRange`.
    POLICY_RANGES = 65_536, "64 entries of the largest size, or thousands of usual ones";
    /// HASH, `PolicyKey` -> `PolicyEntry`.
    POLICY = 131_072, "256 policy ids of a node by 512 classes";
    /// HASH, namespace cookie (u64) -> `PodNetns`.
    POD_NETNS = 1024, "pods of a node, four times the usual limit of 250";
    /// HASH, address -> `Endpoint`.
    ENDPOINTS4 = 1024, "as POD_NETNS";
    /// HASH, address -> `Endpoint`.
    ENDPOINTS6 = 1024, "as POD_NETNS";
    /// ARRAY, u32 -> `Backend`.
    BACKENDS4 = 262_144, "150,000 endpoints, and room for the new slice beside the old one";
    /// ARRAY, u32 -> `Backend`.
    BACKENDS6 = 262_144, "as BACKENDS4";
    /// HASH, `ServiceKey` -> `Service`.
    SERVICES4 = 65_536, "10,000 services with three ports, twice over for NodePorts";
    /// HASH, `ServiceKey` -> `Service`.
    SERVICES6 = 65_536, "as SERVICES4";
    /// ARRAY, one `State`.
    STATE = 1, "one node";
    /// HASH, address -> u32: sources whose new flows are refused under pressure.
    HEAVY_SOURCES4 = 256, "the heaviest few; the rest are not the problem";
    /// HASH, address -> u32.
    HEAVY_SOURCES6 = 256, "as HEAVY_SOURCES4";
    /// HASH, preallocated, `ConntrackKey` -> `ConntrackEntry`.
    CONNTRACK4 = 131_072, "two entries for each of 64k connections of a node";
    /// HASH, preallocated, `ConntrackKey` -> `ConntrackEntry`.
    CONNTRACK6 = 131_072, "as CONNTRACK4";
    /// ARRAY, one u32: the next source port's turn.
    SNAT_TURN = 1, "one counter";
    /// LRU_HASH, `AffinityKey` -> `AffinityValue`.
    AFFINITY4 = 65_536, "clients of the services that ask for affinity";
    /// LRU_HASH, `AffinityKey` -> `AffinityValue`.
    AFFINITY6 = 65_536, "as AFFINITY4";
    /// LRU_HASH, `SockReverseKey` -> `SockReverseValue`.
    SOCK_REVERSE4 = 131_072, "sockets of a node that are connected through a service";
    /// LRU_HASH, `SockReverseKey` -> `SockReverseValue`.
    SOCK_REVERSE6 = 131_072, "as SOCK_REVERSE4";
    /// LRU_HASH, `FragmentKey` -> `FragmentValue`.
    FRAGMENTS4 = 8192, "fragmented packets in flight";
    /// LRU_HASH, `FragmentKey` -> `FragmentValue`.
    FRAGMENTS6 = 8192, "as FRAGMENTS4";
    /// PERCPU_ARRAY, [`metric`](crate::metric) index -> `MetricValue`.
    METRICS = crate::metric::COUNT, "reasons by hooks";
    /// RINGBUF of `Event`.
    EVENTS = 1 << 21, "bytes: 14,000 events, a tenth of a second at the rate one reader takes";
}
