//! `bowsprit why pod/NAME`: one timeline from the create to where the pod is now, and the reason when it does not go on.
//!
//! Everything comes through the API: the uid holds the time of the create in milliseconds, the node reports its stages in
//! the condition [`TIMELINE`], conditions and container states say what is missing, events say who did what.

use crate::kubeconfig::KubeconfigArguments;
use anyhow::{Context, Result, bail};
use chrono::{DateTime, TimeDelta, Utc};
use client::Client;
use serde::Deserialize;
use serde_json::Value;
use std::fmt::Write as _;

/// The condition whose message holds the node's stages as JSON.
const TIMELINE: &str = "bowsprit.dev/Timeline";
/// Events that are shown; older ones have been told by the stages.
const EVENTS_SHOWN: usize = 10;

/// Which pod.
#[derive(Debug, clap::Args)]
pub(crate) struct WhyArguments {
    /// `pod/NAME` or `NAME`.
    pod: String,
    /// Its namespace.
    #[arg(long, short, default_value = "default")]
    namespace: String,
    #[command(flatten)]
    access: KubeconfigArguments,
}

#[derive(Debug, Default, Deserialize)]
struct NodeTimeline {
    arrived: DateTime<Utc>,
    stages: Vec<Stage>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Stage {
    stage: String,
    container: String,
    at_ms: i64,
    took_ms: i64,
    note: String,
}

/// Asks the API server and prints the answer.
pub(crate) fn run(arguments: WhyArguments) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start a thread")?;
    let text = runtime.block_on(why(&arguments))?;
    print!("{text}");
    Ok(())
}

async fn why(arguments: &WhyArguments) -> Result<String> {
    let name = match arguments.pod.split_once('/') {
        None => &*arguments.pod,
        Some(("pod" | "pods" | "po", name)) => name,
        Some((kind, _)) => bail!("`{kind}` is no kind that can be explained: pod/NAME"),
    };
    let namespace = &arguments.namespace;
    let client = arguments.access.connect()?;
    let pod: Value = client.get_path(&format!("/api/v1/namespaces/{namespace}/pods/{name}")).await?;
    let events = events(&client, namespace, text(&pod["metadata"]["uid"])).await?;
    Ok(explain(&pod, &events))
}

