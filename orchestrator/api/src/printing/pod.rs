//! The pod's row: readiness, the one word that says how it is, restarts, place.
//!
//! The word is worked out in layers, each of which may overrule the one before: phase or status reason, a scheduling gate,
//! the first init container that is not done, the containers from last to first, deletion.

use super::{NONE, age, moment, name, text_or};
use crate::kind::Column;
use crate::kinds::view::View;
use crate::object::Value;
use crate::table::human_duration;
use crate::time::Time;

/// The columns of `kubectl get pods`.
pub(crate) fn columns() -> [Column; 9] {
    [
        Column::name(),
        Column::new("Ready", "string", "Containers that are ready to serve, of all."),
        Column::new("Status", "string", "The phase, or what keeps the pod from running."),
        Column::new("Restarts", "string", "How often its containers were restarted, and when last."),
        Column::age(),
        Column::wide("IP", "string", "The pod's primary address."),
        Column::wide("Node", "string", "The node the pod was assigned to."),
        Column::wide("Nominated Node", "string", "The node on which room is being made for the pod."),
        Column::wide("Readiness Gates", "string", "Readiness gates that are met, of all."),
    ]
}

/// What the containers add up to.
#[derive(Default)]
struct Tally {
    reason: String,
    ready: usize,
    restarts: Restarts,
    /// Restarts of sidecars alone: once the pod is initialized, those of ordinary init containers are history.
    sidecar_restarts: Restarts,
    initializing: bool,
}

#[derive(Default, Clone, Copy)]
struct Restarts {
    count: i64,
    last: Option<Time>,
}

impl Restarts {
    fn add(&mut self, status: &View<'_, '_>) {
        self.count += status.get("restartCount").int().unwrap_or(0);
        let finished = moment(&status.get("lastState").get("terminated").get("finishedAt"));
        self.last = self.last.max(finished);
    }

    fn text(self, now: Time) -> String {
        match self.last {
            Some(last) if self.count != 0 => {
                format!("{} ({} ago)", self.count, human_duration((now - last).num_seconds()))
            }
            _ => self.count.to_string(),
        }
    }
}

/// Cells of a pod: name, ready, status, restarts, age, IP, node, nominated node, readiness gates.
pub(crate) fn row(pod: &View<'_, '_>, now: Time) -> Vec<Value> {
    let (spec, status) = (pod.get("spec"), pod.get("status"));
    let sidecars = spec.get("initContainers").items().filter(is_sidecar).count();
    let total = spec.get("containers").len() + sidecars;
    let tally = tally(&spec, &status);
    let reason = deletion_reason(pod).unwrap_or(&tally.reason);
    vec![
        name(pod),
        format!("{}/{total}", tally.ready).into(),
        reason.into(),
        tally.restarts.text(now).into(),
        age(pod, now),
        text_or(status.get("podIPs").at(0).get("ip").text(), NONE).into(),
        text_or(spec.get("nodeName").text(), NONE).into(),
        text_or(status.get("nominatedNodeName").text(), NONE).into(),
        readiness_gates(&spec, &status).into(),
    ]
}

fn tally(spec: &View<'_, '_>, status: &View<'_, '_>) -> Tally {
    let mut tally = Tally { reason: pod_reason(status), ..Tally::default() };
    add_init_containers(&mut tally, spec, status);
    if !tally.initializing || condition_is(status, "Initialized", "True") {
        tally.restarts = tally.sidecar_restarts;
        add_containers(&mut tally, status);
    }
    tally
}

fn pod_reason(status: &View<'_, '_>) -> String {
    let gated = status.get("conditions").items().any(|condition| {
        condition.get("type").is("PodScheduled") && condition.get("reason").is("SchedulingGated")
    });
    if gated {
        return "SchedulingGated".into();
    }
    text_or(status.get("reason").text(), status.get("phase").text()).into()
}

/// Walks the init containers up to the first that is not done; that one names the status.
fn add_init_containers(tally: &mut Tally, spec: &View<'_, '_>, status: &View<'_, '_>) {
    let declared = spec.get("initContainers");
    for (index, container) in status.get("initContainerStatuses").items().enumerate() {
        let sidecar = declared
            .items()
            .any(|declared| declared.get("name").is(container.get("name").text()) && is_sidecar(&declared));
        tally.restarts.add(&container);
        if sidecar {
            tally.sidecar_restarts.add(&container);
        }
        let state = container.get("state");
        let terminated = state.get("terminated");
        if terminated.exists() && terminated.get("exitCode").int().unwrap_or(0) == 0 {
            continue;
        }
        if sidecar && container.get("started").flag() {
            tally.ready += usize::from(container.get("ready").flag());
            continue;
        }
        let waiting = state.get("waiting").get("reason").text();
        tally.reason = if terminated.exists() {
            format!("Init:{}", termination_reason(&terminated))
        } else if !waiting.is_empty() && waiting != "PodInitializing" {
            format!("Init:{waiting}")
        } else {
            format!("Init:{index}/{}", declared.len())
        };
        tally.initializing = true;
        break;
    }
}

