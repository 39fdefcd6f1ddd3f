//! What a new pod gets: a service account with its token, a priority, and patience with an unwell node.

use std::sync::Arc;
use std::time::Duration;

use api::kinds::pod::admission;
use api::{ApiError, Json, Object};

use crate::cache::{Entry, ResourceCache};
use crate::error::from_fresh;
use crate::pipeline::{Write, stamp};

/// The account that every namespace gets from a controller, a moment after it was made.
const DEFAULT_ACCOUNT: &str = "default";
/// How long a pod's create waits for that: a namespace and its first pods often come in one file.
const DEFAULT_ACCOUNT_MAX: Duration = Duration::from_secs(5);

/// Runs ServiceAccount, Priority and DefaultTolerationSeconds over a new pod.
pub async fn admit(write: &Write<'_>, pod: &mut Object) -> Result<(), ApiError> {
    let kind = &*write.resource.kind;
    let name = pod.meta().name().to_owned();
    admission::resolve_priority(pod).map_err(|why| ApiError::forbidden(kind, &name, why))?;
    admission::add_default_tolerations(pod);
    admission::default_service_account(pod);
    let account = account(write, pod).await?;
    admission::add_pull_secrets(pod, &account);
    admission::mount_token(pod, &account, &stamp::suffix());
    Ok(())
}

async fn account(write: &Write<'_>, pod: &Object) -> Result<Object, ApiError> {
    let name = pod.text("spec.serviceAccountName");
    let path = format!("{}/{name}", write.info.namespace);
    let found = match write.api.resources.cache("", "serviceaccounts") {
        Some(accounts) => find(write, accounts, &path, name).await?,
        None => None,
    };
    let Some(found) = found else {
        let why = format!("error looking up service account {path}: serviceaccount {name:?} not found");
        return Err(ApiError::forbidden(&*write.resource.kind, pod.meta().name(), why));
    };
    Object::from_bytes(found.value()).map_err(ApiError::internal)
}

async fn find(
    write: &Write<'_>,
    accounts: &ResourceCache,
    path: &str,
    name: &str,
) -> Result<Option<Arc<Entry>>, ApiError> {
    if let Some(found) = accounts.get(path) {
        return Ok(Some(found));
    }
    // It may have been made a moment ago.
    write.api.feed.fresh().await.map_err(from_fresh)?;
    if name != DEFAULT_ACCOUNT {
        return Ok(accounts.get(path));
    }
    let made = accounts.await_object(path);
    Ok(tokio::time::timeout(DEFAULT_ACCOUNT_MAX, made).await.ok().flatten())
}
