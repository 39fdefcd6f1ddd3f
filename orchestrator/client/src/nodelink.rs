//! The agent's end of the link to its server: heartbeats and the applied revision go up, the minimum over all nodes
//! comes down. Wire types are in [`api::nodelink`].
//!
//! A link that breaks, or on which nothing comes down for a while, is made again; with several servers that is how an
//! agent gets away from one that hangs.
use std::time::Duration;

use api::nodelink::{Decoder, HEARTBEAT, Notice, PATH, Report, line};
use bytes::Bytes;
use futures::stream;
use http::{Method, Request};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout},
};

use crate::{Body, BoxError, Client, Error, Revision, Status, backoff::Backoff};

/// The server answers each report: after this long without a line it hangs, or the network does.
const SILENCE_MAX: Duration = Duration::from_secs(2);
/// A node counts as silent after a second: the first attempts to come back must fit into it.
const RETRY_FIRST: Duration = Duration::from_millis(50);
/// A server that stays away is asked once a second: coming back must not take longer than noticing the loss did.
const RETRY_MAX: Duration = Duration::from_secs(1);

/// What the link tells its agent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkState {
    /// Whether the server answers.
    pub connected: bool,
    /// The newest revision that the kernels of all nodes are known to hold; what was last heard, if not connected.
    pub minimum: Revision,
}

/// Keeps the link of a node for ever: reports `applied` as it changes, publishes what comes down in `state`.
pub async fn run(
    client: Client,
    node: String,
    applied: watch::Receiver<Revision>,
    state: watch::Sender<LinkState>,
) {
    let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MAX);
    loop {
        let ended = link(&client, &node, applied.clone(), &state, &mut backoff).await;
        state.send_if_modified(|state| std::mem::replace(&mut state.connected, false));
        let wait = backoff.next_wait();
        match ended {
            Ok(()) => tracing::debug!(node, "the server ended the link; connecting again"),
            // Of a server that does not answer at all the transport tells.
            Err(error) if backoff.failures() > 5 && !error.is_transport() => {
                tracing::warn!(node, error = error.chain(), "no link to the server; trying again");
            }
            Err(error) => tracing::debug!(node, error = error.chain(), "no link to the server; trying again"),
        }
        sleep(wait).await;
    }
}

async fn link(
    client: &Client,
    node: &str,
    applied: watch::Receiver<Revision>,
    state: &watch::Sender<LinkState>,
    backoff: &mut Backoff,
) -> Result<(), Error> {
    let path = format!("{PATH}{node}");
    let broken = |reason: &str, source: Option<BoxError>| Error::Transport {
        server: path.clone(),
        reason: reason.to_owned(),
        source,
    };
    let request = Request::builder().method(Method::POST).uri(&path).body(reports(applied));
    let request =
        request.map_err(|error| Error::Request { subject: path.clone(), reason: error.to_string() })?;
    let response = timeout(SILENCE_MAX, client.raw(request)).await;
    let response = response.map_err(|_| broken("no answer", None))??;
    if !response.status().is_success() {
        let code = response.status().as_u16();
        let message = format!("the server refuses the link of node {node}: {}", response.status());
        return Err(Error::Api(Status { code, message, ..Status::default() }));
    }
    let mut body = response.into_body();
    let mut decoder = Decoder::<Notice>::default();
    loop {
        let frame = timeout(SILENCE_MAX, body.frame()).await.map_err(|_| broken("silence", None))?;
        let Some(frame) = frame else { return Ok(()) };
        let frame = frame.map_err(|source| broken("the link broke off", Some(source)))?;
        let Ok(bytes) = frame.into_data() else { continue };
        let notice = decoder.push(&bytes).map_err(|error| broken("nonsense", Some(error.into())))?;
        if let Some(Notice { minimum }) = notice {
            backoff.reset();
            let new = LinkState { connected: true, minimum };
            state.send_if_modified(|state| std::mem::replace(state, new) != new);
        }
    }
}

/// The reports as a body: one at once, one with every change, one at least every heartbeat.
fn reports(applied: watch::Receiver<Revision>) -> Body {
    let lines = stream::unfold((applied, Instant::now()), |(mut applied, due)| async move {
        let changed = async {
            if applied.changed().await.is_err() {
                // Nothing will be applied any more; the node is alive all the same.
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = sleep_until(due) => {}
            () = changed => {}
        }
        let report = line(&Report { applied: *applied.borrow_and_update() });
        let frame = Ok::<_, BoxError>(Frame::data(Bytes::from(report)));
        Some((frame, (applied, Instant::now() + HEARTBEAT)))
    });
    Body::stream(StreamBody::new(lines))
}

#[cfg(test)]
mod tests {
    use std::{
        convert::Infallible,
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
        },
    };

    use futures::{StreamExt, channel::mpsc};
    use http::Response;
    use tower::service_fn;

    use super::*;

    /// Answers each report with its own number as minimum; the first link ends after three reports.
    fn server(links: Arc<AtomicUsize>) -> Client {
        let service = service_fn(move |request: Request<Body>| {
            let links = links.clone();
            async move {
                assert_eq!(request.uri().path(), "/apis/bowsprit.dev/v1/nodelink/n1");
                let number = links.fetch_add(1, Ordering::SeqCst);
                let (sender, receiver) = mpsc::unbounded::<Bytes>();
                tokio::spawn(async move {
                    let (mut body, mut decoder) = (request.into_body(), Decoder::<Report>::default());
                    let mut reports = 0;
                    while let Some(Ok(frame)) = body.frame().await {
                        let Ok(Some(report)) = decoder.push(&frame.into_data().unwrap()) else { continue };
                        reports += 1;
                        let answer = line(&Notice { minimum: report.applied });
                        if sender.unbounded_send(answer.into()).is_err() || (number == 0 && reports == 3) {
                            return;
                        }
                    }
                });
                let body = StreamBody::new(receiver.map(|bytes| Ok::<_, Infallible>(Frame::data(bytes))));
                Ok::<_, Infallible>(Response::new(body))
            }
        });
        Client::new(service, api::UserInfo::new("system:node:n1", ["system:nodes"]))
    }

    #[tokio::test(start_paused = true)]
    async fn reports_go_up_and_the_minimum_comes_down() {
        let links = Arc::new(AtomicUsize::new(0));
        let (applied, receiver) = watch::channel(0);
        let (sender, mut state) = watch::channel(LinkState::default());
        let started = Instant::now();
        let task = tokio::spawn(run(server(links.clone()), "n1".into(), receiver, sender));
        state.wait_for(|state| state.connected).await.unwrap();
        assert!(started.elapsed() < Duration::from_millis(10), "the first report is sent at once");
        applied.send_replace(7);
        state.wait_for(|state| state.minimum == 7).await.unwrap();
        assert!(started.elapsed() < Duration::from_millis(10), "a change does not wait for the heartbeat");
        state.wait_for(|state| !state.connected).await.unwrap();
        assert_eq!(started.elapsed().as_millis() / 250, 1, "the third report was a heartbeat");
        state.wait_for(|state| state.connected).await.unwrap();
        applied.send_replace(9);
        state.wait_for(|state| state.minimum == 9).await.unwrap();
        assert_eq!(links.load(Ordering::SeqCst), 2);
        task.abort();
    }
}
