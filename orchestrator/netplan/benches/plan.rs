//! Times of the compilers at the sizes that the project promises; `cargo xtask bench plan`.
#![allow(clippy::unwrap_used, reason = "a bench that cannot go on fails")]

use std::{net::IpAddr, sync::Arc, time::Instant};

use netplan::{
    Ids, Labels, Limits, Selector, Snapshot, compile,
    snapshot::{
        Backend, EndpointSlice, LocalEndpoint, NetworkPolicy, Peer, Pod, PolicyPort, PortMatch, Protocol,
        Rule, Service, ServicePort, SlicePort,
    },
    testing,
};
use rig::figures::{Bar, Figures, ms};

const RUNS: usize = 3;

/// Milliseconds of each step of a run, and the bar.
type Steps = Vec<(&'static str, f64, f64)>;

fn main() {
    let mut figures = Figures::begin("plan", "from a snapshot to the contents of the maps");
    for scale in [full_node, many_rules_on_one_pod, one_service_more] {
        let runs: Vec<Steps> = (0..RUNS).map(|_| scale()).collect();
        for (step, (name, _, bar)) in runs[0].iter().enumerate() {
            let samples: Vec<f64> = runs.iter().map(|run| run[step].1).collect();
            figures.add(name, "ms", &samples, Bar::AtMost(*bar));
        }
    }
    figures.finish().expect("the figures can be written");
}

fn timed(name: &'static str, bar: f64, snapshot: &Snapshot, ids: &mut Ids) -> (&'static str, f64, f64) {
    let started = Instant::now();
    let plan = compile(snapshot, ids);
    let took = started.elapsed();
    assert!(plan.shortfalls.is_empty(), "{:?}", plan.shortfalls);
    (name, ms(took), bar)
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

fn full_node() -> Steps {
    let mut snapshot = testing::snapshot();
    snapshot.pods = (0..10_000).map(|number| pod(number, number < 110)).collect();
    snapshot.endpoints =
        (0..110).map(|number| endpoint(&snapshot.pods[number as usize], number + 10)).collect();
    snapshot.policies = (0..250).map(|number| policy(number, 3)).collect();
    let mut ids = Ids::new(Limits::default());
    let first = timed("250 policies, 110 of 10,000 pods here", 1000.0, &snapshot, &mut ids);
    snapshot.policies[0] = policy(0, 4);
    let changed = timed("one of 250 policies changed", 1000.0, &snapshot, &mut ids);
    snapshot.pods.push(pod(10_001, false));
    vec![first, changed, timed("one more of 10,000 pods", 100.0, &snapshot, &mut ids)]
}

fn many_rules_on_one_pod() -> Steps {
    let mut snapshot = testing::snapshot();
    snapshot.pods = (0..1000).map(|number| pod(number, number == 0)).collect();
    snapshot.endpoints = vec![endpoint(&snapshot.pods[0], 10)];
    let rules = (0..12_500u32).map(|i| Rule {
        peers: vec![Peer::Block(format!("100.{}.{}.0/24", i / 250, i % 250).parse().unwrap(), vec![])],
        ports: vec![PolicyPort { protocol: Protocol::Tcp, ports: PortMatch::Range(80, 80) }],
    });
    let base = policy(0, 1);
    snapshot.policies = vec![Arc::new(NetworkPolicy { ingress: Some(rules.collect()), ..(*base).clone() })];
    vec![timed("12,500 rules on one pod", 2000.0, &snapshot, &mut Ids::new(Limits::default()))]
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

fn one_service_more() -> Steps {
    let mut ids = Ids::new(Limits::default());
    let mut snapshot = services(10_000, 4);
    let first = timed("10,000 services at first", 1000.0, &snapshot, &mut ids);
    snapshot.services.push(service(10_001));
    snapshot.slices.push(slice(10_001, 4));
    let more = timed("one more of 10,000 services", 10.0, &snapshot, &mut ids);
    let mut ids = Ids::new(Limits::default());
    let cold = timed("5,000 services with 50 endpoints", 5000.0, &services(5000, 50), &mut ids);
    vec![first, more, cold]
}
