//! A node in a box: the test runs itself again in network, mount and process namespaces of its own, with a private
//! containerd in them. When that process ends, however it ends, the kernel ends and unmounts everything in the box; only
//! cgroup directories outlive it, and the outer process removes those.

use std::collections::HashSet;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use agent::cgroups::Cgroups;
use agent::cluster::OpenGate;
use agent::cluster::fake::FakeCluster;
use agent::metrics::Metrics;
use agent::objects::Pod;
use agent::pods::manager::{Manager, PodChange};
use agent::pods::settings::PodSettings;
use agent::pods::shared::Shared;
use agent::pods::state::RestartLimits;
use agent::pods::traffic::PodNetwork;
use agent::runtime::PodRuntime;
use agent::runtime::containerd::Containerd;
use agent::volumes::NodeFacts;
use dataplane::Arrivals;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Says to the inner process that it is the inner one, and which cgroups are its.
const INNER: &str = "BOWSPRIT_NODE_TEST_CGROUP";

/// The image that tests run.
pub const BUSYBOX: &str = "localhost/busybox:1";
const APPLETS: &[&str] = &[
    "sh", "sleep", "cat", "httpd", "echo", "env", "ls", "id", "dd", "tail", "true", "false", "mount", "kill",
    "nc", "head", "seq", "tr", "stty", "hostname",
];

/// These tests end where the runtime does: nothing leads to their pods.
struct NoNetwork;

impl PodNetwork for NoNetwork {
    fn is_backend(&self, _addresses: &[IpAddr]) -> bool {
        false
    }

    fn arrivals(&self, _addresses: &[IpAddr]) -> Result<Arrivals, String> {
        Ok(Arrivals::default())
    }

    fn reconcile(&self, _sandboxes: &HashSet<String>) -> Result<usize, String> {
        Ok(0)
    }
}

/// containerd is up within 300 ms; a loaded machine gets much longer.
const CONTAINERD_START: Duration = Duration::from_secs(20);

/// Runs `test` in a box. `name` is the path of the calling `#[test]`.
pub fn boxed<F: Future<Output = ()>>(name: &str, test: impl FnOnce() -> F) {
    if std::env::var(INNER).is_ok() {
        prepare_box();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        return runtime.expect("a runtime").block_on(test());
    }
    let cgroup = format!("bowsprit-test-{}-{name}", std::process::id());
    let exe = std::env::current_exe().expect("the test binary");
    let result = Command::new("unshare")
        .args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"])
        .arg(exe)
        .args(["--exact", name, "--nocapture"])
        .env(INNER, &cgroup)
        .output()
        .expect("unshare");
    remove_cgroups(&cgroup);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    println!("{}", text(&result.stdout));
    assert!(result.status.success(), "{}\n{}", text(&result.stdout), text(&result.stderr));
}

fn prepare_box() {
    // Shims always put their sockets here, whichever containerd they belong to.
    fs::create_dir_all("/run/containerd").expect("made");
    run("mount", &["-t", "tmpfs", "tmpfs", "/run/containerd"]);
    run("ip", &["link", "set", "lo", "up"]);
    // The address from which probes come.
    run("ip", &["addr", "add", "10.99.0.1/32", "dev", "lo"]);
    let filter = tracing_subscriber::EnvFilter::from_default_env();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).try_init().ok();
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().expect(program);
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Leaf first, in every hierarchy; processes of the box may take a moment to be reaped.
fn remove_cgroups(name: &str) {
    let Ok(hierarchies) = fs::read_dir("/sys/fs/cgroup") else { return };
    for hierarchy in hierarchies.flatten() {
        let top = hierarchy.path().join(name);
        for _ in 0..100 {
            remove_tree(&top);
            if !top.exists() {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

fn remove_tree(directory: &Path) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path());
        }
    }
    fs::remove_dir(directory).ok();
}

/// Everything of a node but the API server.
pub struct Node {
    pub runtime: Containerd,
    pub cluster: Arc<FakeCluster>,
    pub shared: Arc<Shared>,
    changes: mpsc::Sender<PodChange>,
    manager: JoinHandle<()>,
    containerd: Child,
    directory: TempDir,
}

