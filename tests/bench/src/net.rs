//! Paths between two processes, each as a ratio to two namespaces joined by a plain veth pair, in one run on one machine.

use crate::figures::median;
use anyhow::{Context, Result};
use rig::cluster::{self, Cluster, Routing, Spec, Store};
use rig::command::read;
use rig::journal::{self, Journal, Resource, wait_for};
use rig::namespaces::{in_network, ip};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const RUNS: usize = 3;
const KINDS: &[(&str, &str)] = &[("connect", "connections/s"), ("rr", "round trips/s"), ("stream", "Mbit/s")];
const PORT: u16 = 5201;
const PATIENCE: Duration = Duration::from_secs(120);
/// The plain pair: documentation addresses (RFC 5737), in namespaces that this bench makes.
const PLAIN_SERVER: &str = "192.0.2.1";
const PLAIN_CLIENT: &str = "192.0.2.2";

/// `bench net`.
pub fn run(binaries: &Path, clusters: &Path) -> Result<()> {
    std::fs::create_dir_all(clusters)?;
    let plain = clusters.join("bench-plain.journal");
    journal::replay(&plain)?;
    cluster::down(clusters, "bench")?;
    let result = measure(binaries, clusters, &plain);
    let (down, undone) = (cluster::down(clusters, "bench"), journal::replay(&plain));
    result?;
    down?;
    undone
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

fn measure(binaries: &Path, clusters: &Path, plain: &Path) -> Result<()> {
    let workload = binaries.join("workload").display().to_string();
    let _server = plain_pair(&workload, plain)?;
    let cluster = Cluster::up(
        Spec {
            name: "bench".to_owned(),
            nodes: 2,
            store: Store::Embedded,
            routing: Routing::Vxlan,
            binaries: binaries.to_owned(),
            clusters: clusters.to_owned(),
            flags: Vec::new(),
        },
        &|_| (),
    )?;
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
    println!("{RUNS} interleaved runs, medians; the ratio is to the plain veth pair\n");
    for (kind, unit) in KINDS {
        let mut samples = vec![Vec::new(); paths.len()];
        for _ in 0..RUNS {
            for ((name, command), samples) in paths.iter().zip(&mut samples) {
                let text =
                    read(command().args(["--kind", kind])).with_context(|| format!("{kind}, {name}"))?;
                samples.push(text.trim().parse::<f64>().with_context(|| format!("{kind}, {name}: {text}"))?);
            }
        }
        let medians: Vec<f64> = samples.into_iter().map(median).collect();
        for ((name, _), value) in paths.iter().zip(&medians) {
            println!("{:<38}{value:>10.0} {unit:<15}{:>6.2}", name, value / medians[0]);
        }
        println!();
    }
    Ok(())
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
    wait_for(PATIENCE, || {
        cluster.ask(&["get", "nodes", "-o", "name"]).is_ok_and(|names| names.lines().count() == 2)
    })?;
    cluster.ask(&["wait", "--for=condition=Ready", "node", "--all", "--timeout=60s"])?;
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
            "--",
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
