//! `bowsprit server` as a process of its own: API server, scheduler and controllers over the embedded store.

use crate::connection::Access;
use anyhow::{Context, Result};
use hyper::Method;
use hyper::body::Bytes;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const START: Duration = Duration::from_secs(20);
/// Far below what is measured.
const STEP: Duration = Duration::from_millis(1);

/// A server that ends, with all it stored, when this is dropped.
pub struct Server {
    // Dropped in this order: first the process, then its files.
    running: Running,
    _directory: tempfile::TempDir,
    /// How the admin reaches it.
    pub access: Access,
    /// From the start of the process to the first answer of `/readyz`.
    pub start: Duration,
}

impl Server {
    /// Starts the binary with an empty store beside it and waits until it is ready.
    pub async fn begin(binary: &Path) -> Result<Self> {
        Self::begin_with(binary, &[]).await
    }

    /// As `begin`, with more arguments.
    pub async fn begin_with(binary: &Path, arguments: &[&str]) -> Result<Self> {
        let directory = tempfile::tempdir_in(binary.parent().context("a binary lies in a directory")?)?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port().to_string();
        let path = |name: &str| directory.path().join(name).display().to_string();
        let kubeconfig = directory.path().join("admin.kubeconfig");
        let log = std::fs::File::create(directory.path().join("log"))?;
        let mut command = Command::new(binary);
        command.arg("server").args(["--log", "warn", "--secure-port", &port]);
        command.args(["--bind-address", "127.0.0.1", "--advertise-address", "127.0.0.1"]);
        command.args(["--data-dir", &path("data"), "--run-dir", &path("run")]);
        command.args(["--kubeconfig-out", &path("admin.kubeconfig")]);
        command.args(["--kubeconfig-server", &format!("https://127.0.0.1:{port}")]);
        command.args(arguments);
        command.stdout(log.try_clone()?).stderr(log).stdin(Stdio::null());
        let began = Instant::now();
        let child = command.spawn().with_context(|| format!("cannot start {}", binary.display()))?;
        let running = Running(child);
        let log = || std::fs::read_to_string(directory.path().join("log")).unwrap_or_default();
        let access = await_ready(&kubeconfig, START).await.with_context(|| format!("its log: {}", log()))?;
        let start = began.elapsed();
        Ok(Self { running, _directory: directory, access, start })
    }

    /// Its process.
    pub fn pid(&self) -> i32 {
        i32::try_from(self.running.0.id()).unwrap_or(0)
    }
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It is our own child and is waited for: nothing can go wrong that would matter to a measurement.
        let _ended = self.0.kill().and_then(|()| self.0.wait());
    }
}

/// Waits, from before there is a kubeconfig, until the API server that it leads to is ready.
pub async fn await_ready(kubeconfig: &Path, patience: Duration) -> Result<Access> {
    let ready = async {
        let access = loop {
            match Access::from_kubeconfig(kubeconfig) {
                Ok(access) => break access,
                Err(_not_yet_written) => tokio::time::sleep(STEP).await,
            }
        };
        loop {
            if let Ok(mut connection) = access.connect().await
                && connection.ask(Method::GET, "/readyz", Bytes::new()).await.is_ok()
            {
                return access;
            }
            tokio::time::sleep(STEP).await;
        }
    };
    tokio::time::timeout(patience, ready)
        .await
        .with_context(|| format!("the server that writes {} does not become ready", kubeconfig.display()))
}
