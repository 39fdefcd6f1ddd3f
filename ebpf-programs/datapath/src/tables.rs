//! The tables the datapath reads and writes: maps in the kernel, ordinary collections in tests and `trace`.

use core::marker::PhantomData;
use core::ptr::NonNull;

use abi::{
    AffinityKey, AffinityValue, Backend, Config, ConntrackEntry, ConntrackKey, Endpoint, Event, FragmentKey,
    FragmentValue, Node, Peer, PodNetns, PolicyEntry, PolicyKey, Port, PortRange, Service, ServiceKey,
    SockReverseKey, SockReverseValue, State,
};

use crate::claim::{CLAIM_TRIES, Search};
use crate::family::Family;
use crate::flow::Flow;
use crate::observe::Observer;
use crate::verdict::Step;

type AddressOf<F> = <F as Family>::Address;

/// A value that another CPU may be writing: never a reference, but a pointer whose fields are read and written one by
/// one with [`get!`](crate::get) and [`set!`](crate::set).
pub struct Shared<'a, T>(NonNull<T>, PhantomData<&'a T>);

impl<T> Clone for Shared<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Shared<'_, T> {}

impl<T> Shared<'_, T> {
    /// `None` for null.
    ///
    /// # Safety
    /// A pointer that is not null is aligned and valid for reads and writes for `'a`; whoever else accesses it does so
    /// field by field as well.
    #[inline(always)]
    pub unsafe fn new(pointer: *mut T) -> Option<Self> {
        NonNull::new(pointer).map(|pointer| Shared(pointer, PhantomData))
    }

    /// For the macros: address of the value.
    #[inline(always)]
    pub fn pointer(self) -> *mut T {
        self.0.as_ptr()
    }
}

/// Reads one field of a [`Shared`] value, an element of one, or a field of an element.
#[macro_export]
macro_rules! get {
    ($shared:ident . $field:ident) => {{
        let pointer = $shared.pointer();
        // SAFETY: a Shared is valid for reads, and every bit pattern of an abi field is a value.
        unsafe { core::ptr::read_volatile(core::ptr::addr_of!((*pointer).$field)) }
    }};
    ($shared:ident . $field:ident [$index:expr] $(. $inner:ident)?) => {{
        let (pointer, index) = ($shared.pointer(), $index);
        // SAFETY: as above; the index is checked against the array's length.
        unsafe { core::ptr::read_volatile(core::ptr::addr_of!((*pointer).$field[index] $(. $inner)?)) }
    }};
}

/// Writes one field of a [`Shared`] value.
#[macro_export]
macro_rules! set {
    ($shared:ident . $field:ident = $value:expr) => {{
        let (pointer, value) = ($shared.pointer(), $value);
        // SAFETY: a Shared is valid for writes, and no Rust reference to its memory exists.
        unsafe { core::ptr::write_volatile(core::ptr::addr_of_mut!((*pointer).$field), value) }
    }};
}

/// What became of an insertion.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Inserted {
    /// It is in the table.
    Done = 0,
    /// The key was taken, and was to be new.
    Taken = 1,
    /// The table is full.
    Full = 2,
}

/// What an insertion does with a key that is there already.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Claim {
    /// It must be new: of two CPUs that insert it, one fails.
    New,
    /// It is replaced.
    Replace,
}

/// Tables of one family, and what goes with them.
pub trait Tables<F: Family>: Sized {
    /// What was fixed at load.
    fn config(&self) -> Shared<'_, Config>;
    /// What the agent changes.
    fn state(&self) -> Option<Shared<'_, State>>;
    /// Scratch of this CPU for the packet being decided. Values read back from it are plain unknown numbers to the
    /// verifier, so that it merges all the ways that lead here.
    #[allow(clippy::mut_from_ref, reason = "per-CPU memory; one packet at a time is decided on a CPU")]
    fn flow(&self) -> Option<&mut Flow<AddressOf<F>>>;
    /// Scratch of this CPU for the connection being made: too large for the stack.
    #[allow(clippy::mut_from_ref, reason = "as above")]
    fn draft(&self) -> Option<&mut ConntrackEntry<AddressOf<F>>>;
    /// Time in the unit of `last_seen`.
    fn now(&self) -> u32;
    /// Any number.
    fn random(&self) -> u32;
    /// The next number of a counter. Two CPUs may get the same one.
    fn turn(&self) -> u32;

    /// The connection with this key.
    fn conntrack(&self, key: &ConntrackKey<AddressOf<F>>)
    -> Option<Shared<'_, ConntrackEntry<AddressOf<F>>>>;
    /// Puts a connection on record.
    fn conntrack_insert(
        &self,
        key: &ConntrackKey<AddressOf<F>>,
        entry: &ConntrackEntry<AddressOf<F>>,
        claim: Claim,
    ) -> Inserted;
    /// Goes on with a search for a source port until it is over: another loop that is long.
    #[inline(always)]
    fn search(&self, search: &mut Search<'_, AddressOf<F>>) {
        let mut i = 0;
        while i < CLAIM_TRIES && !search.step::<F, Self>(self, i) {
            i += 1;
        }
    }
    /// Removes a connection.
    fn conntrack_remove(&self, key: &ConntrackKey<AddressOf<F>>);
    /// Whether new flows of this source are refused under pressure.
    fn heavy_source(&self, address: &AddressOf<F>) -> bool;

