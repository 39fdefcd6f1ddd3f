//! What an error of etcd, or of the way to it, means to a caller.

use std::{error::Error as _, fmt::Write, time::Duration};

use etcd_client::Error;
use tonic::{Code, Status};

use crate::{LeaseId, error::StoreError, validate};

/// What was asked for: a write that is not answered may have happened all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Read,
    Write,
    Lease(LeaseId),
}

/// An error as the store's.
pub(super) fn store_error(endpoints: &str, kind: Kind, error: &Error) -> StoreError {
    match error {
        Error::GRpcStatus(status) => status_error(endpoints, kind, status),
        Error::LeaseKeepAliveError(_) if matches!(kind, Kind::Lease(_)) => lease_not_found(kind),
        Error::InvalidArgs(_) | Error::InvalidUri(_) => {
            StoreError::Open { path: endpoints.into(), reason: error.to_string() }
        }
        Error::TransportError(transport) => StoreError::Open {
            path: endpoints.into(),
            reason: chain(transport.to_string(), transport.source()),
        },
        _ => unanswered(endpoints, kind, false, error.to_string()),
    }
}

/// No answer in time.
pub(super) fn silent(endpoints: &str, kind: Kind, deadline: Duration) -> StoreError {
    match unanswered(endpoints, kind, false, format!("no answer within {} s", deadline.as_secs())) {
        StoreError::Unavailable { reason } => StoreError::Silent { reason },
        unknown => unknown,
    }
}

/// The history asked for is gone, or has not happened yet. The numbers are the caller's to fill in.
fn status_error(endpoints: &str, kind: Kind, status: &Status) -> StoreError {
    let message = status.message();
    match status.code() {
        Code::OutOfRange if message.contains("compacted") => {
            StoreError::Compacted { requested: 0, oldest: 0 }
        }
        Code::OutOfRange if message.contains("future") => {
            StoreError::FutureRevision { requested: 0, current: 0 }
        }
        Code::NotFound if message.contains("lease") => lease_not_found(kind),
        Code::ResourceExhausted if message.contains("space exceeded") => StoreError::Full {
            reason: format!(
                "etcd at {endpoints} has used up its quota; compact and defragment it, then clear the alarm (etcdctl alarm disarm)"
            ),
        },
        Code::InvalidArgument if message.contains("too large") => {
            StoreError::TooLarge { size: validate::REQUEST_BYTES_MAX, limit: validate::REQUEST_BYTES_MAX }
        }
        Code::InvalidArgument => StoreError::Invalid { reason: message.into() },
        Code::Unauthenticated | Code::PermissionDenied => StoreError::Unavailable {
            reason: format!(
                "etcd at {endpoints} refuses this client ({message}); check its certificate and role"
            ),
        },
        _ => {
            let text = chain(message.to_owned(), status.source());
            unanswered(endpoints, kind, was_not_sent(&text), text)
        }
    }
}

fn lease_not_found(kind: Kind) -> StoreError {
    StoreError::LeaseNotFound { lease: if let Kind::Lease(lease) = kind { lease } else { LeaseId(0) } }
}

/// Errors from before a request can have reached etcd's log: no connection, no leader, too busy to take it.
fn was_not_sent(text: &str) -> bool {
    const BEFORE: [&str; 6] = [
        "connect error",
        "dns error",
        "Connection refused",
        "no leader",
        "too many requests",
        "invalid peer certificate",
    ];
    BEFORE.iter().any(|sign| text.contains(sign))
}

fn unanswered(endpoints: &str, kind: Kind, not_sent: bool, text: String) -> StoreError {
    let refused = ["connection closed", "fatal alert"].iter().any(|sign| text.contains(sign));
    // A server that wants a certificate may have gone before its alert was read.
    let broken = ["broken pipe", "onnection reset"].iter().any(|sign| text.contains(sign));
    let remedy = if text.contains("invalid peer certificate") {
        "check that the CA file given for etcd is the one that signed its certificate"
    } else if refused && endpoints.starts_with("https://") {
        "it may want a client certificate that it trusts; check the one given for etcd"
    } else if broken && endpoints.starts_with("https://") {
        "check that it runs and is healthy (etcdctl endpoint health) and trusts the client certificate given for it"
    } else {
        "check that it runs and is healthy (etcdctl endpoint health)"
    };
    let reason = format!("etcd at {endpoints}: {text}; {remedy}");
    if kind == Kind::Write && !not_sent {
        StoreError::OutcomeUnknown { reason }
    } else {
        StoreError::Unavailable { reason }
    }
}

/// An error's whole chain in one line; what repeats the line before is left out.
fn chain(mut text: String, mut source: Option<&(dyn std::error::Error + 'static)>) -> String {
    while let Some(error) = source {
        let cause = error.to_string();
        if !text.contains(&cause) {
            // Writing to a String cannot fail.
            let _ = write!(text, ": {cause}");
        }
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(kind: Kind, code: Code, message: &str) -> StoreError {
        store_error("http://a:1", kind, &Error::GRpcStatus(Status::new(code, message)))
    }

    #[test]
    fn writes_say_whether_they_may_have_happened() {
        for (message, unknown) in [
            ("etcdserver: request timed out", true),
            ("etcdserver: leader changed", true),
            ("transport error", true),
            ("etcdserver: no leader", false),
            ("tcp connect error: Connection refused (os error 111)", false),
        ] {
            let error = map(Kind::Write, Code::Unavailable, message);
            assert_eq!(matches!(error, StoreError::OutcomeUnknown { .. }), unknown, "{message}: {error}");
            let error = map(Kind::Read, Code::Unavailable, message);
            assert!(
                matches!(&error, StoreError::Unavailable { .. }) && error.to_string().contains("http://a:1")
            );
        }
    }

    #[test]
    fn statuses_have_their_own_errors() {
        assert!(matches!(
            map(Kind::Read, Code::OutOfRange, "etcdserver: mvcc: required revision has been compacted"),
            StoreError::Compacted { .. }
        ));
        assert!(matches!(
            map(Kind::Write, Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded"),
            StoreError::Full { .. }
        ));
        assert_eq!(
            map(Kind::Lease(LeaseId(7)), Code::NotFound, "etcdserver: requested lease not found"),
            StoreError::LeaseNotFound { lease: LeaseId(7) }
        );
    }
}