async fn events(client: &Client, namespace: &str, uid: &str) -> Result<Vec<Value>> {
    let path = format!("/api/v1/namespaces/{namespace}/events?fieldSelector=involvedObject.uid%3D{uid}");
    let mut list: Value = client.get_path(&path).await?;
    Ok(list["items"].as_array_mut().map(std::mem::take).unwrap_or_default())
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// The whole answer.
fn explain(pod: &Value, events: &[Value]) -> String {
    let mut out = String::new();
    let (meta, status) = (&pod["metadata"], &pod["status"]);
    let node = match text(&pod["spec"]["nodeName"]) {
        "" => "no node yet".to_owned(),
        node => format!("on {node}"),
    };
    let going = if meta["deletionTimestamp"].is_null() { "" } else { ", being deleted" };
    put(
        &mut out,
        format_args!(
            "pod {}/{}: {}{going}, {node}",
            text(&meta["namespace"]),
            text(&meta["name"]),
            text(&status["phase"])
        ),
    );
    timeline(&mut out, pod);
    let reasons = obstacles(pod);
    if !reasons.is_empty() {
        put(&mut out, format_args!("\nwhat it waits for, or what went wrong:"));
        reasons.iter().for_each(|reason| put(&mut out, format_args!("  {reason}")));
    }
    let warnings: Vec<&Value> = events.iter().filter(|event| text(&event["type"]) == "Warning").collect();
    if !warnings.is_empty() {
        put(&mut out, format_args!("\nwarnings:"));
        for event in &warnings[warnings.len().saturating_sub(EVENTS_SHOWN)..] {
            let count =
                event["count"].as_i64().filter(|count| *count > 1).map(|count| format!(" ({count} times)"));
            let who = text(&event["source"]["component"]);
            put(
                &mut out,
                format_args!(
                    "  {} by {who}{}: {}",
                    text(&event["reason"]),
                    count.unwrap_or_default(),
                    text(&event["message"])
                ),
            );
        }
    }
    out
}

/// Writing to a String cannot fail.
fn put(out: &mut String, line: std::fmt::Arguments<'_>) {
    out.write_fmt(line)
        .and_then(|()| out.write_char('\n'))
        .expect("invariant: a String takes all that is written to it");
}

fn timeline(out: &mut String, pod: &Value) {
    let created = created(pod);
    let mut row = |at: TimeDelta, took: Option<i64>, who: &str, what: &str| {
        let took = took.map_or(String::new(), |took| format!("{took} ms"));
        put(out, format_args!("{:>8} ms {took:>9}  {who:<11}{what}", at.num_milliseconds()));
    };
    row(TimeDelta::zero(), None, "apiserver", "admitted");
    let Some(node) = node_timeline(pod) else { return };
    let arrived = node.arrived - created;
    row(
        arrived,
        Some(arrived.num_milliseconds()),
        "scheduler",
        &format!("bound to {}, which has seen it", text(&pod["spec"]["nodeName"])),
    );
    for stage in node.stages {
        let of = if stage.container.is_empty() { String::new() } else { format!(" of {}", stage.container) };
        let note = if stage.note.is_empty() { String::new() } else { format!(": {}", stage.note) };
        row(
            arrived + TimeDelta::milliseconds(stage.at_ms),
            Some(stage.took_ms),
            "agent",
            &format!("{}{of}{note}", stage.stage),
        );
    }
}

fn node_timeline(pod: &Value) -> Option<NodeTimeline> {
    let condition =
        list(&pod["status"]["conditions"]).iter().find(|condition| condition["type"] == TIMELINE)?;
    serde_json::from_str(text(&condition["message"])).ok()
}

/// A uid of version 7 begins with 48 bits of milliseconds; any other leaves the seconds of the object's own stamp.
fn created(pod: &Value) -> DateTime<Utc> {
    let digits: String = text(&pod["metadata"]["uid"]).chars().filter(|c| *c != '-').collect();
    let version_7 = digits.len() == 32 && digits.as_bytes().get(12) == Some(&b'7');
    let stamp = digits.get(..12).filter(|_| version_7).and_then(|hex| i64::from_str_radix(hex, 16).ok());
    let seconds = || text(&pod["metadata"]["creationTimestamp"]).parse().ok();
    stamp.and_then(DateTime::from_timestamp_millis).or_else(seconds).unwrap_or_default()
}

/// Why the pod is not where it should be, most fundamental first.
fn obstacles(pod: &Value) -> Vec<String> {
    let status = &pod["status"];
    let mut found = Vec::new();
    for condition in list(&status["conditions"]) {
        let kind = text(&condition["type"]);
        let shown = ["PodScheduled", "PodReadyToStartContainers", "Initialized"].contains(&kind);
        if shown && condition["status"] == "False" && !text(&condition["message"]).is_empty() {
            found.push(format!("{kind}: {}: {}", text(&condition["reason"]), text(&condition["message"])));
        }
    }
    if !text(&status["message"]).is_empty() {
        found.push(format!("{}: {}", text(&status["reason"]), text(&status["message"])));
    }
    for field in ["initContainerStatuses", "containerStatuses"] {
        for container in list(&status[field]) {
            container_obstacles(container, &mut found);
        }
    }
    found
}

fn container_obstacles(container: &Value, found: &mut Vec<String>) {
    let name = text(&container["name"]);
    let waiting = &container["state"]["waiting"];
    if !waiting.is_null() {
        found.push(format!(
            "container {name} waits: {} {}",
            text(&waiting["reason"]),
            text(&waiting["message"])
        ));
    }
    for (state, when) in [("state", "ended"), ("lastState", "ended before")] {
        let ended = &container[state]["terminated"];
        if ended.is_null() || ended["exitCode"] == 0 {
            continue;
        }
        let signal = ended["signal"].as_i64().map_or(String::new(), |signal| format!(", signal {signal}"));
        let message = text(&ended["message"]);
        found.push(format!(
            "container {name} {when}: {} with code {}{signal} {message}",
            text(&ended["reason"]),
            ended["exitCode"]
        ));
    }
    let running = !container["state"]["running"].is_null();
    if running && container["ready"] == false {
        found.push(format!("container {name} runs but its probes do not say that it is ready"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_pod_that_runs_is_a_timeline() {
        let timeline = json!({ "arrived": "2026-11-22T12:00:00.250Z", "stages": [
            { "stage": "sandbox", "at_ms": 80, "took_ms": 75 },
            { "stage": "started", "container": "c", "at_ms": 150, "took_ms": 60, "note": "localhost/x:1" },
        ] });
        let created = "2026-11-22T12:00:00.200Z".parse::<DateTime<Utc>>().unwrap().timestamp_millis();
        let uid = format!("{:08x}-{:04x}-7000-8000-000000000000", created >> 16, created & 0xffff);
        let pod = json!({
            "metadata": { "namespace": "n", "name": "p", "uid": uid },
            "spec": { "nodeName": "node-1" },
            "status": { "phase": "Running", "conditions": [{ "type": TIMELINE, "message": timeline.to_string() }] },
        });
        let lines: Vec<String> = explain(&pod, &[])
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect();
        assert_eq!(
            lines,
            [
                "pod n/p: Running, on node-1",
                "0 ms apiserver admitted",
                "50 ms 50 ms scheduler bound to node-1, which has seen it",
                "130 ms 75 ms agent sandbox",
                "200 ms 60 ms agent started of c: localhost/x:1",
            ]
        );
    }

    #[test]
    fn a_pod_that_hangs_says_why() {
        let pod = json!({
            "metadata": { "namespace": "n", "name": "p", "creationTimestamp": "2026-11-22T12:00:00Z" },
            "status": { "phase": "Pending", "conditions": [
                { "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes are available: 3 Insufficient cpu." },
            ], "containerStatuses": [
                { "name": "c", "ready": false, "state": { "waiting": { "reason": "CrashLoopBackOff", "message": "back-off 10s" } },
                  "lastState": { "terminated": { "exitCode": 137, "reason": "OOMKilled" } } },
            ] },
        });
        let event = json!({ "type": "Warning", "reason": "Unhealthy", "count": 3, "message": "probe failed", "source": { "component": "agent" } });
        let text = explain(&pod, &[event]);
        for part in [
            "no node yet",
            "3 Insufficient cpu",
            "c waits: CrashLoopBackOff",
            "c ended before: OOMKilled with code 137",
            "Unhealthy by agent (3 times)",
        ] {
            assert!(text.contains(part), "{part} is not in:\n{text}");
        }
    }
}
