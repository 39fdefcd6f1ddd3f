//! The API server alone, with the embedded store on this disk: ConfigMaps of 1 KB, as `targets.md` of the design measured
//! others. The load generator shares the two cores with the server.

use crate::connection::{Access, Connection};
use crate::figures::{cpu_time, median, ms, quantile};
use anyhow::{Context, Result};
use http_body_util::BodyExt;
use hyper::Method;
use hyper::body::Bytes;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Requests of one measurement; at the rates seen here, one to ten seconds.
const REQUESTS: u64 = 20_000;
/// Requests with one client: each waits for its own fsync.
const REQUESTS_ALONE: u64 = 4_000;
const RUNS: usize = 3;
const WATCHERS: usize = 500;
/// Events that are timed with all watchers.
const FAN_OUTS: usize = 100;
const MANY: u64 = 50_000;
const START: Duration = Duration::from_secs(20);

struct Server {
    child: Child,
    directory: tempfile::TempDir,
    access: Access,
    /// From the start of the process to the first answer of `/readyz`.
    start: Duration,
}

impl Server {
    async fn begin(binary: &Path) -> Result<Self> {
        let directory = tempfile::tempdir_in(binary.parent().context("a binary lies in a directory")?)?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let path = |name: &str| directory.path().join(name).display().to_string();
        let kubeconfig = directory.path().join("admin.kubeconfig");
        let log = std::fs::File::create(directory.path().join("log"))?;
        let began = Instant::now();
        let child = Command::new(binary)
            .args([
                "server",
                "--bind-address",
                "127.0.0.1",
                "--advertise-address",
                "127.0.0.1",
                "--log",
                "warn",
            ])
            .args([
                "--secure-port",
                &port.to_string(),
                "--data-dir",
                &path("data"),
                "--run-dir",
                &path("run"),
            ])
            .args([
                "--kubeconfig-out",
                &path("admin.kubeconfig"),
                "--kubeconfig-server",
                &format!("https://127.0.0.1:{port}"),
            ])
            .stdout(log.try_clone()?)
            .stderr(log)
            .stdin(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot start {}", binary.display()))?;
        let mut server = Self {
            child,
            access: wait_for_access(&kubeconfig, began).await?,
            directory,
            start: Duration::ZERO,
        };
        loop {
            if let Ok(mut connection) = server.access.connect().await
                && connection.ask(Method::GET, "/readyz", Bytes::new()).await.is_ok()
            {
                break;
            }
            anyhow::ensure!(began.elapsed() < START, "the server does not become ready: {}", server.log());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        server.start = began.elapsed();
        Ok(server)
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap_or(0)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It is our own child and is waited for: nothing can go wrong that would matter to a measurement.
        let _ended = self.child.kill().and_then(|()| self.child.wait());
    }
}

async fn wait_for_access(kubeconfig: &Path, began: Instant) -> Result<Access> {
    loop {
        match Access::from_kubeconfig(kubeconfig) {
            Ok(access) => return Ok(access),
            Err(error) => {
                anyhow::ensure!(began.elapsed() < START, "the server writes no kubeconfig: {error:#}")
            }
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// `bench api`.
pub fn run(binaries: &Path) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(measure(&binaries.join("bowsprit")))
}

async fn measure(binary: &Path) -> Result<()> {
    println!("API server, embedded store, {RUNS} runs, medians\n");
    let mut starts = Vec::new();
    for _ in 0..RUNS {
        starts.push(ms(Server::begin(binary).await?.start));
    }
    println!("start to ready                       {:>9.0} ms", median(starts));
    let server = Server::begin(binary).await?;
    println!("resident, nothing stored             {:>9.1} MiB\n", rig::resident_mib(server.pid()));
    println!("{:<26}{:>10}{:>10}{:>10}{:>14}", "", "req/s", "p50 ms", "p99 ms", "CPU us/req");
    for clients in [1, 16, 64] {
        rate(&server, "create", clients).await?;
    }
    for clients in [1, 16, 64] {
        rate(&server, "get", clients).await?;
    }
    memory_and_lists(binary).await?;
    fan_out(binary).await
}

async fn rate(server: &Server, verb: &'static str, clients: u64) -> Result<()> {
    let requests = if clients == 1 { REQUESTS_ALONE } else { REQUESTS };
    let (mut rates, mut p50s, mut p99s, mut cpus) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for run in 0..RUNS {
        let before = cpu_time(server.pid());
        let began = Instant::now();
        let mut samples = match verb {
            "create" => creates(&server.access, &format!("c{clients}r{run}"), clients, requests).await?,
            _ => gets(&server.access, clients, requests).await?,
        };
        let took = began.elapsed();
        let cpu = cpu_time(server.pid()).saturating_sub(before);
        #[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
        let count = requests as f64;
        rates.push(count / took.as_secs_f64());
        p50s.push(ms(quantile(&mut samples, 0.5)));
        p99s.push(ms(quantile(&mut samples, 0.99)));
        cpus.push(cpu.as_secs_f64() * 1e6 / count);
    }
    println!(
        "{:<26}{:>10.0}{:>10.2}{:>10.2}{:>14.0}",
        format!("{verb}, {clients} clients"),
        median(rates),
        median(p50s),
        median(p99s),
        median(cpus)
    );
    Ok(())
}

fn config_map(name: &str) -> Bytes {
    let value = "x".repeat(1000);
    Bytes::from(format!(
        r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"{name}"}},"data":{{"k":"{value}"}}}}"#
    ))
}

