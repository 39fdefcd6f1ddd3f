//! Where the store is and how to reach it.

use std::{fmt, path::PathBuf, str::FromStr, time::Duration};

use crate::{class::Classes, error::StoreError};

/// How long an event is kept, as in Kubernetes.
pub const EVENT_TTL: Duration = Duration::from_secs(3600);

/// Everything that opening a store takes.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// Which engine, where.
    pub engine: EngineConfig,
    /// Client certificate and CA for etcd over TLS.
    pub etcd_tls: Option<EtcdTls>,
    /// Which keys are not durable.
    pub classes: Classes,
    /// How long keys of the class `Event` live after their last write.
    pub event_ttl: Duration,
}

impl StoreConfig {
    /// An engine with the defaults for the rest.
    pub fn new(engine: EngineConfig) -> Self {
        Self { engine, etcd_tls: None, classes: Classes::default(), event_ttl: EVENT_TTL }
    }
}

/// The value of `--store`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EngineConfig {
    /// `embedded:PATH`: files in this directory, for a single server.
    Embedded {
        /// The directory, made when absent.
        path: PathBuf,
    },
    /// `etcd:ENDPOINTS`: one or more URLs separated by commas.
    Etcd {
        /// URLs with scheme and port.
        endpoints: Vec<String>,
    },
}

/// PEM files for a TLS connection to etcd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EtcdTls {
    /// The CA that signed etcd's certificate.
    pub ca_file: PathBuf,
    /// Our client certificate and its key, for an etcd that asks for one.
    pub client: Option<(PathBuf, PathBuf)>,
}

impl FromStr for EngineConfig {
    type Err = StoreError;

    fn from_str(text: &str) -> Result<Self, StoreError> {
        match text.split_once(':') {
            Some(("embedded", path)) if !path.is_empty() => Ok(Self::Embedded { path: path.into() }),
            Some(("etcd", endpoints)) => {
                let endpoints: Vec<String> =
                    endpoints.split(',').map(|part| endpoint(part.trim())).collect::<Result<_, _>>()?;
                let schemes = endpoints.iter().filter(|url| url.starts_with("https://")).count();
                if schemes != 0 && schemes != endpoints.len() {
                    return Err(invalid(
                        text,
                        "some endpoints use https and some http; use one scheme for all",
                    ));
                }
                Ok(Self::Etcd { endpoints })
            }
            _ => Err(invalid(
                text,
                "write embedded:PATH, or etcd:URL[,URL...] such as etcd:https://10.0.0.1:2379",
            )),
        }
    }
}

impl fmt::Display for EngineConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Embedded { path } => write!(f, "embedded:{}", path.display()),
            Self::Etcd { endpoints } => write!(f, "etcd:{}", endpoints.join(",")),
        }
    }
}

/// An endpoint with its scheme: `host:port` alone means plain http, as in etcdctl.
fn endpoint(text: &str) -> Result<String, StoreError> {
    let (scheme, rest) = text.split_once("://").unwrap_or(("http", text));
    if !matches!(scheme, "http" | "https") {
        return Err(invalid(text, "an etcd endpoint begins with http:// or https://"));
    }
    let rest = rest.trim_end_matches('/');
    let has_port =
        rest.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
    if !has_port {
        return Err(invalid(text, "an etcd endpoint needs a host and a port, such as 10.0.0.1:2379"));
    }
    Ok(format!("{scheme}://{rest}"))
}

fn invalid(text: &str, remedy: &str) -> StoreError {
    StoreError::Invalid { reason: format!("--store {text:?}: {remedy}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses() {
        let embedded: EngineConfig = "embedded:/var/lib/bowsprit/store".parse().expect("parses");
        assert_eq!(embedded, EngineConfig::Embedded { path: "/var/lib/bowsprit/store".into() });
        assert_eq!(embedded.to_string(), "embedded:/var/lib/bowsprit/store");
        let etcd: EngineConfig = "etcd:127.0.0.1:2379, http://[::1]:2379/".parse().expect("parses");
        assert_eq!(etcd.to_string(), "etcd:http://127.0.0.1:2379,http://[::1]:2379");
    }

    #[test]
    fn rejects_with_a_remedy() {
        for (text, remedy) in [
            ("embedded:", "write embedded:PATH"),
            ("redis:x", "write embedded:PATH"),
            ("", "write embedded:PATH"),
            ("etcd:", "needs a host and a port"),
            ("etcd:ftp://a:1", "begins with http"),
            ("etcd:a:99999", "needs a host and a port"),
            ("etcd:http://a:1,https://b:1", "one scheme"),
        ] {
            let error = text.parse::<EngineConfig>().expect_err(text).to_string();
            assert!(error.contains(remedy), "{text}: {error}");
        }
    }
}
