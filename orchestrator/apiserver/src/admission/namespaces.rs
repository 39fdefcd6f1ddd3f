//! NamespaceLifecycle: nothing is created where there is no namespace, or in one that is going.

use std::sync::Arc;

use api::ApiError;
use api::status::Cause;

use super::Operation;
use crate::cache::Entry;
use crate::error::from_fresh;
use crate::pipeline::Write;

/// Namespaces that a cluster cannot be without.
const IMMORTAL: &[&str] = &["default", "kube-system", "kube-public"];

/// Decides about namespaces themselves and about what is created in them.
pub async fn admit(write: &Write<'_>, operation: Operation) -> Result<(), ApiError> {
    let (info, kind) = (write.info, &write.resource.kind);
    let is_namespace = kind.group.is_empty() && kind.plural == "namespaces";
    if is_namespace && operation == Operation::Delete && IMMORTAL.contains(&info.name.as_str()) {
        return Err(ApiError::forbidden(&**kind, &info.name, "this namespace may not be deleted"));
    }
    if operation != Operation::Create || !kind.is_namespaced() || !info.subresource.is_empty() {
        return Ok(());
    }
    let namespace = find(write, &info.namespace).await?;
    if is_terminating(write, &namespace) {
        let name = &info.namespace;
        let why = format!("unable to create new content in namespace {name} because it is being terminated");
        let cause = Cause {
            reason: "NamespaceTerminating".to_owned(),
            message: format!("namespace {name} is being terminated"),
            field: "metadata.namespace".to_owned(),
        };
        return Err(ApiError::forbidden(&**kind, &info.name, why).with_cause(cause));
    }
    Ok(())
}

async fn find(write: &Write<'_>, name: &str) -> Result<Arc<Entry>, ApiError> {
    let missing = || ApiError::not_found(("", "namespaces"), name);
    let namespaces = write.api.resources.cache("", "namespaces").ok_or_else(missing)?;
    if let Some(found) = namespaces.get(name) {
        return Ok(found);
    }
    // It may have been made a moment ago.
    write.api.feed.fresh().await.map_err(from_fresh)?;
    namespaces.get(name).ok_or_else(missing)
}

/// The phase is among the extracted keys: nothing is parsed for every create.
fn is_terminating(write: &Write<'_>, namespace: &Entry) -> bool {
    let place = write.api.phase_of_namespaces;
    place.is_some_and(|place| &*namespace.facts().fields[place] == "Terminating")
}
