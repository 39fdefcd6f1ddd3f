//! A whole API server on loopback with the embedded store, for tests that speak to it as clients do.

use std::path::PathBuf;
use std::process::Output;
use std::sync::Arc;
use std::time::SystemTime;

use api::Registry;
use apiserver::{ApiServer, Bound, Config, Deps};
use pki::cluster::ClusterPki;
use pki::tls::ServingCertificate;
use store::{EngineConfig, StoreConfig};

/// A running server.
pub struct Server {
    /// The server.
    pub bound: Bound,
    /// Its certificates.
    pub pki: ClusterPki,
    /// A kubeconfig of the administrator.
    pub kubeconfig: PathBuf,
    /// Where everything is; removed with the server.
    pub directory: tempfile::TempDir,
}

/// The kubectl to test with; `KUBECTL` names another one than the machine's, such as Debian's 1.20.
pub fn kubectl_program() -> String {
    std::env::var("KUBECTL").unwrap_or_else(|_| "kubectl".to_owned())
}

/// Opens the embedded store in a directory.
pub async fn open_store(path: PathBuf) -> Arc<dyn store::Store> {
    let mut config = StoreConfig::new(EngineConfig::Embedded { path });
    config.classes = apiserver::storage_classes(&Registry::builtin());
    store::open(config, telemetry::Registry::new().prometheus()).await.expect("the store opens")
}

impl Server {
    /// Starts a server on a free port.
    pub async fn start() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let store = open_store(directory.path().join("store")).await;
        Self::over(store, directory).await
    }

    /// Starts a server over a store.
    pub async fn over(store: Arc<dyn store::Store>, directory: tempfile::TempDir) -> Self {
        let pki_config = pki::cluster::Config {
            directory: directory.path().join("pki"),
            server_names: pki::ServerNames::default(),
        };
        let pki = ClusterPki::open_or_create(&pki_config, SystemTime::now()).expect("certificates");
        let deps = Deps {
            store,
            registry: Registry::builtin(),
            serving: ServingCertificate::new(&pki.apiserver, pki.ca.certificate())
                .expect("a serving certificate"),
            ca: pki.ca.certificate().clone(),
            client: pki.apiserver_client.clone(),
            service_account: pki.service_account.clone(),
            bootstrap: Some(pki.token.clone()),
            metrics: telemetry::Registry::new(),
            health: telemetry::health::Health::new(),
        };
        let config = Config { listen: ([127, 0, 0, 1], 0).into(), ..Config::default() };
        let bound = ApiServer::build(config, deps).await.expect("the server starts");
        let kubeconfig = directory.path().join("admin.kubeconfig");
        let url = format!("https://{}", bound.addresses[0]);
        pki.write_admin_kubeconfig(&kubeconfig, &url).expect("a kubeconfig");
        Self { bound, pki, kubeconfig, directory }
    }

    /// Runs kubectl as the administrator.
    pub async fn kubectl(&self, args: &[&str]) -> Output {
        self.kubectl_with_input(args, "").await
    }

    /// Runs kubectl with something on its standard input.
    pub async fn kubectl_with_input(&self, args: &[&str], input: &str) -> Output {
        use tokio::io::AsyncWriteExt;
        let mut child = tokio::process::Command::new(kubectl_program())
            .arg("--kubeconfig")
            .arg(&self.kubeconfig)
            .args(["--cache-dir".as_ref(), self.directory.path().join("cache").as_os_str()])
            .args(args)
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("kubectl runs");
        let mut stdin = child.stdin.take().expect("piped");
        stdin.write_all(input.as_bytes()).await.expect("kubectl reads");
        drop(stdin);
        child.wait_with_output().await.expect("kubectl ends")
    }

    /// Runs kubectl, which must succeed, and returns what it prints.
    pub async fn ok(&self, args: &[&str]) -> String {
        let output = self.kubectl(args).await;
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "kubectl {args:?} failed: {stderr}");
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    /// Runs kubectl with input, which must succeed, and returns what it prints.
    pub async fn ok_with(&self, args: &[&str], input: &str) -> String {
        let output = self.kubectl_with_input(args, input).await;
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "kubectl {args:?} failed: {stderr}");
        String::from_utf8(output.stdout).expect("UTF-8")
    }
}

/// A response's code and body.
#[derive(Debug)]
pub struct Answer {
    /// The HTTP status code.
    pub code: u16,
    /// The headers.
    pub headers: http::HeaderMap,
    /// The body, null when it is not JSON.
    pub body: serde_json::Value,
    /// The body as it came.
    pub bytes: bytes::Bytes,
}

/// A watch's lines.
pub struct Lines {
    body: apiserver::body::Body,
    buffer: Vec<u8>,
}

impl Server {
    /// A request in process as the administrator.
    pub async fn ask(&self, method: &str, path: &str, body: serde_json::Value) -> Answer {
        self.ask_as("admin", &["system:masters"], method, path, &[], body).await
    }

    /// A request in process as somebody, with headers.
    pub async fn ask_as(
        &self,
        user: &str,
        groups: &[&str],
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: serde_json::Value,
    ) -> Answer {
        use http_body_util::BodyExt;
        let response = self.send(user, groups, method, path, headers, body).await;
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.expect("a body").to_bytes();
        let body = serde_json::from_slice(&bytes).unwrap_or_default();
        Answer { code: parts.status.as_u16(), headers: parts.headers, body, bytes }
    }

    /// Opens a watch as the administrator.
    pub async fn watch(&self, path: &str) -> Lines {
        let response =
            self.send("admin", &["system:masters"], "GET", path, &[], serde_json::Value::Null).await;
        assert_eq!(response.status(), 200, "{path}");
        Lines { body: response.into_body(), buffer: Vec::new() }
    }

    async fn send(
        &self,
        user: &str,
        groups: &[&str],
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: serde_json::Value,
    ) -> http::Response<apiserver::body::Body> {
        use tower::ServiceExt;
        let bytes = if body.is_null() { Vec::new() } else { serde_json::to_vec(&body).expect("JSON") };
        let mut request = http::Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if !user.is_empty() {
            request = request.extension(api::UserInfo::new(user, groups.iter().copied()));
        }
        let request = request.body(http_body_util::Full::new(bytes::Bytes::from(bytes))).expect("a request");
        self.bound.service.clone().oneshot(request).await.expect("infallible")
    }
}

impl Lines {
    /// The next event; panics when none comes within five seconds.
    pub async fn next(&mut self) -> serde_json::Value {
        let next = tokio::time::timeout(std::time::Duration::from_secs(5), self.next_or_end()).await;
        next.expect("an event in time").expect("the watch goes on")
    }

    /// The next event, or none when the watch has ended.
    pub async fn next_or_end(&mut self) -> Option<serde_json::Value> {
        use http_body_util::BodyExt;
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).expect("a line of JSON"));
            }
            let data = self.body.frame().await?.expect("a frame").into_data().expect("data");
            self.buffer.extend_from_slice(&data);
        }
    }

    /// The type and name of the next event.
    pub async fn brief(&mut self) -> String {
        let event = self.next().await;
        let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        format!("{} {}", text(&event["type"]), text(&event["object"]["metadata"]["name"]))
    }
}
