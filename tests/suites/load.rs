//! Open-loop load on the shop: new connections at a steady rate, each with one request, tallied at the end.

use crate::fixture;
use anyhow::{Context, Result, anyhow, bail, ensure};
use rig::cluster::Cluster;
use rig::shop::WEB_NODE_PORT;
use serde_json::Value;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// New connections per second.
const RATE: u32 = 500;
/// Far above what a starved machine makes of a handshake, so that what fails here was lost, not late.
const TIMEOUT_MS: &str = "5000";

/// A load that runs beside the test.
pub(crate) struct Load {
    child: Child,
    what: &'static str,
}

impl Load {
    fn begin(mut command: Command, what: &'static str) -> Result<Self> {
        let child =
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().context("cannot start the load")?;
        Ok(Self { child, what })
    }

    pub(crate) fn through_cluster_ip(cluster: &Cluster, seconds: u32) -> Result<Self> {
        let address =
            cluster.ask(&["-n", "shop", "get", "service", "web", "-o", "jsonpath={.spec.clusterIP}"])?;
        let mut command =
            cluster.kubectl(&["-n", "street", "exec", "visitor", "--", "/bin/workload", "load"]);
        command.args([
            &format!("http://{address}/"),
            "--rate",
            &RATE.to_string(),
            "--seconds",
            &seconds.to_string(),
            "--timeout-ms",
            TIMEOUT_MS,
        ]);
        Self::begin(command, "through the ClusterIP")
    }

    pub(crate) fn through_node_port(cluster: &Cluster, node: usize, seconds: u32) -> Result<Self> {
        let workload = cluster.spec.binaries.join("workload");
        let url = format!("http://{}:{WEB_NODE_PORT}/", cluster.layout.node(node).address);
        let (rate, seconds) = (RATE.to_string(), seconds.to_string());
        let words = ["load", &url, "--rate", &rate, "--seconds", &seconds, "--timeout-ms", TIMEOUT_MS];
        let command = cluster.outside(&workload.to_string_lossy(), &words);
        Self::begin(command, "through the NodePort")
    }

    pub(crate) fn runs(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits for the end of the load and requires that nothing failed.
    pub(crate) fn conclude(self) -> Result<()> {
        let output = self.child.wait_with_output()?;
        let (text, complaint) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        // One message: of a chain the harness prints the outermost only.
        judge(&text, self.what).map_err(|error| anyhow!("{error:#} {complaint}"))
    }
}

/// A load that runs in a pod by itself: no connection through the API carries it, so the API may go away meanwhile.
pub(crate) struct LoadPod<'a> {
    cluster: &'a Cluster,
    name: String,
    seconds: u32,
    began: Instant,
}

impl<'a> LoadPod<'a> {
    /// Starts it on `node`, towards the ClusterIP of `web`; returns when it runs.
    pub(crate) fn begin(cluster: &'a Cluster, node: usize, seconds: u32) -> Result<Self> {
        let name = format!("load-{node}");
        let address =
            cluster.ask(&["-n", "shop", "get", "service", "web", "-o", "jsonpath={.spec.clusterIP}"])?;
        let manifest = format!(
            r#"{{"apiVersion": "v1", "kind": "Pod", "metadata": {{"name": "{name}", "namespace": "street"}},
                "spec": {{"nodeName": "node-{node}", "restartPolicy": "Never", "terminationGracePeriodSeconds": 0,
                    "containers": [{{"name": "load", "image": "localhost/workload:1", "command": ["/bin/workload",
                        "load", "http://{address}/", "--rate", "{RATE}", "--seconds", "{seconds}",
                        "--timeout-ms", "{TIMEOUT_MS}"]}}]}}}}"#
        );
        fixture::apply(cluster, &manifest)?;
        let pod = format!("pod/{name}");
        cluster.ask(&["-n", "street", "wait", "--for=condition=Ready", &pod, "--timeout=30s"])?;
        Ok(Self { cluster, name, seconds, began: Instant::now() })
    }

    /// Waits for the end of the load and requires that nothing failed.
    pub(crate) fn conclude(self) -> Result<()> {
        let rest = Duration::from_secs(u64::from(self.seconds) + 30).saturating_sub(self.began.elapsed());
        let phase = || {
            let words = ["-n", "street", "get", "pod", &self.name, "-o", "jsonpath={.status.phase}"];
            self.cluster.ask(&words).unwrap_or_default()
        };
        rig::journal::wait_for(rest, || matches!(phase().as_str(), "Succeeded" | "Failed"))
            .context("the load does not end")?;
        judge(&self.cluster.ask(&["-n", "street", "logs", &self.name])?, "through the ClusterIP")
    }
}

impl Drop for LoadPod<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.cluster.ask(&["-n", "street", "delete", "pod", &self.name, "--now"]) {
            eprintln!("cannot delete the load's pod: {error:#}");
        }
    }
}

fn judge(text: &str, what: &str) -> Result<()> {
    let Ok(tally) = serde_json::from_str::<Value>(text.lines().last().unwrap_or_default()) else {
        bail!("the load {what} printed no tally: {text}");
    };
    ensure!(tally["requests"].as_u64() > Some(0), "the load {what} made no requests");
    ensure!(tally["failed"] == 0, "requests failed {what}: {tally}");
    println!("    {what}: {tally}");
    Ok(())
}
