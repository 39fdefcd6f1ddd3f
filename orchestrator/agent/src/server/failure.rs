//! Refusals of the node's HTTP server, as the Status objects that kubectl prints.

use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use serde_json::json;

/// A refusal.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    code: StatusCode,
    message: String,
}

// === impl Failure ===

impl Failure {
    /// The request cannot be served as it is.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Failure { code: StatusCode::BAD_REQUEST, message: message.into() }
    }

    /// The subject is not here.
    pub fn not_found(message: impl Into<String>) -> Self {
        Failure { code: StatusCode::NOT_FOUND, message: message.into() }
    }

    /// The caller is not the API server.
    pub fn forbidden(message: impl Into<String>) -> Self {
        Failure { code: StatusCode::FORBIDDEN, message: message.into() }
    }

    /// Something on this node went wrong.
    pub fn internal(message: impl Into<String>) -> Self {
        Failure { code: StatusCode::INTERNAL_SERVER_ERROR, message: message.into() }
    }

    /// The runtime does not answer.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Failure { code: StatusCode::SERVICE_UNAVAILABLE, message: message.into() }
    }

    fn reason(&self) -> &'static str {
        match self.code {
            StatusCode::BAD_REQUEST => "BadRequest",
            StatusCode::NOT_FOUND => "NotFound",
            StatusCode::FORBIDDEN => "Forbidden",
            StatusCode::SERVICE_UNAVAILABLE => "ServiceUnavailable",
            _ => "InternalError",
        }
    }
}

impl From<crate::runtime::RuntimeError> for Failure {
    fn from(error: crate::runtime::RuntimeError) -> Self {
        let message = error.to_string();
        if error.is_unavailable() {
            Failure::unavailable(message)
        } else if error.is_not_found() {
            Failure::not_found(message)
        } else {
            Failure::internal(message)
        }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason(), "code": self.code.as_u16(),
        });
        (self.code, [(header::CONTENT_TYPE, "application/json")], status.to_string()).into_response()
    }
}
