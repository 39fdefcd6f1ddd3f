//! Compiled policy against an independent, slow, obvious evaluation of NetworkPolicy, over random clusters: the verdict that
//! the datapath would find in the maps must be the one that the objects say, at rest and at every step of a change.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod kernel;
mod oracle;

use std::{net::IpAddr, sync::Arc};

use ipnet::IpNet;
use kernel::Kernel;
use netplan::{
    Demand, GRACE, Ids, Labels, Limits, Selector, Snapshot, compile,
    snapshot::{
        LocalEndpoint, NamedPort, Namespace, NetworkPolicy, Peer, Pod, PolicyPort, PortMatch, Protocol, Rule,
    },
    testing,
};
use proptest::prelude::*;

const NAMESPACES: [&str; 2] = ["shop", "tools"];
const APPS: [&str; 3] = ["web", "api", "db"];

/// Ports that rules and probes are drawn from, so that they meet.
const PORTS: [u16; 6] = [0, 53, 80, 81, 8080, 65535];

/// Addresses that are no pod's: outside, in and out of the blocks below, and unknown inside the pod CIDR.
const OTHERS: [&str; 6] =
    ["192.0.2.1", "192.0.2.200", "198.51.100.7", "10.244.0.250", "10.244.1.250", "192.168.0.2"];

const BLOCKS: [&str; 6] =
    ["0.0.0.0/0", "192.0.2.0/24", "192.0.2.128/25", "10.244.0.0/16", "10.244.0.0/30", "192.168.0.0/24"];

fn selector() -> impl Strategy<Value = Selector> {
    let key = prop_oneof![Just("app"), Just("tier")];
    let values = proptest::collection::vec(proptest::sample::select(&APPS[..]).prop_map(String::from), 0..3);
    let demand = prop_oneof![
        values.clone().prop_map(Demand::In),
        values.prop_map(Demand::NotIn),
        Just(Demand::Exists),
        Just(Demand::Absent),
    ];
    proptest::collection::vec((key.prop_map(String::from), demand), 0..3).prop_map(Selector::new)
}

fn labels() -> impl Strategy<Value = Labels> {
    let app = proptest::option::of(proptest::sample::select(&APPS[..]));
    (app.clone(), app).prop_map(|(app, tier)| {
        Labels::new(app.map(|app| ("app", app)).into_iter().chain(tier.map(|tier| ("tier", tier))))
    })
}

fn net() -> impl Strategy<Value = IpNet> {
    proptest::sample::select(&BLOCKS[..]).prop_map(|text| text.parse().unwrap())
}

fn peer() -> impl Strategy<Value = Peer> {
    prop_oneof![
        selector().prop_map(Peer::Pods),
        (selector(), selector()).prop_map(|(namespaces, pods)| Peer::PodsIn(namespaces, pods)),
        (net(), proptest::collection::vec(net(), 0..2)).prop_map(|(net, except)| Peer::Block(net, except)),
    ]
}

fn protocol() -> impl Strategy<Value = Protocol> {
    prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp), Just(Protocol::Sctp)]
}

fn port() -> impl Strategy<Value = PolicyPort> {
    let number = || proptest::sample::select(&PORTS[..]);
    let ports = prop_oneof![
        Just(PortMatch::All),
        (number(), number()).prop_map(|(one, two)| PortMatch::Range(one.min(two), one.max(two))),
        Just(PortMatch::Named("http".into())),
        Just(PortMatch::Named("dns".into())),
    ];
    (protocol(), ports).prop_map(|(protocol, ports)| PolicyPort { protocol, ports })
}

fn rules() -> impl Strategy<Value = Option<Vec<Rule>>> {
    // Ten ports in one rule overflow the ranges that an entry holds itself.
    let ports = prop_oneof![4 => proptest::collection::vec(port(), 0..3), 1 => many_ports()];
    let rule =
        (proptest::collection::vec(peer(), 0..3), ports).prop_map(|(peers, ports)| Rule { peers, ports });
    proptest::option::weighted(0.7, proptest::collection::vec(rule, 0..3))
}

fn many_ports() -> impl Strategy<Value = Vec<PolicyPort>> {
    Just(
        (0..10)
            .map(|i| PolicyPort { protocol: Protocol::Tcp, ports: PortMatch::Range(i * 100, i * 100 + 50) })
            .collect(),
    )
}

