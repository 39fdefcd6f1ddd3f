//! A control plane in one process: the real API server over the embedded store, the scheduler, all controllers, and
//! nodes that only pretend to run pods.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::{
    collections::BTreeMap,
    future::Future,
    sync::Arc,
    time::{Duration, SystemTime},
};

use api::{Registry, UserInfo};
use apiserver::{ApiServer, Bound, Config, Deps};
use chrono::Utc;
use client::{
    ApiResource, Client, DeleteOptions, Error, Informers, ListOptions, Patch,
    events::Recorder,
    nodelink::{self, LinkState},
    objects::{rfc3339, rfc3339_micros},
};
use controllers::{
    Context,
    certificates::{Authority, Usage},
    objects::Pod,
};
use pki::{cluster::ClusterPki, tls::ServingCertificate};
use serde_json::{Value, json};
use store::{EngineConfig, StoreConfig};
use tokio::{
    sync::watch,
    task::{AbortHandle, JoinSet},
};

/// Longer than anything here takes on a busy machine; a test that waits so long has failed.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A running control plane.
pub struct Cluster {
    pub bound: Bound,
    pub admin: Client,
    pub metrics: telemetry::Registry,
    pub pki: ClusterPki,
    nodes: BTreeMap<String, AbortHandle>,
    tasks: JoinSet<()>,
    _directory: tempfile::TempDir,
}

impl Cluster {
    /// A control plane with these nodes.
    pub async fn start(nodes: &[&str]) -> Self {
        let mut cluster = Self::bare().await;
        cluster.run_scheduler();
        cluster.run_controllers();
        let accounts = resource("", "serviceaccounts", "ServiceAccount", true);
        cluster
            .until("the account of pods that name none", || async {
                cluster.admin.get_as::<Any>(&accounts, "default", "default").await.ok()
            })
            .await;
        for node in nodes {
            cluster.add_node(node, json!({ "cpu": "4", "memory": "8Gi", "pods": "110" })).await;
        }
        cluster
    }

