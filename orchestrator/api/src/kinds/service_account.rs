//! ServiceAccounts and the TokenRequests that are posted to them.

use super::checks;
use super::view::View;
use crate::field::ErrorList;
use crate::kind::{Column, Kind};
use crate::object::Object;
use crate::strategy::Strategy;

/// Shortest life of a token that may be asked for, as upstream.
const TOKEN_SECONDS_MIN: i64 = 10 * 60;
/// Longest life of a token that may be asked for, as upstream.
const TOKEN_SECONDS_MAX: i64 = 1 << 32;

struct ServiceAccounts;

/// `v1 ServiceAccount`. Its table has shown no count of secrets since 1.35.
pub(crate) fn kind() -> Kind {
    Kind::new("", "v1", "ServiceAccount", "serviceaccounts")
        .short_names(&["sa"])
        .subresource("token", ("authentication.k8s.io", "v1", "TokenRequest"), &["create"])
        .columns([Column::name(), Column::age()])
        .strategy(ServiceAccounts)
}

impl Strategy for ServiceAccounts {}

/// What is wrong with a TokenRequest.
pub fn validate_token_request(request: &Object) -> ErrorList {
    let mut errors = ErrorList::new();
    token_seconds(&mut errors, &View::root(request.value()).get("spec").get("expirationSeconds"));
    errors
}

/// The bounds of a token's life, also for tokens projected into pods.
pub(crate) fn token_seconds(errors: &mut ErrorList, seconds: &View<'_, '_>) {
    match seconds.int() {
        Some(value) if value < TOKEN_SECONDS_MIN => {
            errors.invalid(seconds.path(), value, "may not specify a duration less than 10 minutes");
        }
        Some(value) if value > TOKEN_SECONDS_MAX => {
            errors.invalid(seconds.path(), value, "may not specify a duration larger than 2^32 seconds");
        }
        _ => {}
    }
}

/// A reference to a ServiceAccount, when it is written.
pub(crate) fn name(errors: &mut ErrorList, name: &View<'_, '_>) {
    checks::named_if_set(errors, name, crate::names::dns1123_subdomain);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::object::Json;

    #[test]
    fn token_requests() {
        let mut request = Object::from_value(json!({"spec": {"audiences": ["a"]}})).unwrap();
        assert!(validate_token_request(&request).is_empty());
        request.set("spec.expirationSeconds", 60);
        assert_eq!(
            validate_token_request(&request).to_string(),
            "spec.expirationSeconds: Invalid value: 60: may not specify a duration less than 10 minutes"
        );
    }
}
