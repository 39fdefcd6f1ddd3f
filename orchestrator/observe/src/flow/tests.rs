//! Events in, named flows out; and the cluster that other tests share.

use std::net::IpAddr;

use abi::{Addr4, Reason};
use serde_json::json;

use super::*;

/// Two pods, a Service, a node, and the policy `shop/db` with id 42.
#[derive(Debug)]
pub(crate) struct Shop;

impl Names for Shop {
    fn owner(&self, address: IpAddr) -> Option<Owner> {
        let pod = |name: &str, node: &str| Owner::Pod {
            namespace: "shop".into(),
            name: name.into(),
            node: node.into(),
        };
        match address.to_string().as_str() {
            "10.244.0.5" => Some(pod("web-7d9f-x2x", "one")),
            "10.244.1.9" => Some(pod("db-0", "two")),
            "10.96.0.7" => Some(Owner::Service { namespace: "shop".into(), name: "db".into() }),
            "192.168.0.1" => Some(Owner::Node { name: "one".into() }),
            _ => None,
        }
    }

    fn service(&self, id: u32) -> Option<Arc<str>> {
        (id == 7).then(|| "shop/db:sql".into())
    }

    fn policies(&self, policy: u32, _: u32) -> Vec<Arc<str>> {
        if policy == 42 { vec!["shop/db".into()] } else { vec![] }
    }

    fn direction(&self, policy: u32) -> Option<&'static str> {
        (policy == 42).then_some("ingress")
    }
}

fn words(address: [u8; 4]) -> [u32; 4] {
    [Addr4::from(Ipv4Addr::from(address)).0, 0, 0, 0]
}

/// `web` asks for the Service `db`, and the policy of `db-0` forbids it.
pub(crate) fn denied() -> Event {
    Event {
        kind: event_kind::DROP,
        hook: Hook::OverlayIngress as u8,
        family: 4,
        protocol: protocol::TCP,
        source: words([10, 244, 0, 5]),
        destination: words([10, 96, 0, 7]),
        backend: words([10, 244, 1, 9]),
        source_port: Port::new(40000),
        destination_port: Port::new(80),
        backend_port: Port::new(5432),
        drop: DropCode::new(Reason::PolicyIngress, abi::source_id("datapath/src/policy.rs"), 77).word(),
        policy: 42,
        service: 7,
        ..Event::default()
    }
}

/// A connection of the node to `db-0` that was allowed and ended.
pub(crate) fn closed() -> Event {
    Event {
        kind: event_kind::CLOSE,
        hook: Hook::NodeEgress as u8,
        family: 4,
        protocol: protocol::TCP,
        source: words([192, 168, 0, 1]),
        destination: words([10, 244, 1, 9]),
        backend: words([10, 244, 1, 9]),
        source_port: Port::new(40001),
        destination_port: Port::new(5432),
        backend_port: Port::new(5432),
        packets: [3, 1],
        bytes: [180, 60],
        ..Event::default()
    }
}

pub(crate) fn flow(event: &Event) -> Flow {
    let time = DateTime::from_timestamp_micros(1_709_210_096_123_456).unwrap();
    Flow::new(event, time, &"two".into(), &Shop)
}

#[test]
fn a_drop_says_who_and_why() {
    let expected = json!({
        "time": "2024-02-29T12:34:56.123456Z",
        "node": "two",
        "event": "dropped",
        "verdict": "dropped",
        "protocol": "TCP",
        "from": { "ip": "10.244.0.5", "port": 40000, "namespace": "shop", "pod": "web-7d9f-x2x", "node": "one" },
        "to": { "ip": "10.96.0.7", "port": 80, "namespace": "shop", "service": "db" },
        "backend": { "ip": "10.244.1.9", "port": 5432, "namespace": "shop", "pod": "db-0", "node": "two" },
        "service": "shop/db:sql",
        "reason": "PolicyIngress",
        "reasonText": "A policy of the receiving pod forbids it.",
        "source": "datapath/src/policy.rs:77",
        "policies": ["shop/db"],
        "direction": "ingress",
        "hook": "overlay_ingress",
    });
    let flow = flow(&denied());
    assert_eq!(serde_json::to_value(&flow).unwrap(), expected);
    let back: Line = serde_json::from_value(expected).unwrap();
    assert_eq!(back, Line::Flow(flow));
}

#[test]
fn an_end_has_the_counters_and_no_reason() {
    let text = serde_json::to_value(flow(&closed())).unwrap();
    assert_eq!((&text["event"], &text["verdict"]), (&json!("closed"), &json!("allowed")));
    assert_eq!((&text["packets"], &text["bytes"]), (&json!([3, 1]), &json!([180, 60])));
    assert_eq!(text["from"], json!({ "ip": "192.168.0.1", "port": 40001, "node": "one" }));
    for absent in ["backend", "reason", "source", "policies", "service"] {
        assert!(text.get(absent).is_none(), "{absent}");
    }
}

#[test]
fn events_of_other_versions_are_told_as_far_as_they_are_understood() {
    let odd = Event { hook: 99, protocol: 200, drop: 0xff00_0001, family: 6, ..denied() };
    let flow = flow(&odd);
    assert_eq!((&*flow.hook, &*flow.protocol, flow.reason.as_deref()), ("unknown", "200", Some("Unknown")));
    assert!(flow.from.ip.is_ipv6());
}

#[test]
fn what_is_lost_is_a_line_too() {
    let text = r#"{"time":"2024-02-29T12:34:56.123456Z","node":"two","lost":6}"#;
    let line: Line = serde_json::from_str(text).unwrap();
    assert!(matches!(&line, Line::Lost { lost: 6, node, .. } if **node == *"two"), "{line:?}");
    assert_eq!(serde_json::to_string(&line).unwrap(), text);
}
