//! `bowsprit server` alone, without nodes: a full disk, and two of them over one etcd.

use crate::fixture;
use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use rig::command::{command, output, read};
use rig::journal::{Journal, Resource, cgroup_v2_root, wait_for};
use rig::layout::Layout;
use rig::namespaces::{in_network, make_network_namespace};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A server starts in a second; two of them and an etcd on busy cores take longer.
const START: Duration = Duration::from_secs(60);
/// A lease that nobody renews runs out after 8 s and is looked at every 2 s; the rest is asking.
const TAKEOVER: Duration = Duration::from_secs(15);
/// A leader that ends in order gives its lease back: the other needs one look.
const HANDOVER: Duration = Duration::from_secs(6);

pub fn trials() -> Vec<Trial> {
    vec![
        Trial::test("servers::a_full_disk_is_said_and_survived", || Ok(full_disk()?)),
        Trial::test("servers::two_over_one_etcd_have_one_leader", || Ok(two_servers()?)),
    ]
}

/// A network namespace and a directory for servers, gone with the last test.
struct Place {
    layout: Layout,
    procs: PathBuf,
}

/// A process in a [`Place`]; it ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Our own child: nothing is lost when it has ended by itself.
        let _ended = self.0.kill().and_then(|()| self.0.wait());
    }
}

impl Running {
    /// SIGTERM, and the end of the process.
    fn end_in_order(&mut self) -> Result<()> {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.0.id())?);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM)?;
        let status = self.0.wait()?;
        ensure!(status.success(), "on SIGTERM it ended with {status}");
        Ok(())
    }
}

impl Place {
    fn make(kind: &str) -> Result<Self> {
        let spec = fixture::spec(kind, 1);
        fixture::register(&spec.name)?;
        let layout = Layout::new(&spec.clusters, &spec.name);
        fs::create_dir_all(&spec.clusters)?;
        let mut journal = Journal::open(&layout.journal())?;
        journal.record(&Resource::Directory(layout.directory.clone()))?;
        fs::create_dir_all(&layout.directory)?;
        journal.record(&Resource::Cgroup(format!("/{}", spec.name)))?;
        let cgroup = cgroup_v2_root().context("cgroup v2 is mounted")?.join(&spec.name);
        fs::create_dir_all(&cgroup)?;
        make_network_namespace(&layout.outside_namespace(), &mut journal)?;
        Ok(Self { layout, procs: cgroup.join("cgroup.procs") })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.layout.directory.join(name)
    }

    /// Starts a program in the place; what it says goes to `NAME.log`.
    fn start(&self, name: &str, argv: &[String]) -> Result<Running> {
        let enter = format!(r#"echo $$ > {} && exec "$@""#, self.procs.display());
        let mut words = vec!["-c", &enter, "sh"];
        words.extend(argv.iter().map(String::as_str));
        let log = File::options().create(true).append(true).open(self.path(&format!("{name}.log")))?;
        let mut program = in_network(&self.layout.outside_namespace(), "/bin/sh", &words);
        program.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        Ok(Running(program.spawn()?))
    }

    fn log(&self, name: &str) -> String {
        fs::read_to_string(self.path(&format!("{name}.log"))).unwrap_or_default()
    }

    fn server(&self, name: &str, port: u16, more: &[String]) -> Result<Running> {
        let data = self.path(name).display().to_string();
        let binary = fixture::binaries().join("bowsprit").display().to_string();
        let mut argv = [&binary, "server", "--data-dir", &data, "--bind-address", "127.0.0.1"]
            .map(str::to_owned)
            .to_vec();
        argv.extend(["--advertise-address", "127.0.0.1", "--secure-port"].map(str::to_owned));
        argv.push(port.to_string());
        argv.extend_from_slice(more);
        let running = self.start(name, &argv)?;
        let ready = || self.ask(name, &["get", "--raw", "/readyz"]).is_ok();
        wait_for(START, ready).with_context(|| {
            format!("{name} does not become ready: {}", rig::cluster::last_lines(&self.log(name), 10))
        })?;
        Ok(running)
    }

    /// kubectl as the admin of one server.
    fn kubectl(&self, server: &str, words: &[&str]) -> Command {
        let kubectl = rig::cluster::kubectl_binary().display().to_string();
        let kubeconfig = self.path(server).join("server/admin.kubeconfig").display().to_string();
        let mut command =
            in_network(&self.layout.outside_namespace(), &kubectl, &["--kubeconfig", &kubeconfig]);
        command.args(words);
        command
    }

    fn ask(&self, server: &str, words: &[&str]) -> Result<String> {
        read(&mut self.kubectl(server, words))
    }
}

/// A file system of its own for the embedded store, small enough to fill.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(directory: &Path) -> Result<Self> {
        fs::create_dir_all(directory)?;
        mount(Some("small"), directory, Some("tmpfs"), MsFlags::empty(), Some("size=12m"))
            .with_context(|| format!("cannot mount a tmpfs on {}", directory.display()))?;
        Ok(Self(directory.to_owned()))
    }

    /// Takes all the space there is; returns the file that holds it.
    fn fill(&self) -> Result<PathBuf> {
        let path = self.0.join("filler");
        let mut file = File::create(&path)?;
        let mut size = 64 << 10;
        while size > 0 {
            if file.write_all(&vec![0; size]).is_err() {
                size /= 2;
            }
        }
        Ok(path)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        if let Err(error) = umount2(&self.0, MntFlags::MNT_DETACH) {
            eprintln!("cannot unmount {}: {error}", self.0.display());
        }
    }
}

