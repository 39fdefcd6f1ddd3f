//! Reaching etcd: TLS, keepalives, and which version answers.

use std::{fs, path::Path, time::Duration};

use etcd_client::{Certificate, Client, ConnectOptions, Identity, TlsOptions};
use tokio::time::timeout;

use super::{
    REQUEST_DEADLINE,
    failure::{self, Kind},
};
use crate::{EtcdTls, error::StoreError};

/// A member that does not accept a connection by then is as good as down.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// A dead connection is noticed within the sum of both, so that watches resume elsewhere.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Connects and asks for the version.
pub(super) async fn connect(
    endpoints: &[String],
    tls: Option<&EtcdTls>,
) -> Result<(Client, String), StoreError> {
    let mut options = ConnectOptions::new()
        .with_connect_timeout(CONNECT_TIMEOUT)
        .with_keep_alive(KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT)
        .with_keep_alive_while_idle(true)
        // A member without a quorum ends its watches instead of falling silent.
        .with_require_leader(true);
    if endpoints.iter().any(|url| url.starts_with("https://")) {
        options = options.with_tls(read_tls(endpoints, tls)?);
    }
    let names = endpoints.join(",");
    let reach = async {
        let mut client = Client::connect(endpoints, Some(options)).await?;
        let status = client.status().await?;
        Ok::<_, etcd_client::Error>((client, status.version().to_owned()))
    };
    match timeout(REQUEST_DEADLINE, reach).await {
        Ok(Ok(reached)) => Ok(reached),
        Ok(Err(error)) => Err(failure::store_error(&names, Kind::Read, &error)),
        Err(_) => Err(failure::silent(&names, Kind::Read, REQUEST_DEADLINE)),
    }
}

fn read_tls(endpoints: &[String], tls: Option<&EtcdTls>) -> Result<TlsOptions, StoreError> {
    let Some(EtcdTls { ca_file, client }) = tls else {
        return Err(StoreError::Open {
            path: endpoints.join(","),
            reason: "https needs the CA that signed etcd's certificate; name its PEM file".into(),
        });
    };
    let mut options = TlsOptions::new().ca_certificate(Certificate::from_pem(read(ca_file)?));
    if let Some((certificate, key)) = client {
        options = options.identity(Identity::from_pem(read(certificate)?, read(key)?));
    }
    Ok(options)
}

fn read(file: &Path) -> Result<Vec<u8>, StoreError> {
    fs::read(file).map_err(|error| StoreError::Open {
        path: file.display().to_string(),
        reason: format!("the PEM file for etcd cannot be read: {error}"),
    })
}

/// Whether a progress response means what it says. Earlier versions sent it ahead of events that were still on their way.
pub(super) fn progress_is_reliable(version: &str) -> bool {
    let mut numbers = version.split(['.', '-', '+']).map(|part| part.parse::<u32>().ok());
    let (major, minor, patch) =
        (numbers.next().flatten(), numbers.next().flatten(), numbers.next().flatten());
    match (major, minor, patch) {
        (Some(3), Some(4), Some(patch)) => patch >= 31,
        (Some(3), Some(5), Some(patch)) => patch >= 13,
        (Some(major), Some(minor), _) => (major, minor) > (3, 5),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_with_reliable_progress() {
        for (version, reliable) in [
            ("3.4.23", false),
            ("3.4.31", true),
            ("3.5.12", false),
            ("3.5.13", true),
            ("3.6.0-rc.1", true),
            ("3.3.99", false),
            ("4.0.0", true),
            ("", false),
        ] {
            assert_eq!(progress_is_reliable(version), reliable, "{version}");
        }
    }
}
