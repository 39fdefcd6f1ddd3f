//! A node against a fake API and the machine's own kernel: objects in, packets that arrive or not, flows that say why. Needs root.

use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    os::unix::net::UnixStream,
    path::PathBuf,
    process::Command,
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use dataplane::cni::Request;
use futures::{Stream, StreamExt};
use nix::sched::{CloneFlags, setns, unshare};
use observe::{Flow, Kind, Line, Query};
use serde_json::{Value, json};
use telemetry::{Registry, health::Health};

use crate::{
    metrics::Metrics,
    pods::timeline::{Timeline, Timelines},
};

use super::{
    super::{Config, Network, start},
    fakes::{Api, NODES, PODS, POLICIES, node, pod},
};

/// Far longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long to wait for what must not arrive.
const SILENCE: Duration = Duration::from_millis(300);

/// Directories of the test, removed with what is in them.
struct Place {
    config: dataplane::Config,
    _root: tempfile::TempDir,
    cgroup: PathBuf,
}

impl Place {
    fn new() -> Self {
        let name = format!("bowsprit-test-network-{}", std::process::id());
        let root = tempfile::tempdir().unwrap();
        let hybrid = PathBuf::from("/sys/fs/cgroup/unified");
        let cgroups = if hybrid.exists() { hybrid } else { "/sys/fs/cgroup".into() };
        let cgroup = cgroups.join(&name);
        let config = dataplane::Config {
            bpffs: PathBuf::from("/sys/fs/bpf").join(&name),
            cgroup: cgroup.clone(),
            state: root.path().join("state"),
            cni_socket: root.path().join("cni.sock"),
            ..dataplane::Config::default()
        };
        Place { config, _root: root, cgroup }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Err(error) = dataplane::detach(&self.config) {
            eprintln!("detaching: {error}");
        }
        let _ = std::fs::remove_dir(&self.cgroup);
    }
}

/// A pod's network namespace: a thread sleeps in it.
struct Sandbox {
    tid: i32,
    name: &'static str,
    address: IpAddr,
    _release: mpsc::Sender<()>,
}

impl Sandbox {
    /// Made and given a network as the runtime does it.
    fn add(name: &'static str, socket: PathBuf) -> Result<Self, String> {
        let (tell, told) = mpsc::channel();
        let (_release, released) = mpsc::channel::<()>();
        thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            tell.send(nix::unistd::gettid().as_raw()).unwrap();
            let _ = released.recv();
        });
        let tid = told.recv().unwrap();
        let request = Request {
            command: "ADD".into(),
            container: format!("sandbox-{name}"),
            netns: netns(tid),
            ifname: "eth0".into(),
            args: format!("K8S_POD_NAMESPACE=shop;K8S_POD_NAME={name};K8S_POD_UID=uid-{name}"),
            config: json!({ "cniVersion": "1.0.0", "name": "bowsprit", "type": "bowsprit-cni" }),
        };
        let mut stream = UnixStream::connect(socket).unwrap();
        stream.write_all(&serde_json::to_vec(&request).unwrap()).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let answer: Value = serde_json::from_str(&answer).unwrap();
        let address = answer["result"]["ips"][0]["address"].as_str().ok_or_else(|| answer.to_string())?;
        let address = address.split('/').next().unwrap().parse().unwrap();
        Ok(Sandbox { tid, name, address, _release })
    }

    fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let path = netns(self.tid);
        let work = || {
            setns(std::fs::File::open(path).unwrap(), CloneFlags::CLONE_NEWNET).unwrap();
            work()
        };
        thread::scope(|scope| scope.spawn(work).join()).unwrap()
    }

    fn reaches(&self, to: SocketAddr, patience: Duration) -> bool {
        self.inside(|| TcpStream::connect_timeout(&to, patience).is_ok())
    }
}

fn netns(tid: i32) -> String {
    format!("/proc/self/task/{tid}/ns/net")
}

fn run(command: &str) {
    let mut words = command.split_whitespace();
    let status = Command::new(words.next().unwrap()).args(words).status().unwrap();
    assert!(status.success(), "{command}: {status}");
}

async fn ready(network: &Network) {
    let mut obstacle = network.obstacle();
    tokio::time::timeout(PATIENCE, obstacle.wait_for(Option::is_none)).await.expect("ready").unwrap();
}

async fn acknowledged(network: &Network, revision: u64) {
    let mut applied = network.applied_revision();
    let waiting = applied.wait_for(|applied| *applied >= revision);
    tokio::time::timeout(PATIENCE, waiting).await.expect("the revision is acknowledged").unwrap();
}

