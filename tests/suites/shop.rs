//! The example application: every row of its table, and what changes when a policy goes and comes back.

use crate::fixture;
use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use rig::cluster::Cluster;
use std::time::Duration;

/// A policy is in every kernel long before this.
const POLICY: Duration = Duration::from_secs(5);

pub fn trials() -> Vec<Trial> {
    vec![
        Trial::test("shop::every_pair_goes_as_the_policies_say", || Ok(table()?)),
        Trial::test("shop::a_policy_that_goes_opens_and_one_that_comes_closes", || {
            Ok(policy_goes_and_comes()?)
        }),
        Trial::test("shop::no_netfilter_rules_are_used", || Ok(no_netfilter()?)),
    ]
}

fn table() -> Result<()> {
    let rows = rig::shop::probe(fixture::shop()?)?;
    let wrong: Vec<String> =
        rows.iter().filter(|row| !row.is_as_expected()).map(|row| format!("{row:?}")).collect();
    ensure!(wrong.is_empty(), "not as the policies say:\n{}", wrong.join("\n"));
    let unexplained: Vec<String> = rows
        .iter()
        .filter(|row| row.unexplained > 0 || !row.allowed && row.causes.is_empty())
        .map(|row| format!("{row:?}"))
        .collect();
    ensure!(unexplained.is_empty(), "denied, and no drop tells why:\n{}", unexplained.join("\n"));
    // A table without denials or without NodePorts would show nothing.
    ensure!(
        rows.iter().any(|row| !row.allowed) && rows.iter().any(|row| row.to.contains("NodePort")),
        "the table is too short"
    );
    Ok(())
}

fn policy_goes_and_comes() -> Result<()> {
    let cluster = fixture::shop()?;
    let db = cluster.ask(&[
        "-n",
        "shop",
        "get",
        "pod",
        "-l",
        "app=db",
        "-o",
        "jsonpath={.items[0].status.podIP}",
    ])?;
    let url = format!("http://{db}:8080/");
    ensure!(!visit(cluster, &url), "the visitor reaches db, though a policy forbids it");
    cluster.ask(&["-n", "shop", "delete", "networkpolicy", "db", "closed"])?;
    let opened = rig::journal::wait_for(POLICY, || visit(cluster, &url));
    let manifest = fixture::checkout().join("deploy/examples/shop.yaml");
    cluster.ask(&["apply", "-f", &manifest.to_string_lossy()])?;
    opened.context("the visitor does not reach db after the policies went")?;
    rig::journal::wait_for(POLICY, || !visit(cluster, &url))
        .context("the visitor still reaches db after the policies came back")
}

fn visit(cluster: &Cluster, url: &str) -> bool {
    cluster
        .ask(&["-n", "street", "exec", "visitor", "--", "/bin/workload", "call", url, "--timeout-ms", "500"])
        .is_ok()
}

fn no_netfilter() -> Result<()> {
    let cluster = fixture::shop()?;
    for node in cluster.nodes() {
        let rules = rig::command::read(&mut cluster.on_node(node.index, "nft", &["list", "ruleset"]))?;
        ensure!(rules.trim().is_empty(), "{} has nftables rules:\n{rules}", node.name);
        let rules = rig::command::read(&mut cluster.on_node(node.index, "iptables-save", &[]))?;
        ensure!(rules.trim().is_empty(), "{} has iptables rules:\n{rules}", node.name);
    }
    Ok(())
}
