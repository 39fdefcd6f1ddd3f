//! Node CIDRs: every node gets a slice of the cluster's pod addresses, which nobody else gets while it exists.
//!
//! Level-triggered and without a record of its own: what is taken is what the nodes say. Ranges are handed out one after
//! the other by a single task, so that two nodes that register at once do not get the same one.
use std::{
    collections::{HashMap, HashSet},
    iter,
    net::IpAddr,
    sync::Arc,
};

use client::{Error, ObjectKey, ObjectReference, Patch};
use ipnet::IpNet;
use serde_json::json;

use crate::{
    Context,
    objects::Node,
    work::{Next, WorkQueue, follow, sides},
};

/// Prefix length of a node's IPv4 range: 254 addresses, more than the 110 pods a node takes, in 256 nodes of a /16.
pub const NODE_PREFIX_V4: u8 = 24;
/// Prefix length of a node's IPv6 range, Kubernetes' default.
pub const NODE_PREFIX_V6: u8 = 64;

/// Runs the controller over the cluster's ranges, at most one a family.
pub async fn run(ctx: Context, cluster: Vec<IpNet>) {
    let nodes = ctx.informers.get::<Node>();
    nodes.synced().await;
    let queue = WorkQueue::<Box<str>>::default();
    let ranges = parking_lot::Mutex::new(Ranges { cluster, handed_out: HashMap::new() });
    let reconcile = |name: Box<str>| {
        let (ctx, store, ranges) = (&ctx, nodes.store(), &ranges);
        async move {
            let Some(node) = store.get(&ObjectKey::new("", &name)) else { return Ok(Next::Done) };
            if !node.spec.pod_cidr.is_empty() || node.metadata.is_deleting() {
                return Ok(Next::Done);
            }
            let found = ranges.lock().of(&node, &store.all());
            let Some(found) = found else {
                let whole = join(&ranges.lock().cluster);
                let message =
                    format!("all ranges of {whole} are in use: give the cluster a larger --cluster-cidr");
                ctx.recorder.warning(ObjectReference::of(&*node), "CIDRNotAvailable", message);
                return Err(exhausted(&name));
            };
            assign(ctx, &node, &found).await
        }
    };
    tokio::join!(
        follow(nodes.subscribe(), |delta| sides(&delta)
            .for_each(|node| queue.add(node.metadata.name.clone()))),
        queue.work("node-cidrs", &ctx.metrics, 1, reconcile),
    );
}

/// The cluster's ranges, and what of them the cache does not show yet.
struct Ranges {
    cluster: Vec<IpNet>,
    /// By the uid of the node: one that is asked about again before the cache shows its ranges keeps them.
    handed_out: HashMap<Box<str>, Vec<IpNet>>,
}

impl Ranges {
    /// The ranges for a node that has none, one a family, beside what `nodes` show; `None` when there are none left.
    fn of(&mut self, node: &Node, nodes: &[Arc<Node>]) -> Option<Vec<IpNet>> {
        // Once a node shows a range, the cache is what counts: the range is free again when the node goes.
        let waiting: HashSet<&str> = nodes
            .iter()
            .filter(|node| node.spec.pod_cidr.is_empty())
            .map(|node| &*node.metadata.uid)
            .collect();
        self.handed_out.retain(|uid, _| waiting.contains(&**uid));
        if let Some(ranges) = self.handed_out.get(&node.metadata.uid) {
            return Some(ranges.clone());
        }
        let texts = nodes.iter().flat_map(|node| iter::once(&node.spec.pod_cidr).chain(&node.spec.pod_cidrs));
        let shown = texts.filter_map(|text| range(text));
        let taken: HashSet<IpNet> = shown.chain(self.handed_out.values().flatten().copied()).collect();
        let ranges: Vec<IpNet> =
            self.cluster.iter().map(|whole| first_free(*whole, &taken)).collect::<Option<_>>()?;
        self.handed_out.insert(node.metadata.uid.clone(), ranges.clone());
        Some(ranges)
    }
}

