//! Paths between two processes, each as a ratio to two namespaces joined by a plain veth pair, in one run on one machine.

use crate::cluster::{Ground, PATIENCE, await_nodes};
use anyhow::{Context, Result};
use rig::cluster::{Cluster, Spec};
use rig::command::read;
use rig::figures::Bar::{self, AtLeast};
use rig::figures::Figures;
use rig::journal::{self, Journal, Resource, wait_for};
use rig::namespaces::{in_network, ip};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Many and short: these machines change their speed by the second, and a ratio is of two neighbours.
const RUNS: usize = 11;
const RUN_MS: &str = "500";
/// What is measured, its unit, and its bar as a ratio to the plain pair.
const KINDS: &[(&str, &str, f64)] =
    &[("connect", "connections/s", 0.95), ("rr", "round trips/s", 0.97), ("stream", "Mbit/s", 0.95)];
const PORT: u16 = 5201;
/// The plain pair: documentation addresses (RFC 5737), in namespaces that this bench makes.
const PLAIN_SERVER: &str = "192.0.2.1";
const PLAIN_CLIENT: &str = "192.0.2.2";

/// `bench net`.
pub fn run(ground: &Ground) -> Result<()> {
    std::fs::create_dir_all(&ground.clusters)?;
    let plain = ground.clusters.join("bench-plain.journal");
    journal::replay(&plain)?;
    let mut figures = Figures::begin("net", "each path beside two namespaces joined by a plain veth pair");
    let result = ground.with(2, |spec| measure(spec, &plain, &mut figures));
    let undone = journal::replay(&plain);
    result?;
    undone?;
    figures.finish()
}

/// A path's name and the client's command on it.
type Measured<'a> = (&'a str, Box<dyn Fn() -> Command + 'a>);

/// A server process that ends with the bench.
struct Beside(Child);

impl Drop for Beside {
    fn drop(&mut self) {
        // Our own child: nothing is lost when it has ended by itself.
        let _ended = self.0.kill().and_then(|()| self.0.wait());
    }
}

fn measure(spec: Spec, plain: &Path, figures: &mut Figures) -> Result<()> {
    let workload = spec.binaries.join("workload").display().to_string();
    let _server = plain_pair(&workload, plain)?;
    let cluster = Cluster::up(spec, &|_| ())?;
    let addresses = deploy(&cluster)?;
    let inside = |address: &str| {
        let mut command = cluster.kubectl(&["exec", "client", "--", "/bin/workload"]);
        command.args(["net-call", &format!("{address}:{PORT}")]);
        command
    };
    let paths: Vec<Measured<'_>> = vec![
        (
            "plain veth pair",
            Box::new(|| {
                in_network("bench-plain-b", &workload, &["net-call", &format!("{PLAIN_SERVER}:{PORT}")])
            }),
        ),
        ("pod to pod, one node", Box::new(|| inside(&addresses.near))),
        ("pod to pod, across nodes", Box::new(|| inside(&addresses.far))),
        ("pod through the ClusterIP, one node", Box::new(|| inside(&addresses.near_service))),
        ("pod through the ClusterIP, across", Box::new(|| inside(&addresses.far_service))),
    ];
    for (kind, unit, bar) in KINDS {
        // Interleaved, so that what else the machine does falls on all of them.
        let mut samples = vec![Vec::new(); paths.len()];
        for _ in 0..RUNS {
            for ((name, command), samples) in paths.iter().zip(&mut samples) {
                let text = read(command().args(["--kind", kind, "--ms", RUN_MS]))
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

fn plain_pair(workload: &str, path: &Path) -> Result<Beside> {
    let mut journal = Journal::open(path)?;
    for name in ["bench-plain-a", "bench-plain-b"] {
        journal.record(&Resource::NetworkNamespace(name.to_owned()))?;
        rig::command::run(&mut rig::command::command("ip", ["netns", "add", name]))?;
    }
    ip("bench-plain-a", "link add name v type veth peer name v netns bench-plain-b")?;
    for (name, address) in [("bench-plain-a", PLAIN_SERVER), ("bench-plain-b", PLAIN_CLIENT)] {
        ip(name, &format!("address add {address}/24 dev v"))?;
        ip(name, "link set v up")?;
    }
    let server = in_network("bench-plain-a", workload, &["net-serve"]).stdout(Stdio::null()).spawn()?;
    let server = Beside(server);
    let call = || {
        in_network("bench-plain-b", workload, &["net-call", &format!("{PLAIN_SERVER}:{PORT}"), "--ms", "1"])
    };
    wait_for(PATIENCE, || read(&mut call()).is_ok())?;
    Ok(server)
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
    for target in [&addresses.near, &addresses.far, &addresses.near_service, &addresses.far_service] {
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
