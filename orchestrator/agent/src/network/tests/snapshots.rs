//! API objects in, netplan's snapshot out.

use std::{net::IpAddr, sync::Arc};

use netplan::{
    Snapshot,
    snapshot::{Peer, PortMatch, Protocol},
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::super::{
    cache::{Cache, Cached},
    objects::{EndpointSlice, Namespace, NetworkPolicy, Node, Pod, Service},
};

fn read<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn pod(name: &str, ip: &str, extra: Value) -> Pod {
    let mut pod = json!({
        "metadata": { "name": name, "namespace": "shop", "uid": format!("uid-{name}"), "labels": { "app": name },
                      "annotations": { "long": "text" } },
        "spec": { "nodeName": "two", "containers": [{ "ports": [{ "name": "http", "containerPort": 8080 }] }] },
        "status": { "phase": "Running", "podIP": ip, "podIPs": [{ "ip": ip }] },
    });
    merge(&mut pod, extra);
    read(pod)
}

fn merge(into: &mut Value, extra: Value) {
    match (into, extra) {
        (Value::Object(into), Value::Object(extra)) => {
            extra.into_iter().for_each(|(key, value)| merge(into.entry(key).or_insert(Value::Null), value));
        }
        (into, extra) => *into = extra,
    }
}

fn slice(addresses: &[&str]) -> EndpointSlice {
    let endpoints: Vec<Value> = addresses
        .iter()
        .map(|address| json!({ "addresses": [address], "conditions": { "ready": true }, "nodeName": "two" }))
        .collect();
    read(json!({
        "metadata": { "name": "web-1", "namespace": "shop", "labels": { "kubernetes.io/service-name": "web" } },
        "addressType": "IPv4",
        "endpoints": endpoints,
        "ports": [{ "name": "http", "port": 8080 }],
    }))
}

fn snapshot(cache: &mut Cache) -> Snapshot {
    cache.snapshot(&"one".into(), &netplan::testing::snapshot().cluster, 7)
}

fn put<T: Cached>(cache: &mut Cache, object: T) -> bool {
    T::upsert(&Arc::new(object), cache)
}

#[test]
fn a_terminating_pod_leaves_its_service_before_the_slice_says_so() {
    let mut cache = Cache::default();
    put(&mut cache, slice(&["10.244.1.5", "10.244.1.6", "192.0.2.1"]));
    let known = |cache: &mut Cache| -> Vec<(String, bool, bool)> {
        let snapshot = snapshot(cache);
        let one = |b: &netplan::snapshot::Backend| (b.address.to_string(), b.ready, b.terminating);
        snapshot.slices[0].endpoints.iter().map(one).collect()
    };
    assert_eq!(known(&mut cache), [("192.0.2.1".into(), true, false)], "unknown pods are not used yet");
    put(&mut cache, pod("web", "10.244.1.5", json!({})));
    assert_eq!(known(&mut cache)[0], ("10.244.1.5".into(), true, false));
    let leaving =
        pod("web", "10.244.1.5", json!({ "metadata": { "deletionTimestamp": "2026-01-02T03:04:05Z" } }));
    assert!(put(&mut cache, leaving.clone()));
    assert_eq!(known(&mut cache)[0], ("10.244.1.5".into(), false, true));
    leaving.delete(&mut cache);
    assert_eq!(known(&mut cache).len(), 1);
}

#[test]
fn what_does_not_concern_the_network_is_no_change() {
    let mut cache = Cache::default();
    let web = pod("web", "10.244.1.5", json!({}));
    assert!(web.metadata.annotations.is_empty() && web.metadata.labels.is_empty(), "memory is a feature");
    assert!(put(&mut cache, web));
    assert!(!put(&mut cache, pod("web", "10.244.1.5", json!({ "metadata": { "resourceVersion": "9" } }))));
    assert!(put(&mut cache, pod("web", "10.244.1.5", json!({ "metadata": { "labels": { "x": "y" } } }))));
    let over = pod("web", "10.244.1.5", json!({ "status": { "phase": "Succeeded" } }));
    assert!(put(&mut cache, over));
    assert!(snapshot(&mut cache).pods.is_empty(), "a pod that is over has no address");
}

#[test]
fn services_nodes_and_namespaces_are_read_as_kubernetes_means_them() {
    let mut cache = Cache::default();
    put::<Service>(
        &mut cache,
        read(json!({
            "metadata": { "name": "web", "namespace": "shop" },
            "spec": {
                "clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7"], "externalIPs": null,
                "ports": [{ "name": "http", "protocol": "TCP", "port": 80, "targetPort": "http", "nodePort": 30080 },
                          { "name": "dns", "protocol": "UDP", "port": 53 }],
                "sessionAffinity": "ClientIP", "externalTrafficPolicy": "Local",
            },
            "status": { "loadBalancer": { "ingress": [{ "ip": "192.0.2.9" }] } },
        })),
    );
    put::<Service>(
        &mut cache,
        read(json!({ "metadata": { "name": "headless", "namespace": "shop" },
        "spec": { "clusterIP": "None", "clusterIPs": ["None"] } })),
    );
    put::<Node>(
        &mut cache,
        read(json!({ "metadata": { "name": "one" }, "spec": { "podCIDR": "10.244.0.0/24" },
        "status": { "addresses": [{ "type": "Hostname", "address": "one" },
                                  { "type": "InternalIP", "address": "192.168.0.1" }] } })),
    );
    put::<Namespace>(&mut cache, read(json!({ "metadata": { "name": "shop", "labels": { "team": "a" } } })));
    let snapshot = snapshot(&mut cache);
    let service = |name: &str| snapshot.services.iter().find(|service| &*service.name == name).unwrap();
    let web = service("web");
    assert_eq!((web.affinity_s, web.external_local, web.internal_local), (Some(10_800), true, false));
    assert_eq!(web.external_ips, ["192.0.2.9".parse::<IpAddr>().unwrap()]);
    assert_eq!((web.ports[0].node_port, web.ports[1].protocol), (Some(30080), Protocol::Udp));
    assert!(service("headless").cluster_ips.is_empty());
    assert_eq!(snapshot.nodes[0].addresses.len(), 1);
    assert_eq!(snapshot.nodes[0].pod_cidrs, ["10.244.0.0/24".parse().unwrap()]);
    assert_eq!(snapshot.namespaces[0].labels.get("team"), Some("a"));
}

