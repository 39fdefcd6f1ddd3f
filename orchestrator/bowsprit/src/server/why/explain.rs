//! The answer as text: pure, so that every case is a test.

use chrono::{DateTime, TimeDelta, Utc};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// The condition whose message holds the node's stages as JSON.
pub(super) const TIMELINE: &str = "bowsprit.dev/Timeline";
/// Events that are shown: the newest.
const EVENTS_SHOWN: usize = 12;
/// What these events say is in the timeline already.
const TOLD: &[&str] = &["Scheduled", "Pulling", "Pulled", "Created", "Started"];
/// Conditions that say what a pod waits for before its containers do.
const WAITS: &[&str] = &["PodScheduled", "PodReadyToStartContainers", "Initialized"];
/// 128 + SIGKILL, as shells and runtimes count.
const KILLED: i64 = 137;
/// 128 + SIGTERM.
const TERMINATED: i64 = 143;

/// What is known beside the pod itself.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) events: Vec<Value>,
    /// What the node tells; without it, the pod's condition counts.
    pub(super) timeline: Option<Value>,
    /// The last lines of containers that failed.
    pub(super) logs: BTreeMap<String, String>,
    pub(super) now: DateTime<Utc>,
}

#[derive(Debug, Default, Deserialize)]
struct NodeTimeline {
    arrived: DateTime<Utc>,
    stages: Vec<Stage>,
}

#[derive(Debug, Default, Clone, PartialEq, Deserialize)]
#[serde(default)]
struct Stage {
    stage: String,
    container: String,
    at_ms: i64,
    took_ms: i64,
    note: String,
}

pub(super) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

pub(super) fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// The whole answer.
pub(super) fn explain(pod: &Value, known: &Known) -> String {
    let mut out = String::new();
    put(&mut out, format_args!("{}\n", headline(pod, known.now)));
    timeline(&mut out, pod, known);
    let reasons = obstacles(pod, known);
    if !reasons.is_empty() {
        put(&mut out, format_args!("\nWhy it is not as it should be:"));
        reasons.iter().for_each(|reason| put(&mut out, format_args!("  {}", reason.replace('\n', "\n    "))));
    }
    let events = events(&known.events, known.now, false);
    if !events.is_empty() {
        put(&mut out, format_args!("\nEvents:\n{}", events.trim_end()));
    }
    out
}

/// Writing to a String cannot fail.
fn put(out: &mut String, line: std::fmt::Arguments<'_>) {
    out.write_fmt(line)
        .and_then(|()| out.write_char('\n'))
        .expect("invariant: a String takes all that is written to it");
}

fn headline(pod: &Value, now: DateTime<Utc>) -> String {
    let (meta, status) = (&pod["metadata"], &pod["status"]);
    let mut parts = vec![match text(&pod["spec"]["nodeName"]) {
        "" => "on no node yet".to_owned(),
        node => format!("on {node}"),
    }];
    let containers = list(&status["containerStatuses"]);
    let ready = containers.iter().filter(|container| container["ready"] == true).count();
    if !containers.is_empty() {
        parts.push(format!("{ready} of {} containers ready", containers.len()));
    }
    let restarts: i64 = containers.iter().filter_map(|container| container["restartCount"].as_i64()).sum();
    if restarts > 0 {
        parts.push(format!("{restarts} restart{}", if restarts == 1 { "" } else { "s" }));
    }
    parts.push(format!("created {} ago", ago(now - created(pod))));
    if let Some(at) = moment(&meta["deletionTimestamp"]) {
        let left = at - now;
        let when = if left > TimeDelta::zero() {
            format!("killed in {} at the latest", span(left))
        } else {
            format!("overdue by {}", span(-left))
        };
        parts.push(format!("being deleted, {when}"));
    }
    let waiting = containers.iter().find_map(|container| container["state"]["waiting"]["reason"].as_str());
    let state = waiting.filter(|_| status["phase"] != "Failed").unwrap_or(text(&status["phase"]));
    format!("pod {}/{}: {state}, {}", text(&meta["namespace"]), text(&meta["name"]), parts.join(", "))
}

fn moment(value: &Value) -> Option<DateTime<Utc>> {
    text(value).parse().ok()
}

/// How long ago something was that is known to the second.
fn ago(duration: TimeDelta) -> String {
    match duration.num_seconds().max(0) {
        seconds @ 0..10 => format!("{seconds} s"),
        _ => span(duration),
    }
}

/// A duration as people say it.
fn span(duration: TimeDelta) -> String {
    let ms = duration.num_milliseconds().max(0);
    match ms {
        0..10_000 => format!("{ms} ms"),
        10_000..120_000 => format!("{} s", ms / 1000),
        120_000..7_200_000 => format!("{} min", ms / 60_000),
        7_200_000..172_800_000 => format!("{} h", ms / 3_600_000),
        _ => format!("{} days", ms / 86_400_000),
    }
}

