//! The link between nodes and server: heartbeats and applied revisions up, the minimum over all nodes down.
//!
//! Wire types are `api::nodelink`'s. [`hub::Hub`] holds what all links of this server say; `servers` brings in what
//! other servers over the same store know. A link has no task: its request's body is read while its answer is polled,
//! so that a client that stops reading stops being heard.

use std::sync::Arc;
use std::time::Duration;

use api::ApiError;
use api::nodelink::{Decoder, Notice, Report, line};
use bytes::Bytes;
use http::{Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use crate::app::Api;
use crate::body::{Body, BoxError};
use crate::request_info::{RequestInfo, Verb};
use crate::response;

pub mod hub;

pub use api::nodelink::GROUP;
pub use hub::{Hub, Liveness};
use hub::{Link, SILENCE_MAX};

/// When this server notices a silence so much too late, it did not get to run: what the node said meanwhile is still to be
/// read, and the node is given as long again. Timers are late by a few milliseconds at worst while there is CPU.
const LATE_MAX: Duration = Duration::from_millis(100);

/// Answers `POST /apis/bowsprit.dev/v1/nodelink/NODE`, which lasts as long as the node does.
pub fn serve(api: &Arc<Api>, body: Body, info: &RequestInfo) -> Result<Response<Body>, ApiError> {
    if info.verb != Verb::Create {
        return Err(ApiError::method_not_allowed((GROUP, "nodelink"), info.verb.as_str()));
    }
    let link = api.hub.join(&info.name);
    let session = Session {
        minimum: api.hub.minimum(),
        link,
        body,
        decoder: Decoder::default(),
        deadline: Instant::now() + SILENCE_MAX,
        draining: api.draining.clone(),
    };
    let lines = futures::stream::unfold(session, |mut session| async {
        let notice = session.next().await?;
        Some((Ok::<_, BoxError>(Frame::data(Bytes::from(line(&notice)))), session))
    });
    Ok(response::json(StatusCode::OK, Body::stream(StreamBody::new(lines))))
}

/// One link's state between two lines.
struct Session {
    link: Link,
    body: Body,
    decoder: Decoder<Report>,
    minimum: watch::Receiver<u64>,
    deadline: Instant,
    draining: tokio_util::sync::CancellationToken,
}

impl Session {
    /// Waits for something to say: a report is answered, and a new minimum is passed on. `None` ends the link.
    async fn next(&mut self) -> Option<Notice> {
        loop {
            tokio::select! {
                () = self.draining.cancelled() => return None,
                changed = self.minimum.changed() => changed.ok()?,
                frame = timeout_at(self.deadline, self.body.frame()) => {
                    let Ok(frame) = frame else {
                        let late = self.deadline.elapsed();
                        if late > LATE_MAX {
                            self.deadline = Instant::now() + late.min(SILENCE_MAX);
                            continue;
                        }
                        // Silence is the hub's to judge: it has been told when the link was last heard.
                        self.link.silent();
                        return None;
                    };
                    let data = frame?.ok()?.into_data().unwrap_or_default();
                    let Ok(report) = self.decoder.push(&data) else { return None };
                    let Some(report) = report else { continue };
                    self.link.report(report.applied);
                    self.deadline = Instant::now() + SILENCE_MAX;
                }
            }
            return Some(Notice { minimum: *self.minimum.borrow_and_update() });
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt;
    use futures::channel::mpsc;

    use super::*;

    fn session(hub: &Arc<Hub>) -> (mpsc::UnboundedSender<Bytes>, Session) {
        let (sender, lines) = mpsc::unbounded::<Bytes>();
        let frames = lines.map(|line| Ok::<_, BoxError>(Frame::data(line)));
        let session = Session {
            link: hub.join("a"),
            body: Body::stream(StreamBody::new(frames)),
            decoder: Decoder::default(),
            minimum: hub.minimum(),
            deadline: Instant::now() + SILENCE_MAX,
            draining: tokio_util::sync::CancellationToken::new(),
        };
        (sender, session)
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_node_is_noticed_after_a_second() {
        let (_sender, mut session) = session(&Hub::new());
        let began = Instant::now();
        assert!(session.next().await.is_none());
        assert_eq!(began.elapsed().as_secs(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_did_not_get_to_run_blames_nobody() {
        let (sender, mut session) = session(&Hub::new());
        tokio::time::advance(SILENCE_MAX * 3).await;
        let began = Instant::now();
        let speak = async {
            tokio::time::sleep(SILENCE_MAX / 2).await;
            sender.unbounded_send(line(&Report { applied: 7 }).into()).expect("the session listens");
        };
        let (heard, ()) = tokio::join!(session.next(), speak);
        assert!(heard.is_some(), "what was said meanwhile is heard");
        assert!(session.next().await.is_none(), "and silence is silence again");
        assert_eq!(began.elapsed(), SILENCE_MAX / 2 + SILENCE_MAX);
    }
}
