//! The writer: one thread that commits what is queued at once, in one transaction of the log.
//!
//! Waiting for more to come would only add to the time of those who wait: while one group syncs, the next one queues. The
//! order of the queue is the order of revisions. A group becomes durable, then visible to reads, then its writers are
//! answered, and then watchers are told: what follows from a write does not stand before its answer.

use std::{
    mem,
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot, watch};

use super::{
    ephemeral::Ephemerals,
    history::Change,
    index::{Place, Version},
    lock::DirectoryLock,
    log::Log,
    recent::{Recent, RecentKey},
    shared::Shared,
    stage::{Group, Outcome, Staged},
    sweep::Sweeper,
};
use crate::{
    class::StorageClass,
    error::StoreError,
    types::{LeaseId, Op, Revision, Txn},
};

/// Transactions of one commit: four times as many as 64 busy clients queue during a sync.
const GROUP_COMMANDS: usize = 256;

/// When nothing was asked for so long, clients are not just between two requests, and there is time to remove history.
const IDLE: Duration = Duration::from_millis(2);

/// Revisions reserved at a time: one sync in so many writes, and so many skipped after a crash, of 2^63.
const RESERVED_REVISIONS: Revision = 1 << 16;

/// Keys applied to the index in one hold of its lock: some 30 us.
const APPLY_KEYS: usize = 64;

/// When something that ends by itself could not be deleted.
const TRY_AGAIN: Duration = Duration::from_secs(30);

/// Answers a transaction.
pub(super) type Reply = oneshot::Sender<Result<Outcome, StoreError>>;

/// Of each transaction of a group, in order.
type Outcomes = Vec<Result<Outcome, StoreError>>;

/// What the writer is asked to do.
pub(super) enum Command {
    Txn {
        txn: Txn,
        reply: Reply,
        _queued: OwnedSemaphorePermit,
    },
    Grant {
        ttl: Duration,
        reply: oneshot::Sender<Result<LeaseId, StoreError>>,
    },
    KeepAlive {
        lease: LeaseId,
        reply: oneshot::Sender<Result<(), StoreError>>,
    },
    Revoke {
        lease: LeaseId,
        reply: oneshot::Sender<Result<(), StoreError>>,
    },
    Compact {
        revision: Revision,
        reply: oneshot::Sender<Result<(), StoreError>>,
    },
    /// Something may have ended by itself.
    Expire,
    Close {
        reply: oneshot::Sender<()>,
    },
}

/// Everything that only the writer touches.
pub(super) struct Writer {
    pub shared: Arc<Shared>,
    pub log: Log,
    pub recent: Recent,
    pub ephemerals: Ephemerals,
    pub sweeper: Sweeper,
    /// The last revision taken, used or not.
    pub last: Revision,
    /// Revisions up to this one are durably ours.
    pub reserved: Revision,
    /// Why nothing can be written until the store is opened again.
    pub failed: Option<StoreError>,
    /// The disk was full when a write was last tried.
    pub full: bool,
    pub commands: mpsc::Receiver<Command>,
    /// When something ends by itself; whoever waits for that sends [`Command::Expire`].
    pub next_end: watch::Sender<Option<Instant>>,
    /// Held as long as the files are open.
    pub lock: DirectoryLock,
}

// === impl Writer ===

impl Writer {
    /// Works until the store is closed or dropped.
    pub fn run(mut self) {
        let mut commands = Vec::with_capacity(GROUP_COMMANDS);
        self.tell_next_end();
        let mut closed = None;
        while closed.is_none() && self.receive(&mut commands) {
            closed = self.work(&mut commands);
        }
        self.finish(closed);
    }

    /// Waits for commands, and uses the time until some come to remove old history. False when the store is dropped.
    fn receive(&mut self, commands: &mut Vec<Command>) -> bool {
        while self.sweeper.is_busy() {
            match self.receive_within(IDLE, commands) {
                Some(received) => {
                    self.sweeper.step_now_and_then(&self.log, &self.shared);
                    return received > 0;
                }
                None => self.sweeper.step(&self.log, &self.shared),
            }
        }
        self.commands.blocking_recv_many(commands, GROUP_COMMANDS) > 0
    }

