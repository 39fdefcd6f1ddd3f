//! The node's object: made at the first start, labelled, and its status kept as it should be, also when somebody else
//! (the node controller, after a silence) has written it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use client::informer::Scope;
use client::objects::rfc3339;
use client::{Client, Error, Informer, Meta, Patch};
use futures::StreamExt;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::sync::watch;
use tokio::time::Instant;

use super::facts::{self, Capacity, Pressure};
use crate::runtime::{PodRuntime, Readiness, RuntimeInfo};

/// The runtime is asked this often; a Ready node shows its failure within as long.
const CHECK: Duration = Duration::from_secs(1);
/// While it fails more often: nothing starts until it is back.
const CHECK_FIRST: Duration = Duration::from_millis(50);
/// An unchanged status is written this often, for readers of the heartbeat times: Kubernetes' number.
const REPORT_UNCHANGED: Duration = Duration::from_secs(300);
/// Pause after a failed write.
const RETRY: Duration = Duration::from_millis(500);

/// What a node says of itself.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// Its name.
    pub name: String,
    /// Its addresses, first one first.
    pub ips: Vec<IpAddr>,
    /// Labels beside those that every node has.
    pub labels: BTreeMap<String, String>,
    /// How many pods it takes.
    pub max_pods: u32,
    /// Port of its HTTPS server.
    pub port: u16,
    /// What it has.
    pub capacity: Capacity,
    /// Disk whose pressure counts.
    pub data_directory: PathBuf,
}

/// Whether the runtime can take pods, for readers within the agent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuntimeHealth {
    /// As it answered last; the default before the first answer.
    pub readiness: Readiness,
    /// Its name and version, once known.
    pub info: RuntimeInfo,
}

/// A node's object.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
struct Node {
    metadata: Meta,
    status: Value,
}

client::resource!(Node: "" / "v1" / "nodes", "Node", cluster);

/// Registers the node and keeps its status; never ends. `registered` gets the object's uid.
pub async fn keep(
    client: Client,
    config: NodeConfig,
    runtime: Arc<dyn PodRuntime>,
    health: watch::Sender<RuntimeHealth>,
    registered: watch::Sender<Option<String>>,
) {
    let mut checked = check(&*runtime).await;
    health.send_replace(checked.clone());
    let uid = register(&client, &config).await;
    registered.send_replace(Some(uid));
    let scope = Scope::all::<Node>().fields(format!("metadata.name={}", config.name));
    let own = Informer::<Node>::start_scoped(client.clone(), scope);
    let mut changes = own.subscribe();
    let mut written = Instant::now();
    let mut failing = false;
    own.synced().await;
    loop {
        let wanted = status(&config, &checked, Pressure::read(&config.data_directory));
        match own.store().find("", &config.name) {
            Some(node) => {
                let stale = written.elapsed() >= REPORT_UNCHANGED;
                if stale || !says(&node.status, &wanted) {
                    let patch = json!({"status": with_times(wanted, &node.status)});
                    let patched = client
                        .patch::<Node>(Patch::Strategic, "", &config.name, Some("status"), &patch)
                        .await;
                    match patched {
                        Ok(_) => {
                            failing = false;
                            written = Instant::now();
                        }
                        Err(error) => {
                            // An outage is told once, not with every attempt.
                            if !std::mem::replace(&mut failing, true) {
                                tracing::warn!(
                                    node = config.name,
                                    error = error.chain(),
                                    "node status not written; trying again"
                                );
                            }
                            tokio::time::sleep(RETRY).await;
                        }
                    }
                }
            }
            // Somebody deleted the node's object: a node that lives makes it again.
            None => {
                let uid = register(&client, &config).await;
                registered.send_replace(Some(uid));
            }
        }
        let ready = checked.readiness.runtime && checked.readiness.network;
        tokio::select! {
            change = changes.next() => {
                if change.is_none() {
                    return;
                }
            }
            () = tokio::time::sleep(if ready { CHECK } else { CHECK_FIRST }) => {
                let now = check(&*runtime).await;
                if now != checked {
                    let Readiness { runtime, network, message } = &now.readiness;
                    tracing::info!(runtime, network, why = message, "the readiness of the container runtime changed");
                }
                checked = now;
                health.send_if_modified(|held| std::mem::replace(held, checked.clone()) != checked);
            }
        }
    }
}

async fn check(runtime: &dyn PodRuntime) -> RuntimeHealth {
    let readiness = match runtime.readiness().await {
        Ok(readiness) => readiness,
        Err(error) => Readiness { runtime: false, network: false, message: error.to_string() },
    };
    let info =
        if readiness.runtime { runtime.info().await.unwrap_or_default() } else { RuntimeInfo::default() };
    RuntimeHealth { readiness, info }
}