    /// An API server alone.
    pub async fn bare() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut config = StoreConfig::new(EngineConfig::Embedded { path: directory.path().join("store") });
        config.classes = apiserver::storage_classes(&Registry::builtin());
        let metrics = telemetry::Registry::new();
        let store = store::open(config, metrics.prometheus()).await.expect("the store opens");
        let pki = pki::cluster::Config {
            directory: directory.path().join("pki"),
            server_names: pki::ServerNames::default(),
        };
        let pki = ClusterPki::open_or_create(&pki, SystemTime::now()).expect("certificates");
        let deps = Deps {
            store,
            registry: Registry::builtin(),
            serving: ServingCertificate::new(&pki.apiserver, pki.ca.certificate()).expect("a certificate"),
            ca: pki.ca.certificate().clone(),
            client: pki.apiserver_client.clone(),
            service_account: pki.service_account.clone(),
            bootstrap: Some(pki.token.clone()),
            metrics: metrics.clone(),
            health: telemetry::health::Health::new(),
        };
        let config = Config { listen: ([127, 0, 0, 1], 0).into(), ..Config::default() };
        let bound = ApiServer::build(config, deps).await.expect("the server starts");
        let admin = Client::new(bound.service.clone(), UserInfo::new("admin", ["system:masters"]));
        let (nodes, tasks) = (BTreeMap::new(), JoinSet::new());
        Self { bound, admin, metrics, pki, nodes, tasks, _directory: directory }
    }

    pub fn client(&self, user: &str) -> Client {
        Client::new(self.bound.service.clone(), UserInfo::new(user, [""; 0]))
    }

    pub fn run_scheduler(&mut self) {
        let client = self.client("system:kube-scheduler").named("bowsprit-scheduler");
        let metrics = scheduler::Metrics::new(&self.metrics);
        self.tasks.spawn(async move {
            let informers = Informers::new(client.clone());
            let recorder = Recorder::start(client.clone(), "default-scheduler", "");
            scheduler::run(scheduler::Config::default(), client, &informers, recorder, metrics).await;
        });
    }

    pub fn run_controllers(&mut self) {
        let client = self.client("system:kube-controller-manager").named("bowsprit-controllers");
        let ctx = Context {
            informers: Informers::new(client.clone()),
            recorder: Recorder::start(client.clone(), "controller-manager", ""),
            metrics: controllers::Metrics::new(&self.metrics),
            liveness: self.bound.hub.liveness(),
            client,
        };
        let config = controllers::Config {
            cluster_cidrs: vec!["10.244.0.0/16".parse().expect("a range")],
            root_ca: "the CA".into(),
            authority: Arc::new(NoAuthority),
        };
        self.tasks.spawn(controllers::run(ctx, config));
    }

    // === nodes ===

    /// Registers a node, and pretends to be its agent until [`Cluster::kill_node`].
    pub async fn add_node(&mut self, name: &str, allocatable: Value) {
        self.add_tainted_node(name, allocatable, json!([])).await;
    }

    /// The same with taints from the beginning: nobody sees it without.
    pub async fn add_tainted_node(&mut self, name: &str, allocatable: Value, taints: Value) {
        let user = UserInfo::new(format!("system:node:{name}"), ["system:nodes"]);
        let client = Client::new(self.bound.service.clone(), user).named("bowsprit-agent");
        register(&client, name, &allocatable, &taints).await.expect("the node registers");
        let number = self.nodes.len() as u8;
        let agent = self.tasks.spawn(run_agent(client, name.to_owned(), number));
        self.nodes.insert(name.to_owned(), agent);
    }

    /// Ends a node's agent at once, as a crash does.
    pub fn kill_node(&mut self, name: &str) {
        self.nodes.remove(name).expect("the node runs").abort();
    }

    // === asking ===

    pub async fn list(&self, resource: &ApiResource, labels: &str) -> Vec<Any> {
        let options = ListOptions { labels: labels.into(), ..ListOptions::default() };
        self.admin.list_as::<Any>(resource, "", &options, false).await.expect("a list").items
    }

    pub async fn apply(&self, resource: &ApiResource, object: Value) -> Value {
        let (namespace, name) = (text(&object["metadata"]["namespace"]), text(&object["metadata"]["name"]));
        let patch = Patch::Apply { manager: "test", force: true };
        self.admin.patch_as(resource, patch, &namespace, &name, None, &object).await.expect("it applies")
    }

    /// Waits until a look finds what it looks for; `what` says so if it does not come.
    pub async fn until<T, F: Future<Output = Option<T>>>(
        &self,
        what: &str,
        mut look: impl FnMut() -> F,
    ) -> T {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            if let Some(found) = look().await {
                return found;
            }
            if tokio::time::Instant::now() > deadline {
                let pods = self.list(&pods(), "").await;
                let pods: Vec<_> = pods.iter().map(|pod| pod.brief()).collect();
                for deployment in self.list(&deployments(), "").await {
                    println!("{}", deployment.value);
                }
                panic!("waited in vain for {what}; pods: {pods:#?}");
            }
            // The rig asks like a person at a terminal would; the parts under test wait for events.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Ready pods with these labels by node, once there are as many as expected, and no others.
    pub async fn until_running(&self, labels: &str, count: usize) -> Vec<Any> {
        self.until(&format!("{count} running pods of {labels}"), || async {
            let pods = self.list(&pods(), labels).await;
            let ready =
                pods.iter().all(|pod| pod.is_ready() && pod.value["metadata"]["deletionTimestamp"].is_null());
            (pods.len() == count && ready).then_some(pods)
        })
        .await
    }
}

/// Signs nothing: these nodes come as they are.
struct NoAuthority;

impl Authority for NoAuthority {
    fn node_name(&self, _: &str, _: Usage) -> Result<String, String> {
        Err("no node asks here".into())
    }

    fn sign(&self, _: &str, _: Usage) -> Result<String, String> {
        Err("no node asks here".into())
    }
}

// === objects ===

/// Any object, whole.
#[derive(Clone, Debug, serde::Deserialize)]
#[serde(from = "Value")]
pub struct Any {
    pub meta: client::Meta,
    pub value: Value,
}

impl From<Value> for Any {
    fn from(value: Value) -> Self {
        let meta = serde_json::from_value(value["metadata"].clone()).unwrap_or_default();
        Self { meta, value }
    }
}

impl client::HasMeta for Any {
    fn meta(&self) -> &client::Meta {
        &self.meta
    }
}

