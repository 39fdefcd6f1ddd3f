//! What the numbers in events and maps mean, for people.

use std::{collections::HashMap, sync::Arc};

use crate::{
    policy::Subject,
    snapshot::{NetworkPolicy, Service, ServicePort},
};

/// Meanings of one plan's numbers.
#[derive(Clone, Debug, Default)]
pub struct Names {
    /// Policies by policy id.
    pub policies: Arc<HashMap<u32, Arc<Subject>>>,
    /// Service ports by service id.
    pub services: Arc<HashMap<u32, ServiceName>>,
}

/// A port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceName {
    /// The Service's namespace.
    pub namespace: Arc<str>,
    /// The Service's name.
    pub name: Arc<str>,
    /// The port's name, empty for the only one.
    pub port: Arc<str>,
}

// === impl ServiceName ===

impl ServiceName {
    pub(crate) fn new(service: &Service, port: &ServicePort) -> Self {
        ServiceName {
            namespace: Arc::clone(&service.namespace),
            name: Arc::clone(&service.name),
            port: Arc::clone(&port.name),
        }
    }
}

// === impl Names ===

impl Names {
    /// The policy that rule number `rule` of a policy id is from; `None` when no rule decided.
    pub fn rule(&self, policy: u32, rule: u32) -> Option<&NetworkPolicy> {
        let subject = self.policies.get(&policy)?;
        let at = usize::try_from(rule).ok()?.checked_sub(1)?;
        subject.rules().nth(at).map(|(policy, _)| policy)
    }

    /// `namespace/name` of all policies that a policy id stands for: who forbids what no rule allows.
    pub fn policies(&self, policy: u32) -> Vec<String> {
        let subject = self.policies.get(&policy);
        let name = |policy: &Arc<NetworkPolicy>| format!("{}/{}", policy.namespace, policy.name);
        subject.into_iter().flat_map(|subject| subject.policies.iter().map(name)).collect()
    }
}
