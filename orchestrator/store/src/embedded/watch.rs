//! One watch: the stream that a watcher polls. It reads the recent history, and the log where that no longer reaches.

use std::{
    collections::VecDeque,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use futures::Stream;
use tokio::task::{JoinHandle, spawn_blocking};

use super::{
    history::{Change, Next},
    log::Reader,
    record::{Record, Spot},
    shared::{Shared, key_value},
};
use crate::{
    error::StoreError,
    types::{Event, KeyRange, KeyValue, Revision, WatchItem},
};

/// The result of reading the log: what to deliver, and the revision to go on from.
type CatchUp = Result<(Vec<WatchItem>, Revision), StoreError>;

/// A registered watcher.
pub(super) struct Watch {
    shared: Arc<Shared>,
    id: u64,
    range: KeyRange,
    ready: VecDeque<WatchItem>,
    catching_up: Option<JoinHandle<CatchUp>>,
    ended: bool,
}

// === impl Watch ===

impl Watch {
    /// Registers a watcher, if the history that it asks for is there.
    pub fn new(shared: Arc<Shared>, range: KeyRange, from: Revision) -> Result<Self, StoreError> {
        // 0 means "from the beginning", which only an uncompacted store still has.
        let from = from.max(1);
        check(&shared, &range, from)?;
        let id = shared.history.register(range.clone(), from);
        Ok(Self { shared, id, range, ready: VecDeque::new(), catching_up: None, ended: false })
    }

    fn poll_item(&mut self, cx: &mut Context<'_>) -> Poll<Result<WatchItem, StoreError>> {
        loop {
            if let Some(item) = self.ready.pop_front() {
                return Poll::Ready(Ok(item));
            }
            if let Some(reading) = &mut self.catching_up {
                let read = ready!(Pin::new(reading).poll(cx));
                self.catching_up = None;
                // A task that reads does not panic; it is cancelled only when the runtime shuts down.
                let (items, next) = read.unwrap_or(Err(StoreError::Closed))?;
                self.ready.extend(items);
                self.shared.history.caught_up(self.id, next);
                continue;
            }
            match self.shared.history.next(self.id, cx) {
                Next::Changes(changes) => {
                    self.ready.extend(changes.iter().map(|change| item(change, &self.range)))
                }
                Next::Behind { from, tail } => self.catching_up = Some(self.catch_up(from, tail)),
                Next::Progress(revision) => return Poll::Ready(Ok(WatchItem::Progress { revision })),
                Next::Nothing => return Poll::Pending,
                Next::Closed => return Poll::Ready(Err(StoreError::Closed)),
            }
        }
    }

    fn catch_up(&self, from: Revision, tail: Revision) -> JoinHandle<CatchUp> {
        let (shared, range) = (self.shared.clone(), self.range.clone());
        spawn_blocking(move || read_log(&shared, &range, from, tail))
    }
}

impl Stream for Watch {
    type Item = Result<WatchItem, StoreError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let item = ready!(self.poll_item(cx));
        self.ended = item.is_err();
        if let Ok(WatchItem::Events { events, .. }) = &item {
            self.shared.metrics.watch_events.inc_by(events.len() as u64);
        }
        Poll::Ready(Some(item))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.shared.history.unregister(self.id);
    }
}

/// The events of a change that lie in a range.
fn item(change: &Change, range: &KeyRange) -> WatchItem {
    let events = change.events.iter().filter(|event| range.contains(event.key())).cloned().collect();
    WatchItem::Events { revision: change.revision, events }
}

/// Whether the events from a revision on are still there; the one that a compaction kept may have lost its neighbours.
fn check(shared: &Shared, range: &KeyRange, from: Revision) -> Result<(), StoreError> {
    let oldest = shared.index.oldest(range) + 1;
    if from < oldest { Err(StoreError::Compacted { requested: from, oldest }) } else { Ok(()) }
}

/// Reads some of the history up to `tail` from the log; what lies in memory only is lost to whoever is so far behind.
fn read_log(shared: &Shared, range: &KeyRange, from: Revision, tail: Revision) -> CatchUp {
    if shared.classes.meets_ephemeral(range) {
        return Err(StoreError::Compacted { requested: from, oldest: tail + 1 });
    }
    let mut items = Vec::new();
    let mut next = tail + 1;
    shared.readers.with(|reader| {
        let rows = reader.rows(from)?;
        if let (true, Some((last, _))) = (rows.more, rows.found.last()) {
            next = next.min(last + 1);
        }
        for (revision, records) in rows.found.into_iter().take_while(|(revision, _)| *revision < next) {
            let events = records.into_iter().filter_map(|record| event(revision, record, range)).map(
                |(event, former)| {
                    let prev = former.map_or(Ok(None), |spot| former_state(reader, spot));
                    prev.map(|prev| with_prev(event, prev))
                },
            );
            let events: Vec<Event> = events.collect::<Result<_, StoreError>>()?;
            if !events.is_empty() {
                items.push(WatchItem::Events { revision, events });
            }
        }
        Ok(())
    })?;
    // A compaction since then may have removed rows while they were read.
    check(shared, range, from)?;
    Ok((items, next))
}

fn event(revision: Revision, record: Record, range: &KeyRange) -> Option<(Event, Option<Spot>)> {
    match record {
        Record::Put { key, create_revision, version, former, value } if range.contains(&key) => {
            let kv = KeyValue { key, value, create_revision, mod_revision: revision, version };
            Some((Event::Put { kv, prev: None }, former))
        }
        Record::Delete { key, former } if range.contains(&key) => {
            Some((Event::Delete { key, prev: None, revision }, former))
        }
        _ => None,
    }
}

fn with_prev(mut event: Event, former: Option<KeyValue>) -> Event {
    match &mut event {
        Event::Put { prev, .. } | Event::Delete { prev, .. } => *prev = former,
    }
    event
}

fn former_state(reader: &Reader<'_>, spot: Spot) -> Result<Option<KeyValue>, StoreError> {
    let record = reader.row(spot.revision)?.and_then(|records| records.into_iter().nth(spot.index as usize));
    Ok(record.and_then(|record| key_value(spot.revision, record)))
}
