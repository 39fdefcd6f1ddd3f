//! Whole lives of pods over the fake runtime and the fake cluster.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use dataplane::Arrivals;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::manager::{Manager, PodChange};
use super::settings::PodSettings;
use super::shared::Shared;
use super::state::RestartLimits;
use super::traffic::PodNetwork;
use crate::cgroups::Cgroups;
use crate::cluster::StopGate;
use crate::cluster::fake::FakeCluster;
use crate::metrics::Metrics;
use crate::objects::Pod;
use crate::runtime::fake::FakeRuntime;
use crate::volumes::NodeFacts;

/// A gate that a test opens.
struct Gate(watch::Receiver<u64>);

#[async_trait]
impl StopGate for Gate {
    async fn passed(&self, revision: u64) {
        self.0.clone().wait_for(|applied| *applied >= revision).await.expect("the test holds the sender");
    }
}

/// A network in which tests say what there is.
struct Network {
    /// Whether Services lead to the pods.
    backend: AtomicBool,
    begun: AtomicUsize,
    unanswered: AtomicUsize,
    /// What the runtime had when it was listed, and not yet looked at by the test.
    reconciled: watch::Sender<Option<HashSet<String>>>,
}

impl Default for Network {
    fn default() -> Self {
        Network {
            backend: true.into(),
            begun: 7.into(),
            unanswered: 0.into(),
            reconciled: watch::Sender::default(),
        }
    }
}

impl PodNetwork for Network {
    fn is_backend(&self, addresses: &[IpAddr]) -> bool {
        assert!(!addresses.is_empty(), "a running pod has an address");
        self.backend.load(Ordering::SeqCst)
    }

    fn arrivals(&self, _addresses: &[IpAddr]) -> Result<Arrivals, String> {
        let begun = self.begun.load(Ordering::SeqCst);
        Ok(Arrivals { begun, unanswered: self.unanswered.load(Ordering::SeqCst) })
    }

    fn reconcile(&self, sandboxes: &HashSet<String>) -> Result<usize, String> {
        self.reconciled.send_replace(Some(sandboxes.clone()));
        Ok(0)
    }
}

struct Node {
    runtime: FakeRuntime,
    cluster: Arc<FakeCluster>,
    applied: watch::Sender<u64>,
    network: Arc<Network>,
    shared: Arc<Shared>,
    changes: mpsc::Sender<PodChange>,
    manager: JoinHandle<()>,
    directory: TempDir,
}

impl Node {
    fn new() -> Self {
        let runtime = FakeRuntime::default();
        runtime.add_image("app");
        let directory = tempfile::tempdir().expect("a directory");
        Self::over(runtime, Arc::new(FakeCluster::default()), directory)
    }

    fn over(runtime: FakeRuntime, cluster: Arc<FakeCluster>, directory: TempDir) -> Self {
        let (applied, receiver) = watch::channel(u64::MAX);
        let settings = PodSettings {
            node_name: "node-1".into(),
            pods_directory: directory.path().join("pods"),
            logs_directory: directory.path().join("logs"),
            cgroups: Cgroups::none(),
            facts: Arc::new(NodeFacts {
                host_ips: vec!["192.168.0.1".parse().expect("ip")],
                ..NodeFacts::default()
            }),
            memory_capacity: 1 << 30,
            cluster_dns: Vec::new(),
            cluster_domain: "cluster.local".into(),
            resolv_conf: "/etc/resolv.conf".into(),
            restart_limits: RestartLimits { first: Duration::from_millis(200), ..RestartLimits::default() },
        };
        let metrics = Metrics::unregistered().expect("metrics");
        let network = Arc::new(Network::default());
        let shared = Arc::new(Shared::new(
            Arc::new(runtime.clone()),
            cluster.clone(),
            Arc::new(Gate(receiver)),
            network.clone(),
            settings,
            metrics,
        ));
        let (changes, receiver) = mpsc::channel(16);
        let manager = tokio::spawn(Manager::new(shared.clone()).run(receiver));
        Node { runtime, cluster, applied, network, shared, changes, manager, directory }
    }

    /// The agent ends and starts again; runtime, cluster and disk stay.
    async fn restart(self) -> Self {
        self.manager.abort();
        let Node { runtime, cluster, directory, .. } = self;
        Self::over(runtime, cluster, directory)
    }

    async fn apply(&self, json: &Value) {
        let pod: Pod = serde_json::from_value(json.clone()).expect("a pod");
        self.changes.send(PodChange::Upsert(Arc::new(pod))).await.expect("the manager listens");
    }

