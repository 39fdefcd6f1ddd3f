//! Can this pod run on this node? Each filter is a function of the two; the first that says no names the reasons,
//! in Kubernetes' order and words, because people and tools search for them.
use std::fmt;

use crate::{
    cluster::NodeInfo,
    objects::{Node, Pod, Taint},
};

/// Why a node cannot take a pod.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// It is cordoned.
    Unschedulable,
    /// The pod asks for another node by name.
    Name,
    /// It has a taint that the pod does not tolerate.
    Taint {
        /// The taint's key.
        key: Box<str>,
        /// The taint's value.
        value: Box<str>,
    },
    /// Its labels do not match.
    Affinity,
    /// A port is taken.
    Ports,
    /// It holds as many pods as it may.
    TooManyPods,
    /// There is not enough left of a resource.
    Insufficient(Box<str>),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unschedulable => f.write_str("node(s) were unschedulable"),
            Self::Name => f.write_str("node(s) didn't match the requested node name"),
            Self::Taint { key, value } => write!(f, "node(s) had untolerated taint {{{key}: {value}}}"),
            Self::Affinity => f.write_str("node(s) didn't match Pod's node affinity/selector"),
            Self::Ports => f.write_str("node(s) didn't have free ports for the requested pod ports"),
            Self::TooManyPods => f.write_str("Too many pods"),
            Self::Insufficient(resource) => write!(f, "Insufficient {resource}"),
        }
    }
}

/// Whether the pod fits; if not, why. Only resources have several reasons at a time.
pub fn filter(pod: &Pod, node: &Node, info: &NodeInfo) -> Result<(), Vec<Reason>> {
    let one = |reason: Option<Reason>| reason.map_or(Ok(()), |reason| Err(vec![reason]));
    one(unschedulable(pod, node))?;
    one(name(pod, node))?;
    one(taints(pod, node))?;
    one(affinity(pod, node))?;
    one(ports(pod, info))?;
    let short = resources(pod, node, info);
    if short.is_empty() { Ok(()) } else { Err(short) }
}

fn unschedulable(pod: &Pod, node: &Node) -> Option<Reason> {
    let taint = || Taint {
        key: "node.kubernetes.io/unschedulable".into(),
        value: "".into(),
        effect: "NoSchedule".into(),
    };
    (node.unschedulable && !tolerated(pod, &taint())).then_some(Reason::Unschedulable)
}

fn name(pod: &Pod, node: &Node) -> Option<Reason> {
    (!pod.node_name.is_empty() && pod.node_name != node.metadata.name).then_some(Reason::Name)
}

fn taints(pod: &Pod, node: &Node) -> Option<Reason> {
    let hard = |taint: &&Taint| matches!(&*taint.effect, "NoSchedule" | "NoExecute");
    let taint = node.taints.iter().filter(hard).find(|taint| !tolerated(pod, taint))?;
    Some(Reason::Taint { key: taint.key.clone(), value: taint.value.clone() })
}

/// Whether the pod tolerates the taint.
pub fn tolerated(pod: &Pod, taint: &Taint) -> bool {
    pod.tolerations.iter().any(|toleration| toleration.tolerates(taint))
}

fn affinity(pod: &Pod, node: &Node) -> Option<Reason> {
    let labels = &node.metadata.labels;
    let selected = pod.node_selector.is_subset_of(labels);
    let required = pod.required_nodes.as_ref();
    let matched =
        required.is_none_or(|terms| terms.iter().any(|term| term.matches(&node.metadata.name, labels)));
    (!selected || !matched).then_some(Reason::Affinity)
}

fn ports(pod: &Pod, info: &NodeInfo) -> Option<Reason> {
    let taken = |wanted: &crate::objects::HostPort| info.host_ports.iter().any(|own| own.conflicts(wanted));
    pod.host_ports.iter().any(taken).then_some(Reason::Ports)
}

fn resources(pod: &Pod, node: &Node, info: &NodeInfo) -> Vec<Reason> {
    let (wanted, used, total) = (&pod.requests, &info.requested, &node.allocatable);
    let mut short = Vec::new();
    // Pods are counted even if they request nothing else.
    if used.pods + wanted.pods > total.pods {
        short.push(Reason::TooManyPods);
    }
    let mut check = |name: &str, wanted: i64, used: i64, total: i64| {
        if wanted > 0 && wanted > total - used {
            short.push(Reason::Insufficient(name.into()));
        }
    };
    check("cpu", wanted.cpu_milli, used.cpu_milli, total.cpu_milli);
    check("memory", wanted.memory, used.memory, total.memory);
    check("ephemeral-storage", wanted.ephemeral, used.ephemeral, total.ephemeral);
    for (name, amount) in &wanted.other {
        let of = |list: &crate::resources::Resources| list.other.get(name).copied().unwrap_or_default();
        check(name, *amount, of(used), of(total));
    }
    short
}
