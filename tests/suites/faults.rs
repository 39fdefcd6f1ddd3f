//! Parts of a cluster that die and come back while requests flow: containerd, etcd, the API server, a whole node.
//!
//! The promise: traffic does not notice, whoever asks is told what is wrong in bounded time, nothing that was
//! acknowledged is lost, and afterwards everything works as before.

use crate::fixture;
use crate::load::Load;
use crate::no_request_lost::{await_agent, rollout};
use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use nix::sys::signal::Signal;
use rig::cluster::Cluster;
use rig::command::output;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// A part that was started again is back at work, on two busy cores.
const BACK: Duration = Duration::from_secs(60);
/// The store is given up after 8 s; the rest is kubectl's start on a busy machine.
const ANSWER: Duration = Duration::from_secs(20);
/// The node that loses something; the server is another.
const VICTIM: usize = 3;
/// Where an agent listens when it is not told.
const AGENT_PORT: &str = "10250";

pub fn trials() -> Vec<Trial> {
    vec![
        Trial::test("faults::containerd_killed_and_back_under_load", || Ok(containerd()?)),
        Trial::test("faults::the_server_killed_under_load_loses_nothing", || Ok(server()?)),
        Trial::test("faults::an_agent_whose_port_is_taken_says_so", || Ok(port_taken()?)),
        Trial::test("faults::everything_of_a_node_killed_and_back", || Ok(node()?)),
        Trial::test("faults::etcd_silent_and_killed_under_load", || Ok(etcd()?)),
    ]
}

/// `kubectl get configmaps --watch` beside the test.
struct Watch {
    child: Child,
    names: Receiver<String>,
}

impl Watch {
    /// Returns when the list is there: the watch goes on from it, whatever is written from now on.
    fn begin(cluster: &Cluster) -> Result<Self> {
        let mut kubectl = cluster.kubectl(&["get", "configmaps", "--watch", "-o", "name"]);
        let mut child = kubectl.stdout(Stdio::piped()).spawn()?;
        let lines = BufReader::new(child.stdout.take().context("stdout is piped")?).lines();
        let (sender, names) = channel();
        // Ends with the child, or with the test when that does not listen any longer.
        std::thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| sender.send(line)));
        let watch = Self { child, names };
        watch.await_name("kube-root-ca.crt").context("the watch shows no list")?;
        Ok(watch)
    }

    fn await_name(&self, name: &str) -> Result<()> {
        let wanted = format!("configmap/{name}");
        loop {
            if self.names.recv_timeout(BACK).with_context(|| format!("{name} is not seen"))? == wanted {
                return Ok(());
            }
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // Our own child: nothing is lost when it has ended by itself.
        let _ended = self.child.kill().and_then(|()| self.child.wait());
    }
}

fn ready_condition(cluster: &Cluster, node: usize) -> Result<(String, String)> {
    let query = r#"jsonpath={range .status.conditions[?(@.type=="Ready")]}{.status}{"\n"}{.message}{end}"#;
    let text = cluster.ask(&["get", "node", &format!("node-{node}"), "-o", query])?;
    let (status, message) = text.split_once('\n').context("a node has a Ready condition")?;
    Ok((status.to_owned(), message.to_owned()))
}

fn await_ready(cluster: &Cluster, node: usize) -> Result<()> {
    rig::journal::wait_for(BACK, || ready_condition(cluster, node).is_ok_and(|(status, _)| status == "True"))
        .with_context(|| format!("node-{node} does not become Ready again"))
}

/// The shop's pods on a node: their containers and how often they were started.
fn containers(cluster: &Cluster, node: usize) -> Result<BTreeMap<String, String>> {
    let query = r#"jsonpath={range .items[*]}{.metadata.name} {.status.containerStatuses[0].containerID} {.status.containerStatuses[0].restartCount}{"\n"}{end}"#;
    let selector = format!("spec.nodeName=node-{node}");
    let text = cluster.ask(&["-n", "shop", "get", "pods", "--field-selector", &selector, "-o", query])?;
    let pods = text.lines().filter_map(|line| line.split_once(' '));
    Ok(pods.map(|(pod, container)| (pod.to_owned(), container.to_owned())).collect())
}

const NEWCOMER: &str = r#"{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "newcomer"},
    "spec": {"nodeName": "node-NODE", "terminationGracePeriodSeconds": 0,
        "containers": [{"name": "c", "image": "localhost/workload:1"}]}}"#;

