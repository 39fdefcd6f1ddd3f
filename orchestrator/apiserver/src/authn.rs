//! Authentication: who sends a request. A verified certificate comes first, then a bearer token; nobody else gets in.

use std::sync::Arc;

use api::{ApiError, UserInfo};
use http::header::AUTHORIZATION;
use http::request::Parts;

pub mod service_account;

pub use service_account::ServiceAccountTokens;

/// Group of those who present a bootstrap token.
pub const BOOTSTRAPPERS: &str = pki::GROUP_BOOTSTRAPPERS;

const IMPERSONATE_USER: &str = "impersonate-user";
const IMPERSONATE_GROUP: &str = "impersonate-group";
const IMPERSONATE_UID: &str = "impersonate-uid";
const IMPERSONATE_EXTRA: &str = "impersonate-extra-";

/// Knows all who may send requests.
pub struct Authenticator {
    bootstrap: Option<pki::Token>,
    service_accounts: Arc<ServiceAccountTokens>,
}

// === impl Authenticator ===

impl Authenticator {
    /// An authenticator for a bootstrap token, if there is one, and for service accounts.
    pub fn new(bootstrap: Option<pki::Token>, service_accounts: Arc<ServiceAccountTokens>) -> Self {
        Self { bootstrap, service_accounts }
    }

    /// The user behind a request, after impersonation.
    pub fn authenticate(&self, parts: &Parts) -> Result<Arc<UserInfo>, ApiError> {
        let user = self.identify(parts).ok_or_else(ApiError::unauthorized)?;
        impersonate(user, parts)
    }

    /// The user that sends a request, if that can be told.
    fn identify(&self, parts: &Parts) -> Option<Arc<UserInfo>> {
        // The accept loop puts in what a certificate says; in-process clients say themselves who they are.
        if let Some(user) = parts.extensions.get::<Arc<UserInfo>>() {
            return Some(user.clone());
        }
        if let Some(user) = parts.extensions.get::<UserInfo>() {
            return Some(Arc::new(user.clone()));
        }
        let header = parts.headers.get(AUTHORIZATION)?.to_str().ok()?;
        let (scheme, token) = header.split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        self.bearer(token.trim()).map(Arc::new)
    }

    fn bearer(&self, token: &str) -> Option<UserInfo> {
        if let Some(known) = self.bootstrap.as_ref().filter(|known| known.accepts(token)) {
            return Some(UserInfo::new(
                format!("{}{}", pki::USER_BOOTSTRAP_PREFIX, known.id),
                [BOOTSTRAPPERS],
            ));
        }
        match self.service_accounts.authenticate(token, &[]) {
            Ok(user) => Some(user),
            Err(error) => {
                tracing::debug!(%error, "a bearer token was refused");
                None
            }
        }
    }
}

/// Lets administrators act as somebody else, as `kubectl --as` asks.
fn impersonate(user: Arc<UserInfo>, parts: &Parts) -> Result<Arc<UserInfo>, ApiError> {
    let header =
        |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let name = header(IMPERSONATE_USER);
    if name.is_empty() {
        let stray = parts.headers.keys().any(|key| key.as_str().starts_with("impersonate-"));
        return match stray {
            true => Err(ApiError::bad_request(
                "impersonation headers need an Impersonate-User header beside them",
            )),
            false => Ok(user),
        };
    }
    if !user.is_master() {
        let why = format!(
            "User {:?} cannot impersonate resource \"users\" in API group \"\" at the cluster scope",
            user.name
        );
        return Err(ApiError::forbidden(("", "users"), name, why));
    }
    let groups = parts.headers.get_all(IMPERSONATE_GROUP).iter().filter_map(|value| value.to_str().ok());
    let mut other = UserInfo::new(name, groups);
    other.uid = header(IMPERSONATE_UID).to_owned();
    for (key, value) in &parts.headers {
        if let (Some(key), Ok(value)) = (key.as_str().strip_prefix(IMPERSONATE_EXTRA), value.to_str()) {
            other.extra.entry(key.to_owned()).or_default().push(value.to_owned());
        }
    }
    Ok(Arc::new(other))
}