    async fn status(&self, test: impl Fn(&Value) -> bool) -> Value {
        self.cluster.wait_status("u1", test).await
    }

    fn reasons(&self) -> Vec<String> {
        self.cluster.events().into_iter().map(|event| event.reason).collect()
    }
}

fn pod(spec: Value) -> Value {
    json!({"metadata": {"name": "web", "namespace": "shop", "uid": "u1", "resourceVersion": "5"}, "spec": spec})
}

fn app(extra: Value) -> Value {
    let mut container = json!({"name": "app", "image": "app", "imagePullPolicy": "IfNotPresent"});
    for (key, value) in extra.as_object().expect("fields") {
        container[key] = value.clone();
    }
    json!({"containers": [container]})
}

fn deleted(pod: &Value, grace: i64) -> Value {
    let mut pod = pod.clone();
    pod["metadata"]["deletionTimestamp"] = json!(chrono::Utc::now() + chrono::Duration::seconds(grace));
    pod["metadata"]["deletionGracePeriodSeconds"] = json!(grace);
    pod["metadata"]["resourceVersion"] = json!("9");
    pod
}

fn ready(status: &Value) -> bool {
    let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
    conditions.iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

fn waiting(status: &Value) -> &str {
    status["containerStatuses"][0]["state"]["waiting"]["reason"].as_str().unwrap_or("")
}

#[tokio::test]
async fn a_pod_runs_is_deleted_and_leaves_nothing() {
    let node = Node::new();
    let pod = pod(app(json!({})));
    node.apply(&pod).await;
    let status = node.status(ready).await;
    assert_eq!(status["phase"], "Running");
    assert_eq!(status["podIP"], "10.244.0.1");
    assert!(node.directory.path().join("logs/shop_web_u1").exists());
    node.apply(&deleted(&pod, 30)).await;
    node.cluster.wait_deleted("u1").await;
    let last = node.cluster.statuses("u1").pop().expect("a status");
    assert_eq!(last["containerStatuses"][0]["state"]["terminated"]["exitCode"], 143);
    // The runtime's records go last, after all that the node made.
    node.runtime.wait_empty().await;
    assert!(!node.directory.path().join("logs/shop_web_u1").exists());
    assert!(!node.directory.path().join("pods/u1").exists());
    assert_eq!(node.reasons(), ["Pulled", "Created", "Started", "Killing"]);
}

#[tokio::test]
async fn the_address_is_reported_before_the_image_is_here() {
    let node = Node::new();
    node.apply(&pod(app(json!({"image": "absent/app"})))).await;
    let status = node.status(|status| waiting(status) == "ErrImagePull").await;
    assert_eq!((&status["phase"], &status["podIP"]), (&json!("Pending"), &json!("10.244.0.1")));
    let message = &status["containerStatuses"][0]["state"]["waiting"]["message"];
    assert!(
        message.as_str().is_some_and(|text| text.contains("Failed to pull image \"absent/app\"")),
        "{message}"
    );
    node.status(|status| waiting(status) == "ImagePullBackOff" || ready(status)).await;
}

#[tokio::test(start_paused = true)]
async fn sigterm_waits_for_the_cluster_to_let_go() {
    let node = Node::new();
    node.applied.send(8).expect("heard");
    let pod = pod(app(json!({})));
    node.apply(&pod).await;
    node.status(ready).await;
    node.apply(&deleted(&pod, 30)).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(node.runtime.running("app").is_some(), "stopped before revision 9 was applied everywhere");
    node.applied.send(9).expect("heard");
    node.cluster.wait_deleted("u1").await;
    let stop = node.runtime.calls().into_iter().find(|call| call.starts_with("stop container"));
    assert!(stop.as_deref().is_some_and(|call| call.ends_with(" 30")), "{stop:?}");
}

#[tokio::test(start_paused = true)]
async fn sigterm_waits_until_nothing_comes_and_all_is_answered() {
    let node = Node::new();
    node.network.unanswered.store(1, Ordering::SeqCst);
    let pod = pod(app(json!({})));
    node.apply(&pod).await;
    node.status(ready).await;
    node.apply(&deleted(&pod, 30)).await;
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert!(node.runtime.running("app").is_some(), "stopped before a client had its answer");
    node.network.begun.store(8, Ordering::SeqCst);
    node.network.unanswered.store(0, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(node.runtime.running("app").is_some(), "stopped while connections arrived");
    node.cluster.wait_deleted("u1").await;
    assert_eq!(node.shared.metrics.gate_overruns.with_label_values(&["answers"]).get(), 0);
}

#[tokio::test]
async fn a_gate_that_stays_shut_is_given_up_and_counted() {
    let node = Node::new();
    node.applied.send(8).expect("heard");
    let pod = pod(app(json!({})));
    node.apply(&pod).await;
    node.status(ready).await;
    node.apply(&deleted(&pod, 1)).await;
    node.cluster.wait_deleted("u1").await;
    assert_eq!(node.shared.metrics.gate_overruns.with_label_values(&["nodes"]).get(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_pod_of_no_service_is_stopped_at_once() {
    let node = Node::new();
    node.applied.send(8).expect("heard");
    node.network.backend.store(false, Ordering::SeqCst);
    let pod = pod(app(json!({})));
    node.apply(&pod).await;
    node.status(ready).await;
    let began = tokio::time::Instant::now();
    node.apply(&deleted(&pod, 30)).await;
    node.cluster.wait_deleted("u1").await;
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    assert_eq!(node.shared.metrics.gate_seconds.get_sample_count(), 0);
}

#[tokio::test]
async fn a_restarted_agent_tells_the_network_what_the_runtime_has() {
    let node = Node::new();
    node.apply(&pod(app(json!({})))).await;
    node.status(ready).await;
    assert_eq!(
        node.network.reconciled.send_replace(None),
        Some(HashSet::new()),
        "before the first pod began"
    );
    let node = node.restart().await;
    let mut reconciled = node.network.reconciled.subscribe();
    let told = tokio::time::timeout(Duration::from_secs(5), reconciled.wait_for(Option::is_some)).await;
    let told = told.expect("the runtime was listed").expect("the test holds the sender");
    assert_eq!(*told, Some(["pod-0001".to_owned()].into()));
}

#[tokio::test]
async fn a_crash_is_restarted_and_then_backs_off() {
    let node = Node::new();
    node.apply(&pod(app(json!({})))).await;
    for code in [1, 2] {
        node.runtime.wait_running("app").await;
        node.runtime.exit("app", code);
    }
    let status = node.status(|status| waiting(status) == "CrashLoopBackOff").await;
    assert_eq!(status["containerStatuses"][0]["lastState"]["terminated"]["exitCode"], 2);
    let config = node.runtime.wait_running("app").await;
    assert_eq!((config.attempt, config.log_path.as_str()), (2, "app/2.log"));
    node.status(|status| ready(status) && status["containerStatuses"][0]["restartCount"] == 2).await;
    assert!(node.reasons().contains(&"BackOff".to_owned()));
}

#[tokio::test]
async fn a_restarted_agent_leaves_running_pods_alone() {
    let node = Node::new();
    let mut pod = pod(app(json!({"readinessProbe": {"exec": {"command": ["x"]}, "periodSeconds": 60}})));
    node.apply(&pod).await;
    pod["status"] = node.status(ready).await;
    let calls = node.runtime.calls();
    let reported = node.cluster.statuses("u1").len();
    let node = node.restart().await;
    node.apply(&pod).await;
    node.changes.send(PodChange::Synced).await.expect("listened");
    tokio::time::sleep(Duration::from_millis(50)).await;
    let new: Vec<String> = node.runtime.calls().split_off(calls.len());
    assert!(new.iter().all(|call| call.starts_with("exec")), "{new:?}");
    assert_eq!(node.cluster.statuses("u1").len(), reported, "readiness was shaken");
    node.runtime.exit("app", 0);
    node.runtime.wait_running("app").await;
}

#[tokio::test]
async fn what_ended_while_the_agent_was_away_is_noticed() {
    let node = Node::new();
    let mut spec = app(json!({}));
    spec["restartPolicy"] = json!("Never");
    let mut pod = pod(spec);
    node.apply(&pod).await;
    pod["status"] = node.status(ready).await;
    node.manager.abort();
    node.runtime.exit("app", 3);
    let node = node.restart().await;
    node.apply(&pod).await;
    let status = node.status(|status| status["phase"] == "Failed").await;
    assert_eq!(status["containerStatuses"][0]["state"]["terminated"]["exitCode"], 3);
    assert_eq!(node.runtime.calls().iter().filter(|call| call.starts_with("start ")).count(), 1);
}

#[tokio::test]
async fn a_pod_whose_object_went_meanwhile_is_ended() {
    let node = Node::new();
    node.apply(&pod(app(json!({})))).await;
    node.status(ready).await;
    let node = node.restart().await;
    node.changes.send(PodChange::Synced).await.expect("listened");
    for _ in 0..500 {
        if node.runtime.calls().iter().any(|call| call == "remove_pod pod-0001") {
            assert!(node.shared.views.all().is_empty() || node.runtime.running("app").is_none());
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("{:?}", node.runtime.calls());
}

#[tokio::test]
async fn a_runtime_that_is_down_delays_and_loses_nothing() {
    let node = Node::new();
    tokio::time::sleep(Duration::from_millis(20)).await;
    node.runtime.set_down(true);
    let pod = pod(app(json!({})));
    node.apply(&pod).await;
    let status = node.status(|status| status["phase"] == "Pending").await;
    assert_eq!(waiting(&status), "ContainerCreating");
    tokio::time::sleep(Duration::from_millis(50)).await;
    node.runtime.set_down(false);
    node.status(ready).await;
    assert!(!node.reasons().contains(&"FailedCreatePodSandBox".to_owned()), "{:?}", node.reasons());
    node.runtime.set_down(true);
    node.apply(&deleted(&pod, 0)).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    node.runtime.set_down(false);
    node.cluster.wait_deleted("u1").await;
}

#[tokio::test]
async fn missing_configuration_is_named_and_found_once_it_appears() {
    let node = Node::new();
    let env = json!([{"name": "X", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "k"}}}]);
    node.apply(&pod(app(json!({"env": env})))).await;
    let status = node.status(|status| waiting(status) == "CreateContainerConfigError").await;
    assert_eq!(status["containerStatuses"][0]["state"]["waiting"]["message"], "configmap \"m\" not found");
    node.cluster.set_config_map("shop", "m", json!({"data": {"k": "v"}}));
    let config = node.runtime.wait_running("app").await;
    assert!(config.env.contains(&("X".into(), "v".into())), "{:?}", config.env);
}

#[tokio::test]
async fn a_missing_volume_holds_the_pod_back_with_an_event() {
    let node = Node::new();
    let mut spec = app(json!({"volumeMounts": [{"name": "v", "mountPath": "/v"}]}));
    spec["volumes"] = json!([{"name": "v", "configMap": {"name": "m"}}]);
    node.apply(&pod(spec)).await;
    node.status(|status| status["podIP"].is_string()).await;
    node.cluster.set_config_map("shop", "m", json!({"data": {"k": "v"}}));
    let config = node.runtime.wait_running("app").await;
    assert!(config.mounts.iter().any(|mount| mount.container_path == "/v" && mount.readonly));
    let failed = node.cluster.events().into_iter().find(|event| event.reason == "FailedMount");
    assert!(failed.is_some_and(|event| event.message.contains("configmap \"m\" not found")));
}

#[tokio::test]
async fn liveness_restarts_and_hooks_run() {
    let node = Node::new();
    let probe = json!({"exec": {"command": ["check"]}, "periodSeconds": 1, "failureThreshold": 1});
    let lifecycle =
        json!({"postStart": {"exec": {"command": ["hello"]}}, "preStop": {"exec": {"command": ["bye"]}}});
    node.runtime.set_exec_code("app", 0);
    node.apply(&pod(app(json!({"livenessProbe": probe, "lifecycle": lifecycle})))).await;
    node.status(ready).await;
    node.runtime.set_exec_code("app", 1);
    node.status(|status| status["containerStatuses"][0]["restartCount"] == 1).await;
    let calls = node.runtime.calls();
    for call in ["exec hello", "exec check", "exec bye"] {
        assert!(calls.iter().any(|made| made == call), "{call}: {calls:?}");
    }
    assert!(node.reasons().contains(&"Unhealthy".to_owned()));
}

#[tokio::test]
async fn a_dead_sandbox_is_replaced() {
    let node = Node::new();
    node.apply(&pod(app(json!({})))).await;
    node.status(ready).await;
    node.runtime.kill_instance("pod-0001");
    let status = node
        .status(|status| {
            ready(status)
                && status["podIP"] != "10.244.0.1"
                && status["containerStatuses"][0]["restartCount"] == 1
        })
        .await;
    assert_eq!(status["phase"], "Running");
    assert!(node.reasons().contains(&"SandboxChanged".to_owned()));
}

#[tokio::test]
async fn a_pod_that_runs_too_long_fails_and_stays() {
    let node = Node::new();
    let mut spec = app(json!({}));
    spec["activeDeadlineSeconds"] = json!(1);
    let pod = pod(spec);
    node.apply(&pod).await;
    let status = node.status(|status| status["phase"] == "Failed").await;
    assert_eq!(status["reason"], "DeadlineExceeded");
    node.apply(&deleted(&pod, 0)).await;
    node.cluster.wait_deleted("u1").await;
}