fn policies() -> impl Strategy<Value = Vec<Arc<NetworkPolicy>>> {
    let policy = (proptest::sample::select(&NAMESPACES[..]), selector(), rules(), rules());
    proptest::collection::vec(policy, 0..5).prop_map(|policies| {
        let one = |(i, (namespace, pods, ingress, egress)): (usize, (&str, _, _, _))| {
            Arc::new(NetworkPolicy {
                namespace: namespace.into(),
                name: format!("p{i}").into(),
                pods,
                ingress,
                egress,
            })
        };
        policies.into_iter().enumerate().map(one).collect()
    })
}

fn named_ports() -> impl Strategy<Value = Vec<NamedPort>> {
    let number = || proptest::option::of(proptest::sample::select(&PORTS[1..]));
    (number(), number()).prop_map(|(http, dns)| {
        let named = |name: &str, protocol, port: Option<u16>| {
            port.map(|port| NamedPort { name: name.into(), protocol, port })
        };
        named("http", Protocol::Tcp, http).into_iter().chain(named("dns", Protocol::Udp, dns)).collect()
    })
}

/// Pods: the first half on this node, the rest on the other.
fn pods() -> impl Strategy<Value = Vec<Arc<Pod>>> {
    let pod = (proptest::sample::select(&NAMESPACES[..]), labels(), named_ports(), any::<bool>());
    proptest::collection::vec(pod, 1..7).prop_map(|pods| {
        let one = |(i, (namespace, labels, ports, local)): (usize, (&str, _, _, bool))| {
            Arc::new(Pod {
                namespace: namespace.into(),
                name: format!("pod-{i}").into(),
                uid: format!("uid-{i}").into(),
                labels,
                addresses: vec![IpAddr::from([10, 244, u8::from(!local), i as u8 + 2])],
                node: if local { "one".into() } else { "two".into() },
                host_network: false,
                ports,
            })
        };
        pods.into_iter().enumerate().map(one).collect()
    })
}

fn namespaces() -> impl Strategy<Value = Vec<Arc<Namespace>>> {
    [labels(), labels()].prop_map(|labels| {
        let one = |(name, labels): (&&str, Labels)| Arc::new(Namespace { name: (*name).into(), labels });
        NAMESPACES.iter().zip(labels).map(one).collect()
    })
}

fn cluster() -> impl Strategy<Value = Snapshot> {
    (policies(), pods(), namespaces()).prop_map(|(policies, pods, namespaces)| {
        let local = pods.iter().filter(|pod| &*pod.node == "one");
        let endpoint = |pod: &Arc<Pod>| {
            let ifindex = u32::from(pod.addresses[0].to_canonical().to_string().len() as u16) + 100;
            Arc::new(LocalEndpoint {
                namespace: pod.namespace.clone(),
                name: pod.name.clone(),
                uid: pod.uid.clone(),
                ..testing::endpoint("x", &pod.addresses[0].to_string(), ifindex)
            })
        };
        Snapshot {
            endpoints: local.map(endpoint).collect(),
            policies,
            pods,
            namespaces,
            ..testing::snapshot()
        }
    })
}

/// Every (pod of this node, other end) pair, both ways.
fn pairs(snapshot: &Snapshot) -> Vec<(IpAddr, IpAddr)> {
    let others = OTHERS
        .iter()
        .map(|text| testing::ip(text))
        .chain([testing::ip("192.168.0.1"), testing::ip("10.244.0.1")]);
    let everyone: Vec<IpAddr> = snapshot.pods.iter().map(|pod| pod.addresses[0]).chain(others).collect();
    let local: Vec<IpAddr> = snapshot.endpoints.iter().map(|endpoint| endpoint.addresses[0]).collect();
    local
        .iter()
        .flat_map(|pod| everyone.iter().filter(move |other| *other != pod).map(move |other| (*pod, *other)))
        .collect()
}

fn check(snapshot: &Snapshot, kernel: &Kernel) -> Result<(), TestCaseError> {
    for (pod, other) in pairs(snapshot) {
        for (protocol, port) in probes() {
            for (from, to) in [(pod, other), (other, pod)] {
                let expect = oracle::allowed(snapshot, from, to, protocol, port);
                let found = kernel.allowed(from, to, protocol, port);
                prop_assert_eq!(found, expect, "{} -> {} {:?} {}", from, to, protocol, port);
            }
        }
    }
    Ok(())
}

