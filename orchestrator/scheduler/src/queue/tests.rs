//! The queue over time.
use serde_json::{Value, json};

use super::*;
use crate::{decide::Chooser, objects::Node};

fn pod(name: &str, priority: i64, cpu: &str) -> Arc<Pod> {
    let object = json!({
        "metadata": { "name": name, "uid": name },
        "spec": { "priority": priority, "containers": [{ "resources": { "requests": { "cpu": cpu } } }] },
    });
    Arc::new(serde_json::from_value(object).unwrap())
}

fn node(extra: Value) -> Arc<Node> {
    let object = json!({
        "metadata": { "name": "a" }, "spec": extra,
        "status": { "allocatable": { "cpu": "2", "memory": "1Gi", "pods": "10" } },
    });
    Arc::new(serde_json::from_value(object).unwrap())
}

struct Rig {
    queue: Queue,
    cluster: Cluster,
    now: Instant,
}

impl Rig {
    fn new() -> Self {
        Self { queue: Queue::default(), cluster: Cluster::default(), now: Instant::now() }
    }

    /// Tries all active pods; the names of those that found a node, then of those that did not.
    fn run(&mut self) -> (Vec<String>, Vec<String>) {
        self.queue.tick(self.now);
        let (mut bound, mut waiting) = (Vec::new(), Vec::new());
        while let Some(pod) = self.queue.pop() {
            match Chooser::default().choose(&pod, &self.cluster) {
                Ok(node) => {
                    self.cluster.assume(&pod, &node);
                    self.queue.remove(&pod.metadata.key());
                    bound.push(pod.metadata.name.to_string());
                }
                Err(unfit) => {
                    self.queue.unschedulable(&pod.metadata.key(), &unfit, self.now);
                    waiting.push(pod.metadata.name.to_string());
                }
            }
        }
        (bound, waiting)
    }

    fn later(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
    }

    fn set_node(&mut self, node: Arc<Node>) {
        let improved = self.cluster.set_node(node);
        self.queue.node_improved(&self.cluster, "a", improved, self.now);
    }
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[tokio::test]
async fn priority_then_age() {
    let mut rig = Rig::new();
    rig.set_node(node(json!({})));
    for (name, priority) in [("old", 0), ("new", 0), ("vip", 10)] {
        rig.queue.set(pod(name, priority, "100m"), rig.now);
    }
    assert_eq!(rig.run().0, names(&["vip", "old", "new"]));
}

#[tokio::test]
async fn wakes_those_that_a_change_helps_after_their_backoff() {
    let mut rig = Rig::new();
    for (name, cpu) in [("small", "1"), ("large", "2")] {
        rig.queue.set(pod(name, 0, cpu), rig.now);
    }
    assert_eq!(rig.run().1, names(&["small", "large"]));
    rig.set_node(node(json!({ "taints": [{ "key": "k", "effect": "NoSchedule" }] })));
    assert_eq!(rig.run(), (vec![], vec![]), "a node they cannot use wakes nobody");
    rig.set_node(node(json!({})));
    assert_eq!(rig.run(), (vec![], vec![]), "their backoff is not over");
    assert_eq!(rig.queue.depth(), Depth { active: 0, backoff: 2, unschedulable: 0 });
    rig.later(1);
    assert_eq!(rig.run(), (names(&["small"]), names(&["large"])));
    // Room for the large one comes when the small one goes.
    rig.later(5);
    let freed = rig.cluster.remove_pod(&ObjectKey::new("", "small")).unwrap();
    let room = Improved { room: true, ..Improved::default() };
    rig.queue.node_improved(&rig.cluster, &freed, room, rig.now);
    assert_eq!(rig.run(), (names(&["large"]), vec![]));
    assert_eq!(rig.queue.depth(), Depth::default());
}

#[tokio::test]
async fn backoff_doubles_and_forgotten_pods_are_flushed() {
    let mut rig = Rig::new();
    rig.queue.set(pod("p", 0, "1"), rig.now);
    let key = ObjectKey::new("", "p");
    for expected in [1, 2, 4, 8, 10, 10] {
        assert!(rig.queue.pop().is_some());
        rig.queue.retry(&key, rig.now);
        let due = rig.queue.tick(rig.now).unwrap();
        assert_eq!(due - rig.now, Duration::from_secs(expected));
        rig.now = due;
        assert_eq!(rig.queue.tick(rig.now), None);
    }
    assert_eq!(rig.run().1, names(&["p"]));
    rig.later(299);
    assert_eq!(rig.run().1, names(&[]));
    rig.later(1);
    assert_eq!(rig.run().1, names(&["p"]));
}

#[tokio::test]
async fn own_conditions_wake_nobody_and_changed_demands_do() {
    let mut rig = Rig::new();
    rig.queue.set(pod("p", 0, "1"), rig.now);
    rig.run();
    let mut told = Pod::clone(&pod("p", 0, "1"));
    told.unscheduled_message = "0/0 nodes".into();
    told.metadata.resource_version = 9;
    rig.queue.set(Arc::new(told), rig.now);
    assert_eq!(rig.run(), (vec![], vec![]));
    rig.queue.set(pod("p", 0, "500m"), rig.now);
    assert_eq!(rig.run().1, names(&["p"]));
    rig.queue.remove(&ObjectKey::new("", "p"));
    rig.later(1000);
    assert_eq!(rig.run(), (vec![], vec![]));
}
