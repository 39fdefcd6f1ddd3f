//! What the binary says when it cannot do what it is told: one line that names the subject and the remedy, and a code.
//!
//! `bowsprit` itself is run, on loopback, with a directory of its own. Needs root, because one of the complaints is that
//! it is missing.

use std::io::Read;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A start in a debug build on a busy machine; etcd that is not there is given up after 8 s.
const PATIENCE: Duration = Duration::from_secs(30);
/// sysexits' EX_USAGE.
const BAD_CONFIGURATION: i32 = 64;

struct Ended {
    code: Option<i32>,
    said: String,
}

fn bowsprit(words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bowsprit"));
    command.args(words).env_clear().stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

/// Runs it to its end, which must come by itself.
fn end(mut command: Command) -> Ended {
    let mut child = command.spawn().expect("starts");
    let mut pipe = child.stderr.take().expect("stderr is piped");
    let reader = std::thread::spawn(move || {
        let mut said = String::new();
        pipe.read_to_string(&mut said).expect("is text");
        said
    });
    let deadline = Instant::now() + PATIENCE;
    let status = loop {
        if let Some(status) = child.try_wait().expect("can be waited for") {
            break Some(status);
        }
        if Instant::now() > deadline {
            child.kill().expect("can be killed");
            child.wait().expect("ends");
            break None;
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    let said = reader.join().expect("reads");
    let status = status.unwrap_or_else(|| panic!("{command:?} does not end: {said}"));
    Ended { code: status.code(), said }
}

/// It ends with a failure, and its last line, which is the only one that is no log line, says all of `parts`.
#[track_caller]
fn complains(command: Command, code: i32, parts: &[&str]) {
    let words = format!("{command:?}");
    let Ended { code: got, said } = end(command);
    let lines: Vec<&str> = said.lines().filter(|line| !line.starts_with('{')).collect();
    assert_eq!(got, Some(code), "{words}: {said}");
    assert_eq!(lines.len(), 1, "{words}: more than one line: {said}");
    assert!(!said.contains("panicked") && !said.contains("backtrace"), "{words}: {said}");
    for part in parts {
        assert!(lines[0].contains(part), "{words}: does not say {part:?}: {}", lines[0]);
    }
}

fn file(directory: &Path, name: &str, text: &str) -> String {
    let path = directory.join(name);
    std::fs::write(&path, text).expect("writes");
    path.display().to_string()
}

/// `bowsprit server` on loopback with its data in `directory`.
fn server(directory: &Path, port: u16, more: &[&str]) -> Command {
    let port = port.to_string();
    let data = directory.display().to_string();
    let mut words =
        vec!["server", "--data-dir", &data, "--bind-address", "127.0.0.1", "--secure-port", &port];
    words.extend(["--advertise-address", "127.0.0.1"]);
    words.extend(more);
    bowsprit(&words)
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port").port()
}

/// A server that runs until it is dropped.
struct Running {
    child: Child,
    token: PathBuf,
    port: u16,
}

impl Running {
    fn start(directory: &Path) -> Self {
        let port = free_port();
        let child = server(directory, port, &[]).stderr(Stdio::null()).spawn().expect("starts");
        let running = Self { child, token: directory.join("server/token"), port };
        let deadline = Instant::now() + PATIENCE;
        // Written after the API listens.
        while !directory.join("server/admin.kubeconfig").exists() {
            assert!(Instant::now() < deadline, "the server does not start");
            std::thread::sleep(Duration::from_millis(10));
        }
        running
    }

    fn token(&self) -> String {
        std::fs::read_to_string(&self.token).expect("a token").trim().to_owned()
    }

    fn agent(&self, directory: &Path, token: &str) -> Command {
        let (url, data) = (format!("https://127.0.0.1:{}", self.port), directory.display().to_string());
        let run = directory.join("run").display().to_string();
        bowsprit(&[
            "agent",
            "--server",
            &url,
            "--data-dir",
            &data,
            "--run-dir",
            &run,
            "--node-ip",
            "127.0.0.1",
            "--node-name",
            "n",
            "--token",
            token,
        ])
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.child.kill().expect("can be killed");
        self.child.wait().expect("ends");
    }
}

#[test]
fn a_configuration_file_is_complained_of_by_line_and_key() {
    let directory = tempfile::tempdir().unwrap();
    let check = |text: &str, parts: &[&str]| {
        let path = file(directory.path(), "bowsprit.yaml", text);
        let mut all = vec![path.as_str()];
        all.extend(parts);
        complains(bowsprit(&["server", "--config", &path]), BAD_CONFIGURATION, &all);
    };
    check(
        "log: info\nsecure-prot: 1\n",
        &["line 2", "`secure-prot`", "there is no such setting", "config show"],
    );
    check("secure-port: many\n", &["line 1", "`secure-port`", "`many` will not do", "invalid digit"]);
    check("log: info\n\n'secure-port': 70000\n", &["line 3", "`secure-port`", "70000"]);
    check("data-dir: [/a, /b]\n", &["line 1", "`data-dir`", "one value, not a list"]);
    check("data-dir: {a: b}\n", &["`data-dir`", "a text, a number"]);
    check("bind-address: localhost\n", &["`bind-address`", "localhost", "invalid IP address"]);
    check("service-node-port-range: 30000\n", &["`service-node-port-range`", "30000-32767"]);
    check("cluster-cidr: 10.244.0.0/99\n", &["`cluster-cidr`", "10.244.0.0/99"]);
    check("- a\n- b\n", &["the flags' names as keys"]);
    check("log: [\n", &["YAML", "line"]);
    complains(
        bowsprit(&["server", "--config", "/nowhere.yaml"]),
        BAD_CONFIGURATION,
        &["cannot read /nowhere.yaml", "No such file"],
    );
}

#[test]
fn places_that_cannot_be_used_are_named() {
    let directory = tempfile::tempdir().unwrap();
    let blocked = file(directory.path(), "file", "");
    let under_a_file = Path::new(&blocked).join("data");
    complains(server(&under_a_file, free_port(), &[]), 1, &[&blocked, "--data-dir"]);

    let data = directory.path().join("data");
    let running = Running::start(&data);
    complains(
        server(&data, free_port(), &[]),
        1,
        &["another server runs", &data.display().to_string(), "--data-dir"],
    );
    let other = directory.path().join("other");
    let store = format!("embedded:{}", data.join("server/store").display());
    complains(
        server(&other, free_port(), &["--store", &store]),
        1,
        &["in use by process", "--store embedded:PATH"],
    );
    let port = running.port.to_string();
    complains(server(&other, running.port, &[]), 1, &[&port, "in use", "--secure-port"]);
}

#[test]
fn stores_that_cannot_be_used_are_named() {
    let directory = tempfile::tempdir().unwrap();
    let with = |store: &[&str]| server(directory.path(), free_port(), store);
    complains(with(&["--store", "paper"]), BAD_CONFIGURATION, &["--store", "embedded:", "etcd:"]);
    complains(
        with(&["--store", "etcd:http://127.0.0.1:1"]),
        1,
        &["http://127.0.0.1:1", "refused", "check that it runs"],
    );
    let ca = ["--store", "etcd:https://127.0.0.1:1", "--etcd-ca", "/nowhere/ca.crt"];
    complains(with(&ca), 1, &["/nowhere/ca.crt", "cannot be read"]);
}

#[test]
fn a_store_of_another_cluster_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let (ours, theirs) = (directory.path().join("ours"), directory.path().join("theirs"));
    let store = theirs.join("server/store");
    {
        let _running = Running::start(&theirs);
        await_controllers(&store);
    }
    let store = format!("embedded:{}", store.display());
    complains(
        server(&ours, free_port(), &["--store", &store]),
        1,
        &["another cluster", "server/pki", &store],
    );
}

/// The authority is published by a controller, moments after the start; the log of the store then holds it.
fn await_controllers(store: &Path) {
    let deadline = Instant::now() + PATIENCE;
    let published = || {
        ["log.db", "log.db-wal"].iter().any(|name| {
            let bytes = std::fs::read(store.join(name)).unwrap_or_default();
            bytes.windows(36).any(|window| window == b"configmaps/kube-system/kube-root-ca.")
        })
    };
    while !published() {
        assert!(Instant::now() < deadline, "the authority is not published");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn nodes_that_may_not_join_are_told_why() {
    let directory = tempfile::tempdir().unwrap();
    let running = Running::start(&directory.path().join("server"));
    let node = directory.path().join("node");
    complains(running.agent(&node, "nonsense"), BAD_CONFIGURATION, &["--token"]);
    let token = running.token();
    let (head, last) = token.split_at(token.len() - 1);
    let wrong_secret = format!("{head}{}", if last == "0" { "1" } else { "0" });
    complains(
        running.agent(&node, &wrong_secret),
        1,
        &["node n cannot join", "does not accept its token", "server/token"],
    );
    let another = Running::start(&directory.path().join("another"));
    complains(
        running.agent(&node, &another.token()),
        1,
        &["node n", "not the one in the token", "server/token"],
    );
}

#[test]
fn a_user_who_is_not_root_is_told_at_once() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    let binary = directory.path().join("bowsprit");
    std::fs::copy(env!("CARGO_BIN_EXE_bowsprit"), &binary).unwrap();
    let data = directory.path().join("data").display().to_string();
    for words in [
        &["agent", "--server", "https://127.0.0.1:1", "--data-dir", &data][..],
        &["up", "--data-dir", &data, "--advertise-address", "127.0.0.1", "--node-ip", "127.0.0.1"][..],
    ] {
        let mut command = Command::new(&binary);
        command.args(words).env_clear().stdout(Stdio::null()).stderr(Stdio::piped()).uid(65534);
        complains(command, 1, &["load eBPF programs", "as root"]);
    }
}
