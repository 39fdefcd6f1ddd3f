//! The tables of connections as user space uses them: collecting what is over, and scrubbing what lost its end.
//!
//! The programs only add and update; what nobody uses any more is found here by batched walks. A translated connection has two
//! entries of which each sees one direction: neither goes before both are idle.

use std::{
    collections::HashSet,
    hash::Hash,
    net::IpAddr,
    path::Path,
    sync::{Arc, mpsc},
    thread::JoinHandle,
    time::Duration,
};

use abi::{Addr4, Addr6, ConntrackEntry, ConntrackKey, names, protocol, tcp_state, timeout, via};
use netplan::{
    Address,
    conntrack::{self, IdleTimes},
};

use crate::{
    config::Timeouts,
    error::{Error, Result},
    metrics::Metrics,
    table::Map,
};

/// Between walks when the tables are nearly empty and little happens: an idle entry does no harm there.
const INTERVAL_MAX: Duration = Duration::from_secs(30);
/// Between walks when they fill or many connections end, so that these free their places and ports as soon as they may.
const INTERVAL_MIN: Duration = Duration::from_secs(5);
/// From this part of its room on, a table counts as filling.
const FILLING: f64 = 0.25;
/// So many entries removed by one walk, as a part of a table's room, are many: 1,300 of the default's.
const CHURNING: f64 = 0.01;
/// From this part on, new flows of the heaviest sources are refused: what is left is for everybody else.
const PRESSURE: f64 = 0.9;
/// How many of the heaviest sources that are: the size of HEAVY_SOURCES leaves room for a few times as many.
const HEAVY_MAX: usize = 64;

/// The tables of connections of both families.
#[derive(Debug)]
pub struct Connections {
    v4: Half<Addr4>,
    v6: Half<Addr6>,
}

#[derive(Debug)]
struct Half<A> {
    entries: Map<ConntrackKey<A>, ConntrackEntry<A>>,
    heavy: Map<A, u32>,
}

/// Connections that must go although they are not idle.
#[derive(Debug, Default)]
pub struct Scrub {
    /// Addresses of pods that are gone.
    pub(crate) addresses: HashSet<IpAddr>,
    /// Their devices.
    pub(crate) devices: HashSet<u32>,
    /// Backends that a UDP service lost: service id, address, port.
    pub(crate) backends: HashSet<(u32, IpAddr, u16)>,
}

/// A connection that is this young may still be on its way: in units of `last_seen`, 3 to 4 s. It covers a SYN that was lost
/// twice. One that waits longer is at work inside the pod, which is the application's affair.
const IN_FLIGHT_UNITS: u32 = 3;

/// What comes to a pod: TCP connections on record at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Arrivals {
    /// Those that the node itself did not begin (it probes its pods): a number that stays means that none came, unless old
    /// ones were collected meanwhile.
    pub begun: usize,
    /// Those that began lately and to which the pod has not said anything.
    pub unanswered: usize,
}

/// What one walk found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Walked {
    /// Entries that stay.
    pub live: usize,
    /// Entries that were removed.
    pub removed: usize,
    /// Entries there is room for.
    pub capacity: usize,
}

/// The collector's thread; dropping it ends it.
#[derive(Debug)]
pub struct Collector {
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

// === impl Connections ===

impl Connections {
    /// Opens the pinned tables.
    pub fn open(directory: &Path) -> Result<Self> {
        Ok(Connections {
            v4: Half {
                entries: Map::open(directory, names::CONNTRACK4.name)?,
                heavy: Map::open(directory, names::HEAVY_SOURCES4.name)?,
            },
            v6: Half {
                entries: Map::open(directory, names::CONNTRACK6.name)?,
                heavy: Map::open(directory, names::HEAVY_SOURCES6.name)?,
            },
        })
    }

    /// Removes the connections that lost an end.
    pub fn scrub(&self, scrub: &Scrub) -> Result<()> {
        if scrub.is_empty() {
            return Ok(());
        }
        let removed = self.v4.remove_if(|key, entry| scrub.hits(key, entry))?
            + self.v6.remove_if(|key, entry| scrub.hits(key, entry))?;
        tracing::debug!(removed, "connections without an end are scrubbed");
        Ok(())
    }

    /// What comes to a pod of this node.
    pub fn arrivals(&self, pod: &[IpAddr]) -> Result<Arrivals> {
        let (now, mut arrivals) = (now()?, Arrivals::default());
        self.v4.count_arrivals(pod, now, &mut arrivals)?;
        self.v6.count_arrivals(pod, now, &mut arrivals)?;
        Ok(arrivals)
    }

