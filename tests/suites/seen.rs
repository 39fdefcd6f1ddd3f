//! What a person sees of a cluster at work: flows with names and reasons, what a pod waits for, figures of every process.

use crate::fixture;
use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use rig::cluster::Cluster;
use rig::shop;
use serde_json::{Value, json};
use std::time::Duration;

/// A flow is told within milliseconds; on a busy machine somewhat later.
const TOLD: Duration = Duration::from_secs(10);
/// A container has crashed twice by then.
const EXPLAINED: Duration = Duration::from_secs(40);

pub fn trials() -> Vec<Trial> {
    vec![
        Trial::test("seen::flows_name_both_ends_and_the_reason", || Ok(flows()?)),
        Trial::test("seen::why_tells_what_each_pod_waits_for", || Ok(why()?)),
        Trial::test("seen::every_process_is_measured_and_says_how_it_is", || Ok(metrics()?)),
    ]
}

fn pod_of(cluster: &Cluster, app: &str, field: &str) -> Result<String> {
    let path = format!("jsonpath={{.items[0].{field}}}");
    cluster.ask(&["-n", "shop", "get", "pod", "-l", &format!("app={app}"), "-o", &path])
}

fn flows() -> Result<()> {
    let cluster = fixture::shop()?;
    let call = |app: &str| -> Result<bool> {
        let url = format!("http://{}:8080/", pod_of(cluster, app, "status.podIP")?);
        let words =
            ["-n", "street", "exec", "visitor", "--", "/bin/workload", "call", &url, "--timeout-ms", "500"];
        Ok(cluster.ask(&words).is_ok())
    };
    ensure!(!call("db")?, "the visitor reaches db, though a policy forbids it");
    ensure!(call("web")?, "the visitor does not reach web");
    let (db, web) = (pod_of(cluster, "db", "metadata.name")?, pod_of(cluster, "web", "metadata.name")?);

    let denied = await_flow(cluster, &["--drops", "--to", "shop/db"], |flow| {
        flow["to"]["pod"] == *db
            && flow["reason"] == "PolicyIngress"
            && flow["verdict"] == "dropped"
            && flow["policies"] == json!(["shop/closed", "shop/db"])
    })?;
    let source = denied["source"].as_str().unwrap_or_default();
    let (file, line) = source.split_once(':').with_context(|| format!("no line of code in {denied}"))?;
    let code = std::fs::read_to_string(fixture::checkout().join("ebpf-programs").join(file))?;
    ensure!(
        line.parse().is_ok_and(|line: usize| code.lines().count() >= line),
        "{source} is no line of code"
    );

    await_flow(cluster, &["--to", "shop/web"], |flow| {
        flow["to"]["pod"] == *web
            && flow["event"] == "new"
            && flow["verdict"] == "allowed"
            && flow["policies"] == json!(["shop/web"])
    })?;

    // For people: a line a flow, and an error that names what is there when a node is not.
    let mut shown = cluster.bowsprit(&["flows", "--follow=false", "--drops", "--since=1m", "--to=db"]);
    let shown = rig::command::read(&mut shown)?;
    let wanted = format!("PolicyIngress: no ingress rule of shop/closed, shop/db allows it  [{source}]");
    ensure!(
        shown.lines().any(|line| line.contains(" street/visitor:") && line.ends_with(&wanted)),
        "the denial is shown as\n{shown}"
    );
    let absent = rig::command::output(&mut cluster.bowsprit(&["flows", "--follow=false", "--node=node-9"]))?;
    let complaint = String::from_utf8_lossy(&absent.stderr).into_owned();
    ensure!(complaint.contains("there is no node `node-9`; there is node-1, node-2, node-3"), "{complaint}");
    Ok(())
}

/// The newest flow of the visitor that these flags let through and that is as it should be.
fn await_flow(cluster: &Cluster, flags: &[&str], is_wanted: impl Fn(&Value) -> bool) -> Result<Value> {
    let (mut found, mut told) = (None, Vec::new());
    let waited = rig::journal::wait_for(TOLD, || {
        let mut all = vec!["--since=1m", "--from=street/visitor"];
        all.extend(flags);
        told = shop::flows(cluster, &all).unwrap_or_default();
        found = told.iter().rfind(|flow| is_wanted(flow)).cloned();
        found.is_some()
    });
    waited.with_context(|| {
        format!("`bowsprit flows {}` does not tell what it should, but {}", flags.join(" "), json!(told))
    })?;
    found.context("invariant: waited for")
}

