//! An API server of six kinds in memory, and a kernel that remembers plans.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::body::Body;
use client::Client;
use dataplane::{Applied, Endpoints};
use futures::stream;
use http::{Request, Response};
use ipnet::IpNet;
use netplan::{Ids, Limits, Plan, snapshot::LocalEndpoint};
use parking_lot::{Condvar, Mutex};
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};

use super::super::kernel::Kernel;

/// Far longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// Collections by their path.
#[derive(Clone, Default)]
pub(super) struct Api(Arc<Mutex<Server>>);

#[derive(Default)]
struct Server {
    revision: u64,
    collections: BTreeMap<&'static str, Collection>,
}

#[derive(Default)]
struct Collection {
    objects: Vec<Value>,
    /// Lists wait while this is not set.
    open: bool,
    waiting: Vec<tokio::sync::oneshot::Sender<()>>,
    watches: Vec<mpsc::UnboundedSender<String>>,
}

pub(super) const PODS: &str = "/api/v1/pods";
pub(super) const NODES: &str = "/api/v1/nodes";
pub(super) const SERVICES: &str = "/api/v1/services";
pub(super) const SLICES: &str = "/apis/discovery.k8s.io/v1/endpointslices";
pub(super) const POLICIES: &str = "/apis/networking.k8s.io/v1/networkpolicies";
const NAMESPACES: &str = "/api/v1/namespaces";

// === impl Api ===

impl Api {
    /// Answers lists of all kinds but those of `closed`.
    pub(super) fn start(closed: &[&'static str]) -> Self {
        let api = Api::default();
        for path in [PODS, NODES, SERVICES, SLICES, POLICIES, NAMESPACES] {
            let open = !closed.contains(&path);
            api.0.lock().collections.insert(path, Collection { open, ..Collection::default() });
        }
        api
    }

    /// Answers the lists of a kind from now on.
    pub(super) fn open(&self, path: &str) {
        let mut server = self.0.lock();
        let collection = server.collections.get_mut(path).expect("a kind of this server");
        collection.open = true;
        for waiting in collection.waiting.drain(..) {
            waiting.send(()).expect("a list that waits");
        }
    }

    /// Makes or replaces an object; returns its revision.
    pub(super) fn put(&self, path: &str, mut object: Value) -> u64 {
        let mut server = self.0.lock();
        server.revision += 1;
        let revision = server.revision;
        object["metadata"]["resourceVersion"] = json!(revision.to_string());
        let collection = server.collections.get_mut(path).expect("a kind of this server");
        collection.objects.retain(|old| old["metadata"]["name"] != object["metadata"]["name"]);
        collection.objects.push(object.clone());
        collection.tell("MODIFIED", &object);
        revision
    }

    pub(super) fn delete(&self, path: &str, name: &str) {
        let mut server = self.0.lock();
        server.revision += 1;
        let revision = server.revision;
        let collection = server.collections.get_mut(path).expect("a kind of this server");
        let at = collection.objects.iter().position(|object| object["metadata"]["name"] == *name);
        let mut object = collection.objects.remove(at.expect("an object that is there"));
        object["metadata"]["resourceVersion"] = json!(revision.to_string());
        collection.tell("DELETED", &object);
    }

    /// Tells the watchers of a kind how far everything else is.
    pub(super) fn bookmark(&self, path: &str) -> u64 {
        let mut server = self.0.lock();
        server.revision += 1;
        let revision = server.revision;
        let object = json!({ "metadata": { "resourceVersion": revision.to_string() } });
        server.collections.get_mut(path).expect("a kind of this server").tell("BOOKMARK", &object);
        revision
    }

    pub(super) fn client(&self) -> Client {
        let api = self.clone();
        let service = tower::service_fn(move |request: Request<client::Body>| {
            let api = api.clone();
            let (path, query) =
                (request.uri().path().to_owned(), request.uri().query().unwrap_or_default().to_owned());
            async move { Ok::<_, Infallible>(Response::new(api.answer(&path, &query).await)) }
        });
        Client::new(service, api::UserInfo::new("system:node:one", ["system:nodes"]))
    }

    async fn answer(&self, path: &str, query: &str) -> Body {
        if query.contains("watch=1") {
            return self.watch(path);
        }
        let closed = {
            let mut server = self.0.lock();
            let collection = server.collections.get_mut(path).expect("a kind of this server");
            (!collection.open).then(|| {
                let (sender, receiver) = tokio::sync::oneshot::channel();
                collection.waiting.push(sender);
                receiver
            })
        };
        if let Some(closed) = closed {
            let _ = closed.await;
        }
        let server = self.0.lock();
        let items = &server.collections[path].objects;
        json!({ "metadata": { "resourceVersion": server.revision.to_string() }, "items": items })
            .to_string()
            .into()
    }

    fn watch(&self, path: &str) -> Body {
        let (sender, receiver) = mpsc::unbounded_channel();
        let mut server = self.0.lock();
        let collection = server.collections.get_mut(path).expect("a kind of this server");
        // What came between list and watch, told once more.
        for object in &collection.objects {
            let _ = sender.send(event("MODIFIED", object));
        }
        collection.watches.push(sender);
        Body::from_stream(stream::unfold(receiver, |mut receiver| async move {
            Some((Ok::<_, Infallible>(receiver.recv().await?), receiver))
        }))
    }
}

impl Collection {
    fn tell(&self, kind: &str, object: &Value) {
        for watch in &self.watches {
            // A watch that ended is not asked for any more.
            let _ = watch.send(event(kind, object));
        }
    }
}

fn event(kind: &str, object: &Value) -> String {
    format!("{}\n", json!({ "type": kind, "object": object }))
}

/// Remembers plans, and refuses them when told to.
pub(super) struct FakeKernel {
    pub(super) endpoints: watch::Sender<Endpoints>,
    held: Mutex<Held>,
    changed: Condvar,
}

#[derive(Default)]
struct Held {
    plans: Vec<Plan>,
    refusals: usize,
    refuse: bool,
    slow: Duration,
    pod_cidrs: Vec<IpNet>,
}

impl FakeKernel {
    pub(super) fn start() -> Arc<Self> {
        Arc::new(FakeKernel {
            endpoints: watch::Sender::new(Arc::from([])),
            held: Mutex::default(),
            changed: Condvar::new(),
        })
    }

