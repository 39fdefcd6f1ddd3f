//! The cluster's certificate authority. Its key never leaves the server's directory.
use std::{
    collections::BTreeSet,
    fmt,
    net::IpAddr,
    path::Path,
    time::{Duration, SystemTime},
};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType, SubjectPublicKeyInfo,
};
use rustls_pki_types::CertificateDer;
use sha2::{Digest, Sha256};

use crate::{Error, Identity, Subject, csr::CertificateRequest, files, identity::CertificateFacts};

const DAY: Duration = Duration::from_secs(24 * 3600);
/// An authority lives ten years: longer than a cluster; replacing it means joining every node again.
pub const CA_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// Certificates live a year, as Kubernetes' do; servers and nodes replace them when a third is left.
pub const LEAF_LIFETIME: Duration = Duration::from_secs(365 * 24 * 3600);
/// Certificates start a little in the past, because the clocks of a cluster differ.
const CLOCK_SKEW: Duration = Duration::from_secs(5 * 60);
const CA_FILE: &str = "ca.pem";
/// The authority's certificate alone, for people and their tools.
pub const CA_CERTIFICATE_FILE: &str = "ca.crt";

/// A certificate authority.
pub struct Ca {
    identity: Identity,
    issuer: Issuer<'static, KeyPair>,
}

/// What a server is called.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerNames {
    /// DNS names.
    pub dns: BTreeSet<String>,
    /// Addresses.
    pub ips: BTreeSet<IpAddr>,
}

/// What a certificate may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    /// To authenticate as a client.
    Client,
    /// To serve.
    Server,
}

impl ServerNames {
    /// Names from any mix of DNS names and addresses written as text.
    pub fn from_texts<'a>(texts: impl IntoIterator<Item = &'a str>) -> Self {
        let mut names = Self::default();
        for text in texts {
            match text.parse() {
                Ok(ip) => _ = names.ips.insert(ip),
                Err(_) => _ = names.dns.insert(text.to_owned()),
            }
        }
        names
    }
}

// === impl Ca ===

impl Ca {
    /// Makes a new authority, in memory only.
    pub fn create(common_name: &str, now: SystemTime) -> Result<Self, Error> {
        let key = KeyPair::generate().map_err(Error::crypto("generate a key"))?;
        let mut params = params(&Subject::user(common_name), now, CA_LIFETIME);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages =
            vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).map_err(Error::crypto("sign the authority"))?;
        Self::from_identity(Identity::new(certificate.pem(), key.serialize_pem())?)
    }

    /// The authority in `directory`. Made if there is none, or if it has expired: then nothing it signed is of use.
    pub fn open_or_create(directory: &Path, common_name: &str, now: SystemTime) -> Result<Self, Error> {
        let path = directory.join(CA_FILE);
        let ca = match Identity::load(&path)? {
            // The last week counts as expired: a cluster that cannot start on Friday shall find out on Monday.
            Some(identity) if identity.facts().is_valid(now + 7 * DAY) => Self::from_identity(identity)?,
            _ => {
                let ca = Self::create(common_name, now)?;
                ca.identity.save(&path)?;
                ca
            }
        };
        let public = directory.join(CA_CERTIFICATE_FILE);
        if files::read(&public)?.as_deref() != Some(ca.certificate_pem()) {
            files::write(&public, ca.certificate_pem(), files::MODE_PUBLIC)?;
        }
        Ok(ca)
    }

    fn from_identity(identity: Identity) -> Result<Self, Error> {
        let key = KeyPair::from_pem(identity.key_pem()).map_err(|error| Error::malformed("CA key", error))?;
        let issuer = Issuer::from_ca_cert_der(identity.certificate(), key)
            .map_err(|error| Error::malformed("CA certificate", error))?;
        Ok(Self { identity, issuer })
    }

    /// The authority's certificate.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        self.identity.certificate()
    }

    /// The authority's certificate, as PEM.
    pub fn certificate_pem(&self) -> &str {
        self.identity.certificate_pem()
    }

    /// The pin that bootstrap tokens carry: SHA-256 of the certificate, in hexadecimal.
    pub fn sha256_hex(&self) -> String {
        sha256_hex(self.certificate())
    }

    /// A new key with a certificate for a client.
    pub fn issue_client(&self, subject: &Subject, now: SystemTime) -> Result<Identity, Error> {
        self.issue(subject, &ServerNames::default(), &[Usage::Client], now)
    }

    /// A new key with a certificate for a server.
    pub fn issue_server(
        &self,
        subject: &Subject,
        names: &ServerNames,
        now: SystemTime,
    ) -> Result<Identity, Error> {
        self.issue(subject, names, &[Usage::Server], now)
    }

    fn issue(
        &self,
        subject: &Subject,
        names: &ServerNames,
        usages: &[Usage],
        now: SystemTime,
    ) -> Result<Identity, Error> {
        let key = KeyPair::generate().map_err(Error::crypto("generate a key"))?;
        let certificate = leaf_params(subject, names, usages, now)?
            .signed_by(&key, &self.issuer)
            .map_err(Error::crypto("sign a certificate"))?;
        Identity::new(certificate.pem(), key.serialize_pem())
    }

    /// Signs a request that has passed its checks ([`CertificateRequest::check_node_client`] and its sibling).
    /// Only name and key are taken from it; usages and validity are ours. Returns the certificate as PEM.
    pub fn sign(&self, request: &CertificateRequest, usage: Usage, now: SystemTime) -> Result<String, Error> {
        let key = SubjectPublicKeyInfo::from_der(&request.public_key_info)
            .map_err(|error| Error::malformed(format!("public key of {}", request.subject), error))?;
        let certificate = leaf_params(&request.subject, &request.names, &[usage], now)?
            .signed_by(&key, &self.issuer)
            .map_err(Error::crypto("sign a certificate"))?;
        Ok(certificate.pem())
    }

    /// Whether this authority signed the certificate.
    pub fn has_signed(&self, certificate: &CertificateDer<'_>) -> bool {
        let Ok((_, ca)) = x509_parser::parse_x509_certificate(self.certificate()) else { return false };
        x509_parser::parse_x509_certificate(certificate)
            .is_ok_and(|(_, leaf)| leaf.verify_signature(Some(ca.public_key())).is_ok())
    }

    /// The saved identity if it is still right - ours, this subject, these names, not near its end - or a new one.
    pub fn renew(
        &self,
        saved: Option<Identity>,
        subject: &Subject,
        names: Option<&ServerNames>,
        now: SystemTime,
    ) -> Result<Identity, Error> {
        let good = |identity: &Identity| {
            let facts = identity.facts();
            facts.subject == *subject
                && names.is_none_or(|names| serves(facts, names))
                && !facts.needs_renewal(now)
                && self.has_signed(identity.certificate())
        };
        match (saved.filter(good), names) {
            (Some(identity), _) => Ok(identity),
            (None, Some(names)) => self.issue_server(subject, names, now),
            (None, None) => self.issue_client(subject, now),
        }
    }
}

