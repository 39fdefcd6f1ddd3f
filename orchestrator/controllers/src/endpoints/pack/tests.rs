//! Services, pods and the slices that come of them.
use std::collections::{BTreeMap as Map, BTreeSet};

use client::informer::Store;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::{
    endpoints::wanted,
    objects::{Node, Pod, Service},
};

fn service(extra: Value) -> Service {
    let mut spec = json!({ "selector": { "app": "web" }, "ports": [{ "name": "http", "port": 80, "targetPort": 8080 }] });
    extra.as_object().unwrap().iter().for_each(|(key, value)| spec[key] = value.clone());
    serde_json::from_value(json!({ "metadata": { "name": "web", "namespace": "n" }, "spec": spec })).unwrap()
}

/// A pod from words: "name@node ready terminating finished no-ip http:8081".
fn pod(words: &str) -> Arc<Pod> {
    let mut words = words.split(' ');
    let (name, node) = words.next().unwrap().split_once('@').unwrap();
    let number: u32 = name.trim_start_matches(|c: char| !c.is_ascii_digit()).parse().unwrap_or(1);
    let mut pod = json!({
        "metadata": { "name": name, "uid": name, "namespace": "n", "labels": { "app": "web" } },
        "spec": { "nodeName": node, "containers": [{}] },
        "status": { "phase": "Running", "podIP": format!("10.0.{}.{}", number / 250, number % 250) },
    });
    for word in words {
        match word.split_once(':').unwrap_or((word, "")) {
            ("ready", _) => pod["status"]["conditions"] = json!([{ "type": "Ready", "status": "True" }]),
            ("terminating", _) => pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into(),
            ("finished", _) => pod["status"]["phase"] = "Failed".into(),
            ("no-ip", _) => pod["status"]["podIP"] = "".into(),
            ("http", port) => {
                let port: i32 = port.parse().unwrap();
                pod["spec"]["containers"][0]["ports"] = json!([{ "name": "http", "containerPort": port }]);
            }
            other => panic!("unknown word {other:?}"),
        }
    }
    Arc::new(serde_json::from_value(pod).unwrap())
}

/// "8080: a ready/serving, b serving/terminating" for each group.
fn check(service: Service, pods: &[&str], lost: &[&str], expected: &str) {
    let pods: Vec<_> = pods.iter().map(|words| pod(words)).collect();
    let nodes = Store::<Node>::of(Vec::new());
    let lost: BTreeSet<Box<str>> = lost.iter().map(|node| Box::from(*node)).collect();
    let groups = wanted(&service, &pods, &nodes, &lost);
    let say = |endpoint: &Endpoint| {
        let Endpoint { conditions, .. } = endpoint;
        let mut said = String::from(uid(endpoint));
        for (value, letter) in
            [(conditions.ready, 'r'), (conditions.serving, 's'), (conditions.terminating, 't')]
        {
            said.push(if value == Some(true) { letter } else { '-' });
        }
        said
    };
    let groups: Vec<_> = groups
        .iter()
        .map(|group| {
            let ports: Vec<_> = group.ports.iter().map(|port| port.port.to_string()).collect();
            let endpoints: Vec<_> = group.endpoints.iter().map(say).collect();
            format!("{}:{}", ports.join(","), endpoints.join(" "))
        })
        .collect();
    assert_eq!(groups.join("; "), expected);
}

#[test]
fn conditions_say_what_may_be_sent() {
    let pods = ["a@n ready", "b@n", "c@n ready terminating", "d@n finished", "e@n ready no-ip"];
    check(service(json!({})), &pods, &[], "8080:ars- b--- c-st");
    check(service(json!({ "publishNotReadyAddresses": true })), &pods, &[], "8080:ars- br-- crst");
    check(service(json!({})), &[], &[], ":");
}

#[test]
fn named_ports_are_looked_up_in_each_pod() {
    let named = || service(json!({ "ports": [{ "port": 80, "targetPort": "http" }] }));
    let pods = ["a@n ready http:1", "b@n ready http:2", "c@n ready http:1", "d@n ready"];
    check(named(), &pods, &[], "1:ars- crs-; 2:brs-");
    check(service(json!({ "ports": [{ "port": 80 }] })), &["a@n ready"], &[], "80:ars-");
    check(service(json!({ "ports": [], "clusterIP": "None" })), &["a@n ready"], &[], ":ars-");
}

