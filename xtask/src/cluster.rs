//! `cargo xtask up|down|status|shell|kubectl`: the cluster on this machine.

use crate::checkout::{Stage, root};
use crate::{build, setup};
use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use rig::cluster::{self, Cluster, Prepared, Routing, Spec, Store};
use rig::shop::{self, Row};
use std::fmt::Write as _;
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

#[derive(Clone, Copy, ValueEnum)]
enum StoreChoice {
    Embedded,
    Etcd,
}

#[derive(Clone, Copy, ValueEnum)]
enum RoutingChoice {
    Vxlan,
    Native,
}

impl From<StoreChoice> for Store {
    fn from(choice: StoreChoice) -> Self {
        match choice {
            StoreChoice::Embedded => Self::Embedded,
            StoreChoice::Etcd => Self::Etcd,
        }
    }
}

impl From<RoutingChoice> for Routing {
    fn from(choice: RoutingChoice) -> Self {
        match choice {
            RoutingChoice::Vxlan => Self::Vxlan,
            RoutingChoice::Native => Self::Native,
        }
    }
}

/// What kind of cluster to start.
#[derive(Args)]
pub struct Up {
    /// How many nodes; the first is also the server.
    #[arg(long, default_value_t = 3)]
    nodes: usize,
    /// Which store the server uses.
    #[arg(long, value_enum, default_value = "embedded")]
    store: StoreChoice,
    /// How packets get from node to node.
    #[arg(long, value_enum, default_value = "vxlan")]
    routing: RoutingChoice,
    /// Only the nodes, without the example application.
    #[arg(long)]
    bare: bool,
    /// Another name than this checkout's own: for a second cluster.
    #[arg(long)]
    name: Option<String>,
}

fn clusters() -> PathBuf {
    root().join("target/cluster")
}

fn name_or_default(name: Option<String>) -> String {
    name.unwrap_or_else(|| cluster::default_name(root()))
}

fn open(name: Option<String>) -> Result<Cluster> {
    Cluster::open(&clusters(), &name_or_default(name))
}

impl Up {
    /// From whatever this machine is to an application that is seen to work.
    pub fn run(self) -> Result<()> {
        setup::run_quietly_if_done()?;
        let name = name_or_default(self.name.clone());
        if let Ok(cluster) = Cluster::open(&clusters(), &name) {
            return self.already_there(&cluster);
        }
        cluster::check_new(&clusters(), &name)?;
        let spec = Spec {
            name,
            nodes: self.nodes,
            store: self.store.into(),
            routing: self.routing.into(),
            binaries: build::rig(build::Profile::Dev)?,
            clusters: clusters(),
            flags: Vec::new(),
        };
        let (prepared, took) = prepare_while_building(spec)?;
        let began = Instant::now().checked_sub(took).context("the machine has run for longer than this")?;
        let mut times = Times::new();
        let cluster = {
            let _stage = Stage::begin("starting Bowsprit on the nodes");
            prepared.start(&|step| println!("    {step}"))?
        };
        times.push(("API ready", began.elapsed()));
        self.finish(&cluster, began, times)
    }

    /// What is to be done once the API answers; may be done again.
    fn finish(&self, cluster: &Cluster, began: Instant, mut times: Times) -> Result<()> {
        link_kubeconfig(cluster)?;
        {
            let _stage = Stage::begin("waiting for the nodes to be Ready");
            await_nodes(cluster)?;
        }
        times.push(("nodes Ready", began.elapsed()));
        if !self.bare {
            show_shop(cluster, began, &mut times)?;
        }
        report(cluster, &times)?;
        if self.bare { Ok(()) } else { print_hints(cluster) }
    }

    fn already_there(&self, cluster: &Cluster) -> Result<()> {
        let name = &cluster.spec.name;
        if !cluster.complete {
            bail!(
                "the cluster `{name}` is there in part, its `up` did not end well: `cargo xtask down`, then `up`"
            );
        }
        if cluster.process(1, "bowsprit").is_none() {
            bail!("the cluster `{name}` was made but its server does not run: `cargo xtask down`, then `up`");
        }
        println!("the cluster `{name}` is up already; `cargo xtask down` takes it down");
        let asked = (self.nodes, Store::from(self.store), Routing::from(self.routing));
        if asked != (cluster.spec.nodes, cluster.spec.store, cluster.spec.routing) {
            println!(
                "it is not what was asked for now: `cargo xtask down` first, then `up` with these flags"
            );
        } else if !self.bare && !shop::is_applied(cluster, &root().join("deploy/examples")) {
            println!(
                "its shop is missing, because `up` was interrupted or somebody deleted it: going on from there"
            );
            return self.finish(cluster, Instant::now(), Times::new());
        }
        status(Some(name.clone()))
    }
}

