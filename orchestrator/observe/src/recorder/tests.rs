//! A dataplane that is only a channel: events in, the agent's stream out.

use std::{
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use abi::Port;
use axum::body::Body;
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use tower::ServiceExt;

use super::*;
use crate::{
    Owner,
    flow::tests::{Shop, closed, denied},
};

/// Far longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);

struct Fake {
    flows: Flows,
    registry: Registry,
    events: broadcast::Sender<Event>,
    _names: watch::Sender<Arc<Shop>>,
}

impl Fake {
    fn start(capacity: usize) -> (Self, impl Future<Output = ()>) {
        let registry = Registry::new();
        let flows = Flows::new("two", &registry);
        let (events, receiver) = broadcast::channel(capacity);
        let (names, known) = watch::channel(Arc::new(Shop));
        let recording = flows.clone().record(receiver, known);
        (Fake { flows, registry, events, _names: names }, recording)
    }

    fn send(&self, event: Event, port: u16) {
        let time_ns = crate::clock::monotonic_ns();
        self.events.send(Event { time_ns, source_port: Port::new(port), ..event }).unwrap();
    }

    /// The status and the lines, by their source ports; how many were lost as a negative number.
    async fn get(&self, query: &str) -> (StatusCode, Vec<i64>) {
        let uri = format!("{}?{query}", crate::http::PATH);
        let request = Request::get(uri).body(Body::empty()).unwrap();
        let response =
            crate::http::router::<()>(self.flows.clone()).with_state(()).oneshot(request).await.unwrap();
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let lines = body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        (status, lines.filter_map(|line| serde_json::from_slice(line).ok()).map(|line| port(&line)).collect())
    }
}

fn port(line: &Line) -> i64 {
    match line {
        Line::Flow(flow) => i64::from(flow.from.port),
        Line::Lost { lost, .. } => -i64::try_from(*lost).unwrap(),
    }
}

#[tokio::test]
async fn the_past_is_served_as_lines() {
    let (fake, recording) = Fake::start(16);
    fake.send(closed(), 1);
    fake.send(denied(), 2);
    fake.send(closed(), 3);
    let Fake { flows, registry, events, _names } = fake;
    drop(events);
    recording.await;
    let fake = Fake { flows, registry, events: broadcast::Sender::new(1), _names };
    for (query, expected) in [
        ("", vec![1, 2, 3]),
        ("drops=true", vec![2]),
        ("last=1", vec![3]),
        ("pod=web", vec![2]),
        ("namespace=shop", vec![1, 2, 3]),
        ("namespace=other", vec![]),
        ("since=1h", vec![1, 2, 3]),
        ("since=2100-01-01T00:00:00Z", vec![]),
    ] {
        assert_eq!(fake.get(query).await, (StatusCode::OK, expected), "{query}");
    }
    assert_eq!(fake.get("last=many").await.0, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_follower_sees_every_line_once() {
    let (fake, recording) = Fake::start(16);
    let recording = tokio::spawn(recording);
    fake.send(closed(), 1);
    let query = |text: &str| Query::parse(text, chrono::Utc::now()).unwrap();
    let mut first = Box::pin(fake.flows.read(query("follow&last=10")));
    assert_eq!(port(&tokio::time::timeout(PATIENCE, first.next()).await.unwrap().unwrap()), 1);
    // The recorder has had the first one: who follows from here on gets it as the past only.
    let mut second = Box::pin(fake.flows.read(query("follow&last=10&drops")));
    fake.send(closed(), 2);
    fake.send(denied(), 3);
    let next = async |stream: &mut (dyn Stream<Item = Arc<Line>> + Unpin)| {
        port(&tokio::time::timeout(PATIENCE, stream.next()).await.unwrap().unwrap())
    };
    assert_eq!((next(&mut first).await, next(&mut first).await, next(&mut second).await), (2, 3, 3));
    recording.abort();
}

#[tokio::test]
async fn what_the_recorder_misses_is_counted_and_told() {
    let (fake, recording) = Fake::start(4);
    (1..=10).for_each(|port| fake.send(closed(), port));
    let Fake { flows, registry, events, _names } = fake;
    drop(events);
    recording.await;
    assert!(registry.render().contains("bowsprit_flows_lost_total 6"));
    let lines: Vec<_> = flows.read(Query::default()).collect().await;
    assert_eq!(lines.iter().map(|line| port(line)).collect::<Vec<_>>(), [-6, 7, 8, 9, 10]);
}

#[tokio::test]
async fn names_are_those_of_the_time() {
    struct Renamed(&'static str);
    impl Names for Renamed {
        fn owner(&self, _: IpAddr) -> Option<Owner> {
            Some(Owner::Node { name: self.0.into() })
        }
        fn service(&self, _: u32) -> Option<Arc<str>> {
            None
        }
        fn policies(&self, _: u32, _: u32) -> Vec<Arc<str>> {
            Vec::new()
        }
        fn direction(&self, _: u32) -> Option<&'static str> {
            None
        }
    }
    let flows = Flows::new("two", &Registry::new());
    let (events, receiver) = broadcast::channel(4);
    let (names, known) = watch::channel(Arc::new(Renamed("before")));
    let recording = tokio::spawn(flows.clone().record(receiver, known));
    let mut lines = Box::pin(flows.read(Query { follow: true, ..Query::default() }));
    for name in ["before", "after"] {
        names.send_replace(Arc::new(Renamed(name)));
        events.send(closed()).unwrap();
        let line = tokio::time::timeout(PATIENCE, lines.next()).await.unwrap().unwrap();
        let Line::Flow(flow) = &*line else { panic!("{line:?}") };
        assert_eq!(flow.from.ip, IpAddr::from(Ipv4Addr::new(192, 168, 0, 1)));
        assert_eq!(flow.from.node.as_deref(), Some(name));
    }
    recording.abort();
}