    /// Removes what is idle; IPv4 and IPv6.
    pub fn collect(&self, times: &IdleTimes) -> Result<[Walked; 2]> {
        let now = now()?;
        Ok([self.v4.collect(now, times)?, self.v6.collect(now, times)?])
    }
}

// === impl Half ===

impl<A> Half<A>
where
    A: conntrack::Ordered,
    ConntrackKey<A>: Copy + Default + Eq + Hash,
    ConntrackEntry<A>: Copy + Default,
{
    /// Removes what `hit` says, and the other halves.
    fn remove_if(&self, hit: impl Fn(&ConntrackKey<A>, &ConntrackEntry<A>) -> bool) -> Result<usize> {
        let mut found = Vec::new();
        self.entries.for_each(|key, entry| {
            if hit(key, entry) {
                found.push((*key, *entry));
            }
        })?;
        let mut removed = 0;
        for (key, entry) in &found {
            if let Some((other, _)) = self.other_half(key, entry)? {
                let ours = |now: &_| conntrack::are_halves((key, entry), (&other, now));
                removed += self.remove_if_still(&other, ours)?;
            }
            removed += self.remove_if_still(key, |now| hit(key, now))?;
        }
        Ok(removed)
    }

    /// Removes an entry that a walk found, if it is still so. Between a walk and its removals lie milliseconds, on a busy machine
    /// hundreds of them, in which a client may have begun a new connection with the same tuple. How many entries went.
    fn remove_if_still(
        &self,
        key: &ConntrackKey<A>,
        still: impl Fn(&ConntrackEntry<A>) -> bool,
    ) -> Result<usize> {
        match self.entries.get(key)? {
            Some(now) if still(&now) => self.entries.remove(key).map(|()| 1),
            _ => Ok(0),
        }
    }

    /// The other half of a translated connection, if it is on record and still belongs to this one.
    fn other_half(
        &self,
        key: &ConntrackKey<A>,
        entry: &ConntrackEntry<A>,
    ) -> Result<Option<(ConntrackKey<A>, ConntrackEntry<A>)>> {
        let Some(key_of_other) = conntrack::other_half(key, entry) else { return Ok(None) };
        let other = self.entries.get(&key_of_other)?.map(|other| (key_of_other, other));
        Ok(other.filter(|(other, half)| conntrack::are_halves((key, entry), (other, half))))
    }

    fn count_arrivals(&self, pod: &[IpAddr], now: u32, arrivals: &mut Arrivals) -> Result<()> {
        let pod: Vec<A> = pod.iter().filter_map(|address| A::from_ip(*address)).collect();
        if pod.is_empty() {
            return Ok(());
        }
        self.entries.for_each(|key, entry| {
            let [_, (responder, _)] = conntrack::ends(key, entry);
            if !pod.contains(&responder) || !conntrack::leads_to_responder(key, entry) {
                return;
            }
            arrivals.begun += usize::from(entry.via[0] & via::KIND != via::HOST);
            arrivals.unanswered += usize::from(conntrack::unanswered(key, entry, now, IN_FLIGHT_UNITS));
        })
    }

    fn collect(&self, now: u32, times: &IdleTimes) -> Result<Walked> {
        let mut walked = Walked { capacity: self.entries.capacity() as usize, ..Walked::default() };
        let mut over = Vec::new();
        let mut sources = std::collections::HashMap::<A, u32>::new();
        self.entries.for_each(|key, entry| {
            if conntrack::expired(key, entry, now, times) {
                over.push((*key, *entry));
            } else {
                walked.live += 1;
                *sources.entry(conntrack::ends(key, entry)[0].0).or_default() += 1;
            }
        })?;
        for (key, entry) in over {
            match self.other_half(&key, &entry)? {
                // The other direction is in use.
                Some((other, half)) if !conntrack::expired(&other, &half, now, times) => walked.live += 1,
                _ => {
                    let still = |entry: &_| conntrack::expired(&key, entry, now, times);
                    walked.removed += self.remove_if_still(&key, still)?;
                }
            }
        }
        self.publish_heavy(walked, sources)?;
        Ok(walked)
    }

    /// Under pressure the sources with the most connections are named, else nobody is.
    fn publish_heavy(&self, walked: Walked, sources: std::collections::HashMap<A, u32>) -> Result<()> {
        let mut heaviest: Vec<(A, u32)> =
            if walked.pressed() { sources.into_iter().collect() } else { Vec::new() };
        heaviest.sort_unstable_by_key(|(address, count)| (std::cmp::Reverse(*count), *address));
        heaviest.truncate(HEAVY_MAX);
        let mut gone = Vec::new();
        self.heavy.for_each(|address, _| {
            if !heaviest.iter().any(|(heavy, _)| heavy == address) {
                gone.push(*address);
            }
        })?;
        self.heavy.remove_all(&gone)?;
        heaviest.iter().try_for_each(|(address, count)| self.heavy.put(address, count))
    }
}

// === impl Scrub ===

impl Scrub {
    /// Adds a pod of this node.
    pub(crate) fn pod(&mut self, address: IpAddr, device: u32) {
        self.addresses.insert(address);
        self.devices.insert(device);
    }

