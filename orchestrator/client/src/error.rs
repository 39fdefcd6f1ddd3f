//! Why a call to the API server did not succeed.
use serde::Deserialize;

use crate::BoxError;

/// What the API server answered instead of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Status {
    /// HTTP status.
    pub code: u16,
    /// Machine-readable reason, such as `NotFound`.
    pub reason: String,
    /// For people.
    pub message: String,
}

/// An error of a call to the API server.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server refused.
    #[error("{}", .0.message)]
    Api(Status),
    /// The server was not reached, or the connection broke.
    #[error("cannot reach the API server at {server}: {reason}")]
    Transport {
        /// Which server.
        server: String,
        /// What failed, and what to check where that is known.
        reason: String,
        /// The cause.
        #[source]
        source: Option<BoxError>,
    },
    /// The server did not answer in time.
    #[error("the API server did not answer {request} within {seconds} s")]
    Timeout {
        /// Method and path.
        request: String,
        /// How long was waited.
        seconds: u64,
    },
    /// What the server sent, or what was to be sent to it, is not the JSON it should be.
    #[error("{subject} is not as expected")]
    Json {
        /// What was read or written.
        subject: String,
        /// Where it does not fit.
        #[source]
        source: serde_json::Error,
    },
    /// The request cannot be built: a name with characters that no URL carries, an address that is none.
    #[error("cannot ask for {subject}: {reason}")]
    Request {
        /// Path or address.
        subject: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A watch sent more than any object may have.
    #[error("the watch of {subject} sent an event of more than {bytes_max} bytes")]
    EventTooLarge {
        /// The path watched.
        subject: String,
        /// The bound.
        bytes_max: usize,
    },
}

impl Error {
    /// HTTP status of the refusal, if it is one.
    pub fn code(&self) -> Option<u16> {
        match self {
            Self::Api(status) => Some(status.code),
            _ => None,
        }
    }

    /// No answer came: the transport says so once for all who ask, so that nobody else needs to.
    pub fn is_transport(&self) -> bool {
        matches!(self, Self::Transport { .. })
    }

    /// The object does not exist.
    pub fn is_not_found(&self) -> bool {
        self.code() == Some(404)
    }

    /// Somebody else changed the object first: read it again.
    pub fn is_conflict(&self) -> bool {
        self.code() == Some(409) && !self.is_already_exists()
    }

    /// An object of this name exists.
    pub fn is_already_exists(&self) -> bool {
        matches!(self, Self::Api(status) if status.code == 409 && status.reason == "AlreadyExists")
    }

    /// The requested resource version is gone: list again.
    pub fn is_expired(&self) -> bool {
        self.code() == Some(410)
    }

    /// The object is not acceptable; sending it again does not help.
    pub fn is_invalid(&self) -> bool {
        matches!(self.code(), Some(400 | 422))
    }

    /// The namespace is being deleted: nothing new can be made in it.
    pub fn is_namespace_terminating(&self) -> bool {
        matches!(self, Self::Api(status) if status.code == 403 && status.message.contains("is being terminated"))
    }

    /// The whole chain of causes in one line, for logs.
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        text
    }
}