impl Node {
    /// Starts containerd, imports the image, and starts the pod manager.
    pub async fn start() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        configure(directory.path());
        let containerd = spawn_containerd(directory.path());
        let runtime = Containerd::new(&socket(directory.path())).expect("an absolute path");
        wait_ready(&runtime).await;
        import(directory.path());
        let cluster = Arc::new(FakeCluster::default());
        let (shared, changes, manager) = start_manager(&runtime, &cluster, directory.path());
        Node { runtime, cluster, shared, changes, manager, containerd, directory }
    }

    /// kill -9 for containerd; pods run on.
    pub fn kill_containerd(&mut self) {
        self.containerd.kill().expect("killed");
        self.containerd.wait().expect("reaped");
    }

    /// Starts containerd again.
    pub async fn start_containerd(&mut self) {
        self.containerd = spawn_containerd(self.directory.path());
        wait_ready(&self.runtime).await;
    }

    /// Ends the pod manager and starts another, as an agent's restart does.
    pub fn restart_agent(&mut self) {
        self.manager.abort();
        (self.shared, self.changes, self.manager) =
            start_manager(&self.runtime, &self.cluster, self.directory.path());
    }

    /// Creates or updates a pod.
    pub async fn apply(&self, json: &Value) {
        let pod: Pod = serde_json::from_value(json.clone()).expect("a pod");
        self.changes.send(PodChange::Upsert(Arc::new(pod))).await.expect("the manager listens");
    }

    /// Tells that all pods have been told.
    pub async fn synced(&self) {
        self.changes.send(PodChange::Synced).await.expect("the manager listens");
    }

    /// Deletes a pod and waits until the node has let it go.
    pub async fn delete(&self, json: &Value, grace: i64) {
        let mut pod = json.clone();
        pod["metadata"]["deletionTimestamp"] = json!(chrono::Utc::now() + chrono::Duration::seconds(grace));
        pod["metadata"]["deletionGracePeriodSeconds"] = json!(grace);
        self.apply(&pod).await;
        self.cluster.wait_deleted(pod["metadata"]["uid"].as_str().expect("a uid")).await;
    }

    /// Waits until a pod's newest status passes `test`.
    pub async fn status(&self, uid: &str, test: impl Fn(&Value) -> bool) -> Value {
        self.cluster.wait_status(uid, test).await
    }

    /// Runs a command in a pod's first container.
    pub async fn exec(&self, status: &Value, command: &[&str]) -> (i32, String) {
        let id = status["containerStatuses"][0]["containerID"].as_str().expect("an id");
        let id = id.strip_prefix("containerd://").expect("the prefix");
        let command: Vec<String> = command.iter().map(|word| (*word).to_owned()).collect();
        let output = self.runtime.exec(id, &command, Duration::from_secs(5)).await.expect("executed");
        (output.code, String::from_utf8_lossy(&output.output).into_owned())
    }

    /// Where pods go in the cgroup hierarchies.
    pub fn cgroup(&self) -> String {
        std::env::var(INNER).expect("inside the box")
    }

    /// The node's directory.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.manager.abort();
        self.containerd.kill().ok();
        self.containerd.wait().ok();
    }
}

fn start_manager(
    runtime: &Containerd,
    cluster: &Arc<FakeCluster>,
    directory: &Path,
) -> (Arc<Shared>, mpsc::Sender<PodChange>, JoinHandle<()>) {
    let cgroup = std::env::var(INNER).expect("inside the box");
    let facts = NodeFacts { host_ips: vec!["192.168.0.1".parse().expect("ip")], ..NodeFacts::default() };
    let settings = PodSettings {
        node_name: "node-1".into(),
        pods_directory: directory.join("pods"),
        logs_directory: directory.join("logs"),
        cgroups: Cgroups::discover(&cgroup).expect("mountinfo"),
        facts: Arc::new(facts),
        memory_capacity: 1 << 32,
        cluster_dns: Vec::new(),
        cluster_domain: "cluster.local".into(),
        resolv_conf: "/etc/resolv.conf".into(),
        restart_limits: RestartLimits { first: Duration::from_secs(1), ..RestartLimits::default() },
    };
    let metrics = Metrics::unregistered().expect("metrics");
    let shared = Arc::new(Shared::new(
        Arc::new(runtime.clone()),
        cluster.clone(),
        Arc::new(OpenGate),
        Arc::new(NoNetwork),
        settings,
        metrics,
    ));
    let (changes, receiver) = mpsc::channel(256);
    let manager = tokio::spawn(Manager::new(shared.clone()).run(receiver));
    (shared, changes, manager)
}