fn containerd() -> Result<()> {
    let cluster = fixture::shop()?;
    let before = containers(cluster, VICTIM)?;
    ensure!(!before.is_empty(), "no pod of the shop runs on node-{VICTIM}: nothing would be shown");
    let load = Load::through_node_port(cluster, VICTIM)?;
    cluster.stop(VICTIM, "containerd")?;
    let told = without_containerd(cluster);
    cluster.start(VICTIM, "containerd")?;
    let result = told.and_then(|()| with_containerd_again(cluster)).and_then(|()| load.conclude());
    cluster.ask(&["delete", "pod", "newcomer", "--ignore-not-found", "--timeout=60s"])?;
    result?;
    let after = containers(cluster, VICTIM)?;
    ensure!(after == before, "containers were started again: {before:?}, then {after:?}");
    Ok(())
}

fn without_containerd(cluster: &Cluster) -> Result<()> {
    let told = rig::journal::wait_for(BACK, || {
        ready_condition(cluster, VICTIM).is_ok_and(|(status, message)| {
            status == "False" && message.contains("containerd.sock") && message.contains("containerd running")
        })
    });
    told.with_context(|| {
        format!("the node does not say that containerd is down: {:?}", ready_condition(cluster, VICTIM))
    })?;
    fixture::apply(cluster, &NEWCOMER.replace("NODE", &VICTIM.to_string()))?;
    rig::journal::wait_for(BACK, || {
        cluster.ask(&["describe", "pod", "newcomer"]).is_ok_and(|text| text.contains("containerd.sock"))
    })
    .context("the new pod's events do not say what it waits for")
}

