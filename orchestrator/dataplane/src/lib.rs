//! The kernel half: load, pin, attach, apply a plan, IPAM, CNI server, conntrack GC, event reader.
//!
//! Knows no API object: `agent::network` turns those into netplan's snapshots and hands the compiled plan to [`Dataplane::apply`].
//! Nothing here needs an async runtime: packets, CNI and collection go on whatever the control plane's tasks do, each on a
//! thread of its own, and all threads are in the network namespace of the one that called [`Dataplane::start`]. Maps, links and
//! devices outlive the process; the next one adopts them.

pub mod cni;
mod config;
mod conntrack;
mod detach;
mod devices;
mod error;
mod events;
mod hurry;
mod ipam;
mod loader;
#[cfg(feature = "log")]
mod logs;
mod metrics;
mod netlink;
mod netns;
mod object;
mod pods;
mod probe;
mod program;
mod reader;
mod sys;
mod table;

use std::{collections::HashSet, fs::File, net::IpAddr, sync::Arc, time::Instant};

use abi::Event;
use ipnet::IpNet;
use nix::fcntl::{Flock, FlockArg};
use parking_lot::Mutex;
use telemetry::Registry;
use tokio::sync::{broadcast, watch};

use netplan::{Host, Ids, Plan};

use self::{
    cni::CniError,
    conntrack::{Collector, Connections},
    devices::{NodeDevices, PodLink},
    events::Events,
    ipam::{Ipam, Record},
    loader::Loader,
    metrics::{PacketCollector, PacketCounters},
    pods::{LocalPods, Pods},
    program::Programmer,
};
pub use self::{
    config::{Config, Timeouts},
    conntrack::{Arrivals, Walked},
    detach::detach,
    error::{Error, Result},
    hurry::{Hurry, hurry},
    loader::patiently,
    metrics::{Metrics, PacketCount},
    pods::{Endpoints, PodDirectory},
    probe::check_privileges,
    program::Applied,
};

/// A node's dataplane at work. Dropping it stops its threads and leaves the kernel as it is.
#[derive(Debug)]
pub struct Dataplane {
    config: Config,
    shared: Arc<Shared>,
    metrics: Metrics,
    counters: Arc<PacketCounters>,
    events: Events,
    /// What the node's own network stack was last made to have.
    host: Mutex<Option<Arc<Host>>>,
    cni: Mutex<Option<cni::Server>>,
    /// What a predecessor wired and the runtime has not been asked about yet.
    inherited: Mutex<Vec<Record>>,
    _collector: Collector,
    _lock: Flock<File>,
}

/// What the dataplane's threads share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) ipam: Ipam,
    pub(crate) devices: NodeDevices,
    pub(crate) loader: Loader,
    pub(crate) pods: LocalPods,
    pub(crate) programmer: Mutex<Programmer>,
    pub(crate) connections: Arc<Connections>,
}

// === impl Dataplane ===

