//! The datapath's tables over the maps.

use core::ffi::c_void;

use abi::{
    Addr4, Addr6, AffinityKey, AffinityValue, Backend, CidrKey, Config, ConntrackEntry, ConntrackKey,
    Endpoint, Event, FragmentKey, FragmentValue, Node, Peer, PodNetns, PolicyEntry, PolicyKey, Port,
    PortRange, Service, ServiceKey, SockReverseKey, SockReverseValue, State, metric, timeout,
};
use aya_ebpf::bindings::{BPF_ANY, BPF_NOEXIST};
use aya_ebpf::helpers::{bpf_get_prandom_u32, bpf_ktime_get_coarse_ns, bpf_ktime_get_ns, bpf_loop};
use aya_ebpf::maps::lpm_trie::Key;
use datapath::claim::{CLAIM_TRIES, Search};
use datapath::{Claim, Family, Flow, Inserted, Observer, Shared, Step, Tables, V4, V6};

use crate::maps::*;
use crate::stages;

/// All maps, of both families.
pub struct Maps;

/// What the kernel returns for a key that was to be new.
const EEXIST: i32 = -17;

#[inline(always)]
fn shared<'a, T>(pointer: Option<*mut T>) -> Option<Shared<'a, T>> {
    // SAFETY: values of maps are aligned to eight bytes and valid while the program runs; other CPUs and user space
    // access them without references too.
    pointer.and_then(|pointer| unsafe { Shared::new(pointer) })
}

#[inline(always)]
fn inserted(result: Result<(), i32>) -> Inserted {
    match result {
        Ok(()) => Inserted::Done,
        Err(EEXIST) => Inserted::Taken,
        Err(_) => Inserted::Full,
    }
}

/// Looks an address up in a trie. aya's own key type is packed, and building one is a copy byte by byte.
macro_rules! longest {
    ($map:ident, $address:expr, $bits:literal) => {{
        let key = CidrKey { prefix_len: $bits, address: *$address };
        // SAFETY: both are a length and an address without padding; the packed type asks for no alignment.
        let key = unsafe { &*core::ptr::from_ref(&key).cast::<Key<_>>() };
        shared($map.get(key).map(|value| core::ptr::from_ref(value).cast_mut()))
    }};
}

/// Counts an event that found no room.
#[inline(always)]
fn lost() {
    if let Some(value) = METRICS.get_ptr_mut(metric::LOST_EVENTS) {
        // SAFETY: per-CPU memory; the program does not move to another CPU.
        unsafe { (*value).packets += 1 }
    }
}

/// What [`visit`] looks for.
#[repr(C)]
struct Wanted<A> {
    address: A,
    port: Port,
    base: u32,
    found: u32,
}

/// Looks at one backend slot; 1 ends the loop. Called by `bpf_loop`, which the verifier walks once.
#[inline(never)]
unsafe extern "C" fn visit<F: Family>(i: u32, wanted: *mut Wanted<F::Address>) -> i64
where
    Maps: Tables<F>,
{
    // SAFETY: `bpf_loop` hands on the context of its caller.
    let wanted = unsafe { &mut *wanted };
    let slot = wanted.base + i;
    if !datapath::service::is::<F, Maps>(&Maps, slot, &wanted.address, wanted.port) {
        return 0;
    }
    wanted.found = slot;
    1
}