fn with_containerd_again(cluster: &Cluster) -> Result<()> {
    cluster.ask(&["wait", "--for=condition=Ready", "pod/newcomer", "--timeout=60s"])?;
    await_ready(cluster, VICTIM)?;
    let query = "jsonpath={.status.containerStatuses[0].restartCount}";
    let restarts = cluster.ask(&["get", "pod", "newcomer", "-o", query])?;
    ensure!(restarts == "0", "the new pod was restarted {restarts} times");
    let socket = cluster.layout.node(VICTIM).containerd_socket().display().to_string();
    let mut list = cluster.on_node(VICTIM, "ctr", &["--address", &socket, "-n", "k8s.io"]);
    list.args(["containers", "list", r#"labels."io.kubernetes.pod.name"==newcomer"#, "--quiet"]);
    let ids = rig::command::read(&mut list)?;
    ensure!(ids.lines().count() == 2, "a pod is a sandbox and a container, not {ids}");
    Ok(())
}

fn write(cluster: &Cluster, name: &str) -> Result<()> {
    cluster.ask(&["create", "configmap", name, "--from-literal=k=v"]).map(drop)
}

fn server() -> Result<()> {
    let cluster = fixture::shop()?;
    let before: Vec<_> = (1..=3).map(|node| containers(cluster, node)).collect::<Result<_>>()?;
    let in_pod = Load::through_cluster_ip(cluster, 2)?;
    let outside = Load::through_node_port(cluster, VICTIM)?;
    for number in 0..2 {
        let name = format!("before-kill-{number}");
        write(cluster, &name)?;
        cluster.kill_and_await_restart(1, "bowsprit")?;
        rig::journal::wait_for(BACK, || cluster.ask(&["get", "configmap", &name]).is_ok())
            .with_context(|| format!("{name} was acknowledged and is gone, or the API does not come back"))?;
        cluster.ask(&["delete", "configmap", &name])?;
    }
    outside.conclude()?;
    in_pod.conclude()?;
    (1..=3).try_for_each(|node| await_ready(cluster, node))?;
    let after: Vec<_> = (1..=3).map(|node| containers(cluster, node)).collect::<Result<_>>()?;
    ensure!(after == before, "containers were started again: {before:?}, then {after:?}");
    rollout(cluster).context("after the server's restarts")
}

/// The agent's port is taken when it starts again: it says by whom it may be and what to do, and comes back once the port is
/// free; its pods serve meanwhile.
fn port_taken() -> Result<()> {
    let cluster = fixture::shop()?;
    let before = containers(cluster, VICTIM)?;
    let load = Load::through_cluster_ip(cluster, VICTIM)?;
    cluster.stop(VICTIM, "bowsprit")?;
    let log = cluster.layout.node(VICTIM).log("bowsprit");
    let read = || std::fs::read_to_string(&log).unwrap_or_default();
    let lines_before = read().lines().count();
    let workload = cluster.spec.binaries.join("workload");
    let mut taker = cluster.on_node(VICTIM, &workload.to_string_lossy(), &["serve", "--port", AGENT_PORT]);
    let mut taker = taker.stdout(Stdio::piped()).spawn()?;
    let said = (|| {
        let mut first = String::new();
        let stdout = taker.stdout.take().context("stdout is piped")?;
        BufReader::new(stdout).read_line(&mut first).context("the port is not taken")?;
        let taken = first.contains("listens");
        cluster.start(VICTIM, "bowsprit")?;
        ensure!(taken, "the port is not taken: {first}");
        let complains = |line: &str| {
            ["cannot listen on", AGENT_PORT, "--agent-port"].iter().all(|part| line.contains(part))
        };
        rig::journal::wait_for(BACK, || read().lines().skip(lines_before).any(complains))
            .with_context(|| format!("the agent does not say that its port is taken: {}", read()))
    })();
    // Our own child, by its handle.
    taker.kill().and_then(|()| taker.wait())?;
    said?;
    await_agent(cluster, VICTIM)?;
    load.conclude()?;
    let after = containers(cluster, VICTIM)?;
    ensure!(after == before, "containers were started again: {before:?}, then {after:?}");
    Ok(())
}

/// All processes of a node die at once, its pods' too, and the node starts again before anybody gives up on it for good.
fn node() -> Result<()> {
    let cluster = fixture::shop()?;
    ensure!(!containers(cluster, VICTIM)?.is_empty(), "no pod runs on node-{VICTIM}: nothing would be shown");
    cluster.power_off(VICTIM)?;
    cluster.power_on(VICTIM)?;
    await_ready(cluster, VICTIM)?;
    for tier in ["web", "api", "db"] {
        let deployment = format!("deployment/{tier}");
        cluster.ask(&["-n", "shop", "rollout", "status", &deployment, "--timeout=60s"])?;
    }
    let street = ["-n", "street", "wait", "--for=condition=Ready", "pod", "--all", "--timeout=60s"];
    cluster.ask(&street).context("the strangers do not come back")?;
    fixture::apply(cluster, &NEWCOMER.replace("NODE", &VICTIM.to_string()))?;
    let started = cluster.ask(&["wait", "--for=condition=Ready", "pod/newcomer", "--timeout=60s"]);
    cluster.ask(&["delete", "pod", "newcomer", "--timeout=60s"])?;
    started.context("the node that is back starts no pod")?;
    let rows = rig::shop::probe(cluster)?;
    let wrong: Vec<_> = rows.iter().filter(|row| !row.is_as_expected()).collect();
    ensure!(wrong.is_empty(), "the table is not as the policies say: {wrong:?}");
    Ok(())
}

/// What kubectl says of a failure, and that it does so in time.
fn complaint(cluster: &Cluster, words: &[&str]) -> Result<String> {
    let began = Instant::now();
    let output = output(&mut cluster.kubectl(words))?;
    let took = began.elapsed();
    ensure!(!output.status.success(), "`kubectl {}` succeeds while etcd is away", words.join(" "));
    ensure!(took < ANSWER, "`kubectl {}` answered after {took:?}", words.join(" "));
    Ok(String::from_utf8_lossy(&output.stderr).into_owned())
}

fn etcd() -> Result<()> {
    const URL: &str = "etcd at https://127.0.0.1:2379";
    let cluster = fixture::over_etcd()?;
    let watch = Watch::begin(cluster)?;
    write(cluster, "before-outage")?;
    watch.await_name("before-outage").context("a watch does not show a write")?;
    let in_pod = Load::through_cluster_ip(cluster, 1)?;

    let process = cluster.process(1, "etcd").context("etcd does not run")?;
    process.signal(Signal::SIGSTOP);
    let silent = (|| {
        let read = complaint(cluster, &["get", "configmap", "before-outage"])?;
        ensure!(read.contains("does not answer") && read.contains(URL), "a silent etcd, read: {read}");
        let written = complaint(cluster, &["create", "configmap", "during-silence"])?;
        ensure!(
            written.contains("outcome is unknown") && written.contains(URL),
            "a silent etcd, write: {written}"
        );
        Ok(())
    })();
    process.signal(Signal::SIGCONT);
    silent?;

    cluster.stop(1, "etcd")?;
    let read = complaint(cluster, &["get", "configmap", "before-outage"])?;
    ensure!(read.contains("refused") && read.contains(URL) && read.contains("check that it runs"), "{read}");
    let written = complaint(cluster, &["create", "configmap", "during-outage"])?;
    ensure!(written.contains("the store is unavailable") && written.contains(URL), "{written}");
    let health = complaint(cluster, &["get", "--raw", "/readyz"])?;
    ensure!(health.contains("store failed"), "{health}");
    cluster.start(1, "etcd")?;
    rig::journal::wait_for(BACK, || cluster.ask(&["get", "configmap", "before-outage"]).is_ok())
        .context("what was acknowledged is gone, or the API does not come back")?;
    write(cluster, "after-outage")?;
    watch.await_name("after-outage").context("the watch does not go on after the outage")?;
    ensure!(
        cluster.ask(&["get", "configmap", "during-outage"]).is_err(),
        "a write that was refused happened all the same"
    );
    rollout(cluster).context("after the outage")?;
    in_pod.conclude()?;
    cluster
        .ask(&[
            "delete",
            "configmap",
            "before-outage",
            "after-outage",
            "during-silence",
            "--ignore-not-found",
        ])
        .map(drop)
}
