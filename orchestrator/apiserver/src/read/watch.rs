//! A watch: from where it starts to the body that a connection pulls from.
//!
//! There is no task and no queue per watch. The connection asks the body for bytes when the client can take them; the
//! body takes them from the ring that all watchers share, and a client that is too slow for the ring is told so and
//! ended, never skipped.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use api::{ApiError, Kind};
use bytes::Bytes;
use http_body::{Body as HttpBody, Frame};
use store::Revision;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::body::BoxError;
use crate::cache::event::{EventType, write_frame};
use crate::cache::watcher::{WatchEnd, Watcher};
use crate::cache::{CacheEvent, Entry, Feed, Scope};
use crate::error::{from_fresh, from_reached};
use crate::metrics::WatchGuard;
use crate::options::{ReadOptions, Version};
use crate::resources::Resource;

/// Bytes gathered into one frame while events or initial objects are at hand: one TLS record.
const FRAME_BYTES: usize = 16 * 1024;
/// Between bookmarks, as Kubernetes has it: short enough to stay inside any server's history.
const BOOKMARK_INTERVAL: Duration = Duration::from_secs(60);
/// A watch without a timeout of its own ends between one and two times this, so that clients spread over servers again.
const TIMEOUT_MIN: Duration = Duration::from_secs(1800);
/// The annotation of the bookmark that ends the initial events.
const INITIAL_EVENTS_END: &str = r#","annotations":{"k8s.io/initial-events-end":"true"}"#;

/// Turns an object into other JSON than its own, at the given resourceVersion.
pub type Convert = Box<dyn FnMut(&Entry, Revision) -> Vec<u8> + Send>;

/// A watch about to start.
pub struct Watch {
    watcher: Watcher,
    initial: std::vec::IntoIter<Arc<Entry>>,
    /// The revision of the initial objects, when a bookmark must say that they are complete.
    initial_end: Option<Revision>,
}

/// A watch's body.
pub struct WatchBody {
    watch: Watch,
    events: VecDeque<Arc<CacheEvent>>,
    bookmark: Option<String>,
    convert: Option<Convert>,
    timer: Pin<Box<Sleep>>,
    next_bookmark: Instant,
    deadline: Instant,
    draining: Pin<Box<WaitForCancellationFutureOwned>>,
    metrics: WatchGuard,
    ended: bool,
}

/// Starts a watch of what is in scope, where the options say.
pub async fn start(
    feed: &Feed,
    resource: &Resource,
    scope: Scope,
    options: &ReadOptions,
) -> Result<Watch, ApiError> {
    let cache = resource.objects()?;
    match options.version {
        Version::Unset => _ = feed.fresh().await.map_err(from_fresh)?,
        Version::Any => {}
        Version::At(revision) => feed.reached(revision).await.map_err(from_reached)?,
    }
    let wants_state = options.initial_events.unwrap_or(!matches!(options.version, Version::At(_)));
    if wants_state {
        let listing = cache.list(&scope, None, 0);
        let initial_end = options.initial_events.is_some().then_some(listing.revision);
        let watcher = cache.watch_from_listing(scope, &listing);
        return Ok(Watch { watcher, initial: listing.entries.into_iter(), initial_end });
    }
    let from = match options.version {
        Version::At(revision) => revision,
        Version::Unset | Version::Any => cache.observed(),
    };
    let watcher = cache.watch_from_revision(scope, from).map_err(|end| ApiError::expired(end.to_string()))?;
    Ok(Watch { watcher, initial: Vec::new().into_iter(), initial_end: None })
}

// === impl WatchBody ===

