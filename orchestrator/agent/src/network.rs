//! The node's network as the API describes it: informers -> netplan's snapshot -> plan -> kernel.
//!
//! Level-triggered: a change only marks the cache as dirty (`state`); a thread of its own takes what the cache holds then, compiles,
//! and lets the dataplane write the difference (`compiler`). Changes that come meanwhile are one next round. Nothing is compiled before
//! every cache is complete, so nothing is pruned that the API server merely has not told yet; and losing the API server
//! changes nothing, because the caches stay as they are.

mod cache;
mod compiler;
mod directory;
mod kernel;
mod names;
mod objects;
mod policies;
mod state;

use std::{collections::HashSet, net::IpAddr, sync::Arc, thread::JoinHandle};

use client::{Client, Informers};
use dataplane::{Arrivals, Dataplane};
use netplan::snapshot::Cluster;
use observe::Flows;
use telemetry::{
    Registry,
    health::{Health, Scope},
};
use tokio::{sync::watch, task::JoinSet};

pub use self::names::NameBook;
use crate::{
    errors::chain,
    pods::{timeline::Timelines, traffic::PodNetwork},
};

use self::{
    compiler::Metrics,
    kernel::Kernel,
    objects::{EndpointSlice, Namespace, NetworkPolicy, Node, Service},
    state::State,
};

/// How `/readyz` names this part.
const CHECK: &str = "network";

/// What a node's network is told at start.
#[derive(Clone, Debug)]
pub struct Config {
    /// The node's name.
    pub node: String,
    /// The kernel half; what it says of the cluster (prefixes, routing) holds for the compilers too.
    pub dataplane: dataplane::Config,
}

