//! Sessions with pods, as kubectl opens them: exec, attach, port-forward and logs, over WebSocket as new clients do and
//! over SPDY as old ones do.

use crate::fixture;
use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use rig::cluster::{self, Cluster};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(30);

/// A pod that talks by itself and answers each line that it is told, and one that has been restarted.
const PODS: &str = "
apiVersion: v1
kind: Namespace
metadata: { name: sessions }
---
apiVersion: v1
kind: Pod
metadata: { name: echo, namespace: sessions }
spec:
  terminationGracePeriodSeconds: 1
  containers:
    - name: c
      image: localhost/busybox:1
      stdin: true
      command: ['/bin/sh', '-c', 'echo begun; while read line; do echo got $line; done; sleep 1000']
    - { name: web, image: 'localhost/workload:1', args: ['--port', '8080'] }
---
apiVersion: v1
kind: Pod
metadata: { name: again, namespace: sessions }
spec:
  terminationGracePeriodSeconds: 1
  containers:
    - name: c
      image: localhost/busybox:1
      volumeMounts: [{ name: state, mountPath: /state }]
      command:
        - /bin/sh
        - -c
        - 'if [ -e /state/before ]; then echo second run; sleep 1000; fi; echo first run; echo > /state/before; exit 4'
  volumes: [{ name: state, emptyDir: {} }]
";

pub fn trials() -> Vec<Trial> {
    let with = |name: &str, client: fn() -> Client| {
        Trial::test(format!("sessions::exec_attach_and_forward_{name}"), move || Ok(sessions(&client())?))
    };
    vec![
        with("over_websocket", || Client::newest(true)),
        with("over_spdy", || Client::newest(false)),
        with("with_the_oldest_kubectl_here", Client::oldest),
        Trial::test("sessions::logs_of_this_run_and_the_one_before", || Ok(logs()?)),
    ]
}

/// A kubectl, and which protocol it is told to use.
struct Client {
    binary: PathBuf,
    websocket: Option<bool>,
}

/// A child that ends with the test.
struct Beside(Child);

impl Drop for Beside {
    fn drop(&mut self) {
        // Our own child: nothing is lost when it has ended by itself.
        let _ended = self.0.kill().and_then(|()| self.0.wait());
    }
}

impl Client {
    fn newest(websocket: bool) -> Self {
        Self { binary: cluster::kubectl_binary(), websocket: Some(websocket) }
    }

    fn oldest() -> Self {
        Self { binary: cluster::oldest_kubectl_binary(), websocket: None }
    }

    fn command(&self, cluster: &Cluster, words: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command.args(["--namespace", "sessions"]).args(words).env("KUBECONFIG", cluster.layout.kubeconfig());
        if let Some(websocket) = self.websocket {
            for variable in ["KUBECTL_REMOTE_COMMAND_WEBSOCKETS", "KUBECTL_PORT_FORWARD_WEBSOCKETS"] {
                command.env(variable, websocket.to_string());
            }
        }
        command.stdin(Stdio::null());
        command
    }

    fn with_input(&self, cluster: &Cluster, words: &[&str], input: &str) -> Result<Output> {
        piped(&mut self.command(cluster, words), input)
    }
}

fn piped(command: &mut Command, input: &str) -> Result<Output> {
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    child.stdin.take().context("stdin is piped")?.write_all(input.as_bytes())?;
    Ok(child.wait_with_output()?)
}

