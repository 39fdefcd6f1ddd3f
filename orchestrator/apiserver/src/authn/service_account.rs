//! Service account tokens: JSON web tokens that live only as long as the objects they are bound to.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use api::UserInfo;
use pki::ServiceAccountKey;
use pki::service_account::{BoundClaims, Claims, ObjectClaim};
use serde::Deserialize;

use crate::cache::{Entry, ResourceCache};
use crate::resources::Resources;

/// Who issues the tokens, and their audience when none is asked for.
pub const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
/// What a service account's user name starts with; namespace and name follow.
pub const USER_PREFIX: &str = "system:serviceaccount:";
/// The group of all service accounts; with a colon and a namespace appended, of those of one namespace.
pub const GROUP: &str = "system:serviceaccounts";

/// Issues and verifies service account tokens.
pub struct ServiceAccountTokens {
    key: Arc<ServiceAccountKey>,
    resources: Arc<Resources>,
}

/// Why a token does not stand for a user.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// Signature, validity or audience.
    #[error(transparent)]
    Pki(#[from] pki::Error),
    /// An object that the token is bound to is gone, or is another one of the same name.
    #[error("the {0} it is bound to no longer exists")]
    Unbound(&'static str),
}

/// What of an object's metadata decides whether a token is still good.
#[derive(Deserialize)]
struct Bound {
    metadata: BoundMeta,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct BoundMeta {
    #[serde(default)]
    uid: String,
}

// === impl ServiceAccountTokens ===

impl ServiceAccountTokens {
    /// Issues with `key`; looks bound objects up in the caches of `resources`.
    pub fn new(key: Arc<ServiceAccountKey>, resources: Arc<Resources>) -> Self {
        Self { key, resources }
    }

    /// The user that a token stands for, for any of `audiences`; none means this server.
    pub fn authenticate(&self, token: &str, audiences: &[&str]) -> Result<UserInfo, TokenError> {
        let audiences = if audiences.is_empty() { &[ISSUER][..] } else { audiences };
        let claims = self.key.verify(token, audiences, SystemTime::now())?;
        self.check_bound(&claims.bound)?;
        Ok(user_of(claims))
    }

    /// Signs a token for an account, valid from now for `seconds`.
    pub fn issue(
        &self,
        bound: BoundClaims,
        audiences: Vec<String>,
        seconds: u64,
    ) -> Result<(String, u64), pki::Error> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
        let claims = Claims {
            issuer: ISSUER.to_owned(),
            subject: format!("{USER_PREFIX}{}:{}", bound.namespace, bound.serviceaccount.name),
            audiences: if audiences.is_empty() { vec![ISSUER.to_owned()] } else { audiences },
            expires: now + seconds,
            issued_at: now,
            not_before: now,
            id: uuid::Uuid::new_v4().to_string(),
            bound,
        };
        Ok((self.key.sign(&claims)?, claims.expires))
    }

    /// The public key, as OpenID's JWKS document.
    pub fn jwks(&self) -> serde_json::Value {
        serde_json::json!({ "keys": [self.key.jwk()] })
    }

    fn check_bound(&self, bound: &BoundClaims) -> Result<(), TokenError> {
        let namespaced = |claim: &ObjectClaim| format!("{}/{}", bound.namespace, claim.name);
        let account = &bound.serviceaccount;
        self.check("service account", "serviceaccounts", &namespaced(account), &account.uid)?;
        if let Some(pod) = &bound.pod {
            self.check("pod", "pods", &namespaced(pod), &pod.uid)?;
        }
        if let Some(secret) = &bound.secret {
            self.check("secret", "secrets", &namespaced(secret), &secret.uid)?;
        }
        if let Some(node) = bound.node.as_ref().filter(|_| bound.pod.is_none()) {
            self.check("node", "nodes", &node.name, &node.uid)?;
        }
        Ok(())
    }

    fn check(&self, what: &'static str, plural: &str, path: &str, uid: &str) -> Result<(), TokenError> {
        let cache: Option<&Arc<ResourceCache>> = self.resources.cache("", plural);
        let found = cache.and_then(|cache| cache.get(path)).and_then(|entry| uid_of(&entry));
        if found.is_some_and(|own| own == uid) { Ok(()) } else { Err(TokenError::Unbound(what)) }
    }
}

/// An object's uid.
pub fn uid_of(entry: &Entry) -> Option<String> {
    serde_json::from_slice::<Bound>(entry.value()).ok().map(|bound| bound.metadata.uid)
}

fn user_of(claims: Claims) -> UserInfo {
    let bound = claims.bound;
    let groups = [GROUP.to_owned(), format!("{GROUP}:{}", bound.namespace)];
    let mut user = UserInfo::new(claims.subject, groups);
    user.uid = bound.serviceaccount.uid;
    let mut extra = |key: &str, value: String| {
        if !value.is_empty() {
            user.extra.insert(format!("authentication.kubernetes.io/{key}"), vec![value]);
        }
    };
    if !claims.id.is_empty() {
        extra("credential-id", format!("JTI={}", claims.id));
    }
    if let Some(pod) = bound.pod {
        extra("pod-name", pod.name);
        extra("pod-uid", pod.uid);
    }
    if let Some(node) = bound.node {
        extra("node-name", node.name);
        extra("node-uid", node.uid);
    }
    user
}