/// Walks the containers from last to first, so that the first one's trouble wins.
fn add_containers(tally: &mut Tally, status: &View<'_, '_>) {
    let mut running = false;
    for container in status.get("containerStatuses").items().rev() {
        tally.restarts.add(&container);
        let state = container.get("state");
        let waiting = state.get("waiting").get("reason").text();
        let terminated = state.get("terminated");
        if !waiting.is_empty() {
            tally.reason = waiting.into();
        } else if terminated.exists() {
            tally.reason = termination_reason(&terminated);
        } else if container.get("ready").flag() && state.get("running").exists() {
            running = true;
            tally.ready += 1;
        }
    }
    if tally.reason == "Completed" && running {
        let ready = condition_is(status, "Ready", "True");
        tally.reason = if ready { "Running" } else { "NotReady" }.into();
    }
}

fn termination_reason(terminated: &View<'_, '_>) -> String {
    let reason = terminated.get("reason").text();
    let signal = terminated.get("signal").int().unwrap_or(0);
    if !reason.is_empty() {
        reason.into()
    } else if signal != 0 {
        format!("Signal:{signal}")
    } else {
        format!("ExitCode:{}", terminated.get("exitCode").int().unwrap_or(0))
    }
}

fn deletion_reason(pod: &View<'_, '_>) -> Option<&'static str> {
    if !pod.get("metadata").get("deletionTimestamp").exists() {
        return None;
    }
    let status = pod.get("status");
    if status.get("reason").is("NodeLost") {
        return Some("Unknown");
    }
    let terminal = matches!(status.get("phase").text(), "Succeeded" | "Failed");
    (!terminal).then_some("Terminating")
}

fn readiness_gates(spec: &View<'_, '_>, status: &View<'_, '_>) -> String {
    let gates = spec.get("readinessGates");
    if gates.is_empty() {
        return NONE.into();
    }
    let met =
        gates.items().filter(|gate| condition_is(status, gate.get("conditionType").text(), "True")).count();
    format!("{met}/{}", gates.len())
}

fn condition_is(status: &View<'_, '_>, kind: &str, value: &str) -> bool {
    let conditions = status.get("conditions");
    conditions
        .items()
        .find(|condition| condition.get("type").is(kind))
        .is_some_and(|c| c.get("status").is(value))
}

