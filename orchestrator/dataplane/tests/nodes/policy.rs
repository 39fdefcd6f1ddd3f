//! NetworkPolicy and what is told of drops.

use std::{io, sync::Arc};

use abi::{DropCode, Event, Reason, event_kind};
use netplan::{
    Selector,
    snapshot::{NetworkPolicy, Peer, PolicyPort, PortMatch, Protocol, Routing, Rule},
};

use crate::rig::{Pod, Rig, SILENCE, ask};

fn app(name: &str) -> Selector {
    Selector::equals([("app", name)])
}

fn from(peer: Peer, port: u16) -> Rule {
    let ports = PortMatch::Range(port, port);
    Rule { peers: vec![peer], ports: vec![PolicyPort { protocol: Protocol::Tcp, ports }] }
}

fn policy(
    name: &str,
    pods: Selector,
    ingress: Option<Vec<Rule>>,
    egress: Option<Vec<Rule>>,
) -> Arc<NetworkPolicy> {
    Arc::new(NetworkPolicy { namespace: "default".into(), name: name.into(), pods, ingress, egress })
}

/// Only `api` may reach `db`, at 8080.
fn db_from_api() -> Arc<NetworkPolicy> {
    policy("db-from-api", app("db"), Some(vec![from(Peer::Pods(app("api")), 8080)]), None)
}

fn reaches(from: &Pod, to: &Pod) -> bool {
    match from.namespace.connect(&to.at(8080), SILENCE) {
        Ok(mut stream) => ask(&mut stream).is_ok(),
        Err(error) => {
            assert!(matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock), "{error}");
            false
        }
    }
}

#[test]
fn only_who_is_named_gets_through() {
    let rig = Rig::new(2, Routing::Vxlan);
    let (db, api, web, far) = (rig.pod(0, "db"), rig.pod(1, "api"), rig.pod(1, "web"), rig.pod(0, "far"));
    assert!(reaches(&web, &db), "without policies everyone may");
    rig.change(|cluster| cluster.policies = vec![db_from_api()]);
    assert!(reaches(&api, &db));
    assert!(!reaches(&web, &db));
    assert!(!reaches(&far, &db));
    assert!(reaches(&db, &web), "ingress says nothing of egress");
    let node = &rig.nodes[0].namespace;
    assert!(node.ask(&db.at(8080)).is_ok(), "a pod's own node may always");
    assert!(rig.nodes[1].namespace.connect(&db.at(8080), SILENCE).is_err(), "another node is not its own");
    rig.change(|cluster| cluster.policies.clear());
    assert!(reaches(&web, &db));
}

#[test]
fn a_new_pod_is_never_open() {
    let rig = Rig::new(1, Routing::Vxlan);
    rig.change(|cluster| cluster.policies = vec![db_from_api()]);
    let web = rig.pod(0, "web");
    let db = rig.pod(0, "db");
    assert!(!reaches(&web, &db));
}

#[test]
fn egress_holds_by_address_too() {
    let rig = Rig::new(1, Routing::Vxlan);
    let (web, db) = (rig.pod(0, "web"), rig.pod(0, "db"));
    rig.outside.serve("outside", "192.168.77.254".parse().unwrap(), 9000);
    let block = Peer::Block("192.168.77.0/24".parse().unwrap(), vec!["192.168.77.1/32".parse().unwrap()]);
    rig.change(|cluster| {
        cluster.policies = vec![policy("out", app("web"), None, Some(vec![from(block, 9000)]))]
    });
    assert!(web.namespace.ask("192.168.77.254:9000").is_ok());
    assert!(!reaches(&web, &db));
    rig.nodes[0].namespace.serve("node", rig.nodes[0].address, 9001);
    assert!(web.namespace.ask("192.168.77.1:9001").is_ok(), "its own node may always be reached");
}

#[test]
fn a_policy_cuts_what_it_forbids() {
    let rig = Rig::new(2, Routing::Vxlan);
    let (db, api, web) = (rig.pod(0, "db"), rig.pod(1, "api"), rig.pod(1, "web"));
    let mut allowed = api.namespace.connect(&db.at(8080), SILENCE * 5).unwrap();
    let mut forbidden = web.namespace.connect(&db.at(8080), SILENCE * 5).unwrap();
    ask(&mut allowed).unwrap();
    ask(&mut forbidden).unwrap();
    rig.change(|cluster| cluster.policies = vec![db_from_api()]);
    ask(&mut allowed).unwrap();
    forbidden.set_read_timeout(Some(SILENCE)).unwrap();
    assert!(ask(&mut forbidden).is_err(), "an open connection is cut");
    let counts = rig.nodes[0].dataplane().packets().unwrap();
    assert!(counts.iter().any(|count| count.reason == Some(Reason::PolicyRevoked)), "{counts:?}");
}

#[test]
fn a_drop_says_who_where_and_why() {
    let rig = Rig::new(1, Routing::Vxlan);
    let (db, web) = (rig.pod(0, "db"), rig.pod(0, "web"));
    rig.change(|cluster| cluster.policies = vec![db_from_api()]);
    let mut events = rig.nodes[0].dataplane().events();
    assert!(!reaches(&web, &db));
    let dropped = std::iter::from_fn(|| events.blocking_recv().ok())
        .find(|event| event.kind == event_kind::DROP && event.policy != 0);
    let event: Event = dropped.unwrap();
    let code = DropCode::from_word(event.drop).unwrap();
    assert_eq!(code.reason(), Some(Reason::PolicyIngress));
    assert!(code.source().starts_with("datapath/src/") && code.line() > 0, "{code:?}");
    assert_ne!(event.policy, 0);
    assert_eq!(event.destination_port.get(), 8080);
}

#[test]
fn an_address_that_goes_to_another_pod_takes_nothing_along() {
    let rig = Rig::new(1, Routing::Vxlan);
    let (db, api) = (rig.pod(0, "db"), rig.pod(0, "api"));
    rig.change(|cluster| cluster.policies = vec![db_from_api()]);
    let mut open = api.namespace.connect(&db.at(8080), SILENCE * 5).unwrap();
    ask(&mut open).unwrap();
    rig.stop_pod(&api);
    let web = rig.pod(0, "web");
    assert_ne!(web.address, api.address, "addresses go round");
    assert!(!reaches(&web, &db));
}
