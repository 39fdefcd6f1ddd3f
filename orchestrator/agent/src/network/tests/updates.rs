//! A node against a fake API and a fake kernel.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use client::Informers;
use dataplane::PodDirectory;
use observe::{Names, Owner};
use serde_json::json;
use telemetry::Registry;

use crate::pods::timeline::Timelines;

use super::{
    super::{Updates, compiler::Metrics, directory::Directory, state::State},
    fakes::{Api, FakeKernel, NODES, PODS, POLICIES, SERVICES, SLICES, endpoint, node, pod},
};

/// Far longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);

fn start(api: &Api, kernel: &Arc<FakeKernel>) -> Updates {
    let metrics = Metrics::new(&Registry::new());
    let cluster = netplan::testing::snapshot().cluster;
    Updates::start(kernel.clone(), &Informers::new(api.client()), "one", cluster, metrics).unwrap()
}

async fn acknowledged(state: &State, revision: u64) {
    let mut applied = state.applied.subscribe();
    let waiting = applied.wait_for(|applied| *applied >= revision);
    tokio::time::timeout(PATIENCE, waiting).await.expect("the revision is acknowledged").unwrap();
}

async fn hindered_by(state: &State, what: &str) {
    let mut obstacle = state.obstacle.subscribe();
    let waiting = obstacle.wait_for(|obstacle| obstacle.as_deref().is_some_and(|why| why.contains(what)));
    tokio::time::timeout(PATIENCE, waiting)
        .await
        .unwrap_or_else(|_| panic!("no obstacle says {what}"))
        .unwrap();
}

async fn unhindered(state: &State) {
    let mut obstacle = state.obstacle.subscribe();
    let waiting = obstacle.wait_for(Option::is_none);
    tokio::time::timeout(PATIENCE, waiting).await.expect("there is no obstacle any more").unwrap();
}

#[tokio::test]
async fn nothing_is_programmed_before_everything_is_known() {
    let (api, kernel) = (Api::start(&[SLICES]), FakeKernel::start());
    api.put(PODS, pod("web", "10.244.0.5"));
    let updates = start(&api, &kernel);
    hindered_by(&updates.state, "what there is of endpointslices").await;
    api.open(SLICES);
    hindered_by(&updates.state, "there is no node one").await;
    assert_eq!(kernel.plans(), 0);
    api.put(NODES, node("one", 1, ""));
    hindered_by(&updates.state, "no podCIDR").await;
    assert_eq!(kernel.pod_cidrs(), []);
    api.put(NODES, node("one", 1, "10.244.0.0/24"));
    unhindered(&updates.state).await;
    assert_eq!(kernel.pod_cidrs(), ["10.244.0.0/24".parse().unwrap()]);
    kernel.holds("the pod", |plan| plan.v4.peers.len() == 3).await;
}

#[tokio::test]
async fn a_node_that_is_deleted_keeps_what_its_kernel_holds() {
    let (api, kernel) = (Api::start(&[]), FakeKernel::start());
    api.put(NODES, node("one", 1, "10.244.0.0/24"));
    let updates = start(&api, &kernel);
    unhindered(&updates.state).await;
    api.delete(NODES, "one");
    hindered_by(&updates.state, "there is no node one").await;
    // Changes come, and are not programmed without the node's own addresses.
    api.put(PODS, pod("web", "10.244.1.5"));
    kernel.holds("the node's addresses", |plan| plan.v4.peers.len() == 2).await;
    api.put(NODES, node("one", 1, "10.244.0.0/24"));
    unhindered(&updates.state).await;
    kernel.holds("the pod too", |plan| plan.v4.peers.len() == 3).await;
}

#[tokio::test]
async fn what_is_acknowledged_is_in_the_kernel() {
    let (api, kernel) = (Api::start(&[]), FakeKernel::start());
    api.put(NODES, node("one", 1, "10.244.0.0/24"));
    api.put(
        SERVICES,
        json!({ "metadata": { "name": "web", "namespace": "shop" },
        "spec": { "clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7"], "ports": [{ "port": 80 }] } }),
    );
    api.put(
        SLICES,
        json!({ "metadata": { "name": "web-1", "namespace": "shop",
            "labels": { "kubernetes.io/service-name": "web" } },
        "endpoints": [{ "addresses": ["10.244.0.5"], "nodeName": "one",
            "targetRef": { "kind": "Pod", "name": "web", "uid": "uid-web" } }],
        "ports": [{ "port": 80 }] }),
    );
    let updates = start(&api, &kernel);
    let revision = api.put(PODS, pod("web", "10.244.0.5"));
    acknowledged(&updates.state, revision).await;
    kernel.holds("a ready backend", |plan| plan.v4.services.values().all(|service| service.ready == 1)).await;
    // The slice still says ready; the pod's own revision is what its agent waits for.
    let mut leaving = pod("web", "10.244.0.5");
    leaving["metadata"]["deletionTimestamp"] = json!("2026-01-02T03:04:05Z");
    let revision = api.put(PODS, leaving);
    acknowledged(&updates.state, revision).await;
    kernel
        .holds("no ready backend", |plan| plan.v4.services.values().all(|service| service.ready == 0))
        .await;
    // What changes nothing is acknowledged too, without a plan, also while old slots wait for their end.
    let plans = kernel.plans();
    let began = Instant::now();
    acknowledged(&updates.state, api.bookmark(PODS)).await;
    assert!(began.elapsed() < netplan::GRACE, "{:?}", began.elapsed());
    assert!(kernel.plans() <= plans + 1, "at most the tidying up");
}

