//! The control plane at work: workloads, Services, namespaces, nodes.
mod rig;

use std::{collections::BTreeSet, time::Instant};

use client::{DeleteOptions, Patch, Propagation};
use rig::{Any, Cluster, deployment, deployments, pods, resource, text};
use serde_json::{Value, json};

async fn settled(cluster: &Cluster, name: &str) -> Any {
    cluster
        .until(&format!("deployment {name} to settle"), || async {
            let found: Any = cluster.admin.get_as(&deployments(), "default", name).await.expect("it exists");
            let (spec, status) = (&found.value["spec"], &found.value["status"]);
            let seen = status["observedGeneration"] == found.value["metadata"]["generation"];
            let number = |field: &str| status[field].as_i64().unwrap_or_default();
            let wanted = spec["replicas"].as_i64().unwrap_or_default();
            let all = ["replicas", "updatedReplicas", "availableReplicas"];
            (seen && all.iter().all(|field| number(field) == wanted)).then_some(found)
        })
        .await
}

/// Addresses of ready endpoints of a Service.
async fn endpoints(cluster: &Cluster, service: &str) -> BTreeSet<String> {
    let slices = resource("discovery.k8s.io", "endpointslices", "EndpointSlice", true);
    let slices = cluster.list(&slices, &format!("kubernetes.io/service-name={service}")).await;
    let endpoints =
        slices.iter().flat_map(|slice| slice.value["endpoints"].as_array().cloned().unwrap_or_default());
    let ready = endpoints.filter(|endpoint| endpoint["conditions"]["ready"] == true);
    ready.map(|endpoint| text(&endpoint["addresses"][0])).collect()
}

