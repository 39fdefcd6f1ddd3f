//! What a person does with kubectl: apply, look, watch, explain, follow logs, run commands in pods, forward ports, scale,
//! undo, delete.

use crate::fixture;
use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use rig::cluster::Cluster;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Stdio};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(30);

pub fn trials() -> Vec<Trial> {
    vec![
        Trial::test("people::logs_follow_and_exec_speaks_both_ways", || Ok(logs_and_exec()?)),
        Trial::test("people::port_forward_carries_a_request", || Ok(port_forward()?)),
        Trial::test("people::apply_explain_watch_scale_undo", || Ok(deployment_by_hand()?)),
        Trial::test("people::what_does_not_work_says_why", || Ok(explanations()?)),
    ]
}

/// A child that ends with the test.
struct Beside(Child);

impl Drop for Beside {
    fn drop(&mut self) {
        // Our own child: nothing is lost when it has ended by itself.
        let _ended = self.0.kill().and_then(|()| self.0.wait());
    }
}

fn logs_and_exec() -> Result<()> {
    let cluster = fixture::shop()?;
    cluster.ask(&[
        "run",
        "talker",
        "--image=localhost/busybox:1",
        "--restart=Never",
        "--command",
        "--",
        "/bin/sh",
        "-c",
        "i=0; while [ $i -lt 1000 ]; do echo line $i; i=$((i+1)); sleep 0.2; done",
    ])?;
    let result = (|| {
        cluster.ask(&["wait", "--for=condition=Ready", "pod/talker", "--timeout=30s"])?;
        let child = cluster.kubectl(&["logs", "-f", "talker"]).stdout(Stdio::piped()).spawn()?;
        let mut child = Beside(child);
        let lines = BufReader::new(child.0.stdout.take().context("stdout is piped")?).lines();
        let seen: Vec<String> = lines.take(5).collect::<Result<_, _>>()?;
        ensure!(seen.first().is_some_and(|line| line == "line 0"), "logs -f begins with {seen:?}");
        ensure!(seen.len() == 5, "logs -f does not follow: {seen:?}");
        let tail = cluster.ask(&["logs", "talker", "--tail=2"])?;
        ensure!(tail.lines().count() == 2, "--tail=2 prints {tail:?}");

        let mut exec = cluster.kubectl(&["exec", "-i", "talker", "--", "/bin/cat"]);
        let mut child = exec.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        child.stdin.take().context("stdin is piped")?.write_all(b"to and fro")?;
        let output = child.wait_with_output()?;
        ensure!(output.stdout == b"to and fro", "cat answers {:?}", String::from_utf8_lossy(&output.stdout));
        let failing =
            rig::command::output(&mut cluster.kubectl(&["exec", "talker", "--", "/bin/sh", "-c", "exit 7"]))?;
        ensure!(failing.status.code() == Some(7), "the exit code of a command is lost: {:?}", failing.status);
        Ok(())
    })();
    cluster.ask(&["delete", "pod", "talker", "--grace-period=1"])?;
    result
}