/// Why a node's network does not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel half does not.
    #[error("the dataplane does not start")]
    Dataplane(#[source] dataplane::Error),
    /// No thread is to be had.
    #[error("no thread for the network's compiler")]
    Thread(#[source] std::io::Error),
}

/// The running network of a node. Dropping it stops the updates and leaves the kernel as it is: traffic flows on.
#[derive(Debug)]
pub struct Network {
    /// First, so that nothing is compiled any more when the rest goes.
    _updates: Updates,
    state: Arc<State>,
    dataplane: Arc<Dataplane>,
    flows: Flows,
}

/// What keeps the kernel current.
#[derive(Debug)]
struct Updates {
    state: Arc<State>,
    /// Ends with the dataplane's channels, or when it is dropped.
    tasks: JoinSet<()>,
    compiler: Option<JoinHandle<()>>,
}

/// Brings up a node's network and keeps it as the API says: loads or adopts the eBPF programs, answers CNI, follows the API through
/// `client`, records flows. Returns once the programs run (packets of a predecessor's pods flow on throughout); pods get
/// addresses once the node has a pod CIDR and the first plan is in the kernel, which `health` and [`Network::obstacle`] tell.
///
/// `timelines` get the stages that CNI took.
///
/// The caller has left: to put `dataplane::cni::configuration` where the runtime looks once there is no obstacle, to call
/// [`Network::reconcile`] once the runtime has listed its sandboxes, to serve [`Network::flows`] on the agent's port, and to send
/// [`Network::applied_revision`] to the server.
pub async fn start(
    config: Config,
    client: Client,
    health: &Health,
    registry: &Registry,
    timelines: Timelines,
) -> Result<Network, Error> {
    let guard = health.block("dataplane");
    guard.waiting_for("the eBPF programs to be loaded");
    let Config { node, dataplane } = config;
    let cluster = Cluster {
        pod_cidrs: dataplane.pod_cidrs.clone(),
        service_cidrs: dataplane.service_cidrs.clone(),
        routing: dataplane.routing,
    };
    let dataplane = start_dataplane(dataplane, registry.clone()).await.map_err(Error::Dataplane)?;
    let dataplane = Arc::new(dataplane);
    let kernel: Arc<dyn Kernel> = Arc::<Dataplane>::clone(&dataplane);
    let metrics = Metrics::new(registry);
    let mut updates =
        Updates::start(kernel, &Informers::new(client), &node, cluster, metrics).map_err(Error::Thread)?;
    let state = Arc::clone(&updates.state);
    let obstacle = state.obstacle.subscribe();
    health.check(CHECK, Scope::Ready, move || {
        obstacle.borrow().as_deref().map_or(Ok(()), |why| Err(why.to_owned()))
    });
    drop(guard);
    let flows = Flows::new(&node, registry);
    updates.tasks.spawn(flows.clone().record(dataplane.events(), state.names.subscribe()));
    let network = Network { _updates: updates, state, dataplane, flows };
    network.dataplane.serve_cni(network.directory(timelines)).map_err(Error::Dataplane)?;
    Ok(network)
}

/// Loading and attaching take tens of milliseconds, and no other task shall wait for them.
async fn start_dataplane(config: dataplane::Config, registry: Registry) -> dataplane::Result<Dataplane> {
    let started = tokio::task::spawn_blocking(move || Dataplane::start(config, &registry)).await;
    started.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
}

// === impl Network ===

impl Network {
    /// The newest revision of a pod that the kernel holds: what the node acknowledges. A pod that is terminating at this
    /// revision gets no new connection from this node any more, whatever its EndpointSlice still says.
    pub fn applied_revision(&self) -> watch::Receiver<u64> {
        self.state.applied.subscribe()
    }

    /// Why new pods cannot have a network now, in a sentence for the node's condition; `None` while they can.
    pub fn obstacle(&self) -> watch::Receiver<Option<Arc<str>>> {
        self.state.obstacle.subscribe()
    }

    /// The node's flows, for `observe::http::router`.
    pub fn flows(&self) -> &Flows {
        &self.flows
    }

    /// What addresses and numbers in events mean, as of the newest plan.
    pub fn names(&self) -> watch::Receiver<Arc<NameBook>> {
        self.state.names.subscribe()
    }

    /// The kernel half.
    pub fn dataplane(&self) -> &Arc<Dataplane> {
        &self.dataplane
    }

    /// Releases addresses and devices of sandboxes (by their ids) that the runtime no longer has. Blocks.
    pub fn reconcile(&self, sandboxes: &HashSet<String>) -> Result<usize, dataplane::cni::CniError> {
        self.dataplane.reconcile(sandboxes)
    }

    /// What CNI asks.
    fn directory(&self, timelines: Timelines) -> Arc<dyn dataplane::PodDirectory> {
        Arc::new(directory::Directory { state: Arc::clone(&self.state), timelines })
    }
}

impl PodNetwork for Network {
    fn is_backend(&self, addresses: &[IpAddr]) -> bool {
        let inner = self.state.inner.lock();
        !inner.unsynced.is_empty() || addresses.iter().any(|address| inner.cache.is_backend(*address))
    }

    fn arrivals(&self, addresses: &[IpAddr]) -> Result<Arrivals, String> {
        self.dataplane.arrivals(addresses).map_err(|error| chain(&error))
    }

    fn reconcile(&self, sandboxes: &HashSet<String>) -> Result<usize, String> {
        self.dataplane.reconcile(sandboxes).map_err(|error| error.to_string())
    }
}

// === impl Updates ===

impl Updates {
    /// Follows the API and keeps `kernel` as it says.
    fn start(
        kernel: Arc<dyn Kernel>,
        informers: &Informers,
        node: &str,
        cluster: Cluster,
        metrics: Metrics,
    ) -> std::io::Result<Self> {
        let state = Arc::new(State::new(node, cluster));
        let mut tasks = JoinSet::new();
        state.follow::<Namespace>(informers, &mut tasks);
        state.follow::<Node>(informers, &mut tasks);
        state.follow_pods(informers, &mut tasks);
        state.follow::<Service>(informers, &mut tasks);
        state.follow::<EndpointSlice>(informers, &mut tasks);
        state.follow::<NetworkPolicy>(informers, &mut tasks);
        state.follow_endpoints(kernel.endpoints(), &mut tasks);
        let compiler = std::thread::Builder::new().name("network".into()).spawn({
            let state = Arc::clone(&state);
            move || compiler::run(&state, &*kernel, &metrics)
        })?;
        Ok(Updates { state, tasks, compiler: Some(compiler) })
    }
}

impl Drop for Updates {
    fn drop(&mut self) {
        self.state.change(|inner| inner.stopping = true);
        if let Some(compiler) = self.compiler.take() {
            let _ = compiler.join();
        }
    }
}

/// Addresses as the API writes them; what is not one is left out.
fn addresses<'a>(texts: impl IntoIterator<Item = &'a str>) -> Vec<IpAddr> {
    let mut addresses: Vec<IpAddr> = Vec::new();
    for address in texts.into_iter().filter_map(|text| text.parse().ok()) {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    addresses
}

#[cfg(test)]
mod tests;