impl WatchBody {
    /// The body of a watch. `convert` is for shapes other than the objects' own.
    pub fn new(
        watch: Watch,
        options: &ReadOptions,
        kind: &Kind,
        convert: Option<Convert>,
        draining: CancellationToken,
        metrics: WatchGuard,
    ) -> Self {
        let now = Instant::now();
        let timeout = options.timeout_seconds.filter(|seconds| *seconds > 0).map(Duration::from_secs);
        let deadline = now + timeout.unwrap_or_else(|| TIMEOUT_MIN.mul_f64(1.0 + rand::random::<f64>()));
        let bookmark = options.bookmarks.then(|| {
            format!(r#"{{"type":"BOOKMARK","object":{{"kind":"{}","apiVersion":"{}","metadata":{{"resourceVersion":""#, kind.kind, kind.api_version())
        });
        let next_bookmark = now + BOOKMARK_INTERVAL;
        let timer = Box::pin(tokio::time::sleep_until(deadline.min(next_bookmark)));
        let draining = Box::pin(draining.cancelled_owned());
        Self {
            watch,
            events: VecDeque::new(),
            bookmark,
            convert,
            timer,
            next_bookmark,
            deadline,
            draining,
            metrics,
            ended: false,
        }
    }

    /// Objects that were there when the watch started.
    fn initial(&mut self) -> Option<Bytes> {
        let mut out = Vec::new();
        while out.len() < FRAME_BYTES {
            let Some(entry) = self.watch.initial.next() else { break };
            self.metrics.sent(1);
            line(&mut self.convert, &mut out, EventType::Added, &entry, entry.revision());
        }
        if out.len() < FRAME_BYTES
            && let Some(revision) = self.watch.initial_end.take()
        {
            self.write_bookmark(&mut out, revision, INITIAL_EVENTS_END);
        }
        (!out.is_empty()).then(|| out.into())
    }

    /// Events that have been taken from the ring, as many as make a frame.
    fn buffered(&mut self) -> Option<Bytes> {
        let mut first: Option<Bytes> = None;
        let mut out = Vec::new();
        while out.len() < FRAME_BYTES {
            let Some(event) = self.events.pop_front() else { break };
            let Some((event_type, object)) = event.seen_by(self.watch.watcher.scope()) else { continue };
            self.metrics.sent(1);
            if self.convert.is_some() {
                line(&mut self.convert, &mut out, event_type, object, event.revision);
                continue;
            }
            // One event is sent as the bytes that all watchers share; only a run of them is copied together.
            match first.take() {
                None if out.is_empty() => first = Some(event.frame(event_type)),
                None => out.extend_from_slice(&event.frame(event_type)),
                Some(frame) => {
                    out.extend_from_slice(&frame);
                    out.extend_from_slice(&event.frame(event_type));
                }
            }
        }
        first.or_else(|| (!out.is_empty()).then(|| out.into()))
    }

    fn write_bookmark(&self, out: &mut Vec<u8>, revision: Revision, annotations: &str) {
        let Some(head) = &self.bookmark else { return };
        out.extend_from_slice(head.as_bytes());
        out.extend_from_slice(
            format!("{revision}\",\"creationTimestamp\":null{annotations}}}}}}}\n").as_bytes(),
        );
    }

    /// The bookmark that is due, or the end; `None` while neither is.
    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        while self.timer.as_mut().poll(cx).is_ready() {
            let now = Instant::now();
            if now >= self.deadline {
                return Poll::Ready(None);
            }
            self.next_bookmark = now + BOOKMARK_INTERVAL;
            self.timer.as_mut().reset(self.deadline.min(self.next_bookmark));
            if let Some(revision) = self.watch.watcher.caught_up_at() {
                let mut out = Vec::new();
                self.write_bookmark(&mut out, revision, "");
                if !out.is_empty() {
                    return Poll::Ready(Some(out.into()));
                }
            }
        }
        Poll::Pending
    }

    /// The last line of a watch that cannot go on.
    fn end(&mut self, end: WatchEnd) -> Bytes {
        self.ended = true;
        let error = ApiError::expired(end.to_string());
        let status = serde_json::to_string(error.status()).expect("invariant: a status has string keys only");
        format!("{{\"type\":\"ERROR\",\"object\":{status}}}\n").into()
    }
}

fn line(
    convert: &mut Option<Convert>,
    out: &mut Vec<u8>,
    event_type: EventType,
    entry: &Entry,
    revision: Revision,
) {
    let Some(convert) = convert else { return write_frame(out, event_type, entry, revision) };
    out.extend_from_slice(format!("{{\"type\":\"{}\",\"object\":", event_type.as_str()).as_bytes());
    out.extend_from_slice(&convert(entry, revision));
    out.extend_from_slice(b"}\n");
}

impl HttpBody for WatchBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        let frame = |bytes| Poll::Ready(Some(Ok(Frame::data(bytes))));
        if this.ended || this.draining.as_mut().poll(cx).is_ready() {
            return Poll::Ready(None);
        }
        if let Some(bytes) = this.initial() {
            return frame(bytes);
        }
        loop {
            if let Some(bytes) = this.buffered() {
                return frame(bytes);
            }
            match this.watch.watcher.poll_events(cx, &mut this.events) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(end)) => return frame(this.end(end)),
                Poll::Pending => break,
            }
        }
        match this.poll_timer(cx) {
            Poll::Ready(Some(bytes)) => frame(bytes),
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    }
}