// === the timeline ===

fn timeline(out: &mut String, pod: &Value, known: &Known) {
    let created = created(pod);
    put(out, format_args!("  {:>10}  {:>9}  {:<9}  WHAT", "AT", "TOOK", "BY"));
    let mut row = |at: TimeDelta, took: Option<i64>, who: &str, what: &str| {
        let took = took.map_or(String::new(), |took| span(TimeDelta::milliseconds(took)));
        put(out, format_args!("  {:>10}  {took:>9}  {who:<9}  {what}", span(at)));
    };
    row(TimeDelta::zero(), None, "apiserver", "admitted");
    let node = text(&pod["spec"]["nodeName"]);
    if node.is_empty() {
        row(known.now - created, None, "scheduler", "still looks for a node");
        return;
    }
    let Some(timeline) = node_timeline(pod, known) else {
        row(known.now - created, None, "agent", &format!("of {node} has not told anything of it yet"));
        return;
    };
    // Of a pod that was there before its agent, the beginning is in the status and the rest in the agent.
    let arrived = timeline.arrived - created;
    let bound = format!("chose {node}, whose agent has seen it");
    row(arrived, Some(arrived.num_milliseconds()), "scheduler", &bound);
    for (stage, times) in folded(&timeline.stages) {
        let of = if stage.container.is_empty() { String::new() } else { format!(" ({})", stage.container) };
        let note = if stage.note.is_empty() { String::new() } else { format!(": {}", stage.note) };
        let times = if times > 1 { format!(" ({times} times, this was the last)") } else { String::new() };
        let at = arrived + TimeDelta::milliseconds(stage.at_ms);
        row(at, Some(stage.took_ms), "agent", &format!("{}{of}{note}{times}", stage.stage));
    }
}

/// What is tried again and again with the same outcome is one line.
fn folded(stages: &[Stage]) -> Vec<(&Stage, usize)> {
    let mut lines: Vec<(&Stage, usize)> = Vec::new();
    for stage in stages {
        let same = |other: &Stage| {
            (&other.stage, &other.container, &other.note) == (&stage.stage, &stage.container, &stage.note)
        };
        match lines.last_mut() {
            Some((last, times)) if same(last) && !stage.note.is_empty() => {
                (*last, *times) = (stage, *times + 1)
            }
            _ => lines.push((stage, 1)),
        }
    }
    lines
}

/// What the node tells, unless it began after a restart of the agent: then what was reported before.
fn node_timeline(pod: &Value, known: &Known) -> Option<NodeTimeline> {
    let told = known.timeline.as_ref().and_then(|told| NodeTimeline::deserialize(told).ok());
    let condition = list(&pod["status"]["conditions"]).iter().find(|condition| condition["type"] == TIMELINE);
    let reported: Option<NodeTimeline> =
        condition.and_then(|condition| serde_json::from_str(text(&condition["message"])).ok());
    match (told, reported) {
        (Some(told), Some(mut reported)) if reported.arrived < told.arrived => {
            let later = (told.arrived - reported.arrived).num_milliseconds();
            reported
                .stages
                .extend(told.stages.into_iter().map(|stage| Stage { at_ms: stage.at_ms + later, ..stage }));
            Some(reported)
        }
        (told, reported) => told.or(reported),
    }
}

/// A uid of version 7 begins with 48 bits of milliseconds; any other leaves the seconds of the object's own stamp.
fn created(pod: &Value) -> DateTime<Utc> {
    let digits: String = text(&pod["metadata"]["uid"]).chars().filter(|c| *c != '-').collect();
    let version_7 = digits.len() == 32 && digits.as_bytes().get(12) == Some(&b'7');
    let stamp = digits.get(..12).filter(|_| version_7).and_then(|hex| i64::from_str_radix(hex, 16).ok());
    let stamp = stamp.and_then(DateTime::from_timestamp_millis);
    stamp.or_else(|| moment(&pod["metadata"]["creationTimestamp"])).unwrap_or_default()
}

// === reasons ===

