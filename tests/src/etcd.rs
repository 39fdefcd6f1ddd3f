//! A real etcd with TLS in a node's network namespace: its certificates and its command line.

use crate::command::{command, run};
use crate::layout::NodeLayout;
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// Where it listens in its node's network namespace.
pub const CLIENT_PORT: u16 = 2379;

/// The files that a client of the etcd needs.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// The CA's certificate.
    pub ca: PathBuf,
    /// The client's certificate.
    pub certificate: PathBuf,
    /// The client's key.
    pub key: PathBuf,
}

/// Makes certificates (once) and returns etcd's command line and the client's files.
///
/// # Errors
/// When `openssl` complains or the directory cannot be written.
pub fn configure(node: &NodeLayout) -> Result<(Vec<String>, Credentials)> {
    let directory = node.directory.join("etcd-pki");
    let credentials = Credentials {
        ca: directory.join("ca.crt"),
        certificate: directory.join("client.crt"),
        key: directory.join("client.key"),
    };
    if !credentials.key.exists() {
        make_certificates(&directory)?;
    }
    let url = format!("https://127.0.0.1:{CLIENT_PORT}");
    let peer = "http://127.0.0.1:2380";
    let file = |name: &str| directory.join(name).display().to_string();
    let words = [
        ("--name", node.name.clone()),
        ("--data-dir", node.directory.join("etcd").display().to_string()),
        ("--listen-client-urls", url.clone()),
        ("--advertise-client-urls", url),
        ("--listen-peer-urls", peer.to_owned()),
        ("--initial-advertise-peer-urls", peer.to_owned()),
        ("--initial-cluster", format!("{}={peer}", node.name)),
        ("--cert-file", file("server.crt")),
        ("--key-file", file("server.key")),
        ("--trusted-ca-file", file("ca.crt")),
        ("--client-cert-auth", "true".to_owned()),
    ];
    let mut argv = vec!["etcd".to_owned()];
    argv.extend(words.into_iter().map(|(flag, value)| format!("{flag}={value}")));
    Ok((argv, credentials))
}

fn make_certificates(directory: &Path) -> Result<()> {
    fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    let openssl = |words: &str| run(command("openssl", words.split(' ')).current_dir(directory));
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    openssl(&format!("req -x509 {key} -days 3650 -subj /CN=etcd-ca -keyout ca.key -out ca.crt"))?;
    fs::write(directory.join("names"), "subjectAltName=IP:127.0.0.1,DNS:localhost\n")?;
    for name in ["server", "client"] {
        openssl(&format!("req {key} -subj /CN={name} -keyout {name}.key -out {name}.csr"))?;
        openssl(&format!(
            "x509 -req -in {name}.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 3650 -extfile names -out {name}.crt"
        ))?;
    }
    Ok(())
}
