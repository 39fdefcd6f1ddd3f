//! kill -9 while many write: what was acknowledged is there, and no revision is used twice.
//!
//! The embedded store is opened by a child, this same test binary, that prints every acknowledgement; etcd is killed itself
//! while this process goes on writing through the outage.

use std::{
    collections::{BTreeMap, HashSet},
    env,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use store::{
    EngineConfig, Event, KeyRange, Op, RangeOptions, Revision, Store, StoreConfig, StoreError, Txn,
    TxnResult, WatchItem,
};

use tokio::sync::watch;

use crate::rig::{LEASES, Rig, classes, get, list, next, put};

/// Tells the child where its store is.
const CHILD_PATH: &str = "BOWSPRIT_STORE_TEST_PATH";

const ROUNDS: usize = 5;
const WRITERS: usize = 8;

/// Acknowledgements after which a round ends.
const ACKNOWLEDGED: usize = 400;

/// While etcd is down every attempt fails at once.
const RETRY: Duration = Duration::from_millis(10);

/// A key, what was written to it, and where in the history.
type Acknowledged = BTreeMap<String, (String, Revision)>;

pub async fn kill_during_writes_loses_nothing(rig: Rig) {
    if rig.etcd.is_some() {
        kill_etcd(rig).await;
    } else {
        kill_embedded(rig).await;
    }
}

async fn kill_embedded(rig: Rig) {
    let mut seen = HashSet::new();
    let mut newest = 0;
    let mut all = Acknowledged::new();
    for round in 0..ROUNDS {
        let acknowledged = run_and_kill(&rig.path(), ACKNOWLEDGED + 37 * round);
        for (_, revision) in acknowledged.values() {
            assert!(*revision > newest, "revision {revision} was used before the crash; round {round}");
            assert!(seen.insert(*revision), "revision {revision} was used twice");
        }
        newest = acknowledged.values().map(|(_, revision)| *revision).max().unwrap_or(newest);
        all.extend(acknowledged);
        let store = rig.open().await;
        check(&*store, &all).await;
        assert!(store.revision().await.expect("reads") >= newest);
        newest = put(&*store, "/after", "x").await.max(newest);
        store.close().await;
    }
}

async fn check(store: &dyn Store, all: &Acknowledged) {
    let result = store.range(KeyRange::prefix("/"), RangeOptions::default()).await.expect("reads");
    let found: BTreeMap<String, (String, Revision)> = result
        .items
        .iter()
        .map(|kv| (crate::rig::text(&kv.key), (crate::rig::text(&kv.value), kv.mod_revision)))
        .collect();
    for (key, (value, revision)) in all {
        let (found, at) = found.get(key).unwrap_or_else(|| panic!("{key} was acknowledged and is gone"));
        // A write after it may have happened without its acknowledgement having been read.
        assert!(at >= revision, "{key} went back from {revision} to {at}");
        assert!(at > revision || found == value, "{key} at {at}: {found} instead of {value}");
    }
}

/// Runs the child until it has acknowledged so much, then kills it amid its writes.
fn run_and_kill(path: &Path, count: usize) -> Acknowledged {
    let mut child = spawn(path);
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines().map_while(Result::ok);
    let mut acknowledged = Acknowledged::new();
    let mut read = |line: String| {
        let mut words = line.strip_prefix("acknowledged ")?.split(' ');
        let (key, value, revision) = (words.next()?, words.next()?, words.next()?.parse().ok()?);
        acknowledged.insert(key.into(), (value.into(), revision));
        Some(())
    };
    let mut seen = 0;
    while seen < count {
        let line = lines.next().expect("the child writes until it is killed");
        seen += usize::from(read(line).is_some());
    }
    child.kill().expect("it is ours");
    // What it had printed before it died was acknowledged too; the last line may be cut short.
    let mut rest: Vec<String> = lines.collect();
    rest.pop();
    let _ = rest.into_iter().filter_map(read).count();
    child.wait().expect("it is ours");
    acknowledged
}

fn spawn(path: &Path) -> Child {
    Command::new(env::current_exe().expect("this test"))
        .args(["--exact", "crash::child", "--nocapture"])
        .env(CHILD_PATH, path)
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .expect("starts")
}

/// Not a test but the process that is killed: without a store to write to, as in an ordinary run, there is nothing to do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child() {
    let Some(path) = env::var_os(CHILD_PATH) else { return };
    let engine = EngineConfig::Embedded { path: path.into() };
    let config = StoreConfig { classes: classes(), ..StoreConfig::new(engine) };
    let store = store::open(config, &prometheus::Registry::new()).await.expect("opens");
    let writers: Vec<_> =
        (0..WRITERS).map(|writer| tokio::spawn(write_forever(store.clone(), writer))).collect();
    for writer in writers {
        writer.await.expect("never ends");
    }
}