#[tokio::test]
async fn a_plan_that_the_kernel_refuses_is_tried_again() {
    let (api, kernel) = (Api::start(&[]), FakeKernel::start());
    api.put(NODES, node("one", 1, "10.244.0.0/24"));
    let updates = start(&api, &kernel);
    unhindered(&updates.state).await;
    kernel.refuse(true);
    let before = *updates.state.applied.borrow();
    let revision = api.put(PODS, pod("web", "10.244.0.5"));
    hindered_by(&updates.state, "the eBPF object has no map PEERS4").await;
    assert_eq!(*updates.state.applied.borrow(), before, "nothing is acknowledged that is not held");
    while kernel.refusals() < 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    kernel.refuse(false);
    unhindered(&updates.state).await;
    acknowledged(&updates.state, revision).await;
}

#[tokio::test]
async fn a_burst_is_one_round() {
    let (api, kernel) = (Api::start(&[]), FakeKernel::start());
    api.put(NODES, node("one", 1, "10.244.0.0/24"));
    let updates = start(&api, &kernel);
    unhindered(&updates.state).await;
    let before = kernel.plans();
    kernel.slow(Duration::from_millis(50));
    let mut last = 0;
    for n in 1..=200 {
        last = api.put(PODS, pod(&format!("p{n}"), &format!("10.244.1.{n}")));
    }
    acknowledged(&updates.state, last).await;
    assert!(kernel.plans() - before < 20, "{} rounds for 200 changes", kernel.plans() - before);
    kernel.holds("all pods", |plan| plan.v4.peers.len() == 202).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cni_waits_until_the_policy_is_in_the_kernel() {
    let (api, kernel) = (Api::start(&[]), FakeKernel::start());
    api.put(NODES, node("one", 1, "10.244.0.0/24"));
    api.put(
        POLICIES,
        json!({ "metadata": { "name": "closed", "namespace": "shop" }, "spec": { "podSelector": {} } }),
    );
    let updates = start(&api, &kernel);
    unhindered(&updates.state).await;
    let directory =
        Arc::new(Directory { state: Arc::clone(&updates.state), timelines: Timelines::default() });
    let web = endpoint("web", "10.244.0.5", 9);
    kernel.endpoints.send_replace(Arc::from([Arc::clone(&web)]));
    let soon = Instant::now() + Duration::from_millis(100);
    let refusal = directory.programmed(&web, soon).unwrap_err();
    assert_eq!(refusal, "the API server has not told the agent of the pod, or it was deleted");
    assert_eq!(directory.uid("shop", "web", Instant::now()), None);
    let waiting = tokio::task::spawn_blocking({
        let (directory, web) = (Arc::clone(&directory), Arc::clone(&web));
        move || directory.programmed(&web, Instant::now() + PATIENCE)
    });
    api.put(PODS, pod("web", ""));
    waiting.await.unwrap().unwrap();
    assert_eq!(directory.uid("shop", "web", Instant::now()).as_deref(), Some("uid-web"));
    kernel
        .holds("an isolated pod", |plan| {
            plan.v4.endpoints.values().all(|endpoint| endpoint.ingress_policy != 0) && !plan.policy.is_empty()
        })
        .await;
    // Who it is can be told, before the API shows its address.
    let names = updates.state.names.borrow().clone();
    let owner = names.owner("10.244.0.5".parse().unwrap());
    assert_eq!(owner, Some(Owner::Pod { namespace: "shop".into(), name: "web".into(), node: "one".into() }));
    assert_eq!(names.owner("192.168.0.1".parse().unwrap()), Some(Owner::Node { name: "one".into() }));
    // Gone with its device.
    kernel.endpoints.send_replace(Arc::from([]));
    kernel.holds("no endpoint", |plan| plan.v4.endpoints.is_empty()).await;
}