#[test]
fn silent_nodes_lose_their_endpoints_unless_they_are_all_there_is() {
    check(service(json!({})), &["a@x ready", "b@y ready"], &["x"], "8080:brs-");
    check(service(json!({})), &["a@x ready", "b@y"], &["x"], "8080:ars- b---");
    check(service(json!({})), &["a@x ready"], &["x"], "8080:ars-");
}

// === slices ===

/// A world in which slices are written as told.
#[derive(Default)]
struct World {
    slices: Map<String, Arc<EndpointSlice>>,
    names: usize,
}

impl World {
    /// Applies one look; returns how many writes it took.
    fn apply(&mut self, pods: &[Arc<Pod>], labels: &StringMap) -> usize {
        let groups = wanted(&service(json!({})), pods, &Store::of(Vec::new()), &BTreeSet::new());
        let slices: Vec<_> = self.slices.values().cloned().collect();
        let writes = pack(groups, &slices, labels);
        let count = writes.len();
        for write in writes {
            match write {
                Write::Create(mut slice) => {
                    self.names += 1;
                    slice.metadata.name = format!("s{:04}", self.names).into();
                    self.slices.insert(slice.metadata.name.to_string(), Arc::new(slice));
                }
                Write::Replace(old, mut slice) => {
                    slice.metadata.name = old.name.clone();
                    self.slices.insert(old.name.to_string(), Arc::new(slice));
                }
                Write::Delete(old) => _ = self.slices.remove(&*old.name),
            }
        }
        count
    }

    fn uids(&self) -> Vec<String> {
        let mut uids: Vec<_> = self
            .slices
            .values()
            .flat_map(|slice| slice.endpoints.iter().map(|endpoint| uid(endpoint).to_owned()))
            .collect();
        uids.sort();
        uids
    }
}

fn pods(numbers: impl IntoIterator<Item = usize>) -> Vec<Arc<Pod>> {
    numbers.into_iter().map(|n| pod(&format!("p{n}@n ready"))).collect()
}

#[test]
fn slices_hold_a_hundred_and_change_one_at_a_time() {
    let (mut world, labels) = (World::default(), StringMap::default());
    assert_eq!(world.apply(&pods([]), &labels), 1, "an empty slice says that there is nothing");
    assert_eq!(world.apply(&pods(0..250), &labels), 3);
    assert_eq!(world.slices.len(), 3);
    assert_eq!(world.apply(&pods(0..250), &labels), 0);
    assert_eq!(world.apply(&pods(1..250), &labels), 1);
    assert_eq!(world.apply(&pods(1..251), &labels), 1);
    assert_eq!(world.apply(&pods([]), &labels), 3);
    assert_eq!(world.slices.len(), 1);
    assert_eq!(world.apply(&pods([1]), &StringMap::from([("a", "b")])), 1);
    assert_eq!(world.apply(&pods([1]), &labels), 1, "labels alone are worth a write");
}

proptest! {
    // Hundreds of pods a case: a few dozen cases take a second, and find what there is to find.
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever comes and goes: every pod is in exactly one slice, none is overfull, and a second look writes nothing.
    #[test]
    fn slices_hold_exactly_the_endpoints(looks in prop::collection::vec(prop::collection::btree_set(0..400_usize, 0..300), 1..6)) {
        let (mut world, labels) = (World::default(), StringMap::default());
        for look in looks {
            let pods = pods(look.iter().copied());
            world.apply(&pods, &labels);
            let mut expected: Vec<_> = look.iter().map(|n| format!("p{n}")).collect();
            expected.sort();
            prop_assert_eq!(world.uids(), expected);
            prop_assert!(world.slices.values().all(|slice| slice.endpoints.len() <= ENDPOINTS_MAX));
            prop_assert_eq!(world.apply(&pods, &labels), 0);
        }
    }
}
