//! A cluster from nothing to serving, and back to nothing.

use crate::command::{command, output, read};
use crate::containerd::{self, PAUSE_IMAGE, WORKLOAD_IMAGE};
use crate::image::{self, Image};
use crate::journal::{Journal, Process, Resource, cgroup_v2_root, wait_for};
use crate::keeper::{self, Spec as KeeperSpec};
use crate::layout::{API_PORT, GATEWAY, Layout, NodeLayout};
use crate::{etcd, namespaces};
use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io::ErrorKind;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A containerd starts in 200 ms alone; three at once on two busy cores take longer.
const CONTAINERD_START: Duration = Duration::from_secs(30);
/// The server makes its certificates and opens its store before it writes these.
const SERVER_START: Duration = Duration::from_secs(60);

/// A server that ended more often than this while it should start will not start.
const RESTARTS_MAX: usize = 2;

/// What runs on a node, in the order of its start.
const PROCESSES: [&str; 3] = ["etcd", "containerd", "bowsprit"];

/// Which store the server uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Store {
    /// The embedded one.
    Embedded,
    /// A real etcd with TLS on the first node.
    Etcd,
}

/// How packets get from node to node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Routing {
    /// Encapsulated.
    Vxlan,
    /// By routes: the nodes share a segment.
    Native,
}

impl Routing {
    fn word(self) -> &'static str {
        match self {
            Self::Vxlan => "vxlan",
            Self::Native => "native",
        }
    }
}

/// What kind of cluster.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Spec {
    /// Its name; at most 12 characters, because device and socket names carry it.
    pub name: String,
    /// How many nodes, the server included.
    pub nodes: usize,
    /// Which store.
    pub store: Store,
    /// How packets get from node to node.
    pub routing: Routing,
    /// The directory with `bowsprit`, `rig` and `workload`.
    pub binaries: PathBuf,
    /// Where clusters keep their state: `target/cluster`.
    pub clusters: PathBuf,
    /// More flags for every `bowsprit` process.
    pub flags: Vec<String>,
}

/// A cluster on this machine.
#[derive(Debug, Clone)]
pub struct Cluster {
    /// What it was made from.
    pub spec: Spec,
    /// Names and paths.
    pub layout: Layout,
    /// The API server's port on the machine's loopback.
    pub api_port: u16,
    /// The file of each node's mount namespace.
    pub mounts: Vec<PathBuf>,
    /// Whether every node was started; not when `up` failed or was interrupted.
    pub complete: bool,
}

#[derive(Serialize, Deserialize)]
struct Description {
    spec: Spec,
    api_port: u16,
    mounts: Vec<PathBuf>,
    complete: bool,
}

/// Told about each step of `up` while it happens.
pub type Progress<'a> = &'a dyn Fn(&str);

/// The machine's part of a cluster: namespaces, containerd with the images. No `bowsprit` runs yet, or needs to be built.
#[must_use = "it does nothing before it is started"]
pub struct Prepared {
    cluster: Cluster,
    journal: Journal,
}

impl Prepared {
    /// Starts the server and the agents; returns when the API server answers and every agent has been started.
    ///
    /// # Errors
    /// As [`Cluster::up`].
    pub fn start(self, say: Progress<'_>) -> Result<Cluster> {
        let Self { mut cluster, mut journal } = self;
        say("starting the server");
        cluster.start_server(&mut journal)?;
        cluster.await_api()?;
        if cluster.spec.nodes > 1 {
            say("joining the other nodes");
            for index in 2..=cluster.spec.nodes {
                cluster.start_agent(index, &mut journal)?;
            }
        }
        cluster.complete = true;
        cluster.save()?;
        Ok(cluster)
    }
}

impl Cluster {
    /// Makes the cluster and returns when its API server answers and every agent has been started.
    ///
    /// # Errors
    /// The step that failed, with the end of the log that explains it. What was made stays, to be looked at and taken
    /// down.
    pub fn up(spec: Spec, say: Progress<'_>) -> Result<Self> {
        Self::prepare(spec, say)?.start(say)
    }

