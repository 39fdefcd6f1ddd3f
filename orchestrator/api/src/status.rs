//! `Status` objects and the errors that the server answers with, in Kubernetes' wording: clients match on it.
use std::fmt;

use http::StatusCode;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::field::{ErrorList, quote};
use crate::kind::Kind;

/// The message of an update whose resourceVersion is not the stored one.
pub const MODIFIED_MESSAGE: &str =
    "the object has been modified; please apply your changes to the latest version and try again";

macro_rules! reasons {
    ($($name:ident),* $(,)?) => {
        /// Why a request failed, for machines.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[expect(missing_docs, reason = "the names are Kubernetes' own and say it")]
        pub enum Reason { $($name,)* #[default] Unknown }

        impl Reason {
            /// The reason's name; empty when unknown.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)* Self::Unknown => "" }
            }

            fn parse(name: &str) -> Self {
                match name { $(stringify!($name) => Self::$name,)* _ => Self::Unknown }
            }
        }
    };
}

reasons!(
    AlreadyExists,
    BadRequest,
    Conflict,
    Expired,
    Forbidden,
    Gone,
    InternalError,
    Invalid,
    MethodNotAllowed,
    NotAcceptable,
    NotFound,
    RequestEntityTooLarge,
    ServerTimeout,
    ServiceUnavailable,
    Timeout,
    TooManyRequests,
    Unauthorized,
    UnsupportedMediaType,
);

impl Serialize for Reason {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Reason {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|name| Self::parse(&name))
    }
}

/// One of the causes of a failure.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Cause {
    /// For machines, e.g. `FieldValueRequired`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// For people.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// The field, e.g. `spec.containers[0].image`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub field: String,
}

/// What the failure is about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Details {
    /// The object's name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Its API group.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub group: String,
    /// Its kind or, for most reasons, its resource.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// Its uid.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// What went wrong in detail.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<Cause>,
    /// When it makes sense to try again.
    #[serde(skip_serializing_if = "is_zero")]
    pub retry_after_seconds: u32,
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// `metav1.Status`, the body of every answer that is not an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Status {
    /// Always `Status`.
    pub kind: String,
    /// Always `v1`.
    pub api_version: String,
    /// Empty, or a list's metadata.
    pub metadata: serde_json::Map<String, serde_json::Value>,
    /// `Success` or `Failure`.
    pub status: String,
    /// For people.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// For machines.
    #[serde(skip_serializing_if = "is_unknown")]
    pub reason: Reason,
    /// What it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub details: Option<Details>,
    /// The HTTP status code.
    pub code: u16,
}

fn is_unknown(reason: &Reason) -> bool {
    *reason == Reason::Unknown
}

impl Default for Status {
    fn default() -> Self {
        Self {
            kind: "Status".to_owned(),
            api_version: "v1".to_owned(),
            metadata: serde_json::Map::new(),
            status: "Failure".to_owned(),
            message: String::new(),
            reason: Reason::Unknown,
            details: None,
            code: 0,
        }
    }
}

impl Status {
    /// The answer to a deletion that left nothing behind.
    pub fn deleted(kind: &Kind, name: &str, uid: &str) -> Self {
        let details = Details {
            name: name.to_owned(),
            group: kind.group.to_string(),
            kind: kind.plural.to_string(),
            uid: uid.to_owned(),
            ..Details::default()
        };
        Self { status: "Success".to_owned(), details: Some(details), code: 200, ..Self::default() }
    }

    /// A success without anything to say, e.g. a binding's.
    pub fn success(code: StatusCode) -> Self {
        Self { status: "Success".to_owned(), code: code.as_u16(), ..Self::default() }
    }
}

/// A resource of a group, printed `deployments.apps`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupResource {
    /// The API group, empty for core.
    pub group: String,
    /// The plural name.
    pub resource: String,
}

impl fmt::Display for GroupResource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        qualified(f, &self.resource, &self.group)
    }
}

fn qualified(f: &mut dyn fmt::Write, name: &str, group: &str) -> fmt::Result {
    match group {
        "" => f.write_str(name),
        _ => write!(f, "{name}.{group}"),
    }
}

impl From<&Kind> for GroupResource {
    fn from(kind: &Kind) -> Self {
        Self { group: kind.group.to_string(), resource: kind.plural.to_string() }
    }
}

impl From<(&str, &str)> for GroupResource {
    fn from((group, resource): (&str, &str)) -> Self {
        Self { group: group.to_owned(), resource: resource.to_owned() }
    }
}

/// An error of the API: a failed request's `Status`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.message)]
pub struct ApiError(Box<Status>);

