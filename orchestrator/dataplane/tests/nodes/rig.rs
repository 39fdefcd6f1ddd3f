//! Nodes, pods and an outside host, wired and removed again.

use std::{
    collections::HashMap,
    fs, io,
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::unix::net::UnixStream,
    path::PathBuf,
    process::Command,
    sync::{
        Arc, Weak,
        atomic::{AtomicU32, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use dataplane::{Config, Dataplane, PodDirectory, cni::Request};
use netplan::{
    Ids, Snapshot, compile,
    snapshot::{Cluster, LocalEndpoint, Node as ApiNode, Pod as ApiPod, Routing},
    testing,
};
use nix::sched::{CloneFlags, setns, unshare};
use parking_lot::Mutex;
use serde_json::{Value, json};

/// How long a packet may take: far more than the slowest machine needs, so that only a lost one is late.
pub const PATIENCE: Duration = Duration::from_secs(2);
/// How long to wait for what must not arrive.
pub const SILENCE: Duration = Duration::from_millis(400);

/// Numbers that keep tests of one process and of several apart.
static NEXT: AtomicU32 = AtomicU32::new(0);

/// A network namespace that lives as long as this: a thread sleeps in it.
pub struct Namespace {
    tid: i32,
    release: Option<mpsc::Sender<()>>,
    holder: Option<JoinHandle<()>>,
}

/// Several nodes and one host outside the cluster.
pub struct Rig {
    pub nodes: Vec<Node>,
    pub outside: Namespace,
    cluster: Arc<Mutex<Snapshot>>,
    _bridge: Namespace,
    root: PathBuf,
    bpffs: PathBuf,
    cgroup: PathBuf,
}

/// A node with its dataplane.
pub struct Node {
    pub name: String,
    pub address: IpAddr,
    pub namespace: Namespace,
    config: Config,
    cluster: Arc<Mutex<Snapshot>>,
    running: Option<Running>,
}

struct Running {
    registry: telemetry::Registry,
    dataplane: Arc<Dataplane>,
    directory: Arc<Directory>,
}

/// A pod made through CNI.
pub struct Pod {
    pub name: String,
    pub address: IpAddr,
    /// All its addresses.
    pub addresses: Vec<IpAddr>,
    pub namespace: Namespace,
    container: String,
    socket: PathBuf,
}

/// Compiles what the rig says the API says.
pub struct Directory {
    node: String,
    /// Weak: the dataplane's CNI server holds this.
    dataplane: Weak<Dataplane>,
    cluster: Arc<Mutex<Snapshot>>,
    ids: Mutex<(Ids, Instant)>,
}

// === impl Namespace ===

impl Namespace {
    pub fn new() -> Self {
        let (tell, told) = mpsc::channel();
        let (release, released) = mpsc::channel::<()>();
        let holder = thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).expect("these tests need root");
            run("ip link set lo up");
            tell.send(nix::unistd::gettid().as_raw()).unwrap();
            let _ = released.recv();
        });
        let tid = told.recv().unwrap();
        Namespace { tid, release: Some(release), holder: Some(holder) }
    }

    pub fn path(&self) -> PathBuf {
        format!("/proc/self/task/{}/ns/net", self.tid).into()
    }

    /// Runs `work` on a thread inside.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let path = self.path();
        thread::scope(|scope| {
            let worker = scope.spawn(|| {
                setns(fs::File::open(path).unwrap(), CloneFlags::CLONE_NEWNET).unwrap();
                work()
            });
            match worker.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// Serves `name` to everyone who connects, and to every datagram, until the process ends.
    pub fn serve(&self, name: &str, address: IpAddr, port: u16) {
        let (tcp, udp) = self.inside(|| {
            let at = SocketAddr::new(address, port);
            (TcpListener::bind(at).unwrap(), UdpSocket::bind(at).unwrap())
        });
        let tcp_name = name.to_owned();
        thread::spawn(move || {
            for stream in tcp.incoming() {
                let (Ok(mut stream), name) = (stream, tcp_name.clone()) else { return };
                thread::spawn(move || echo(&mut stream, &name));
            }
        });
        let name = name.to_owned();
        thread::spawn(move || {
            let mut buffer = [0; 2048];
            while let Ok((_, from)) = udp.recv_from(&mut buffer) {
                let _ = udp.send_to(format!("{name} {from}").as_bytes(), from);
            }
        });
    }

    /// Connects, and says who answered and what address it saw.
    pub fn ask(&self, to: &str) -> io::Result<String> {
        self.connect(to, PATIENCE).and_then(|mut stream| ask(&mut stream))
    }

    pub fn connect(&self, to: &str, patience: Duration) -> io::Result<TcpStream> {
        let to: SocketAddr = to.parse().unwrap();
        let stream = self.inside(|| TcpStream::connect_timeout(&to, patience))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(stream)
    }

    /// The same by UDP.
    pub fn ask_udp(&self, to: &str, patience: Duration) -> io::Result<String> {
        let socket = self.inside(|| UdpSocket::bind("0.0.0.0:0"))?;
        socket.set_read_timeout(Some(patience))?;
        socket.send_to(b"?", to)?;
        let mut buffer = [0; 2048];
        let (length, from) = socket.recv_from(&mut buffer)?;
        assert_eq!(from.to_string(), to, "the answer comes from whom we asked");
        Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
    }

    /// Runs a command inside.
    pub fn run(&self, command: &str) {
        self.inside(|| run(command));
    }

    /// What a command inside prints.
    pub fn output(&self, command: &str) -> String {
        self.inside(|| {
            let mut words = command.split_whitespace();
            let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
            String::from_utf8_lossy(&output.stdout).into_owned()
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        self.release = None;
        let _ = self.holder.take().map(JoinHandle::join);
    }
}

/// Answers each line with the name and the peer's address.
fn echo(stream: &mut TcpStream, name: &str) {
    let peer = stream.peer_addr().map(|peer| peer.to_string()).unwrap_or_default();
    let mut byte = [0];
    while stream.read(&mut byte).is_ok_and(|count| count == 1) {
        if byte[0] == b'\n' && stream.write_all(format!("{name} {peer}\n").as_bytes()).is_err() {
            return;
        }
    }
}

/// Asks once over an open connection.
pub fn ask(stream: &mut TcpStream) -> io::Result<String> {
    stream.write_all(b"\n")?;
    let mut answer = Vec::new();
    let mut byte = [0];
    loop {
        if stream.read(&mut byte)? == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
        }
        if byte[0] == b'\n' {
            return Ok(String::from_utf8_lossy(&answer).into_owned());
        }
        answer.push(byte[0]);
    }
}

fn run(command: &str) {
    let mut words = command.split_whitespace();
    let status = Command::new(words.next().unwrap()).args(words).status().unwrap();
    assert!(status.success(), "{command}: {status}");
}

// === impl Rig ===

impl Rig {
    /// Nodes `node-1`... at 192.168.77.1..., an outside host at 192.168.77.254.
    pub fn new(nodes: u8, routing: Routing) -> Self {
        Self::with(nodes, routing, |_| {})
    }

    /// As `new`, with other settings.
    pub fn with(nodes: u8, routing: Routing, configure: impl Fn(&mut Config)) -> Self {
        let name = format!("test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let root = std::env::temp_dir().join(format!("bowsprit-{name}"));
        let bpffs = PathBuf::from("/sys/fs/bpf").join(format!("bowsprit-{name}"));
        let cgroup = cgroup_root().join(format!("bowsprit-{name}"));
        let bridge = Namespace::new();
        bridge.run("ip link add br0 type bridge");
        bridge.run("ip link set br0 up");
        let outside = Namespace::new();
        join(&bridge, &outside, "outside", "192.168.77.254");
        let mut told = Config::default();
        configure(&mut told);
        let cluster = Arc::new(Mutex::new(api(nodes, routing, &told)));
        let mut rig = Rig { nodes: vec![], outside, cluster, _bridge: bridge, root, bpffs, cgroup };
        for number in 1..=nodes {
            let namespace = Namespace::new();
            join(&rig._bridge, &namespace, &format!("port{number}"), &format!("192.168.77.{number}"));
            namespace.run("ip route add default via 192.168.77.254");
            let name = format!("node-{number}");
            let mut config = Config {
                bpffs: rig.bpffs.join(&name),
                cgroup: rig.cgroup.join(&name),
                state: rig.root.join(&name),
                cni_socket: rig.root.join(&name).join("cni.sock"),
                routing,
                policy_wait: Duration::from_secs(1),
                ..Config::default()
            };
            configure(&mut config);
            let address = IpAddr::from([192, 168, 77, number]);
            let cluster = rig.cluster.clone();
            rig.nodes.push(Node { name, address, namespace, config, cluster, running: None });
        }
        rig.nodes.iter_mut().for_each(Node::start);
        rig
    }

    /// Changes what the API says, and lets every node know.
    pub fn change(&self, change: impl FnOnce(&mut Snapshot)) {
        {
            let mut cluster = self.cluster.lock();
            change(&mut cluster);
            cluster.revision += 1;
        }
        self.nodes.iter().for_each(Node::sync);
    }

    /// A running pod of namespace `default`, known to every node, that answers on port 8080.
    pub fn pod(&self, node: usize, name: &str) -> Pod {
        let pod = self.quiet_pod(node, name);
        pod.namespace.serve(name, pod.address, 8080);
        pod
    }

    /// As `pod`, but nothing listens.
    pub fn quiet_pod(&self, node: usize, name: &str) -> Pod {
        let (pod, _) = self.timed_pod(node, name);
        self.change(|cluster| {
            let known = cluster.pods.iter_mut().find(|known| &*known.name == name).unwrap();
            *known = Arc::new(ApiPod { addresses: pod.addresses.clone(), ..(**known).clone() });
        });
        pod
    }

    /// A pod after its ADD, and how long that took; the API does not tell of its address yet.
    pub fn timed_pod(&self, node: usize, name: &str) -> (Pod, Duration) {
        let node = &self.nodes[node];
        self.cluster.lock().pods.push(Arc::new(ApiPod {
            node: node.name.as_str().into(),
            addresses: vec![],
            ..testing::pod(name, "0.0.0.0")
        }));
        let namespace = Namespace::new();
        let container = format!("{name}-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let socket = node.config.cni_socket.clone();
        let (address, addresses) = (node.address, vec![]);
        let mut pod = Pod { name: name.into(), address, addresses, namespace, container, socket };
        let started = Instant::now();
        let result = pod.cni("ADD").expect("ADD succeeds");
        let took = started.elapsed();
        let ips = result["ips"].as_array().unwrap().iter().map(|ip| ip["address"].as_str().unwrap());
        pod.addresses = ips.map(|ip| ip.split('/').next().unwrap().parse().unwrap()).collect();
        pod.address = pod.addresses[0];
        (pod, took)
    }

    /// Takes a pod away, first from the node, then from the API.
    pub fn stop_pod(&self, pod: &Pod) {
        pod.cni("DEL").expect("DEL succeeds");
        self.change(|cluster| cluster.pods.retain(|known| *known.name != pod.name));
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            node.stop();
            let config = node.config.clone();
            if let Err(error) = node.namespace.inside(|| dataplane::detach(&config)) {
                eprintln!("detaching {}: {error}", node.name);
            }
            let _ = fs::remove_dir(&node.config.cgroup);
        }
        let _ = fs::remove_dir(&self.cgroup);
        let _ = fs::remove_dir(&self.bpffs);
        let _ = fs::remove_dir_all(&self.root);
    }
}

/// Joins a namespace to the bridge as `up0`.
fn join(bridge: &Namespace, member: &Namespace, port: &str, address: &str) {
    bridge.run(&format!("ip link add {port} master br0 up type veth peer name up0 netns {}", member.tid));
    member.run(&format!("ip addr add {address}/24 dev up0"));
    member.run("ip link set up0 up");
}

fn api(nodes: u8, routing: Routing, config: &Config) -> Snapshot {
    let dual = config.pod_cidrs.iter().any(|cidr| cidr.addr().is_ipv6());
    let node = |number: u8| {
        let v6 = dual.then(|| format!("fd00:10:0:{number}::/64").parse().unwrap());
        let v4 = format!("10.244.{number}.0/24").parse().unwrap();
        Arc::new(ApiNode {
            name: format!("node-{number}").into(),
            addresses: vec![IpAddr::from([192, 168, 77, number])],
            pod_cidrs: [v4].into_iter().chain(v6).collect(),
        })
    };
    let base = testing::snapshot();
    Snapshot {
        cluster: Cluster { routing, pod_cidrs: config.pod_cidrs.clone(), ..base.cluster.clone() },
        nodes: (1..=nodes).map(node).collect(),
        ..base
    }
}

/// The cgroup v2 hierarchy, also on a hybrid host.
fn cgroup_root() -> PathBuf {
    let hybrid = PathBuf::from("/sys/fs/cgroup/unified");
    if hybrid.exists() { hybrid } else { "/sys/fs/cgroup".into() }
}

// === impl Node ===

impl Node {
    /// Starts the dataplane, on what a predecessor left.
    pub fn start(&mut self) {
        let registry = telemetry::Registry::new();
        let dataplane = self.namespace.inside(|| {
            Dataplane::start(self.config.clone(), &registry).map_err(|error| {
                format!("{error}: {:?}", std::error::Error::source(&error).map(ToString::to_string))
            })
        });
        let dataplane = Arc::new(dataplane.unwrap());
        let ids = Mutex::new((dataplane.ids(), Instant::now()));
        let directory = Arc::new(Directory {
            node: self.name.clone(),
            dataplane: Arc::downgrade(&dataplane),
            cluster: self.cluster.clone(),
            ids,
        });
        let cidrs =
            self.cluster.lock().nodes.iter().find(|n| *n.name == *self.name).unwrap().pod_cidrs.clone();
        dataplane.set_pod_cidrs(&cidrs);
        self.namespace.inside(|| dataplane.serve_cni(directory.clone())).unwrap();
        self.running = Some(Running { registry, dataplane, directory });
        self.sync();
    }

    /// Ends the dataplane's process half, as a killed agent does.
    pub fn stop(&mut self) {
        self.running = None;
    }

    pub fn dataplane(&self) -> &Dataplane {
        &self.running.as_ref().unwrap().dataplane
    }

    /// A metric by its name and labels as they are printed.
    pub fn metric(&self, name: &str) -> Option<f64> {
        let text = self.running.as_ref().unwrap().registry.render();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.map(|value| value.parse().unwrap())
    }

    fn sync(&self) {
        if let Some(running) = &self.running {
            self.namespace.inside(|| running.directory.sync());
        }
    }

    pub fn config(&self) -> &Config {
        &self.config
    }
}

// === impl Pod ===

impl Pod {
    /// Asks the node's CNI as the plugin does.
    pub fn cni(&self, command: &str) -> Result<Value, String> {
        let request = Request {
            command: command.into(),
            container: self.container.clone(),
            netns: self.namespace.path().display().to_string(),
            ifname: "eth0".into(),
            args: format!("K8S_POD_NAMESPACE=default;K8S_POD_NAME={0};K8S_POD_UID=uid-{0}", self.name),
            config: json!({ "cniVersion": "1.0.0", "name": "bowsprit", "type": "bowsprit-cni" }),
        };
        call(&self.socket, &request)
    }

    pub fn at(&self, port: u16) -> String {
        format!("{}:{port}", self.address)
    }
}

/// One request over the CNI socket.
pub fn call(socket: &std::path::Path, request: &Request) -> Result<Value, String> {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.write_all(&serde_json::to_vec(request).unwrap()).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let mut answer: HashMap<String, Value> = serde_json::from_str(&answer).unwrap();
    match answer.remove("result") {
        Some(result) => Ok(result),
        None => Err(answer["error"].to_string()),
    }
}

// === impl Directory ===

impl Directory {
    /// Compiles the cluster as it is now and lets the kernel hold that.
    fn sync(&self) {
        let Some(dataplane) = self.dataplane.upgrade() else { return };
        let mut ids = self.ids.lock();
        let mut snapshot = self.cluster.lock().clone();
        snapshot.node = self.node.as_str().into();
        snapshot.endpoints = dataplane.endpoints().borrow().to_vec();
        let since = ids.1.elapsed();
        ids.0.set_now(since);
        let plan = compile(&snapshot, &mut ids.0);
        dataplane.apply(&plan).unwrap();
    }
}

impl PodDirectory for Directory {
    fn uid(&self, _: &str, name: &str, _: Instant) -> Option<String> {
        Some(format!("uid-{name}"))
    }

    fn programmed(&self, endpoint: &LocalEndpoint, deadline: Instant) -> Result<(), String> {
        if !self.cluster.lock().pods.iter().any(|pod| pod.uid == endpoint.uid) {
            thread::sleep(deadline.saturating_duration_since(Instant::now()));
            return Err("the pod is not known".into());
        }
        self.sync();
        Ok(())
    }

    fn wired(&self, _: &LocalEndpoint, _: Duration, _: Duration) {}
}
