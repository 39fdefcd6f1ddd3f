//! Rollouts played through against sets that do what they are told.
use serde_json::{Value, json};

use super::*;

/// A Deployment with sets whose pods become available when the test says so.
struct World {
    deployment: Deployment,
    sets: Vec<ReplicaSet>,
    now: DateTime<Utc>,
    log: Vec<String>,
}

impl World {
    fn new(spec: Value) -> Self {
        let deployment = json!({
            "metadata": { "name": "web", "namespace": "n", "uid": "d", "generation": 1 },
            "spec": { "selector": { "matchLabels": { "app": "web" } }, "template": template("v1"), "progressDeadlineSeconds": 600 },
        });
        let mut world = Self {
            deployment: serde_json::from_value(deployment).unwrap(),
            sets: Vec::new(),
            now: DateTime::from_timestamp(1000, 0).unwrap(),
            log: Vec::new(),
        };
        world.deployment.spec = {
            let mut merged = json!({ "selector": { "matchLabels": { "app": "web" } }, "template": template("v1"), "progressDeadlineSeconds": 600 });
            spec.as_object().unwrap().iter().for_each(|(key, value)| merged[key] = value.clone());
            serde_json::from_value(merged).unwrap()
        };
        world
    }

    fn image(&mut self, image: &str) {
        self.deployment.spec.template = Arc::new(template(image));
        self.deployment.metadata.generation += 1;
    }

    /// One look, carried out; whether anything was done.
    fn step(&mut self) -> bool {
        let sets: Vec<_> = self.sets.iter().cloned().map(Arc::new).collect();
        let has_pods = |set: &ReplicaSet| set.status.replicas > 0;
        let plan = plan(&self.deployment, &sets, &has_pods, self.now);
        let busy = !plan.steps.is_empty();
        for step in plan.steps {
            self.apply(step);
        }
        if let Some(revision) = plan.revision {
            self.deployment.metadata.annotations.insert(template::REVISION, &revision);
        }
        self.deployment.status = plan.status;
        busy
    }

    fn apply(&mut self, step: Step) {
        match step {
            Step::Create { name, hash, replicas, annotations } => {
                let (template, selector) = template::with_hash(&self.deployment, &hash);
                let annotations: serde_json::Map<_, _> =
                    annotations.into_iter().map(|(key, value)| (key, Value::from(value))).collect();
                let image = template["spec"]["image"].as_str().unwrap().to_owned();
                self.log.push(format!("{image}={replicas}"));
                let created =
                    client::objects::rfc3339(self.now + chrono::Duration::seconds(self.sets.len() as i64));
                let set = json!({
                    "metadata": { "name": name, "uid": name, "annotations": annotations, "creationTimestamp": created },
                    "spec": { "replicas": replicas, "selector": selector, "template": template },
                });
                self.sets.push(serde_json::from_value(set).unwrap());
            }
            Step::Write { set, replicas, annotations } => {
                let image = image(&set);
                let own = self.sets.iter_mut().find(|own| own.metadata.uid == set.metadata.uid).unwrap();
                for (key, value) in annotations {
                    own.metadata.annotations.insert(&key, &value);
                }
                if let Some(replicas) = replicas {
                    own.spec.replicas = Some(replicas);
                    self.log.push(format!("{image}={replicas}"));
                }
            }
            Step::Delete(set) => {
                self.sets.retain(|own| own.metadata.uid != set.metadata.uid);
                self.log.push(format!("{} forgotten", image(&set)));
            }
        }
    }

    /// The sets' pods come and go as they should; those of `broken` images never become available.
    fn run_pods(&mut self, broken: &[&str]) {
        for set in &mut self.sets {
            let works = !broken.contains(&image(set).as_str());
            let replicas = set.replicas();
            let status = &mut set.status;
            status.replicas = replicas;
            status.ready_replicas = if works { replicas } else { 0 };
            status.available_replicas = status.ready_replicas;
        }
    }

    /// Until nothing is left to do; says what was done.
    fn settle(&mut self, broken: &[&str]) -> String {
        for _ in 0..50 {
            while self.step() {}
            let before: Vec<_> = self.sets.iter().map(|set| set.status.clone()).collect();
            self.run_pods(broken);
            let after: Vec<_> = self.sets.iter().map(|set| set.status.clone()).collect();
            if before == after {
                self.step();
                return std::mem::take(&mut self.log).join(" ");
            }
        }
        panic!("does not settle: {:?}", self.log);
    }

