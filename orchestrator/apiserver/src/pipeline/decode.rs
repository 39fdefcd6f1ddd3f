//! The first stage: a request's body becomes an object of the resource's type, whatever it is written in.

use api::decode::{self, Target};
use api::{ApiError, Object, Value, protobuf};
use bytes::Bytes;
use http::HeaderMap;
use http::header::CONTENT_TYPE;

use super::Write;

/// Bodies we read.
pub const SUPPORTED: &[&str] = &["application/json", "application/yaml", protobuf::CONTENT_TYPE];

/// How a body is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// JSON or YAML.
    Text(decode::Format),
    /// Kubernetes' protobuf, which Go clients write built-in kinds in.
    Protobuf,
}

// === impl Format ===

impl Format {
    /// What `Content-Type` says; JSON when it says nothing.
    pub fn of(headers: &HeaderMap) -> Result<Self, ApiError> {
        let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        match value.split(';').next().unwrap_or_default().trim() {
            "" | "application/json" => Ok(Self::Text(decode::Format::Json)),
            "application/yaml" | "application/x-yaml" | "text/yaml" => Ok(Self::Text(decode::Format::Yaml)),
            protobuf::CONTENT_TYPE => Ok(Self::Protobuf),
            _ => Err(ApiError::unsupported_media_type(SUPPORTED)),
        }
    }

    /// Reads a body as a tree that nothing is known about.
    pub fn tree(self, body: &Bytes) -> Result<Value, ApiError> {
        match self {
            Self::Text(format) => Ok(decode::any(body, format).map_err(ApiError::bad_request)?.0),
            Self::Protobuf => from_protobuf(body),
        }
    }
}

fn from_protobuf(body: &Bytes) -> Result<Value, ApiError> {
    protobuf::decode(body).map_err(|error| ApiError::bad_request(error.to_string()))
}

// === impl Write ===

impl Write<'_> {
    /// Reads a body as an object of this resource.
    pub fn decode(&mut self, body: &Bytes, format: Format) -> Result<Object, ApiError> {
        self.decode_as(body, format, &Target::of(&self.resource.kind))
    }

    /// Reads a body as an object of a subresource's type.
    pub fn decode_as(
        &mut self,
        body: &Bytes,
        format: Format,
        target: &Target<'_>,
    ) -> Result<Object, ApiError> {
        if body.is_empty() {
            return Err(ApiError::bad_request(format!(
                "the request body is empty; a {} is expected",
                target.kind
            )));
        }
        let validation = self.options.field_validation;
        let decoded = match format {
            Format::Text(format) => decode::decode(body, format, target, validation)?,
            Format::Protobuf => decode::check(from_protobuf(body)?, target, validation)?,
        };
        self.warnings.extend(decoded.warnings);
        Ok(decoded.object)
    }
}