/// One pod for each way to hang or to fail, and one that is well.
const PODS: &str = "
apiVersion: v1
kind: Namespace
metadata: { name: why }
---
apiVersion: v1
kind: Pod
metadata: { name: fine, namespace: why }
spec:
  terminationGracePeriodSeconds: 1
  containers:
    - { name: c, image: 'localhost/workload:1', readinessProbe: { tcpSocket: { port: 8080 }, periodSeconds: 1 } }
---
apiVersion: v1
kind: Pod
metadata: { name: too-large, namespace: why }
spec:
  containers: [{ name: c, image: 'localhost/workload:1', resources: { requests: { cpu: '500' } } }]
---
apiVersion: v1
kind: Pod
metadata: { name: no-image, namespace: why }
spec:
  containers: [{ name: c, image: 'localhost/absent:1' }]
---
apiVersion: v1
kind: Pod
metadata: { name: no-volume, namespace: why }
spec:
  volumes: [{ name: settings, configMap: { name: absent } }]
  containers: [{ name: c, image: 'localhost/workload:1', volumeMounts: [{ name: settings, mountPath: /settings }] }]
---
apiVersion: v1
kind: Pod
metadata: { name: not-ready, namespace: why }
spec:
  terminationGracePeriodSeconds: 1
  containers:
    - name: c
      image: localhost/busybox:1
      command: ['/bin/sleep', '1000']
      readinessProbe: { exec: { command: ['/bin/sh', '-c', 'echo the cache is cold; exit 1'] }, periodSeconds: 1 }
---
apiVersion: v1
kind: Pod
metadata: { name: stuck, namespace: why }
spec:
  terminationGracePeriodSeconds: 1
  containers:
    - name: c
      image: localhost/busybox:1
      command: ['/bin/sleep', '1000']
      livenessProbe:
        { exec: { command: ['/bin/sh', '-c', 'echo no heartbeat; exit 1'] }, periodSeconds: 1, failureThreshold: 1 }
---
apiVersion: v1
kind: Pod
metadata: { name: crashes, namespace: why }
spec:
  containers:
    - { name: c, image: 'localhost/busybox:1', command: ['/bin/sh', '-c', 'echo no such table; exit 3'] }
---
apiVersion: v1
kind: Pod
metadata: { name: greedy, namespace: why }
spec:
  containers:
    - name: c
      image: localhost/busybox:1
      command: ['/bin/busybox', 'dd', 'if=/dev/zero', 'of=/dev/null', 'bs=128M', 'count=1']
      resources: { limits: { memory: 32Mi } }
";

/// What `bowsprit why` says of each of them.
const WHY: &[(&str, &[&str])] = &[
    (
        "fine",
        &[
            "pod why/fine: Running, on node-",
            "apiserver  admitted",
            "scheduler  chose node-",
            "agent      sandbox",
            "agent      image (c)",
            "agent      started (c)",
            "agent      readiness-probe (c): passed",
        ],
    ),
    ("too-large", &["on no node yet", "no node takes it; 0/3 nodes are available:", "3 Insufficient cpu"]),
    ("no-image", &["container c waits", "ImagePull", "localhost/absent:1"]),
    ("no-volume", &["ContainerCreating", "volume \"settings\"", "configmap \"absent\" not found"]),
    ("not-ready", &["container c runs but is not ready: Readiness probe failed:", "the cache is cold"]),
    (
        "stuck",
        &[
            "killed by the agent on node-",
            "Container c failed liveness probe, will be restarted",
            "no heartbeat",
        ],
    ),
    ("crashes", &["CrashLoopBackOff", "exit code 3 by itself", "the end of its log:", "no such table"]),
    ("greedy", &["the kernel killed it, because it needed more than its memory limit of 32Mi"]),
];

fn why() -> Result<()> {
    let cluster = fixture::shop()?;
    fixture::apply(cluster, PODS)?;
    let result = explained(cluster);
    cluster.ask(&["delete", "namespace", "why", "--timeout=60s"])?;
    result
}