/// Why the pod is not where it should be, most fundamental first.
fn obstacles(pod: &Value, known: &Known) -> Vec<String> {
    let status = &pod["status"];
    let mut found = Vec::new();
    for condition in list(&status["conditions"]) {
        let (kind, message) = (text(&condition["type"]), text(&condition["message"]));
        let shown = WAITS.contains(&kind) && condition["status"] == "False" && !message.is_empty();
        if shown && kind == "PodScheduled" {
            found.push(no_node(message));
        } else if shown {
            found.push(message.to_owned());
        }
    }
    if !text(&status["message"]).is_empty() {
        found.push(format!("{}: {}", text(&status["reason"]), text(&status["message"])));
    }
    // What the node tried last before any container could be made.
    for reason in ["FailedMount", "FailedCreatePodSandBox"] {
        let waits = containers(pod).all(|(_, container)| container["state"]["running"].is_null());
        let event = known.events.iter().rev().find(|event| event["reason"] == reason);
        if let Some(event) = event.filter(|_| waits && status["phase"] == "Pending") {
            found.push(text(&event["message"]).to_owned());
        }
    }
    for (spec, container) in containers(pod) {
        container_obstacles(spec, container, known, &mut found);
    }
    found
}

/// `0/3 nodes are available: 2 Insufficient cpu, 1 node(s) had ...`: a line a group.
fn no_node(message: &str) -> String {
    match message.split_once(": ") {
        Some((how_many, groups)) => {
            let groups = groups.trim_end_matches('.').replace(", ", "\n");
            format!("no node takes it; {how_many}:\n{groups}")
        }
        None => format!("no node takes it: {message}"),
    }
}

/// Every container that has a status, with its spec.
fn containers(pod: &Value) -> impl Iterator<Item = (&Value, &Value)> {
    let pairs = [("initContainers", "initContainerStatuses"), ("containers", "containerStatuses")];
    pairs.into_iter().flat_map(move |(specs, statuses)| {
        list(&pod["status"][statuses]).iter().map(move |status| {
            let mut specs = list(&pod["spec"][specs]).iter();
            (specs.find(|spec| spec["name"] == status["name"]).unwrap_or(&Value::Null), status)
        })
    })
}

/// Names of containers that ended badly, and whether the log to look at is that of the run before.
pub(super) fn failed_containers(pod: &Value) -> Vec<(String, bool)> {
    let bad = |ended: &Value| ended["exitCode"].as_i64().is_some_and(|code| code != 0);
    containers(pod)
        .filter_map(|(_, container)| {
            let now = bad(&container["state"]["terminated"]);
            let before = bad(&container["lastState"]["terminated"]);
            // A container that waits for its next run still has the last one's log as its own.
            let running = !container["state"]["running"].is_null();
            (now || before).then(|| (text(&container["name"]).to_owned(), running && !now))
        })
        .collect()
}

fn container_obstacles(spec: &Value, container: &Value, known: &Known, found: &mut Vec<String>) {
    let name = text(&container["name"]);
    let waiting = &container["state"]["waiting"];
    let message = text(&waiting["message"]);
    if !message.is_empty() {
        found.push(format!("container {name} waits ({}): {message}", text(&waiting["reason"])));
    }
    let mut failed = false;
    for (state, when) in [("state", "ended"), ("lastState", "ended its last run")] {
        let ended = &container[state]["terminated"];
        if ended.is_null() || ended["exitCode"] == 0 && state == "state" {
            continue;
        }
        failed = true;
        let ago = moment(&ended["finishedAt"]).map(|at| format!(" {} ago", ago(known.now - at)));
        let mut line =
            format!("container {name} {when}{}: {}", ago.unwrap_or_default(), end(spec, ended, known));
        let message = text(&ended["message"]);
        if !message.is_empty() {
            _ = write!(line, "\n{}", message.trim_end());
        }
        found.push(line);
    }
    if let Some(log) = known.logs.get(name).filter(|_| failed) {
        found.push(format!("the end of its log:\n{log}"));
    }
    if !container["state"]["running"].is_null() && container["ready"] == false {
        found.push(not_ready(spec, container, known));
    }
}

/// How a run ended, and who ended it.
fn end(spec: &Value, ended: &Value, known: &Known) -> String {
    let code = ended["exitCode"].as_i64().unwrap_or_default();
    let name = text(&spec["name"]);
    // The newest kill that is no later than the end; stamps have seconds only.
    let finished = moment(&ended["finishedAt"]).unwrap_or(known.now);
    let started = moment(&ended["startedAt"]).unwrap_or_default();
    let killing = known.events.iter().rev().find(|event| {
        let at = moment(&event["lastTimestamp"]).unwrap_or_default();
        event["reason"] == "Killing"
            && of_container(event, name)
            && at >= started
            && at <= finished + TimeDelta::seconds(1)
    });
    let who = match (text(&ended["reason"]), killing) {
        ("OOMKilled", _) => {
            let limit = match text(&spec["resources"]["limits"]["memory"]) {
                "" => "the memory that its pod or node has".to_owned(),
                limit => format!("its memory limit of {limit}"),
            };
            return format!(
                "the kernel killed it, because it needed more than {limit} (OOMKilled, exit code {code})"
            );
        }
        (_, Some(event)) => {
            let (message, probe) = (text(&event["message"]), failed_probe(event, known));
            format!(", killed by {}: {message}{probe}", by_where(event))
        }
        (_, None) if code == KILLED => ", by SIGKILL from somebody who left no word".to_owned(),
        (_, None) if code == TERMINATED => ", by SIGTERM".to_owned(),
        _ => " by itself".to_owned(),
    };
    format!("exit code {code}{who}")
}