    /// Waits for commands, but not longer than so. Without the runtime's clock, which may stop before this thread does.
    fn receive_within(&mut self, wait: Duration, commands: &mut Vec<Command>) -> Option<usize> {
        let waker = Waker::from(Arc::new(Unpark(thread::current())));
        let mut cx = Context::from_waker(&waker);
        let deadline = Instant::now() + wait;
        loop {
            if let Poll::Ready(received) = self.commands.poll_recv_many(&mut cx, commands, GROUP_COMMANDS) {
                return Some(received);
            }
            let left = deadline.checked_duration_since(Instant::now())?;
            thread::park_timeout(left);
        }
    }

    /// Carries out commands in their order; transactions side by side are one group.
    fn work(&mut self, commands: &mut Vec<Command>) -> Option<oneshot::Sender<()>> {
        let mut txns = Vec::new();
        let mut replies = Vec::new();
        let mut closed = None;
        for command in commands.drain(..) {
            if let Command::Txn { txn, reply, _queued } = command {
                txns.push(txn);
                replies.push(reply);
                continue;
            }
            self.commit(mem::take(&mut txns), mem::take(&mut replies));
            match command {
                Command::Txn { .. } => {}
                Command::Grant { ttl, reply } => answer(reply, self.grant(ttl)),
                Command::KeepAlive { lease, reply } => answer(reply, self.keep_alive(lease)),
                Command::Revoke { lease, reply } => answer(reply, self.revoke(lease)),
                Command::Compact { revision, reply } => answer(reply, self.compact(revision)),
                Command::Expire => self.expire(),
                Command::Close { reply } => closed = Some(reply),
            }
        }
        self.commit(txns, replies);
        self.make_room();
        self.tell_next_end();
        closed
    }

    /// Makes a group of transactions durable and visible, answers, and tells watchers.
    fn commit(&mut self, txns: Vec<Txn>, replies: Vec<Reply>) {
        let (outcomes, changes) = self.apply(&txns);
        replies.into_iter().zip(outcomes).for_each(|(reply, outcome)| answer(reply, outcome));
        self.publish(changes);
    }

    /// Makes a group durable and visible to reads. Its changes are still to be published.
    fn apply(&mut self, txns: &[Txn]) -> (Outcomes, Vec<Change>) {
        if txns.is_empty() {
            return (Vec::new(), Vec::new());
        }
        if let Err(error) = self.reserve(txns.len() as Revision) {
            self.note_failure(&error);
            return (txns.iter().map(|_| Err(error.clone())).collect(), Vec::new());
        }
        let refused = self.failed.clone();
        let (staged, outcomes) = match self.make_durable(txns, refused) {
            Ok(done) => done,
            Err(error) => {
                self.log.rollback();
                self.note_failure(&error);
                // Without durable changes nothing is left that could fail.
                self.make_durable(txns, Some(error.clone()))
                    .unwrap_or_else(|_| (Vec::new(), txns.iter().map(|_| Err(error.clone())).collect()))
            }
        };
        (outcomes, self.make_visible(staged))
    }

    fn make_durable(
        &mut self,
        txns: &[Txn],
        refused: Option<StoreError>,
    ) -> Result<(Vec<Staged>, Outcomes), StoreError> {
        let mut group = Group::new(&self.shared, &self.log, &self.ephemerals, refused, self.last);
        let added = txns.iter().try_for_each(|txn| group.add(txn));
        let Group { staged, outcomes, durable, .. } = {
            // Revisions of a group that fails stay unused: who was told of them, if anybody, must not meet them again.
            self.last = group.last();
            group
        };
        added?;
        if durable {
            let start = Instant::now();
            self.log.commit()?;
            if mem::take(&mut self.full) {
                tracing::info!("the store has space again and takes writes");
            }
            self.shared.metrics.sync_seconds.observe(start.elapsed().as_secs_f64());
            self.shared.metrics.group_size.observe(staged.len() as f64);
        }
        Ok((staged, outcomes))
    }

