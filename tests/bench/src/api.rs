//! The API server with the embedded store on this disk: ConfigMaps of 1 KB, as `targets.md` of the design measured
//! others. The load generator shares the two cores with the server.

use crate::connection::{Access, Connection};
use crate::server::Server;
use anyhow::{Context, Result};
use http_body_util::BodyExt;
use hyper::Method;
use hyper::body::Bytes;
use rig::figures::Bar::{self, AtLeast, AtMost};
use rig::figures::{Figures, cpu_time, median, ms, quantile};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Requests of one measurement; at the rates seen here, one to ten seconds.
const REQUESTS: u64 = 20_000;
/// Requests with one client: each waits for its own fsync.
const REQUESTS_ALONE: u64 = 4_000;
const RUNS: usize = 3;
const WATCHERS: usize = 500;
/// Watches of one client, which go over one connection: a controller manager has some dozens.
const WATCHES_OF_CLIENT: usize = 100;
/// Events that are timed with all watchers.
const FAN_OUTS: usize = 100;
/// Creates with one client and no watcher: what fan-out is compared to.
const CREATES_UNWATCHED: u64 = 500;
const MANY: u64 = 50_000;
/// For two minutes the server keeps what changed, for watchers that reconnect; every 30 s it looks what is older.
const GIVE_BACK: Duration = Duration::from_secs(160);

/// Verb, clients, requests per second that are the bar.
const RATES: &[(Verb, u64, Option<f64>)] = &[
    (Verb::Create, 1, Some(1.5 * 1361.0)),
    (Verb::Create, 16, Some(4.0 * 2174.0)),
    (Verb::Create, 64, Some(6.0 * 1747.0)),
    (Verb::Update, 16, Some(4.0 * 2236.0)),
    (Verb::Get, 1, None),
    (Verb::Get, 16, Some(6.0 * 5157.0)),
    (Verb::Get, 64, None),
];
/// Milliseconds: the 99th percentile of writes.
const WRITE_P99: f64 = 10.0;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verb {
    Create,
    Update,
    Get,
}

/// `bench api`.
pub fn run(binaries: &Path) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(measure(&binaries.join("bowsprit")))
}

async fn measure(binary: &Path) -> Result<()> {
    let mut figures = Figures::begin("api", "the API server over the embedded store, ConfigMaps of 1 KB");
    let mut starts = Vec::new();
    for _ in 0..RUNS {
        starts.push(ms(Server::begin(binary).await?.start));
    }
    figures.add("start to API ready", "ms", &starts, AtMost(300.0));
    let server = Server::begin(binary).await?;
    figures.add("resident, nothing stored", "MiB", &[rig::resident_mib(server.pid())], None);
    for (verb, clients, bar) in RATES {
        rate(&server, *verb, *clients, *bar, &mut figures).await?;
    }
    drop(server);
    memory_and_lists(binary, &mut figures).await?;
    fan_out(binary, WATCHES_OF_CLIENT, [Some(AtMost(1.0)), Some(AtMost(4.0))], &mut figures).await?;
    fan_out(binary, 1, [None, None], &mut figures).await?;
    figures.finish()
}

