//! From a snapshot to a plan: asks each compiler and puts their answers into the kernel's types.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::Arc,
};

use abi::{
    Endpoint, Mac, NODE_ADDRESSES, Peer, PodNetns, PolicyEntry, PolicyKey, PortRange, peer_flag, policy_id,
    verdict,
};
use ipnet::IpNet;

use crate::{
    family::{Address, cidr_key},
    host,
    ids::Ids,
    names::Names,
    peers::{self, Addresses, Owner},
    plan::{FamilyPlan, Local, Plan, Shortfall, Slice},
    policy::{self, Binding, Kind, PolicyTables},
    ports::PortSet,
    services,
    snapshot::{LocalEndpoint, Snapshot},
};

/// What a pod without a verdict meets, in the words of a shortfall.
const DENIED: &str = "what is missing is denied";

/// Computes what the kernel must hold for `snapshot`. `ids` must be the same from one call to the next.
pub fn compile(snapshot: &Snapshot, ids: &mut Ids) -> Plan {
    let mut plan = Plan { revision: snapshot.revision, ..Plan::default() };
    let capacity = ids.limits.nodes;
    let (nodes, homeless) = ids.nodes.compile(snapshot, capacity);
    plan.nodes = nodes;
    if homeless > 0 {
        let (wanted, capacity) = (plan.nodes.len() + homeless, capacity as usize);
        let consequence = "pods of the other nodes cannot be reached";
        plan.shortfalls.push(Shortfall { table: "NODES", wanted, capacity, consequence });
    }
    let addresses = peers::addresses(snapshot);
    let policies = policy::compile(snapshot, &addresses, ids);
    let mut v4 = family::<abi::Addr4>(snapshot, &addresses, &policies, ids);
    let mut v6 = family::<abi::Addr6>(snapshot, &addresses, &policies, ids);
    plan.netns = snapshot.endpoints.iter().map(|endpoint| (endpoint.netns_cookie, netns(endpoint))).collect();
    verdicts(&policies, ids, &mut plan);

    let services = services::compile(snapshot, ids, &mut v4, &mut v6);
    plan.shortfalls.extend(services.shortfalls);
    plan.local = local(snapshot);
    plan.host = host::compile(snapshot);
    plan.unsettled = policies.unsettled | services.unsettled | ids.ranges.settle(ids.now);
    plan.names = Arc::new(Names { policies: policies.subjects, services: services.names });
    bound(&mut plan, ids, &mut v4, ["PEERS4", "PEER_CIDRS4", "ENDPOINTS4", "SERVICES4"]);
    bound(&mut plan, ids, &mut v6, ["PEERS6", "PEER_CIDRS6", "ENDPOINTS6", "SERVICES6"]);
    (plan.v4, plan.v6) = (v4, v6);
    plan
}

fn family<A: Address>(
    snapshot: &Snapshot,
    addresses: &Addresses,
    policies: &PolicyTables,
    ids: &Ids,
) -> FamilyPlan<A> {
    let mut plan = FamilyPlan::default();
    for (ip, owner) in addresses {
        let (Some(address), Some(class)) = (A::from_ip(*ip), policies.classes.get(ip)) else { continue };
        let (node, flags) = whereabouts(snapshot, owner, ids);
        plan.peers.insert(address, Peer { class: *class, node, flags });
    }
    for prefix in &policies.cidrs {
        let Some(key) = cidr_key::<A>(&prefix.net) else { continue };
        let (node, flags) = prefix_route(snapshot, &prefix.net, prefix.kind, ids);
        // What no prefix matches is WORLD anyway.
        if prefix.net.prefix_len() > 0 || prefix.class != abi::class::WORLD {
            plan.cidrs.insert(key, Peer { class: prefix.class, node, flags });
        }
    }
    for (endpoint, binding) in snapshot.endpoints.iter().zip(&policies.bindings) {
        for address in endpoint.addresses.iter().filter_map(|ip| A::from_ip(*ip)) {
            plan.endpoints.insert(address, entry(endpoint, *binding));
        }
    }
    plan
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
fn verdicts(policies: &PolicyTables, ids: &mut Ids, plan: &mut Plan) {
    let mut slices = BTreeMap::new();
    let mut dropped = 0;
    let mut entries = HashMap::new();
    for verdict in &policies.verdicts {
        let key = PolicyKey { policy: verdict.policy, class: verdict.class };
        let ranges = lower(&verdict.allowed);
        let base = if ranges.len() > abi::POLICY_INLINE_RANGES {
            match slice(&ranges, ids, &mut slices) {
                Some(base) => base,
                None => {
                    dropped += 1;
                    continue;
                }
            }
        } else {
            0
        };
        entries.insert(key, policy_entry(&verdict.allowed, &ranges, base));
    }
    retire(ids, &slices);
    if dropped > 0 {
        let (wanted, capacity) = (policies.verdicts.len(), policies.verdicts.len() - dropped);
        plan.shortfalls.push(Shortfall { table: "POLICY_RANGES", wanted, capacity, consequence: DENIED });
    }
    plan.ranges = slices.into_iter().map(|(items, base)| Slice { base, items }).collect();
    // The entries for anyone first: where those are missing a pod is cut off altogether.
    let anyone_first = |key: &PolicyKey| (key.class != abi::class::ANY, key.policy, key.class);
    plan.bound("POLICY", DENIED, ids.limits.policy, &mut entries, anyone_first);
    plan.policy = entries;
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

fn bound<A: Address>(plan: &mut Plan, ids: &Ids, family: &mut FamilyPlan<A>, tables: [&'static str; 4]) {
    let [peers, cidrs, endpoints, services] = tables;
    let limits = ids.limits;
    let FamilyPlan {
        peers: all_peers,
        cidrs: all_cidrs,
        endpoints: all_endpoints,
        services: all_services,
        ..
    } = family;
    plan.bound(peers, "the rest are unknown pods to policies", limits.peers, all_peers, |key| *key);
    plan.bound(
        cidrs,
        "narrower prefixes are treated as the wider ones",
        limits.peer_cidrs,
        all_cidrs,
        |key| (key.prefix_len, key.address),
    );
    plan.bound(
        endpoints,
        "the rest of this node's pods are cut off",
        limits.endpoints,
        all_endpoints,
        |key| *key,
    );
    plan.bound(services, "the rest do not answer", limits.services, all_services, |key| {
        (key.address, key.port, key.protocol, key.scope)
    });
}
