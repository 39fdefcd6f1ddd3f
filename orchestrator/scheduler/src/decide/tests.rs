//! Decisions: tables in words, and properties against a plain model.
use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::objects::Node;

fn node(name: &str, extra: Value) -> Arc<Node> {
    let mut object = json!({
        "metadata": { "name": name, "labels": {} },
        "status": { "allocatable": { "cpu": "4", "memory": "8Gi", "pods": "10" } },
    });
    merge(&mut object, extra);
    Arc::new(serde_json::from_value(object).unwrap())
}

fn pod(name: &str, spec: Value) -> Arc<Pod> {
    let object = json!({ "metadata": { "name": name, "namespace": "n", "uid": name }, "spec": spec });
    Arc::new(serde_json::from_value(object).unwrap())
}

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            from.into_iter().for_each(|(key, value)| merge(into.entry(key).or_insert(Value::Null), value));
        }
        (into, from) => *into = from,
    }
}

fn requests(cpu: &str, memory: &str) -> Value {
    json!({ "containers": [{ "resources": { "requests": { "cpu": cpu, "memory": memory } } }] })
}

fn cluster(nodes: Vec<Arc<Node>>) -> Cluster {
    let mut cluster = Cluster::default();
    nodes.into_iter().for_each(|node| _ = cluster.set_node(node));
    cluster
}

/// The name of the node chosen, or the message.
fn check(nodes: Vec<Arc<Node>>, spec: Value, expected: &str) {
    let chosen = Chooser::default().choose(&pod("p", spec), &cluster(nodes));
    assert_eq!(chosen.map_or_else(|unfit| unfit.to_string(), String::from), expected);
}

fn taint(key: &str, value: &str, effect: &str) -> Value {
    json!({ "spec": { "taints": [{ "key": key, "value": value, "effect": effect }] } })
}

#[test]
fn says_why_there_is_no_node() {
    check(vec![], json!({}), "no nodes available to schedule pods");
    let nodes = || {
        vec![
            node("a", json!({})),
            node("b", taint("gpu", "yes", "NoSchedule")),
            node("c", taint("gpu", "yes", "NoExecute")),
        ]
    };
    check(
        nodes(),
        requests("5", "1Gi"),
        "0/3 nodes are available: 1 Insufficient cpu, 2 node(s) had untolerated taint {gpu: yes}.",
    );
    check(
        vec![node("a", json!({}))],
        requests("5", "10Gi"),
        "0/1 nodes are available: 1 Insufficient cpu, 1 Insufficient memory.",
    );
    check(
        vec![node("a", json!({ "spec": { "unschedulable": true } })), node("b", json!({}))],
        json!({ "nodeSelector": { "disk": "ssd" } }),
        "0/2 nodes are available: 1 node(s) didn't match Pod's node affinity/selector, 1 node(s) were unschedulable.",
    );
    check(
        vec![node("a", json!({ "status": { "allocatable": { "pods": "0" } } }))],
        json!({}),
        "0/1 nodes are available: 1 Too many pods.",
    );
    check(
        vec![node("a", json!({}))],
        json!({ "containers": [{ "resources": { "requests": { "x.io/gpu": "1" } } }] }),
        "0/1 nodes are available: 1 Insufficient x.io/gpu.",
    );
}

#[test]
fn prefers() {
    // More room.
    check(
        vec![node("small", json!({ "status": { "allocatable": { "cpu": "2" } } })), node("large", json!({}))],
        requests("1", "2Gi"),
        "large",
    );
    // No soft taint.
    check(vec![node("a", taint("k", "v", "PreferNoSchedule")), node("b", json!({}))], json!({}), "b");
    // The preferred label, though it has less room.
    let affinity = json!({ "affinity": { "nodeAffinity": { "preferredDuringSchedulingIgnoredDuringExecution": [
        { "weight": 1, "preference": { "matchExpressions": [{ "key": "disk", "operator": "In", "values": ["ssd"] }] } }
    ] } } });
    let ssd =
        json!({ "metadata": { "labels": { "disk": "ssd" } }, "status": { "allocatable": { "cpu": "2" } } });
    check(vec![node("a", json!({})), node("b", ssd)], affinity, "b");
    // A tolerated taint is no obstacle, a required label decides.
    let spec = json!({ "tolerations": [{ "operator": "Exists" }], "nodeSelector": { "zone": "z" } });
    let tainted = {
        let mut tainted = taint("k", "v", "NoSchedule");
        merge(&mut tainted, json!({ "metadata": { "labels": { "zone": "z" } } }));
        tainted
    };
    check(vec![node("a", json!({})), node("b", tainted)], spec, "b");
}