    /// Takes plans or not.
    pub(super) fn refuse(&self, refuse: bool) {
        self.held.lock().refuse = refuse;
    }

    /// Takes so long for each plan.
    pub(super) fn slow(&self, slow: Duration) {
        self.held.lock().slow = slow;
    }

    pub(super) fn refusals(&self) -> usize {
        self.held.lock().refusals
    }

    pub(super) fn plans(&self) -> usize {
        self.held.lock().plans.len()
    }

    pub(super) fn pod_cidrs(&self) -> Vec<IpNet> {
        self.held.lock().pod_cidrs.clone()
    }

    /// Waits until the newest plan is as described.
    pub(super) async fn holds(self: &Arc<Self>, what: &'static str, is: fn(&Plan) -> bool) {
        let kernel = Arc::clone(self);
        let waiting = tokio::task::spawn_blocking(move || {
            let deadline = Instant::now() + PATIENCE;
            let mut held = kernel.held.lock();
            while !held.plans.last().is_some_and(is) {
                let timeout = kernel.changed.wait_until(&mut held, deadline);
                assert!(!timeout.timed_out(), "the kernel never held {what}");
            }
        });
        waiting.await.unwrap();
    }
}

impl Kernel for FakeKernel {
    fn ids(&self) -> Ids {
        Ids::new(Limits::default())
    }

    fn endpoints(&self) -> watch::Receiver<Endpoints> {
        self.endpoints.subscribe()
    }

    fn set_pod_cidrs(&self, nets: &[IpNet]) {
        self.held.lock().pod_cidrs = nets.to_vec();
    }

    fn apply(&self, plan: &Plan) -> dataplane::Result<Applied> {
        let mut held = self.held.lock();
        if held.refuse {
            held.refusals += 1;
            return Err(dataplane::Error::Missing { kind: "map", name: "PEERS4".into() });
        }
        let slow = held.slow;
        parking_lot::MutexGuard::unlocked(&mut held, || std::thread::sleep(slow));
        held.plans.push(copy(plan));
        self.changed.notify_all();
        Ok(Applied { revision: plan.revision, changes: 1, new_epoch: false })
    }

    fn programmed(&self, _: Duration) {}
}

/// What tests look at.
fn copy(plan: &Plan) -> Plan {
    let mut copy = Plan { revision: plan.revision, local: plan.local, ..Plan::default() };
    copy.v4.peers = plan.v4.peers.clone();
    copy.v4.endpoints = plan.v4.endpoints.clone();
    copy.v4.services = plan.v4.services.clone();
    copy.policy = plan.policy.clone();
    copy
}

pub(super) fn node(name: &str, at: u8, pod_cidr: &str) -> Value {
    json!({ "metadata": { "name": name }, "spec": { "podCIDR": pod_cidr },
            "status": { "addresses": [{ "type": "InternalIP", "address": format!("192.168.0.{at}") }] } })
}

pub(super) fn pod(name: &str, address: &str) -> Value {
    json!({ "metadata": { "name": name, "namespace": "shop", "uid": format!("uid-{name}"), "labels": { "app": name } },
            "spec": { "nodeName": "one" },
            "status": { "phase": "Running", "podIP": address, "podIPs": [{ "ip": address }] } })
}

pub(super) fn endpoint(name: &str, address: &str, ifindex: u32) -> Arc<LocalEndpoint> {
    let endpoint = netplan::testing::endpoint(name, address, ifindex);
    Arc::new(LocalEndpoint { namespace: "shop".into(), ..endpoint })
}