    /// After a commit whose outcome is unknown, what the index says and what the log holds may differ: only opening the
    /// store again tells.
    fn note_failure(&mut self, error: &StoreError) {
        if let StoreError::OutcomeUnknown { reason } = error {
            tracing::error!(%error, "the store takes no more writes");
            let reason = format!("an earlier write failed ({reason}); mend the disk and restart the server");
            self.failed = Some(StoreError::Unavailable { reason });
        }
        // Told when it begins and when it ends, not with every write that is refused.
        if matches!(error, StoreError::Full { .. }) && !mem::replace(&mut self.full, true) {
            tracing::error!(%error, "the store refuses writes until there is space; reads go on");
        }
    }

    fn make_visible(&mut self, staged: Vec<Staged>) -> Vec<Change> {
        let mut changes = Vec::with_capacity(staged.len());
        let mut versions = Vec::new();
        let mut head = 0;
        for Staged { change, versions: mut of_change, leases } in staged {
            head = change.revision;
            self.note_ephemerals(change.revision, &of_change, leases);
            self.sweeper.count(&change);
            versions.append(&mut of_change);
            changes.push(change);
            if versions.len() >= APPLY_KEYS {
                self.shared.index.apply(mem::take(&mut versions), head);
            }
        }
        if !changes.is_empty() {
            self.shared.index.apply(versions, head);
            self.flush_recent();
        }
        changes
    }

    fn publish(&mut self, changes: Vec<Change>) {
        let Some(head) = changes.last().map(|change| change.revision) else { return };
        let evicted = self.shared.history.publish(changes, head);
        if evicted.revision > 0 {
            self.shared.index.forget(evicted.keys, evicted.revision);
        }
        self.sweeper.limit_history(&self.log, &self.shared);
        self.measure();
    }

    /// Leases, times to live, and the table of what is not in the log.
    fn note_ephemerals(
        &mut self,
        revision: Revision,
        versions: &[(Bytes, Version)],
        leases: Vec<(Bytes, Option<LeaseId>)>,
    ) {
        for (key, lease) in leases {
            self.ephemerals.attach(&key, lease);
            self.recent.changed(key);
        }
        let now = Instant::now();
        for (key, version) in versions {
            match (&version.place, self.shared.classes.of(key)) {
                (Place::Memory(value), StorageClass::Event) => {
                    let bytes = key.len() + value.len();
                    self.ephemerals.event_written(key, revision, bytes, Duration::ZERO, now);
                }
                (Place::Memory(value), _) => self.ephemerals.kept_written(key, key.len() + value.len()),
                _ => self.ephemerals.deleted(key),
            }
        }
    }

    /// Keys under a lease do not survive the process, by promise.
    fn flush_recent(&mut self) {
        let (index, ephemerals) = (&self.shared.index, &self.ephemerals);
        self.recent.flush(|key| {
            let version = index.newest(key).filter(|_| !ephemerals.is_leased(key))?;
            let Place::Memory(value) = version.place else { return None };
            Some(RecentKey {
                key: key.clone(),
                value: Bytes::clone(&value),
                create_revision: version.create_revision,
                mod_revision: version.mod_revision,
                version: version.version,
                age: Duration::ZERO,
            })
        });
    }

    /// Makes sure that so many revisions can be taken, now and after a crash.
    fn reserve(&mut self, count: Revision) -> Result<(), StoreError> {
        if self.last + count <= self.reserved {
            return Ok(());
        }
        let upto = self.last + count + RESERVED_REVISIONS;
        self.log.set("reserved", upto)?;
        self.reserved = upto;
        Ok(())
    }

