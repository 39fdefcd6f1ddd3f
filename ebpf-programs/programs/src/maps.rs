//! The maps. Names are the ABI (`abi::names`); sizes are defaults that the loader may change.

use abi::names::{self, MapSpec};
use abi::{
    Addr4, Addr6, AffinityKey, AffinityValue, Backend, Config, ConntrackEntry, ConntrackKey, Endpoint,
    FragmentKey, FragmentValue, MetricValue, Node, Peer, PodNetns, PolicyEntry, PolicyKey, PortRange,
    Service, ServiceKey, SockReverseKey, SockReverseValue, State,
};
use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf};
use datapath::Flow;

/// What the loader sets before it loads: read as volatile, so that the compiler does not use the default instead.
#[unsafe(no_mangle)]
pub static CONFIG: Config = Config::DEFAULT;

const fn size(spec: MapSpec) -> u32 {
    spec.max_entries
}

/// Tables that are filled from a few to a hundred thousand entries take memory for what they hold.
const GROWING: u32 = BPF_F_NO_PREALLOC;

#[map]
pub static NODES: Array<Node> = Array::with_max_entries(size(names::NODES), 0);
#[map]
pub static POD_NETNS: HashMap<u64, PodNetns> = HashMap::with_max_entries(size(names::POD_NETNS), GROWING);
#[map]
pub static POLICY: HashMap<PolicyKey, PolicyEntry> = HashMap::with_max_entries(size(names::POLICY), GROWING);
#[map]
pub static POLICY_RANGES: Array<PortRange> = Array::with_max_entries(size(names::POLICY_RANGES), 0);
#[map]
pub static STATE: Array<State> = Array::with_max_entries(size(names::STATE), 0);
#[map]
pub static SNAT_TURN: Array<u32> = Array::with_max_entries(size(names::SNAT_TURN), 0);
#[map]
pub static METRICS: PerCpuArray<MetricValue> = PerCpuArray::with_max_entries(size(names::METRICS), 0);
#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(size(names::EVENTS), 0);

/// The maps that exist once a family.
macro_rules! family {
    (
        $address:ty,
        $conntrack:ident $draft:ident $flow:ident $heavy:ident $services:ident $backends:ident $affinity:ident
        $endpoints:ident $peers:ident $cidrs:ident $fragments:ident $reverse:ident
    ) => {
        /// Preallocated: an insertion in the middle of a packet never waits for memory.
        #[map]
        pub static $conntrack: HashMap<ConntrackKey<$address>, ConntrackEntry<$address>> =
            HashMap::with_max_entries(size(names::$conntrack), 0);
        #[map]
        pub static $draft: PerCpuArray<ConntrackEntry<$address>> = PerCpuArray::with_max_entries(1, 0);
        #[map]
        pub static $flow: PerCpuArray<Flow<$address>> = PerCpuArray::with_max_entries(1, 0);
        #[map]
        pub static $heavy: HashMap<$address, u32> = HashMap::with_max_entries(size(names::$heavy), GROWING);
        #[map]
        pub static $services: HashMap<ServiceKey<$address>, Service> =
            HashMap::with_max_entries(size(names::$services), GROWING);
        #[map]
        pub static $backends: Array<Backend<$address>> = Array::with_max_entries(size(names::$backends), 0);
        #[map]
        pub static $affinity: LruHashMap<AffinityKey<$address>, AffinityValue<$address>> =
            LruHashMap::with_max_entries(size(names::$affinity), 0);
        #[map]
        pub static $endpoints: HashMap<$address, Endpoint> =
            HashMap::with_max_entries(size(names::$endpoints), GROWING);
        #[map]
        pub static $peers: HashMap<$address, Peer> = HashMap::with_max_entries(size(names::$peers), GROWING);
        #[map]
        pub static $cidrs: LpmTrie<$address, Peer> = LpmTrie::with_max_entries(size(names::$cidrs), GROWING);
        #[map]
        pub static $fragments: LruHashMap<FragmentKey<$address>, FragmentValue> =
            LruHashMap::with_max_entries(size(names::$fragments), 0);
        #[map]
        pub static $reverse: LruHashMap<SockReverseKey<$address>, SockReverseValue<$address>> =
            LruHashMap::with_max_entries(size(names::$reverse), 0);
    };
}

family!(
    Addr4,
    CONNTRACK4 DRAFT4 FLOW4 HEAVY_SOURCES4 SERVICES4 BACKENDS4 AFFINITY4
    ENDPOINTS4 PEERS4 PEER_CIDRS4 FRAGMENTS4 SOCK_REVERSE4
);
family!(
    Addr6,
    CONNTRACK6 DRAFT6 FLOW6 HEAVY_SOURCES6 SERVICES6 BACKENDS6 AFFINITY6
    ENDPOINTS6 PEERS6 PEER_CIDRS6 FRAGMENTS6 SOCK_REVERSE6
);
