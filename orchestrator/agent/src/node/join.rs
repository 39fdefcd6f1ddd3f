//! How a node comes into a cluster: it makes its key here, the token pins the cluster's authority, the server signs. A
//! node that has joined before uses what it has; expired or lost certificates are asked for anew with the token. Both
//! certificates are renewed long before their end, while everything runs.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use client::objects::nullable;
use client::{Client, ConnectConfig, Credentials, Meta};
use pki::csr::{PendingIdentity, SIGNER_NODE_CLIENT, SIGNER_NODE_SERVING};
use pki::tls::ServingCertificate;
use pki::{Identity, ServerNames, Subject, Token};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde::Deserialize;
use serde_json::json;

use crate::errors::chain;

/// The controllers sign within milliseconds; a cluster that is just starting takes a moment.
const SIGN_TIMEOUT: Duration = Duration::from_secs(30);
/// Pauses between looks at a request: a bootstrap token may get its own request, and nothing else, so not watch either.
const LOOK_FIRST: Duration = Duration::from_millis(10);
const LOOK_MAX: Duration = Duration::from_millis(500);
/// Pause before another attempt to join a cluster that does not answer.
const RETRY: Duration = Duration::from_millis(250);
/// Certificates are looked at this often.
const RENEWAL_CHECK: Duration = Duration::from_secs(3600);

const CLIENT_FILE: &str = "client.pem";
const SERVING_FILE: &str = "serving.pem";
const CA_FILE: &str = "ca.crt";

/// Who joins what.
#[derive(Clone, Debug)]
pub struct JoinConfig {
    /// URLs of the API servers.
    pub servers: Vec<String>,
    /// Needed the first time, and to heal expired certificates.
    pub token: Option<Token>,
    /// The node's name.
    pub node_name: String,
    /// The node's addresses, for its serving certificate.
    pub node_ips: Vec<IpAddr>,
    /// Where keys and certificates are kept.
    pub directory: PathBuf,
}

/// A node that has joined.
pub struct Joined {
    /// The API server, as this node.
    pub client: Client,
    /// What the node's HTTPS server presents; kept current by `renew`.
    pub serving: Arc<ServingCertificate>,
    /// The cluster's authority.
    pub ca: CertificateDer<'static>,
    config: JoinConfig,
    identity: Identity,
    serving_identity: Identity,
}

/// The node could not join.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// Nothing to prove itself with.
    #[error(
        "node {node} has no valid certificate in {directory:?}: start the agent with --token (a server writes it to server/token in its data directory)"
    )]
    NoToken {
        /// The node.
        node: String,
        /// Where certificates are kept.
        directory: PathBuf,
    },
    /// The token is not this cluster's, or is no longer.
    #[error(
        "node {node} cannot join: the server does not accept its token; --token must be what stands in server/token of that server's data directory"
    )]
    Token {
        /// The node.
        node: String,
    },
    /// The server is not who the token says, or its certificate is not valid now.
    #[error(
        "node {node} does not trust the server: {reason}; --token must be what stands in server/token of that server's data directory, and both clocks must be right"
    )]
    Untrusted {
        /// The node.
        node: String,
        /// What is wrong with the server's certificate.
        reason: String,
    },
    /// The server is not to be reached or refuses.
    #[error("node {node} cannot join: {source}")]
    Api {
        /// The node.
        node: String,
        /// What the server said.
        #[source]
        source: client::Error,
    },
    /// The request was denied or the signer failed.
    #[error("certificate request {request} of node {node} was not signed: {reason}")]
    NotSigned {
        /// The node.
        node: String,
        /// Name of the request.
        request: String,
        /// Why.
        reason: String,
    },
    /// Keys or certificates are unusable.
    #[error(transparent)]
    Pki(#[from] pki::Error),
}

