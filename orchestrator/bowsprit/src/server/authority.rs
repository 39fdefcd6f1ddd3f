//! The cluster's CA as the certificates controller sees it, and as the store remembers it.

use anyhow::{Context, Result, bail};
use api::UserInfo;
use apiserver::ApiService;
use client::Client;
use controllers::certificates::{Authority as Sign, Usage};
use pki::cluster::ClusterPki;
use pki::csr::CertificateRequest;
use pki::{Ca, Error, ca};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

/// Signs with the cluster's CA.
pub(crate) struct Authority(pub(crate) Arc<Ca>);

impl Sign for Authority {
    fn node_name(&self, request: &str, usage: Usage) -> Result<String, String> {
        check(request, usage).map(|(_, name)| name).map_err(|error| error.to_string())
    }

    fn sign(&self, request: &str, usage: Usage) -> Result<String, String> {
        let kind = match usage {
            Usage::NodeClient => ca::Usage::Client,
            Usage::NodeServing => ca::Usage::Server,
        };
        let signed =
            check(request, usage).and_then(|(request, _)| self.0.sign(&request, kind, SystemTime::now()));
        signed.map_err(|error| error.to_string())
    }
}

fn check(request: &str, usage: Usage) -> Result<(CertificateRequest, String), Error> {
    let request = CertificateRequest::from_pem(request)?;
    let name = match usage {
        Usage::NodeClient => request.check_node_client()?,
        Usage::NodeServing => request.check_node_serving()?,
    };
    let name = name.to_owned();
    Ok((request, name))
}

/// The authority as a controller publishes it for pods.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Published {
    metadata: client::Meta,
    data: BTreeMap<String, String>,
}

client::resource!(Published: "" / "v1" / "configmaps", "ConfigMap", namespaced);

/// Two servers with different authorities over one store would sign certificates that the other refuses.
pub(crate) async fn check_store(
    service: &ApiService,
    pki: &ClusterPki,
    store: &str,
    directory: &Path,
) -> Result<()> {
    let groups: [&str; 0] = [];
    let client = Client::new(service.clone(), UserInfo::new("system:kube-controller-manager", groups));
    let published = match client.get::<Published>("kube-system", "kube-root-ca.crt").await {
        Err(error) if error.is_not_found() => return Ok(()),
        other => other.context("cannot tell whose the store is")?,
    };
    let held = published.data.get("ca.crt").map(|text| text.trim());
    if held.is_some_and(|held| held != pki.ca.certificate_pem().trim()) {
        bail!(
            "the store ({store}) is another cluster's: its authority is not the one in {}; copy server/pki of one of its servers there, or choose another store with --store",
            directory.display()
        );
    }
    Ok(())
}