#[test]
fn spreads_pods_of_one_owner_over_nodes_and_zones() {
    let zone = |zone: &str| json!({ "metadata": { "labels": { "topology.kubernetes.io/zone": zone } } });
    let nodes = vec![node("a1", zone("a")), node("a2", zone("a")), node("b1", zone("b"))];
    let (mut cluster, mut chooser) = (cluster(nodes), Chooser::default());
    let mut order = Vec::new();
    for n in 0..4 {
        let mut pod = Pod::clone(&pod(&format!("p{n}"), requests("100m", "100Mi")));
        pod.metadata.owner_references =
            vec![client::OwnerReference { uid: "rs".into(), controller: Some(true), ..Default::default() }];
        let chosen = chooser.choose(&pod, &cluster).unwrap();
        cluster.assume(&Arc::new(pod), &chosen);
        order.push(chosen.to_string());
    }
    let count = |prefix: &str| order.iter().filter(|name| name.starts_with(prefix)).count();
    assert_eq!((count("a"), count("b")), (2, 2), "{order:?}");
    assert_ne!(order[0], order[1]);
}

#[test]
fn a_taken_port_is_taken_until_its_pod_is_gone() {
    let (mut cluster, mut chooser) = (cluster(vec![node("a", json!({}))]), Chooser::default());
    let web = |name: &str| pod(name, json!({ "containers": [{ "ports": [{ "hostPort": 80 }] }] }));
    cluster.assume(&web("p1"), "a");
    let unfit = chooser.choose(&web("p2"), &cluster).unwrap_err();
    assert!(unfit.to_string().contains("1 node(s) didn't have free ports for the requested pod ports"));
    cluster.remove_pod(&web("p1").metadata.key());
    assert!(chooser.choose(&web("p2"), &cluster).is_ok());
}

#[test]
fn an_assumed_pod_counts_once() {
    let mut cluster = cluster(vec![node("a", json!({})), node("b", json!({}))]);
    let waiting = pod("p", requests("3", "1Gi"));
    cluster.assume(&waiting, "a");
    assert_eq!(cluster.set_pod(&waiting), None, "the informer has not seen the binding yet");
    assert_eq!(cluster.node("a").unwrap().1.requested.cpu_milli, 3000);
    let mut bound = Pod::clone(&waiting);
    bound.node_name = "a".into();
    assert_eq!(cluster.set_pod(&Arc::new(bound.clone())), None);
    assert_eq!(cluster.node("a").unwrap().1.requested.cpu_milli, 3000);
    bound.node_name = "b".into();
    assert_eq!(
        cluster.set_pod(&Arc::new(bound.clone())).as_deref(),
        Some("a"),
        "somebody else bound it elsewhere"
    );
    assert_eq!(cluster.node("a").unwrap().1.requested, crate::resources::Resources::default());
    cluster.remove_node("b");
    assert_eq!((cluster.node_count(), cluster.len()), (1, 2), "its pod still speaks of it");
    bound.finished = true;
    assert_eq!(cluster.set_pod(&Arc::new(bound)).as_deref(), Some("b"));
    assert_eq!(cluster.len(), 1);
}

// === properties ===

#[derive(Clone, Debug)]
enum Step {
    Schedule { cpu: u32, memory: u32, owner: u8 },
    Remove(usize),
    AddNode { cpu: u32, memory: u32, pods: u32, zone: u8 },
    RemoveNode(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..3000_u32, 0..3000_u32, 0..3_u8).prop_map(|(cpu, memory, owner)| Step::Schedule { cpu, memory, owner }),
        2 => any::<usize>().prop_map(Step::Remove),
        2 => (0..6000_u32, 0..6000_u32, 0..6_u32, 0..3_u8)
            .prop_map(|(cpu, memory, pods, zone)| Step::AddNode { cpu, memory, pods, zone }),
        1 => any::<usize>().prop_map(Step::RemoveNode),
    ]
}