fn policy(spec: Value) -> netplan::snapshot::NetworkPolicy {
    let mut cache = Cache::default();
    put::<NetworkPolicy>(
        &mut cache,
        read(json!({ "metadata": { "name": "p", "namespace": "shop" }, "spec": spec })),
    );
    (*snapshot(&mut cache).policies[0]).clone()
}

#[test]
fn policies_get_their_defaults() {
    let deny = policy(json!({ "podSelector": {}, "policyTypes": ["Ingress"] }));
    assert_eq!((deny.ingress.as_deref(), deny.egress), (Some(&[][..]), None));
    let implied = policy(json!({ "podSelector": {}, "egress": [{}] }));
    assert_eq!((implied.ingress.map(|r| r.len()), implied.egress.map(|r| r.len())), (Some(0), Some(1)));
    let rule = policy(json!({ "podSelector": { "matchLabels": { "app": "db" } }, "ingress": [{
        "from": [
            { "podSelector": { "matchLabels": { "app": "api" } } },
            { "namespaceSelector": { "matchExpressions": [{ "key": "team", "operator": "Exists" }] } },
            { "ipBlock": { "cidr": "192.0.2.0/24", "except": ["192.0.2.128/25"] } },
        ],
        "ports": [{ "port": 80, "endPort": 90 }, { "protocol": "UDP", "port": "dns" }, { "protocol": "SCTP" }],
    }] }));
    let rule = &rule.ingress.unwrap()[0];
    assert!(
        matches!(&rule.peers[..], [Peer::Pods(_), Peer::PodsIn(_, all), Peer::Block(_, _)] if all.is_everything())
    );
    let ports: Vec<_> = rule.ports.iter().map(|port| (port.protocol, port.ports.clone())).collect();
    assert_eq!(
        ports,
        [
            (Protocol::Tcp, PortMatch::Range(80, 90)),
            (Protocol::Udp, PortMatch::Named("dns".into())),
            (Protocol::Sctp, PortMatch::All),
        ]
    );
}

#[test]
fn what_cannot_be_read_never_widens_a_policy() {
    let unreadable =
        json!({ "matchExpressions": [{ "key": "a", "operator": "Approximately", "values": ["b"] }] });
    let peers =
        policy(json!({ "podSelector": {}, "ingress": [{ "from": [{ "podSelector": unreadable }] }] }));
    assert_eq!(peers.ingress.unwrap().len(), 0, "a rule without its only peer would admit everyone");
    let subject = policy(json!({ "podSelector": unreadable, "ingress": [] }));
    assert!(subject.pods.is_everything());
    let block =
        policy(json!({ "podSelector": {}, "egress": [{ "to": [{ "ipBlock": { "cidr": "nonsense" } }] }] }));
    assert_eq!(block.egress.unwrap().len(), 0);
}

fn endpoints(cache: &mut Cache) -> Vec<(String, bool, bool, bool)> {
    let snapshot = snapshot(cache);
    let backends = snapshot.slices.iter().flat_map(|slice| &slice.endpoints);
    backends.map(|b| (b.address.to_string(), b.ready, b.serving, b.terminating)).collect()
}

