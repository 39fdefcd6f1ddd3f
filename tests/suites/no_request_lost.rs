//! The promise that a rolling update, an agent that is killed and a node's restart lose no request.
//!
//! The load is open-loop: 500 new connections a second, each with one request, through the ClusterIP from a pod and
//! through the NodePort from outside the cluster, with the shop's policies in force.

use crate::fixture;
use crate::load::Load;
use anyhow::{Context, Result};
use libtest_mimic::Trial;
use rig::cluster::Cluster;
use std::time::Duration;

const ROLLOUTS: usize = 5;
/// Of these, the one during which an agent is killed.
const KILL_DURING: usize = 2;
/// The node whose agent is killed. Clients are on it too: what an agent has set up goes on without it.
const VICTIM: usize = 3;
/// Draining and ending on a busy machine.
const GONE: Duration = Duration::from_secs(60);
/// An agent's start on a busy machine.
const BACK: Duration = Duration::from_secs(60);

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

pub(crate) fn rollout(cluster: &Cluster) -> Result<()> {
    cluster.ask(&["-n", "shop", "rollout", "restart", "deployment/web"])?;
    cluster.ask(&["-n", "shop", "rollout", "status", "deployment/web", "--timeout=120s"]).map(drop)
}

/// One way after the other: both at once are more than two cores carry beside the cluster itself.
fn rolling_updates() -> Result<()> {
    let cluster = fixture::shop()?;
    roll_under(cluster, Load::through_cluster_ip(cluster, VICTIM)?)?;
    roll_under(cluster, Load::through_node_port(cluster, 2)?)
}

fn roll_under(cluster: &Cluster, load: Load<'_>) -> Result<()> {
    for number in 0..ROLLOUTS {
        if number == KILL_DURING {
            cluster.kill_and_await_restart(VICTIM, "bowsprit")?;
        }
        rollout(cluster).with_context(|| format!("rollout {number}"))?;
    }
    old_pods_are_gone(cluster)?;
    load.conclude()
}

/// A rollout is over when the new pods serve; requests may be lost for as long as the old ones end.
fn old_pods_are_gone(cluster: &Cluster) -> Result<()> {
    let words = ["-n", "shop", "get", "pods", "-l", "app=web", "-o", "name"];
    let count = || cluster.ask(&words).map(|names| names.lines().count());
    rig::journal::wait_for(GONE, || count().is_ok_and(|count| count == 3)).context("the old pods do not go")
}

fn agent_killed() -> Result<()> {
    let cluster = fixture::shop()?;
    let loads = [Load::through_cluster_ip(cluster, VICTIM)?, Load::through_node_port(cluster, VICTIM)?];
    for node in [2, VICTIM, 2, VICTIM, 1] {
        cluster.kill_and_await_restart(node, "bowsprit")?;
        await_agent(cluster, node)?;
    }
    loads.into_iter().try_for_each(Load::conclude)
}

/// Waits until a node's agent does its work again: what it is asked through the API server, it answers.
pub(crate) fn await_agent(cluster: &Cluster, node: usize) -> Result<()> {
    let healthz = format!("/api/v1/nodes/node-{node}/proxy/healthz");
    rig::journal::wait_for(BACK, || cluster.ask(&["get", "--raw", &healthz]).is_ok())
        .with_context(|| format!("the agent of node-{node} does not come back"))
}

fn roll_twice_under(cluster: &Cluster, load: Load<'_>) -> Result<()> {
    rollout(cluster)?;
    rollout(cluster)?;
    old_pods_are_gone(cluster)?;
    load.conclude()
}

fn exit_at_once() -> Result<()> {
    let cluster = fixture::shop()?;
    let patch = |arguments: &str| {
        let patch = format!(
            r#"{{"spec":{{"template":{{"spec":{{"containers":[{{"name":"server","args":{arguments}}}]}}}}}}}}"#
        );
        cluster.ask(&["-n", "shop", "patch", "deployment", "web", "-p", &patch])?;
        cluster.ask(&["-n", "shop", "rollout", "status", "deployment/web", "--timeout=120s"])
    };
    patch(r#"["--port","8080","--on-term","exit"]"#)?;
    let result = (|| {
        // One way after the other, as above.
        roll_twice_under(cluster, Load::through_cluster_ip(cluster, 1)?)?;
        roll_twice_under(cluster, Load::through_node_port(cluster, 1)?)
    })();
    patch(r#"["--port","8080"]"#)?;
    result
}