impl Dataplane {
    /// Loads the programs into the calling thread's network namespace, adopting what a predecessor left, with traffic running.
    pub fn start(config: Config, registry: &Registry) -> Result<Self> {
        // Also takes back what a predecessor set that was killed.
        let _hurry = hurry();
        probe::check(&config)?;
        let lock = lock(&config)?;
        let ipam = Ipam::open(&config.state).map_err(|error| Error::File {
            operation: "reading address records in",
            path: config.state.clone(),
            source: std::io::Error::other(error),
        })?;
        let devices = devices::ensure(&config)?;
        let loader = Loader::load(&config, &devices)?;
        let directory = loader.directory().to_owned();
        let programmer = Programmer::open(&directory, netns::cookie()?)?;
        let connections = Arc::new(Connections::open(&directory)?);
        loader.attach_node(&devices, &config.cgroup)?;
        let metrics = Metrics::new(registry);
        metrics.fill(&programmer.fill());
        let counters = Arc::new(PacketCounters::open(&directory)?);
        registry.register(PacketCollector(counters.clone()));
        let events = Events::start(&directory, metrics.clone())?;
        let shared = Arc::new(Shared {
            ipam,
            devices,
            loader,
            pods: LocalPods::new(),
            programmer: Mutex::new(programmer),
            connections: connections.clone(),
        });
        let inherited = Mutex::new(shared.find_pods()?);
        let collector = Collector::start(connections, config.timeouts, metrics.clone(), {
            let shared = Arc::downgrade(&shared);
            move |pressure| {
                let Some(shared) = shared.upgrade() else { return };
                if let Err(error) = shared.programmer.lock().set_pressure(pressure) {
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        "the sign of pressure is not set"
                    );
                }
            }
        })?;
        Ok(Dataplane {
            config,
            shared,
            metrics,
            counters,
            events,
            host: Mutex::new(None),
            cni: Mutex::new(None),
            inherited,
            _collector: collector,
            _lock: lock,
        })
    }

    /// Memory for the compilers, with what the kernel holds already taken over.
    pub fn ids(&self) -> Ids {
        let mut ids = Ids::new(self.config.limits());
        self.shared.programmer.lock().adopt(&mut ids);
        ids
    }

    /// Says which prefixes pods get their addresses from; ADD is refused until then.
    pub fn set_pod_cidrs(&self, nets: &[IpNet]) {
        self.shared.ipam.set_nets(nets);
    }

    /// Answers CNI from now on, with policy from `directory`.
    pub fn serve_cni(&self, directory: Arc<dyn PodDirectory>) -> Result<()> {
        let pods = Pods::new(self.shared.clone(), directory, self.config.policy_wait)
            .map_err(Error::file("starting a thread for", &self.config.cni_socket))?;
        let pods = Arc::new(pods);
        let server = cni::Server::start(&self.config.cni_socket, pods)?;
        *self.cni.lock() = Some(server);
        Ok(())
    }

    /// Releases the addresses and devices of sandboxes that a predecessor wired and that the runtime no longer has; how many
    /// there were. Called once the runtime has listed its sandboxes. What was wired since the start stays: the runtime lists
    /// a sandbox only after it has its network.
    pub fn reconcile(&self, sandboxes: &HashSet<String>) -> Result<usize, CniError> {
        let mut inherited = self.inherited.lock();
        inherited.retain(|record| !sandboxes.contains(&record.container));
        let gone = inherited.len();
        // From the end: what could not be released is asked about again by the next call.
        while let Some(record) = inherited.last() {
            // A DEL may have come before us.
            if self.shared.ipam.get(&record.key()).as_ref() == Some(record) {
                tracing::info!(pod = %format_args!("{}/{}", record.namespace, record.name), sandbox = record.container,
                    "the runtime has no such sandbox: its address is released");
                self.shared.remove_pod(record)?;
            }
            inherited.pop();
        }
        Ok(gone)
    }

    /// What comes to a pod of this node. Walks the table of connections: milliseconds.
    pub fn arrivals(&self, pod: &[IpAddr]) -> Result<Arrivals> {
        self.shared.connections.arrivals(pod)
    }

    /// The pods of this node that have a device.
    pub fn endpoints(&self) -> watch::Receiver<Endpoints> {
        self.shared.pods.subscribe()
    }

    /// Makes the kernel hold `plan`; the caller's caches are synced, or it would prune what it does not know yet.
    pub fn apply(&self, plan: &Plan) -> Result<Applied> {
        let started = Instant::now();
        self.sync_host(&plan.host)?;
        let mut programmer = self.shared.programmer.lock();
        let applied = programmer.apply(plan, &self.shared.connections)?;
        self.metrics.fill(&programmer.fill());
        drop(programmer);
        for shortfall in &plan.shortfalls {
            tracing::error!("{shortfall}");
        }
        self.metrics.applied(applied.revision, started.elapsed(), plan.shortfalls.len());
        Ok(applied)
    }

    /// Routes and addresses are asked for and compared only when the plan's are other ones.
    fn sync_host(&self, host: &Arc<Host>) -> Result<()> {
        let mut held = self.host.lock();
        if !held.as_ref().is_some_and(|held| Arc::ptr_eq(held, host)) {
            self.shared.devices.sync_host(host)?;
            *held = Some(host.clone());
        }
        Ok(())
    }

    /// Follows the datapath's events from now on.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    /// Packets by reason and hook since the maps were made.
    pub fn packets(&self) -> Result<Vec<PacketCount>> {
        self.counters.read()
    }

    /// Metrics that the caller contributes to.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// The pods' MTU.
    pub fn pod_mtu(&self) -> u32 {
        self.shared.devices.pod_mtu
    }
}

// === impl Shared ===

impl Shared {
    /// Publishes the pods that a predecessor wired; all that it had on record.
    fn find_pods(&self) -> Result<Vec<Record>> {
        let records = self.ipam.records();
        for record in &records {
            match PodLink::find(&record.device, &record.netns, &record.ifname)? {
                Some(link) => {
                    self.loader.attach_pod(&record.device, link.ifindex)?;
                    self.pods.insert(pods::endpoint(record, &link));
                }
                None => {
                    tracing::warn!(device = record.device, sandbox = record.container, "a pod's link is gone")
                }
            }
        }
        Ok(records)
    }

    /// Takes a pod out of the datapath, then its device, then its address.
    fn remove_pod(&self, record: &Record) -> Result<(), CniError> {
        self.forget_pod(record)?;
        self.release_pod(record)
    }

    /// Takes a pod out of the datapath: nothing leads to its device any more.
    fn forget_pod(&self, record: &Record) -> Result<(), CniError> {
        if let Some(endpoint) = self.pods.remove(record) {
            let mut programmer = self.programmer.lock();
            programmer.forget(&endpoint.addresses, endpoint.netns_cookie, &self.connections)?;
        }
        Ok(())
    }

    /// Takes a pod's device away, and only then gives its address back.
    fn release_pod(&self, record: &Record) -> Result<(), CniError> {
        self.loader.detach_pod(&record.device)?;
        PodLink::remove(&record.device)?;
        self.ipam.release(&record.key())?;
        Ok(())
    }
}

/// One agent a node: two would take each other's maps apart.
fn lock(config: &Config) -> Result<Flock<File>> {
    let directory = &config.state;
    std::fs::create_dir_all(directory).map_err(Error::file("making", directory))?;
    let path = directory.join("lock");
    let file = File::create(&path).map_err(Error::file("making", &path))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| {
        Error::file("locking (is another agent of this node running?)", &path)(errno.into())
    })
}