fn full_disk() -> Result<()> {
    const SERVER: &str = "server";
    let place = Place::make("disk")?;
    let directory = place.path(SERVER).join("server/store");
    let disk = SmallDisk::mount(&directory)?;
    let mut server = place.server(SERVER, 6443, &[])?;
    let value = place.path("value");
    fs::write(&value, vec![b'x'; 64 << 10])?;
    let from = format!("--from-file=v={}", value.display());
    let create = |number: usize| {
        output(&mut place.kubectl(SERVER, &["create", "configmap", &format!("full-{number}"), &from]))
    };
    let there = || -> Result<usize> {
        let names = place.ask(SERVER, &["get", "configmaps", "-o", "name"])?;
        Ok(names.lines().filter(|name| name.contains("/full-")).count())
    };
    ensure!(create(0)?.status.success(), "the first write fails");
    let filler = disk.fill()?;
    let mut written = 1;
    let refusal = loop {
        let output = create(written)?;
        if !output.status.success() {
            break String::from_utf8_lossy(&output.stderr).into_owned();
        }
        written += 1;
        ensure!(written < 200, "the disk never becomes full");
    };
    let path = directory.display().to_string();
    ensure!(
        refusal.contains("no space left") && refusal.contains(&path) && refusal.contains("free some space"),
        "the refusal does not name path and remedy: {refusal}"
    );
    ensure!(there()? == written, "{written} writes were acknowledged, {} are there", there()?);
    for _ in 0..3 {
        ensure!(!create(written)?.status.success(), "a full disk takes a write");
    }
    let complaints = place.log(SERVER).lines().filter(|line| line.contains("no space left")).count();
    ensure!(
        (1..=3).contains(&complaints),
        "the log tells of the full disk {complaints} times:\n{}",
        place.log(SERVER)
    );
    fs::remove_file(filler)?;
    wait_for(START, || create(written).is_ok_and(|output| output.status.success()))
        .context("writes do not go on once there is space")?;
    written += 1;
    server.0.kill()?;
    server.0.wait()?;
    let _server = place.server(SERVER, 6443, &[])?;
    ensure!(there()? == written, "{written} writes were acknowledged, {} are there after kill -9", there()?);
    Ok(())
}

fn two_servers() -> Result<()> {
    let place = Place::make("two")?;
    let node = place.layout.node(1);
    fs::create_dir_all(&node.directory)?;
    let (argv, credentials) = rig::etcd::configure(&node)?;
    let _etcd = place.start("etcd", &argv)?;
    wait_for(START, || place.log("etcd").contains("ready to serve client requests"))
        .with_context(|| format!("etcd does not start: {}", place.log("etcd")))?;
    let store = [
        ("--store", format!("etcd:https://127.0.0.1:{}", rig::etcd::CLIENT_PORT)),
        ("--etcd-ca", credentials.ca.display().to_string()),
        ("--etcd-cert", credentials.certificate.display().to_string()),
        ("--etcd-key", credentials.key.display().to_string()),
    ];
    let store: Vec<String> = store.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]).collect();
    let mut first = place.server("first", 6443, &store)?;
    // The servers of a cluster share its authority.
    let pki = place.path("second/server");
    fs::create_dir_all(&pki)?;
    let source = place.path("first/server/pki").display().to_string();
    rig::command::run(&mut command("cp", ["-a", &source, &pki.display().to_string()]))?;
    let mut second = place.server("second", 6444, &store)?;

    let leader = |server: &str| {
        let words = [
            "-n",
            "kube-system",
            "get",
            "lease",
            "bowsprit-control-plane",
            "-o",
            "jsonpath={.spec.holderIdentity}",
        ];
        place.ask(server, &words)
    };
    let identity = |server: &str| fs::read_to_string(place.path(server).join("server/identity"));
    let leads = |server: &str, asked: &str| -> Result<bool> {
        Ok(leader(asked)?.ends_with(identity(server)?.trim()))
    };
    wait_for(START, || leads("first", "second").unwrap_or(false))
        .context("the first server does not lead")?;
    place.ask("first", &["create", "configmap", "through-first"])?;
    place
        .ask("second", &["get", "configmap", "through-first"])
        .context("the second server does not see it")?;
    ensure!(!place.log("second").contains("controllers start"), "both servers run controllers");

    first.0.kill()?;
    first.0.wait()?;
    let began = Instant::now();
    wait_for(TAKEOVER, || leads("second", "second").unwrap_or(false)).context("nobody takes over")?;
    println!("    took over after {:.1} s", began.elapsed().as_secs_f64());
    controllers_work(&place, "second", "taken-over")?;

    let mut first = place.server("first", 6443, &store)?;
    ensure!(leads("second", "first")?, "a server that comes back takes the lead away");
    second.end_in_order()?;
    let began = Instant::now();
    wait_for(HANDOVER, || leads("first", "first").unwrap_or(false))
        .context("the lease was not given back")?;
    println!("    handed over after {:.1} s", began.elapsed().as_secs_f64());
    controllers_work(&place, "first", "handed-over")?;
    first.end_in_order()
}

/// A controller's work is done: a namespace gets its default service account.
fn controllers_work(place: &Place, server: &str, namespace: &str) -> Result<()> {
    place.ask(server, &["create", "namespace", namespace])?;
    wait_for(START, || place.ask(server, &["-n", namespace, "get", "serviceaccount", "default"]).is_ok())
        .with_context(|| format!("the controllers of {server} do nothing"))
}
