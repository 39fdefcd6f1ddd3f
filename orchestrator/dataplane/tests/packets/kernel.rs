//! Programs, maps and devices of one test.

use std::collections::BTreeSet;
use std::hash::Hash;
use std::process::Command;

use abi::names::{self, MapSpec, program};
use abi::{ConntrackEntry, ConntrackKey, FragmentKey, FragmentValue, Hook};
use aya::maps::lpm_trie::Key;
use aya::maps::{Array, HashMap, LpmTrie, Map, MapData, RingBuf};
use aya::programs::{Program, TestRun, TestRunOptions};
use aya::{Ebpf, EbpfLoader, Pod};
use datapath::host::cases::Bench;
use datapath::host::world::{NET, OVERLAY, UPLINK};
use datapath::host::{Bytes, HostFamily, World};
use datapath::{V4, V6, Verdict};
use nix::sched::{CloneFlags, unshare};

/// The object as it ships.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("BOWSPRIT_BPF"));

/// Size of the kernel's `struct __sk_buff`, and where its fields lie.
const SKB_SIZE: usize = 192;
const SKB_IFINDEX: usize = 40;
const SKB_CB: usize = 48;

/// Room for a packet that grew.
const PACKET_MAX: usize = 4096;

/// A family's maps.
pub trait KernelFamily: HostFamily<Address: Pod> {
    /// Of `NAME4` and `NAME6`, this family's.
    fn map(v4: MapSpec, v6: MapSpec) -> &'static str;
}

impl KernelFamily for V4 {
    fn map(v4: MapSpec, _: MapSpec) -> &'static str {
        v4.name
    }
}

impl KernelFamily for V6 {
    fn map(_: MapSpec, v6: MapSpec) -> &'static str {
        v6.name
    }
}

/// The loaded object.
pub struct Kernel {
    ebpf: Ebpf,
}

/// Gives this thread a network namespace with the devices of [`World`]; they keep their numbers.
pub fn devices() {
    unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace takes root");
    let numbers: BTreeSet<u32> = (110..116).chain([UPLINK, NET]).collect();
    for number in numbers {
        ip(&format!("link add d{number} index {number} type veth peer name p{number}"));
        ip(&format!("link set d{number} up"));
        ip(&format!("link set p{number} up"));
    }
    ip(&format!("link add d{OVERLAY} index {OVERLAY} type vxlan external dstport 8472"));
    ip(&format!("link set d{OVERLAY} up"));
}

/// Runs `ip` in this thread's namespace.
pub fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split_whitespace()).status();
    assert!(status.expect("iproute2 is installed").success(), "ip {arguments}");
}

impl Kernel {
    /// Loads the object with a world's configuration.
    pub fn load<F: HostFamily>(world: &mut World<F>) -> Self {
        let config = *world.tables.config.get_mut();
        let mut loader = EbpfLoader::new();
        loader.override_global(names::CONFIG, &config, true);
        // Tests hold little; the defaults would take half a gigabyte for each of them.
        for spec in
            names::MAPS.iter().filter(|spec| spec.max_entries > 8192 && spec.name != names::EVENTS.name)
        {
            loader.map_max_entries(spec.name, 8192);
        }
        let mut ebpf = loader.load(OBJECT).expect("the object loads");
        for name in program::TCX {
            let Some(Program::SchedClassifier(program)) = ebpf.program_mut(name) else {
                panic!("{name} is a tcx program")
            };
            dataplane::patiently(|| program.load()).unwrap_or_else(|error| panic!("{name}: {error}"));
        }
        Kernel { ebpf }
    }

    /// A map.
    pub fn map(&mut self, name: &str) -> &mut Map {
        self.ebpf.map_mut(name).unwrap_or_else(|| panic!("no map is called {name}"))
    }

    /// A program, loaded or not.
    pub fn program(&mut self, name: &str) -> &mut Program {
        self.ebpf.program_mut(name).unwrap_or_else(|| panic!("no program is called {name}"))
    }

    /// An array.
    pub fn array<V: Pod>(&mut self, name: &str) -> Array<&mut MapData, V> {
        Array::try_from(self.map(name)).expect("an array")
    }

    /// Empties `SOCK_REVERSE4`.
    pub fn clear_reverse(&mut self) {
        clear::<abi::SockReverseKey<abi::Addr4>, abi::SockReverseValue<abi::Addr4>>(
            self.hash(names::SOCK_REVERSE4.name),
        );
    }

    /// A hash map.
    pub fn hash<K: Pod, V: Pod>(&mut self, name: &str) -> HashMap<&mut MapData, K, V> {
        HashMap::try_from(self.map(name)).expect("a hash map")
    }

    /// The reports so far.
    pub fn events(&mut self) -> Vec<abi::Event> {
        let mut ring = RingBuf::try_from(self.map(names::EVENTS.name)).expect("a ring buffer");
        let mut events = Vec::new();
        while let Some(record) = ring.next() {
            assert_eq!(record.len(), size_of::<abi::Event>());
            // SAFETY: a record is an Event, and every bit pattern is one.
            events.push(unsafe { record.as_ptr().cast::<abi::Event>().read_unaligned() });
        }
        events
    }

    fn fill<K: Pod + Copy + Eq + Hash, V: Pod>(&mut self, name: &str, table: &datapath::host::Table<K, V>) {
        let mut map = self.hash::<K, V>(name);
        for (key, value) in table.all() {
            map.insert(key, value, 0).unwrap_or_else(|error| panic!("{name}: {error}"));
        }
    }