// === impl ApiError ===

impl ApiError {
    /// An error with nothing but a code, a reason and a message.
    pub fn new(code: StatusCode, reason: Reason, message: impl Into<String>) -> Self {
        Self(Box::new(Status { message: message.into(), reason, code: code.as_u16(), ..Status::default() }))
    }

    fn about(mut self, resource: GroupResource, name: &str) -> Self {
        let details = self.0.details.get_or_insert_default();
        details.group = resource.group;
        details.kind = resource.resource;
        details.name = name.to_owned();
        self
    }

    /// Adds a cause.
    #[must_use]
    pub fn with_cause(mut self, cause: Cause) -> Self {
        self.0.details.get_or_insert_default().causes.push(cause);
        self
    }

    /// Asks the client to try again after some seconds.
    #[must_use]
    pub fn with_retry_after(mut self, seconds: u32) -> Self {
        self.0.details.get_or_insert_default().retry_after_seconds = seconds;
        self
    }

    /// Adds the token with which an expired list can be continued.
    #[must_use]
    pub fn with_continue(mut self, token: String) -> Self {
        self.0.metadata.insert("continue".to_owned(), token.into());
        self
    }

    /// The status to answer with.
    pub fn status(&self) -> &Status {
        &self.0
    }

    /// The status to answer with.
    pub fn into_status(self) -> Status {
        *self.0
    }

    /// The HTTP status code.
    pub fn code(&self) -> StatusCode {
        StatusCode::from_u16(self.0.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// The reason.
    pub fn reason(&self) -> Reason {
        self.0.reason
    }

    /// The message.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The object does not exist.
    pub fn not_found(resource: impl Into<GroupResource>, name: &str) -> Self {
        let resource = resource.into();
        let message = format!("{resource} {} not found", quote(name));
        Self::new(StatusCode::NOT_FOUND, Reason::NotFound, message).about(resource, name)
    }

    /// There is nothing at this path of the API.
    pub fn unknown_path() -> Self {
        let message = "the server could not find the requested resource";
        let mut error = Self::new(StatusCode::NOT_FOUND, Reason::NotFound, message);
        error.0.details = Some(Details::default());
        error
    }

    /// The name is taken.
    pub fn already_exists(resource: impl Into<GroupResource>, name: &str) -> Self {
        let resource = resource.into();
        let message = format!("{resource} {} already exists", quote(name));
        Self::new(StatusCode::CONFLICT, Reason::AlreadyExists, message).about(resource, name)
    }

    /// The request contradicts the object's present state; `why` is often [`MODIFIED_MESSAGE`].
    pub fn conflict(resource: impl Into<GroupResource>, name: &str, why: impl fmt::Display) -> Self {
        let resource = resource.into();
        let message = format!("Operation cannot be fulfilled on {resource} {}: {why}", quote(name));
        Self::new(StatusCode::CONFLICT, Reason::Conflict, message).about(resource, name)
    }

    /// The object was changed in between.
    pub fn modified(resource: impl Into<GroupResource>, name: &str) -> Self {
        Self::conflict(resource, name, MODIFIED_MESSAGE)
    }

    /// Other field managers own what an apply would change.
    pub fn apply_conflict(message: impl Into<String>, causes: Vec<Cause>) -> Self {
        let mut error = Self::new(StatusCode::CONFLICT, Reason::Conflict, message);
        error.0.details = Some(Details { causes, ..Details::default() });
        error
    }

    /// The object's content is wrong.
    pub fn invalid(kind: &Kind, name: &str, errors: &ErrorList) -> Self {
        let mut subject = String::new();
        let _ = qualified(&mut subject, &kind.kind, &kind.group);
        let causes = errors.iter().map(|error| Cause {
            reason: error.kind.reason().to_owned(),
            message: error.body(),
            field: error.field.clone(),
        });
        let details = Details {
            name: name.to_owned(),
            group: kind.group.to_string(),
            kind: kind.kind.to_string(),
            causes: causes.collect(),
            ..Details::default()
        };
        let message = format!("{subject} {} is invalid: {errors}", quote(name));
        let mut error = Self::new(StatusCode::UNPROCESSABLE_ENTITY, Reason::Invalid, message);
        error.0.details = Some(details);
        error
    }

    /// The user may not do this, or it must not be done now.
    pub fn forbidden(resource: impl Into<GroupResource>, name: &str, why: impl fmt::Display) -> Self {
        let resource = resource.into();
        let message = match (resource.resource.as_str(), name) {
            ("", _) => format!("forbidden: {why}"),
            (_, "") => format!("{resource} is forbidden: {why}"),
            _ => format!("{resource} {} is forbidden: {why}", quote(name)),
        };
        Self::new(StatusCode::FORBIDDEN, Reason::Forbidden, message).about(resource, name)
    }

    /// Nobody known sends this request.
    pub fn unauthorized() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, Reason::Unauthorized, "Unauthorized")
    }

