//! Certificates and tokens: make, sign, rotate, verify.
//!
//! The server's directory holds one authority ([`Ca`]) and every identity a control plane needs ([`cluster`]).
//! Nodes make their keys locally and send requests ([`csr`]); a bootstrap [`Token`] pins the authority for them.
//! Whatever expires is made again when it is opened, so a cluster never locks itself out.
#![forbid(unsafe_code)]

pub mod ca;
pub mod cluster;
pub mod csr;
mod error;
pub mod files;
pub mod identity;
pub mod kubeconfig;
pub mod service_account;
pub mod tls;
pub mod token;

pub use ca::{Ca, ServerNames};
pub use error::Error;
pub use identity::{CertificateFacts, Identity, Subject};
pub use service_account::ServiceAccountKey;
pub use token::Token;

/// Group of the administrators; every request of its members is allowed.
pub const GROUP_MASTERS: &str = "system:masters";
/// Group of the nodes.
pub const GROUP_NODES: &str = "system:nodes";
/// Group of those that present a bootstrap token.
pub const GROUP_BOOTSTRAPPERS: &str = "system:bootstrappers";
/// Prefix of a node's user name; the node's name follows.
pub const USER_NODE_PREFIX: &str = "system:node:";
/// Prefix of the user name of a bootstrap token; the token's id follows.
pub const USER_BOOTSTRAP_PREFIX: &str = "system:bootstrap:";
/// Common name of the certificate with which the API server calls agents; no other client gets into an agent.
pub const USER_APISERVER: &str = "bowsprit-apiserver";