fn service(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": name, "namespace": "default" },
        "spec": { "selector": { "app": name }, "ports": [{ "port": 80, "targetPort": "http" }] },
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deployment_runs_rolls_and_is_undone() {
    let cluster = Cluster::start(&["n1", "n2", "n3"]).await;
    cluster.apply(&resource("", "services", "Service", true), service("web")).await;
    cluster.apply(&deployments(), deployment("web", 3, "web:1")).await;
    let pods = cluster.until_running("app=web", 3).await;
    let nodes: BTreeSet<_> = pods.iter().map(Any::node).collect();
    assert_eq!(nodes.len(), 3, "they are spread");
    let addresses: BTreeSet<_> = pods.iter().map(|pod| text(&pod.value["status"]["podIP"])).collect();
    cluster
        .until("all endpoints", || async { (endpoints(&cluster, "web").await == addresses).then_some(()) })
        .await;

    cluster.apply(&deployments(), deployment("web", 3, "web:2")).await;
    let rolled = settled(&cluster, "web").await;
    assert_eq!(rolled.condition("Progressing")["reason"], "NewReplicaSetAvailable");
    let pods = cluster.until_running("app=web", 3).await;
    assert!(pods.iter().all(|pod| pod.value["spec"]["containers"][0]["image"] == "web:2"));

    cluster.apply(&deployments(), deployment("web", 2, "web:1")).await;
    settled(&cluster, "web").await;
    cluster.until_running("app=web", 2).await;
    let sets = cluster.list(&resource("apps", "replicasets", "ReplicaSet", true), "app=web").await;
    let revisions: BTreeSet<_> = sets
        .iter()
        .map(|set| set.meta.annotations.get("deployment.kubernetes.io/revision").map(str::to_owned))
        .collect();
    assert_eq!(revisions, [Some("2".into()), Some("3".into())].into(), "the old set is used again");
    cluster
        .until("two endpoints", || async { (endpoints(&cluster, "web").await.len() == 2).then_some(()) })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn owners_take_their_pods_along_or_leave_them() {
    let cluster = Cluster::start(&["n1"]).await;
    for name in ["web", "keep"] {
        cluster.apply(&deployments(), deployment(name, 2, "x")).await;
        cluster.until_running(&format!("app={name}"), 2).await;
    }
    let delete = |name: &'static str, policy| {
        let options = DeleteOptions::default().propagation(policy);
        let client = cluster.admin.clone();
        async move { client.delete_as(&deployments(), "default", name, &options).await.expect("it goes") }
    };
    delete("web", Propagation::Foreground).await;
    delete("keep", Propagation::Orphan).await;
    cluster.until_running("app=web", 0).await;
    cluster
        .until("the orphaned deployment to go", || async {
            let left = cluster.list(&deployments(), "").await;
            left.is_empty().then_some(())
        })
        .await;
    cluster.until_running("app=keep", 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_fits_nowhere_says_why_until_it_fits() {
    let mut cluster = Cluster::start(&["n1"]).await;
    let taints = json!([{ "key": "gpu", "value": "yes", "effect": "NoSchedule" }]);
    cluster.add_tainted_node("n2", json!({ "cpu": "4", "memory": "8Gi", "pods": "110" }), taints).await;
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "big", "namespace": "default" },
        "spec": { "containers": [{ "name": "c", "image": "x", "resources": { "requests": { "cpu": "5" } } }] },
    });
    let expected = "0/2 nodes are available: 1 Insufficient cpu, 1 node(s) had untolerated taint {gpu: yes}.";
    cluster.apply(&pods(), pod).await;
    // The scheduler may see the pod before the second node, and then once more.
    let found = cluster
        .until("the condition", || async {
            let pod: Any = cluster.admin.get_as(&pods(), "default", "big").await.expect("it exists");
            Some(pod.condition("PodScheduled")).filter(|condition| condition["message"] == expected)
        })
        .await;
    assert_eq!((text(&found["status"]), text(&found["reason"])), ("False".into(), "Unschedulable".into()));
    let events = resource("", "events", "Event", true);
    cluster
        .until("the event", || async {
            let events = cluster.list(&events, "").await;
            events
                .iter()
                .any(|event| {
                    event.value["reason"] == "FailedScheduling" && event.value["message"] == expected
                })
                .then_some(())
        })
        .await;
    cluster.add_node("large", json!({ "cpu": "8", "memory": "8Gi", "pods": "10" })).await;
    let pods = cluster
        .until("the pod to run", || async {
            let pods = cluster.list(&pods(), "").await;
            pods.iter().all(Any::is_ready).then_some(pods)
        })
        .await;
    assert_eq!(pods[0].node(), "large");
    assert_eq!(pods[0].condition("PodScheduled")["status"], "True");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_takes_everything_along_and_says_what_blocks() {
    let cluster = Cluster::start(&["n1"]).await;
    let namespaces = resource("", "namespaces", "Namespace", false);
    let maps = resource("", "configmaps", "ConfigMap", true);
    cluster
        .apply(
            &namespaces,
            json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "shop" } }),
        )
        .await;
    cluster
        .until("account and CA", || async {
            let account = resource("", "serviceaccounts", "ServiceAccount", true);
            let (account, map) = (
                cluster.admin.get_as::<Any>(&account, "shop", "default").await,
                cluster.admin.get_as::<Any>(&maps, "shop", "kube-root-ca.crt").await,
            );
            (account.is_ok() && map.is_ok_and(|map| map.value["data"]["ca.crt"] == "the CA")).then_some(())
        })
        .await;
    let mut web = deployment("web", 2, "x");
    web["metadata"]["namespace"] = "shop".into();
    cluster.apply(&deployments(), web).await;
    cluster.until_running("app=web", 2).await;
    let held = json!({ "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": { "name": "held", "namespace": "shop", "finalizers": ["x.io/wait"] } });
    cluster.apply(&maps, held).await;

    cluster
        .admin
        .delete_as(&namespaces, "", "shop", &DeleteOptions::default())
        .await
        .expect("it begins to go");
    let found = cluster
        .until("the conditions", || async {
            let found: Any = cluster.admin.get_as(&namespaces, "", "shop").await.expect("it is held");
            let remaining = text(&found.condition("NamespaceContentRemaining")["message"]);
            remaining.ends_with("configmaps has 1 resource instances").then_some(found)
        })
        .await;
    assert_eq!(found.value["status"]["phase"], "Terminating");
    let held = text(&found.condition("NamespaceFinalizersRemaining")["message"]);
    assert!(held.contains("x.io/wait in 1 resource instances"), "{held}");
    let release = json!({ "metadata": { "finalizers": null } });
    cluster
        .admin
        .patch_as::<Value>(&maps, Patch::Merge, "shop", "held", None, &release)
        .await
        .expect("it is released");
    cluster
        .until("the namespace to go", || async {
            let gone = cluster.admin.get_as::<Any>(&namespaces, "", "shop").await;
            gone.is_err_and(|error| error.is_not_found()).then_some(())
        })
        .await;
    assert!(cluster.list(&pods(), "").await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_node_loses_its_endpoints_and_then_its_pods() {
    let mut cluster = Cluster::start(&["n1", "n2"]).await;
    let nodes = resource("", "nodes", "Node", false);
    cluster
        .until("ranges of addresses", || async {
            let nodes = cluster.list(&nodes, "").await;
            let ranges: BTreeSet<_> = nodes.iter().map(|node| text(&node.value["spec"]["podCIDR"])).collect();
            (ranges.len() == 2 && !ranges.contains("")).then_some(())
        })
        .await;
    cluster.apply(&resource("", "services", "Service", true), service("web")).await;
    cluster.apply(&deployments(), deployment("web", 2, "x")).await;
    let before = cluster.until_running("app=web", 2).await;
    cluster
        .until("endpoints", || async { (endpoints(&cluster, "web").await.len() == 2).then_some(()) })
        .await;
    let lost = before.iter().find(|pod| pod.node() == "n2").expect("they are spread").clone();

    cluster.kill_node("n2");
    let started = Instant::now();
    let left = cluster
        .until("the endpoint to leave", || async {
            Some(endpoints(&cluster, "web").await).filter(|left| left.len() == 1)
        })
        .await;
    assert!(!left.contains(&text(&lost.value["status"]["podIP"])));
    println!("endpoint left after {:?}", started.elapsed());
    cluster
        .until("the pod to run elsewhere", || async {
            let pods = cluster.list(&pods(), "app=web").await;
            let here = pods.iter().filter(|pod| pod.node() == "n1" && pod.is_ready());
            (here.count() == 2).then_some(())
        })
        .await;
    println!("running elsewhere after {:?}", started.elapsed());
    let node: Any = cluster.admin.get_as(&nodes, "", "n2").await.expect("it exists");
    assert_eq!(node.condition("Ready")["status"], "Unknown");
    assert_eq!(node.condition("Ready")["message"], "Kubelet stopped posting node status.");
    // Its object gone, its pods are too.
    cluster.admin.delete_as(&nodes, "", "n2", &DeleteOptions::default()).await.expect("it goes");
    cluster.until_running("app=web", 2).await;
}
