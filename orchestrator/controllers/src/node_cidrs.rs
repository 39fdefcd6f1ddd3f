//! Node CIDRs: every node gets a slice of the cluster's pod addresses, which nobody else gets while it exists.
//!
//! Level-triggered and without a record of its own: what is taken is what the nodes say. Ranges are handed out one after
//! the other by a single task, so that two nodes that register at once do not get the same one.
use std::{collections::HashSet, net::IpAddr};

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
    // What was handed out and that the cache does not show yet.
    let handed_out = parking_lot::Mutex::new(HashSet::<IpNet>::new());
    let reconcile = |name: Box<str>| {
        let (ctx, cluster, store, handed_out) = (&ctx, &cluster, nodes.store(), &handed_out);
        async move {
            let Some(node) = store.get(&ObjectKey::new("", &name)) else { return Ok(Next::Done) };
            if !node.spec.pod_cidr.is_empty() || node.metadata.is_deleting() {
                return Ok(Next::Done);
            }
            let mut taken: HashSet<IpNet> =
                store.all().iter().filter_map(|node| range(&node.spec.pod_cidr)).collect();
            {
                // Once a node shows a range, the cache is what counts: the range is free again when the node goes.
                let mut handed_out = handed_out.lock();
                handed_out.retain(|range| !taken.contains(range));
                taken.extend(handed_out.iter());
            }
            let ranges: Option<Vec<IpNet>> = cluster.iter().map(|whole| first_free(*whole, &taken)).collect();
            let Some(ranges) = ranges else {
                let message = format!(
                    "all ranges of {} are in use: give the cluster a larger --cluster-cidr",
                    join(cluster)
                );
                ctx.recorder.warning(ObjectReference::of(&*node), "CIDRNotAvailable", message);
                return Err(exhausted(&name));
            };
            handed_out.lock().extend(&ranges);
            assign(ctx, &node, &ranges).await
        }
    };
    tokio::join!(
        follow(nodes.subscribe(), |delta| sides(&delta)
            .for_each(|node| queue.add(node.metadata.name.clone()))),
        queue.work("node-cidrs", &ctx.metrics, 1, reconcile),
    );
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