    /// Makes all of the cluster that needs `rig` and `workload` only.
    ///
    /// # Errors
    /// As [`Cluster::up`].
    pub fn prepare(spec: Spec, say: Progress<'_>) -> Result<Prepared> {
        check_new(&spec.clusters, &spec.name)?;
        ensure!(spec.name.len() <= 12, "the cluster's name `{}` is longer than 12 characters", spec.name);
        ensure!(
            (1..=100).contains(&spec.nodes),
            "a cluster on one machine has 1 to 100 nodes, not {}",
            spec.nodes
        );
        let layout = Layout::new(&spec.clusters, &spec.name);
        fs::create_dir_all(&spec.clusters)
            .with_context(|| format!("cannot make {}", spec.clusters.display()))?;
        let mut journal = Journal::open(&layout.journal())?;
        for directory in [layout.directory.clone(), layout.run_directory()] {
            journal.record(&Resource::Directory(directory.clone()))?;
            fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
        }
        journal.record(&Resource::Cgroup(format!("/{}", spec.name)))?;

        say("making the network and the nodes' namespaces");
        namespaces::make_segment(&layout, &mut journal)?;
        let mut cluster = Self { api_port: free_port()?, mounts: Vec::new(), layout, spec, complete: false };
        for index in 1..=cluster.spec.nodes {
            cluster.make_node(index, &mut journal)?;
        }
        cluster.save()?;

        say("starting containerd on every node and importing the images");
        let images = cluster.write_images()?;
        for index in 1..=cluster.spec.nodes {
            cluster.start_containerd(index, &mut journal)?;
        }
        std::thread::scope(|scope| {
            let imports: Vec<_> = (1..=cluster.spec.nodes)
                .map(|index| {
                    scope.spawn({
                        let (c, i) = (&cluster, &images);
                        move || c.import(index, i)
                    })
                })
                .collect();
            imports
                .into_iter()
                .try_for_each(|thread| thread.join().unwrap_or_else(|_| bail!("an import panicked")))
        })?;
        Ok(Prepared { cluster, journal })
    }

    /// The cluster `name`, if there is one.
    ///
    /// # Errors
    /// When there is none, or its description was written by another version.
    pub fn open(clusters: &Path, name: &str) -> Result<Self> {
        let layout = Layout::new(clusters, name);
        let file = layout.description();
        let bytes = fs::read(&file)
            .with_context(|| format!("there is no cluster `{name}`: `cargo xtask up` makes one"))?;
        let Description { spec, api_port, mounts, complete } =
            serde_json::from_slice(&bytes).with_context(|| {
                format!("{} was written by another version: `cargo xtask down`, then `up`", file.display())
            })?;
        Ok(Self { spec, layout, api_port, mounts, complete })
    }

    fn save(&self) -> Result<()> {
        let Self { spec, layout: _, api_port, mounts, complete } = self.clone();
        let description = Description { spec, api_port, mounts, complete };
        fs::write(self.layout.description(), serde_json::to_vec_pretty(&description)?)
            .context("cannot describe the cluster")
    }

    /// The nodes, the server first.
    #[must_use]
    pub fn nodes(&self) -> Vec<NodeLayout> {
        (1..=self.spec.nodes).map(|index| self.layout.node(index)).collect()
    }

    fn make_node(&mut self, index: usize, journal: &mut Journal) -> Result<()> {
        let node = self.layout.node(index);
        for directory in [&node.directory, &node.run_directory] {
            fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
        }
        namespaces::make_node(&self.layout, &node, journal)?;
        self.mounts.push(namespaces::hold_mounts(&self.binary("rig"), &node, journal)?);
        Ok(())
    }

    fn binary(&self, name: &str) -> PathBuf {
        self.spec.binaries.join(name)
    }

    fn write_images(&self) -> Result<Vec<PathBuf>> {
        let workload = self.binary("workload");
        let files: &[(&str, &Path)] = &[("/bin/workload", &workload)];
        let images = [
            Image {
                reference: PAUSE_IMAGE,
                files,
                links: &[("/pause", "/bin/workload")],
                entrypoint: &["/pause"],
            },
            Image { reference: WORKLOAD_IMAGE, files, links: &[], entrypoint: &["/bin/workload", "serve"] },
            busybox_image(),
        ];
        let mut archives = Vec::new();
        for (image, name) in images.iter().zip(["pause.tar", "workload.tar", "busybox.tar"]) {
            let archive = self.layout.directory.join(name);
            image::write(image, &archive)?;
            archives.push(archive);
        }
        Ok(archives)
    }