    /// A lease takes its name from the sequence of revisions: no other ever has it, nor after a restart.
    fn grant(&mut self, ttl: Duration) -> Result<LeaseId, StoreError> {
        self.reserve(1)?;
        self.last += 1;
        let id = LeaseId(self.last as i64);
        self.ephemerals.grant(id, ttl, Instant::now());
        Ok(id)
    }

    fn keep_alive(&mut self, lease: LeaseId) -> Result<(), StoreError> {
        if self.ephemerals.keep_alive(lease, Instant::now()) {
            Ok(())
        } else {
            Err(StoreError::LeaseNotFound { lease })
        }
    }

    fn revoke(&mut self, lease: LeaseId) -> Result<(), StoreError> {
        let keys = self.ephemerals.revoke(lease).ok_or(StoreError::LeaseNotFound { lease })?;
        self.delete(keys)
    }

    fn compact(&mut self, revision: Revision) -> Result<(), StoreError> {
        self.sweeper.compact(&self.log, &self.shared, revision)
    }

    fn expire(&mut self) {
        let now = Instant::now();
        for lease in self.ephemerals.ended_leases(now) {
            let keys = self.ephemerals.revoke(lease).unwrap_or_default();
            self.shared.metrics.expired.with_label_values(&["lease"]).inc_by(keys.len() as u64);
            // Fails only without revisions, of which an operator hears from every writer.
            let _ = self.delete(keys);
        }
        let keys = self.ephemerals.ended_events(now);
        self.delete_events(keys, "time");
        self.next_end.send_replace(self.ephemerals.next_end());
    }

    fn make_room(&mut self) {
        let keys = self.ephemerals.surplus_events();
        self.delete_events(keys, "room");
    }

    fn delete_events(&mut self, keys: Vec<Bytes>, reason: &str) {
        if keys.is_empty() {
            return;
        }
        self.shared.metrics.expired.with_label_values(&[reason]).inc_by(keys.len() as u64);
        if self.delete(keys.clone()).is_err() {
            keys.into_iter().for_each(|key| self.ephemerals.try_again(key, Instant::now() + TRY_AGAIN));
        }
    }

    /// Deletes keys at one revision.
    fn delete(&mut self, keys: Vec<Bytes>) -> Result<(), StoreError> {
        let then = keys.into_iter().map(|key| Op::Delete { key }).collect();
        let (outcomes, changes) = self.apply(&[Txn { then, ..Txn::default() }]);
        self.publish(changes);
        outcomes.into_iter().try_for_each(|outcome| outcome.map(drop))
    }

    fn tell_next_end(&self) {
        let next = self.ephemerals.next_end();
        self.next_end.send_if_modified(|current| mem::replace(current, next) != next);
    }

    fn measure(&self) {
        let Shared { index, history, metrics, .. } = &*self.shared;
        let (watchers, history_bytes) = history.size();
        metrics.revision.set(index.current() as i64);
        metrics.keys.set(index.live() as i64);
        metrics.superseded.set(index.superseded() as i64);
        metrics.watchers.set(watchers as i64);
        metrics.history_bytes.set(history_bytes as i64);
    }

    /// Leaves files that open without repair, and without skipped revisions.
    fn finish(mut self, closed: Option<oneshot::Sender<()>>) {
        self.commands.close();
        self.shared.history.close();
        self.flush_recent();
        if let Err(error) = self.log.set("reserved", self.last) {
            tracing::info!(%error, "some revisions will be skipped at the next start");
        }
        self.shared.readers.close();
        let Self { log, recent, lock, .. } = self;
        drop(log);
        drop(recent);
        drop(lock);
        if let Some(closed) = closed {
            answer(closed, ());
        }
    }
}

/// Wakes a thread that is parked.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Whoever asked may have gone; what was asked for has happened all the same.
fn answer<T>(reply: oneshot::Sender<T>, result: T) {
    let _ = reply.send(result);
}
