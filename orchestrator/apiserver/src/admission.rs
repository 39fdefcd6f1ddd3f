//! Admission: what the server itself adds to an object, and what it refuses whoever asks. Each controller is one
//! module; this one holds their order, which is Kubernetes'.

use api::{ApiError, Object};

use crate::pipeline::Write;

pub mod namespaces;
pub mod nodes;
pub mod pods;

/// What is being done to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "each variant is the verb of the same name")]
pub enum Operation {
    Create,
    Update,
    Delete,
}

/// Runs all admission controllers. They may change `new`; `old` is the object as it is, if there is one.
pub async fn admit(
    write: &mut Write<'_>,
    operation: Operation,
    new: &mut Object,
    old: Option<&Object>,
) -> Result<(), ApiError> {
    nodes::admit(write, operation, new, old)?;
    namespaces::admit(write, operation).await?;
    let kind = &write.resource.kind;
    match (&*kind.group, &*kind.plural, operation, write.info.subresource.as_str()) {
        ("", "pods", Operation::Create, "") => pods::admit(write, new).await,
        ("certificates.k8s.io", "certificatesigningrequests", Operation::Create, "") => {
            api::kinds::certificates::set_requestor(new, write.user);
            Ok(())
        }
        _ => Ok(()),
    }
}
