//! A follower of a cache. Changes of one object that were not yet read are merged, so a queue never holds more
//! entries than there are objects: a slow follower costs memory for keys only and sees the newest state.
use std::{
    collections::{HashMap, VecDeque},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures::{Stream, StreamExt, task::AtomicWaker};
use parking_lot::Mutex;

use super::AbortOnDrop;
use crate::{HasMeta, ObjectKey};

/// A change of a cache.
#[derive(Debug, PartialEq, Eq)]
pub enum Delta<T> {
    /// The first list is complete; said once.
    Synced,
    /// An object is new or has changed.
    Upsert {
        /// What this follower saw last.
        old: Option<Arc<T>>,
        /// What it is now.
        new: Arc<T>,
    },
    /// An object is gone. One that came back under its name, with another uid, is deleted first.
    Delete(Arc<T>),
}

/// A stream of changes.
pub struct Subscription<T> {
    queue: Arc<Queue<T>>,
    /// Keeps the informer running.
    _task: Arc<AbortOnDrop>,
}

pub(super) struct Queue<T> {
    pending: Mutex<Pending<T>>,
    waker: AtomicWaker,
}

struct Pending<T> {
    order: VecDeque<Entry>,
    changes: HashMap<ObjectKey, Change<T>>,
}

enum Entry {
    Key(ObjectKey),
    Synced,
}

struct Change<T> {
    old: Option<Arc<T>>,
    new: Option<Arc<T>>,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        let pending = Pending { order: VecDeque::new(), changes: HashMap::new() };
        Self { pending: Mutex::new(pending), waker: AtomicWaker::new() }
    }
}

// === impl Queue ===

impl<T> Queue<T> {
    pub(super) fn push(&self, key: &ObjectKey, old: Option<Arc<T>>, new: Option<Arc<T>>) {
        let mut pending = self.pending.lock();
        match pending.changes.get_mut(key) {
            Some(change) => change.new = new,
            None => {
                pending.changes.insert(key.clone(), Change { old, new });
                pending.order.push_back(Entry::Key(key.clone()));
            }
        }
        drop(pending);
        self.waker.wake();
    }

    pub(super) fn push_synced(&self) {
        self.pending.lock().order.push_back(Entry::Synced);
        self.waker.wake();
    }
}

impl<T: HasMeta> Pending<T> {
    fn pop(&mut self) -> Option<Delta<T>> {
        loop {
            let Entry::Key(key) = self.order.pop_front()? else { return Some(Delta::Synced) };
            let change = self.changes.remove(&key).expect("invariant: each key in order has its change");
            match (change.old, change.new) {
                (Some(old), Some(new)) if old.meta().uid != new.meta().uid => {
                    self.changes.insert(key.clone(), Change { old: None, new: Some(new) });
                    self.order.push_front(Entry::Key(key));
                    return Some(Delta::Delete(old));
                }
                (old, Some(new)) => return Some(Delta::Upsert { old, new }),
                (Some(old), None) => return Some(Delta::Delete(old)),
                (None, None) => {}
            }
        }
    }
}

// === impl Subscription ===

impl<T: HasMeta> Subscription<T> {
    pub(super) fn new(queue: Arc<Queue<T>>, task: Arc<AbortOnDrop>) -> Self {
        Self { queue, _task: task }
    }

    /// The next change; waits for it. Never ends.
    pub async fn recv(&mut self) -> Delta<T> {
        self.next().await.expect("invariant: a subscription keeps its informer alive")
    }

    /// The next change, if there is one now.
    pub fn try_recv(&mut self) -> Option<Delta<T>> {
        self.queue.pending.lock().pop()
    }
}

impl<T: HasMeta> Stream for Subscription<T> {
    type Item = Delta<T>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Delta<T>>> {
        self.queue.waker.register(cx.waker());
        match self.queue.pending.lock().pop() {
            Some(delta) => Poll::Ready(Some(delta)),
            None => Poll::Pending,
        }
    }
}
