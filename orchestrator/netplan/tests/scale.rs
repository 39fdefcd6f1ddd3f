//! Times of the compilers at the sizes that the project promises; run with `--release -- --ignored --nocapture`.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use netplan::{
    Ids, Labels, Limits, Plan, Selector, Snapshot, compile,
    snapshot::{
        Backend, EndpointSlice, LocalEndpoint, NetworkPolicy, Peer, Pod, PolicyPort, PortMatch, Protocol,
        Rule, Service, ServicePort, SlicePort,
    },
    testing,
};

fn timed(what: &str, limit: Duration, snapshot: &Snapshot, ids: &mut Ids) -> Plan {
    let started = Instant::now();
    let plan = compile(snapshot, ids);
    let took = started.elapsed();
    println!("{what}: {took:?}");
    assert!(plan.shortfalls.is_empty(), "{:?}", plan.shortfalls);
    // Unoptimised builds are for correctness.
    assert!(cfg!(debug_assertions) || took < limit, "{what} took {took:?}, more than {limit:?}");
    plan
}

fn pod(number: u32, local: bool) -> Arc<Pod> {
    let [_, _, third, fourth] = (number + 2).to_be_bytes();
    Arc::new(Pod {
        name: format!("pod-{number}").into(),
        uid: format!("uid-{number}").into(),
        labels: Labels::new([("app", format!("app-{}", number % 250)), ("tier", format!("{}", number % 7))]),
        addresses: vec![IpAddr::from([10, 244, third, fourth])],
        node: if local { "one" } else { "two" }.into(),
        ..testing::pod("x", "10.0.0.1")
    })
}

fn endpoint(pod: &Pod, ifindex: u32) -> Arc<LocalEndpoint> {
    let address = pod.addresses[0].to_string();
    Arc::new(LocalEndpoint { uid: pod.uid.clone(), ..testing::endpoint("x", &address, ifindex) })
}

fn policy(number: u32, ports: u16) -> Arc<NetworkPolicy> {
    let app = |number: u32| Selector::equals([("app", format!("app-{}", number % 250))]);
    let port = |port| PolicyPort { protocol: Protocol::Tcp, ports: PortMatch::Range(port, port) };
    let rule = |peer: u32| Rule {
        peers: vec![
            Peer::Pods(app(peer)),
            Peer::Block(format!("192.0.{}.0/24", peer % 250).parse().unwrap(), vec![]),
        ],
        ports: (0..ports).map(|p| port(8000 + 2 * p)).collect(),
    };
    Arc::new(NetworkPolicy {
        namespace: "default".into(),
        name: format!("policy-{number}").into(),
        pods: app(number),
        ingress: Some(vec![rule(number + 1), rule(number + 2)]),
        egress: Some(vec![rule(number + 3)]),
    })
}

#[test]
#[ignore = "measures; see the head of the file"]
fn two_hundred_fifty_policies_over_a_full_node() {
    let mut snapshot = testing::snapshot();
    snapshot.pods = (0..10_000).map(|number| pod(number, number < 110)).collect();
    snapshot.endpoints =
        (0..110).map(|number| endpoint(&snapshot.pods[number as usize], number + 10)).collect();
    snapshot.policies = (0..250).map(|number| policy(number, 3)).collect();
    let mut ids = Ids::new(Limits::default());
    let second = Duration::from_secs(1);
    let plan = timed("250 policies, 110 pods here, 10,000 in all", second, &snapshot, &mut ids);
    println!("POLICY holds {} entries", plan.policy.len());
    snapshot.policies[0] = policy(0, 4);
    timed("one policy changed", second, &snapshot, &mut ids);
    snapshot.pods.push(pod(10_001, false));
    timed("one pod more", Duration::from_millis(100), &snapshot, &mut ids);
}

#[test]
#[ignore = "measures; see the head of the file"]
fn many_rules_on_one_pod() {
    let mut snapshot = testing::snapshot();
    snapshot.pods = (0..1000).map(|number| pod(number, number == 0)).collect();
    snapshot.endpoints = vec![endpoint(&snapshot.pods[0], 10)];
    let rules = (0..12_500u32).map(|i| Rule {
        peers: vec![Peer::Block(format!("100.{}.{}.0/24", i / 250, i % 250).parse().unwrap(), vec![])],
        ports: vec![PolicyPort { protocol: Protocol::Tcp, ports: PortMatch::Range(80, 80) }],
    });
    let base = policy(0, 1);
    snapshot.policies = vec![Arc::new(NetworkPolicy { ingress: Some(rules.collect()), ..(*base).clone() })];
    let mut ids = Ids::new(Limits::default());
    timed("12,500 rules on one pod", Duration::from_secs(2), &snapshot, &mut ids);
}

fn service(number: u32) -> Arc<Service> {
    let [_, second, third, fourth] = (number + 10).to_be_bytes();
    Arc::new(Service {
        namespace: "default".into(),
        name: format!("service-{number}").into(),
        cluster_ips: vec![IpAddr::from([10, 96 + second, third, fourth])],
        external_ips: vec![],
        ports: vec![ServicePort { name: "".into(), protocol: Protocol::Tcp, port: 80, node_port: None }],
        affinity_s: None,
        internal_local: false,
        external_local: false,
    })
}

fn slice(number: u32, endpoints: u32) -> Arc<EndpointSlice> {
    let backend = |i: u32| {
        let [_, _, third, fourth] = (number * endpoints + i).to_be_bytes();
        Backend {
            address: IpAddr::from([10, 244, third, fourth]),
            node: Some("two".into()),
            ready: true,
            serving: true,
            terminating: false,
        }
    };
    Arc::new(EndpointSlice {
        namespace: "default".into(),
        name: format!("slice-{number}").into(),
        service: format!("service-{number}").into(),
        ports: vec![SlicePort { name: "".into(), protocol: Protocol::Tcp, port: 8080 }],
        endpoints: (0..endpoints).map(backend).collect(),
    })
}

fn services(count: u32, endpoints: u32) -> Snapshot {
    let mut snapshot = testing::snapshot();
    snapshot.services = (0..count).map(service).collect();
    snapshot.slices = (0..count).map(|number| slice(number, endpoints)).collect();
    snapshot
}

#[test]
#[ignore = "measures; see the head of the file"]
fn one_service_more() {
    let mut ids = Ids::new(Limits::default());
    let mut snapshot = services(10_000, 4);
    timed("10,000 services at first", Duration::from_secs(1), &snapshot, &mut ids);
    snapshot.services.push(service(10_001));
    snapshot.slices.push(slice(10_001, 4));
    timed("one more of 10,000 services", Duration::from_millis(10), &snapshot, &mut ids);
    let mut ids = Ids::new(Limits::default());
    timed("5,000 services with 50 endpoints", Duration::from_secs(5), &services(5000, 50), &mut ids);
}
