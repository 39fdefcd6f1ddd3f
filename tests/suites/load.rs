//! Open-loop load on the shop: new connections at a steady rate, each with one request, until the test has seen enough; then
//! the tally.

use crate::fixture;
use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rig::cluster::Cluster;
use rig::shop::WEB_NODE_PORT;
use serde_json::Value;
use std::process::{Child, Stdio};
use std::time::Duration;

/// New connections per second.
const RATE: &str = "500";
/// It ends by itself after this many seconds, should the test not end it.
const SECONDS_MAX: &str = "300";
/// Far above what a starved machine makes of a handshake, so that what fails here was lost, not late.
const TIMEOUT_MS: &str = "10000";
/// From being told to end until the last answer is there or given up, on a busy machine.
const END: Duration = Duration::from_secs(30);

/// A load that runs beside the test. It hangs on nothing that a test may kill: through the ClusterIP it runs in a pod by itself,
/// through a NodePort as a process outside the cluster.
pub(crate) struct Load<'a> {
    cluster: &'a Cluster,
    place: Place,
}

enum Place {
    /// A pod of this name.
    Pod(String),
    /// Our own child.
    Outside(Option<Child>),
}

impl<'a> Load<'a> {
    /// Starts a pod on `node` that calls the ClusterIP of `web`; returns when it runs.
    pub(crate) fn through_cluster_ip(cluster: &'a Cluster, node: usize) -> Result<Self> {
        let name = format!("load-{node}");
        let address =
            cluster.ask(&["-n", "shop", "get", "service", "web", "-o", "jsonpath={.spec.clusterIP}"])?;
        let manifest = format!(
            r#"{{"apiVersion": "v1", "kind": "Pod", "metadata": {{"name": "{name}", "namespace": "street"}},
                "spec": {{"nodeName": "node-{node}", "restartPolicy": "Never", "terminationGracePeriodSeconds": 0,
                    "containers": [{{"name": "load", "image": "localhost/workload:1", "command": ["/bin/workload",
                        "load", "http://{address}/", "--rate", "{RATE}", "--seconds", "{SECONDS_MAX}",
                        "--timeout-ms", "{TIMEOUT_MS}"]}}]}}}}"#
        );
        let load = Self { cluster, place: Place::Pod(name.clone()) };
        fixture::apply(cluster, &manifest)?;
        let pod = format!("pod/{name}");
        cluster.ask(&["-n", "street", "wait", "--for=condition=Ready", &pod, "--timeout=60s"])?;
        Ok(load)
    }

    /// Starts a process outside the cluster that calls the NodePort of `web` on `node`.
    pub(crate) fn through_node_port(cluster: &'a Cluster, node: usize) -> Result<Self> {
        let workload = cluster.spec.binaries.join("workload");
        let url = format!("http://{}:{WEB_NODE_PORT}/", cluster.layout.node(node).address);
        let words = ["load", &url, "--rate", RATE, "--seconds", SECONDS_MAX, "--timeout-ms", TIMEOUT_MS];
        let mut command = cluster.outside(&workload.to_string_lossy(), &words);
        let child =
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().context("cannot start the load")?;
        Ok(Self { cluster, place: Place::Outside(Some(child)) })
    }

    /// Ends the load and requires that nothing failed.
    pub(crate) fn conclude(mut self) -> Result<()> {
        match &mut self.place {
            Place::Pod(name) => {
                let words = ["-n", "street", "exec", name.as_str(), "--", "/bin/workload", "end"];
                self.cluster.ask(&words).context("cannot end the load")?;
                let phase = || {
                    let words =
                        ["-n", "street", "get", "pod", name.as_str(), "-o", "jsonpath={.status.phase}"];
                    self.cluster.ask(&words).unwrap_or_default()
                };
                rig::journal::wait_for(END, || matches!(phase().as_str(), "Succeeded" | "Failed"))
                    .context("the load does not end")?;
                judge(&self.cluster.ask(&["-n", "street", "logs", name])?, "", "through the ClusterIP")
            }
            Place::Outside(child) => {
                let child = child.take().context("it is concluded once")?;
                terminate(&child)?;
                let output = child.wait_with_output()?;
                let said = String::from_utf8_lossy(&output.stderr);
                judge(&String::from_utf8_lossy(&output.stdout), &said, "through the NodePort")
            }
        }
    }
}

impl Drop for Load<'_> {
    fn drop(&mut self) {
        let ended = match &mut self.place {
            Place::Pod(name) => self
                .cluster
                .ask(&["-n", "street", "delete", "pod", name, "--now", "--ignore-not-found", "--timeout=60s"])
                .map(drop),
            Place::Outside(Some(child)) => {
                child.kill().and_then(|()| child.wait()).map(drop).map_err(Into::into)
            }
            Place::Outside(None) => Ok(()),
        };
        if let Err(error) = ended {
            eprintln!("cannot end a load: {error:#}");
        }
    }
}

fn terminate(child: &Child) -> Result<()> {
    let pid = i32::try_from(child.id()).context("a pid is a positive i32")?;
    kill(Pid::from_raw(pid), Signal::SIGTERM).context("cannot end the load")
}

/// One message: of a chain of errors the harness prints the outermost only.
fn judge(text: &str, complaint: &str, what: &str) -> Result<()> {
    let Ok(tally) = serde_json::from_str::<Value>(text.lines().last().unwrap_or_default()) else {
        bail!("the load {what} printed no tally: {text} {complaint}");
    };
    ensure!(tally["requests"].as_u64() > Some(0), "the load {what} made no requests {complaint}");
    if tally["failed"] != 0 {
        return Err(anyhow!("requests failed {what}: {tally} {complaint}"));
    }
    println!("    {what}: {tally}");
    Ok(())
}
