//! What can go wrong with certificates and tokens, each with its subject and what to do about it.
use std::path::PathBuf;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file of the certificate directory cannot be read or written.
    #[error("{} {}: check that the directory exists, is writable by this user and has space", action, path.display())]
    File {
        /// What was tried: "reading", "writing", "locking".
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// Bytes are not the certificate, key, request or token they should be.
    #[error("{subject} is malformed: {reason}")]
    Malformed {
        /// Which certificate, key, request or token.
        subject: String,
        /// What does not fit.
        reason: String,
    },
    /// A request asks for an identity that the signer does not give.
    #[error("certificate request for {subject} refused: {reason}")]
    Refused {
        /// The subject asked for.
        subject: String,
        /// Which rule it breaks.
        reason: String,
    },
    /// A token is not valid: forged, expired, for another audience.
    #[error("token rejected: {reason}")]
    Token {
        /// Which check failed; never contains the token.
        reason: &'static str,
    },
    /// The crypto library could not make a key, signature or configuration.
    #[error("cannot {action}: {reason}")]
    Crypto {
        /// What was tried.
        action: &'static str,
        /// What the library says.
        reason: String,
    },
}

impl Error {
    pub(crate) fn malformed(subject: impl Into<String>, reason: impl ToString) -> Self {
        Self::Malformed { subject: subject.into(), reason: reason.to_string() }
    }

    pub(crate) fn crypto(action: &'static str) -> impl FnOnce(rcgen::Error) -> Self {
        move |error| Self::Crypto { action, reason: error.to_string() }
    }
}