const COLLECTION: &str = "/api/v1/namespaces/default/configmaps";

async fn creates(access: &Access, prefix: &str, clients: u64, total: u64) -> Result<Vec<Duration>> {
    let prefix = prefix.to_owned();
    each(access, clients, total, move |mut connection, number| {
        let name = format!("{prefix}-{number}");
        async move {
            connection.ask(Method::POST, COLLECTION, config_map(&name)).await?;
            Ok(connection)
        }
    })
    .await
}

async fn gets(access: &Access, clients: u64, total: u64) -> Result<Vec<Duration>> {
    each(access, clients, total, |mut connection, number| async move {
        let path = format!("{COLLECTION}/c16r0-{}", number % 1000);
        connection.ask(Method::GET, &path, Bytes::new()).await?;
        Ok(connection)
    })
    .await
}

/// Runs `total` requests over `clients` connections; returns how long each took.
async fn each<F, R>(access: &Access, clients: u64, total: u64, request: F) -> Result<Vec<Duration>>
where
    F: Fn(Connection, u64) -> R + Clone + Send + 'static,
    R: Future<Output = Result<Connection>> + Send,
{
    let next = Arc::new(AtomicU64::new(0));
    let mut tasks = Vec::new();
    for _ in 0..clients {
        let (mut connection, next, request) = (access.connect().await?, Arc::clone(&next), request.clone());
        tasks.push(tokio::spawn(async move {
            let mut samples = Vec::new();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= total {
                    return Ok::<_, anyhow::Error>(samples);
                }
                let began = Instant::now();
                connection = request(connection, number).await?;
                samples.push(began.elapsed());
            }
        }));
    }
    let mut all = Vec::new();
    for task in tasks {
        all.extend(task.await??);
    }
    Ok(all)
}

async fn memory_and_lists(binary: &Path) -> Result<()> {
    let server = Server::begin(binary).await?;
    let empty = rig::resident_mib(server.pid());
    println!();
    let mut stored = 0;
    for goal in [10_000, MANY] {
        creates(&server.access, &format!("m{goal}"), 64, goal - stored).await?;
        stored = goal;
        let mut connection = server.access.connect().await?;
        let mut lists = Vec::new();
        let mut bytes = 0;
        for _ in 0..5 {
            let began = Instant::now();
            bytes = connection.ask(Method::GET, COLLECTION, Bytes::new()).await?.len();
            lists.push(began.elapsed().as_secs_f64());
        }
        #[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
        let megabytes = bytes as f64 / 1e6;
        println!("list of {goal:>6} ({megabytes:>5.1} MB)          {:>9.3} s", median(lists));
    }
    let full = rig::resident_mib(server.pid());
    #[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
    let each = (full - empty) * 1024.0 / MANY as f64;
    println!("resident with {MANY} ConfigMaps       {full:>9.1} MiB, {each:.2} KiB each");
    Ok(())
}

async fn fan_out(binary: &Path) -> Result<()> {
    let server = Server::begin(binary).await?;
    let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
    let mut watchers = Vec::new();
    for _ in 0..WATCHERS {
        let mut connection = server.access.connect().await?;
        let sender = sender.clone();
        let answer = connection.send(Method::GET, &format!("{COLLECTION}?watch=true"), Bytes::new()).await?;
        watchers.push(tokio::spawn(async move {
            let mut body = answer.into_body();
            // Each frame is one event here: they are created one at a time.
            while let Some(Ok(frame)) = body.frame().await {
                if frame.data_ref().is_some_and(|data| !data.is_empty())
                    && sender.send(Instant::now()).is_err()
                {
                    break;
                }
            }
            drop(connection);
        }));
    }
    let mut connection = server.access.connect().await?;
    // What the namespace holds already is replayed to every watcher first.
    tokio::time::timeout(Duration::from_secs(1), async { while receiver.recv().await.is_some() {} })
        .await
        .ok();
    let (mut last, mut replies) = (Vec::new(), Vec::new());
    for number in 0..FAN_OUTS {
        let began = Instant::now();
        connection.ask(Method::POST, COLLECTION, config_map(&format!("fan-{number}"))).await?;
        replies.push(began.elapsed());
        let mut latest = began;
        for _ in 0..WATCHERS {
            let seen = tokio::time::timeout(Duration::from_secs(5), receiver.recv()).await;
            latest = latest
                .max(seen.context("a watcher did not see an event within 5 s")?.context("a watcher ended")?);
        }
        last.push(latest - began);
    }
    println!(
        "{WATCHERS} watchers: create p50 / p99        {:>6.1} / {:.1} ms; last watcher sees it p50 / p99 {:.1} / {:.1} ms",
        ms(quantile(&mut replies, 0.5)),
        ms(quantile(&mut replies, 0.99)),
        ms(quantile(&mut last, 0.5)),
        ms(quantile(&mut last, 0.99))
    );
    println!("resident with {WATCHERS} watchers           {:>9.1} MiB", rig::resident_mib(server.pid()));
    watchers.iter().for_each(tokio::task::JoinHandle::abort);
    Ok(())
}