fn port_forward() -> Result<()> {
    let cluster = fixture::shop()?;
    let child = cluster
        .kubectl(&["-n", "street", "port-forward", "pod/visitor", ":8080"])
        .stdout(Stdio::piped())
        .spawn()?;
    let mut child = Beside(child);
    let mut lines = BufReader::new(child.0.stdout.take().context("stdout is piped")?).lines();
    let line = lines.next().context("port-forward says nothing")??;
    let port = line
        .split("127.0.0.1:")
        .nth(1)
        .and_then(|rest| rest.split(' ').next())
        .context("port-forward names its port")?;
    let mut stream = std::net::TcpStream::connect(format!("127.0.0.1:{port}"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    ensure!(answer.contains("pod=visitor"), "the answer through the port-forward is {answer:?}");
    Ok(())
}

const DEPLOYMENT: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: { name: hand, namespace: default }
spec:
  replicas: 1
  selector: { matchLabels: { app: hand } }
  template:
    metadata: { labels: { app: hand } }
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{ name: c, image: 'localhost/workload:1', env: [{ name: V, value: one }] }]
";

fn deployment_by_hand() -> Result<()> {
    let cluster = fixture::shop()?;
    fixture::apply(cluster, DEPLOYMENT)?;
    let result = by_hand(cluster);
    cluster.ask(&["delete", "deployment", "hand", "--timeout=60s"])?;
    result
}

fn by_hand(cluster: &Cluster) -> Result<()> {
    let status = || cluster.ask(&["rollout", "status", "deployment/hand", "--timeout=60s"]).map(drop);
    let pods =
        || cluster.ask(&["get", "pods", "-l", "app=hand", "-o", "name"]).map(|names| names.lines().count());
    status()?;
    let explained = cluster.ask(&["explain", "deployment.spec.strategy.rollingUpdate"])?;
    ensure!(explained.contains("maxSurge"), "explain: {explained}");
    cluster.ask(&["scale", "deployment/hand", "--replicas=3"])?;
    status()?;
    ensure!(pods()? == 3, "scale to 3 gives {} pods", pods()?);
    fixture::apply(cluster, &DEPLOYMENT.replace("value: one", "value: two"))?;
    status()?;
    let history = cluster.ask(&["rollout", "history", "deployment/hand"])?;
    ensure!(
        history.lines().filter(|line| line.starts_with(|c: char| c.is_ascii_digit())).count() == 2,
        "history: {history}"
    );
    cluster.ask(&["rollout", "undo", "deployment/hand"])?;
    status()?;
    let value = cluster.ask(&[
        "get",
        "deployment",
        "hand",
        "-o",
        "jsonpath={.spec.template.spec.containers[0].env[0].value}",
    ])?;
    ensure!(value == "one", "undo leaves {value}");
    let described = cluster.ask(&["describe", "deployment", "hand"])?;
    ensure!(described.contains("ScalingReplicaSet"), "describe shows no events:\n{described}");
    // The pods of an undone revision leave within their grace period of a second.
    rig::journal::wait_for(PATIENCE, || pods().is_ok_and(|count| count == 1))
        .context("the old pods do not leave")
}

fn explanations() -> Result<()> {
    let cluster = fixture::shop()?;
    let complaint = |words: &[&str]| -> Result<String> {
        let output = rig::command::output(&mut cluster.kubectl(words))?;
        ensure!(!output.status.success(), "`kubectl {}` succeeds", words.join(" "));
        Ok(String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let missing = complaint(&["get", "pod", "nobody"])?;
    ensure!(missing.contains(r#"pods "nobody" not found"#), "{missing}");
    let bad = complaint(&["create", "configmap", "Not_A_Name"])?;
    ensure!(bad.contains("Invalid value") && bad.contains("RFC 1123"), "{bad}");

    cluster.ask(&["run", "whale", "--image=localhost/workload:1", "--overrides",
        r#"{"spec":{"containers":[{"name":"whale","image":"localhost/workload:1","resources":{"requests":{"cpu":"500"}}}]}}"#])?;
    let why = rig::journal::wait_for(PATIENCE, || {
        cluster
            .ask(&["describe", "pod", "whale"])
            .is_ok_and(|text| text.contains("0/3 nodes are available") && text.contains("Insufficient cpu"))
    });
    cluster.ask(&["delete", "pod", "whale", "--grace-period=0", "--force"])?;
    why.context("a pod that fits nowhere does not say why")?;

    cluster.ask(&["run", "ghost", "--image=localhost/no-such-image:1"])?;
    let why = rig::journal::wait_for(PATIENCE, || {
        cluster
            .ask(&["get", "pod", "ghost"])
            .is_ok_and(|text| text.contains("ErrImagePull") || text.contains("ImagePullBackOff"))
    });
    cluster.ask(&["delete", "pod", "ghost", "--grace-period=0", "--force"])?;
    why.context("a pod whose image is absent does not say so")
}
