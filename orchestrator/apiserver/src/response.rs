//! Responses: status objects, headers that every answer carries, warnings.

use api::{ApiError, Status};
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER, WARNING};
use http::{Response, StatusCode};

use crate::body::Body;

/// Objects change; nobody between client and server may keep them.
const NO_CACHE: HeaderValue = HeaderValue::from_static("no-cache, private");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
/// Bytes of all warnings of a response, as Kubernetes limits them: more would not fit common header limits.
const WARNING_BYTES_MAX: usize = 4096;

/// A JSON response.
pub fn json(code: StatusCode, body: impl Into<Body>) -> Response<Body> {
    with_type(code, JSON, body)
}

/// A response of any type.
pub fn with_type(code: StatusCode, content_type: HeaderValue, body: impl Into<Body>) -> Response<Body> {
    let mut response = Response::new(body.into());
    *response.status_mut() = code;
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response.headers_mut().insert(CACHE_CONTROL, NO_CACHE);
    response
}

/// A plain text response.
pub fn text(code: StatusCode, text: impl Into<String>) -> Response<Body> {
    with_type(code, HeaderValue::from_static("text/plain; charset=utf-8"), Bytes::from(text.into()))
}

/// A status object as the answer.
pub fn status(status: &Status) -> Response<Body> {
    let code = StatusCode::from_u16(status.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let body = serde_json::to_vec(status).expect("invariant: a status has string keys only");
    let mut response = json(code, Bytes::from(body));
    if let Some(seconds) = status.details.as_ref().map(|d| d.retry_after_seconds).filter(|s| *s > 0) {
        response.headers_mut().insert(RETRY_AFTER, seconds.into());
    }
    response
}

/// An error as the answer.
pub fn error(error: &ApiError) -> Response<Body> {
    let mut response = status(error.status());
    if error.code() == StatusCode::UNAUTHORIZED {
        let realm = HeaderValue::from_static("Bearer realm=\"bowsprit\"");
        response.headers_mut().insert(http::header::WWW_AUTHENTICATE, realm);
    }
    response
}

/// Adds `Warning` headers, as many as a client can be expected to take.
pub fn warn(response: &mut Response<Body>, warnings: &[String]) {
    let mut bytes = 0;
    for warning in warnings {
        let text: String = warning.chars().map(|c| if c.is_control() { ' ' } else { c }).collect::<String>();
        let quoted = text.replace('\\', "\\\\").replace('"', "\\\"");
        bytes += quoted.len();
        if bytes > WARNING_BYTES_MAX {
            return;
        }
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
            response.headers_mut().append(WARNING, value);
        }
    }
}

/// Sets a header whose value may not be a valid one; such a value is left out.
pub fn set(response: &mut Response<Body>, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_carry_their_headers() {
        let response = error(&ApiError::too_many_requests("slow down", 3));
        assert_eq!(
            (response.status(), response.headers()[RETRY_AFTER].to_str().unwrap()),
            (StatusCode::TOO_MANY_REQUESTS, "3")
        );
        assert!(error(&ApiError::unauthorized()).headers().contains_key("www-authenticate"));
    }

    #[test]
    fn warnings_are_quoted() {
        let mut response = json(StatusCode::OK, "");
        warn(&mut response, &["unknown field \"spec.x\"\n".to_owned()]);
        assert_eq!(response.headers()[WARNING], "299 - \"unknown field \\\"spec.x\\\" \"");
    }
}
