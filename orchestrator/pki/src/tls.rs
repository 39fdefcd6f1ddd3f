//! rustls configurations. The ring provider is named in each: with two providers in a process there is no default.
use std::sync::{Arc, Mutex, OnceLock, RwLock};

use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier},
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::{Error, Identity, ca::sha256_hex};

/// The only crypto provider of this project.
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER.get_or_init(|| Arc::new(rustls::crypto::ring::default_provider())).clone()
}

/// Whether clients must present a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAuth {
    /// They may; those without are told apart by their bearer token, or are anonymous.
    Optional,
    /// Without one the handshake fails.
    Required,
}

/// The certificate a server presents; replaced while the server runs.
#[derive(Debug)]
pub struct ServingCertificate {
    current: RwLock<Arc<CertifiedKey>>,
}

impl ServingCertificate {
    /// Serves the identity, and with it the authority's own certificate: that is what bootstrap tokens pin.
    pub fn new(identity: &Identity, ca: &CertificateDer<'static>) -> Result<Arc<Self>, Error> {
        let key = identity.certified_key(std::slice::from_ref(ca))?;
        Ok(Arc::new(Self { current: RwLock::new(key) }))
    }

    /// New connections get this identity.
    pub fn replace(&self, identity: &Identity, ca: &CertificateDer<'static>) -> Result<(), Error> {
        let key = identity.certified_key(std::slice::from_ref(ca))?;
        *self.current.write().unwrap_or_else(|poisoned| poisoned.into_inner()) = key;
        Ok(())
    }
}

impl ResolvesServerCert for ServingCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.read().unwrap_or_else(|poisoned| poisoned.into_inner()).clone())
    }
}

/// A server for HTTP/2 and HTTP/1.1 whose clients are known by certificates of `client_ca`.
pub fn server_config(
    certificate: Arc<ServingCertificate>,
    client_ca: &CertificateDer<'static>,
    auth: ClientAuth,
) -> Result<ServerConfig, Error> {
    let verifier = WebPkiClientVerifier::builder_with_provider(roots(client_ca)?.into(), provider());
    let verifier = match auth {
        ClientAuth::Optional => verifier.allow_unauthenticated().build(),
        ClientAuth::Required => verifier.build(),
    };
    let verifier = verifier.map_err(|error| configure(error.to_string()))?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| configure(error.to_string()))?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(certificate);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// A client that trusts `ca` and presents `identity` if there is one. The caller sets ALPN if it wants HTTP/1.1.
pub fn client_config(
    ca: &CertificateDer<'static>,
    identity: Option<&Identity>,
) -> Result<ClientConfig, Error> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| configure(error.to_string()))?
        .with_root_certificates(roots(ca)?);
    let mut config = match identity {
        Some(identity) => builder
            .with_client_auth_cert(vec![identity.certificate().clone()], identity.key())
            .map_err(|error| configure(error.to_string()))?,
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

/// A client that knows only the pin of a bootstrap token. After the handshake [`PinnedCa::certificate`] has the
/// authority's certificate, with which [`client_config`] goes on.
pub fn pinned_client_config(ca_sha256: &str) -> Result<(ClientConfig, Arc<PinnedCa>), Error> {
    let pinned = Arc::new(PinnedCa { sha256: ca_sha256.to_ascii_lowercase(), found: Mutex::default() });
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| configure(error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(pinned.clone())
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok((config, pinned))
}

/// Verifies a server whose authority is known by its SHA-256 only.
#[derive(Debug)]
pub struct PinnedCa {
    sha256: String,
    found: Mutex<Option<CertificateDer<'static>>>,
}

/// Whether a connection failed because this side does not trust the other: trying again does not help. Returns why.
pub fn distrust(error: &(dyn std::error::Error + 'static)) -> Option<String> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        // An I/O error does not count what it carries among its sources.
        let carried = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        let carried = carried.and_then(|carried| carried.downcast_ref::<rustls::Error>());
        match carried.or_else(|| error.downcast_ref()) {
            Some(rustls::Error::General(reason)) => return Some(reason.clone()),
            Some(error @ rustls::Error::InvalidCertificate(_)) => return Some(error.to_string()),
            _ => cause = error.source(),
        }
    }
    None
}

impl PinnedCa {
    /// The authority's certificate, once a server has presented it.
    pub fn certificate(&self) -> Option<CertificateDer<'static>> {
        self.found.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }
}

impl ServerCertVerifier for PinnedCa {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(ca) = intermediates.iter().find(|certificate| sha256_hex(certificate) == self.sha256) else {
            let reason =
                "the server's authority is not the one in the token: is this the cluster the token is for?";
            return Err(rustls::Error::General(reason.into()));
        };
        let ca = ca.clone().into_owned();
        let roots = roots(&ca).map_err(|error| rustls::Error::General(error.to_string()))?;
        let verifier = WebPkiServerVerifier::builder_with_provider(roots.into(), provider())
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))?;
        let verified = verifier.verify_server_cert(end_entity, &[], server_name, ocsp_response, now)?;
        *self.found.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(ca);
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &provider().signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

fn roots(ca: &CertificateDer<'static>) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    roots.add(ca.clone()).map_err(|error| Error::malformed("CA certificate", error))?;
    Ok(roots)
}

fn configure(reason: String) -> Error {
    Error::Crypto { action: "configure TLS", reason }
}
