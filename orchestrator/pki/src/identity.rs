//! A certificate with its key, and what a certificate says about its holder.
use std::{
    fmt,
    net::IpAddr,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rcgen::KeyPair;
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use x509_parser::{extensions::GeneralName, prelude::FromDer, x509::X509Name};

use crate::{Error, USER_NODE_PREFIX, files, tls};

/// Who a certificate is for: its common name is the user, its organizations are the groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// The user's name.
    pub common_name: String,
    /// The user's groups.
    pub organizations: Vec<String>,
}

/// What a certificate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFacts {
    /// Its holder.
    pub subject: Subject,
    /// Start of its validity.
    pub not_before: SystemTime,
    /// End of its validity.
    pub not_after: SystemTime,
    /// DNS names it serves.
    pub dns_names: Vec<String>,
    /// Addresses it serves.
    pub ip_addresses: Vec<IpAddr>,
    /// Whether clients may use it.
    pub client_auth: bool,
    /// Whether servers may use it.
    pub server_auth: bool,
}

/// A certificate and its private key.
#[derive(Clone)]
pub struct Identity {
    certificate_pem: String,
    key_pem: String,
    certificate: CertificateDer<'static>,
    facts: CertificateFacts,
}

// === impl Subject ===

impl Subject {
    /// A user in one group.
    pub fn new(common_name: impl Into<String>, organization: impl Into<String>) -> Self {
        Self { common_name: common_name.into(), organizations: vec![organization.into()] }
    }

    /// A user in no group.
    pub fn user(common_name: impl Into<String>) -> Self {
        Self { common_name: common_name.into(), organizations: Vec::new() }
    }

    /// The identity of a node.
    pub fn node(name: &str) -> Self {
        Self::new(format!("{USER_NODE_PREFIX}{name}"), crate::GROUP_NODES)
    }

    /// The node's name, if this is the identity of a node: name and group must both say so.
    pub fn node_name(&self) -> Option<&str> {
        let in_group = self.organizations.iter().any(|group| group == crate::GROUP_NODES);
        self.common_name.strip_prefix(USER_NODE_PREFIX).filter(|name| in_group && !name.is_empty())
    }

    pub(crate) fn from_x509(name: &X509Name<'_>) -> Result<Self, Error> {
        let bad = |error| Error::malformed("certificate subject", error);
        let mut common_names = name.iter_common_name();
        let common_name = match (common_names.next(), common_names.next()) {
            (Some(attribute), None) => attribute.as_str().map_err(bad)?.to_owned(),
            (None, _) => String::new(),
            (Some(_), Some(_)) => {
                return Err(Error::malformed("certificate subject", "several common names"));
            }
        };
        let organizations = name
            .iter_organization()
            .map(|o| o.as_str().map(str::to_owned))
            .collect::<Result<_, _>>()
            .map_err(bad)?;
        Ok(Self { common_name, organizations })
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CN={}", self.common_name)?;
        self.organizations.iter().try_for_each(|organization| write!(f, ",O={organization}"))
    }
}

// === impl CertificateFacts ===

impl CertificateFacts {
    /// Reads a certificate.
    pub fn from_der(der: &[u8]) -> Result<Self, Error> {
        let (_, certificate) = x509_parser::parse_x509_certificate(der)
            .map_err(|error| Error::malformed("certificate", error))?;
        let mut facts = Self {
            subject: Subject::from_x509(certificate.subject())?,
            not_before: time(certificate.validity().not_before.timestamp()),
            not_after: time(certificate.validity().not_after.timestamp()),
            dns_names: Vec::new(),
            ip_addresses: Vec::new(),
            client_auth: false,
            server_auth: false,
        };
        if let Ok(Some(usage)) = certificate.extended_key_usage() {
            facts.client_auth = usage.value.client_auth;
            facts.server_auth = usage.value.server_auth;
        }
        if let Ok(Some(alternatives)) = certificate.subject_alternative_name() {
            for name in &alternatives.value.general_names {
                facts.add_name(name);
            }
        }
        Ok(facts)
    }

