//! An agent that is away while the cluster changes: its node serves as it was told last; once the agent is back, the node is
//! as the objects say, and what nobody touched was not touched.

use crate::fixture;
use crate::no_request_lost::await_agent;
use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use rig::cluster::Cluster;
use std::collections::BTreeSet;
use std::time::Duration;

/// The node whose agent is away; the server is another.
const AWAY: usize = 2;
/// An agent that was started again has caught up by then, on two busy cores.
const CAUGHT_UP: Duration = Duration::from_secs(60);
/// A dropped packet is no answer within this.
const CALL_MS: &str = "1000";
/// How the names of pods' devices begin, and no other's.
const POD_DEVICE: &str = "bw";

pub fn trials() -> Vec<Trial> {
    vec![Trial::test("absence::an_agent_catches_up_with_what_changed", || Ok(catch_up()?))]
}

/// A pod that serves, and stays where it is while its node is not heard.
fn pod(name: &str, node: usize) -> String {
    format!(
        r#"{{"apiVersion": "v1", "kind": "Pod", "metadata": {{"name": "{name}", "labels": {{"app": "{name}"}}}},
            "spec": {{"nodeName": "node-{node}", "terminationGracePeriodSeconds": 0,
                "tolerations": [{{"operator": "Exists"}}],
                "containers": [{{"name": "c", "image": "localhost/workload:1"}}]}}}}
        "#
    )
}

/// Nobody may call `stays` any longer.
const CLOSED: &str = r#"{"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "closed"},
    "spec": {"podSelector": {"matchLabels": {"app": "stays"}}, "policyTypes": ["Ingress"]}}"#;

fn catch_up() -> Result<()> {
    let cluster = fixture::make_ready(fixture::spec("away", 2))?;
    let manifest: Vec<String> =
        [("asks", 1), ("stays", AWAY), ("goes", AWAY)].iter().map(|(name, node)| pod(name, *node)).collect();
    fixture::apply(&cluster, &manifest.concat())?;
    cluster.ask(&["wait", "--for=condition=Ready", "pod", "--all", "--timeout=60s"])?;
    let stays = container(&cluster, "stays")?;
    let devices = pod_devices(&cluster)?;
    ensure!(devices.len() == 2, "two pods run on node-{AWAY}, and their devices are {devices:?}");
    ensure!(reaches(&cluster, "stays")? && reaches(&cluster, "goes")?, "the pods do not answer");

    cluster.stop(AWAY, "bowsprit")?;
    cluster.ask(&["delete", "pod", "goes", "--force", "--grace-period=0"])?;
    fixture::apply(&cluster, CLOSED)?;
    fixture::apply(&cluster, &pod("comes", AWAY))?;
    ensure!(reaches(&cluster, "stays")?, "a pod does not answer while its node's agent is away");
    cluster.start(AWAY, "bowsprit")?;
    await_agent(&cluster, AWAY)?;

    cluster.ask(&["wait", "--for=condition=Ready", "pod/comes", "--timeout=60s"])?;
    ensure!(reaches(&cluster, "comes")?, "the pod that was made meanwhile does not answer");
    rig::journal::wait_for(CAUGHT_UP, || reaches(&cluster, "stays").is_ok_and(|answers| !answers))
        .context("the policy that was made meanwhile does not hold")?;
    rig::journal::wait_for(CAUGHT_UP, || {
        containers_of(&cluster, "goes").is_ok_and(|ids| ids.is_empty())
            && pod_devices(&cluster).is_ok_and(|now| now.len() == 2)
    })
    .with_context(|| {
        let (ids, now) = (containers_of(&cluster, "goes"), pod_devices(&cluster));
        format!("the pod that was deleted meanwhile leaves containers {ids:?}; of devices {devices:?}, now {now:?}")
    })?;
    let kept = pod_devices(&cluster)?.intersection(&devices).count();
    ensure!(kept == 1, "{kept} of two devices are still there, not that of `stays` alone");
    let after = container(&cluster, "stays")?;
    ensure!(after == stays, "a pod that nobody touched was started again: {stays}, then {after}");
    Ok(())
}

/// Whether the pod answers a pod of another node.
fn reaches(cluster: &Cluster, name: &str) -> Result<bool> {
    let address = cluster.ask(&["get", "pod", name, "-o", "jsonpath={.status.podIP}"])?;
    let url = format!("http://{address}:8080/");
    Ok(cluster.ask(&["exec", "asks", "--", "/bin/workload", "call", &url, "--timeout-ms", CALL_MS]).is_ok())
}

/// The container of a pod, and how often it was started.
fn container(cluster: &Cluster, name: &str) -> Result<String> {
    let query =
        "jsonpath={.status.containerStatuses[0].containerID} {.status.containerStatuses[0].restartCount}";
    cluster.ask(&["get", "pod", name, "-o", query])
}

/// What the runtime has of a pod on the node: its sandbox and its container.
fn containers_of(cluster: &Cluster, name: &str) -> Result<Vec<String>> {
    let socket = cluster.layout.node(AWAY).containerd_socket().display().to_string();
    let mut list = cluster.on_node(AWAY, "ctr", &["--address", &socket, "-n", "k8s.io"]);
    let filter = format!(r#"labels."io.kubernetes.pod.name"=={name}"#);
    let ids = rig::command::read(list.args(["containers", "list", &filter, "--quiet"]))?;
    Ok(ids.lines().map(str::to_owned).collect())
}

/// The node's ends of its pods' pairs, whose names are those of their sandboxes.
fn pod_devices(cluster: &Cluster) -> Result<BTreeSet<String>> {
    let links =
        rig::command::read(&mut cluster.on_node(AWAY, "ip", &["-o", "link", "show", "type", "veth"]))?;
    let names = links.lines().filter_map(|line| line.split(": ").nth(1));
    Ok(names.filter(|name| name.starts_with(POD_DEVICE)).map(str::to_owned).collect())
}