    fn reason(&self, r#type: &str) -> String {
        let found = crate::objects::condition(&self.deployment.status.conditions, r#type).unwrap();
        format!("{} {}", found.status, found.reason)
    }
}

fn image(set: &ReplicaSet) -> String {
    set.spec.template["spec"]["image"].as_str().unwrap().to_owned()
}

fn template(image: &str) -> Value {
    json!({ "metadata": { "labels": { "app": "web" } }, "spec": { "image": image } })
}

fn rolling(surge: Value, unavailable: Value) -> Value {
    json!({ "type": "RollingUpdate", "rollingUpdate": { "maxSurge": surge, "maxUnavailable": unavailable } })
}

#[test]
fn rolls_one_by_one_and_back() {
    let mut world = World::new(json!({ "replicas": 3, "strategy": rolling(json!(1), json!(0)) }));
    assert_eq!(world.settle(&[]), "v1=3");
    assert_eq!(world.reason("Progressing"), "True NewReplicaSetAvailable");
    assert_eq!(world.reason("Available"), "True MinimumReplicasAvailable");
    world.image("v2");
    assert_eq!(world.settle(&[]), "v2=1 v1=2 v2=2 v1=1 v2=3 v1=0");
    assert_eq!(world.deployment.metadata.annotations.get(template::REVISION), Some("2"));
    world.image("v1");
    assert_eq!(world.settle(&[]), "v1=1 v2=2 v1=2 v2=1 v1=3 v2=0", "undone: the old set is found again");
    assert_eq!(world.sets.len(), 2);
    let first = &world.sets[0].metadata.annotations;
    assert_eq!(first.get(template::REVISION), Some("3"));
    assert_eq!(first.get("deployment.kubernetes.io/revision-history"), Some("1"));
}

#[test]
fn a_broken_version_stops_within_its_bounds_and_times_out() {
    let mut world = World::new(json!({ "replicas": 4, "strategy": rolling(json!("25%"), json!("25%")) }));
    world.settle(&[]);
    world.image("bad");
    assert_eq!(world.settle(&["bad"]), "bad=1 v1=3 bad=2");
    assert_eq!(world.deployment.status.available_replicas, 3);
    assert_eq!(world.reason("Progressing"), "True ReplicaSetUpdated");
    world.now += chrono::Duration::seconds(601);
    world.step();
    assert_eq!(world.reason("Progressing"), "False ProgressDeadlineExceeded");
    world.image("v1");
    assert_eq!(world.settle(&["bad"]), "bad=0 v1=4");
    assert_eq!(world.reason("Progressing"), "True NewReplicaSetAvailable");
}

#[test]
fn scales_alone_and_during_a_rollout() {
    let mut world = World::new(json!({ "replicas": 2, "strategy": rolling(json!(1), json!(0)) }));
    world.settle(&[]);
    world.deployment.spec.replicas = Some(5);
    assert_eq!(world.settle(&[]), "v1=5");
    world.image("bad");
    assert_eq!(world.settle(&["bad"]), "bad=1");
    world.deployment.spec.replicas = Some(10);
    assert_eq!(world.settle(&["bad"]), "v1=9 bad=2");
    world.deployment.spec.replicas = Some(0);
    assert_eq!(world.settle(&["bad"]), "v1=0 bad=0");
    assert_eq!(world.reason("Progressing"), "True NewReplicaSetAvailable");
}

#[test]
fn recreate_waits_for_the_last_old_pod() {
    let mut world = World::new(json!({ "replicas": 2, "strategy": { "type": "Recreate" } }));
    world.settle(&[]);
    world.image("v2");
    assert!(world.step());
    assert_eq!(world.log, ["v1=0"]);
    assert!(!world.step(), "its pods are still there");
    world.run_pods(&[]);
    assert_eq!(world.settle(&[]), "v1=0 v2=2");
}

#[test]
fn a_paused_rollout_scales_but_does_not_roll() {
    let mut world = World::new(json!({ "replicas": 2, "paused": true }));
    assert_eq!(world.settle(&[]), "");
    assert_eq!(world.reason("Progressing"), "Unknown DeploymentPaused");
    world.deployment.spec.paused = false;
    assert_eq!(world.settle(&[]), "v1=2");
    world.deployment.spec.paused = true;
    world.image("v2");
    world.deployment.spec.replicas = Some(3);
    assert_eq!(world.settle(&[]), "v1=3");
    world.deployment.spec.paused = false;
    assert!(world.settle(&[]).ends_with("v1=0"));
}

#[test]
fn history_is_kept_as_long_as_asked() {
    let mut world = World::new(
        json!({ "replicas": 1, "revisionHistoryLimit": 1, "strategy": rolling(json!(1), json!(0)) }),
    );
    for image in ["v1", "v2", "v3", "v4"] {
        world.image(image);
        world.settle(&[]);
    }
    let mut images: Vec<_> = world.sets.iter().map(image).collect();
    images.sort();
    assert_eq!(images, ["v3", "v4"]);
}

#[test]
fn a_deployment_that_goes_moves_nothing() {
    let mut world = World::new(json!({ "replicas": 2 }));
    world.deployment.metadata.deletion_timestamp = Some(world.now);
    assert!(!world.step());
}
