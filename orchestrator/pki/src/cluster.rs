//! Everything a server needs, in one directory: made at the first start, repaired and renewed at every other.
use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use crate::{
    Ca, Error, GROUP_MASTERS, Identity, ServerNames, ServiceAccountKey, Subject, Token, USER_APISERVER,
    files, kubeconfig,
};

/// Names by which pods and people of the machine reach the API server; callers add the machine's own.
const STANDARD_NAMES: [&str; 5] = [
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
    "localhost",
];
const TOKEN_FILE: &str = "bootstrap.token";

/// What a cluster's certificates depend on.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where they are kept.
    pub directory: PathBuf,
    /// Further names and addresses of the API server: host names, the machine's and the `kubernetes` Service's addresses.
    pub server_names: ServerNames,
}

/// The certificates, keys and tokens of a cluster's server.
#[derive(Debug)]
pub struct ClusterPki {
    /// The authority.
    pub ca: Arc<Ca>,
    /// What the API server serves.
    pub apiserver: Identity,
    /// With which the API server calls agents.
    pub apiserver_client: Identity,
    /// The administrator.
    pub admin: Identity,
    /// The scheduler.
    pub scheduler: Identity,
    /// The controllers.
    pub controller_manager: Identity,
    /// Signs service account tokens.
    pub service_account: Arc<ServiceAccountKey>,
    /// Lets nodes join.
    pub token: Token,
}

impl ClusterPki {
    /// Opens the directory; makes what is missing, expired, near its end, signed by another authority or for other
    /// names. Idempotent: a running server calls it once a day and replaces its serving certificate by the result's.
    pub fn open_or_create(config: &Config, now: SystemTime) -> Result<Self, Error> {
        let directory = &config.directory;
        files::private_directory(directory)?;
        let _lock = files::lock(directory)?;
        let ca = Ca::open_or_create(directory, "bowsprit-ca", now)?;
        let client = |file: &str, subject: Subject| renew(&ca, directory, file, &subject, None, now);
        let mut names = config.server_names.clone();
        names.dns.extend(STANDARD_NAMES.map(String::from));
        names.ips.extend([IpAddr::from([127, 0, 0, 1]), IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1])]);
        Ok(Self {
            apiserver: renew(
                &ca,
                directory,
                "apiserver",
                &Subject::user("kube-apiserver"),
                Some(&names),
                now,
            )?,
            apiserver_client: client("apiserver-client", Subject::new(USER_APISERVER, GROUP_MASTERS))?,
            admin: client("admin", Subject::new("admin", GROUP_MASTERS))?,
            scheduler: client("scheduler", Subject::user("system:kube-scheduler"))?,
            controller_manager: client(
                "controller-manager",
                Subject::user("system:kube-controller-manager"),
            )?,
            service_account: Arc::new(ServiceAccountKey::open_or_create(
                &directory.join("service-account.key"),
            )?),
            token: open_token(&directory.join(TOKEN_FILE), &ca)?,
            ca: Arc::new(ca),
        })
    }

    /// Writes the administrator's kubeconfig for the API server at `server` (a URL).
    pub fn write_admin_kubeconfig(&self, path: &Path, server: &str) -> Result<(), Error> {
        let text =
            kubeconfig::kubeconfig("bowsprit", server, self.ca.certificate_pem(), "admin", &self.admin);
        if files::read(path)?.as_deref() == Some(&text) {
            return Ok(());
        }
        files::write(path, &text, files::MODE_SECRET)
    }
}

fn renew(
    ca: &Ca,
    directory: &Path,
    file: &str,
    subject: &Subject,
    names: Option<&ServerNames>,
    now: SystemTime,
) -> Result<Identity, Error> {
    let path = directory.join(format!("{file}.pem"));
    // A damaged leaf is made again like an expired one; only the authority is worth an error.
    let saved = match Identity::load(&path) {
        Err(Error::Malformed { .. }) => None,
        other => other?,
    };
    let before = saved.as_ref().map(|identity| identity.certificate().clone());
    let identity = ca.renew(saved, subject, names, now)?;
    if before.as_ref() != Some(identity.certificate()) {
        identity.save(&path)?;
    }
    Ok(identity)
}

fn open_token(path: &Path, ca: &Ca) -> Result<Token, Error> {
    let saved = files::read(path)?.and_then(|text| text.parse::<Token>().ok());
    if let Some(token) = saved.filter(|token| token.ca_sha256 == ca.sha256_hex()) {
        return Ok(token);
    }
    let token = Token::generate(ca.sha256_hex())?;
    files::write(path, &token.reveal(), files::MODE_SECRET)?;
    Ok(token)
}

#[cfg(test)]
mod tests;
