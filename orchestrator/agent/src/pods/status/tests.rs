//! Reports, in the words that clients know.

use std::time::Duration;

use serde_json::{Value, json};

use super::super::machine::{Action, begin};
use super::super::state::RestartLimits;
use super::*;
use crate::runtime::{ImageRecord, PodInstance};

struct Fixture {
    pod: Pod,
    state: PodState,
    now: Instant,
}

impl Fixture {
    fn new(spec: Value) -> Self {
        let json = json!({"metadata": {"name": "web", "namespace": "shop", "uid": "u"}, "spec": spec});
        let pod: Pod = serde_json::from_value(json).expect("a pod");
        let state = PodState::new(&pod, RestartLimits::default());
        Fixture { pod, state, now: Instant::now() }
    }

    fn with_instance(mut self) -> Self {
        let ips = vec!["10.244.0.5".parse().expect("an address")];
        self.state.instance_created(PodInstance {
            id: "i0".into(),
            ready: true,
            ips,
            ..PodInstance::default()
        });
        self
    }

    fn start(&mut self, index: usize, id: &str) {
        self.state.image_present(index, ImageRecord { id: "sha256:x".into(), ..ImageRecord::default() });
        begin(&mut self.state, &Action::Start { index });
        self.state.started(index, id.into(), Utc::now(), false);
    }

    fn exit(&mut self, id: &str, code: i32) {
        let reason = if code == 0 { "Completed" } else { "Error" };
        let exit = Exit {
            code,
            reason: reason.into(),
            message: String::new(),
            started_at: None,
            finished_at: Some(Utc::now()),
        };
        self.state.exited(id, exit, self.now);
    }

    fn report(&self) -> Value {
        let context = Context {
            host_ips: &["192.168.0.1".parse().expect("an address")],
            previous: &[],
            time: Utc::now(),
            now: self.now,
        };
        serde_json::to_value(report(&self.pod, &self.state, &context)).expect("a status")
    }
}

fn condition<'a>(status: &'a Value, kind: &str) -> &'a Value {
    let all = status["conditions"].as_array().expect("conditions");
    all.iter().find(|condition| condition["type"] == kind).expect(kind)
}

#[test]
fn a_new_pod_is_pending_and_its_address_shows_before_its_images() {
    let fixture = Fixture::new(json!({"containers": [{"name": "a", "image": "i"}]}));
    let status = fixture.report();
    assert_eq!(status["phase"], "Pending");
    assert_eq!(status["containerStatuses"][0]["state"]["waiting"]["reason"], "ContainerCreating");
    assert_eq!(condition(&status, "PodReadyToStartContainers")["status"], "False");
    let status = fixture.with_instance().report();
    assert_eq!(status["podIP"], "10.244.0.5");
    assert_eq!(status["podIPs"][0]["ip"], "10.244.0.5");
    assert_eq!(condition(&status, "PodReadyToStartContainers")["status"], "True");
    assert_eq!(condition(&status, "Initialized")["status"], "True");
    assert_eq!(condition(&status, "Ready")["reason"], "ContainersNotReady");
    assert_eq!(condition(&status, "Ready")["message"], "containers with unready status: [a]");
}

#[test]
fn running_is_ready_once_the_probe_says_so() {
    let mut fixture = Fixture::new(json!({"containers": [{"name": "a"}]})).with_instance();
    fixture.start(0, "c1");
    let status = fixture.report();
    assert_eq!(
        (status["phase"].as_str(), &status["containerStatuses"][0]["ready"]),
        (Some("Running"), &json!(false))
    );
    fixture.state.containers[0].ready = true;
    let status = fixture.report();
    assert_eq!(condition(&status, "Ready")["status"], "True");
    let container = &status["containerStatuses"][0];
    assert_eq!(container["containerID"], "containerd://c1");
    assert_eq!((&container["started"], &container["restartCount"]), (&json!(true), &json!(0)));
}