    /// Starts a process of a node under a keeper.
    ///
    /// # Errors
    /// When the keeper cannot be started.
    fn keep(
        &self,
        index: usize,
        process: &str,
        argv: Vec<String>,
        listen: Vec<u16>,
        journal: &mut Journal,
    ) -> Result<()> {
        let node = self.layout.node(index);
        let cgroup =
            cgroup_v2_root().context("no cgroup v2 is mounted: mount -t cgroup2 none /sys/fs/cgroup")?;
        let cgroup = cgroup.join(node.cgroup.trim_start_matches('/')).join("system");
        fs::create_dir_all(&cgroup)
            .with_context(|| format!("cannot make the cgroup {}", cgroup.display()))?;
        let mounts = self.mounts.get(index - 1).context("the node has a mount namespace")?.clone();
        let spec = KeeperSpec {
            name: format!("{}/{process}", node.name),
            argv,
            env: Vec::new(),
            namespaces: vec![node.namespace_file(), mounts],
            cgroup: Some(cgroup),
            listen,
            log: node.log(process),
            pid_file: node.pid_file(process),
        };
        fs::write(node.keeper_spec(process), serde_json::to_vec_pretty(&spec)?)?;
        self.start_keeper(&node, process, journal)
    }

    fn start_keeper(&self, node: &NodeLayout, process: &str, journal: &mut Journal) -> Result<()> {
        let mut keeper = Command::new(self.binary("rig"));
        keeper.arg("keep").arg(node.keeper_spec(process));
        let (own, what) = (format!("{process}-keeper"), format!("the keeper of {}/{process}", node.name));
        keeper::begin(keeper, &what, &node.pid_file(&own), &node.log(&own), journal).map(drop)
    }

    fn start_containerd(&self, index: usize, journal: &mut Journal) -> Result<()> {
        let node = self.layout.node(index);
        let argv = containerd::configure(&node)?;
        self.keep(index, "containerd", argv, Vec::new(), journal)
    }

    fn import(&self, index: usize, archives: &[PathBuf]) -> Result<()> {
        let node = self.layout.node(index);
        let mounts = self.mounts.get(index - 1).context("the node has a mount namespace")?;
        let answers = || {
            let mut version = command("ctr", ["--address"]);
            version.arg(node.containerd_socket()).arg("version");
            output(&mut version).is_ok_and(|output| output.status.success())
        };
        self.explained(
            index,
            "containerd",
            wait_for(CONTAINERD_START, answers).context("containerd does not answer"),
        )?;
        archives.iter().try_for_each(|archive| containerd::import(&node, mounts, archive))
    }

    fn start_server(&self, journal: &mut Journal) -> Result<()> {
        let node = self.layout.node(1);
        let store = self.store_flags(journal)?;
        let mut argv = vec![self.binary("bowsprit").display().to_string(), "up".to_owned()];
        argv.extend(self.agent_flags(&node));
        argv.extend(flags(&[
            ("--bind-address", node.address.clone()),
            ("--secure-port", API_PORT.to_string()),
            ("--advertise-address", node.address.clone()),
            ("--tls-san", "127.0.0.1".to_owned()),
            ("--kubeconfig-out", self.layout.kubeconfig().display().to_string()),
            ("--kubeconfig-server", format!("https://127.0.0.1:{}", self.api_port)),
        ]));
        argv.extend(store);
        self.keep(1, "bowsprit", argv, vec![self.api_port], journal)
    }

    fn store_flags(&self, journal: &mut Journal) -> Result<Vec<String>> {
        let node = self.layout.node(1);
        if self.spec.store == Store::Embedded {
            let path = node.directory.join("bowsprit/store");
            return Ok(flags(&[("--store", format!("embedded:{}", path.display()))]));
        }
        let (argv, credentials) = etcd::configure(&node)?;
        self.keep(1, "etcd", argv, Vec::new(), journal)?;
        Ok(flags(&[
            ("--store", format!("etcd:https://127.0.0.1:{}", etcd::CLIENT_PORT)),
            ("--etcd-ca", credentials.ca.display().to_string()),
            ("--etcd-cert", credentials.certificate.display().to_string()),
            ("--etcd-key", credentials.key.display().to_string()),
        ]))
    }

    fn start_agent(&self, index: usize, journal: &mut Journal) -> Result<()> {
        let node = self.layout.node(index);
        let token_file = self.layout.node(1).directory.join("bowsprit/server/token");
        let token = fs::read_to_string(&token_file)
            .with_context(|| format!("cannot read {}", token_file.display()))?;
        let mut argv = vec![self.binary("bowsprit").display().to_string(), "agent".to_owned()];
        argv.extend(self.agent_flags(&node));
        argv.extend(flags(&[
            ("--server", format!("https://{}:{API_PORT}", self.layout.node(1).address)),
            ("--token", token.trim().to_owned()),
        ]));
        self.keep(index, "bowsprit", argv, Vec::new(), journal)
    }

