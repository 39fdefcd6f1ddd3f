//! Who is asked what the numbers in events mean.

use std::{net::IpAddr, sync::Arc};

/// Who has an address of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    /// A pod with an address of its own.
    Pod {
        /// Its namespace.
        namespace: Arc<str>,
        /// Its name.
        name: Arc<str>,
        /// The node it runs on.
        node: Arc<str>,
    },
    /// A Service: one of its virtual addresses.
    Service {
        /// Its namespace.
        namespace: Arc<str>,
        /// Its name.
        name: Arc<str>,
    },
    /// A node, or a hostNetwork pod on it.
    Node {
        /// Its name.
        name: Arc<str>,
    },
}

/// Whoever knows what the numbers in events mean.
pub trait Names: Send + Sync + 'static {
    /// Who has an address.
    fn owner(&self, address: IpAddr) -> Option<Owner>;
    /// The Service port with an id, as `namespace/name[:port]`.
    fn service(&self, id: u32) -> Option<Arc<str>>;
    /// The policy that a rule is from, or all that a policy id stands for when no rule decided; as `namespace/name`.
    fn policies(&self, policy: u32, rule: u32) -> Vec<Arc<str>>;
    /// Which way a policy id looks: `ingress` or `egress`.
    fn direction(&self, policy: u32) -> Option<&'static str>;
}
