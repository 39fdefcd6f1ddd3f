//! Who a TLS client is: the user and groups of its certificate.

use api::UserInfo;
use pki::CertificateFacts;
use rustls_pki_types::CertificateDer;

/// The user that the verified certificates of a connection stand for; `None` when they name nobody.
pub fn user_of(certificates: &[CertificateDer<'_>]) -> Option<UserInfo> {
    let facts = CertificateFacts::from_der(certificates.first()?).ok()?;
    let subject = facts.subject;
    // rustls has verified chain, dates and the extended key usage.
    (!subject.common_name.is_empty()).then(|| UserInfo::new(subject.common_name, subject.organizations))
}
