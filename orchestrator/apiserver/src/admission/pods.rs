//! What a new pod gets: a service account with its token, a priority, and patience with an unwell node.

use api::kinds::pod::admission;
use api::{ApiError, Json, Object};

use crate::error::from_fresh;
use crate::pipeline::{Write, stamp};

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
    let accounts = write.api.resources.cache("", "serviceaccounts");
    let find = || accounts.and_then(|accounts| accounts.get(&path));
    let mut found = find();
    if found.is_none() {
        // It may have been made a moment ago.
        write.api.feed.fresh().await.map_err(from_fresh)?;
        found = find();
    }
    let Some(found) = found else {
        let why = format!("error looking up service account {path}: serviceaccount {name:?} not found");
        return Err(ApiError::forbidden(&*write.resource.kind, pod.meta().name(), why));
    };
    Object::from_bytes(found.value()).map_err(ApiError::internal)
}
