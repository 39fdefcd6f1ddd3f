//! One watch of etcd that outlives its connections: after each interruption it resumes at the first revision not yet
//! delivered, and drops what it has seen. The reader's pace is the connection's pace: nothing is buffered but one response.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use etcd_client::{WatchClient, WatchOptions, WatchResponse, WatchStream as Responses};
use futures::{Stream, stream};
use tokio::{
    sync::watch as channel,
    time::{sleep, timeout},
};

use super::{REQUEST_DEADLINE, convert};
use crate::{
    error::StoreError,
    metrics::Metrics,
    types::{KeyRange, Revision, WatchItem},
};

/// The count of progress requests that means the store is closed.
pub(super) const CLOSED: u64 = u64::MAX;

/// Between attempts to resume: an etcd that restarts is back in a second, and nobody needs to hammer one that is not.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// A watch with its place.
pub(super) struct EtcdWatch {
    client: WatchClient,
    range: KeyRange,
    /// The first revision not yet delivered.
    next: Revision,
    connection: Option<Connection>,
    ready: VecDeque<WatchItem>,
    /// Counts the store's requests for progress.
    progress: channel::Receiver<u64>,
    /// A request for progress is not answered yet.
    progress_wanted: bool,
    /// Before the next attempt to connect; none after a connection that worked.
    pause: Option<Duration>,
    compacted: Arc<AtomicU64>,
    metrics: Arc<Metrics>,
}

struct Connection {
    responses: Responses,
    /// etcd has confirmed the watch; only then does progress mean this watch.
    created: bool,
    /// Progress was requested on this connection.
    asked: bool,
}

/// What woke a watch up.
enum Wake {
    Response(Result<Option<WatchResponse>, etcd_client::Error>),
    Progress,
    Closed,
}

// === impl EtcdWatch ===

impl EtcdWatch {
    pub fn new(
        client: WatchClient,
        range: KeyRange,
        from: Revision,
        mut progress: channel::Receiver<u64>,
        compacted: Arc<AtomicU64>,
        metrics: Arc<Metrics>,
    ) -> Self {
        progress.mark_unchanged();
        metrics.watchers.inc();
        Self {
            client,
            range,
            next: from,
            connection: None,
            ready: VecDeque::new(),
            progress,
            progress_wanted: false,
            pause: None,
            compacted,
            metrics,
        }
    }

    /// The watch as a stream, which ends after an error.
    pub fn into_stream(self) -> impl Stream<Item = Result<WatchItem, StoreError>> + Send {
        stream::unfold(Some(self), |watch| async {
            let mut watch = watch?;
            match watch.item().await {
                Ok(item) => Some((Ok(item), Some(watch))),
                Err(error) => Some((Err(error), None)),
            }
        })
    }

    async fn item(&mut self) -> Result<WatchItem, StoreError> {
        loop {
            if let Some(item) = self.ready.pop_front() {
                if let WatchItem::Events { events, .. } = &item {
                    self.metrics.watch_events.inc_by(events.len() as u64);
                }
                return Ok(item);
            }
            if *self.progress.borrow() == CLOSED {
                return Err(StoreError::Closed);
            }
            match &mut self.connection {
                None => self.connect().await,
                Some(connection) => {
                    let wake = wait(connection, &mut self.progress).await;
                    self.handle(wake).await?;
                }
            }
        }
    }

    async fn handle(&mut self, wake: Wake) -> Result<(), StoreError> {
        match wake {
            Wake::Closed => return Err(StoreError::Closed),
            Wake::Progress => {
                self.progress_wanted = true;
                self.ask_for_progress(true).await;
            }
            Wake::Response(Ok(Some(response))) => {
                self.take(&response)?;
                self.ask_for_progress(false).await;
            }
            Wake::Response(Ok(None)) => self.interrupted("etcd ended the stream"),
            Wake::Response(Err(error)) => self.interrupted(&error.to_string()),
        }
        Ok(())
    }

    /// Tries to resume: at once after a connection that worked, else after a pause that grows.
    async fn connect(&mut self) {
        if let Some(pause) = self.pause {
            sleep(pause).await;
        }
        self.pause = Some(self.pause.map_or(PAUSE_MIN, |pause| (pause * 2).min(PAUSE_MAX)));
        let (start, end) = convert::range(&self.range);
        let options = WatchOptions::new()
            .with_range(end)
            .with_start_revision(self.next as i64)
            .with_prev_key()
            .with_progress_notify();
        match timeout(REQUEST_DEADLINE, self.client.watch(start, Some(options))).await {
            Ok(Ok(responses)) => {
                self.connection = Some(Connection { responses, created: false, asked: false });
            }
            Ok(Err(error)) => self.interrupted(&error.to_string()),
            Err(_) => self.interrupted("etcd is silent"),
        }
    }

    fn interrupted(&mut self, cause: &str) {
        if self.connection.take().is_some_and(|connection| connection.created) {
            tracing::info!(cause, next = self.next, "a watch of etcd is interrupted and will resume");
            self.metrics.reconnects.inc();
        }
    }

    /// Asks etcd, once for each connection and request.
    async fn ask_for_progress(&mut self, again: bool) {
        let Some(connection) = &mut self.connection else { return };
        if !self.progress_wanted || !connection.created || (connection.asked && !again) {
            return;
        }
        connection.asked = true;
        if let Err(error) = connection.responses.request_progress().await {
            self.interrupted(&error.to_string());
        }
    }

    fn take(&mut self, response: &WatchResponse) -> Result<(), StoreError> {
        self.pause = None;
        if response.canceled() {
            return self.canceled(response);
        }
        if response.created() {
            if let Some(connection) = &mut self.connection {
                connection.created = true;
            }
            return Ok(());
        }
        if response.events().is_empty() {
            let revision = convert::revision(response.header());
            self.next = self.next.max(revision + 1);
            self.progress_wanted = false;
            self.ready.push_back(WatchItem::Progress { revision });
            return Ok(());
        }
        self.take_events(response);
        Ok(())
    }

    /// etcd does not split a revision over responses unless asked to.
    fn take_events(&mut self, response: &WatchResponse) {
        let first = self.next;
        let events =
            response.events().iter().filter_map(convert::event).filter(|event| event.revision() >= first);
        for event in events {
            let at = event.revision();
            match self.ready.back_mut() {
                Some(WatchItem::Events { revision, events }) if *revision == at => events.push(event),
                _ => self.ready.push_back(WatchItem::Events { revision: at, events: vec![event] }),
            }
            self.next = at + 1;
        }
        self.metrics.revision.set(self.metrics.revision.get().max(self.next as i64 - 1));
    }

    fn canceled(&mut self, response: &WatchResponse) -> Result<(), StoreError> {
        let compacted = response.compact_revision().unsigned_abs();
        if compacted != 0 {
            self.compacted.fetch_max(compacted, Ordering::Relaxed);
            return Err(StoreError::Compacted { requested: self.next, oldest: compacted });
        }
        // No leader, or a member that shuts down: another one, or the same a little later, goes on.
        self.interrupted(response.cancel_reason());
        Ok(())
    }
}

impl Drop for EtcdWatch {
    fn drop(&mut self) {
        self.metrics.watchers.dec();
    }
}

async fn wait(connection: &mut Connection, progress: &mut channel::Receiver<u64>) -> Wake {
    tokio::select! {
        response = connection.responses.message() => Wake::Response(response),
        changed = progress.changed() => match changed {
            Ok(()) if *progress.borrow() != CLOSED => Wake::Progress,
            _ => Wake::Closed,
        },
    }
}