fn is_sidecar(container: &View<'_, '_>) -> bool {
    container.get("restartPolicy").is("Always")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::time;

    fn cells(status: Value, spec: Value, deleted: bool) -> Vec<String> {
        let mut pod = json!({
            "metadata": {"name": "web", "creationTimestamp": "2026-01-01T00:00:00Z"}, "spec": spec, "status": status
        });
        if deleted {
            pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:10:00Z".into();
        }
        let now = time::parse("2026-01-01T00:10:00Z").unwrap();
        row(&View::root(&pod), now).iter().map(|cell| cell.as_str().unwrap().to_owned()).collect()
    }

    fn check(status: Value, spec: Value, deleted: bool, expected: [&str; 3], why: &str) {
        let cells = cells(status, spec, deleted);
        assert_eq!([&cells[1], &cells[2], &cells[3]], expected, "{why}");
    }

    #[test]
    fn status_words() {
        let one = json!({"containers": [{"name": "a"}]});
        let two = json!({"containers": [{"name": "a"}, {"name": "b"}]});
        let init = json!({"containers": [{"name": "a"}], "initContainers": [{"name": "i"}, {"name": "j"}]});
        let sidecar = json!({"containers": [{"name": "a"}], "initContainers": [{"name": "i", "restartPolicy": "Always"}]});
        let up = json!({"name": "a", "ready": true, "state": {"running": {}}});
        let done = json!({"name": "b", "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}});
        check(
            json!({"phase": "Pending"}),
            one.clone(),
            false,
            ["0/1", "Pending", "0"],
            "nothing started yet",
        );
        check(
            json!({"phase": "Pending", "containerStatuses": [{"name": "a", "state": {"waiting": {"reason": "ContainerCreating"}}}]}),
            one.clone(),
            false,
            ["0/1", "ContainerCreating", "0"],
            "the container says what it waits for",
        );
        check(
            json!({"phase": "Running", "containerStatuses": [up.clone()]}),
            one.clone(),
            false,
            ["1/1", "Running", "0"],
            "a running pod",
        );
        check(
            json!({"phase": "Running", "containerStatuses": [{"name": "a", "restartCount": 3,
                "lastState": {"terminated": {"finishedAt": "2026-01-01T00:08:00Z"}},
                "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]}),
            one.clone(),
            false,
            ["0/1", "CrashLoopBackOff", "3 (2m ago)"],
            "restarts and when the last one ended",
        );
        check(
            json!({"phase": "Failed", "containerStatuses": [{"name": "a", "state": {"terminated": {"exitCode": 3}}}]}),
            one.clone(),
            false,
            ["0/1", "ExitCode:3", "0"],
            "without a reason the exit code",
        );
        check(
            json!({"phase": "Failed", "containerStatuses": [{"name": "a", "state": {"terminated": {"exitCode": 137, "signal": 9}}}]}),
            one.clone(),
            false,
            ["0/1", "Signal:9", "0"],
            "a signal goes before the exit code",
        );
        check(
            json!({"phase": "Succeeded", "containerStatuses": [done.clone()]}),
            one.clone(),
            false,
            ["0/1", "Completed", "0"],
            "a finished job",
        );
        check(
            json!({"phase": "Running", "containerStatuses": [up.clone(), done.clone()],
                "conditions": [{"type": "Ready", "status": "False"}]}),
            two.clone(),
            false,
            ["1/2", "NotReady", "0"],
            "one completed beside one running, not ready",
        );
        check(
            json!({"phase": "Running", "containerStatuses": [up.clone(), done],
                "conditions": [{"type": "Ready", "status": "True"}]}),
            two,
            false,
            ["1/2", "Running", "0"],
            "one completed beside one running, ready",
        );
        check(
            json!({"phase": "Pending", "initContainerStatuses": [
                {"name": "i", "state": {"terminated": {"exitCode": 0}}}, {"name": "j", "state": {"running": {}}}]}),
            init.clone(),
            false,
            ["0/1", "Init:1/2", "0"],
            "the second init container runs",
        );
        check(
            json!({"phase": "Pending", "initContainerStatuses": [
                {"name": "i", "restartCount": 2, "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]}),
            init.clone(),
            false,
            ["0/1", "Init:CrashLoopBackOff", "2"],
            "an init container that fails",
        );
        check(
            json!({"phase": "Pending", "initContainerStatuses": [
                {"name": "i", "state": {"terminated": {"exitCode": 1, "reason": "Error"}}}]}),
            init.clone(),
            false,
            ["0/1", "Init:Error", "0"],
            "an init container that failed",
        );
        check(
            json!({"phase": "Running", "containerStatuses": [up.clone()], "initContainerStatuses": [
                {"name": "i", "restartCount": 4, "state": {"terminated": {"exitCode": 0}}},
                {"name": "j", "state": {"terminated": {"exitCode": 0}}}]}),
            init,
            false,
            ["1/1", "Running", "0"],
            "restarts of finished init containers are history",
        );
        check(
            json!({"phase": "Running", "containerStatuses": [up.clone()], "initContainerStatuses": [
                {"name": "i", "restartCount": 1, "ready": true, "started": true, "state": {"running": {}}}]}),
            sidecar,
            false,
            ["2/2", "Running", "1"],
            "a sidecar counts as a container",
        );
        check(
            json!({"phase": "Running", "containerStatuses": [up.clone()]}),
            one.clone(),
            true,
            ["1/1", "Terminating", "0"],
            "deleted",
        );
        check(
            json!({"phase": "Succeeded"}),
            one.clone(),
            true,
            ["0/1", "Succeeded", "0"],
            "a finished pod does not terminate",
        );
        check(
            json!({"phase": "Running", "reason": "NodeLost", "containerStatuses": [up]}),
            one.clone(),
            true,
            ["1/1", "Unknown", "0"],
            "its node is gone",
        );
        check(
            json!({"phase": "Failed", "reason": "Evicted"}),
            one.clone(),
            false,
            ["0/1", "Evicted", "0"],
            "the pod's own reason",
        );
        check(
            json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}]}),
            one,
            false,
            ["0/1", "SchedulingGated", "0"],
            "a scheduling gate holds it",
        );
    }

    #[test]
    fn wide_cells() {
        let spec = json!({"nodeName": "n1", "containers": [{"name": "a"}],
            "readinessGates": [{"conditionType": "x"}, {"conditionType": "y"}]});
        let status = json!({"phase": "Running", "podIPs": [{"ip": "10.244.0.5"}],
            "conditions": [{"type": "x", "status": "True"}, {"type": "y", "status": "False"}]});
        assert_eq!(cells(status, spec, false)[4..], ["10m", "10.244.0.5", "n1", NONE, "1/2"]);
        let bare = cells(json!({"phase": "Pending"}), json!({"containers": []}), false);
        assert_eq!(bare[5..], [NONE, NONE, NONE, NONE]);
    }
}
