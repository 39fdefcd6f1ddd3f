//! The cluster's CA as the certificates controller sees it.

use controllers::certificates::{Authority as Sign, Usage};
use pki::csr::CertificateRequest;
use pki::{Ca, Error, ca};
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