/// The next flow from `web`.
async fn next_flow(lines: &mut (impl Stream<Item = Arc<Line>> + Unpin), kind: Kind) -> Flow {
    let wanted = async {
        loop {
            let line = lines.next().await.expect("flows go on");
            if let Line::Flow(flow) = &*line
                && flow.event == kind
                && flow.from.pod.as_deref() == Some("web")
            {
                return flow.clone();
            }
        }
    };
    tokio::time::timeout(PATIENCE, wanted).await.expect("a flow")
}

#[test]
fn a_policy_in_the_api_decides_about_packets_and_is_named() {
    // Threads that are made by this one are in its network namespace.
    let test = thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("this test needs root");
        run("ip link set lo up");
        run("ip link add up0 type veth peer name far0");
        run("ip addr add 192.168.0.1/24 dev up0");
        run("ip link set up0 up");
        run("ip link set far0 up");
        run("ip route add default via 192.168.0.254");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(policy_decides());
    });
    if let Err(panic) = test.join() {
        std::panic::resume_unwind(panic);
    }
}

async fn policy_decides() {
    let place = Place::new();
    let api = Api::start(&[]);
    api.put(NODES, node("one", 1, "10.244.0.0/24"));
    let (health, registry) = (Health::new(), Registry::new());
    let config = Config { node: "one".into(), dataplane: place.config.clone() };
    let timelines = Timelines::default();
    let stages = Timeline::begin(Metrics::unregistered().unwrap());
    timelines.insert("shop", "web", stages.clone());
    let network = start(config, api.client(), &health, &registry, timelines).await.unwrap();
    ready(&network).await;
    assert!(health.readiness().passed(), "{}", health.readiness().verbose());

    api.put(
        POLICIES,
        json!({ "metadata": { "name": "db", "namespace": "shop" },
        "spec": { "podSelector": { "matchLabels": { "app": "db" } }, "ingress": [
            { "from": [{ "podSelector": { "matchLabels": { "app": "api" } } }] }] } }),
    );
    let mut sandboxes = Vec::new();
    for name in ["web", "db"] {
        api.put(PODS, pod(name, ""));
        let socket = place.config.cni_socket.clone();
        let added = tokio::task::spawn_blocking(move || Sandbox::add(name, socket)).await.unwrap();
        let sandbox = added.unwrap_or_else(|error| panic!("ADD of {name}: {error}"));
        let revision = api.put(PODS, pod(name, &sandbox.address.to_string()));
        acknowledged(&network, revision).await;
        sandboxes.push(sandbox);
    }
    let (web, db) = (&sandboxes[0], &sandboxes[1]);
    let stages = stages.view().stages;
    assert_eq!(stages.len(), 1, "{stages:?}");
    assert_eq!((&*stages[0].stage, &*stages[0].container), ("address", ""));
    let to = SocketAddr::new(db.address, 5432);
    let _listener = db.inside(|| TcpListener::bind(to).unwrap());
    let follow = Query { follow: true, last: Some(1000), ..Query::default() };
    let mut lines = Box::pin(network.flows().read(follow));

    assert!(!web.reaches(to, SILENCE), "only api may");
    let dropped = next_flow(&mut lines, Kind::Dropped).await;
    assert_eq!(
        (dropped.reason.as_deref(), dropped.direction.as_ref()),
        (Some("PolicyIngress"), "ingress"),
        "{dropped:?}"
    );
    assert_eq!(
        (dropped.to.pod.as_deref(), &*dropped.policies),
        (Some(db.name), &["shop/db".into()][..]),
        "{dropped:?}"
    );
    assert!(
        dropped.source.as_deref().is_some_and(|source| source.starts_with("datapath/src/")),
        "{dropped:?}"
    );

    api.delete(POLICIES, "db");
    let deadline = Instant::now() + PATIENCE;
    while !web.reaches(to, SILENCE) {
        assert!(Instant::now() < deadline, "the policy went, the packets do not come");
        // The runtime has this thread only: the informers need it.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let new = next_flow(&mut lines, Kind::New).await;
    assert_eq!((new.to.pod.as_deref(), new.policies.len()), (Some("db"), 0), "{new:?}");

    assert!(registry.render().contains("network_programming_duration_seconds_count"));

    // The next agent, over a runtime that has lost the one sandbox: its address and device go.
    drop(lines);
    drop(network);
    let config = Config { node: "one".into(), dataplane: place.config.clone() };
    let (health, registry) = (Health::new(), Registry::new());
    let network = start(config, api.client(), &health, &registry, Timelines::default()).await.unwrap();
    ready(&network).await;
    assert_eq!(network.reconcile(&["sandbox-web".to_owned()].into()).unwrap(), 1);
    let left: Vec<_> = network.dataplane().endpoints().borrow().iter().map(|pod| pod.name.clone()).collect();
    assert_eq!(left, ["web".into()]);
}
