//! A server in process in front of the recorders of two nodes.

use std::{
    convert::Infallible,
    sync::atomic::{AtomicBool, Ordering},
};

use abi::{Event, Port};
use axum::Router;
use http::{Response, StatusCode};
use parking_lot::Mutex;
use telemetry::Registry;
use tokio::sync::{broadcast, watch};
use tower::{ServiceExt, service_fn};

use super::*;
use crate::{
    Flows,
    flow::tests::{Shop, closed, denied},
};

/// Far longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// A node's agent.
struct Agent {
    name: &'static str,
    flows: Flows,
    events: broadcast::Sender<Event>,
    _names: watch::Sender<Arc<Shop>>,
}

/// The server: a list of nodes, and their agents behind it.
#[derive(Clone)]
struct Server {
    agents: Arc<Vec<Agent>>,
    /// Nodes that a watch is told of.
    joining: Arc<Mutex<Option<mpsc::Receiver<String>>>>,
    /// `two` does not answer.
    broken: Arc<AtomicBool>,
}

impl Agent {
    fn start(name: &'static str) -> Self {
        let flows = Flows::new(name, &Registry::new());
        let (events, receiver) = broadcast::channel(64);
        let (names, known) = watch::channel(Arc::new(Shop));
        tokio::spawn(flows.clone().record(receiver, known));
        Agent { name, flows, events, _names: names }
    }

    fn send(&self, event: Event, port: u16) {
        let time_ns = crate::clock::monotonic_ns();
        self.events.send(Event { time_ns, source_port: Port::new(port), ..event }).unwrap();
    }

    /// Waits until a flow is remembered.
    async fn remembered(&self, port: u16) {
        let query = Query { follow: true, last: Some(100), ..Query::default() };
        let mut lines = Box::pin(self.flows.read(query));
        while !matches!(&*lines.next().await.unwrap(), Line::Flow(flow) if flow.from.port == port) {}
    }
}

impl Server {
    fn start() -> (Self, mpsc::Sender<String>) {
        let (sender, joining) = mpsc::channel(4);
        let server = Server {
            agents: Arc::new(vec![Agent::start("one"), Agent::start("two")]),
            joining: Arc::new(Mutex::new(Some(joining))),
            broken: Arc::default(),
        };
        (server, sender)
    }

    fn client(&self) -> Client {
        let server = self.clone();
        let service = service_fn(move |request: Request<Body>| {
            let server = server.clone();
            async move { Ok::<_, Infallible>(server.answer(request).await) }
        });
        Client::new(service, api::UserInfo::new("admin", ["system:masters"]))
    }

    async fn answer(&self, request: Request<Body>) -> Response<axum::body::Body> {
        let (path, query) =
            (request.uri().path().to_owned(), request.uri().query().unwrap_or_default().to_owned());
        if path == "/api/v1/nodes" {
            return Response::new(if query.contains("watch=1") { self.watch() } else { Self::list() });
        }
        let name =
            path.strip_prefix("/apis/bowsprit.dev/v1/nodes/").and_then(|rest| rest.strip_suffix("/flows"));
        let agent = self.agents.iter().find(|agent| Some(agent.name) == name);
        match agent {
            Some(agent) if agent.name == "two" && self.broken.load(Ordering::Relaxed) => {
                let status =
                    r#"{"kind":"Status","message":"node two does not answer","reason":"ServiceUnavailable"}"#;
                Response::builder().status(StatusCode::SERVICE_UNAVAILABLE).body(status.into()).unwrap()
            }
            Some(agent) => {
                let router: Router = crate::http::router(agent.flows.clone());
                let request =
                    Request::get(format!("{}?{query}", crate::http::PATH)).body(axum::body::Body::empty());
                router.oneshot(request.unwrap()).await.unwrap()
            }
            None => Response::builder().status(StatusCode::NOT_FOUND).body("no such node\n".into()).unwrap(),
        }
    }

    fn list() -> axum::body::Body {
        r#"{"metadata":{"resourceVersion":"5"},"items":[{"metadata":{"name":"one","resourceVersion":"1"}}]}"#
            .into()
    }

    fn watch(&self) -> axum::body::Body {
        let joining = self.joining.lock().take();
        axum::body::Body::from_stream(stream::unfold(joining, |joining| async move {
            let mut joining = match joining {
                Some(joining) => joining,
                None => std::future::pending().await,
            };
            let name = joining.recv().await?;
            let event = format!(
                r#"{{"type":"ADDED","object":{{"metadata":{{"name":"{name}","resourceVersion":"9"}}}}}}"#
            );
            Some((Ok::<_, Infallible>(event + "\n"), Some(joining)))
        }))
    }
}

async fn next(told: &mut mpsc::Receiver<Told>) -> Result<(String, u16), String> {
    match tokio::time::timeout(PATIENCE, told.recv()).await.unwrap().unwrap() {
        Told::Line(Line::Flow(flow)) => Ok((flow.node.to_string(), flow.from.port)),
        Told::Line(lost) => Err(format!("{lost:?}")),
        Told::Trouble { node, error } => Err(format!("{node}: {error}")),
    }
}

#[tokio::test]
async fn a_follower_goes_on_where_the_past_ended_and_sees_nodes_join() {
    let (server, joining) = Server::start();
    let (one, two) = (&server.agents[0], &server.agents[1]);
    for port in [1, 2, 3] {
        one.send(closed(), port);
    }
    one.remembered(3).await;
    let query = Query { last: Some(2), ..Query::default() };
    let past = past(&server.client(), &query, None).await.unwrap();
    assert!(past.failures.is_empty());
    let ports: Vec<u16> = past
        .lines
        .iter()
        .filter_map(|line| if let Line::Flow(f) = line { Some(f.from.port) } else { None })
        .collect();
    assert_eq!(ports, [2, 3]);
    // Something happens before the follower is there.
    one.send(denied(), 4);
    one.remembered(4).await;
    let after = past.lines.iter().map(|line| (Arc::clone(line.node()), line.time())).collect();
    let mut told = follow(server.client(), &query, None, after);
    assert_eq!(next(&mut told).await, Ok(("one".into(), 4)));
    one.send(closed(), 5);
    assert_eq!(next(&mut told).await, Ok(("one".into(), 5)));
    // A node that cannot be reached is said once, and followed as soon as it can.
    server.broken.store(true, Ordering::Relaxed);
    joining.send("two".into()).await.unwrap();
    assert_eq!(next(&mut told).await, Err("two: node two does not answer".into()));
    server.broken.store(false, Ordering::Relaxed);
    loop {
        two.send(closed(), 7);
        tokio::select! {
            line = next(&mut told) => break assert_eq!(line, Ok(("two".into(), 7))),
            () = tokio::time::sleep(Duration::from_millis(50)) => {}
        }
    }
}

#[tokio::test]
async fn nodes_that_do_not_answer_are_named() {
    let (server, _joining) = Server::start();
    let query = Query::default();
    let absent = Lines::open(&server.client(), "three", &query).await.map(drop);
    assert_eq!(absent.unwrap_err().to_string(), "404 Not Found: no such node");
    server.broken.store(true, Ordering::Relaxed);
    let broken = past_of(&server.client(), "two", &query).await;
    assert_eq!(broken.unwrap_err().to_string(), "node two does not answer");
}
