//! An etcd process for a test: loopback, free ports, its own directory; ended by its pid.

use std::{
    fs::File,
    io::{BufRead, BufReader, Write},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

/// From start to its first leader.
const START_PATIENCE: Duration = Duration::from_secs(30);

pub struct Etcd {
    child: Option<Child>,
    directory: PathBuf,
    client_port: u16,
    peer_port: u16,
    tls: Vec<String>,
}

impl Etcd {
    pub fn start(directory: &Path) -> Self {
        Self::start_with(directory, Vec::new())
    }

    /// With TLS for clients, given as etcd's options.
    pub fn start_with(directory: &Path, tls: Vec<String>) -> Self {
        let [client_port, peer_port] = free_ports();
        let mut etcd = Self { child: None, directory: directory.to_owned(), client_port, peer_port, tls };
        etcd.restart();
        etcd
    }

    pub fn url(&self) -> String {
        let scheme = if self.tls.is_empty() { "http" } else { "https" };
        format!("{scheme}://127.0.0.1:{}", self.client_port)
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    /// Starts it on its old directory and ports, and waits until it serves.
    pub fn restart(&mut self) {
        let (client, peer) = (self.url(), format!("http://127.0.0.1:{}", self.peer_port));
        let mut child = Command::new("etcd")
            .args(["--name", "test", "--logger", "zap"])
            .args(["--data-dir".as_ref(), self.directory.join("etcd").as_os_str()])
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("test={peer}")])
            .args(&self.tls)
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("etcd starts; install etcd-server");
        let stderr = child.stderr.take().expect("piped");
        self.child = Some(child);
        let mut log = File::options()
            .create(true)
            .append(true)
            .open(self.directory.join("etcd.log"))
            .expect("a log in the temporary directory");
        let (serves, served) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let _ = writeln!(log, "{line}");
                if line.contains("serving client") || line.contains("serving insecure client") {
                    let _ = serves.send(());
                }
            }
        });
        served.recv_timeout(START_PATIENCE).expect("etcd serves; its log is in the test's directory");
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("it is ours");
            child.wait().expect("it is ours");
        }
    }

    /// SIGSTOP or SIGCONT.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill")
            .args([format!("-{name}"), self.pid().to_string()])
            .status()
            .expect("kill runs");
        assert!(status.success());
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Ports that were free a moment ago.
fn free_ports() -> [u16; 2] {
    let listeners = [0; 2].map(|_| TcpListener::bind("127.0.0.1:0").expect("a free port"));
    listeners.each_ref().map(|listener| listener.local_addr().expect("bound").port())
}