    fn agent_flags(&self, node: &NodeLayout) -> Vec<String> {
        let path = |path: PathBuf| path.display().to_string();
        let mut all = flags(&[
            ("--node-name", node.name.clone()),
            ("--node-ip", node.address.clone()),
            ("--data-dir", path(node.directory.join("bowsprit"))),
            ("--run-dir", path(node.run_directory.join("bowsprit"))),
            ("--container-runtime", path(node.containerd_socket())),
            ("--cgroup-root", node.cgroup.clone()),
            ("--cni-bin-dir", path(node.directory.join("cni/bin"))),
            ("--cni-conf-dir", path(node.directory.join("cni/net.d"))),
            ("--routing-mode", self.spec.routing.word().to_owned()),
        ]);
        all.extend(self.spec.flags.iter().cloned());
        all
    }

    fn await_api(&self) -> Result<()> {
        let kubeconfig = self.layout.kubeconfig();
        let token = self.layout.node(1).directory.join("bowsprit/server/token");
        let written = self.await_server(|| kubeconfig.exists() && token.exists());
        self.explained(1, "bowsprit", written.context("the server does not write its kubeconfig and token"))?;
        let ready = self.await_server(|| {
            output(&mut self.kubectl(&["get", "--raw", "/readyz"]))
                .is_ok_and(|output| output.status.success())
        });
        self.explained(1, "bowsprit", ready.context("the API server does not become ready"))
    }

    /// Waits for something that the server does; gives up early when it only ends and is started again.
    fn await_server(&self, mut done: impl FnMut() -> bool) -> Result<()> {
        let restarts = || {
            let log = fs::read_to_string(self.layout.node(1).log("bowsprit-keeper")).unwrap_or_default();
            log.lines().filter(|line| line.ends_with(keeper::AGAIN)).count()
        };
        let mut hopeless = false;
        wait_for(SERVER_START, || {
            hopeless = restarts() > RESTARTS_MAX;
            hopeless || done()
        })?;
        ensure!(!hopeless, "it ended {} times", RESTARTS_MAX + 1);
        Ok(())
    }

    /// Adds the end of a process's log to an error.
    ///
    /// # Errors
    /// The one that came in, explained.
    pub fn explained<T>(&self, index: usize, process: &str, result: Result<T>) -> Result<T> {
        result.with_context(|| {
            let node = self.layout.node(index);
            format!(
                "{process} on {}; the end of {}:\n{}",
                node.name,
                node.log(process).display(),
                tail(&node.log(process), 20)
            )
        })
    }

    /// `kubectl` with the admin's kubeconfig.
    #[must_use]
    pub fn kubectl(&self, arguments: &[&str]) -> Command {
        let mut kubectl = Command::new(kubectl_binary());
        kubectl.arg("--kubeconfig").arg(self.layout.kubeconfig()).args(arguments).stdin(Stdio::null());
        kubectl
    }

    /// A command of `bowsprit` for people (`flows`, `why`) with the admin's kubeconfig.
    #[must_use]
    pub fn bowsprit(&self, arguments: &[&str]) -> Command {
        let mut bowsprit = Command::new(self.binary("bowsprit"));
        bowsprit.env("KUBECONFIG", self.layout.kubeconfig()).args(arguments).stdin(Stdio::null());
        bowsprit
    }

    /// What `kubectl` prints.
    ///
    /// # Errors
    /// When it complains.
    pub fn ask(&self, arguments: &[&str]) -> Result<String> {
        read(&mut self.kubectl(arguments))
    }

    /// A command in a node's network and mount namespaces.
    #[must_use]
    pub fn on_node(&self, index: usize, program: &str, arguments: &[&str]) -> Command {
        let node = self.layout.node(index);
        let mut entering = command("nsenter", [format!("--net={}", node.namespace_file().display())]);
        if let Some(mounts) = self.mounts.get(index - 1) {
            entering.arg(format!("--mount={}", mounts.display()));
        }
        entering.arg("--").arg(program).args(arguments);
        entering
    }

    /// A command on the machine outside the cluster.
    #[must_use]
    pub fn outside(&self, program: &str, arguments: &[&str]) -> Command {
        namespaces::in_network(&self.layout.outside_namespace(), program, arguments)
    }

    /// The process of a node as it runs now (`bowsprit`, `containerd`, `etcd`).
    #[must_use]
    pub fn process(&self, index: usize, name: &str) -> Option<Process> {
        Process::load(&self.layout.node(index).pid_file(name)).filter(Process::runs)
    }

