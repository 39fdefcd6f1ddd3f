//! From a snapshot to a plan: asks each compiler and puts their answers into the kernel's types.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::Arc,
};

use abi::{
    CidrKey, Endpoint, Mac, NODE_ADDRESSES, Peer, PodNetns, PolicyEntry, PolicyKey, Port, PortRange,
    ServiceKey, peer_flag, policy_id, verdict,
};
use ipnet::IpNet;

use crate::{
    family::{Address, cidr_key},
    host,
    ids::Ids,
    peers::{self, Addresses, Owner},
    plan::{FamilyPlan, Local, Plan, Shortfall, Slice, bound},
    policy::{self, Binding, Kind, PolicyTables},
    ports::PortSet,
    services::{self, FamilyServices, ServiceTables},
    snapshot::{LocalEndpoint, Snapshot},
};

/// What a pod without a verdict meets, in the words of a shortfall.
const DENIED: &str = "what is missing is denied";

/// What the last compilation made, and of what.
#[derive(Debug)]
pub(crate) struct Last {
    snapshot: Snapshot,
    plan: Plan,
    /// Shortfalls of the tables of peers and of those of services.
    shortfalls: [Vec<Shortfall>; 2],
    /// Policy ids are on their way out: the peers' part changes without a change of the snapshot.
    leaving: bool,
}

/// Computes what the kernel must hold for `snapshot`. `ids` must be the same from one call to the next: what a change does not
/// concern is taken over from the plan before.
pub fn compile(snapshot: &Snapshot, ids: &mut Ids) -> Plan {
    let last = ids.last.take().unwrap_or_else(Last::nothing);
    let Last { snapshot: before, mut plan, shortfalls: [mut of_peers, mut of_services], mut leaving } = *last;
    plan.revision = snapshot.revision;
    // Services know node indexes only through addresses: the two parts are independent.
    if leaving || !same_peers(&before, snapshot) {
        (of_peers, leaving) = compile_peers(snapshot, ids, &mut plan);
    }
    if before.node != snapshot.node || of_services.iter().any(|short| short.table.starts_with("SERVICES")) {
        of_services = compile_all_services(snapshot, ids, &mut plan);
    } else if ids.service_state.is_short() || !same_services(&before, snapshot) {
        of_services = compile_services(&before, snapshot, ids, &mut plan);
    }
    plan.shortfalls = of_peers.iter().chain(&of_services).cloned().collect();
    let (now, resting) = (ids.now, ids.ranges.settle(ids.now));
    plan.unsettled = leaving | resting | ids.service_state.settle(now);
    let last =
        Last { snapshot: snapshot.clone(), plan: plan.clone(), shortfalls: [of_peers, of_services], leaving };
    ids.last = Some(Box::new(last));
    plan
}

fn same_peers(before: &Snapshot, now: &Snapshot) -> bool {
    before.node == now.node
        && before.cluster == now.cluster
        && same(&before.nodes, &now.nodes)
        && same(&before.namespaces, &now.namespaces)
        && same(&before.pods, &now.pods)
        && same(&before.endpoints, &now.endpoints)
        && same(&before.policies, &now.policies)
}

fn same_services(before: &Snapshot, now: &Snapshot) -> bool {
    same(&before.services, &now.services) && same(&before.slices, &now.slices)
}

/// Whether both lists hold the very same objects. An object that was replaced by its equal only costs a compilation.
fn same<T>(before: &[Arc<T>], now: &[Arc<T>]) -> bool {
    before.len() == now.len() && before.iter().zip(now).all(|(one, two)| Arc::ptr_eq(one, two))
}

/// Everything but Services; whether policy ids are still on their way out.
fn compile_peers(snapshot: &Snapshot, ids: &mut Ids, plan: &mut Plan) -> (Vec<Shortfall>, bool) {
    let mut shortfalls = Vec::new();
    let capacity = ids.limits.nodes;
    let (nodes, homeless) = ids.nodes.compile(snapshot, capacity);
    if homeless > 0 {
        let (wanted, capacity) = (nodes.len() + homeless, capacity as usize);
        let consequence = "pods of the other nodes cannot be reached";
        shortfalls.push(Shortfall { table: "NODES", wanted, capacity, consequence });
    }
    plan.nodes = Arc::new(nodes);
    let addresses = peers::addresses(snapshot);
    let policies = policy::compile(snapshot, &addresses, ids);
    let tables = ["PEERS4", "PEER_CIDRS4", "ENDPOINTS4"];
    family(snapshot, &addresses, &policies, ids, tables, &mut plan.v4, &mut shortfalls);
    let tables = ["PEERS6", "PEER_CIDRS6", "ENDPOINTS6"];
    family(snapshot, &addresses, &policies, ids, tables, &mut plan.v6, &mut shortfalls);
    let netns = snapshot.endpoints.iter().map(|endpoint| (endpoint.netns_cookie, netns(endpoint)));
    plan.netns = Arc::new(netns.collect());
    verdicts(&policies, ids, plan, &mut shortfalls);
    plan.local = local(snapshot);
    plan.host = Arc::new(host::compile(snapshot));
    plan.names.policies = Arc::new(policies.subjects);
    (shortfalls, policies.unsettled)
}