/// Tries one source port; 1 ends the loop. Called by `bpf_loop`.
#[inline(never)]
unsafe extern "C" fn try_port<F: Family>(i: u32, search: *mut Search<'_, F::Address>) -> i64
where
    Maps: Tables<F>,
{
    // SAFETY: `bpf_loop` hands on the context of its caller.
    let search = unsafe { &mut *search };
    i64::from(search.step::<F, Maps>(&Maps, i))
}

macro_rules! tables {
    (
        $family:ty, $address:ty, $bits:literal,
        $conntrack:ident $draft:ident $flow:ident $heavy:ident $services:ident $backends:ident $affinity:ident
        $endpoints:ident $peers:ident $cidrs:ident $fragments:ident $reverse:ident,
        $stages:ident
    ) => {
        impl Tables<$family> for Maps {
            #[inline(always)]
            fn config(&self) -> Shared<'_, Config> {
                let pointer = core::ptr::addr_of!(CONFIG).cast_mut();
                // SAFETY: a static's address is not null; the datapath reads it field by field and never writes it.
                unsafe { Shared::new(pointer).unwrap_unchecked() }
            }

            #[inline(always)]
            fn state(&self) -> Option<Shared<'_, State>> {
                shared(STATE.get_ptr_mut(0))
            }

            #[inline(always)]
            fn flow(&self) -> Option<&mut Flow<$address>> {
                // SAFETY: per-CPU memory that one packet at a time uses: tcx programs of a CPU do not interrupt each
                // other, and the socket hooks, which they may interrupt, do not use it.
                $flow.get_ptr_mut(0).map(|pointer| unsafe { &mut *pointer })
            }

            #[inline(always)]
            fn draft(&self) -> Option<&mut ConntrackEntry<$address>> {
                // SAFETY: as for `flow`.
                $draft.get_ptr_mut(0).map(|pointer| unsafe { &mut *pointer })
            }

            #[inline(always)]
            fn now(&self) -> u32 {
                // SAFETY: a helper without arguments.
                (unsafe { bpf_ktime_get_coarse_ns() } >> timeout::CLOCK_SHIFT) as u32
            }

            #[inline(always)]
            fn random(&self) -> u32 {
                // SAFETY: a helper without arguments.
                unsafe { bpf_get_prandom_u32() }
            }

            #[inline(always)]
            fn turn(&self) -> u32 {
                let Some(counter) = SNAT_TURN.get_ptr_mut(0) else { return 0 };
                // SAFETY: a map's value; other CPUs access it without references too.
                unsafe {
                    let turn = counter.read_volatile();
                    counter.write_volatile(turn.wrapping_add(1));
                    turn
                }
            }

            #[inline(always)]
            fn search(&self, search: &mut Search<'_, $address>) {
                let context = core::ptr::from_mut(search).cast();
                let step = try_port::<$family> as unsafe extern "C" fn(u32, *mut Search<'_, $address>) -> i64;
                // SAFETY: as for `backend_slot`.
                unsafe { bpf_loop(CLAIM_TRIES, step as *mut c_void, context, 0) };
            }

            #[inline(always)]
            fn conntrack(
                &self,
                key: &ConntrackKey<$address>,
            ) -> Option<Shared<'_, ConntrackEntry<$address>>> {
                shared($conntrack.get_ptr_mut(key))
            }

            #[inline(always)]
            fn conntrack_insert(
                &self,
                key: &ConntrackKey<$address>,
                entry: &ConntrackEntry<$address>,
                claim: Claim,
            ) -> Inserted {
                let flags = match claim {
                    Claim::New => BPF_NOEXIST,
                    Claim::Replace => BPF_ANY,
                };
                inserted($conntrack.insert(key, entry, flags as u64))
            }

            #[inline(always)]
            fn conntrack_remove(&self, key: &ConntrackKey<$address>) {
                let _ = $conntrack.remove(key);
            }

            #[inline(always)]
            fn heavy_source(&self, address: &$address) -> bool {
                $heavy.get_ptr(address).is_some()
            }

            #[inline(always)]
            fn service(&self, key: &ServiceKey<$address>) -> Option<Shared<'_, Service>> {
                shared($services.get_ptr_mut(key))
            }

            #[inline(always)]
            fn backend(&self, slot: u32) -> Option<Shared<'_, Backend<$address>>> {
                shared($backends.get_ptr_mut(slot))
            }

            #[inline(always)]
            fn backend_slot(&self, base: u32, count: u32, address: &$address, port: Port) -> u32 {
                let mut wanted = Wanted { address: *address, port, base, found: base + count };
                let context = core::ptr::from_mut(&mut wanted).cast();
                let step = visit::<$family> as unsafe extern "C" fn(u32, *mut Wanted<$address>) -> i64;
                // SAFETY: the callback has the shape that the helper calls, and the context outlives the call.
                unsafe { bpf_loop(count, step as *mut c_void, context, 0) };
                wanted.found
            }

            #[inline(always)]
            fn affinity(&self, key: &AffinityKey<$address>) -> Option<Shared<'_, AffinityValue<$address>>> {
                shared($affinity.get_ptr_mut(key))
            }

            #[inline(always)]
            fn affinity_put(&self, key: &AffinityKey<$address>, value: &AffinityValue<$address>) {
                let _ = $affinity.insert(key, value, BPF_ANY as u64);
            }

            #[inline(always)]
            fn endpoint(&self, address: &$address) -> Option<Shared<'_, Endpoint>> {
                shared($endpoints.get_ptr_mut(address))
            }

            #[inline(always)]
            fn peer(&self, address: &$address) -> Option<Shared<'_, Peer>> {
                shared($peers.get_ptr_mut(address))
            }

            #[inline(always)]
            fn peer_cidr(&self, address: &$address) -> Option<Shared<'_, Peer>> {
                longest!($cidrs, address, $bits)
            }

            #[inline(always)]
            fn node(&self, index: u32) -> Option<Shared<'_, Node>> {
                shared(NODES.get_ptr_mut(index))
            }

            #[inline(always)]
            fn pod_netns(&self, cookie: u64) -> Option<Shared<'_, PodNetns>> {
                shared(POD_NETNS.get_ptr_mut(&cookie))
            }

            #[inline(always)]
            fn policy(&self, key: &PolicyKey) -> Option<Shared<'_, PolicyEntry>> {
                shared(POLICY.get_ptr_mut(key))
            }

            #[inline(always)]
            fn policy_range(&self, index: u32) -> Option<Shared<'_, PortRange>> {
                shared(POLICY_RANGES.get_ptr_mut(index))
            }

            #[inline(always)]
            fn fragment(&self, key: &FragmentKey<$address>) -> Option<Shared<'_, FragmentValue>> {
                shared($fragments.get_ptr_mut(key))
            }

            #[inline(always)]
            fn fragment_put(&self, key: &FragmentKey<$address>, value: &FragmentValue) {
                let _ = $fragments.insert(key, value, BPF_ANY as u64);
            }

            #[inline(always)]
            fn sock_reverse(
                &self,
                key: &SockReverseKey<$address>,
            ) -> Option<Shared<'_, SockReverseValue<$address>>> {
                shared($reverse.get_ptr_mut(key))
            }

            #[inline(always)]
            fn sock_reverse_put(&self, key: &SockReverseKey<$address>, value: &SockReverseValue<$address>) {
                let _ = $reverse.insert(key, value, BPF_ANY as u64);
            }

            #[inline(always)]
            fn sock_reverse_remove(&self, key: &SockReverseKey<$address>) {
                let _ = $reverse.remove(key);
            }

            #[inline(always)]
            fn report(&self, fill: impl FnOnce(&mut Event)) {
                let Some(mut record) = EVENTS.reserve::<Event>(0) else { return lost() };
                // SAFETY: the memory is reserved and an Event is integers; `fill` writes every field but the time.
                let event = unsafe { &mut *record.as_mut_ptr() };
                fill(event);
                // SAFETY: a helper without arguments.
                event.time_ns = unsafe { bpf_ktime_get_ns() };
                record.submit(0);
            }

            #[inline(always)]
            fn fragment_ports(&self) -> Step {
                stages::done(stages::$stages::fragment_ports())
            }

            #[inline(always)]
            fn serve<O: Observer>(&self, _: &mut O, hook: u8) -> Step {
                stages::done(stages::$stages::serve(hook as u32))
            }

            #[inline(always)]
            fn rule(&self, policy: u32, class: u32, protocol: u32, port: u32) -> u64 {
                stages::rule(policy, class, protocol, port)
            }

            #[inline(always)]
            fn establish(&self) -> Step {
                stages::done(stages::$stages::establish())
            }

            #[inline(always)]
            fn reconsider<O: Observer>(&self, _: &mut O) -> Step {
                stages::done(stages::$stages::reconsider())
            }

            #[inline(always)]
            fn ending(&self) -> Step {
                stages::done(stages::$stages::ending())
            }
        }
    };
}

tables!(
    V4, Addr4, 32,
    CONNTRACK4 DRAFT4 FLOW4 HEAVY_SOURCES4 SERVICES4 BACKENDS4 AFFINITY4
    ENDPOINTS4 PEERS4 PEER_CIDRS4 FRAGMENTS4 SOCK_REVERSE4,
    v4
);
tables!(
    V6, Addr6, 128,
    CONNTRACK6 DRAFT6 FLOW6 HEAVY_SOURCES6 SERVICES6 BACKENDS6 AFFINITY6
    ENDPOINTS6 PEERS6 PEER_CIDRS6 FRAGMENTS6 SOCK_REVERSE6,
    v6
);