/// A certificate request's object.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Request {
    metadata: Meta,
    status: RequestStatus,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct RequestStatus {
    #[serde(deserialize_with = "nullable")]
    conditions: Vec<Condition>,
    #[serde(deserialize_with = "nullable")]
    certificate: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Condition {
    r#type: String,
    message: String,
}

client::resource!(Request: "certificates.k8s.io" / "v1" / "certificatesigningrequests", "CertificateSigningRequest", cluster);

/// Joins the cluster, or comes back into it. Tries for ever while the servers are not to be reached; fails when they
/// refuse.
pub async fn join(config: JoinConfig) -> Result<Joined, JoinError> {
    pki::files::private_directory(&config.directory)?;
    let held = load(&config)?;
    let (identity, ca) = match held {
        Some(held) => held,
        None => patiently(&config, "joining", || bootstrap(&config)).await?,
    };
    let client = connect(&config, &identity, &ca)?;
    let names = server_names(&config);
    let serving_path = config.directory.join(SERVING_FILE);
    let serving_identity =
        match Identity::load(&serving_path).ok().flatten().filter(|held| serves(held, &names)) {
            Some(held) => held,
            None => {
                patiently(&config, "asking for a serving certificate", || serving(&config, &client)).await?
            }
        };
    let certificate = ServingCertificate::new(&serving_identity, &ca)?;
    Ok(Joined { client, serving: certificate, ca, config, identity, serving_identity })
}

// === impl Joined ===

impl Joined {
    /// Renews both certificates when their time comes; never ends.
    pub async fn renew(mut self) {
        loop {
            tokio::time::sleep(RENEWAL_CHECK).await;
            if let Err(error) = self.renew_once().await {
                tracing::error!(
                    node = self.config.node_name,
                    error = chain(&error),
                    "certificates not renewed; tried again in an hour"
                );
            }
        }
    }

    async fn renew_once(&mut self) -> Result<(), JoinError> {
        let now = SystemTime::now();
        if self.identity.facts().needs_renewal(now) {
            let identity = request_client(&self.config, &self.client).await?;
            identity.save(&self.config.directory.join(CLIENT_FILE))?;
            let connect = connect_config(&self.config, &identity, &self.ca);
            self.client.reconfigure(&connect).await.map_err(|source| api(&self.config, source))?;
            self.identity = identity;
            tracing::info!(node = self.config.node_name, "client certificate renewed");
        }
        if self.serving_identity.facts().needs_renewal(now) {
            self.serving_identity = serving(&self.config, &self.client).await?;
            self.serving.replace(&self.serving_identity, &self.ca)?;
            tracing::info!(node = self.config.node_name, "serving certificate renewed");
        }
        Ok(())
    }
}

/// What an earlier life of this node left, if it still serves.
fn load(config: &JoinConfig) -> Result<Option<(Identity, CertificateDer<'static>)>, JoinError> {
    let now = SystemTime::now();
    let Some(ca) = pki::files::read(&config.directory.join(CA_FILE))? else { return Ok(None) };
    let Ok(ca) = CertificateDer::from_pem_slice(ca.as_bytes()) else { return Ok(None) };
    // A token for another authority: the node is being moved to another cluster.
    let moved = config.token.as_ref().is_some_and(|token| token.ca_sha256 != pki::ca::sha256_hex(&ca));
    let Some(identity) = Identity::load(&config.directory.join(CLIENT_FILE))? else { return Ok(None) };
    let facts = identity.facts();
    let ours = facts.subject == Subject::node(&config.node_name) && facts.is_valid(now);
    Ok((ours && !moved).then_some((identity, ca)))
}

/// First contact: the token proves the server to us and us to the server.
async fn bootstrap(config: &JoinConfig) -> Result<(Identity, CertificateDer<'static>), JoinError> {
    let Some(token) = config.token.clone() else {
        let (node, directory) = (config.node_name.clone(), config.directory.clone());
        return Err(JoinError::NoToken { node, directory });
    };
    let servers = config.servers.clone();
    let connect = ConnectConfig { servers, ca: None, credentials: Credentials::Bootstrap(token) };
    let client = Client::connect(&connect).map_err(|source| api(config, source))?;
    let identity = request_client(config, &client).await?;
    let ca = client.pinned_ca().ok_or_else(|| JoinError::NotSigned {
        node: config.node_name.clone(),
        request: String::new(),
        reason: "the server did not present its authority".to_owned(),
    })?;
    pki::files::write(&config.directory.join(CA_FILE), &pem(&ca), pki::files::MODE_PUBLIC)?;
    identity.save(&config.directory.join(CLIENT_FILE))?;
    tracing::info!(node = config.node_name, "joined the cluster");
    Ok((identity, ca))
}

async fn request_client(config: &JoinConfig, client: &Client) -> Result<Identity, JoinError> {
    let pending = PendingIdentity::generate(Subject::node(&config.node_name), ServerNames::default())?;
    signed(config, client, pending, SIGNER_NODE_CLIENT, "client auth").await
}

async fn serving(config: &JoinConfig, client: &Client) -> Result<Identity, JoinError> {
    let pending = PendingIdentity::generate(Subject::node(&config.node_name), server_names(config))?;
    let identity = signed(config, client, pending, SIGNER_NODE_SERVING, "server auth").await?;
    identity.save(&config.directory.join(SERVING_FILE))?;
    Ok(identity)
}

/// Sends a request and waits for its certificate.
async fn signed(
    config: &JoinConfig,
    client: &Client,
    pending: PendingIdentity,
    signer: &str,
    usage: &str,
) -> Result<Identity, JoinError> {
    let request = json!({
        "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
        "metadata": {"generateName": format!("{}-", config.node_name)},
        "spec": {
            "request": BASE64.encode(pending.request_pem()?), "signerName": signer,
            "usages": ["digital signature", usage],
        },
    });
    let made: Request = client.create("", &request).await.map_err(|source| api(config, source))?;
    let name = made.metadata.name.to_string();
    let fail = |reason: String| JoinError::NotSigned {
        node: config.node_name.clone(),
        request: name.clone(),
        reason,
    };
    let wait = async {
        let mut pause = LOOK_FIRST;
        loop {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LOOK_MAX);
            let seen: Request = match client.get("", &name).await {
                Ok(seen) => seen,
                Err(error) if error.is_not_found() => return Err("the request was deleted".to_owned()),
                // The server that took the request will be back.
                Err(_) => continue,
            };
            let refused = seen
                .status
                .conditions
                .into_iter()
                .find(|held| matches!(held.r#type.as_str(), "Denied" | "Failed"));
            if let Some(refused) = refused {
                return Err(refused.message);
            }
            if !seen.status.certificate.is_empty() {
                return Ok(seen.status.certificate);
            }
        }
    };
    let late =
        || fail(format!("nobody signed it within {} s: do the controllers run?", SIGN_TIMEOUT.as_secs()));
    let certificate = tokio::time::timeout(SIGN_TIMEOUT, wait).await.map_err(|_| late())?.map_err(fail)?;
    let certificate = BASE64.decode(certificate).unwrap_or_default();
    Ok(pending.finish(&String::from_utf8_lossy(&certificate))?)
}

/// Tries again while the servers are not to be reached; every other failure is final.
async fn patiently<T, F: Future<Output = Result<T, JoinError>>>(
    config: &JoinConfig,
    what: &str,
    attempt: impl Fn() -> F,
) -> Result<T, JoinError> {
    let mut told = false;
    loop {
        match attempt().await {
            Err(error @ (JoinError::Api { .. } | JoinError::NotSigned { .. })) if is_passing(&error) => {
                if !std::mem::replace(&mut told, true) {
                    tracing::warn!(
                        node = config.node_name,
                        error = chain(&error),
                        "{what}: not yet, trying again"
                    );
                }
                tokio::time::sleep(RETRY).await;
            }
            other => return other,
        }
    }
}

fn is_passing(error: &JoinError) -> bool {
    match error {
        // Refused for good: who we are or what we ask for is wrong.
        JoinError::Api { source, .. } => !matches!(source.code(), Some(400..=408 | 410..=428)),
        JoinError::NotSigned { reason, .. } => reason.contains("nobody signed it"),
        _ => false,
    }
}

fn connect(
    config: &JoinConfig,
    identity: &Identity,
    ca: &CertificateDer<'static>,
) -> Result<Client, JoinError> {
    let client =
        Client::connect(&connect_config(config, identity, ca)).map_err(|source| api(config, source))?;
    Ok(client.named("bowsprit-agent"))
}

fn connect_config(config: &JoinConfig, identity: &Identity, ca: &CertificateDer<'static>) -> ConnectConfig {
    ConnectConfig {
        servers: config.servers.clone(),
        ca: Some(ca.clone()),
        credentials: Credentials::Certificate(identity.clone()),
    }
}

fn server_names(config: &JoinConfig) -> ServerNames {
    ServerNames {
        dns: std::iter::once(config.node_name.clone()).collect(),
        ips: config.node_ips.iter().copied().collect(),
    }
}

fn serves(identity: &Identity, names: &ServerNames) -> bool {
    let facts = identity.facts();
    facts.is_valid(SystemTime::now())
        && names.ips.iter().all(|ip| facts.ip_addresses.contains(ip))
        && names.dns.iter().all(|name| facts.dns_names.contains(name))
}

fn api(config: &JoinConfig, source: client::Error) -> JoinError {
    let node = config.node_name.clone();
    if source.code() == Some(401) {
        return JoinError::Token { node };
    }
    match pki::tls::distrust(&source) {
        Some(reason) => JoinError::Untrusted { node, reason },
        None => JoinError::Api { node, source },
    }
}

fn pem(certificate: &CertificateDer<'_>) -> String {
    let encoded = BASE64.encode(certificate);
    let lines: Vec<&str> =
        encoded.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap_or_default()).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

/// The directory of a node's certificates below its data directory.
pub fn directory(data_directory: &Path) -> PathBuf {
    data_directory.join("agent").join("pki")
}
