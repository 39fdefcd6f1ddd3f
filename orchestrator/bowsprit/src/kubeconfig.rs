//! How commands for people reach a cluster: the part of a kubeconfig file that is needed for that.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use clap::Args;
use client::{Client, ConnectConfig, Credentials};
use pki::Identity;
use rustls_pki_types::{CertificateDer, pem::PemObject};
use serde::Deserialize;

/// Where `bowsprit server` and `bowsprit up` leave one.
const DEFAULT: &str = "/var/lib/bowsprit/server/admin.kubeconfig";

/// Which cluster, and as whom.
#[derive(Debug, Clone, Args)]
pub(crate) struct KubeconfigArguments {
    /// The kubeconfig file; what the server wrote on this machine when it is not said.
    #[arg(long, env = "KUBECONFIG")]
    kubeconfig: Option<PathBuf>,
    /// The context in that file; its current one when it is not said.
    #[arg(long)]
    context: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct Kubeconfig {
    current_context: String,
    clusters: Vec<NamedCluster>,
    users: Vec<NamedUser>,
    contexts: Vec<NamedContext>,
}

#[derive(Debug, Deserialize)]
struct NamedCluster {
    name: String,
    cluster: Cluster,
}

#[derive(Debug, Deserialize)]
struct NamedUser {
    name: String,
    user: User,
}

#[derive(Debug, Deserialize)]
struct NamedContext {
    name: String,
    context: Target,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct Cluster {
    server: String,
    certificate_authority: Option<PathBuf>,
    certificate_authority_data: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct User {
    client_certificate: Option<PathBuf>,
    client_certificate_data: Option<String>,
    client_key: Option<PathBuf>,
    client_key_data: Option<String>,
    token: Option<String>,
    #[serde(rename = "tokenFile")]
    token_file: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Target {
    cluster: String,
    user: String,
}

// === impl KubeconfigArguments ===

impl KubeconfigArguments {
    /// A client of that cluster; it connects with its first request.
    pub(crate) fn connect(&self) -> Result<Client> {
        let path = self.path();
        let text = std::fs::read_to_string(&path).with_context(|| {
            format!(
                "cannot read the kubeconfig {} (name another with --kubeconfig or KUBECONFIG)",
                path.display()
            )
        })?;
        let config = connect_config(&text, self.context.as_deref(), path.parent().unwrap_or(Path::new("")))
            .with_context(|| format!("the kubeconfig {} cannot be used", path.display()))?;
        Ok(Client::connect(&config)?)
    }

    /// Of a list, as KUBECONFIG may be, the first that is there.
    fn path(&self) -> PathBuf {
        let Some(said) = &self.kubeconfig else { return DEFAULT.into() };
        let mut paths = std::env::split_paths(said);
        paths.find(|path| path.exists()).unwrap_or_else(|| said.clone())
    }
}

/// Reads what connecting needs; relative paths start at `directory`.
fn connect_config(text: &str, context: Option<&str>, directory: &Path) -> Result<ConnectConfig> {
    let config: Kubeconfig =
        serde_saphyr::from_str(text).map_err(|error| anyhow!("it is no kubeconfig: {error}"))?;
    let wanted = context.unwrap_or(&config.current_context);
    let context = config.contexts.iter().find(|context| context.name == wanted);
    let context = &context.with_context(|| format!("it has no context `{wanted}`"))?.context;
    let cluster = config.clusters.iter().find(|cluster| cluster.name == context.cluster);
    let cluster = &cluster.with_context(|| format!("it has no cluster `{}`", context.cluster))?.cluster;
    let user = config.users.iter().find(|user| user.name == context.user);
    let user = &user.with_context(|| format!("it has no user `{}`", context.user))?.user;
    Ok(ConnectConfig {
        servers: vec![cluster.server.clone()],
        ca: Some(cluster.authority(directory)?),
        credentials: user.credentials(directory)?,
    })
}

impl Cluster {
    fn authority(&self, directory: &Path) -> Result<CertificateDer<'static>> {
        let pem = inline_or_file(&self.certificate_authority_data, &self.certificate_authority, directory)?;
        let pem = pem.context("its cluster has no certificate-authority-data: the server could be anyone")?;
        CertificateDer::from_pem_slice(pem.as_bytes())
            .map_err(|error| anyhow!("its certificate authority is no PEM: {error}"))
    }
}

impl User {
    fn credentials(&self, directory: &Path) -> Result<Credentials> {
        let certificate = inline_or_file(&self.client_certificate_data, &self.client_certificate, directory)?;
        let key = inline_or_file(&self.client_key_data, &self.client_key, directory)?;
        if let (Some(certificate), Some(key)) = (certificate, key) {
            return Ok(Credentials::Certificate(Identity::new(certificate, key)?));
        }
        match (&self.token, &self.token_file) {
            (Some(token), _) => Ok(Credentials::Bearer(token.clone())),
            (None, Some(file)) => Ok(Credentials::Bearer(read(&directory.join(file))?.trim().to_owned())),
            (None, None) => bail!("its user has neither a client certificate with its key nor a token"),
        }
    }
}

/// Data in the file wins over a path, as for kubectl.
fn inline_or_file(data: &Option<String>, file: &Option<PathBuf>, directory: &Path) -> Result<Option<String>> {
    if let Some(data) = data {
        let bytes = BASE64.decode(data.trim()).context("its data is no base64")?;
        return Ok(Some(String::from_utf8(bytes).context("its data is no PEM")?));
    }
    file.as_ref().map(|file| read(&directory.join(file))).transpose()
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "
apiVersion: v1
kind: Config
clusters:
- name: here
  cluster: { server: https://10.0.0.1:6443, certificate-authority: ca.crt }
- name: anyone
  cluster: { server: https://10.0.0.2:6443, insecure-skip-tls-verify: true }
users:
- name: robot
  user: { token: abc }
- name: nobody
  user: {}
contexts:
- name: robot@here
  context: { cluster: here, user: robot, namespace: shop }
- name: nobody@here
  context: { cluster: here, user: nobody }
- name: robot@anyone
  context: { cluster: anyone, user: robot }
current-context: robot@here
";

    fn directory() -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        let ca = pki::Ca::create("test", std::time::SystemTime::now()).unwrap();
        std::fs::write(directory.path().join("ca.crt"), ca.certificate_pem()).unwrap();
        directory
    }

    #[test]
    fn the_current_context_is_read() {
        let directory = directory();
        let config = connect_config(FILE, None, directory.path()).unwrap();
        assert_eq!(config.servers, ["https://10.0.0.1:6443"]);
        assert!(matches!(config.credentials, Credentials::Bearer(token) if token == "abc"));
    }

    #[test]
    fn what_the_server_writes_is_read() {
        let now = std::time::SystemTime::now();
        let ca = pki::Ca::create("test", now).unwrap();
        let admin = ca.issue_client(&pki::Subject::new("admin", pki::GROUP_MASTERS), now).unwrap();
        let text =
            pki::kubeconfig::kubeconfig("c", "https://[::1]:6443", ca.certificate_pem(), "admin", &admin);
        let config = connect_config(&text, None, Path::new("/")).unwrap();
        assert_eq!(config.ca.as_ref(), Some(ca.certificate()));
        assert!(
            matches!(config.credentials, Credentials::Certificate(identity) if identity.certificate() == admin.certificate())
        );
    }

    #[test]
    fn complaints_name_what_is_missing() {
        let directory = directory();
        let complaint = |text: &str, context: &str| {
            connect_config(text, Some(context), directory.path()).unwrap_err().to_string()
        };
        assert_eq!(complaint(FILE, "other"), "it has no context `other`");
        assert!(complaint(FILE, "nobody@here").contains("neither a client certificate"));
        assert!(complaint(FILE, "robot@anyone").contains("could be anyone"));
        assert!(complaint("clusters: 5", "x").starts_with("it is no kubeconfig"));
    }
}
