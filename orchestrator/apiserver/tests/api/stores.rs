//! The server over a real etcd, and over a store that is away.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::support::{Server, open_store};
use futures::StreamExt;
use serde_json::{Value, json};
use store::{
    EngineConfig, KeyRange, LeaseId, RangeOptions, RangeResult, Revision, Store, StoreConfig, StoreError,
    Txn, TxnResult, WatchStream,
};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}})
}

/// An etcd on loopback with its data in a directory; ends with the test.
struct Etcd {
    child: Child,
    client: String,
}

impl Etcd {
    fn start(directory: &Path) -> Self {
        let port = || std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let (client, peer) = (format!("http://127.0.0.1:{}", port()), format!("http://127.0.0.1:{}", port()));
        let child = Command::new("etcd")
            .args(["--name", "test", "--initial-cluster", &format!("test={peer}")])
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .arg("--data-dir")
            .arg(directory)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("etcd can be started: `cargo xtask setup` installs etcd-server");
        Self { child, client }
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_api_over_etcd() {
    let directory = tempfile::tempdir().unwrap();
    let mut etcd = Etcd::start(&directory.path().join("etcd"));
    let mut config = StoreConfig::new(EngineConfig::Etcd { endpoints: vec![etcd.client.clone()] });
    config.classes = apiserver::storage_classes(&api::Registry::builtin());
    let store = loop {
        match store::open(config.clone(), telemetry::Registry::new().prometheus()).await {
            Ok(store) => break store,
            Err(error) => {
                assert!(matches!(etcd.child.try_wait(), Ok(None)), "etcd has ended: {error}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    };
    let server = Server::over(store, directory).await;
    let mut watch = server.watch(&format!("{MAPS}?watch=1")).await;
    for index in 0..20 {
        let name = format!("m{index:02}");
        assert_eq!(server.ask("POST", MAPS, map(&name)).await.code, 201);
        // A read after a write sees it.
        assert_eq!(server.ask("GET", &format!("{MAPS}/{name}"), Value::Null).await.code, 200, "{name}");
        assert_eq!(watch.brief().await, format!("ADDED {name}"));
    }
    let first = server.ask("GET", &format!("{MAPS}?limit=15"), Value::Null).await.body;
    let token = first["metadata"]["continue"].as_str().unwrap();
    server.ask("DELETE", &format!("{MAPS}/m19"), Value::Null).await;
    let second = server.ask("GET", &format!("{MAPS}?limit=15&continue={token}"), Value::Null).await.body;
    assert_eq!(second["items"].as_array().unwrap().len(), 5, "pages are of one state");

    // etcd goes away: writes and consistent reads say so, what is cached stays.
    drop(etcd);
    let write = server.ask("POST", MAPS, map("late")).await;
    assert!(matches!(write.code, 503 | 504), "{}", write.body);
    assert!(write.body["message"].as_str().unwrap().contains("the store"), "{}", write.body);
    let read = server.ask("GET", &format!("{MAPS}/m00"), Value::Null).await;
    assert!(matches!(read.code, 503 | 504), "{}", read.body);
    let cached = server.ask("GET", &format!("{MAPS}/m00?resourceVersion=0"), Value::Null).await;
    assert_eq!(cached.code, 200, "{}", cached.body);
}

/// A store that can be switched off.
struct Switch {
    inner: Arc<dyn Store>,
    off: AtomicBool,
    /// Ends all watches with an error when it is told to.
    cut: Arc<tokio::sync::Notify>,
}

impl Switch {
    fn check(&self) -> Result<(), StoreError> {
        let away = || StoreError::Unavailable { reason: "switched off by the test".into() };
        if self.off.load(Ordering::Relaxed) { Err(away()) } else { Ok(()) }
    }
}

#[async_trait::async_trait]
impl Store for Switch {
    async fn range(&self, range: KeyRange, options: RangeOptions) -> Result<RangeResult, StoreError> {
        self.check()?;
        self.inner.range(range, options).await
    }

    async fn txn(&self, txn: Txn) -> Result<TxnResult, StoreError> {
        self.check()?;
        self.inner.txn(txn).await
    }

    async fn watch(&self, range: KeyRange, from: Revision) -> Result<WatchStream, StoreError> {
        self.check()?;
        let cut = self.cut.clone();
        let end = futures::stream::once(async move {
            cut.notified().await;
            Err(StoreError::Unavailable { reason: "cut by the test".into() })
        });
        let watch = self.inner.watch(range, from).await?;
        Ok(Box::pin(futures::stream::select(watch, end).scan(false, |ended, item| {
            let last = std::mem::replace(ended, item.is_err());
            std::future::ready((!last).then_some(item))
        })))
    }

    async fn revision(&self) -> Result<Revision, StoreError> {
        self.check()?;
        self.inner.revision().await
    }

    async fn request_progress(&self) -> Result<(), StoreError> {
        self.inner.request_progress().await
    }

    fn progress_is_reliable(&self) -> bool {
        self.inner.progress_is_reliable()
    }

    async fn lease_grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        self.inner.lease_grant(ttl).await
    }

    async fn lease_keepalive(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.inner.lease_keepalive(lease).await
    }

    async fn lease_revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.inner.lease_revoke(lease).await
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        self.inner.compact(revision).await
    }

    async fn close(&self) {
        self.inner.close().await;
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_away_is_told_as_such() {
    let directory = tempfile::tempdir().unwrap();
    let inner = open_store(directory.path().join("store")).await;
    let store = Arc::new(Switch { inner, off: AtomicBool::new(false), cut: Arc::default() });
    let server = Server::over(store.clone(), directory).await;
    assert_eq!(server.ask("POST", MAPS, map("a")).await.code, 201);
    store.off.store(true, Ordering::Relaxed);
    for (method, path, body) in [
        ("POST", MAPS.to_owned(), map("b")),
        ("GET", MAPS.to_owned(), Value::Null),
        ("DELETE", format!("{MAPS}/a"), Value::Null),
    ] {
        let answer = server.ask(method, &path, body).await;
        assert_eq!(
            (answer.code, &answer.body["reason"]),
            (503, &json!("ServiceUnavailable")),
            "{}",
            answer.body
        );
        assert!(
            answer.body["message"].as_str().unwrap().contains("switched off by the test"),
            "{}",
            answer.body
        );
        assert!(answer.headers.contains_key("retry-after"));
    }
    let cached = server.ask("GET", &format!("{MAPS}?resourceVersion=0"), Value::Null).await;
    assert_eq!(
        cached.body["items"].as_array().map(Vec::len),
        Some(1),
        "what the cache holds can still be read"
    );
    store.off.store(false, Ordering::Relaxed);
    assert_eq!(server.ask("POST", MAPS, map("b")).await.code, 201);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_finds_everything_and_history_has_an_end() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let store = open_store(path.clone()).await;
    let server = Server::over(store.clone(), directory).await;
    let made = server.ask("POST", MAPS, map("a")).await.body;
    let old = server.ask("GET", &format!("{MAPS}?limit=0"), Value::Null).await.body;
    for index in 0..5 {
        server.ask("POST", MAPS, map(&format!("b{index}"))).await;
    }
    let page = server.ask("GET", &format!("{MAPS}?limit=2"), Value::Null).await.body;
    server.ask("DELETE", &format!("{MAPS}/b4"), Value::Null).await;
    let now = store.revision().await.unwrap();
    store.compact(now).await.unwrap();
    // A list whose state is gone can be continued with what there is.
    let token = page["metadata"]["continue"].as_str().unwrap();
    let expired = server.ask("GET", &format!("{MAPS}?limit=2&continue={token}"), Value::Null).await;
    assert_eq!((expired.code, &expired.body["reason"]), (410, &json!("Expired")), "{}", expired.body);
    let token = expired.body["metadata"]["continue"].as_str().unwrap();
    let rest = server.ask("GET", &format!("{MAPS}?continue={token}"), Value::Null).await;
    assert_eq!((rest.code, rest.body["items"].as_array().map(Vec::len)), (200, Some(3)), "{}", rest.body);

    let Server { bound, directory, .. } = server;
    bound.shutdown.run().await;
    store.close().await;
    drop(store);
    let server = Server::over(open_store(path).await, directory).await;
    let again = server.ask("GET", &format!("{MAPS}/a"), Value::Null).await;
    assert_eq!(again.body, made);
    let version = old["metadata"]["resourceVersion"].as_str().unwrap();
    let past = server
        .ask("GET", &format!("{MAPS}?watch=1&resourceVersion={version}&timeoutSeconds=1"), Value::Null)
        .await;
    assert_eq!((past.code, &past.body["reason"]), (410, &json!("Expired")), "{}", past.body);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gap_in_the_feed_is_closed() {
    let directory = tempfile::tempdir().unwrap();
    let inner = open_store(directory.path().join("store")).await;
    let store = Arc::new(Switch { inner, off: AtomicBool::new(false), cut: Arc::default() });
    let server = Server::over(store.clone(), directory).await;
    server.ask("POST", MAPS, map("a")).await;
    let mut watch = server.watch(&format!("{MAPS}?watch=1")).await;
    assert_eq!(watch.brief().await, "ADDED a");
    // The watch ends and the store is away; somebody else writes meanwhile, and history remains.
    store.off.store(true, Ordering::Relaxed);
    store.cut.notify_waiters();
    write_behind(&store, "b").await;
    store.off.store(false, Ordering::Relaxed);
    assert_eq!(watch.brief().await, "ADDED b", "watchers notice nothing");
    // The same again, but history goes: everything is loaded anew, and watchers must list again.
    store.off.store(true, Ordering::Relaxed);
    store.cut.notify_waiters();
    write_behind(&store, "c").await;
    write_behind(&store, "d").await;
    store.inner.compact(store.inner.revision().await.unwrap()).await.unwrap();
    store.off.store(false, Ordering::Relaxed);
    assert_eq!(watch.next().await["type"], "ERROR");
    let all = server.ask("GET", MAPS, Value::Null).await;
    assert_eq!(all.body["items"].as_array().map(Vec::len), Some(4), "{}", all.body);
    let path = format!(
        "{MAPS}?watch=1&resourceVersion={}",
        all.body["metadata"]["resourceVersion"].as_str().unwrap()
    );
    let mut watch = server.watch(&path).await;
    server.ask("POST", MAPS, map("e")).await;
    assert_eq!(watch.brief().await, "ADDED e");
}

/// Writes as another server would.
async fn write_behind(store: &Switch, name: &str) {
    let value = format!(
        r#"{{"kind":"ConfigMap","apiVersion":"v1","metadata":{{"name":"{name}","namespace":"default"}}}}"#
    );
    put(&store.inner, &format!("/registry/core/configmaps/default/{name}"), &value).await;
}

async fn put(store: &Arc<dyn Store>, key: &str, value: &str) {
    let then = vec![store::Op::put(key.to_owned(), value.to_owned())];
    store.txn(Txn { then, ..Txn::default() }).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claims_and_services_are_made_to_agree_at_start() {
    let directory = tempfile::tempdir().unwrap();
    let store = open_store(directory.path().join("store")).await;
    let service = r#"{"kind":"Service","apiVersion":"v1","metadata":{"name":"s","namespace":"default","uid":"u"},"spec":{"type":"NodePort","clusterIP":"10.96.7.7","clusterIPs":["10.96.7.7"],"ipFamilies":["IPv4"],"ports":[{"port":80,"nodePort":30777,"protocol":"TCP"}]}}"#;
    put(&store, "/registry/core/services/default/s", service).await;
    put(&store, "/registry/bowsprit.dev/clusterips/10.96.8.8", "{}").await;
    put(&store, "/registry/bowsprit.dev/nodeports/30888", "{}").await;
    let _server = Server::over(store.clone(), directory).await;
    let read =
        store.range(KeyRange::prefix("/registry/bowsprit.dev/"), RangeOptions::default()).await.unwrap();
    let keys: Vec<_> = read.items.iter().map(|kv| String::from_utf8_lossy(&kv.key).into_owned()).collect();
    let has = |part: &str| keys.iter().any(|key| key.ends_with(part));
    assert!(has("/10.96.7.7") && has("/30777") && has("/10.96.0.1"), "{keys:?}");
    assert!(!has("/10.96.8.8") && !has("/30888"), "{keys:?}");
}