fn compile_services(
    before: &Snapshot,
    snapshot: &Snapshot,
    ids: &mut Ids,
    plan: &mut Plan,
) -> Vec<Shortfall> {
    let capacity = ids.limits.services;
    let tables = ServiceTables {
        v4: FamilyServices { services: (*plan.v4.services).clone(), backends: (*plan.v4.backends).clone() },
        v6: FamilyServices { services: (*plan.v6.services).clone(), backends: (*plan.v6.backends).clone() },
        names: (*plan.names.services).clone(),
        shortfalls: Vec::new(),
    };
    let ServiceTables { mut v4, mut v6, names, mut shortfalls } =
        services::compile(before, snapshot, ids, tables);
    const UNANSWERED: &str = "the rest do not answer";
    shortfalls.extend(bound("SERVICES4", UNANSWERED, capacity, &mut v4.services, service_order));
    shortfalls.extend(bound("SERVICES6", UNANSWERED, capacity, &mut v6.services, service_order));
    (plan.v4.services, plan.v4.backends) = (Arc::new(v4.services), Arc::new(v4.backends));
    (plan.v6.services, plan.v6.backends) = (Arc::new(v6.services), Arc::new(v6.backends));
    plan.names.services = Arc::new(names);
    shortfalls
}

/// The first compilation, and each while not all frontends fit: nothing can be taken over from tables that lack some.
fn compile_all_services(snapshot: &Snapshot, ids: &mut Ids, plan: &mut Plan) -> Vec<Shortfall> {
    ids.service_state.forget();
    (plan.v4.services, plan.v4.backends) = Default::default();
    (plan.v6.services, plan.v6.backends) = Default::default();
    plan.names.services = Arc::default();
    let shortfalls = compile_services(&Snapshot::default(), snapshot, ids, plan);
    let now = ids.now;
    ids.service_state.v4().disown(&plan.names.services, now);
    ids.service_state.v6().disown(&plan.names.services, now);
    shortfalls
}

fn service_order<A: Address>(key: &ServiceKey<A>) -> (A, Port, u8, u8) {
    (key.address, key.port, key.protocol, key.scope)
}