fn one_endpoint(endpoint: Value) -> EndpointSlice {
    read(json!({
        "metadata": { "name": "web-1", "namespace": "shop", "labels": { "kubernetes.io/service-name": "web" } },
        "endpoints": [endpoint],
        "ports": [{ "port": 80 }],
    }))
}

#[test]
fn conditions_are_read_with_their_defaults() {
    let rows = [
        ("nothing said is ready", json!({}), (true, true, false)),
        ("not ready is not serving", json!({ "ready": false }), (false, false, false)),
        (
            "serving while terminating",
            json!({ "ready": false, "serving": true, "terminating": true }),
            (false, true, true),
        ),
        (
            "terminating and broken",
            json!({ "ready": false, "serving": false, "terminating": true }),
            (false, false, true),
        ),
        ("null is as absent", json!({ "ready": null, "serving": null }), (true, true, false)),
    ];
    for (sentence, conditions, (ready, serving, terminating)) in rows {
        let mut cache = Cache::default();
        put(&mut cache, one_endpoint(json!({ "addresses": ["192.0.2.7"], "conditions": conditions })));
        assert_eq!(endpoints(&mut cache), [("192.0.2.7".into(), ready, serving, terminating)], "{sentence}");
    }
}

#[test]
fn a_backend_is_the_pod_that_its_slice_names() {
    let mut cache = Cache::default();
    let target = json!({ "kind": "Pod", "name": "web", "uid": "uid-web" });
    put(&mut cache, one_endpoint(json!({ "addresses": ["192.168.0.2"], "targetRef": target })));
    assert_eq!(endpoints(&mut cache), [], "not known yet");
    let on_host = json!({ "spec": { "hostNetwork": true } });
    put(&mut cache, pod("other", "192.168.0.2", on_host.clone()));
    assert_eq!(endpoints(&mut cache), [], "another pod of the same node");
    put(&mut cache, pod("web", "192.168.0.2", on_host.clone()));
    assert_eq!(endpoints(&mut cache), [("192.168.0.2".into(), true, true, false)]);
    let mut leaving = on_host.clone();
    merge(&mut leaving, json!({ "metadata": { "deletionTimestamp": "2026-01-02T03:04:05Z" } }));
    put(&mut cache, pod("other", "192.168.0.2", leaving.clone()));
    assert_eq!(endpoints(&mut cache), [("192.168.0.2".into(), true, true, false)]);
    put(&mut cache, pod("web", "192.168.0.2", leaving));
    assert_eq!(
        endpoints(&mut cache),
        [("192.168.0.2".into(), false, true, true)],
        "before its slice says so"
    );
    let mut next = on_host;
    merge(&mut next, json!({ "metadata": { "uid": "another" } }));
    put(&mut cache, pod("web", "192.168.0.2", next));
    assert_eq!(endpoints(&mut cache), [], "a pod that follows under the same name is not it");
}

#[test]
fn an_address_that_passes_to_another_pod_is_not_the_old_backend() {
    let mut cache = Cache::default();
    let target = json!({ "kind": "Pod", "name": "web", "uid": "uid-web" });
    put(&mut cache, one_endpoint(json!({ "addresses": ["10.244.1.5"], "targetRef": target })));
    put(&mut cache, pod("web", "10.244.1.5", json!({})));
    assert_eq!(endpoints(&mut cache).len(), 1);
    put(&mut cache, pod("web", "10.244.1.5", json!({ "status": { "phase": "Failed" } })));
    put(&mut cache, pod("next", "10.244.1.5", json!({})));
    assert_eq!(endpoints(&mut cache), []);
}

#[test]
fn the_service_of_the_api_server_has_backends_that_are_no_pods() {
    let mut cache = Cache::default();
    put::<Service>(
        &mut cache,
        read(json!({
            "metadata": { "name": "kubernetes", "namespace": "default" },
            "spec": { "clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1"],
                      "ports": [{ "name": "https", "protocol": "TCP", "port": 443, "targetPort": 6443 }] },
        })),
    );
    put::<EndpointSlice>(
        &mut cache,
        read(json!({
            "metadata": { "name": "kubernetes", "namespace": "default",
                          "labels": { "kubernetes.io/service-name": "kubernetes" } },
            "endpoints": [{ "addresses": ["192.168.0.1"], "conditions": { "ready": true } }],
            "ports": [{ "name": "https", "port": 6443, "protocol": "TCP" }],
        })),
    );
    assert_eq!(endpoints(&mut cache), [("192.168.0.1".into(), true, true, false)]);
    let mut snapshot = snapshot(&mut cache);
    snapshot.nodes = netplan::testing::snapshot().nodes;
    let plan = netplan::compile(&snapshot, &mut netplan::Ids::new(netplan::Limits::default()));
    assert_eq!(plan.v4.services.len(), 1);
    let service = plan.v4.services.values().next().unwrap();
    assert_eq!(service.ready, 1, "it answers from pods");
}