proptest! {
    /// A node is found exactly if one fits, nothing is ever overcommitted, and the sums kept by increments are those of
    /// a cluster built anew.
    #[test]
    fn decisions_hold_against_a_model(steps in prop::collection::vec(step(), 1..80)) {
        let (mut cluster, mut chooser) = (Cluster::default(), Chooser::default());
        let mut nodes: Vec<Arc<Node>> = Vec::new();
        let mut placed: Vec<(Arc<Pod>, String)> = Vec::new();
        for (n, step) in steps.into_iter().enumerate() {
            match step {
                Step::AddNode { cpu, memory, pods, zone } => {
                    let node = node(&format!("n{n}"), json!({
                        "metadata": { "labels": { "topology.kubernetes.io/zone": zone.to_string() } },
                        "status": { "allocatable": { "cpu": format!("{cpu}m"), "memory": memory.to_string(), "pods": pods } },
                    }));
                    cluster.set_node(node.clone());
                    nodes.push(node);
                }
                Step::RemoveNode(at) if !nodes.is_empty() => {
                    let node = nodes.swap_remove(at % nodes.len());
                    cluster.remove_node(&node.metadata.name);
                }
                Step::Remove(at) if !placed.is_empty() => {
                    let (pod, _) = placed.swap_remove(at % placed.len());
                    cluster.remove_pod(&pod.metadata.key());
                }
                Step::Schedule { cpu, memory, owner } => {
                    let mut wanted = Pod::clone(&pod(&format!("p{n}"), requests(&format!("{cpu}m"), &memory.to_string())));
                    wanted.metadata.owner_references = vec![client::OwnerReference {
                        uid: owner.to_string().into(), controller: Some(true), ..Default::default()
                    }];
                    let wanted = Arc::new(wanted);
                    let fits = |node: &Node| {
                        let on: Vec<_> = placed.iter().filter(|(_, name)| **name == *node.metadata.name).collect();
                        let sum = |of: fn(&Pod) -> i64| on.iter().map(|(pod, _)| of(pod)).sum::<i64>() + of(&wanted);
                        sum(|_| 1) <= node.allocatable.pods
                            && (cpu == 0 || sum(|pod| pod.requests.cpu_milli) <= node.allocatable.cpu_milli)
                            && (memory == 0 || sum(|pod| pod.requests.memory) <= node.allocatable.memory)
                    };
                    match chooser.choose(&wanted, &cluster) {
                        Ok(name) => {
                            let chosen = nodes.iter().find(|node| node.metadata.name == name).expect("it exists");
                            prop_assert!(fits(chosen), "{} does not fit {}", wanted.metadata.name, name);
                            cluster.assume(&wanted, &name);
                            placed.push((wanted, name.into()));
                        }
                        Err(unfit) => {
                            prop_assert!(!nodes.iter().any(|node| fits(node)), "{unfit}");
                            prop_assert_eq!(unfit.nodes, nodes.len());
                        }
                    }
                }
                Step::Remove(_) | Step::RemoveNode(_) => {}
            }
        }
        let mut rebuilt = Cluster::default();
        placed.iter().for_each(|(pod, node)| rebuilt.assume(pod, node));
        nodes.iter().for_each(|node| _ = rebuilt.set_node(node.clone()));
        for node in &nodes {
            let (own, again) = (cluster.node(&node.metadata.name).unwrap().1, rebuilt.node(&node.metadata.name).unwrap().1);
            prop_assert_eq!(&own.requested, &again.requested);
            prop_assert_eq!(&own.owners, &again.owners);
            prop_assert_eq!(own.scored_memory, again.scored_memory);
            for owner in ["0", "1", "2"] {
                let zone = crate::cluster::zone(node).unwrap();
                prop_assert_eq!(cluster.owner_in_zone(zone, owner), rebuilt.owner_in_zone(zone, owner));
            }
        }
        prop_assert_eq!(cluster.len(), rebuilt.len());
    }
}

/// A decision looks at the nodes, not at the pods that are there; how fast it is, `cargo xtask bench scheduler` says.
#[test]
fn decisions_are_fast() {
    let nodes = (0..1000)
        .map(|n| node(&format!("node-{n}"), json!({ "status": { "allocatable": { "pods": "110" } } })));
    let (mut cluster, mut chooser) = (cluster(nodes.collect()), Chooser::default());
    let pods: Vec<_> = (0..5000).map(|n| pod(&format!("p{n}"), requests("100m", "64Mi"))).collect();
    let started = std::time::Instant::now();
    for pod in &pods {
        let chosen = chooser.choose(pod, &cluster).unwrap();
        cluster.assume(pod, &chosen);
    }
    let rate = 5000.0 / started.elapsed().as_secs_f64();
    println!("{rate:.0} decisions/s");
    // Lenient: a starved machine passes, a decision that looks at every pod does not.
    assert!(rate > 100.0, "{rate:.0} decisions/s");
}
