//! Paths between two processes, each as a ratio to a plain veth pair, in one run on one machine.
//!
//! The plain pair joins the namespaces of the same two pods, so that the same processes in the same cgroups talk over it:
//! what differs is the path alone.

use crate::cluster::{Ground, PATIENCE, await_nodes};
use anyhow::{Context, Result};
use rig::cluster::{Cluster, Spec};
use rig::command::{command, read, run as execute};
use rig::figures::Bar::{self, AtLeast};
use rig::figures::Figures;
use rig::journal::wait_for;

/// Many and short: these machines change their speed by the second, and a ratio is of two neighbours.
const RUNS: usize = 11;
const RUN_MS: &str = "500";
/// What is measured, its unit, and its bar as a ratio to the plain pair.
const KINDS: &[(&str, &str, f64)] =
    &[("connect", "connections/s", 0.95), ("rr", "round trips/s", 0.97), ("stream", "Mbit/s", 0.95)];
const PORT: u16 = 5201;
/// The plain pair's addresses: documentation's (RFC 5737), in the pods' namespaces only.
const PLAIN_SERVER: &str = "192.0.2.1";
const PLAIN_CLIENT: &str = "192.0.2.2";

/// `bench net`.
pub fn run(ground: &Ground) -> Result<()> {
    let mut figures = Figures::begin("net", "each path beside a plain veth pair between the same pods");
    ground.with(2, |spec| measure(spec, &mut figures))?;
    figures.finish()
}

fn measure(spec: Spec, figures: &mut Figures) -> Result<()> {
    let cluster = Cluster::up(spec, &|_| ())?;
    let addresses = deploy(&cluster)?;
    let inside = |address: &str| {
        let mut command = cluster.kubectl(&["exec", "client", "--", "/bin/workload"]);
        command.args(["net-call", &format!("{address}:{PORT}")]);
        command
    };
    let paths = [
        ("plain veth pair", PLAIN_SERVER),
        ("pod to pod, one node", &addresses.near),
        ("pod to pod, across nodes", &addresses.far),
        ("pod through the ClusterIP, one node", &addresses.near_service),
        ("pod through the ClusterIP, across", &addresses.far_service),
    ];
    for (kind, unit, bar) in KINDS {
        // Interleaved, so that what else the machine does falls on all of them.
        let mut samples = vec![Vec::new(); paths.len()];
        for _ in 0..RUNS {
            for ((name, address), samples) in paths.iter().zip(&mut samples) {
                let text = read(inside(address).args(["--kind", kind, "--ms", RUN_MS]))
                    .with_context(|| format!("{kind}, {name}"))?;
                samples.push(text.trim().parse::<f64>().with_context(|| format!("{kind}, {name}: {text}"))?);
            }
        }
        for ((name, _), of_path) in paths.iter().zip(&samples) {
            figures.add(&format!("{kind}: {name}"), unit, of_path, None);
        }
        for ((name, _), of_path) in paths.iter().zip(&samples).skip(1) {
            let ratios: Vec<f64> =
                of_path.iter().zip(&samples[0]).map(|(ours, plain)| ours / plain).collect();
            figures.add(&format!("{kind}: {name}"), "of plain", &ratios, bar_of(name, *bar));
        }
    }
    Ok(())
}

/// Across nodes a packet is encapsulated and crosses a bridge, which the plain pair does not: there is no bar for that.
fn bar_of(path: &str, bar: f64) -> Option<Bar> {
    (!path.contains("across")).then_some(AtLeast(bar))
}

/// Joins the two pods by a pair of devices that nobody else knows of; it goes with the pods.
fn join_plainly(cluster: &Cluster) -> Result<()> {
    let (server, client) = (process_of(cluster, "near")?, process_of(cluster, "client")?);
    let ip = |pid: &str, words: &str| {
        let words = words.split(' ').map(str::to_owned);
        execute(command("nsenter", ["--target", pid, "--net", "ip"]).args(words))
    };
    ip(&server, &format!("link add name plain type veth peer name plain netns {client}"))?;
    for (pid, address) in [(&server, PLAIN_SERVER), (&client, PLAIN_CLIENT)] {
        ip(pid, &format!("address add {address}/24 dev plain"))?;
        ip(pid, "link set plain up")?;
    }
    Ok(())
}

/// The process of a pod on node-1.
fn process_of(cluster: &Cluster, pod: &str) -> Result<String> {
    let socket = cluster.layout.node(1).containerd_socket().display().to_string();
    let ctr = |words: &[&str]| {
        let mut ctr = cluster.on_node(1, "ctr", &["--address", &socket, "--namespace", "k8s.io"]);
        read(ctr.args(words))
    };
    let filter =
        format!(r#"labels."io.kubernetes.pod.name"=={pod},labels."io.cri-containerd.kind"==container"#);
    let id = ctr(&["containers", "list", "--quiet", &filter])?;
    let tasks = ctr(&["tasks", "list"])?;
    let task = tasks
        .lines()
        .map(str::split_whitespace)
        .find_map(|mut words| words.next().filter(|task| *task == id.trim()).and_then(|_| words.next()));
    task.map(str::to_owned).with_context(|| format!("{pod} has no process: {tasks}"))
}

struct Addresses {
    near: String,
    far: String,
    near_service: String,
    far_service: String,
}

fn deploy(cluster: &Cluster) -> Result<Addresses> {
    await_nodes(cluster)?;
    let pod = |name: &str, node: &str| -> Result<()> {
        let overrides = format!(r#"{{"spec":{{"nodeName":"{node}"}}}}"#);
        let labels = format!("app={name}");
        let words = [
            "run",
            name,
            "--image=localhost/workload:1",
            "--labels",
            &labels,
            "--overrides",
            &overrides,
            "--command",
            "--",
            "/bin/workload",
            "net-serve",
        ];
        cluster.ask(&words).map(drop)
    };
    pod("client", "node-1")?;
    pod("near", "node-1")?;
    pod("far", "node-2")?;
    cluster.ask(&["wait", "--for=condition=Ready", "pod", "--all", "--timeout=60s"])?;
    for name in ["near", "far"] {
        cluster.ask(&["expose", "pod", name, &format!("--port={PORT}")])?;
    }
    let address = |kind: &str, name: &str, path: &str| {
        cluster.ask(&["get", kind, name, "-o", &format!("jsonpath={{{path}}}")])
    };
    let addresses = Addresses {
        near: address("pod", "near", ".status.podIP")?,
        far: address("pod", "far", ".status.podIP")?,
        near_service: address("service", "near", ".spec.clusterIP")?,
        far_service: address("service", "far", ".spec.clusterIP")?,
    };
    join_plainly(cluster)?;
    let plain = PLAIN_SERVER.to_owned();
    let all = [&plain, &addresses.near, &addresses.far, &addresses.near_service, &addresses.far_service];
    for target in all {
        let call = || {
            cluster.ask(&[
                "exec",
                "client",
                "--",
                "/bin/workload",
                "net-call",
                &format!("{target}:{PORT}"),
                "--ms",
                "1",
            ])
        };
        wait_for(PATIENCE, || call().is_ok()).with_context(|| format!("{target} does not answer"))?;
    }
    Ok(addresses)
}
