//! Decisions, one life of a pod at a time.

use std::time::Duration;

use chrono::Utc;
use serde_json::json;

use super::super::state::{RestartLimits, StopOrder};
use super::*;
use crate::objects::PodRef;
use crate::runtime::{ImageRecord, PodInstance};

/// Drives a pod by hand: every step says what it decides and what came of it.
struct Drive {
    pod: Pod,
    state: PodState,
    now: Instant,
    runs: u32,
}

impl Drive {
    fn new(spec: serde_json::Value) -> Self {
        let pod: Pod =
            serde_json::from_value(json!({"metadata": {"uid": "u"}, "spec": spec})).expect("a pod");
        let state = PodState::new(&pod, RestartLimits::default());
        Drive { pod, state, now: Instant::now(), runs: 0 }
    }

    /// What is decided now, in short words; everything decided is begun.
    fn decide(&mut self) -> Vec<String> {
        let plan = decide(&self.pod, &self.state, self.now);
        let name = |index: usize| self.state.containers[index].name.clone();
        let words = plan
            .actions
            .iter()
            .map(|action| match action {
                Action::PrepareVolumes => "volumes".to_owned(),
                Action::CreateInstance => "create".to_owned(),
                Action::StopInstance { .. } => "stop-instance".to_owned(),
                Action::FetchImage { index } => format!("image {}", name(*index)),
                Action::Start { index } => format!("start {}", name(*index)),
                Action::Stop { index, .. } => format!("stop {}", name(*index)),
                Action::Finish => "finish".to_owned(),
            })
            .collect();
        for action in &plan.actions {
            begin(&mut self.state, action);
        }
        words
    }

    fn prepared(&mut self) {
        self.state.volumes_done(true, self.now);
        self.instance();
    }

    fn instance(&mut self) {
        let attempt = self.state.attempts;
        let instance = PodInstance {
            id: format!("i{attempt}"),
            pod: PodRef::default(),
            attempt,
            ready: true,
            ..PodInstance::default()
        };
        self.state.instance_created(instance);
    }

    fn image(&mut self, name: &str) {
        let index = self.state.index_of(name).expect("a container");
        self.state.image_present(index, ImageRecord::default());
    }

    fn started(&mut self, name: &str) {
        let index = self.state.index_of(name).expect("a container");
        self.runs += 1;
        self.state.started(index, format!("{name}-{}", self.runs), Utc::now(), false);
    }

    fn exited(&mut self, name: &str, code: i32) {
        let index = self.state.index_of(name).expect("a container");
        let id = self.state.containers[index].running_id().expect("it runs").to_owned();
        let exit = Exit {
            code,
            reason: "Error".into(),
            message: String::new(),
            started_at: None,
            finished_at: Some(Utc::now()),
        };
        self.state.exited(&id, exit, self.now);
    }

    fn run(&mut self, name: &str) {
        assert_eq!(self.decide(), [format!("image {name}")]);
        self.image(name);
        assert_eq!(self.decide(), [format!("start {name}")]);
        self.started(name);
    }

    fn stop(&mut self) {
        let deadline = self.now + Duration::from_secs(30);
        self.state.order_stop(StopOrder { cause: StopCause::Deleted, revision: 1, deadline });
    }

    fn instance_stopped(&mut self) {
        self.state.instance_stopped(self.now);
    }
}

#[tokio::test]
async fn what_does_not_depend_on_each_other_begins_at_once() {
    let mut drive = Drive::new(json!({"containers": [{"name": "a"}, {"name": "b"}]}));
    assert_eq!(drive.decide(), ["volumes", "create", "image a", "image b"]);
    assert_eq!(drive.decide(), Vec::<String>::new());
    drive.image("a");
    assert_eq!(drive.decide(), Vec::<String>::new());
    drive.prepared();
    assert_eq!(drive.decide(), ["start a"]);
    drive.image("b");
    assert_eq!(drive.decide(), ["start b"]);
}

#[tokio::test]
async fn init_containers_go_in_order_and_sidecars_stay() {
    let mut drive = Drive::new(json!({
        "initContainers": [{"name": "i1"}, {"name": "side", "restartPolicy": "Always"}, {"name": "i2"}],
        "containers": [{"name": "app"}], "restartPolicy": "Never"
    }));
    assert_eq!(drive.decide(), ["volumes", "create", "image i1"]);
    drive.prepared();
    drive.image("i1");
    assert_eq!(drive.decide(), ["start i1"]);
    drive.started("i1");
    assert_eq!(drive.decide(), Vec::<String>::new());
    drive.exited("i1", 0);
    drive.run("side");
    drive.run("i2");
    drive.exited("i2", 0);
    drive.run("app");
    drive.exited("app", 0);
    assert_eq!(drive.decide(), ["stop side"]);
    drive.exited("side", 143);
    assert_eq!(drive.decide(), ["stop-instance"]);
    drive.instance_stopped();
    assert_eq!(drive.decide(), Vec::<String>::new());
}