    /// Whether the certificate should be replaced: less than a third of its life is left, or it is not yet valid
    /// (the clock went back). A third leaves months to heal whatever keeps a renewal from succeeding.
    pub fn needs_renewal(&self, now: SystemTime) -> bool {
        let life = self.not_after.duration_since(self.not_before).unwrap_or_default();
        let left = self.not_after.duration_since(now).unwrap_or_default();
        now < self.not_before || left < life / 3
    }

    /// Whether the certificate is valid now.
    pub fn is_valid(&self, now: SystemTime) -> bool {
        self.not_before <= now && now <= self.not_after
    }

    fn add_name(&mut self, name: &GeneralName<'_>) {
        match name {
            GeneralName::DNSName(name) => self.dns_names.push((*name).to_owned()),
            GeneralName::IPAddress(bytes) => self.ip_addresses.extend(ip_address(bytes)),
            _ => {}
        }
    }
}

pub(crate) fn ip_address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

fn time(unix_seconds: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(u64::try_from(unix_seconds).unwrap_or(0))
}

// === impl Identity ===

impl Identity {
    /// Takes a certificate and the key it was made for; the two must belong together.
    pub fn new(certificate_pem: impl Into<String>, key_pem: impl Into<String>) -> Result<Self, Error> {
        let (certificate_pem, key_pem) = (certificate_pem.into(), key_pem.into());
        let certificate = CertificateDer::from_pem_slice(certificate_pem.as_bytes())
            .map_err(|error| Error::malformed("certificate", error))?;
        let facts = CertificateFacts::from_der(&certificate)?;
        let key = KeyPair::from_pem(&key_pem).map_err(|error| Error::malformed("private key", error))?;
        let (_, parsed) = x509_parser::certificate::X509Certificate::from_der(&certificate)
            .map_err(|error| Error::malformed("certificate", error))?;
        if parsed.public_key().subject_public_key.data.as_ref() != key.public_key_raw() {
            return Err(Error::malformed(
                facts.subject.to_string(),
                "the key belongs to another certificate",
            ));
        }
        Ok(Self { certificate_pem, key_pem, certificate, facts })
    }

    /// Reads the pair that [`Identity::save`] wrote, or `None` if there is none.
    pub fn load(path: &Path) -> Result<Option<Self>, Error> {
        let Some(text) = files::read(path)? else { return Ok(None) };
        let split = text.find("-----BEGIN CERTIFICATE-----");
        let (key, certificate) = split
            .map(|at| text.split_at(at))
            .ok_or_else(|| Error::malformed(path.display().to_string(), "holds no certificate"))?;
        Self::new(certificate, key).map(Some)
    }

    /// Writes key and certificate as one file, so that no crash leaves one without the other.
    pub fn save(&self, path: &Path) -> Result<(), Error> {
        files::write(path, &format!("{}{}", self.key_pem, self.certificate_pem), files::MODE_SECRET)
    }

    /// What the certificate says.
    pub fn facts(&self) -> &CertificateFacts {
        &self.facts
    }

    /// The certificate.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// The certificate, as PEM.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// The private key, as PEM.
    pub fn key_pem(&self) -> &str {
        &self.key_pem
    }

    /// The private key, for rustls.
    pub fn key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_slice(self.key_pem.as_bytes()).expect("invariant: `new` parsed the key")
    }

    /// The pair in the form that rustls serves, followed by the issuing certificates in `chain`.
    pub fn certified_key(&self, chain: &[CertificateDer<'static>]) -> Result<Arc<CertifiedKey>, Error> {
        let mut certificates = vec![self.certificate.clone()];
        certificates.extend_from_slice(chain);
        CertifiedKey::from_der(certificates, self.key(), &tls::provider())
            .map(Arc::new)
            .map_err(|error| Error::Crypto { action: "use a private key", reason: error.to_string() })
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The key stays out of logs.
        f.debug_tuple("Identity").field(&self.facts).finish()
    }
}
