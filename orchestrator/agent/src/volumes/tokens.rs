//! Service account tokens of the node's pods: asked for once, used until most of their life is over.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use parking_lot::Mutex;

use crate::cluster::{Cluster, ClusterError};
use crate::objects::PodRef;

/// A token is replaced after this share of its life, so that a server that is down for a while hurts nobody.
const REFRESH_SHARE: f64 = 0.8;
/// And at the latest after a day.
const REFRESH_MAX: Duration = Duration::from_secs(24 * 3600);

/// A token and when to replace it.
#[derive(Clone)]
pub(super) struct Token {
    pub(super) text: String,
    pub(super) refresh_at: DateTime<Utc>,
}

/// What a token is for, within a pod.
#[derive(PartialEq, Eq, Hash)]
struct Purpose {
    account: String,
    audience: String,
    seconds: i64,
}

/// Tokens by pod.
#[derive(Clone)]
pub(super) struct Tokens {
    cluster: Arc<dyn Cluster>,
    held: Arc<Mutex<HashMap<String, HashMap<Purpose, Token>>>>,
}

// === impl Tokens ===

impl Tokens {
    pub(super) fn new(cluster: Arc<dyn Cluster>) -> Self {
        Tokens { cluster, held: Arc::default() }
    }

    /// A token with most of its life ahead.
    pub(super) async fn get(
        &self,
        pod: &PodRef,
        account: &str,
        audience: &str,
        seconds: i64,
    ) -> Result<Token, ClusterError> {
        let purpose = Purpose { account: account.to_owned(), audience: audience.to_owned(), seconds };
        let held = self.held.lock().get(&pod.uid).and_then(|tokens| tokens.get(&purpose)).cloned();
        if let Some(token) = held.filter(|token| token.refresh_at > Utc::now()) {
            return Ok(token);
        }
        let made = self.cluster.service_account_token(pod, account, audience, seconds).await?;
        let now = Utc::now();
        let life = (made.expires_at - now).to_std().unwrap_or_default();
        let refresh_at = now + life.mul_f64(REFRESH_SHARE).min(REFRESH_MAX);
        let token = Token { text: made.token, refresh_at };
        self.held.lock().entry(pod.uid.clone()).or_default().insert(purpose, token.clone());
        Ok(token)
    }

    /// Forgets a pod's tokens.
    pub(super) fn forget(&self, uid: &str) {
        self.held.lock().remove(uid);
    }
}
