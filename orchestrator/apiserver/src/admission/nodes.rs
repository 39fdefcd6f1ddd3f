//! NodeRestriction: what authorization cannot see because it is in the body.

use api::{ApiError, Json, Object};

use super::Operation;
use crate::authz::node::runs_on;
use crate::pipeline::Write;

/// Holds a node to its own name and to pods that are bound to it.
pub fn admit(
    write: &Write<'_>,
    operation: Operation,
    new: &Object,
    old: Option<&Object>,
) -> Result<(), ApiError> {
    let Some(node) = write.user.node_name() else { return Ok(()) };
    let kind = &write.resource.kind;
    let refuse =
        |why: &str| Err(ApiError::forbidden(&**kind, new.meta().name(), format!("node {node:?} {why}")));
    match (&*kind.group, &*kind.plural, operation) {
        ("", "nodes", Operation::Create) if new.meta().name() != node => refuse("may create only itself"),
        ("coordination.k8s.io", "leases", Operation::Create) if new.meta().name() != node => {
            refuse("may create only the lease of its own name")
        }
        ("", "pods", Operation::Update | Operation::Delete) => {
            let bound = old.is_some_and(|old| old.text("spec.nodeName") == node);
            if bound { Ok(()) } else { refuse("may change only pods that are bound to it") }
        }
        ("certificates.k8s.io", "certificatesigningrequests", Operation::Create) => Ok(()),
        _ => Ok(()),
    }
}

/// Whether a token that a node asks for is for a pod of its own.
pub fn owns(pod: &crate::cache::Entry, node: &str) -> bool {
    runs_on(pod, node)
}
