//! Events in, lines out.

use std::net::{IpAddr, Ipv4Addr};

use abi::{Addr4, DropCode, Hook, Port, Reason, event_kind, protocol};
use futures::StreamExt;

use super::*;
use crate::flow::{Kind, Owner};

#[derive(Debug)]
struct Shop;

impl Names for Shop {
    fn owner(&self, address: IpAddr) -> Option<Owner> {
        match address.to_string().as_str() {
            "10.244.0.5" => Some(Owner::pod("shop", "web-7d9f-x2x", "one")),
            "10.244.1.9" => Some(Owner::pod("shop", "db-0", "two")),
            "10.96.0.7" => Some(Owner::service("shop", "db")),
            _ => None,
        }
    }

    fn service(&self, id: u32) -> Option<String> {
        (id == 7).then(|| "shop/db".into())
    }

    fn policies(&self, policy: u32, _: u32) -> Vec<String> {
        if policy == 42 { vec!["shop/db-from-api".into()] } else { vec![] }
    }

    fn direction(&self, _: u32) -> Option<&'static str> {
        Some("ingress")
    }
}

fn words(address: [u8; 4]) -> [u32; 4] {
    [Addr4::from(Ipv4Addr::from(address)).0, 0, 0, 0]
}

fn event() -> Event {
    Event {
        time_ns: 1_000_000,
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

async fn lines(filter: Filter, events: Vec<Event>, capacity: usize) -> Vec<Line> {
    let (sender, receiver) = broadcast::channel(capacity);
    for event in events {
        sender.send(event).unwrap();
    }
    drop(sender);
    let names = watch::Sender::new(Arc::new(Shop)).subscribe();
    let bytes: Vec<Bytes> = flows("two".into(), receiver, names, filter).collect().await;
    bytes.iter().map(|line| serde_json::from_slice(line).unwrap()).collect()
}

#[tokio::test]
async fn a_drop_says_who_and_why() {
    let lines = lines(Filter::default(), vec![event()], 4).await;
    let Line::Flow(flow) = &lines[0] else { panic!("{lines:?}") };
    assert_eq!((flow.kind, &*flow.node), (Kind::Dropped, "two"));
    let text = flow.to_string();
    let (_, told) = text.split_once(' ').unwrap();
    assert_eq!(
        told,
        "DROPPED TCP shop/web-7d9f-x2x:40000 -> shop/db:80 = shop/db-0:5432  PolicyIngress at \
         datapath/src/policy.rs:77: A policy of the receiving pod forbids it.  ingress policy shop/db-from-api"
    );
}

#[tokio::test]
async fn filters_know_deployments_by_their_pods() {
    let count = async |filter: Filter| lines(filter, vec![event()], 4).await.len();
    let name = |name: &str| Filter { name: Some(name.into()), ..Filter::default() };
    assert_eq!(count(name("web")).await, 1);
    assert_eq!(count(name("we")).await, 0);
    assert_eq!(count(name("db-0")).await, 1);
    assert_eq!(count(Filter { namespace: Some("other".into()), ..Filter::default() }).await, 0);
    let new = Event { kind: event_kind::NEW, drop: 0, ..event() };
    assert!(lines(Filter { dropped: true, ..Filter::default() }, vec![new], 4).await.is_empty());
}

#[tokio::test]
async fn a_slow_reader_is_told_what_it_missed() {
    let lines = lines(Filter::default(), vec![event(); 10], 4).await;
    assert_eq!(lines[0], Line::Lost { lost: 6 });
    assert_eq!(lines.len(), 5);
}