async fn assign(ctx: &Context, node: &Node, ranges: &[IpNet]) -> Result<Next, Error> {
    let texts: Vec<String> = ranges.iter().map(IpNet::to_string).collect();
    let body = json!({ "metadata": { "uid": node.metadata.uid }, "spec": { "podCIDR": texts.first(), "podCIDRs": texts } });
    match ctx.client.patch::<Node>(Patch::Merge, "", &node.metadata.name, None, &body).await {
        Err(error) if !error.is_not_found() => Err(error),
        _ => {
            tracing::info!(
                node = &*node.metadata.name,
                ranges = texts.join(","),
                "a node got its pod addresses"
            );
            Ok(Next::Done)
        }
    }
}

/// The queue asks again, later and later: a node that goes frees its range.
fn exhausted(node: &str) -> Error {
    Error::Api(client::Status {
        code: 507,
        reason: "InsufficientStorage".into(),
        message: format!("no range of pod addresses is left for node {node}"),
    })
}

fn join(ranges: &[IpNet]) -> String {
    ranges.iter().map(IpNet::to_string).collect::<Vec<_>>().join(", ")
}

/// A range as it is compared: without bits beyond its prefix.
fn range(text: &str) -> Option<IpNet> {
    text.parse().ok().map(|range: IpNet| range.trunc())
}

/// The first range of a node's size that overlaps none that is taken.
fn first_free(whole: IpNet, taken: &HashSet<IpNet>) -> Option<IpNet> {
    let prefix = match whole.addr() {
        IpAddr::V4(_) => NODE_PREFIX_V4,
        IpAddr::V6(_) => NODE_PREFIX_V6,
    };
    let prefix = prefix.max(whole.prefix_len());
    // Nearly all have this size, and then a range is taken or it is not; others are compared one by one.
    let others: Vec<&IpNet> = taken.iter().filter(|own| own.prefix_len() != prefix).collect();
    let overlaps = |range: &IpNet| {
        taken.contains(range) || others.iter().any(|own| own.contains(range) || range.contains(*own))
    };
    whole.subnets(prefix).ok()?.find(|range| !overlaps(range))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(whole: &str, taken: &[&str], expect: Option<&str>) {
        let taken = taken.iter().map(|text| text.parse().unwrap()).collect();
        assert_eq!(first_free(whole.parse().unwrap(), &taken), expect.map(|text| text.parse().unwrap()));
    }

    fn node(name: &str, pod_cidr: &str) -> Arc<Node> {
        let object = json!({ "metadata": { "name": name, "uid": name }, "spec": { "podCIDR": pod_cidr } });
        Arc::new(serde_json::from_value(object).unwrap())
    }

    #[test]
    fn a_node_keeps_its_range_however_often_it_is_asked_about() {
        let mut ranges =
            Ranges { cluster: vec!["10.244.0.0/23".parse().unwrap()], handed_out: HashMap::new() };
        let mut of =
            |name: &str, nodes: &[Arc<Node>]| ranges.of(&node(name, ""), nodes).map(|ranges| join(&ranges));
        let [first, second] = ["10.244.0.0/24", "10.244.1.0/24"].map(|range| Some(range.to_owned()));
        let both = [node("a", ""), node("b", "")];
        assert_eq!(of("a", &both), first);
        assert_eq!(of("a", &both), first, "the cache does not show it yet");
        assert_eq!(of("b", &both), second);
        let three = [node("a", "10.244.0.0/24"), node("b", ""), node("c", "")];
        assert_eq!(of("c", &three), None, "what the cache does not show yet is taken, too");
        assert_eq!(
            of("c", &[node("a", "10.244.0.0/24"), node("c", "")]),
            second,
            "a node that is gone has none"
        );
    }

    #[test]
    fn ranges_are_handed_out_from_the_start_and_again() {
        check("10.244.0.0/16", &[], Some("10.244.0.0/24"));
        check("10.244.0.0/16", &["10.244.0.0/24", "10.244.2.0/24"], Some("10.244.1.0/24"));
        check("10.244.0.0/24", &["10.244.0.0/24"], None);
        check("10.244.0.0/26", &[], Some("10.244.0.0/26"));
        // A range of another size, given by hand.
        check("10.244.0.0/16", &["10.244.0.0/23"], Some("10.244.2.0/24"));
        check("fd00:1::/48", &["fd00:1::/64"], Some("fd00:1:0:1::/64"));
    }
}