fn said(output: &Output) -> String {
    format!(
        "{} with stdout {:?} and stderr {:?}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// Makes the pods unless another test of this suite has.
fn prepare(cluster: &Cluster) -> Result<()> {
    fixture::apply(cluster, PODS)?;
    cluster
        .ask(&["-n", "sessions", "wait", "--for=condition=Ready", "pod", "--all", "--timeout=60s"])
        .map(drop)
        .context("the pods of the suite do not become ready")
}

/// Requests that ended in a change of protocol, by their verb: WebSocket begins with GET, SPDY with POST.
fn upgrades(cluster: &Cluster, verb: &str) -> Result<f64> {
    let scraped = cluster.ask(&["get", "--raw", "/metrics"])?;
    let wanted = |line: &&str| {
        line.starts_with("apiserver_request_total{")
            && line.contains("code=\"101\"")
            && line.contains(&format!("verb=\"{verb}\""))
    };
    Ok(scraped.lines().filter(wanted).filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum())
}

fn sessions(client: &Client) -> Result<()> {
    let cluster = fixture::shop()?;
    prepare(cluster)?;
    let verb = client.websocket.map(|websocket| if websocket { "get" } else { "create" });
    let before = verb.map(|verb| upgrades(cluster, verb)).transpose()?;
    exec(client, cluster)?;
    terminal(client, cluster)?;
    attach(client, cluster)?;
    forward(client, cluster)?;
    if let (Some(verb), Some(before)) = (verb, before) {
        let made = upgrades(cluster, verb)? - before;
        ensure!(
            made >= 6.0,
            "kubectl did not use the protocol that it was told to: {made} upgrades by {verb}"
        );
    }
    Ok(())
}

fn exec(client: &Client, cluster: &Cluster) -> Result<()> {
    let exec = |words: &[&str], input: &str| {
        client.with_input(cluster, &[&["exec", "-i", "echo", "-c", "c", "--"], words].concat(), input)
    };
    // More than one message, so that order and completeness show.
    let long = "to and fro ".repeat(20_000);
    let output = exec(&["/bin/cat"], &long)?;
    ensure!(output.stdout == long.as_bytes(), "cat answers {} bytes of {}", output.stdout.len(), long.len());
    let output = exec(&["/bin/sh", "-c", "echo out; echo err >&2; exit 7"], "")?;
    ensure!(
        output.status.code() == Some(7) && output.stdout == b"out\n" && output.stderr.starts_with(b"err\n"),
        "a command that fails ends {}",
        said(&output)
    );
    let output = exec(&["/bin/no-such-command"], "")?;
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(!output.status.success() && complaint.contains("no-such-command"), "{}", said(&output));
    Ok(())
}

/// `script` gives kubectl a terminal of its own, without which it asks for none.
fn terminal(client: &Client, cluster: &Cluster) -> Result<()> {
    let kubectl = client.command(cluster, &["exec", "-it", "echo", "-c", "c", "--", "/bin/sh"]);
    let mut script = Command::new("script");
    script.args(["--quiet", "--return", "--command", &rig::command::words(&kubectl), "/dev/null"]);
    script.envs(kubectl.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let output = piped(&mut script, "[ -t 0 ] && echo it-is a-terminal\nexit 5\n")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    // The terminal echoes the command; only the answer stands at the beginning of a line.
    ensure!(
        output.status.code() == Some(5) && text.lines().any(|line| line.starts_with("it-is a-terminal")),
        "a shell in a terminal ends {}",
        said(&output)
    );
    Ok(())
}

fn attach(client: &Client, cluster: &Cluster) -> Result<()> {
    let mut command = client.command(cluster, &["attach", "-i", "echo", "-c", "c"]);
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = Beside(command.spawn()?);
    child.0.stdin.as_mut().context("stdin is piped")?.write_all(b"hello\n")?;
    let line = BufReader::new(child.0.stdout.take().context("stdout is piped")?).lines().next();
    let line = line.context("attach ends without a word")??;
    ensure!(line == "got hello", "the container's answer to `hello` is {line:?}");
    Ok(())
}

fn forward(client: &Client, cluster: &Cluster) -> Result<()> {
    let mut command = client.command(cluster, &["port-forward", "pod/echo", ":8080"]);
    let mut child = Beside(command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?);
    let mut lines = BufReader::new(child.0.stdout.take().context("stdout is piped")?).lines();
    let line = lines.next().context("port-forward says nothing")??;
    let port = line.split("127.0.0.1:").nth(1).and_then(|rest| rest.split(' ').next());
    let address = format!("127.0.0.1:{}", port.context("port-forward names its port")?);
    // One session carries any number of connections.
    for _ in 0..3 {
        let mut stream = std::net::TcpStream::connect(&address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        ensure!(answer.contains("pod=echo"), "the answer through the port-forward is {answer:?}");
    }
    Ok(())
}

fn logs() -> Result<()> {
    let cluster = fixture::shop()?;
    prepare(cluster)?;
    for binary in [cluster::kubectl_binary(), cluster::oldest_kubectl_binary()] {
        let client = Client { binary, websocket: None };
        let logs = |words: &[&str]| {
            rig::command::read(&mut client.command(cluster, &[&["logs", "again"], words].concat()))
        };
        rig::journal::wait_for(PATIENCE, || logs(&["--previous"]).is_ok_and(|text| text == "first run\n"))
            .context("logs --previous does not tell of the run before")?;
        rig::journal::wait_for(PATIENCE, || logs(&[]).is_ok_and(|text| text == "second run\n"))
            .context("logs does not tell of this run")?;
        let stamped = logs(&["--timestamps", "--tail=1"])?;
        let stamp = stamped.split(' ').next().unwrap_or_default().to_owned();
        ensure!(stamp.len() > 20 && stamped.ends_with(" second run\n"), "--timestamps prints {stamped:?}");
        ensure!(
            logs(&[&format!("--since-time={stamp}")])? == "second run\n",
            "--since-time={stamp} leaves it out"
        );
        ensure!(logs(&["--since=1h"])? == "second run\n", "--since=1h leaves it out");
        ensure!(
            logs(&["--limit-bytes=6"])? == "second",
            "--limit-bytes=6 prints {:?}",
            logs(&["--limit-bytes=6"])?
        );

        let mut command = client.command(cluster, &["logs", "-f", "echo", "-c", "c", "--tail=0"]);
        let mut child = Beside(command.stdout(Stdio::piped()).spawn()?);
        let mut lines = BufReader::new(child.0.stdout.take().context("stdout is piped")?).lines();
        let mut attached = client.command(cluster, &["attach", "-i", "-q", "echo", "-c", "c"]);
        let mut attached = Beside(attached.stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?);
        // Lines until one is seen: the first may have been told before the log was followed.
        let mut stdin = attached.0.stdin.take().context("stdin is piped")?;
        let line = std::thread::scope(|scope| {
            let (done, stop) = std::sync::mpsc::channel::<()>();
            scope.spawn(move || {
                let pause = Duration::from_millis(200);
                while stop.recv_timeout(pause) == Err(std::sync::mpsc::RecvTimeoutError::Timeout)
                    && stdin.write_all(b"news\n").is_ok()
                {}
            });
            let line = lines.next();
            drop(done);
            line
        });
        let line = line.context("logs -f ends")??;
        ensure!(line == "got news", "logs -f tells {line:?}");
    }
    cluster.ask(&["delete", "namespace", "sessions", "--timeout=60s"]).map(drop)
}
