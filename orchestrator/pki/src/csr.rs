//! Certificate requests: a node makes them, the server checks them before it signs.
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};
use rustls_pki_types::{CertificateSigningRequestDer, pem::PemObject};
use x509_parser::{
    certification_request::X509CertificationRequest,
    extensions::{GeneralName, ParsedExtension},
    prelude::FromDer,
};

use crate::{Error, GROUP_NODES, Identity, ServerNames, Subject, identity::ip_address};

/// Signer of certificates with which nodes call the API server.
pub const SIGNER_NODE_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
/// Signer of certificates that agents serve.
pub const SIGNER_NODE_SERVING: &str = "kubernetes.io/kubelet-serving";

/// A key waiting for its certificate.
pub struct PendingIdentity {
    key: KeyPair,
    subject: Subject,
    names: ServerNames,
}

/// A request whose signature proves that the sender holds its key.
#[derive(Clone, Debug)]
pub struct CertificateRequest {
    /// The identity asked for.
    pub subject: Subject,
    /// The names asked for.
    pub names: ServerNames,
    /// Alternative names that are neither DNS names nor addresses; no signer gives any.
    pub other_names: usize,
    pub(crate) public_key_info: Vec<u8>,
}

// === impl PendingIdentity ===

impl PendingIdentity {
    /// Makes a key. It stays in this process until [`PendingIdentity::finish`].
    pub fn generate(subject: Subject, names: ServerNames) -> Result<Self, Error> {
        let key = KeyPair::generate().map_err(Error::crypto("generate a key"))?;
        Ok(Self { key, subject, names })
    }

    /// The request to send, as PEM.
    pub fn request_pem(&self) -> Result<String, Error> {
        let mut name = DistinguishedName::new();
        name.push(DnType::CommonName, self.subject.common_name.as_str());
        for organization in &self.subject.organizations {
            name.push(DnType::OrganizationName, organization.as_str());
        }
        let mut params = CertificateParams::default();
        params.distinguished_name = name;
        for dns in &self.names.dns {
            let dns = dns.as_str().try_into().map_err(|error: rcgen::Error| Error::malformed(dns, error))?;
            params.subject_alt_names.push(SanType::DnsName(dns));
        }
        params.subject_alt_names.extend(self.names.ips.iter().copied().map(SanType::IpAddress));
        let request = params.serialize_request(&self.key).map_err(Error::crypto("sign a request"))?;
        request.pem().map_err(Error::crypto("encode a request"))
    }

    /// The identity, once the certificate has come back; it must be for this key and this subject.
    pub fn finish(self, certificate_pem: &str) -> Result<Identity, Error> {
        let identity = Identity::new(certificate_pem, self.key.serialize_pem())?;
        if identity.facts().subject != self.subject {
            let reason = format!("was signed for {}", identity.facts().subject);
            return Err(Error::malformed(format!("certificate of {}", self.subject), reason));
        }
        Ok(identity)
    }
}

// === impl CertificateRequest ===

impl CertificateRequest {
    /// Reads a request and verifies that it is signed by its own key.
    pub fn from_pem(pem: &str) -> Result<Self, Error> {
        const WHAT: &str = "certificate request";
        let der = CertificateSigningRequestDer::from_pem_slice(pem.as_bytes())
            .map_err(|error| Error::malformed(WHAT, error))?;
        let (_, request) =
            X509CertificationRequest::from_der(&der).map_err(|error| Error::malformed(WHAT, error))?;
        request
            .verify_signature()
            .map_err(|_| Error::malformed(WHAT, "its signature does not fit its key"))?;
        let info = &request.certification_request_info;
        let mut parsed = Self {
            subject: Subject::from_x509(&info.subject)?,
            names: ServerNames::default(),
            other_names: 0,
            public_key_info: info.subject_pki.raw.to_vec(),
        };
        for extension in request.requested_extensions().into_iter().flatten() {
            if let ParsedExtension::SubjectAlternativeName(alternatives) = extension {
                alternatives.general_names.iter().for_each(|name| parsed.add_name(name));
            }
        }
        Ok(parsed)
    }

    fn add_name(&mut self, name: &GeneralName<'_>) {
        let known = match name {
            GeneralName::DNSName(name) => self.names.dns.insert((*name).to_owned()),
            GeneralName::IPAddress(bytes) => ip_address(bytes).is_some_and(|ip| self.names.ips.insert(ip)),
            _ => false,
        };
        self.other_names += usize::from(!known);
    }

    /// A node's client certificate: exactly the node's identity and no names. Returns the node's name.
    pub fn check_node_client(&self) -> Result<&str, Error> {
        let node = self.check_node()?;
        if !self.names.dns.is_empty() || !self.names.ips.is_empty() {
            return Err(self.refused("a client certificate carries no DNS names and no addresses"));
        }
        Ok(node)
    }

    /// A node's serving certificate: the node's identity, asked for by that node, with at least one name.
    pub fn check_node_serving(&self) -> Result<&str, Error> {
        let node = self.check_node()?;
        if self.names.dns.is_empty() && self.names.ips.is_empty() {
            return Err(self.refused("a serving certificate needs a DNS name or an address"));
        }
        Ok(node)
    }

    fn check_node(&self) -> Result<&str, Error> {
        let node = self.subject.node_name().filter(|_| self.subject.organizations == [GROUP_NODES]);
        let node = node.ok_or_else(|| self.refused("only CN=system:node:<name>,O=system:nodes is signed"))?;
        let allowed =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'.';
        if node.len() > 253 || !node.bytes().all(allowed) {
            return Err(
                self.refused("the node's name is not a DNS name of lower case letters, digits, '-' and '.'")
            );
        }
        if self.other_names > 0 {
            return Err(self.refused("alternative names other than DNS names and addresses are not signed"));
        }
        Ok(node)
    }

    fn refused(&self, reason: &str) -> Error {
        Error::Refused { subject: self.subject.to_string(), reason: reason.into() }
    }
}