/// What the probe said for which a container was killed, if it was for that.
fn failed_probe(killing: &Value, known: &Known) -> String {
    let (path, why) = (&killing["involvedObject"]["fieldPath"], text(&killing["message"]));
    let said = ["Liveness", "Startup"].into_iter().find_map(|kind| {
        let mut events = known.events.iter().rev();
        let failed = events.find(|event| {
            event["reason"] == "Unhealthy"
                && event["involvedObject"]["fieldPath"] == *path
                && text(&event["message"]).starts_with(kind)
        })?;
        why.contains(&kind.to_lowercase()).then(|| text(&failed["message"]))
    });
    said.map_or(String::new(), |said| format!("\n{}", said.trim_end()))
}

fn not_ready(spec: &Value, container: &Value, known: &Known) -> String {
    let name = text(&container["name"]);
    let probe = if container["started"] == false { "startupProbe" } else { "readinessProbe" };
    let word = if probe == "startupProbe" { "Startup" } else { "Readiness" };
    let failed = known.events.iter().rev().find(|event| {
        event["reason"] == "Unhealthy"
            && of_container(event, name)
            && text(&event["message"]).starts_with(word)
    });
    match failed {
        Some(event) => {
            let times = event["count"].as_i64().unwrap_or(1);
            let ago = moment(&event["lastTimestamp"])
                .map_or(String::new(), |at| format!("{} ago", ago(known.now - at)));
            format!(
                "container {name} runs but is not ready: {} (failed {times} times, last {ago})",
                text(&event["message"])
            )
        }
        None if spec[probe].is_null() => format!("container {name} runs but is not ready yet"),
        None => format!("container {name} runs but its {probe} has not succeeded yet"),
    }
}

/// An event of a container has `spec.containers{NAME}` as its field.
fn of_container(event: &Value, name: &str) -> bool {
    let path = text(&event["involvedObject"]["fieldPath"]);
    path.is_empty() || path.ends_with(&format!("{{{name}}}"))
}

// === events ===

/// Which component said it; our own go by their short names (the scheduler has the one that pods ask for by default).
fn by(event: &Value) -> &str {
    let component = [text(&event["source"]["component"]), text(&event["reportingComponent"])];
    let component = component.into_iter().find(|name| !name.is_empty()).unwrap_or("somebody");
    ["bowsprit-", "default-"].iter().find_map(|prefix| component.strip_prefix(prefix)).unwrap_or(component)
}

/// The same, with the node that it runs on.
fn by_where(event: &Value) -> String {
    match text(&event["source"]["host"]) {
        "" => format!("the {}", by(event)),
        host => format!("the {} on {host}", by(event)),
    }
}

/// A table of the newest events; what the timeline tells is left out unless `all` are wanted.
pub(super) fn events(events: &[Value], now: DateTime<Utc>, all: bool) -> String {
    let last = |event: &Value| {
        moment(&event["lastTimestamp"])
            .or(moment(&event["eventTime"]))
            .or(moment(&event["metadata"]["creationTimestamp"]))
    };
    let mut shown: Vec<&Value> =
        events.iter().filter(|event| all || !TOLD.contains(&text(&event["reason"]))).collect();
    shown.sort_by_key(|event| last(event));
    let mut out = String::new();
    if shown.is_empty() {
        return out;
    }
    put(&mut out, format_args!("  {:>10}  {:>5}  {:<9}  {:<16}  MESSAGE", "AGO", "TIMES", "BY", "REASON"));
    for event in &shown[shown.len().saturating_sub(EVENTS_SHOWN)..] {
        let ago = last(event).map_or(String::new(), |at| ago(now - at));
        let count = event["count"].as_i64().unwrap_or(1).max(1);
        let message = text(&event["message"]).trim_end().replace('\n', " ");
        let (who, reason) = (by(event), text(&event["reason"]));
        put(&mut out, format_args!("  {ago:>10}  {count:>5}  {who:<9}  {reason:<16}  {message}"));
    }
    out
}

/// Whether two names are of one Deployment's or ReplicaSet's pods.
pub(super) fn same_set(one: &str, other: &str) -> bool {
    match (one.rsplit_once('-'), other.rsplit_once('-')) {
        (Some((one, _)), Some((other, _))) => one == other,
        _ => false,
    }
}

#[cfg(test)]
mod tests;
