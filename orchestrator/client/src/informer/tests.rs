//! Informers against a fake server: a service in process whose answers the test scripts.
use std::{collections::VecDeque, convert::Infallible};

use bytes::Bytes;
use futures::channel::mpsc;
use http::{Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody, combinators::UnsyncBoxBody};
use serde::Deserialize;
use serde_json::json;
use tower::service_fn;

use super::*;
use crate::{Body, BoxError, Meta, objects::StringMap};

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct Thing {
    metadata: Meta,
    color: String,
}

crate::resource!(Thing: "x.io" / "v1" / "things", "Thing", namespaced, index { "color" => |thing, add| add(&thing.color) });

type Line = mpsc::UnboundedSender<String>;
type ResponseBody = UnsyncBoxBody<Bytes, BoxError>;

/// Answers requests in order; a request beyond the script waits for ever.
#[derive(Clone, Default)]
struct Fake {
    script: Arc<Mutex<VecDeque<(StatusCode, ResponseBody)>>>,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Fake {
    fn then(&self, code: u16, body: String) -> &Self {
        let body =
            http_body_util::Full::new(Bytes::from(body)).map_err(|never| match never {}).boxed_unsync();
        self.script.lock().push_back((StatusCode::from_u16(code).unwrap(), body));
        self
    }

    /// The next answer is a watch that stays open; returns where to write its lines.
    fn then_open(&self) -> Line {
        let (sender, lines) = mpsc::unbounded();
        let body =
            StreamBody::new(lines.map(|line: String| Ok(Frame::data(Bytes::from(line))))).boxed_unsync();
        self.script.lock().push_back((StatusCode::OK, body));
        sender
    }

    fn client(&self) -> Client {
        let fake = self.clone();
        let service = service_fn(move |request: Request<Body>| {
            let fake = fake.clone();
            async move {
                fake.seen.lock().push(request.uri().to_string());
                let answer = fake.script.lock().pop_front();
                match answer {
                    Some((code, body)) => {
                        Ok::<_, Infallible>(Response::builder().status(code).body(body).unwrap())
                    }
                    None => std::future::pending().await,
                }
            }
        });
        Client::new(service, api::UserInfo::new("test", ["system:masters"]))
    }
}

fn thing(name: &str, revision: u64, color: &str) -> serde_json::Value {
    json!({"metadata": {"name": name, "namespace": "n", "uid": name, "resourceVersion": revision.to_string()}, "color": color})
}

fn list(revision: u64, items: &[serde_json::Value]) -> String {
    json!({"metadata": {"resourceVersion": revision.to_string()}, "items": items}).to_string()
}

fn event(kind: &str, object: serde_json::Value) -> String {
    format!("{}\n", json!({"type": kind, "object": object}))
}

fn show(delta: Option<Delta<Thing>>) -> String {
    match delta {
        None => "nothing".into(),
        Some(Delta::Synced) => "synced".into(),
        Some(Delta::Upsert { old: None, new }) => format!("+{} {}", new.metadata.name, new.color),
        Some(Delta::Upsert { old: Some(old), new }) => {
            format!("{} {}>{}", new.metadata.name, old.color, new.color)
        }
        Some(Delta::Delete(old)) => format!("-{} {}", old.metadata.name, old.color),
    }
}

async fn expect(subscription: &mut Subscription<Thing>, expected: &[&str]) {
    for expected in expected {
        assert_eq!(show(Some(subscription.recv().await)), *expected);
    }
    assert_eq!(show(subscription.try_recv()), "nothing");
}

#[tokio::test(start_paused = true)]
async fn lists_watches_resumes_and_swaps() {
    let fake = Fake::default();
    let first =
        json!({"metadata": {"resourceVersion": "10", "continue": "more"}, "items": [thing("a", 3, "red")]});
    fake.then(500, "down".into()).then(200, first.to_string()).then(200, list(10, &[thing("b", 4, "blue")]));
    let stream = fake.then_open();
    let informer = Informer::<Thing>::start(fake.client());
    let mut subscription = informer.subscribe();
    expect(&mut subscription, &["+a red", "+b blue", "synced"]).await;
    informer.synced().await;

    stream.unbounded_send(event("MODIFIED", thing("a", 11, "blue"))).unwrap();
    stream.unbounded_send(event("DELETED", thing("b", 12, "blue"))).unwrap();
    expect(&mut subscription, &["a red>blue", "-b blue"]).await;
    let blue = informer.store().by_index("color", "blue");
    assert_eq!(blue.len(), 1, "the index follows");
    assert!(informer.store().by_index("color", "red").is_empty());

    let second = fake.then_open();
    let mut revisions = informer.revisions();
    stream.unbounded_send(event("BOOKMARK", json!({"metadata": {"resourceVersion": "20"}}))).unwrap();
    assert_eq!(*revisions.wait_for(|revision| *revision >= 20).await.unwrap(), 20);
    drop(stream);

    // The watch that is resumed at the bookmark finds that its revision is gone: a new list is swapped in.
    fake.then(200, list(30, &[thing("a", 11, "blue"), thing("c", 25, "red")]));
    let _third = fake.then_open();
    second.unbounded_send(event("ERROR", json!({"code": 410, "reason": "Expired"}))).unwrap();
    expect(&mut subscription, &["+c red"]).await;
    assert_eq!(informer.store().revision(), 30);
    assert_eq!(informer.store().in_namespace("n").len(), 2);
    assert!(informer.store().in_namespace("m").is_empty());

    let mut late = informer.subscribe();
    expect(&mut late, &["+a blue", "+c red", "synced"]).await;
    let seen = fake.seen.lock().clone();
    assert!(
        seen[1].ends_with("/apis/x.io/v1/things?limit=1000") && seen[2].contains("continue=more"),
        "{seen:?}"
    );
    assert!(seen[3].contains("resourceVersion=10&") && seen[4].contains("resourceVersion=20&"), "{seen:?}");
}

#[tokio::test(start_paused = true)]
async fn a_watch_answered_410_leads_to_a_list() {
    let fake = Fake::default();
    fake.then(200, list(5, &[])).then(410, "{}".into()).then(200, list(9, &[thing("a", 8, "red")]));
    let informer = Informer::<Thing>::start(fake.client());
    let mut revisions = informer.revisions();
    revisions.wait_for(|revision| *revision == 9).await.unwrap();
    assert!(informer.store().find("n", "a").is_some());
}

#[tokio::test(start_paused = true)]
async fn a_stopped_informer_is_dropped() {
    let fake = Fake::default();
    fake.then(200, list(5, &[]));
    let stream = fake.then_open();
    let informer = Informer::<Thing>::start(fake.client());
    informer.synced().await;
    let subscription = informer.subscribe();
    drop(informer);
    tokio::task::yield_now().await;
    drop(subscription);
    for _ in 0..3 {
        tokio::task::yield_now().await;
    }
    assert!(stream.is_closed(), "nobody reads the watch any more");
}

fn meta(name: &str, uid: &str, revision: u64) -> Meta {
    let (name, uid) = (name.into(), uid.into());
    Meta { name, uid, resource_version: revision, labels: StringMap::default(), ..Meta::default() }
}

#[test]
fn unread_changes_are_merged() {
    let store = Arc::new(Store::<Thing>::new(Thing::indexes()));
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let task = runtime.spawn(std::future::pending::<()>());
    let mut subscription = store.subscribe(Arc::new(AbortOnDrop(task.abort_handle())));
    let put = |uid: &str, revision, color: &str| {
        store.upsert(Thing { metadata: meta("a", uid, revision), color: color.into() });
    };
    put("1", 1, "red");
    put("1", 2, "blue");
    assert_eq!(show(subscription.try_recv()), "+a blue");
    put("1", 3, "green");
    put("2", 5, "black");
    assert_eq!(show(subscription.try_recv()), "-a blue", "another object of the same name");
    assert_eq!(show(subscription.try_recv()), "+a black");
    store.delete(&Thing { metadata: meta("a", "2", 6), color: String::new() });
    put("3", 7, "white");
    store.delete(&Thing { metadata: meta("a", "3", 8), color: String::new() });
    assert_eq!(show(subscription.try_recv()), "-a black");
    assert_eq!(show(subscription.try_recv()), "nothing");
    put("4", 9, "red");
    store.delete(&Thing { metadata: meta("a", "4", 10), color: String::new() });
    assert_eq!(show(subscription.try_recv()), "nothing", "came and went unseen");
    assert_eq!(store.revision(), 10);
}