    /// Sends SIGKILL to a node's process and waits until its keeper has started the next one; returns how long that took.
    ///
    /// # Errors
    /// When it does not run, or the keeper does not start it again.
    pub fn kill_and_await_restart(&self, index: usize, name: &str) -> Result<Duration> {
        let before =
            self.process(index, name).with_context(|| format!("{name} does not run on node-{index}"))?;
        let began = Instant::now();
        before.signal(nix::sys::signal::Signal::SIGKILL);
        wait_for(SERVER_START, || self.process(index, name).is_some_and(|now| now != before))?;
        Ok(began.elapsed())
    }

    /// Ends a node as a power cut would: everything in its cgroup dies at once and nothing starts it again.
    ///
    /// # Errors
    /// When its cgroup refuses.
    pub fn power_off(&self, index: usize) -> Result<()> {
        let node = self.layout.node(index);
        for process in PROCESSES {
            self.end(index, &format!("{process}-keeper"))?;
        }
        namespaces::ip(&node.namespace, "link set eth0 down")?;
        let root = cgroup_v2_root().context("cgroup v2 is mounted")?;
        fs::write(root.join(node.cgroup.trim_start_matches('/')).join("cgroup.kill"), "1")
            .context("cannot end the node's processes")
    }

    /// Starts a node again that was powered off: its link, and what ran on it.
    ///
    /// # Errors
    /// When its processes cannot be started.
    pub fn power_on(&self, index: usize) -> Result<()> {
        let node = self.layout.node(index);
        namespaces::ip(&node.namespace, "link set eth0 up")?;
        // The default route went with the link.
        namespaces::ip(&node.namespace, &format!("route replace default via {GATEWAY}"))?;
        PROCESSES
            .into_iter()
            .filter(|process| node.keeper_spec(process).exists())
            .try_for_each(|process| self.start(index, process))
    }

    /// Ends a node's process with SIGKILL; nothing starts it again before [`Cluster::start`].
    ///
    /// # Errors
    /// When it does not end.
    pub fn stop(&self, index: usize, process: &str) -> Result<()> {
        self.end(index, &format!("{process}-keeper"))?;
        self.end(index, process)
    }

    /// Starts a node's process again that was stopped.
    ///
    /// # Errors
    /// When its keeper cannot be started.
    pub fn start(&self, index: usize, process: &str) -> Result<()> {
        let mut journal = Journal::open(&self.layout.journal())?;
        self.start_keeper(&self.layout.node(index), process, &mut journal)
    }

    fn end(&self, index: usize, name: &str) -> Result<()> {
        let Some(process) = Process::load(&self.layout.node(index).pid_file(name)) else { return Ok(()) };
        process.signal(nix::sys::signal::Signal::SIGKILL);
        wait_for(CONTAINERD_START, || !process.runs()).with_context(|| format!("{name} does not end"))
    }
}

/// Whether a cluster `name` can be made: worth knowing before minutes of building.
///
/// # Errors
/// When the caller is not root, or the cluster or a part of it is there.
pub fn check_new(clusters: &Path, name: &str) -> Result<()> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "this needs root: it makes namespaces, cgroups and loads eBPF programs"
    );
    ensure!(
        !Layout::new(clusters, name).journal().exists(),
        "the cluster `{name}` is there in part, its `up` did not end well: `cargo xtask down`, then `up`"
    );
    Ok(())
}

/// Takes the cluster `name` down, whatever is left of it. Says whether there was anything.
///
/// # Errors
/// What could not be removed; run it again after looking.
pub fn down(clusters: &Path, name: &str) -> Result<bool> {
    let layout = Layout::new(clusters, name);
    let path = layout.journal();
    if !path.exists() {
        return Ok(false);
    }
    let mut journal = Journal::open(&path)?;
    // Shim sockets lie outside of our directories, and only files in those tell which are ours.
    if let Ok(entries) = fs::read_dir(layout.run_directory()) {
        for node in entries.flatten() {
            for socket in containerd::shim_sockets(&node.path()) {
                journal.record(&Resource::File(socket))?;
            }
        }
    }
    journal.replay()?;
    let_kernel_rest()?;
    // Shared with the clusters of other checkouts: the last one takes it away.
    if let Some(Err(error)) = layout.run_directory().parent().map(fs::remove_dir)
        && !matches!(error.kind(), ErrorKind::DirectoryNotEmpty | ErrorKind::NotFound)
    {
        return Err(error)
            .with_context(|| format!("cannot remove the parent of {}", layout.run_directory().display()));
    }
    Ok(true)
}

