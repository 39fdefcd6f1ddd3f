//! The same cluster over both stores: what was acknowledged survives kill -9 of the server and, with etcd, of etcd.

use crate::fixture;
use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use rig::cluster::Cluster;
use std::time::Duration;

const BACK: Duration = Duration::from_secs(30);

pub fn trials() -> Vec<Trial> {
    vec![
        Trial::test("stores::embedded_survives_kill_of_the_server", || Ok(server_killed()?)),
        Trial::test("stores::etcd_survives_kill_of_server_and_etcd", || Ok(etcd_killed()?)),
    ]
}

fn write(cluster: &Cluster, number: usize) -> Result<()> {
    cluster.ask(&["create", "configmap", &format!("kept-{number}"), "--from-literal=k=v"]).map(drop)
}

fn revision(cluster: &Cluster) -> Result<u64> {
    let text = cluster.ask(&["get", "--raw", "/api/v1/namespaces/default/configmaps"])?;
    let list: serde_json::Value = serde_json::from_str(&text)?;
    list["metadata"]["resourceVersion"]
        .as_str()
        .and_then(|text| text.parse().ok())
        .context("a list has a resourceVersion")
}

fn await_api(cluster: &Cluster) -> Result<()> {
    rig::journal::wait_for(BACK, || cluster.ask(&["get", "--raw", "/readyz"]).is_ok())
        .context("the API does not come back")
}

fn kept(cluster: &Cluster, count: usize) -> Result<()> {
    let names = cluster.ask(&["get", "configmaps", "-o", "name"])?;
    let there = names.lines().filter(|name| name.contains("/kept-")).count();
    ensure!(there == count, "{count} writes were acknowledged, {there} are there");
    Ok(())
}

/// Writes, kills, and looks whether all is there and the revision went on.
fn kill(cluster: &Cluster, process: &str, written: &mut usize) -> Result<()> {
    for _ in 0..5 {
        write(cluster, *written)?;
        *written += 1;
    }
    let before = revision(cluster)?;
    cluster.kill_and_await_restart(1, process)?;
    await_api(cluster)?;
    kept(cluster, *written)?;
    write(cluster, *written)?;
    *written += 1;
    let after = revision(cluster)?;
    ensure!(after > before, "the revision went from {before} to {after}");
    Ok(())
}

fn server_killed() -> Result<()> {
    let cluster = fixture::make_ready(fixture::spec("sqli", 1))?;
    let mut written = 0;
    kill(&cluster, "bowsprit", &mut written)?;
    kill(&cluster, "bowsprit", &mut written)
}

fn etcd_killed() -> Result<()> {
    let cluster = fixture::over_etcd()?;
    let mut written = 0;
    kill(cluster, "bowsprit", &mut written)?;
    kill(cluster, "etcd", &mut written)
}