async fn rate(
    server: &Server,
    verb: Verb,
    clients: u64,
    bar: Option<f64>,
    figures: &mut Figures,
) -> Result<()> {
    let requests = if clients == 1 { REQUESTS_ALONE } else { REQUESTS };
    let (mut rates, mut p50s, mut p99s, mut cpus) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for run in 0..RUNS {
        let before = cpu_time(server.pid());
        let began = Instant::now();
        let mut samples = requests_of(verb, &server.access, run, clients, requests).await?;
        let took = began.elapsed();
        let cpu = cpu_time(server.pid()).saturating_sub(before);
        rates.push(float(requests) / took.as_secs_f64());
        p50s.push(ms(quantile(&mut samples, 0.5)));
        p99s.push(ms(quantile(&mut samples, 0.99)));
        cpus.push(cpu.as_secs_f64() * 1e6 / float(requests));
    }
    let plural = if clients == 1 { "" } else { "s" };
    let name = format!("{verb:?}, {clients} client{plural}").to_lowercase();
    figures.add(&name, "/s", &rates, bar.map(AtLeast));
    figures.add(&format!("{name}, p50"), "ms", &p50s, None);
    figures.add(&format!("{name}, p99"), "ms", &p99s, (verb != Verb::Get).then_some(AtMost(WRITE_P99)));
    figures.add(&format!("{name}, CPU of the server"), "us/request", &cpus, None);
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
fn float(count: u64) -> f64 {
    count as f64
}

fn config_map(name: &str, fill: char) -> Bytes {
    let value = String::from(fill).repeat(1000);
    Bytes::from(format!(
        r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"{name}"}},"data":{{"k":"{value}"}}}}"#
    ))
}

const COLLECTION: &str = "/api/v1/namespaces/default/configmaps";
/// Objects that gets and updates go round: created by the first run with 16 clients.
const KNOWN: u64 = 1000;

async fn requests_of(
    verb: Verb,
    access: &Access,
    run: usize,
    clients: u64,
    total: u64,
) -> Result<Vec<Duration>> {
    if verb == Verb::Create {
        return creates(access, &format!("c{clients}r{run}"), clients, total).await;
    }
    // Each run of updates changes what the run before it wrote.
    let fill = char::from(b'a' + u8::try_from(run)?);
    each(access, clients, total, move |mut connection, number| async move {
        let name = format!("c16r0-{}", number % KNOWN);
        let path = format!("{COLLECTION}/{name}");
        match verb {
            Verb::Update => {
                let fill = if (number / KNOWN).is_multiple_of(2) { fill } else { fill.to_ascii_uppercase() };
                connection.ask(Method::PUT, &path, config_map(&name, fill)).await?
            }
            _ => connection.ask(Method::GET, &path, Bytes::new()).await?,
        };
        Ok(connection)
    })
    .await
}

async fn creates(access: &Access, prefix: &str, clients: u64, total: u64) -> Result<Vec<Duration>> {
    let prefix = prefix.to_owned();
    each(access, clients, total, move |mut connection, number| {
        let name = format!("{prefix}-{number}");
        async move {
            connection.ask(Method::POST, COLLECTION, config_map(&name, 'x')).await?;
            Ok(connection)
        }
    })
    .await
}

/// Runs `total` requests over `clients` connections; returns how long each took.
pub async fn each<F, R>(access: &Access, clients: u64, total: u64, request: F) -> Result<Vec<Duration>>
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

async fn memory_and_lists(binary: &Path, figures: &mut Figures) -> Result<()> {
    let server = Server::begin(binary).await?;
    let empty = rig::resident_mib(server.pid());
    let mut connection = server.access.connect().await?;
    let (mut stored, mut bytes) = (0, 0.0);
    for (goal, bar) in [(10_000, 0.03), (MANY, 0.15)] {
        creates(&server.access, &format!("m{goal}"), 64, goal - stored).await?;
        stored = goal;
        let mut lists = Vec::new();
        for _ in 0..5 {
            let began = Instant::now();
            let list = connection.ask(Method::GET, COLLECTION, Bytes::new()).await?;
            lists.push(began.elapsed().as_secs_f64());
            bytes = float(list.len() as u64);
        }
        figures.add(&format!("list of {goal} ({:.1} MB)", bytes / 1e6), "s", &lists, AtMost(bar));
    }
    let full = rig::resident_mib(server.pid());
    figures.add(&format!("resident with {MANY}"), "MiB", &[full], None);
    let of_each = (full - empty) * 1024.0 / float(MANY);
    figures.add("memory of each", "KiB", &[of_each], None);
    let ratio = (full - empty) * 1024.0 * 1024.0 / bytes;
    figures.add("memory of each, of its bytes in a list", "x", &[ratio], AtMost(1.6));
    for (prefix, count) in [("m10000", 10_000), ("m50000", MANY - 10_000)] {
        each(&server.access, 64, count, move |mut connection, number| async move {
            let path = format!("{COLLECTION}/{prefix}-{number}");
            connection.ask(Method::DELETE, &path, Bytes::new()).await?;
            Ok(connection)
        })
        .await?;
    }
    tokio::time::sleep(GIVE_BACK).await;
    let left = rig::resident_mib(server.pid());
    figures.add("resident after all are deleted", "MiB", &[left], None);
    figures.add("given back by then", "%", &[100.0 * (full - left) / (full - empty)], None);
    Ok(())
}