    /// The request itself is malformed.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, Reason::BadRequest, message)
    }

    /// The verb does not exist for this resource.
    pub fn method_not_allowed(resource: impl Into<GroupResource>, action: &str) -> Self {
        let resource = resource.into();
        let subject = quote(&resource.to_string());
        let message = format!("{action} is not supported on resources of kind {subject}");
        Self::new(StatusCode::METHOD_NOT_ALLOWED, Reason::MethodNotAllowed, message).about(resource, "")
    }

    /// No encoding the client accepts is one we have.
    pub fn not_acceptable(supported: &[&str]) -> Self {
        let message = format!("only the following media types are accepted: {}", supported.join(", "));
        Self::new(StatusCode::NOT_ACCEPTABLE, Reason::NotAcceptable, message)
    }

    /// The body's encoding is not one we read.
    pub fn unsupported_media_type(supported: &[&str]) -> Self {
        let message = format!(
            "the body of the request was in an unknown format - accepted media types include: {}",
            supported.join(", ")
        );
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, Reason::UnsupportedMediaType, message)
    }

    /// The body is too large.
    pub fn too_large(message: impl fmt::Display) -> Self {
        let message = format!("Request entity too large: {message}");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, Reason::RequestEntityTooLarge, message)
    }

    /// The resourceVersion is no longer in the history: list again.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(StatusCode::GONE, Reason::Expired, message)
    }

    /// Too much at once; the client should slow down.
    pub fn too_many_requests(message: impl Into<String>, retry_after_seconds: u32) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, Reason::TooManyRequests, message)
            .with_retry_after(retry_after_seconds)
    }

    /// Something the server needs is away.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, Reason::ServiceUnavailable, message)
    }

    /// The request took too long; it may or may not have been carried out.
    pub fn timeout(message: impl fmt::Display) -> Self {
        Self::new(StatusCode::GATEWAY_TIMEOUT, Reason::Timeout, format!("Timeout: {message}"))
    }

    /// The server could not do it now; trying again is safe.
    pub fn server_timeout(
        resource: impl Into<GroupResource>,
        operation: &str,
        retry_after_seconds: u32,
    ) -> Self {
        let resource = resource.into();
        let message = format!(
            "The {operation} operation against {resource} could not be completed at this time, please try again."
        );
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, Reason::ServerTimeout, message)
            .about(resource, operation)
            .with_retry_after(retry_after_seconds)
    }

    /// The server's own fault.
    pub fn internal(error: impl fmt::Display) -> Self {
        let message = error.to_string();
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            Reason::InternalError,
            format!("Internal error occurred: {message}"),
        )
        .with_cause(Cause { message, ..Cause::default() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::field::Path;

    #[test]
    fn messages_are_kubernetes_own() {
        let kind = Kind::new("apps", "v1", "Deployment", "deployments");
        assert_eq!(ApiError::not_found(&kind, "x").message(), "deployments.apps \"x\" not found");
        assert_eq!(
            ApiError::modified(("", "pods"), "x").message(),
            "Operation cannot be fulfilled on pods \"x\": the object has been modified; please apply your changes to the latest version and try again"
        );
        let mut errors = ErrorList::new();
        errors.invalid(&Path::new("spec.replicas"), -1, "must be greater than or equal to 0");
        let error = ApiError::invalid(&kind, "x", &errors);
        assert_eq!(
            error.message(),
            "Deployment.apps \"x\" is invalid: spec.replicas: Invalid value: -1: must be greater than or equal to 0"
        );
        let json = serde_json::to_string(error.status()).unwrap();
        assert_eq!(
            json,
            r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"Deployment.apps \"x\" is invalid: spec.replicas: Invalid value: -1: must be greater than or equal to 0","reason":"Invalid","details":{"name":"x","group":"apps","kind":"Deployment","causes":[{"reason":"FieldValueInvalid","message":"Invalid value: -1: must be greater than or equal to 0","field":"spec.replicas"}]},"code":422}"#
        );
        assert_eq!(serde_json::from_str::<Status>(&json).unwrap(), *error.status());
        assert_eq!(ApiError::forbidden(("", "pods"), "", "no").message(), "pods is forbidden: no");
    }
}