fn family<A: Address>(
    snapshot: &Snapshot,
    addresses: &Addresses,
    policies: &PolicyTables,
    ids: &Ids,
    [peer_table, cidr_table, endpoint_table]: [&'static str; 3],
    plan: &mut FamilyPlan<A>,
    shortfalls: &mut Vec<Shortfall>,
) {
    let (mut peers, mut cidrs, mut endpoints) = (HashMap::new(), HashMap::new(), HashMap::new());
    for (ip, owner) in addresses {
        let (Some(address), Some(class)) = (A::from_ip(*ip), policies.classes.get(ip)) else { continue };
        let (node, flags) = whereabouts(snapshot, owner, ids);
        peers.insert(address, Peer { class: *class, node, flags });
    }
    for prefix in &policies.cidrs {
        let Some(key) = cidr_key::<A>(&prefix.net) else { continue };
        let (node, flags) = prefix_route(snapshot, &prefix.net, prefix.kind, ids);
        // What no prefix matches is WORLD anyway.
        if prefix.net.prefix_len() > 0 || prefix.class != abi::class::WORLD {
            cidrs.insert(key, Peer { class: prefix.class, node, flags });
        }
    }
    for (endpoint, binding) in snapshot.endpoints.iter().zip(&policies.bindings) {
        for address in endpoint.addresses.iter().filter_map(|ip| A::from_ip(*ip)) {
            endpoints.insert(address, entry(endpoint, *binding));
        }
    }
    let limits = ids.limits;
    shortfalls.extend(bound(
        peer_table,
        "the rest are unknown pods to policies",
        limits.peers,
        &mut peers,
        |k| *k,
    ));
    let narrower = "narrower prefixes are treated as the wider ones";
    let by_width = |key: &CidrKey<A>| (key.prefix_len, key.address);
    shortfalls.extend(bound(cidr_table, narrower, limits.peer_cidrs, &mut cidrs, by_width));
    let cut_off = "the rest of this node's pods are cut off";
    shortfalls.extend(bound(endpoint_table, cut_off, limits.endpoints, &mut endpoints, |key| *key));
    (plan.peers, plan.cidrs, plan.endpoints) = (Arc::new(peers), Arc::new(cidrs), Arc::new(endpoints));
}

/// The node index and flags of a peer.
fn whereabouts(snapshot: &Snapshot, owner: &Owner, ids: &Ids) -> (u32, u32) {
    match owner {
        Owner::Node { local: true, .. } => (0, peer_flag::NODE | peer_flag::LOCAL),
        Owner::Node { at, .. } => (ids.nodes.get(&snapshot.nodes[*at].name).unwrap_or(0), peer_flag::NODE),
        Owner::Nameless(_) => (0, peer_flag::LOCAL),
        Owner::Pod(at) if snapshot.pods[*at].node == snapshot.node => (0, peer_flag::LOCAL),
        Owner::Pod(at) => (ids.nodes.get(&snapshot.pods[*at].node).unwrap_or(0), 0),
    }
}

/// The node index and flags of a prefix: what holds for the cluster's prefix that it is inside of.
fn prefix_route(snapshot: &Snapshot, net: &IpNet, kind: Kind, ids: &Ids) -> (u32, u32) {
    if kind == Kind::Unknown {
        let home = snapshot.nodes.iter().find(|node| node.pod_cidrs.iter().any(|cidr| cidr.contains(net)));
        return match home {
            Some(node) if node.name == snapshot.node => (0, peer_flag::POD_CIDR | peer_flag::LOCAL),
            Some(node) => (ids.nodes.get(&node.name).unwrap_or(0), peer_flag::POD_CIDR),
            None => (0, peer_flag::POD_CIDR),
        };
    }
    let service = snapshot.cluster.service_cidrs.iter().any(|cidr| cidr.contains(net));
    (0, if service { peer_flag::SERVICE_CIDR } else { 0 })
}

fn entry(endpoint: &LocalEndpoint, binding: Binding) -> Endpoint {
    let (class, ingress, egress) = match binding {
        Binding::Unknown => (abi::class::UNKNOWN_POD, policy_id::UNSET, policy_id::UNSET),
        Binding::Compiled { class, ingress, egress } => {
            (class, ingress.unwrap_or(policy_id::ALLOW), egress.unwrap_or(policy_id::ALLOW))
        }
    };
    Endpoint {
        ifindex: endpoint.ifindex,
        class,
        egress_policy: egress,
        ingress_policy: ingress,
        mac: Mac::new(endpoint.mac),
        ..Endpoint::default()
    }
}

fn netns(endpoint: &LocalEndpoint) -> PodNetns {
    PodNetns { address4: first(&endpoint.addresses), flags: 0, address6: first(&endpoint.addresses) }
}

fn local(snapshot: &Snapshot) -> Local {
    let Some(node) = snapshot.nodes.iter().find(|node| node.name == snapshot.node) else {
        return Local::default();
    };
    let overlay: Vec<IpAddr> = [false, true].into_iter().filter_map(|v6| node.overlay(v6)).collect();
    Local {
        node4: addresses(&node.addresses),
        node6: addresses(&node.addresses),
        overlay4: first(&overlay),
        overlay6: first(&overlay),
    }
}

fn first<A: Address>(ips: &[IpAddr]) -> A {
    ips.iter().find_map(|ip| A::from_ip(*ip)).unwrap_or_default()
}

fn addresses<A: Address>(ips: &[IpAddr]) -> [A; NODE_ADDRESSES] {
    let mut own = ips.iter().filter_map(|ip| A::from_ip(*ip));
    std::array::from_fn(|_| own.next().unwrap_or_default())
}

/// Puts the verdicts into POLICY, long lists of ranges into slices of POLICY_RANGES.
fn verdicts(policies: &PolicyTables, ids: &mut Ids, plan: &mut Plan, shortfalls: &mut Vec<Shortfall>) {
    let mut slices = BTreeMap::new();
    let mut dropped = 0;
    let mut entries = HashMap::new();
    for verdict in &policies.verdicts {
        let key = PolicyKey { policy: verdict.policy, class: verdict.class };
        let ranges = lower(&verdict.allowed);
        let inline = ranges.len() <= abi::POLICY_INLINE_RANGES;
        let Some(base) = (if inline { Some(0) } else { slice(&ranges, ids, &mut slices) }) else {
            dropped += 1;
            continue;
        };
        entries.insert(key, policy_entry(&verdict.allowed, &ranges, base));
    }
    retire(ids, &slices);
    if dropped > 0 {
        let (wanted, capacity) = (policies.verdicts.len(), policies.verdicts.len() - dropped);
        shortfalls.push(Shortfall { table: "POLICY_RANGES", wanted, capacity, consequence: DENIED });
    }
    // The entries for anyone first: where those are missing a pod is cut off altogether.
    let anyone_first = |key: &PolicyKey| (key.class != abi::class::ANY, key.policy, key.class);
    shortfalls.extend(bound("POLICY", DENIED, ids.limits.policy, &mut entries, anyone_first));
    plan.ranges = Arc::new(slices.into_iter().map(|(items, base)| Slice { base, items }).collect());
    plan.policy = Arc::new(entries);
}

fn lower(allowed: &PortSet) -> Vec<PortRange> {
    let one = |range: &crate::ports::PortRange| PortRange {
        protocol: range.protocol as u8,
        verdict: verdict::ALLOW,
        first: range.first,
        last: range.last,
        rule: range.rule,
    };
    let mut ranges: Vec<PortRange> = allowed.ranges().iter().map(one).collect();
    // More than the datapath searches: the rest is denied, as everything that is not listed.
    ranges.truncate(abi::POLICY_RANGES_PER_ENTRY as usize);
    ranges
}

fn policy_entry(allowed: &PortSet, ranges: &[PortRange], base: u32) -> PolicyEntry {
    let mut entry = PolicyEntry { ranges_base: base, count: ranges.len() as u32, ..PolicyEntry::default() };
    if let Some(rule) = allowed.everything_by() {
        entry.default_verdict = verdict::ALLOW;
        entry.rule_base = u32::from(rule);
    }
    if ranges.len() <= abi::POLICY_INLINE_RANGES {
        entry.ranges[..ranges.len()].copy_from_slice(ranges);
    }
    entry
}

/// The slots of a list of ranges: equal lists share them.
fn slice(ranges: &[PortRange], ids: &mut Ids, slices: &mut BTreeMap<Arc<[PortRange]>, u32>) -> Option<u32> {
    if let Some(base) = slices.get(ranges) {
        return Some(*base);
    }
    let base = match ids.range_slices.get(ranges) {
        Some(base) => *base,
        None => ids.ranges.take(ranges.len() as u32)?,
    };
    let items: Arc<[PortRange]> = ranges.into();
    ids.range_slices.insert(Arc::clone(&items), base);
    slices.insert(items, base);
    Some(base)
}

fn retire(ids: &mut Ids, live: &BTreeMap<Arc<[PortRange]>, u32>) {
    let Ids { ranges, range_slices, now, .. } = ids;
    range_slices.retain(|items, base| {
        let keep = live.contains_key(items);
        if !keep {
            ranges.release(*base, items.len() as u32, *now);
        }
        keep
    });
}

// === impl Last ===

impl Last {
    /// Before the first compilation: equal to no snapshot.
    fn nothing() -> Box<Self> {
        Box::new(Last {
            snapshot: Snapshot::default(),
            plan: Plan::default(),
            shortfalls: [Vec::new(), Vec::new()],
            leaving: true,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        Limits, Selector,
        snapshot::{NetworkPolicy, Peer, Rule},
        testing,
    };

    #[test]
    fn a_full_policy_table_denies_and_says_so() {
        let mut snapshot = testing::snapshot();
        let names = ["a", "b", "c"];
        let address = |at: usize| format!("10.244.0.{}", at + 5);
        snapshot.pods = (0..3).map(|at| Arc::new(testing::pod(names[at], &address(at)))).collect();
        snapshot.endpoints =
            (0..3).map(|at| Arc::new(testing::endpoint(names[at], &address(at), at as u32 + 7))).collect();
        let rule =
            |name: &str| Rule { peers: vec![Peer::Pods(Selector::equals([("app", name)]))], ports: vec![] };
        snapshot.policies = vec![Arc::new(NetworkPolicy {
            namespace: "default".into(),
            name: "few".into(),
            pods: Selector::everything(),
            ingress: Some(vec![rule("a"), rule("b")]),
            egress: None,
        })];
        let plan = compile(&snapshot, &mut Ids::new(Limits { policy: 2, ..Limits::default() }));
        assert_eq!(plan.policy.len(), 2);
        assert!(
            plan.policy.keys().any(|key| key.class == abi::class::ANY),
            "nobody is left without a verdict"
        );
        assert_eq!((plan.shortfalls.len(), plan.shortfalls[0].table), (1, "POLICY"));
        let text = plan.shortfalls[0].to_string();
        assert!(text.contains("2 entries but 4 are needed: what is missing is denied; raise"), "{text}");
    }
}
