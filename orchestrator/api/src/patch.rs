//! The four patches: from the stored object and a request's body to the object that is asked for.
//!
//! [`json`], [`merge`] and [`strategic`] are functions of two trees; [`apply`] is server-side apply, which also needs to
//! know who owns what.
pub mod apply;
pub mod json;
pub mod merge;
pub mod strategic;

use http::StatusCode;

use crate::decode::{self, Decoded, FieldValidation, Format, Target};
use crate::object::Object;
use crate::status::{ApiError, Reason};

/// The kinds of patches, by content type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchType {
    /// RFC 6902.
    Json,
    /// RFC 7386.
    Merge,
    /// Kubernetes' own, which merges lists by key.
    Strategic,
    /// Server-side apply.
    Apply,
}

impl PatchType {
    /// All of them, as the content types that a request may have.
    pub const CONTENT_TYPES: [&str; 4] = [
        "application/json-patch+json",
        "application/merge-patch+json",
        "application/strategic-merge-patch+json",
        "application/apply-patch+yaml",
    ];

    /// The type that a `Content-Type` header names; parameters do not matter.
    pub fn from_content_type(header: &str) -> Option<Self> {
        match header.split(';').next().unwrap_or_default().trim() {
            "application/json-patch+json" => Some(Self::Json),
            "application/merge-patch+json" => Some(Self::Merge),
            "application/strategic-merge-patch+json" => Some(Self::Strategic),
            "application/apply-patch+yaml" => Some(Self::Apply),
            _ => None,
        }
    }
}

/// Why a patch cannot be carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// The patch itself is malformed.
    #[error("{0}")]
    Malformed(String),
    /// It does not fit the object.
    #[error("{0}")]
    DoesNotApply(String),
    /// It would do more than one request may.
    #[error("{0}")]
    TooLarge(String),
}

impl From<PatchError> for ApiError {
    fn from(error: PatchError) -> Self {
        match error {
            PatchError::Malformed(message) => Self::bad_request(message),
            PatchError::TooLarge(message) => Self::too_large(message),
            PatchError::DoesNotApply(message) => Self::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                Reason::Invalid,
                format!("the server rejected our request due to an error in our request: {message}"),
            ),
        }
    }
}

/// Carries out a JSON, merge or strategic merge patch on the stored object: the result is checked like any body.
pub fn patch(
    patch_type: PatchType,
    current: &Object,
    body: &[u8],
    target: &Target<'_>,
    validation: FieldValidation,
) -> Result<Decoded, ApiError> {
    let format = if patch_type == PatchType::Apply { Format::Yaml } else { Format::Json };
    let (patch, duplicates) = decode::any(body, format)
        .map_err(|error| ApiError::bad_request(format!("error decoding patch: {error}")))?;
    if validation == FieldValidation::Strict && !duplicates.is_empty() {
        let message = format!("strict decoding error: {}", duplicates.join(", "));
        return Err(ApiError::bad_request(message));
    }
    let mut value = current.value().clone();
    match (patch_type, target.node()) {
        (PatchType::Json, _) => json::apply(&mut value, &patch)?,
        (PatchType::Merge, _) => merge::apply(&mut value, patch)?,
        (PatchType::Strategic, Some(node)) => strategic::apply(&mut value, patch, node)?,
        (PatchType::Strategic, None) | (PatchType::Apply, _) => {
            return Err(ApiError::unsupported_media_type(&[
                PatchType::CONTENT_TYPES[0],
                PatchType::CONTENT_TYPES[1],
                PatchType::CONTENT_TYPES[3],
            ]));
        }
    }
    let mut decoded = decode::check(value, target, validation)?;
    if validation == FieldValidation::Warn {
        decoded.warnings.splice(0..0, duplicates);
    }
    Ok(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WEB: &[u8] =
        br#"{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"web"},"spec":{"replicas":1}}"#;

    fn patched(content_type: &str, body: &str, validation: FieldValidation) -> Result<Decoded, ApiError> {
        let patch_type = PatchType::from_content_type(content_type).unwrap();
        let current = Object::from_bytes(WEB).unwrap();
        patch(patch_type, &current, body.as_bytes(), &Target::new("apps", "v1", "Deployment"), validation)
    }

    #[test]
    fn each_type_is_checked_afterwards() {
        let json = "application/json-patch+json; charset=utf-8";
        let changed =
            patched(json, r#"[{"op":"replace","path":"/spec/replicas","value":3}]"#, FieldValidation::Strict);
        assert_eq!(changed.unwrap().object.value()["spec"]["replicas"], 3);
        let merge = "application/merge-patch+json";
        let error = patched(merge, r#"{"spec":{"foo":1}}"#, FieldValidation::Strict).unwrap_err();
        assert!(error.message().ends_with("strict decoding error: unknown field \"spec.foo\""));
        let error = patched(merge, r#"{"spec":{"replicas":"x"}}"#, FieldValidation::Ignore).unwrap_err();
        assert!(error.message().contains("json: cannot unmarshal string into Go struct field"));
        let strategic = "application/strategic-merge-patch+json";
        let warned =
            patched(strategic, r#"{"spec":{"replicas":2,"replicas":3}}"#, FieldValidation::Warn).unwrap();
        assert_eq!(warned.warnings, ["duplicate field \"spec.replicas\""]);
        assert!(patched(strategic, "[", FieldValidation::Warn).is_err());
    }

    #[test]
    fn errors_have_codes() {
        let json = "application/json-patch+json";
        let error =
            patched(json, r#"[{"op":"test","path":"/spec/replicas","value":9}]"#, FieldValidation::Warn);
        assert_eq!(error.unwrap_err().code(), StatusCode::UNPROCESSABLE_ENTITY);
        let error = patched(json, r#"{"spec":1}"#, FieldValidation::Warn).unwrap_err();
        assert_eq!(error.code(), StatusCode::BAD_REQUEST);
        assert_eq!(PatchType::from_content_type("application/json"), None);
    }
}