#[tokio::test]
async fn restarts_follow_policy_and_backoff() {
    let mut drive = Drive::new(json!({"containers": [{"name": "a"}], "restartPolicy": "OnFailure"}));
    drive.decide();
    drive.prepared();
    drive.image("a");
    drive.decide();
    drive.started("a");
    drive.exited("a", 1);
    drive.run("a");
    drive.exited("a", 1);
    assert_eq!(drive.decide(), Vec::<String>::new());
    let wake = decide(&drive.pod, &drive.state, drive.now).wake.expect("a wait");
    assert_eq!(wake - drive.now, Duration::from_secs(10));
    drive.now = wake;
    drive.run("a");
    drive.exited("a", 0);
    assert_eq!(drive.decide(), ["stop-instance"]);
}

#[tokio::test]
async fn a_failed_init_container_ends_a_pod_that_never_restarts() {
    let mut drive = Drive::new(json!({
        "initContainers": [{"name": "i"}], "containers": [{"name": "a"}], "restartPolicy": "Never"
    }));
    drive.decide();
    drive.prepared();
    drive.image("i");
    drive.decide();
    drive.started("i");
    drive.exited("i", 3);
    assert_eq!(drive.decide(), ["stop-instance"]);
}

#[tokio::test]
async fn deletion_stops_apps_then_sidecars_then_the_rest() {
    let mut drive = Drive::new(json!({
        "initContainers": [{"name": "s1", "restartPolicy": "Always"}, {"name": "s2", "restartPolicy": "Always"}],
        "containers": [{"name": "a"}, {"name": "b"}]
    }));
    drive.decide();
    drive.prepared();
    drive.image("s1");
    drive.decide();
    drive.started("s1");
    drive.run("s2");
    drive.decide();
    drive.image("a");
    drive.image("b");
    drive.decide();
    drive.started("a");
    drive.started("b");
    drive.stop();
    assert_eq!(drive.decide(), ["stop a", "stop b"]);
    drive.exited("a", 0);
    assert_eq!(drive.decide(), Vec::<String>::new());
    drive.exited("b", 143);
    assert_eq!(drive.decide(), ["stop s2"]);
    drive.exited("s2", 0);
    assert_eq!(drive.decide(), ["stop s1"]);
    drive.exited("s1", 0);
    assert_eq!(drive.decide(), ["stop-instance"]);
    drive.instance_stopped();
    assert_eq!(drive.decide(), ["finish"]);
    assert_eq!(drive.decide(), Vec::<String>::new());
}

#[tokio::test]
async fn deletion_in_the_middle_of_a_start_waits_for_it() {
    let mut drive = Drive::new(json!({"containers": [{"name": "a"}]}));
    drive.decide();
    drive.stop();
    assert_eq!(drive.decide(), Vec::<String>::new());
    drive.prepared();
    assert_eq!(drive.decide(), ["stop-instance"]);
    drive.instance_stopped();
    assert_eq!(drive.decide(), ["finish"]);
}

#[tokio::test]
async fn a_shorter_grace_tells_again() {
    let mut drive = Drive::new(json!({"containers": [{"name": "a"}]}));
    drive.decide();
    drive.prepared();
    drive.image("a");
    drive.decide();
    drive.started("a");
    drive.stop();
    assert_eq!(drive.decide(), ["stop a"]);
    assert_eq!(drive.decide(), Vec::<String>::new());
    let deadline = drive.now;
    drive.state.order_stop(StopOrder { cause: StopCause::Orphaned, revision: 0, deadline });
    assert_eq!(drive.decide(), ["stop a"]);
}

#[tokio::test]
async fn a_dead_sandbox_is_replaced_and_everything_runs_again() {
    let mut drive = Drive::new(json!({"initContainers": [{"name": "i"}], "containers": [{"name": "a"}]}));
    drive.decide();
    drive.prepared();
    drive.image("i");
    drive.decide();
    drive.started("i");
    drive.exited("i", 0);
    drive.run("a");
    assert!(drive.state.instance_died("i0"));
    assert_eq!(drive.decide(), ["stop-instance"]);
    drive.instance_stopped();
    assert_eq!(drive.state.containers[1].ended().map(|exit| exit.code), Some(137));
    assert_eq!(drive.decide(), ["create", "image a"]);
    drive.instance();
    assert_eq!(drive.state.old_instances, ["i0"]);
    drive.image("a");
    assert_eq!(drive.decide(), ["image i"]);
    drive.image("i");
    assert_eq!(drive.decide(), ["start i"]);
}

#[tokio::test]
async fn a_failed_image_waits_longer_each_time() {
    let mut drive = Drive::new(json!({"containers": [{"name": "a"}]}));
    drive.decide();
    drive.prepared();
    for wait in [10, 20, 40] {
        drive.state.image_failed(0, "ErrImagePull", "no such host".into(), drive.now);
        assert_eq!(drive.decide(), Vec::<String>::new());
        drive.now += Duration::from_secs(wait);
        assert_eq!(drive.decide(), ["image a"]);
    }
    drive.image("a");
    assert_eq!(drive.decide(), ["start a"]);
}