    fn is_empty(&self) -> bool {
        self.devices.is_empty() && self.backends.is_empty()
    }

    fn hits<A: Address>(&self, key: &ConntrackKey<A>, entry: &ConntrackEntry<A>) -> bool {
        // What is over harms nobody, and its client may be about to use the tuple again.
        if tcp_state::closed(entry.tcp) {
            return false;
        }
        let is_device =
            |via: &u32| via & via::KIND == via::POD && self.devices.contains(&(via & via::ARGUMENT));
        if entry.via.iter().any(is_device) {
            return true;
        }
        let [initiator, responder] = conntrack::ends(key, entry);
        let addresses = [initiator.0, responder.0, entry.other_initiator, entry.other_responder];
        if addresses.iter().any(|address| self.addresses.contains(&address.ip())) {
            return true;
        }
        let serves = |(address, port): (A, u16)| self.backends.contains(&(entry.service, address.ip(), port));
        (key.protocol & 0xff) as u8 == protocol::UDP
            && entry.service != 0
            && (serves(responder) || serves((entry.other_responder, entry.other_responder_port.get())))
    }
}

// === impl Walked ===

impl Walked {
    fn fill(self) -> f64 {
        self.live as f64 / (self.capacity as f64).max(1.0)
    }

    /// Whether the next walk must come soon.
    fn is_busy(self) -> bool {
        self.fill() >= FILLING || self.removed as f64 >= CHURNING * self.capacity as f64
    }

    /// Whether new flows must be held back.
    pub fn pressed(self) -> bool {
        self.fill() >= PRESSURE
    }
}

// === impl Collector ===

impl Collector {
    /// Walks now and then; `pressure` is told after each walk whether new flows must be held back.
    pub fn start(
        connections: Arc<Connections>,
        timeouts: Timeouts,
        metrics: Metrics,
        pressure: impl Fn(bool) + Send + 'static,
    ) -> Result<Self> {
        let (stop, stopped) = mpsc::channel::<()>();
        let work = move || {
            let mut interval = INTERVAL_MIN;
            while stopped.recv_timeout(interval) == Err(mpsc::RecvTimeoutError::Timeout) {
                match connections.collect(&idle_times(&timeouts)) {
                    Ok(walked) => {
                        metrics.connections(&walked);
                        pressure(walked.iter().any(|walked| walked.pressed()));
                        let busy = walked.iter().any(|walked| walked.is_busy());
                        interval = if busy { INTERVAL_MIN } else { (interval * 2).min(INTERVAL_MAX) };
                    }
                    Err(error) => {
                        tracing::error!(error = &error as &dyn std::error::Error, "idle connections stay")
                    }
                }
            }
        };
        let thread = std::thread::Builder::new()
            .name("conntrack".into())
            .spawn(work)
            .map_err(Error::file("starting a thread for", "conntrack"))?;
        Ok(Collector { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Seconds in the unit of `last_seen`.
fn idle_times(timeouts: &Timeouts) -> IdleTimes {
    let units = |seconds: u32| ((u64::from(seconds) * 1_000_000_000) >> timeout::CLOCK_SHIFT) as u32;
    IdleTimes {
        established: units(timeouts.tcp_established),
        syn: units(timeouts.tcp_syn),
        closing: units(timeouts.tcp_closing),
        other: units(timeouts.other),
    }
}

/// The programs' clock.
fn now() -> Result<u32> {
    let clock = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC);
    let time = clock.map_err(|errno| Error::file("reading", "the clock")(errno.into()))?;
    let ns = time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64;
    Ok((ns >> timeout::CLOCK_SHIFT) as u32)
}
