//! Which of the nodes that can take a pod should have it. Each score is 0 to 100; weights are Kubernetes' defaults.
use crate::{
    cluster::{Cluster, NodeInfo, owner, zone},
    filter::tolerated,
    objects::{Node, Pod},
};

const SCORE_MAX: i64 = 100;
const WEIGHT_LEAST_ALLOCATED: i64 = 1;
const WEIGHT_BALANCED: i64 = 1;
const WEIGHT_AFFINITY: i64 = 2;
const WEIGHT_SPREAD: i64 = 2;
const WEIGHT_TAINTS: i64 = 3;
/// Two thirds of the spread over zones, one over nodes: losing a zone loses more.
const ZONE_SHARE: (i64, i64) = (2, 3);

/// What the scores of one node are made from, before they are brought to a common scale.
struct Raw {
    index: usize,
    fixed: i64,
    preferred: i64,
    unwanted_taints: i64,
    on_node: i64,
    in_zone: Option<i64>,
}

/// The best of the candidates (places in the cluster's order); the first of equals.
pub fn best(pod: &Pod, cluster: &Cluster, candidates: &[usize]) -> Option<usize> {
    let raws: Vec<Raw> = candidates
        .iter()
        .filter_map(|index| cluster.at(*index).map(|(node, info)| raw(pod, cluster, *index, node, info)))
        .collect();
    let most = |value: fn(&Raw) -> i64| raws.iter().map(value).max().unwrap_or_default();
    let most_preferred = most(|raw| raw.preferred);
    let most_taints = most(|raw| raw.unwanted_taints);
    let most_on_node = most(|raw| raw.on_node);
    let most_in_zone = most(|raw| raw.in_zone.unwrap_or_default());
    let total = |raw: &Raw| {
        let spread = {
            let node = few(raw.on_node, most_on_node);
            let in_zone = |count| few(count, most_in_zone);
            raw.in_zone.map_or(node, |count| {
                (in_zone(count) * ZONE_SHARE.0 + node * (ZONE_SHARE.1 - ZONE_SHARE.0)) / ZONE_SHARE.1
            })
        };
        raw.fixed
            + WEIGHT_AFFINITY * many(raw.preferred, most_preferred)
            + WEIGHT_TAINTS * few(raw.unwanted_taints, most_taints)
            + WEIGHT_SPREAD * spread
    };
    let mut best: Option<(i64, usize)> = None;
    for raw in &raws {
        let score = total(raw);
        if best.is_none_or(|(highest, _)| score > highest) {
            best = Some((score, raw.index));
        }
    }
    best.map(|(_, index)| index)
}

fn raw(pod: &Pod, cluster: &Cluster, index: usize, node: &Node, info: &NodeInfo) -> Raw {
    let soft = node.taints.iter().filter(|taint| &*taint.effect == "PreferNoSchedule");
    let owner = owner(pod);
    let labels = &node.metadata.labels;
    let preferred = pod.preferred_nodes.iter().filter(|(_, term)| term.matches(&node.metadata.name, labels));
    Raw {
        index,
        fixed: allocation(pod, node, info),
        preferred: preferred.map(|(weight, _)| weight).sum(),
        unwanted_taints: soft.filter(|taint| !tolerated(pod, taint)).count() as i64,
        on_node: owner.and_then(|owner| info.owners.get(owner)).copied().map_or(0, i64::from),
        in_zone: zone(node)
            .filter(|_| owner.is_some())
            .map(|zone| cluster.owner_in_zone(zone, owner.unwrap_or_default()).into()),
    }
}

/// Much left after the pod, and CPU and memory left in like shares.
fn allocation(pod: &Pod, node: &Node, info: &NodeInfo) -> i64 {
    let used = |used: i64, wanted: i64, total: i64| {
        if total <= 0 { 1.0 } else { ((used + wanted) as f64 / total as f64).min(1.0) }
    };
    let cpu = used(info.scored_cpu_milli, pod.requests.scored_cpu_milli(), node.allocatable.cpu_milli);
    let memory = used(info.scored_memory, pod.requests.scored_memory(), node.allocatable.memory);
    let max = SCORE_MAX as f64;
    let least = (1.0 - (cpu + memory) / 2.0) * max;
    // The standard deviation of two shares is half their distance.
    let balanced = (1.0 - (cpu - memory).abs() / 2.0) * max;
    WEIGHT_LEAST_ALLOCATED * least as i64 + WEIGHT_BALANCED * balanced as i64
}

fn many(count: i64, most: i64) -> i64 {
    if most == 0 { 0 } else { count * SCORE_MAX / most }
}

fn few(count: i64, most: i64) -> i64 {
    if most == 0 { SCORE_MAX } else { (most - count) * SCORE_MAX / most }
}
