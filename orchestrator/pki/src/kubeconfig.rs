//! Kubeconfig files: what kubectl needs to reach a cluster.
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};

use crate::Identity;

/// The kubeconfig of one user of one cluster, as YAML. `cluster` and `user` are plain names, `server` is a URL.
pub fn kubeconfig(cluster: &str, server: &str, ca_pem: &str, user: &str, identity: &Identity) -> String {
    let (ca, certificate, key) =
        (BASE64.encode(ca_pem), BASE64.encode(identity.certificate_pem()), BASE64.encode(identity.key_pem()));
    format!(
        "apiVersion: v1
kind: Config
clusters:
- name: {cluster}
  cluster:
    server: {server}
    certificate-authority-data: {ca}
users:
- name: {user}
  user:
    client-certificate-data: {certificate}
    client-key-data: {key}
contexts:
- name: {user}@{cluster}
  context:
    cluster: {cluster}
    user: {user}
current-context: {user}@{cluster}
"
    )
}
