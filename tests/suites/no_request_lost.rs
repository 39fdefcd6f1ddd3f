//! The promise that a rolling update, an agent that is killed and a node's restart lose no request.
//!
//! The load is open-loop: 500 new connections a second, each with one request, through the ClusterIP from a pod and
//! through the NodePort from outside the cluster, with the shop's policies in force.

use crate::fixture;
use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use rig::cluster::Cluster;
use rig::shop::WEB_NODE_PORT;
use serde_json::Value;
use std::process::{Child, Command, Stdio};

const RATE: u32 = 500;
/// Far above what a starved machine makes of a handshake, so that what fails here was lost, not late.
const TIMEOUT_MS: &str = "5000";
const ROLLOUTS: usize = 5;
/// Of these, the one during which an agent is killed.
const KILL_DURING: usize = 2;

pub fn trials() -> Vec<Trial> {
    vec![
        Trial::test("no_request_lost::five_rolling_updates_and_a_killed_agent_under_load", || {
            Ok(rolling_updates()?)
        }),
        Trial::test("no_request_lost::an_agent_killed_under_load_loses_nothing", || Ok(agent_killed()?)),
        Trial::test("no_request_lost::pods_that_exit_at_once_on_sigterm_get_no_new_connection", || {
            Ok(exit_at_once()?)
        }),
    ]
}

/// A load that runs beside the test.
struct Load {
    child: Child,
    what: &'static str,
}

impl Load {
    fn begin(mut command: Command, what: &'static str) -> Result<Self> {
        let child =
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().context("cannot start the load")?;
        Ok(Self { child, what })
    }

    fn through_cluster_ip(cluster: &Cluster, seconds: u32) -> Result<Self> {
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

    fn through_node_port(cluster: &Cluster, node: usize, seconds: u32) -> Result<Self> {
        let workload = cluster.spec.binaries.join("workload");
        let url = format!("http://{}:{WEB_NODE_PORT}/", cluster.layout.node(node).address);
        let (rate, seconds) = (RATE.to_string(), seconds.to_string());
        let words = ["load", &url, "--rate", &rate, "--seconds", &seconds, "--timeout-ms", TIMEOUT_MS];
        let command = cluster.outside(&workload.to_string_lossy(), &words);
        Self::begin(command, "through the NodePort")
    }

    fn runs(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits for the end of the load and requires that nothing failed.
    fn conclude(self) -> Result<()> {
        let output = self.child.wait_with_output()?;
        let (text, complaint) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let tally: Value = serde_json::from_str(text.lines().last().unwrap_or_default())
            .with_context(|| format!("the load {} printed no tally: {text}{complaint}", self.what))?;
        ensure!(tally["requests"].as_u64() > Some(0), "the load {} made no requests", self.what);
        ensure!(tally["failed"] == 0, "requests failed {}: {tally}", self.what);
        println!("    {}: {tally}", self.what);
        Ok(())
    }
}

fn rollout(cluster: &Cluster) -> Result<()> {
    cluster.ask(&["-n", "shop", "rollout", "restart", "deployment/web"])?;
    cluster.ask(&["-n", "shop", "rollout", "status", "deployment/web", "--timeout=60s"]).map(drop)
}

/// One way after the other: both at once are more than two cores carry beside the cluster itself.
fn rolling_updates() -> Result<()> {
    let cluster = fixture::shop()?;
    let seconds = 45;
    roll_under(cluster, Load::through_cluster_ip(cluster, seconds)?)?;
    roll_under(cluster, Load::through_node_port(cluster, 2, seconds)?)
}

fn roll_under(cluster: &Cluster, mut load: Load) -> Result<()> {
    for number in 0..ROLLOUTS {
        ensure!(load.runs(), "the load ended before rollout {number}: it was to last longer");
        if number == KILL_DURING {
            cluster.kill_and_await_restart(3, "bowsprit")?;
        }
        rollout(cluster).with_context(|| format!("rollout {number}"))?;
    }
    load.conclude()
}

fn agent_killed() -> Result<()> {
    let cluster = fixture::shop()?;
    let loads = [Load::through_cluster_ip(cluster, 15)?, Load::through_node_port(cluster, 3, 15)?];
    for node in [2, 3, 2] {
        cluster.kill_and_await_restart(node, "bowsprit")?;
        std::thread::sleep(std::time::Duration::from_secs(3));
    }
    loads.into_iter().try_for_each(Load::conclude)
}

fn exit_at_once() -> Result<()> {
    let cluster = fixture::shop()?;
    let patch = |arguments: &str| {
        let patch = format!(
            r#"{{"spec":{{"template":{{"spec":{{"containers":[{{"name":"server","args":{arguments}}}]}}}}}}}}"#
        );
        cluster.ask(&["-n", "shop", "patch", "deployment", "web", "-p", &patch])?;
        cluster.ask(&["-n", "shop", "rollout", "status", "deployment/web", "--timeout=60s"])
    };
    patch(r#"["--port","8080","--on-term","exit"]"#)?;
    let result = (|| {
        let loads = [Load::through_cluster_ip(cluster, 20)?, Load::through_node_port(cluster, 1, 20)?];
        rollout(cluster)?;
        rollout(cluster)?;
        loads.into_iter().try_for_each(Load::conclude)
    })();
    patch(r#"["--port","8080"]"#)?;
    result
}