impl fmt::Debug for Ca {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Ca").field(&self.identity).finish()
    }
}

/// SHA-256 of a certificate, in hexadecimal.
pub fn sha256_hex(certificate: &CertificateDer<'_>) -> String {
    hex::encode(Sha256::digest(certificate))
}

fn serves(facts: &CertificateFacts, names: &ServerNames) -> bool {
    facts.dns_names.iter().cloned().collect::<BTreeSet<_>>() == names.dns
        && facts.ip_addresses.iter().copied().collect::<BTreeSet<_>>() == names.ips
}

fn params(subject: &Subject, now: SystemTime, lifetime: Duration) -> CertificateParams {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, subject.common_name.as_str());
    for organization in &subject.organizations {
        name.push(DnType::OrganizationName, organization.as_str());
    }
    let mut params = CertificateParams::default();
    params.not_before = (now - CLOCK_SKEW).into();
    params.not_after = (now + lifetime).into();
    params.distinguished_name = name;
    params
}

fn leaf_params(
    subject: &Subject,
    names: &ServerNames,
    usages: &[Usage],
    now: SystemTime,
) -> Result<CertificateParams, Error> {
    if subject.organizations.len() > 1 {
        // rcgen keeps one value per attribute: the others would be lost without a word.
        return Err(Error::malformed(subject.to_string(), "a certificate is made for one group at most"));
    }
    let mut params = params(subject, now, LEAF_LIFETIME);
    params.is_ca = IsCa::ExplicitNoCa;
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = usages
        .iter()
        .map(|usage| match usage {
            Usage::Client => ExtendedKeyUsagePurpose::ClientAuth,
            Usage::Server => ExtendedKeyUsagePurpose::ServerAuth,
        })
        .collect();
    for name in &names.dns {
        let name = name.as_str().try_into().map_err(|error: rcgen::Error| Error::malformed(name, error))?;
        params.subject_alt_names.push(SanType::DnsName(name));
    }
    params.subject_alt_names.extend(names.ips.iter().copied().map(SanType::IpAddress));
    Ok(params)
}
