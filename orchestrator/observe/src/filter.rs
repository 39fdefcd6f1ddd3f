//! Which flows somebody wants to see.

use serde::{Deserialize, Serialize};

use crate::flow::{Flow, Kind, Owner, Party};

/// All that is said must hold; what is not said does not matter. Also the query of the stream's URL.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Filter {
    /// Either end is in this namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Either end is this pod, Service or node, or one whose name begins with this and a dash (a Deployment's pods).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Only what was dropped.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub dropped: bool,
}

impl Filter {
    /// Whether a flow is wanted.
    pub fn wants(&self, flow: &Flow) -> bool {
        if self.dropped && flow.kind != Kind::Dropped {
            return false;
        }
        self.owners(flow, |owner| match &self.namespace {
            Some(namespace) => owner.namespace == *namespace,
            None => true,
        }) && self.owners(flow, |owner| match &self.name {
            Some(name) => {
                owner.name == *name
                    || owner.name.strip_prefix(name.as_str()).is_some_and(|rest| rest.starts_with('-'))
            }
            None => true,
        })
    }

    fn owners(&self, flow: &Flow, is: impl Fn(&Owner) -> bool) -> bool {
        let unrestricted = self.namespace.is_none() && self.name.is_none();
        let parties: [Option<&Party>; 3] =
            [Some(&flow.source), Some(&flow.destination), flow.backend.as_ref()];
        unrestricted || parties.into_iter().flatten().filter_map(|party| party.owner.as_ref()).any(is)
    }
}