/// Makes the node's object, or corrects the labels of the one that is there; answers its uid.
async fn register(client: &Client, config: &NodeConfig) -> String {
    loop {
        match try_register(client, config).await {
            Ok(node) => return node.metadata.uid.to_string(),
            Err(error) => {
                tracing::warn!(node = config.name, error = error.chain(), "node not registered yet");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

async fn try_register(client: &Client, config: &NodeConfig) -> Result<Node, Error> {
    let labels: Map<String, Value> = facts::labels(&config.name)
        .into_iter()
        .chain(config.labels.clone())
        .map(|(key, value)| (key, Value::String(value)))
        .collect();
    let metadata = json!({"name": config.name, "labels": labels});
    let patch = json!({"metadata": {"labels": labels}});
    match client.patch::<Node>(Patch::Merge, "", &config.name, None, &patch).await {
        Err(error) if error.is_not_found() => {
            let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": metadata});
            client.create::<Node>("", &node).await
        }
        other => other,
    }
}

// === what is said ===

fn status(config: &NodeConfig, health: &RuntimeHealth, pressure: Pressure) -> Value {
    let capacity = config.capacity.to_json(config.max_pods);
    let mut addresses: Vec<Value> =
        config.ips.iter().map(|ip| json!({"type": "InternalIP", "address": ip.to_string()})).collect();
    addresses.push(json!({"type": "Hostname", "address": config.name}));
    json!({
        "capacity": capacity, "allocatable": capacity, "addresses": addresses,
        "daemonEndpoints": {"kubeletEndpoint": {"Port": config.port}},
        "nodeInfo": facts::node_info(&health.info),
        "conditions": conditions(&health.readiness, pressure),
    })
}

fn conditions(readiness: &Readiness, pressure: Pressure) -> Vec<Value> {
    let plain = |kind: &str, holds: bool, bad: &str, good: &str, subject: &str| {
        let (status, reason) = if holds { ("True", bad) } else { ("False", good) };
        let message = if holds {
            format!("node is short of {subject}")
        } else {
            format!("node has sufficient {subject}")
        };
        json!({"type": kind, "status": status, "reason": reason, "message": message})
    };
    let ready = if readiness.runtime && readiness.network {
        json!({"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "agent is posting ready status"})
    } else {
        let what = if readiness.runtime {
            "container runtime network not ready"
        } else {
            "container runtime is down"
        };
        let message = format!("{what}: {}", readiness.message);
        json!({"type": "Ready", "status": "False", "reason": "KubeletNotReady", "message": message})
    };
    vec![
        plain(
            "MemoryPressure",
            pressure.memory,
            "KubeletHasInsufficientMemory",
            "KubeletHasSufficientMemory",
            "memory",
        ),
        plain(
            "DiskPressure",
            pressure.disk,
            "KubeletHasDiskPressure",
            "KubeletHasNoDiskPressure",
            "disk space",
        ),
        plain(
            "PIDPressure",
            pressure.pids,
            "KubeletHasInsufficientPID",
            "KubeletHasSufficientPID",
            "process ids",
        ),
        ready,
    ]
}

/// Whether `held` says everything that `wanted` does; times aside.
fn says(held: &Value, wanted: &Value) -> bool {
    match (held, wanted) {
        (Value::Object(held), Value::Object(wanted)) => {
            wanted.iter().all(|(key, value)| held.get(key).is_some_and(|held| says(held, value)))
        }
        // Conditions and addresses have others' entries between ours.
        (Value::Array(held), Value::Array(wanted)) => {
            wanted.iter().all(|value| held.iter().any(|held| says(held, value)))
        }
        (held, wanted) => held == wanted,
    }
}

/// Adds the times of conditions: heartbeat now, transition when the status is another than `held`'s.
fn with_times(mut wanted: Value, held: &Value) -> Value {
    let now = rfc3339(Utc::now());
    let none = Vec::new();
    let before = held["conditions"].as_array().unwrap_or(&none);
    for condition in wanted["conditions"].as_array_mut().into_iter().flatten() {
        let same = before
            .iter()
            .find(|held| held["type"] == condition["type"] && held["status"] == condition["status"]);
        let since = same.map(|held| held["lastTransitionTime"].clone()).filter(Value::is_string);
        condition["lastHeartbeatTime"] = json!(now);
        condition["lastTransitionTime"] = since.unwrap_or_else(|| json!(now));
    }
    wanted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> NodeConfig {
        NodeConfig {
            name: "node-1".into(),
            ips: vec!["192.168.0.1".parse().expect("an address")],
            labels: BTreeMap::new(),
            max_pods: 110,
            port: 10250,
            capacity: Capacity { cpus: 2, memory: 1 << 30, disk: 1 << 40 },
            data_directory: "/".into(),
        }
    }

    #[test]
    fn a_runtime_that_is_down_makes_the_node_not_ready_and_says_why() {
        let up = Readiness { runtime: true, network: true, message: String::new() };
        let down = Readiness { message: "is containerd running?".into(), ..Readiness::default() };
        let ready = |readiness: &Readiness| conditions(readiness, Pressure::default())[3].clone();
        assert_eq!(ready(&up)["status"], "True");
        let said = ready(&down);
        assert_eq!((&said["status"], &said["reason"]), (&json!("False"), &json!("KubeletNotReady")));
        assert!(said["message"].as_str().is_some_and(|text| text.contains("is containerd running?")));
    }

    #[test]
    fn only_what_differs_is_written_and_transitions_keep_their_time() {
        let health = RuntimeHealth::default();
        let wanted = status(&config(), &health, Pressure::default());
        let mut held = with_times(wanted.clone(), &Value::Null);
        held["conditions"][3]["lastTransitionTime"] = json!("2020-01-01T00:00:00Z");
        held["images"] = json!([]);
        assert!(says(&held, &wanted));
        held["conditions"][3]["status"] = json!("Unknown");
        assert!(!says(&held, &wanted));
        held["conditions"][3]["status"] = json!("False");
        let again = with_times(wanted, &held);
        assert_eq!(again["conditions"][3]["lastTransitionTime"], "2020-01-01T00:00:00Z");
    }
}
