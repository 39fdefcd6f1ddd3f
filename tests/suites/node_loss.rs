//! A node that loses its power: its endpoints leave within a second, its pods run elsewhere within fifteen.

use crate::fixture;
use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use rig::cluster::Cluster;
use std::time::{Duration, Instant};

const ENDPOINTS: Duration = Duration::from_secs(1);
const ELSEWHERE: Duration = Duration::from_secs(15);
/// The promise is the cluster's, the asking is the test's: so many times what asking costs on this machine just then. One question
/// may have been on its way when the moment came, and what slows kubectl slows everybody.
const ASKING: u32 = 4;
const LOST: usize = 3;

pub fn trials() -> Vec<Trial> {
    vec![Trial::test("node_loss::endpoints_leave_in_a_second_and_pods_move_in_fifteen", || Ok(power_cut()?))]
}

fn power_cut() -> Result<()> {
    let cluster = fixture::make_ready(fixture::spec("loss", 3))?;
    rig::shop::deploy(&cluster, &fixture::checkout().join("deploy/examples"))?;
    ensure!(
        !on_lost_node(&cluster, "web")?.is_empty(),
        "no web pod runs on node-{LOST}: nothing would be shown"
    );
    let asked = Instant::now();
    ready_nodes_of_web(&cluster)?;
    let asking = asked.elapsed() * ASKING;
    cluster.power_off(LOST)?;
    let began = Instant::now();
    let lost = format!("node-{LOST}");
    rig::journal::wait_for(ENDPOINTS + asking, || {
        ready_nodes_of_web(&cluster).is_ok_and(|nodes| !nodes.is_empty() && !nodes.contains(&lost))
    })
    .context("the lost node's endpoints do not leave")?;
    println!("    endpoints left after {:.2} s", began.elapsed().as_secs_f64());
    rig::journal::wait_for(ELSEWHERE + asking, || {
        ["web", "api", "db"]
            .iter()
            .all(|tier| available(&cluster, tier).is_ok_and(|(have, want)| have == want))
            && on_lost_node(&cluster, "web").is_ok_and(|pods| pods.is_empty())
    })
    .context("the lost node's pods do not run elsewhere")?;
    println!("    pods ran elsewhere after {:.2} s", began.elapsed().as_secs_f64());
    let nodes = cluster.ask(&["get", "nodes"])?;
    ensure!(nodes.lines().any(|line| line.starts_with(&lost) && line.contains("NotReady")), "{nodes}");
    Ok(())
}

fn ready_nodes_of_web(cluster: &Cluster) -> Result<Vec<String>> {
    let query = r#"jsonpath={range .items[*].endpoints[?(@.conditions.ready==true)]}{.nodeName}{"\n"}{end}"#;
    let text = cluster.ask(&[
        "-n",
        "shop",
        "get",
        "endpointslices",
        "-l",
        "kubernetes.io/service-name=web",
        "-o",
        query,
    ])?;
    Ok(text.lines().map(str::to_owned).collect())
}

fn on_lost_node(cluster: &Cluster, tier: &str) -> Result<Vec<String>> {
    let query = r#"jsonpath={range .items[*]}{.spec.nodeName} {.metadata.deletionTimestamp} {.metadata.name}{"\n"}{end}"#;
    let text = cluster.ask(&["-n", "shop", "get", "pods", "-l", &format!("app={tier}"), "-o", query])?;
    let here = format!("node-{LOST}  ");
    Ok(text.lines().filter(|line| line.starts_with(&here)).map(str::to_owned).collect())
}

fn available(cluster: &Cluster, tier: &str) -> Result<(String, String)> {
    let text = cluster.ask(&[
        "-n",
        "shop",
        "get",
        "deployment",
        tier,
        "-o",
        "jsonpath={.status.availableReplicas} {.spec.replicas}",
    ])?;
    let (have, want) = text.split_once(' ').context("two numbers were asked for")?;
    Ok((have.to_owned(), want.to_owned()))
}