#[test]
fn a_crash_loop_says_how_long_it_waits() {
    let mut fixture = Fixture::new(json!({"containers": [{"name": "a"}]})).with_instance();
    fixture.start(0, "c1");
    fixture.exit("c1", 1);
    let container = &fixture.report()["containerStatuses"][0];
    assert_eq!(container["state"]["terminated"]["exitCode"], 1);
    fixture.start(0, "c2");
    fixture.exit("c2", 2);
    let status = fixture.report();
    let container = &status["containerStatuses"][0];
    assert_eq!(container["state"]["waiting"]["reason"], "CrashLoopBackOff");
    assert_eq!(
        container["state"]["waiting"]["message"],
        "back-off 10s restarting failed container=a pod=web_shop(u)"
    );
    assert_eq!(container["lastState"]["terminated"]["exitCode"], 2);
    assert_eq!((&container["restartCount"], &status["phase"]), (&json!(1), &json!("Running")));
}

#[test]
fn an_image_error_becomes_a_wait() {
    let mut fixture = Fixture::new(json!({"containers": [{"name": "a", "image": "nope"}]})).with_instance();
    fixture.state.image_failed(0, "ErrImagePull", "no such host".into(), fixture.now);
    let waiting = |fixture: &Fixture| fixture.report()["containerStatuses"][0]["state"]["waiting"].clone();
    assert_eq!(waiting(&fixture)["reason"], "ErrImagePull");
    fixture.now += Duration::from_secs(3);
    assert_eq!(waiting(&fixture), json!({"reason": "ImagePullBackOff", "message": "no such host"}));
}

#[test]
fn ends_have_phases() {
    let cases = [
        ("Never", 0, "Succeeded"),
        ("Never", 1, "Failed"),
        ("OnFailure", 1, "Running"),
        ("Always", 0, "Running"),
    ];
    for (policy, code, phase) in cases {
        let spec = json!({"containers": [{"name": "a"}], "restartPolicy": policy});
        let mut fixture = Fixture::new(spec).with_instance();
        fixture.start(0, "c1");
        fixture.exit("c1", code);
        assert_eq!(fixture.report()["phase"], phase, "{policy} {code}");
    }
}

#[test]
fn init_containers_show_in_the_conditions() {
    let spec =
        json!({"initContainers": [{"name": "i"}], "containers": [{"name": "a"}], "restartPolicy": "Never"});
    let mut fixture = Fixture::new(spec).with_instance();
    let status = fixture.report();
    assert_eq!(condition(&status, "Initialized")["message"], "containers with incomplete status: [i]");
    assert_eq!(status["containerStatuses"][0]["state"]["waiting"]["reason"], "PodInitializing");
    fixture.start(0, "c1");
    assert_eq!(fixture.report()["phase"], "Pending");
    fixture.exit("c1", 0);
    let status = fixture.report();
    assert_eq!(condition(&status, "Initialized")["status"], "True");
    assert_eq!(status["initContainerStatuses"][0]["ready"], true);
}

#[test]
fn times_of_conditions_change_with_their_status_only() {
    let fixture = Fixture::new(json!({"containers": [{"name": "a"}]}));
    let then = Utc::now() - chrono::Duration::hours(1);
    let previous = [PodCondition {
        kind: "Ready".into(),
        status: "False".into(),
        last_transition_time: Some(then),
        ..PodCondition::default()
    }];
    let context = Context { host_ips: &[], previous: &previous, time: Utc::now(), now: fixture.now };
    let made = report(&fixture.pod, &fixture.state, &context);
    let time = |kind: &str| {
        let mut found = made.conditions.iter().filter(|condition| condition.kind == kind);
        found.next().and_then(|condition| condition.last_transition_time)
    };
    assert_eq!(time("Ready"), Some(then));
    assert_eq!(time("Initialized"), Some(context.time));
}

#[test]
fn durations_read_as_go_prints_them() {
    let print = |seconds| short_duration(Duration::from_secs(seconds));
    assert_eq!([print(10), print(80), print(300)], ["10s", "1m20s", "5m0s"]);
}
