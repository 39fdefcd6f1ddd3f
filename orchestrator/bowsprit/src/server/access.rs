//! How people and nodes get in: the admin's kubeconfig and the token with which nodes join.

use crate::cli::ServerOnly;
use anyhow::{Context, Result};
use pki::cluster::ClusterPki;
use pki::files;
use std::net::IpAddr;
use std::path::Path;

/// Writes `token` and `admin.kubeconfig` into the server's directory, and the latter where the operator wants it.
pub(crate) fn write(
    arguments: &ServerOnly,
    directory: &Path,
    pki: &ClusterPki,
    advertise: IpAddr,
) -> Result<()> {
    let host = match advertise {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    };
    let url = arguments
        .kubeconfig_server
        .clone()
        .unwrap_or_else(|| format!("https://{host}:{}", arguments.secure_port));
    let kubeconfig = arguments.kubeconfig_out.clone().unwrap_or_else(|| directory.join("admin.kubeconfig"));
    let token = directory.join("token");
    files::write(&token, &format!("{}\n", pki.token.reveal()), files::MODE_SECRET)
        .context("the token for nodes")?;
    pki.write_admin_kubeconfig(&kubeconfig, &url).context("the admin's kubeconfig")?;
    tracing::info!(kubeconfig = %kubeconfig.display(), token = %token.display(), "wrote how to get in");
    Ok(())
}
