//! What CNI asks of a node: a device and an address for a pod, and only then an answer when its policy is in force.

use std::{
    collections::HashSet,
    io,
    path::PathBuf,
    sync::{Arc, mpsc},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use abi::GATEWAY_MAC;
use netplan::snapshot::LocalEndpoint;
use parking_lot::{Condvar, Mutex};
use serde_json::Value;
use tokio::sync::watch;

use crate::{
    Shared,
    cni::{CniError, Handler, Request, code, result},
    devices::{PodLink, PodWiring, link_name},
    error::Result,
    hurry,
    ipam::{Key, Record},
};

/// The pods of this node that have a device, as the compilers want them.
pub type Endpoints = Arc<[Arc<LocalEndpoint>]>;

/// Who knows pods from the API, and compiles their policy. Calls block: they come from CNI threads.
pub trait PodDirectory: Send + Sync + 'static {
    /// The uid of a pod, for runtimes that do not say it. Waits for the pod to be known, at most until `deadline`.
    fn uid(&self, namespace: &str, name: &str, deadline: Instant) -> Option<String>;

    /// Returns once the kernel holds the compiled policy of an endpoint that was just published; the reason if it does not
    /// by `deadline`.
    fn programmed(&self, endpoint: &LocalEndpoint, deadline: Instant) -> Result<(), String>;

    /// A pod has its network: ADD took this long, of which `policy` until the kernel held its policy.
    fn wired(&self, endpoint: &LocalEndpoint, took: Duration, policy: Duration);
}

/// Pods and their devices.
pub(crate) struct Pods {
    shared: Arc<Shared>,
    directory: Arc<dyn PodDirectory>,
    policy_wait: Duration,
    occupied: Arc<Occupied>,
    remover: Remover,
}

/// Sandboxes at work: a retried ADD waits for the one before it.
#[derive(Debug, Default)]
struct Occupied {
    keys: Mutex<HashSet<Key>>,
    idle: Condvar,
}

struct Busy(Arc<Occupied>, Key);

/// Takes the devices of pods that went away from the node: the kernel answers that only 10 ms later, when nothing can hold the
/// device any more, and nobody has to wait for it. A pod's record stays, and its sandbox is busy, until its device is gone;
/// a successor of an agent that ends before finds the record, and the runtime asks for the removal of every sandbox twice.
struct Remover {
    /// At most as many as the node has pods.
    jobs: Option<mpsc::Sender<(Record, Busy)>>,
    thread: Option<JoinHandle<()>>,
}

/// The devices of pods by their records.
#[derive(Debug)]
pub(crate) struct LocalPods {
    endpoints: watch::Sender<Endpoints>,
}

// === impl LocalPods ===

impl LocalPods {
    pub(crate) fn new() -> Self {
        LocalPods { endpoints: watch::Sender::new(Arc::from([])) }
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<Endpoints> {
        self.endpoints.subscribe()
    }

    pub(crate) fn insert(&self, endpoint: Arc<LocalEndpoint>) {
        self.endpoints.send_modify(|endpoints| {
            let others = endpoints.iter().filter(|other| other.addresses != endpoint.addresses).cloned();
            *endpoints = others.chain([endpoint.clone()]).collect();
        });
    }

    /// Takes out the endpoint of a record, and says what it was.
    pub(crate) fn remove(&self, record: &Record) -> Option<Arc<LocalEndpoint>> {
        let mut removed = None;
        self.endpoints.send_if_modified(|endpoints| {
            removed = endpoints.iter().find(|endpoint| endpoint.addresses == record.addresses).cloned();
            let Some(gone) = &removed else { return false };
            *endpoints = endpoints.iter().filter(|other| !Arc::ptr_eq(other, gone)).cloned().collect();
            true
        });
        removed
    }
}

/// The compilers' view of a record and its device.
pub(crate) fn endpoint(record: &Record, link: &PodLink) -> Arc<LocalEndpoint> {
    Arc::new(LocalEndpoint {
        namespace: record.namespace.as_str().into(),
        name: record.name.as_str().into(),
        uid: record.uid.as_str().into(),
        addresses: record.addresses.clone(),
        ifindex: link.ifindex,
        mac: link.mac,
        netns_cookie: link.netns_cookie,
    })
}

// === impl Pods ===

impl Pods {
    /// Starts the thread that removes devices.
    pub(crate) fn new(
        shared: Arc<Shared>,
        directory: Arc<dyn PodDirectory>,
        policy_wait: Duration,
    ) -> io::Result<Self> {
        let remover = Remover::start(shared.clone())?;
        Ok(Pods { shared, directory, policy_wait, occupied: Arc::default(), remover })
    }

    /// What a record would say of the request, without addresses.
    fn wanted(&self, request: &Request, deadline: Instant) -> Result<Record, CniError> {
        let pod = request.pod()?;
        let uid = pod.uid.or_else(|| self.directory.uid(&pod.namespace, &pod.name, deadline));
        let uid = uid.ok_or_else(|| {
            let message = format!("the pod {}/{} is not known to the agent", pod.namespace, pod.name);
            CniError::new(code::LATER, message)
                .details("the API server has not told of it, or it was deleted")
        })?;
        Ok(Record {
            container: request.container.clone(),
            ifname: request.ifname.clone(),
            netns: request.netns()?,
            namespace: pod.namespace,
            name: pod.name,
            uid,
            addresses: Vec::new(),
            device: link_name(&request.container, &request.ifname),
        })
    }