/// An agent that is killed while a pod starts leaves the kernel in a hurry (`dataplane`'s module of that name, whose number
/// this is), until the next agent starts. Agents of other clusters that hurry now wait a little longer, once.
fn let_kernel_rest() -> Result<()> {
    const SWITCH: &str = "/sys/kernel/rcu_expedited";
    const AGENTS: &str = "176";
    if fs::read_to_string(SWITCH).is_ok_and(|held| held.trim() == AGENTS) {
        fs::write(SWITCH, "0").with_context(|| format!("cannot write {SWITCH}"))?;
    }
    Ok(())
}

/// The name of the cluster that `cargo xtask up` makes in this checkout: several checkouts do not meet.
#[must_use]
pub fn default_name(checkout: &Path) -> String {
    use sha2::{Digest, Sha256};
    format!("bow-{}", hex::encode(&Sha256::digest(checkout.as_os_str().as_encoded_bytes())[..3]))
}

/// The `kubectl` to use: `$KUBECTL`, or the newest of several beside the one that is found, or that one.
#[must_use]
pub fn kubectl_binary() -> PathBuf {
    if let Some(chosen) = std::env::var_os("KUBECTL") {
        return chosen.into();
    }
    // Some distributions put a dispatcher there that asks the server first: four times as slow as the real one.
    kubectl_binaries().pop().unwrap_or_else(|| "kubectl".into())
}

/// The oldest `kubectl` of several beside the one that is found, or that one: what it speaks must go on working.
#[must_use]
pub fn oldest_kubectl_binary() -> PathBuf {
    kubectl_binaries().into_iter().next().unwrap_or_else(kubectl_binary)
}

/// `kubectl.1.N` beside the `kubectl` of the PATH, the oldest first; that one alone when it has no siblings.
fn kubectl_binaries() -> Vec<PathBuf> {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let found =
        std::env::split_paths(&paths).map(|directory| directory.join("kubectl")).find(|path| path.exists());
    let Some(found) = found.and_then(|path| path.canonicalize().ok()) else { return Vec::new() };
    let siblings = found.parent().and_then(|directory| fs::read_dir(directory).ok());
    let versioned = |entry: fs::DirEntry| {
        let name = entry.file_name().into_string().ok()?;
        Some((name.strip_prefix("kubectl.1.")?.parse::<u32>().ok()?, entry.path()))
    };
    let mut binaries: Vec<_> = siblings.into_iter().flatten().flatten().filter_map(versioned).collect();
    binaries.sort();
    if binaries.is_empty() { vec![found] } else { binaries.into_iter().map(|(_, path)| path).collect() }
}

/// The last lines of a file; empty when it cannot be read.
#[must_use]
pub fn tail(file: &Path, lines: usize) -> String {
    last_lines(
        &fs::read(file).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default(),
        lines,
    )
}

/// The last lines of a text.
#[must_use]
pub fn last_lines(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

fn busybox_image() -> Image<'static> {
    const LINKS: &[(&str, &str)] = &[
        ("/bin/sh", "/bin/busybox"),
        ("/bin/sleep", "/bin/busybox"),
        ("/bin/cat", "/bin/busybox"),
        ("/bin/ls", "/bin/busybox"),
        ("/bin/echo", "/bin/busybox"),
        ("/bin/env", "/bin/busybox"),
        ("/bin/wget", "/bin/busybox"),
        ("/bin/true", "/bin/busybox"),
        ("/bin/false", "/bin/busybox"),
        ("/bin/id", "/bin/busybox"),
        ("/bin/tar", "/bin/busybox"),
    ];
    static FILE: std::sync::LazyLock<[(&str, &Path); 1]> =
        std::sync::LazyLock::new(|| [("/bin/busybox", Path::new("/bin/busybox"))]);
    Image { reference: "localhost/busybox:1", files: &*FILE, links: LINKS, entrypoint: &["/bin/sh"] }
}

fn flags(pairs: &[(&str, String)]) -> Vec<String> {
    pairs.iter().flat_map(|(flag, value)| [(*flag).to_owned(), value.clone()]).collect()
}

/// A port of the machine's loopback that is free now. The keeper binds it a moment later; should somebody be faster,
/// the keeper's log names the port.
fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0").context("no free port on loopback")?.local_addr()?.port())
}

/// Where packets to outside the cluster go; named here for the suites.
pub const ROUTER: &str = GATEWAY;