    fn fill_array<V: Pod>(&mut self, name: &str, table: &datapath::host::Table<u32, V>) {
        let mut map = Array::<_, V>::try_from(self.map(name)).expect("an array");
        for (index, value) in table.all() {
            map.set(index, value, 0).unwrap_or_else(|error| panic!("{name}: {error}"));
        }
    }

    /// Gives the maps what a world's tables hold.
    pub fn hold<F: KernelFamily>(&mut self, world: &World<F>)
    where
        F::Address: Hash,
        abi::ServiceKey<F::Address>: Pod,
        abi::Backend<F::Address>: Pod,
    {
        let tables = &world.tables;
        self.fill_array(names::STATE.name, &tables.state);
        self.fill_array(names::NODES.name, &tables.nodes);
        self.fill_array(names::POLICY_RANGES.name, &tables.policy_ranges);
        self.fill(names::POLICY.name, &tables.policy);
        self.fill(F::map(names::PEERS4, names::PEERS6), &tables.peers);
        self.fill(F::map(names::ENDPOINTS4, names::ENDPOINTS6), &tables.endpoints);
        self.fill(F::map(names::SERVICES4, names::SERVICES6), &tables.services);
        self.fill_array(F::map(names::BACKENDS4, names::BACKENDS6), &tables.backends);
        let name = F::map(names::PEER_CIDRS4, names::PEER_CIDRS6);
        let mut cidrs = LpmTrie::<_, F::Address, abi::Peer>::try_from(self.map(name)).expect("a trie");
        for (key, peer) in tables.peer_cidrs.all() {
            cidrs.insert(&Key::new(key.prefix_len, key.address), peer, 0).expect("a prefix fits");
        }
    }

    /// Empties what packets filled.
    pub fn forget<F: KernelFamily>(&mut self)
    where
        ConntrackKey<F::Address>: Pod,
        ConntrackEntry<F::Address>: Pod,
        FragmentKey<F::Address>: Pod,
    {
        let name = F::map(names::CONNTRACK4, names::CONNTRACK6);
        clear::<ConntrackKey<F::Address>, ConntrackEntry<F::Address>>(self.hash(name));
        let name = F::map(names::FRAGMENTS4, names::FRAGMENTS6);
        clear::<FragmentKey<F::Address>, FragmentValue>(self.hash(name));
    }

    /// As [`Bench::decide`], the family named.
    pub fn decide_as<F: HostFamily>(&mut self, hook: Hook, packet: &mut Bytes) -> Verdict {
        Bench::<F>::decide(self, hook, packet)
    }

    /// Nanoseconds that a program takes for a packet, by BPF_PROG_TEST_RUN's own clock: redirection is not in them.
    pub fn cost(&self, hook: Hook, packet: &Bytes, repeat: u32) -> u32 {
        let Some(Program::SchedClassifier(program)) = self.ebpf.program(program_of(hook)) else {
            panic!("{hook:?} is loaded")
        };
        let mut context = [0u8; SKB_SIZE];
        context[SKB_IFINDEX..SKB_IFINDEX + 4].copy_from_slice(&packet.ifindex.to_ne_bytes());
        let options = TestRunOptions {
            data_in: Some(&packet.frame),
            ctx_in: Some(&context),
            repeat,
            ..TestRunOptions::default()
        };
        program.test_run(options).expect("the program runs").duration.as_nanos() as u32
    }

    /// Runs a program once.
    fn run(&self, name: &str, packet: &mut Bytes) -> (u32, Verdict) {
        let Some(Program::SchedClassifier(program)) = self.ebpf.program(name) else {
            panic!("{name} is loaded")
        };
        let mut context = [0u8; SKB_SIZE];
        context[SKB_IFINDEX..SKB_IFINDEX + 4].copy_from_slice(&packet.ifindex.to_ne_bytes());
        let (mut context_out, mut out) = ([0u8; SKB_SIZE], vec![0u8; PACKET_MAX]);
        let result = program
            .test_run(TestRunOptions {
                data_in: Some(&packet.frame),
                data_out: Some(&mut out),
                ctx_in: Some(&context),
                ctx_out: Some(&mut context_out),
                ..TestRunOptions::default()
            })
            .unwrap_or_else(|error| panic!("{name} runs: {error}"));
        out.truncate(result.data_size_out as usize);
        packet.frame = out;
        let word = |at: usize| u32::from_ne_bytes(context_out[at..at + 4].try_into().expect("four bytes"));
        let verdict = (word(SKB_CB) as u64) << 32 | word(SKB_CB + 4) as u64;
        (result.return_value, Verdict::from_word(verdict))
    }
}

fn clear<K: Pod, V: Pod>(mut map: HashMap<&mut MapData, K, V>) {
    let keys: Vec<K> = map.keys().filter_map(Result::ok).collect();
    for key in keys {
        let _ = map.remove(&key);
    }
}

/// The program of a hook.
fn program_of(hook: Hook) -> &'static str {
    match hook {
        Hook::PodEgress => program::POD_EGRESS,
        Hook::NodeEgress => program::NODE_EGRESS,
        Hook::UplinkIngress => program::UPLINK_INGRESS,
        Hook::OverlayIngress => program::OVERLAY_INGRESS,
        _ => program::UPLINK_EGRESS,
    }
}

/// What tcx takes for "not ours", "drop" and "redirect".
const RETURNS: [u32; 3] = [u32::MAX, 2, 7];

impl<F: HostFamily> Bench<F> for Kernel {
    fn decide(&mut self, hook: Hook, packet: &mut Bytes) -> Verdict {
        let (returned, verdict) = self.run(program_of(hook), packet);
        assert!(RETURNS.contains(&returned), "{hook:?} returned {returned}");
        verdict
    }
}