/// From a create to the last of many watchers, of which `streams` share a connection.
async fn fan_out(
    binary: &Path,
    streams: usize,
    [bar_p50, bar_p99]: [Option<Bar>; 2],
    figures: &mut Figures,
) -> Result<()> {
    let server = Server::begin(binary).await?;
    let mut unwatched = creates(&server.access, "alone", 1, CREATES_UNWATCHED).await?;
    let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
    let mut watchers = Vec::new();
    let path = format!(
        "{COLLECTION}?watch=true&resourceVersion={}",
        newest(&mut server.access.connect().await?).await?
    );
    let mut shared = None;
    for number in 0..WATCHERS {
        if number.is_multiple_of(streams) {
            shared = Some(server.access.connect_streams().await?);
        }
        let mut connection = shared.as_ref().context("the first watcher connects")?.another_stream()?;
        let sender = sender.clone();
        let answer = connection.send(Method::GET, &path, Bytes::new()).await?;
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
    let (mut last, mut replies) = (Vec::new(), Vec::new());
    for number in 0..FAN_OUTS {
        let began = Instant::now();
        connection.ask(Method::POST, COLLECTION, config_map(&format!("fan-{number}"), 'x')).await?;
        replies.push(began.elapsed());
        let mut latest = began;
        for _ in 0..WATCHERS {
            let seen = tokio::time::timeout(Duration::from_secs(5), receiver.recv()).await;
            latest = latest
                .max(seen.context("a watcher did not see an event within 5 s")?.context("a watcher ended")?);
        }
        last.push(latest - began);
    }
    let all = |samples: &[Duration]| samples.iter().map(|sample| ms(*sample)).collect::<Vec<_>>();
    let name = format!("{WATCHERS} watchers on {} connections", WATCHERS / streams);
    figures.add(&format!("{name}, create until the last, p50"), "ms", &all(&last), bar_p50);
    figures.add(
        &format!("{name}, create until the last, p99"),
        "ms",
        &[ms(quantile(&mut last, 0.99))],
        bar_p99,
    );
    figures.add(&format!("{name}, create, p50"), "ms", &all(&replies), None);
    figures.add(&format!("{name}, create, p99"), "ms", &[ms(quantile(&mut replies, 0.99))], None);
    let slower = median(&all(&replies)) / ms(quantile(&mut unwatched, 0.5));
    figures.add(&format!("{name}, create, of one without"), "x", &[slower], AtMost(1.0));
    figures.add(&format!("{name}, resident"), "MiB", &[rig::resident_mib(server.pid())], None);
    watchers.iter().for_each(tokio::task::JoinHandle::abort);
    Ok(())
}

/// The store's revision now, so that a watch begins with what happens next.
async fn newest(connection: &mut Connection) -> Result<String> {
    let list = connection.ask(Method::GET, &format!("{COLLECTION}?limit=1"), Bytes::new()).await?;
    let list: serde_json::Value = serde_json::from_slice(&list)?;
    Ok(list["metadata"]["resourceVersion"].as_str().context("a list has a resourceVersion")?.to_owned())
}