/// When a stage was reached, from the beginning.
type Times = Vec<(&'static str, Duration)>;

/// Makes namespaces and images while the compiler works; also says how long that took, which is part of a cluster's start.
fn prepare_while_building(spec: Spec) -> Result<(Prepared, Duration)> {
    let (clusters, name) = (spec.clusters.clone(), spec.name.clone());
    let nodes = spec.nodes;
    std::thread::scope(|scope| {
        let prepare = scope.spawn(move || {
            let began = Instant::now();
            let _stage = Stage::begin(&format!("preparing {nodes} nodes"));
            Cluster::prepare(spec, &|step| println!("    {step}")).map(|prepared| (prepared, began.elapsed()))
        });
        let built = build::bowsprit(build::Profile::Dev);
        let prepared = prepare.join().unwrap_or_else(|_| bail!("preparing the nodes panicked"));
        if let Err(error) = built {
            // A cluster without a binary shows nothing that would be worth a look.
            if prepared.is_ok() {
                // It holds the journal, which `down` needs.
                drop(prepared);
                cluster::down(&clusters, &name)?;
            }
            return Err(error);
        }
        prepared
    })
}

/// The documented place of the kubeconfig, whatever the cluster is called.
fn link_kubeconfig(cluster: &Cluster) -> Result<()> {
    let place = clusters().join("admin.kubeconfig");
    if place.symlink_metadata().is_ok() {
        std::fs::remove_file(&place).with_context(|| format!("cannot replace {}", place.display()))?;
    }
    symlink(cluster.layout.kubeconfig(), &place).with_context(|| format!("cannot write {}", place.display()))
}

fn await_nodes(cluster: &Cluster) -> Result<()> {
    const JOIN: Duration = Duration::from_secs(60);
    let registered = || {
        cluster
            .ask(&["get", "nodes", "-o", "name"])
            .is_ok_and(|names| names.lines().count() >= cluster.spec.nodes)
    };
    let all_there = rig::journal::wait_for(JOIN, registered).context("not every node registers itself");
    let last = cluster.spec.nodes;
    cluster.explained(last, "bowsprit", all_there)?;
    let ready = cluster.ask(&["wait", "--for=condition=Ready", "node", "--all", "--timeout=60s"]);
    cluster.explained(last, "bowsprit", ready.map(drop).context("not every node becomes Ready"))
}

fn show_shop(cluster: &Cluster, began: Instant, times: &mut Times) -> Result<()> {
    {
        let _stage = Stage::begin("starting the shop (deploy/examples/shop.yaml)");
        shop::deploy(cluster, &root().join("deploy/examples"))?;
    }
    times.push(("everything serving", began.elapsed()));
    let rows = {
        let _stage = Stage::begin(
            "calling every pod and every Service from every pod, and the NodePort on every node",
        );
        shop::probe(cluster)?
    };
    print_table(&rows);
    let wrong = rows.iter().filter(|row| !row.is_as_expected()).count();
    if wrong > 0 {
        bail!("{wrong} rows of the table are not as the policies say; the cluster stays up to be looked at");
    }
    Ok(())
}

fn print_table(rows: &[Row]) {
    println!("\n    {:<10} {:<26} {:<9} {:<10} BECAUSE", "FROM", "TO", "EXPECTED", "GOT");
    for row in rows {
        let expected = if row.allowed { "answer" } else { "no answer" };
        let got = format!("{}/{}", row.answered, row.calls);
        let mark = if row.is_as_expected() { " " } else { "!" };
        let because = if row.causes.is_empty() { row.failures.join(", ") } else { row.causes.join("; ") };
        println!("  {mark} {:<10} {:<26} {expected:<9} {got:<10} {because}", row.from, row.to);
    }
    println!();
}

fn report(cluster: &Cluster, times: &[(&str, Duration)]) -> Result<()> {
    println!("{}", cluster.ask(&["get", "nodes,pods,services", "-A", "-o", "wide"])?);
    for (what, when) in times {
        println!("    {what:<20} after {:.2} s", when.as_secs_f64());
    }
    print!("{}", memory(cluster));
    Ok(())
}

/// Commands that show what this is about, to be copied as they are.
fn print_hints(cluster: &Cluster) -> Result<()> {
    let last = cluster.layout.node(cluster.spec.nodes);
    let address = ["-n", "shop", "get", "service", "db", "-o", "jsonpath={.spec.clusterIP}"];
    let database = cluster.ask(&address)?;
    let agent = cluster.process(last.index, "bowsprit").context("the agent runs")?;
    let load = format!(
        "cargo xtask shell outside workload load http://{}:{}/ --rate 100 --seconds 20",
        last.address,
        shop::WEB_NODE_PORT
    );
    println!("\nThree things to try:");
    println!("\n  1. See why a stranger does not reach the database; then let him in.");
    println!("     cargo xtask kubectl -n street exec visitor -- /bin/workload call http://{database}/");
    println!("     cargo xtask bowsprit flows --from street/visitor --since 1m     # Ctrl-C ends it");
    println!("     cargo xtask kubectl -n shop delete networkpolicy db closed");
    println!("     cargo xtask kubectl -n street exec visitor -- /bin/workload call http://{database}/");
    println!(
        "\n  2. Kill the agent of {} while a client calls web through that node; count what fails.",
        last.name
    );
    println!("     {load} &");
    println!("     sleep 5; kill -9 {}; wait", agent.pid);
    println!("\n  3. Replace all pods of web under load; count what fails.");
    println!("     {load} &");
    println!("     cargo xtask kubectl -n shop rollout restart deployment/web; wait");
    println!(
        "\n`cargo xtask kubectl`, `cargo xtask bowsprit why pod/NAME`, `cargo xtask shell node-2` and `cargo xtask status` \
         look around, `cargo xtask down` ends it."
    );
    Ok(())
}

fn memory(cluster: &Cluster) -> String {
    let mut table = String::new();
    for node in cluster.nodes() {
        for name in ["bowsprit", "containerd", "etcd"] {
            if let Some(process) = cluster.process(node.index, name) {
                let (pid, resident) = (process.pid, rig::resident_mib(process.pid));
                let _ = writeln!(table, "    {:<8} {name:<11} pid {pid:<7} {resident:>5.1} MiB", node.name);
            }
        }
    }
    table
}

/// `cargo xtask status`.
pub fn status(name: Option<String>) -> Result<()> {
    let cluster = open(name)?;
    let objects = cluster.ask(&["get", "nodes,pods,services", "-A", "-o", "wide"])?;
    let text = format!("{objects}\n\n{}", memory(&cluster));
    match std::io::stdout().write_all(text.as_bytes()) {
        // `status | head` has seen enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        written => Ok(written?),
    }
}

/// `cargo xtask down`.
pub fn down(name: Option<String>) -> Result<()> {
    let own = name.is_none();
    let name = name_or_default(name);
    let _stage = Stage::begin(&format!("taking the cluster `{name}` down"));
    let was_there = cluster::down(&clusters(), &name)?;
    let link = clusters().join("admin.kubeconfig");
    if own && link.symlink_metadata().is_ok() {
        std::fs::remove_file(&link).with_context(|| format!("cannot remove {}", link.display()))?;
    }
    println!("{}", if was_there { "    nothing of it is left" } else { "    there was none" });
    Ok(())
}

/// `cargo xtask kubectl ...`.
pub fn kubectl(arguments: &[String]) -> Result<ExitCode> {
    let cluster = open(None)?;
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    pass_through(cluster.kubectl(&words).stdin(Stdio::inherit()))
}

/// `cargo xtask bowsprit ...`.
pub fn bowsprit(arguments: &[String]) -> Result<ExitCode> {
    let cluster = open(None)?;
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    pass_through(cluster.bowsprit(&words).stdin(Stdio::inherit()))
}

/// `cargo xtask shell NODE [COMMAND...]`.
pub fn shell(node: &str, words: &[String]) -> Result<ExitCode> {
    let cluster = open(None)?;
    let shell = vec![std::env::var("SHELL").unwrap_or_else(|_| "/bin/sh".to_owned())];
    let words = if words.is_empty() { &shell } else { words };
    let (program, arguments) = words.split_first().context("there is always a shell")?;
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let mut entering = match node.strip_prefix("node-").map(str::parse::<usize>) {
        Some(Ok(index)) if (1..=cluster.spec.nodes).contains(&index) => {
            cluster.on_node(index, program, &arguments)
        }
        _ if node == "outside" => cluster.outside(program, &arguments),
        _ => bail!("there is no `{node}`: node-1 to node-{} and outside are there", cluster.spec.nodes),
    };
    let path = std::env::var("PATH").unwrap_or_default();
    entering.env("KUBECONFIG", cluster.layout.kubeconfig()).env("PS1", format!("{node}# "));
    entering.env("PATH", format!("{}:{path}", cluster.spec.binaries.display()));
    pass_through(entering.stdin(Stdio::inherit()))
}

fn pass_through(command: &mut Command) -> Result<ExitCode> {
    let status =
        command.status().with_context(|| format!("cannot start `{}`", rig::command::words(command)))?;
    Ok(ExitCode::from(u8::try_from(status.code().unwrap_or(1)).unwrap_or(1)))
}