fn probes() -> impl Iterator<Item = (Option<Protocol>, u16)> + Clone {
    // None: ICMP, which only rules without ports admit.
    let protocols = [Some(Protocol::Tcp), Some(Protocol::Udp), Some(Protocol::Sctp), None];
    protocols
        .into_iter()
        .flat_map(|protocol| PORTS.into_iter().chain([120, 160]).map(move |port| (protocol, port)))
}

/// There are hundreds of steps: each asks about some ports only, of every protocol.
const PROBES_BETWEEN_STEP: usize = 5;

/// Between two snapshots a verdict may be either one's, but never one that neither has.
fn check_between(
    before: &Snapshot,
    after: &Snapshot,
    kernel: &Kernel,
    step: &str,
) -> Result<(), TestCaseError> {
    for (pod, other) in pairs(after) {
        for (protocol, port) in probes().step_by(PROBES_BETWEEN_STEP) {
            for (from, to) in [(pod, other), (other, pod)] {
                let old = oracle::allowed(before, from, to, protocol, port);
                let new = oracle::allowed(after, from, to, protocol, port);
                let now = kernel.allowed(from, to, protocol, port);
                // The two ends change one after the other: each for itself.
                let fits = |end: usize| now[end] == old[end] || now[end] == new[end];
                prop_assert!(fits(0) && fits(1), "{step}: {from} -> {to} {protocol:?} {port} is {now:?}");
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn maps_say_what_policies_say(snapshot in cluster()) {
        let plan = compile(&snapshot, &mut Ids::new(Limits::default()));
        let mut kernel = Kernel::default();
        kernel.become_plan(&plan, |_, _| Ok::<(), TestCaseError>(()))?;
        check(&snapshot, &kernel)?;
    }

    #[test]
    fn another_process_computes_the_same(snapshot in cluster()) {
        same(&snapshot)?;
    }
}

proptest! {
    // Each case walks through hundreds of states of the maps.
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    #[test]
    fn no_step_of_a_change_is_wrong(first in cluster(), changes in proptest::collection::vec((policies(), namespaces()), 1..4)) {
        let mut ids = Ids::new(Limits::default());
        let mut kernel = Kernel::default();
        let mut snapshot = first;
        kernel.become_plan(&compile(&snapshot, &mut ids), |_, _| Ok::<(), TestCaseError>(()))?;
        for (i, (policies, namespaces)) in changes.into_iter().enumerate() {
            // Labels of namespaces and policies change apart: at one instant one object does.
            let mut relabelled = snapshot.clone();
            relabelled.namespaces = namespaces;
            let mut after = relabelled.clone();
            after.policies = policies;
            for next in [relabelled, after] {
                let plan = compile(&next, &mut ids);
                kernel.become_plan(&plan, |kernel, step| check_between(&snapshot, &next, kernel, step))?;
                check(&next, &kernel)?;
                snapshot = next;
            }
            ids.set_now(GRACE * (i as u32 + 1) * 2);
            let settled = compile(&snapshot, &mut ids);
            kernel.become_plan(&settled, |kernel, step| check_between(&snapshot, &snapshot, kernel, step))?;
            check(&snapshot, &kernel)?;
        }
    }
}

fn same(snapshot: &Snapshot) -> Result<(), TestCaseError> {
    let one = compile(snapshot, &mut Ids::new(Limits::default()));
    let mut reordered = snapshot.clone();
    reordered.policies.reverse();
    reordered.pods.reverse();
    let two = compile(&reordered, &mut Ids::new(Limits::default()));
    prop_assert_eq!(&one.v4.peers, &two.v4.peers);
    prop_assert_eq!(&one.v4.cidrs, &two.v4.cidrs);
    let ids = |plan: &netplan::Plan| {
        let mut keys: Vec<_> = plan.policy.keys().map(|key| (key.policy, key.class)).collect();
        keys.sort_unstable();
        keys
    };
    prop_assert_eq!(ids(&one), ids(&two));
    Ok(())
}