/// Durable keys, leases, and both in turn; old and new ones.
async fn write_forever(store: Arc<dyn Store>, writer: usize) {
    let prefix = if writer.is_multiple_of(4) { LEASES } else { "/durable/" };
    for number in 0.. {
        let key = format!("{prefix}{writer}.{}", number % 100);
        let value = format!("{number}");
        let revision = put(&*store, &key, value.clone()).await;
        let line = format!("acknowledged {key} {value} {revision}\n");
        std::io::stdout().write_all(line.as_bytes()).expect("the parent reads");
    }
}

async fn kill_etcd(mut rig: Rig) {
    let store = rig.open().await;
    let acknowledged = Arc::new(watch::Sender::new(Acknowledged::new()));
    let watcher = tokio::spawn(follow(store.clone()));
    let (stop, stopped) = watch::channel(false);
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            tokio::spawn(write_through(store.clone(), writer, acknowledged.clone(), stopped.clone()))
        })
        .collect();
    let mut count = acknowledged.subscribe();
    for round in 1..=3 {
        count.wait_for(|all| all.len() >= round * ACKNOWLEDGED).await.expect("writes go on");
        if round < 3 {
            let etcd = rig.etcd.as_mut().expect("is etcd");
            etcd.kill();
            etcd.restart();
        }
    }
    stop.send_replace(true);
    for writer in writers {
        writer.await.expect("writes");
    }
    let all = acknowledged.borrow().clone();
    let revisions: HashSet<Revision> = all.values().map(|(_, revision)| *revision).collect();
    assert_eq!(revisions.len(), all.len(), "a revision was used twice");
    check(&*store, &all).await;

    put(&*store, "/end", "x").await;
    let seen = watcher.await.expect("watches");
    for (key, (value, revision)) in &all {
        assert_eq!(seen.get(revision), Some(&format!("{key}={value}")), "the watcher has missed {key}");
    }
}

/// Writes new keys through the outage; what failed is not counted.
async fn write_through(
    store: Arc<dyn Store>,
    writer: usize,
    acknowledged: Arc<watch::Sender<Acknowledged>>,
    stopped: watch::Receiver<bool>,
) {
    for number in 0.. {
        if *stopped.borrow() {
            return;
        }
        let key = format!("/through/{writer}.{number}");
        let then = vec![Op::put(key.clone(), number.to_string())];
        match store.txn(Txn { then, ..Txn::default() }).await {
            Ok(TxnResult::Committed { revision }) => {
                acknowledged.send_modify(|all| drop(all.insert(key, (number.to_string(), revision))));
            }
            Ok(TxnResult::Conflict { .. }) => panic!("no condition"),
            Err(StoreError::Unavailable { .. } | StoreError::OutcomeUnknown { .. }) => {
                tokio::time::sleep(RETRY).await
            }
            Err(error) => panic!("{error}"),
        }
    }
}

/// Everything that a watch sees until the end, each revision once.
async fn follow(store: Arc<dyn Store>) -> BTreeMap<Revision, String> {
    let mut watch = store.watch(KeyRange::prefix("/"), 1).await.expect("watches");
    let mut seen = BTreeMap::new();
    loop {
        let WatchItem::Events { revision, events } = next(&mut watch).await.expect("bridges the outage")
        else {
            continue;
        };
        assert!(
            seen.last_key_value().is_none_or(|(last, _)| *last < revision),
            "{revision} came late or twice"
        );
        let Event::Put { kv, .. } = &events[0] else { panic!("no deletes") };
        if kv.key == "/end" {
            return seen;
        }
        seen.insert(revision, format!("{}={}", crate::rig::text(&kv.key), crate::rig::text(&kv.value)));
    }
}

pub async fn a_clean_restart_keeps_everything(rig: Rig) {
    let mut rig = rig;
    rig.event_ttl = Duration::from_secs(3600);
    let store = rig.open().await;
    put(&*store, "/a", "1").await;
    put(&*store, "/events/e", "happened").await;
    put(&*store, "/leases/node", "held").await;
    let second = put(&*store, "/a", "2").await;
    let last = put(&*store, "/gone", "x").await;
    let last = crate::rig::delete(&*store, "/gone").await.max(last);
    store.close().await;
    assert_eq!(store.revision().await, Err(StoreError::Closed));
    assert!(matches!(store.txn(Txn::default()).await, Err(StoreError::Closed)));

    if let Some(etcd) = &mut rig.etcd {
        etcd.kill();
        etcd.restart();
    }
    let store = rig.open().await;
    assert_eq!(store.revision().await, Ok(last), "a clean restart skips no revision");
    assert_eq!(list(&*store, "/", None).await, ["/a=2", "/events/e=happened", "/leases/node=held"]);
    let kv = get(&*store, "/a").await.expect("exists");
    assert_eq!((kv.mod_revision, kv.version), (second, 2));
    assert_eq!(list(&*store, "/a", Some(second - 1)).await, ["/a=1"], "history survives");
    let mut watch = store.watch(KeyRange::prefix("/a"), second).await.expect("watches");
    assert_eq!(crate::rig::next_events(&mut watch).await, "/a=2<1");
}
