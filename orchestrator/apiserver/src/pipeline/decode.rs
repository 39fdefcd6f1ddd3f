//! The first stage: a request's body becomes an object of the resource's type.

use api::decode::{self, Format, Target};
use api::{ApiError, Object};
use bytes::Bytes;
use http::HeaderMap;
use http::header::CONTENT_TYPE;

use super::Write;

/// Bodies we read.
pub const SUPPORTED: &[&str] = &["application/json", "application/yaml", api::protobuf::CONTENT_TYPE];

/// The media type of a body, without parameters; JSON when there is none.
pub fn media_type(headers: &HeaderMap) -> &str {
    let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    match value.split(';').next().unwrap_or_default().trim() {
        "" => "application/json",
        media_type => media_type,
    }
}

/// How a body is written.
pub fn format(headers: &HeaderMap) -> Result<Format, ApiError> {
    match media_type(headers) {
        "application/json" => Ok(Format::Json),
        "application/yaml" | "application/x-yaml" | "text/yaml" => Ok(Format::Yaml),
        api::protobuf::CONTENT_TYPE => Ok(Format::Protobuf),
        _ => Err(ApiError::unsupported_media_type(SUPPORTED)),
    }
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
        let decoded = decode::decode(body, format, target, self.options.field_validation)?;
        self.warnings.extend(decoded.warnings);
        Ok(decoded.object)
    }

    /// Checks a tree that a patch produced.
    pub fn check(&mut self, value: api::Value) -> Result<Object, ApiError> {
        let decoded = decode::check(value, &Target::of(&self.resource.kind), self.options.field_validation)?;
        self.warnings.extend(decoded.warnings);
        Ok(decoded.object)
    }
}