fn explained(cluster: &Cluster) -> Result<()> {
    let ask = |pod: &str| rig::command::output(&mut cluster.bowsprit(&["why", pod, "-n", "why"]));
    for (pod, parts) in WHY {
        let mut said = String::new();
        let told = rig::journal::wait_for(EXPLAINED, || {
            said = ask(&format!("pod/{pod}")).map_or_else(
                |error| format!("{error:#}"),
                |output| String::from_utf8_lossy(&output.stdout).into_owned(),
            );
            parts.iter().all(|part| said.contains(part))
        });
        told.with_context(|| format!("`bowsprit why pod/{pod}` does not say all of {parts:?}:\n{said}"))?;
    }
    cluster.ask(&["-n", "why", "delete", "pod", "fine", "--timeout=30s"])?;
    let gone = ask("fine")?;
    let said = String::from_utf8_lossy(&gone.stderr).into_owned();
    ensure!(
        !gone.status.success()
            && said.contains("there is no pod why/fine; there was one")
            && said.contains("Killing"),
        "of a pod that is gone is said: {said}"
    );
    let elsewhere = rig::command::output(&mut cluster.bowsprit(&["why", "crashes"]))?;
    let said = String::from_utf8_lossy(&elsewhere.stderr).into_owned();
    ensure!(
        said.contains("there is no pod default/crashes") && said.contains("there is: why/crashes"),
        "{said}"
    );
    Ok(())
}

/// What the server's process counts once the shop has served.
const SERVER_FAMILIES: &[&str] = &[
    "apiserver_request_total",
    "apiserver_request_duration_seconds_count",
    "apiserver_longrunning_requests",
    "apiserver_watch_events_total",
    "apiserver_storage_objects",
    "bowsprit_store_requests_total",
    "bowsprit_store_request_seconds_count",
    "scheduler_schedule_attempts_total",
    "scheduler_decision_duration_seconds_count",
    "scheduler_pod_scheduling_sli_duration_seconds_count",
    "controller_reconcile_total",
    "controller_reconcile_duration_seconds_count",
];
/// What every agent's process counts.
const AGENT_FAMILIES: &[&str] = &[
    "bowsprit_agent_pods",
    "bowsprit_agent_pod_start_seconds_count",
    "bowsprit_agent_pod_stage_seconds_count",
    "bowsprit_agent_status_writes_total",
    "bowsprit_map_entries",
    "bowsprit_map_capacity",
    "bowsprit_packets_total",
    "bowsprit_applied_revision",
    "bowsprit_apply_duration_seconds_count",
    "network_programming_duration_seconds_count",
    "process_resident_memory_bytes",
];
/// Lines of one family that a process of a small cluster may have: more means that something unbounded became a label.
const SERIES_MAX: usize = 2_000;

fn metrics() -> Result<()> {
    let cluster = fixture::shop()?;
    let raw = |path: &str| cluster.ask(&["get", "--raw", path]);
    // Something is denied, so that there is a drop to be counted.
    let url = format!("http://{}:8080/", pod_of(cluster, "db", "status.podIP")?);
    let call =
        ["-n", "street", "exec", "visitor", "--", "/bin/workload", "call", &url, "--timeout-ms", "300"];
    ensure!(cluster.ask(&call).is_err(), "the visitor reaches db, though a policy forbids it");

    counted("the server", &raw("/metrics")?, SERVER_FAMILIES)?;
    let mut dropped = 0.0;
    for node in cluster.nodes() {
        let agent = |path: &str| raw(&format!("/api/v1/nodes/{}/proxy/{path}", node.name));
        let scraped = agent("metrics")?;
        counted(&node.name, &scraped, AGENT_FAMILIES)?;
        dropped += sum(scraped.lines().filter(|line| line.contains("reason=\"PolicyIngress\"")));
        for path in ["livez", "readyz?verbose"] {
            let health = agent(path)?;
            ensure!(health.contains("ok"), "/{path} of {} answers {health}", node.name);
        }
    }
    ensure!(dropped > 0.0, "no node counts the packet that a policy dropped");
    for path in ["/livez", "/readyz?verbose", "/healthz"] {
        let health = raw(path)?;
        ensure!(health.contains("ok"), "{path} answers {health}");
    }
    Ok(())
}

/// Requires a sum above zero of each family and a bounded number of series.
fn counted(whose: &str, scraped: &str, families: &[&str]) -> Result<()> {
    for family in families {
        let of_family =
            |line: &&str| line.strip_prefix(family).is_some_and(|rest| rest.starts_with(['{', ' ']));
        ensure!(sum(scraped.lines().filter(of_family)) > 0.0, "{whose} has counted nothing of {family}");
        ensure!(
            scraped.lines().filter(of_family).count() <= SERIES_MAX,
            "{whose} has too many series of {family}"
        );
    }
    Ok(())
}

fn sum<'l>(lines: impl Iterator<Item = &'l str>) -> f64 {
    lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
}