    /// The frontend with this key.
    fn service(&self, key: &ServiceKey<AddressOf<F>>) -> Option<Shared<'_, Service>>;
    /// A backend slot.
    fn backend(&self, slot: u32) -> Option<Shared<'_, Backend<AddressOf<F>>>>;
    /// The slot among `count` from `base` on that holds a backend, or `base + count`. Services have from one to thousands
    /// of backends: the kernel has a helper for loops that long.
    #[inline(always)]
    fn backend_slot(&self, base: u32, count: u32, address: &AddressOf<F>, port: Port) -> u32 {
        let mut slot = base;
        while slot < base + count && !crate::service::is::<F, Self>(self, slot, address, port) {
            slot += 1;
        }
        slot
    }
    /// What a client was given before.
    fn affinity(&self, key: &AffinityKey<AddressOf<F>>) -> Option<Shared<'_, AffinityValue<AddressOf<F>>>>;
    /// Remembers what a client is given.
    fn affinity_put(&self, key: &AffinityKey<AddressOf<F>>, value: &AffinityValue<AddressOf<F>>);

    /// The local pod with this address.
    fn endpoint(&self, address: &AddressOf<F>) -> Option<Shared<'_, Endpoint>>;
    /// The pod or node with this address.
    fn peer(&self, address: &AddressOf<F>) -> Option<Shared<'_, Peer>>;
    /// The longest prefix that has this address.
    fn peer_cidr(&self, address: &AddressOf<F>) -> Option<Shared<'_, Peer>>;
    /// How another node is reached.
    fn node(&self, index: u32) -> Option<Shared<'_, Node>>;
    /// The pod that a network namespace is.
    fn pod_netns(&self, cookie: u64) -> Option<Shared<'_, PodNetns>>;

    /// Policy for a (policy id, class) pair.
    fn policy(&self, key: &PolicyKey) -> Option<Shared<'_, PolicyEntry>>;
    /// Element of the slices that large entries own.
    fn policy_range(&self, index: u32) -> Option<Shared<'_, PortRange>>;

    /// Ports of the packet that a fragment belongs to.
    fn fragment(&self, key: &FragmentKey<AddressOf<F>>) -> Option<Shared<'_, FragmentValue>>;
    /// Remembers the ports that only the first fragment has.
    fn fragment_put(&self, key: &FragmentKey<AddressOf<F>>, value: &FragmentValue);

    /// The service that a socket asked for.
    fn sock_reverse(
        &self,
        key: &SockReverseKey<AddressOf<F>>,
    ) -> Option<Shared<'_, SockReverseValue<AddressOf<F>>>>;
    /// Remembers the service that a socket asked for.
    fn sock_reverse_put(&self, key: &SockReverseKey<AddressOf<F>>, value: &SockReverseValue<AddressOf<F>>);
    /// Forgets a socket.
    fn sock_reverse_remove(&self, key: &SockReverseKey<AddressOf<F>>);

    /// Reports an event: `fill` writes into the record. A record that finds no room is counted.
    fn report(&self, fill: impl FnOnce(&mut Event));

    // Stages: work on the flow in scratch alone. The kernel has each as a function of its own, which the verifier walks
    // once instead of once for every way that leads to it; so no reference to the flow is held across one.

    /// Lets fragments follow their first.
    #[inline(always)]
    fn fragment_ports(&self) -> Step {
        crate::fragment::fragment::<F, Self>(self)
    }

    /// Turns a Service's address into a backend's.
    #[inline(always)]
    fn serve<O: Observer>(&self, observer: &mut O, hook: u8) -> Step {
        crate::begin::serve::<F, Self, O>(self, observer, hook)
    }

    /// What a policy says to a class of peers at a protocol and port: `policy::Ruling`.
    #[inline(always)]
    fn rule(&self, policy: u32, class: u32, protocol: u32, port: u32) -> u64 {
        crate::policy::rule::<F, Self>(self, policy, class, protocol, port)
    }

    /// Puts the flow on record.
    #[inline(always)]
    fn establish(&self) -> Step {
        crate::establish::establish::<F, Self>(self)
    }

    /// Asks the policy again about a connection on record.
    #[inline(always)]
    fn reconsider<O: Observer>(&self, observer: &mut O) -> Step {
        crate::conntrack::reconsider::<F, Self, O>(self, observer)
    }

    /// Follows the end of a TCP connection.
    #[inline(always)]
    fn ending(&self) -> Step {
        crate::conntrack::ending::<F, Self>(self)
    }
}