// === containerd ===

fn socket(directory: &Path) -> String {
    directory.join("containerd.sock").display().to_string()
}

fn configure(directory: &Path) {
    let text = format!(
        r#"version = 2
root = "{0}/root"
state = "{0}/state"
[grpc]
  address = "{0}/containerd.sock"
[ttrpc]
  address = "{0}/containerd.sock.ttrpc"
[debug]
  address = "{0}/debug.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{BUSYBOX}"
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "{0}/cni/bin"
  conf_dir = "{0}/cni/net.d"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
  Root = "{0}/runc"
"#,
        directory.display()
    );
    fs::write(directory.join("containerd.toml"), text).expect("written");
    fs::create_dir_all(directory.join("cni/bin")).expect("made");
    fs::create_dir_all(directory.join("cni/net.d")).expect("made");
    let list = json!({"cniVersion": "0.4.0", "name": "test", "plugins": [{"type": "pair"}]});
    fs::write(directory.join("cni/net.d/10-test.conflist"), list.to_string()).expect("written");
    script(
        &directory.join("cni/bin/loopback"),
        "cat >/dev/null\necho '{\"cniVersion\":\"0.4.0\",\"ips\":[]}'",
    );
    script(&directory.join("cni/bin/pair"), PAIR);
}

/// A veth pair between the box and the pod; the address grows with each pod.
const PAIR: &str = r#"cat >/dev/null
host=p$(echo "$CNI_CONTAINERID" | cut -c1-10)
case "$CNI_COMMAND" in
ADD)
  dir=$(dirname "$0"); exec 9>"$dir/lock"; flock 9
  n=$(cat "$dir/last" 2>/dev/null || echo 1); n=$((n+1)); echo $n >"$dir/last"; flock -u 9
  ip link add "$host" type veth peer name eth0 netns "$CNI_NETNS" || exit 1
  ip link set "$host" up
  ip route add 10.99.0.$n dev "$host"
  nsenter --net="$CNI_NETNS" sh -c "ip link set lo up; ip addr add 10.99.0.$n/32 dev eth0; ip link set eth0 up; ip route add default dev eth0"
  echo "{\"cniVersion\":\"0.4.0\",\"interfaces\":[{\"name\":\"eth0\",\"sandbox\":\"$CNI_NETNS\"}],\"ips\":[{\"version\":\"4\",\"address\":\"10.99.0.$n/32\",\"interface\":0}]}" ;;
DEL) ip link del "$host" 2>/dev/null; exit 0 ;;
VERSION) echo '{"cniVersion":"0.4.0","supportedVersions":["0.3.1","0.4.0"]}' ;;
esac"#;

fn script(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt;
    fs::write(path, format!("#!/bin/sh\n{text}\n")).expect("written");
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("executable");
}

fn spawn_containerd(directory: &Path) -> Child {
    let log =
        fs::File::options().create(true).append(true).open(directory.join("containerd.log")).expect("a log");
    Command::new("containerd")
        .arg("--config")
        .arg(directory.join("containerd.toml"))
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .expect("containerd is installed")
}

async fn wait_ready(runtime: &Containerd) {
    let wait = async {
        while !runtime.readiness().await.is_ok_and(|ready| ready.runtime && ready.network) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(CONTAINERD_START, wait).await.expect("containerd gets ready");
}

fn import(directory: &Path) {
    let archive: PathBuf = directory.join("busybox.tar");
    let links: Vec<(String, &str)> =
        APPLETS.iter().map(|applet| (format!("/bin/{applet}"), "/bin/busybox")).collect();
    let links: Vec<(&str, &str)> = links.iter().map(|(from, to)| (from.as_str(), *to)).collect();
    let image = rig::image::Image {
        reference: BUSYBOX,
        files: &[("/bin/busybox", Path::new("/bin/busybox"))],
        links: &links,
        entrypoint: &["/bin/sleep", "2147483647"],
    };
    rig::image::write(&image, &archive).expect("an image");
    let address = socket(directory);
    run("ctr", &["--address", &address, "-n", "k8s.io", "images", "import", &archive.display().to_string()]);
}