    fn link(&self, record: &Record) -> Result<PodLink, CniError> {
        if let Some(link) = PodLink::find(&record.device, &record.netns, &record.ifname)? {
            self.shared.loader.attach_pod(&record.device, link.ifindex)?;
            return Ok(link);
        }
        let wiring = PodWiring {
            name: record.device.clone(),
            pod: format!("{}/{}", record.namespace, record.name),
            netns: record.netns.clone(),
            ifname: record.ifname.clone(),
            addresses: record.addresses.clone(),
            mtu: self.shared.devices.pod_mtu,
        };
        Ok(wiring.make(|ifindex| self.shared.loader.attach_pod(&record.device, ifindex))?)
    }
}

impl Handler for Pods {
    fn add(&self, request: &Request) -> Result<Value, CniError> {
        let began = Instant::now();
        let deadline = began + self.policy_wait;
        let wanted = self.wanted(request, deadline)?;
        let _busy = Occupied::take(&self.occupied, wanted.key());
        let _hurry = hurry();
        let known = self.shared.ipam.get(&wanted.key()).is_some();
        let record = self.shared.ipam.allocate(wanted)?;
        let link = self.link(&record).inspect_err(|_| {
            // The runtime may never ask for the removal of what it was not given.
            if !known {
                let _ = self.shared.ipam.release(&record.key());
            }
        })?;
        let endpoint = endpoint(&record, &link);
        self.shared.pods.insert(endpoint.clone());
        let linked = Instant::now();
        self.directory.programmed(&endpoint, deadline).map_err(|why| {
            let pod = format!("{}/{}", record.namespace, record.name);
            CniError::new(code::LATER, format!("the network policy of pod {pod} is not in force yet"))
                .details(why)
        })?;
        self.directory.wired(&endpoint, began.elapsed(), linked.elapsed());
        let mtu = self.shared.devices.pod_mtu;
        Ok(result(request.version(), &record, link.mac, GATEWAY_MAC.octets(), &record.netns, mtu))
    }

    fn del(&self, request: &Request) -> Result<(), CniError> {
        let key = (request.container.clone(), request.ifname.clone());
        let busy = Occupied::take(&self.occupied, key.clone());
        let _hurry = hurry();
        match self.shared.ipam.get(&key) {
            Some(record) => {
                self.shared.forget_pod(&record)?;
                self.remover.remove(record, busy);
                Ok(())
            }
            // Nothing is known of it; a device may be left of an ADD that was cut off.
            None => {
                let device = link_name(&key.0, &key.1);
                self.shared.loader.detach_pod(&device)?;
                Ok(PodLink::remove(&device)?)
            }
        }
    }

    fn check(&self, request: &Request) -> Result<(), CniError> {
        let key = (request.container.clone(), request.ifname.clone());
        let netns: PathBuf = request.netns()?;
        let record = self.shared.ipam.get(&key).ok_or_else(|| {
            CniError::new(code::UNKNOWN_CONTAINER, format!("no address is on record for sandbox {}", key.0))
        })?;
        let link = PodLink::find(&record.device, &netns, &record.ifname)?.ok_or_else(|| {
            CniError::new(code::NETWORK, format!("the link {} of sandbox {} is gone", record.device, key.0))
        })?;
        let programmer = self.shared.programmer.lock();
        for address in &record.addresses {
            if programmer.endpoint(*address).map(|endpoint| endpoint.ifindex) != Some(link.ifindex) {
                let message = format!("the datapath does not deliver {address} to {}", record.device);
                return Err(CniError::new(code::NETWORK, message));
            }
        }
        Ok(())
    }
}

// === impl Occupied ===

impl Occupied {
    /// Waits until nobody else is at work on the sandbox.
    fn take(this: &Arc<Self>, key: Key) -> Busy {
        let mut keys = this.keys.lock();
        while !keys.insert(key.clone()) {
            this.idle.wait(&mut keys);
        }
        Busy(this.clone(), key)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.keys.lock().remove(&self.1);
        self.0.idle.notify_all();
    }
}

// === impl Remover ===

impl Remover {
    fn start(shared: Arc<Shared>) -> io::Result<Self> {
        let (jobs, queue) = mpsc::channel::<(Record, Busy)>();
        let thread = thread::Builder::new().name("cni-remover".into()).spawn(move || {
            for (record, _busy) in queue {
                let _hurry = hurry();
                if let Err(error) = shared.release_pod(&record) {
                    tracing::error!(
                        device = record.device,
                        sandbox = record.container,
                        %error,
                        "a pod's device is not removed and its address stays taken until the runtime asks again"
                    );
                }
            }
        })?;
        Ok(Remover { jobs: Some(jobs), thread: Some(thread) })
    }

    fn remove(&self, record: Record, busy: Busy) {
        let jobs = self.jobs.as_ref().expect("invariant: there until the drop");
        jobs.send((record, busy)).expect("invariant: the thread takes jobs until the drop");
    }
}

impl Drop for Remover {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