impl Any {
    pub fn condition(&self, r#type: &str) -> Value {
        let conditions = self.value["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions.into_iter().find(|each| each["type"] == r#type).unwrap_or_default()
    }

    pub fn is_ready(&self) -> bool {
        self.condition("Ready")["status"] == "True"
    }

    pub fn node(&self) -> String {
        text(&self.value["spec"]["nodeName"])
    }

    pub fn brief(&self) -> String {
        let deleting = if self.meta.is_deleting() { " deleting" } else { "" };
        let (phase, why) =
            (text(&self.value["status"]["phase"]), text(&self.condition("PodScheduled")["message"]));
        format!("{} on {:?}: {phase}{deleting} {why}", self.meta.key(), self.node())
    }
}

pub fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

pub fn resource(group: &str, plural: &str, kind: &str, namespaced: bool) -> ApiResource {
    ApiResource {
        group: group.into(),
        version: "v1".into(),
        plural: plural.into(),
        kind: kind.into(),
        namespaced,
    }
}

pub fn pods() -> ApiResource {
    resource("", "pods", "Pod", true)
}

pub fn deployments() -> ApiResource {
    resource("apps", "deployments", "Deployment", true)
}

pub fn deployment(name: &str, replicas: i64, image: &str) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": { "name": name, "namespace": "default" },
        "spec": {
            "replicas": replicas, "selector": { "matchLabels": { "app": name } },
            "strategy": { "type": "RollingUpdate", "rollingUpdate": { "maxSurge": 1, "maxUnavailable": 0 } },
            "template": {
                "metadata": { "labels": { "app": name } },
                "spec": { "containers": [{ "name": "main", "image": image, "ports": [{ "name": "http", "containerPort": 8080 }] }] },
            },
        },
    })
}

// === an agent that runs nothing ===

async fn register(client: &Client, name: &str, allocatable: &Value, taints: &Value) -> Result<(), Error> {
    let nodes = resource("", "nodes", "Node", false);
    let node = json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": { "name": name, "labels": { "kubernetes.io/hostname": name } },
        "spec": { "taints": taints },
    });
    let created: Result<controllers::objects::Node, _> = client.create("", &node).await;
    created?;
    let now = rfc3339(Utc::now());
    let ready = json!({ "type": "Ready", "status": "True", "reason": "KubeletReady", "message": "pretending",
        "lastHeartbeatTime": now, "lastTransitionTime": now });
    let status =
        json!({ "status": { "capacity": allocatable, "allocatable": allocatable, "conditions": [ready] } });
    client.patch_as::<Value>(&nodes, Patch::Strategic, "", name, Some("status"), &status).await.map(drop)
}

async fn run_agent(client: Client, name: String, number: u8) {
    let (_applied, applied) = watch::channel(0);
    let (state, _state) = watch::channel(LinkState::default());
    let link = nodelink::run(client.clone(), name.clone(), applied, state);
    let lease = async {
        loop {
            _ = renew_lease(&client, &name).await;
            tokio::time::sleep(Duration::from_secs(10)).await;
        }
    };
    tokio::join!(link, lease, run_pods(client.clone(), &name, number));
}

async fn renew_lease(client: &Client, name: &str) -> Result<(), Error> {
    let leases = resource("coordination.k8s.io", "leases", "Lease", true);
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": { "name": name, "namespace": "kube-node-lease" },
        "spec": { "holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": rfc3339_micros(Utc::now()) },
    });
    let patch = Patch::Apply { manager: "agent", force: true };
    client.patch_as::<Value>(&leases, patch, "kube-node-lease", name, None, &lease).await.map(drop)
}

/// Pods become ready as soon as they are bound, and are gone as soon as they are deleted.
async fn run_pods(client: Client, node: &str, number: u8) {
    let scope = client::informer::Scope::all::<Pod>().fields(format!("spec.nodeName={node}"));
    let informer = client::Informer::<Pod>::start_scoped(client.clone(), scope);
    let mut subscription = informer.subscribe();
    let mut addresses = 1_u8;
    loop {
        let client::Delta::Upsert { new: pod, .. } = subscription.recv().await else { continue };
        let meta = &pod.metadata;
        if meta.is_deleting() {
            let options = DeleteOptions::uid(&meta.uid).grace(0);
            _ = client.delete::<Pod>(&meta.namespace, &meta.name, &options).await;
        } else if pod.status.phase.is_empty() || &*pod.status.phase == "Pending" {
            addresses = addresses.wrapping_add(1).max(2);
            let ip = format!("10.244.{number}.{addresses}");
            _ = start_pod(&client, &pod, &ip).await;
        }
    }
}

async fn start_pod(client: &Client, pod: &Arc<Pod>, ip: &str) -> Result<(), Error> {
    let now = rfc3339(Utc::now());
    let is = |r#type: &str| json!({ "type": r#type, "status": "True", "lastTransitionTime": now });
    let status = json!({
        "metadata": { "uid": pod.metadata.uid },
        "status": {
            "phase": "Running", "podIP": ip, "podIPs": [{ "ip": ip }], "startTime": now,
            "conditions": [is("Initialized"), is("Ready"), is("ContainersReady")],
        },
    });
    let (namespace, name) = (&pod.metadata.namespace, &pod.metadata.name);
    client
        .patch_as::<Value>(&pods(), Patch::Strategic, namespace, name, Some("status"), &status)
        .await
        .map(drop)
}
