//! The promise that a rolling update, an agent that is killed and a node's restart lose no request.
//!
//! The load is open-loop: 500 new connections a second, each with one request, through the ClusterIP from a pod and
//! through the NodePort from outside the cluster, with the shop's policies in force.

use crate::fixture;
use crate::load::Load;
use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use rig::cluster::Cluster;

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

pub(crate) fn rollout(cluster: &Cluster) -> Result<()> {
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

fn roll_twice_under(cluster: &Cluster, load: Load) -> Result<()> {
    rollout(cluster)?;
    rollout(cluster)?;
    load.conclude()
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
        // One way after the other, as above.
        roll_twice_under(cluster, Load::through_cluster_ip(cluster, 15)?)?;
        roll_twice_under(cluster, Load::through_node_port(cluster, 1, 15)?)
    })();
    patch(r#"["--port","8080"]"#)?;
    result
}
