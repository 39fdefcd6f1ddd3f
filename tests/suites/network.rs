//! What the shop's table does not show: routes instead of a tunnel, and a pod that is itself a client of the API.

use crate::fixture;
use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use rig::cluster::{Cluster, Routing, Spec};

pub fn trials() -> Vec<Trial> {
    vec![
        Trial::test("network::a_pod_is_a_client_of_the_api", || Ok(client_in_a_pod()?)),
        Trial::test("network::native_routes_carry_the_shop", || Ok(native_routes()?)),
    ]
}

/// kubectl runs in a pod with nothing but what every pod gets: the Service's environment, a token, the cluster's CA.
fn client_in_a_pod() -> Result<()> {
    let cluster = fixture::shop()?;
    let kubectl = rig::cluster::kubectl_binary().canonicalize().context("kubectl is installed")?;
    let manifest = format!(
        r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"name":"client","namespace":"street"}},"spec":{{
            "terminationGracePeriodSeconds":1,
            "containers":[{{"name":"shell","image":"localhost/busybox:1","command":["/bin/sleep","600"],
                "volumeMounts":[{{"name":"kubectl","mountPath":"/bin/kubectl","readOnly":true}}]}}],
            "volumes":[{{"name":"kubectl","hostPath":{{"path":"{}","type":"File"}}}}]}}}}"#,
        kubectl.display()
    );
    fixture::apply(cluster, &manifest)?;
    let result = ask_from_the_pod(cluster);
    cluster.ask(&["-n", "street", "delete", "pod", "client"])?;
    result
}

fn ask_from_the_pod(cluster: &Cluster) -> Result<()> {
    cluster.ask(&["-n", "street", "wait", "--for=condition=Ready", "pod/client", "--timeout=30s"])?;
    let inside = |words: &[&str]| {
        let mut all = vec!["-n", "street", "exec", "client", "--", "/bin/kubectl"];
        all.extend(words);
        cluster.ask(&all)
    };
    let version = inside(&["version", "-o", "json"])?;
    ensure!(version.contains("serverVersion"), "kubectl in a pod does not reach the API server: {version}");
    let refused = inside(&["get", "pods"]).err().map(|error| format!("{error:#}")).unwrap_or_default();
    ensure!(
        refused.contains("User \"system:serviceaccount:street:default\" cannot list resource \"pods\""),
        "the pod's token was not taken for its service account: {refused}"
    );
    Ok(())
}

fn native_routes() -> Result<()> {
    let cluster = fixture::make_ready(Spec { routing: Routing::Native, ..fixture::spec("nat", 2) })?;
    rig::shop::deploy(&cluster, &fixture::checkout().join("deploy/examples"))?;
    let rows = rig::shop::probe(&cluster)?;
    let wrong: Vec<_> = rows.iter().filter(|row| !row.is_as_expected()).collect();
    ensure!(wrong.is_empty(), "not as the policies say over native routes: {wrong:#?}");
    let routes = rig::command::read(&mut cluster.on_node(1, "ip", &["route", "show"]))?;
    let via = format!("via {}", cluster.layout.node(2).address);
    ensure!(routes.contains(&via), "node-1 has no route {via} to the other node's pods:\n{routes}");
    Ok(())
}
