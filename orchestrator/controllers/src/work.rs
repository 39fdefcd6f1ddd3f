//! What all controllers run on: a queue of keys, workers, and followers that turn changes into keys.
//!
//! Level-triggered: a key says *look at this again*, never what has changed. A key that is being worked on is not given
//! out a second time; added meanwhile, it comes again afterwards. Failures come back later and later.
use std::{
    collections::{BTreeSet, HashMap, HashSet, VecDeque},
    fmt::Display,
    hash::Hash,
    time::Duration,
};

use client::{Delta, Error, HasMeta, Subscription, backoff::jitter};
use futures::{StreamExt, stream::FuturesUnordered};
use parking_lot::Mutex;
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

use crate::Metrics;

/// Another writer was faster: the informer brings its write in a moment.
const RETRY_FIRST: Duration = Duration::from_millis(20);
/// What keeps failing is tried twice a minute: often enough to heal by itself, rare enough to bother nobody.
const RETRY_MAX: Duration = Duration::from_secs(30);
/// Changes taken in a row before others of the task have their turn.
const CHANGES_BATCH: usize = 64;

/// What a reconciliation wants next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Nothing until something changes.
    Done,
    /// Another look after this time, because time is what changes.
    After(Duration),
}

impl Next {
    /// The earlier of two wishes.
    pub fn sooner(self, other: Self) -> Self {
        match (self, other) {
            (Self::After(a), Self::After(b)) => Self::After(a.min(b)),
            (Self::Done, next) | (next, Self::Done) => next,
        }
    }
}

/// A queue of keys.
#[derive(Debug)]
pub struct WorkQueue<K> {
    state: Mutex<State<K>>,
    wake: Notify,
}

#[derive(Debug)]
struct State<K> {
    ready: VecDeque<K>,
    /// Keys in `ready`, and running keys that were added again.
    dirty: HashSet<K>,
    running: HashSet<K>,
    delayed: BTreeSet<(Instant, K)>,
    due: HashMap<K, Instant>,
    failures: HashMap<K, u32>,
}

impl<K> Default for WorkQueue<K> {
    fn default() -> Self {
        let state = State {
            ready: VecDeque::new(),
            dirty: HashSet::new(),
            running: HashSet::new(),
            delayed: BTreeSet::new(),
            due: HashMap::new(),
            failures: HashMap::new(),
        };
        Self { state: Mutex::new(state), wake: Notify::new() }
    }
}

// === impl WorkQueue ===

impl<K: Clone + Eq + Hash + Ord + Display> WorkQueue<K> {
    /// Has the key looked at.
    pub fn add(&self, key: K) {
        self.state.lock().add(key);
        self.wake.notify_one();
    }

    /// Has the key looked at after some time, or earlier if that was asked for before.
    pub fn add_after(&self, key: K, wait: Duration) {
        let mut state = self.state.lock();
        let at = Instant::now() + wait;
        if let Some(earlier) = state.due.get(&key).copied() {
            if earlier <= at {
                return;
            }
            state.delayed.remove(&(earlier, key.clone()));
        }
        state.due.insert(key.clone(), at);
        state.delayed.insert((at, key));
        drop(state);
        self.wake.notify_one();
    }

    /// Number of keys that wait to be looked at now.
    pub fn len(&self) -> usize {
        self.state.lock().ready.len()
    }

    /// Whether no key waits to be looked at now.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    async fn next(&self) -> K {
        loop {
            let due = {
                let mut state = self.state.lock();
                let due = state.release_due(Instant::now());
                if let Some(key) = state.take() {
                    return key;
                }
                due
            };
            match due {
                None => self.wake.notified().await,
                Some(at) => tokio::select! {
                    () = self.wake.notified() => {}
                    () = sleep_until(at) => {}
                },
            }
        }
    }

    /// Works on keys for ever, `workers` at a time.
    pub async fn work<F>(
        &self,
        name: &'static str,
        metrics: &Metrics,
        workers: usize,
        reconcile: impl Fn(K) -> F,
    ) where
        F: Future<Output = Result<Next, Error>>,
    {
        let mut running = FuturesUnordered::new();
        loop {
            tokio::select! {
                key = self.next(), if running.len() < workers => {
                    let future = reconcile(key.clone());
                    running.push(async move {
                        let started = std::time::Instant::now();
                        let result = future.await;
                        (key, result, started.elapsed())
                    });
                }
                Some((key, result, took)) = running.next(), if !running.is_empty() => {
                    metrics.reconciled(name, result.is_ok(), took);
                    self.settle(name, key, result);
                }
            }
        }
    }

    fn settle(&self, name: &'static str, key: K, result: Result<Next, Error>) {
        let mut state = self.state.lock();
        state.running.remove(&key);
        if state.dirty.contains(&key) {
            state.ready.push_back(key.clone());
        }
        let wait = match result {
            Ok(next) => {
                state.failures.remove(&key);
                match next {
                    Next::Done => None,
                    Next::After(wait) => Some(wait),
                }
            }
            Err(error) => {
                let failures = state.failures.entry(key.clone()).or_default();
                *failures = failures.saturating_add(1);
                if *failures > 3 && !error.is_conflict() {
                    tracing::warn!(controller = name, %key, failures, error = error.chain(), "trying again later");
                } else {
                    tracing::debug!(controller = name, %key, failures, error = error.chain(), "trying again");
                }
                let step = RETRY_FIRST.saturating_mul(1 << (*failures - 1).min(16)).min(RETRY_MAX);
                Some(jitter(step / 2, step))
            }
        };
        drop(state);
        match wait {
            Some(wait) => self.add_after(key, wait),
            None => self.wake.notify_one(),
        }
    }
}

impl<K: Clone + Eq + Hash + Ord> State<K> {
    fn add(&mut self, key: K) {
        if self.dirty.insert(key.clone()) && !self.running.contains(&key) {
            self.ready.push_back(key);
        }
    }

    fn take(&mut self) -> Option<K> {
        let key = self.ready.pop_front()?;
        self.dirty.remove(&key);
        self.running.insert(key.clone());
        Some(key)
    }

    /// Returns when the next delayed key is due.
    fn release_due(&mut self, now: Instant) -> Option<Instant> {
        while let Some((at, key)) = self.delayed.first() {
            if *at > now {
                return Some(*at);
            }
            let entry = (*at, key.clone());
            self.delayed.remove(&entry);
            self.due.remove(&entry.1);
            self.add(entry.1);
        }
        None
    }
}

/// Calls `change` with every change, for ever.
pub async fn follow<T: HasMeta>(mut subscription: Subscription<T>, mut change: impl FnMut(Delta<T>)) {
    let mut taken = 0;
    loop {
        change(subscription.recv().await);
        taken += 1;
        if taken % CHANGES_BATCH == 0 {
            tokio::task::yield_now().await;
        }
    }
}

/// The object or objects that a change is about: what was, and what is.
pub fn sides<T>(delta: &Delta<T>) -> impl Iterator<Item = &T> {
    let (old, new) = match delta {
        Delta::Synced => (None, None),
        Delta::Upsert { old, new } => (old.as_deref(), Some(&**new)),
        Delta::Delete(old) => (Some(&**old), None),
    };
    old.into_iter().chain(new)
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, rc::Rc};

    use telemetry::Registry;

    use super::*;

    fn failed() -> Error {
        Error::Timeout { request: "x".into(), seconds: 1 }
    }

    #[tokio::test(start_paused = true)]
    async fn keys_are_merged_retried_and_delayed() {
        let queue = WorkQueue::<String>::default();
        let metrics = Metrics::new(&Registry::new());
        let log = Rc::new(RefCell::new(Vec::new()));
        let started = Instant::now();
        for key in ["a", "b", "a"] {
            queue.add(key.into());
        }
        queue.add_after("c".into(), Duration::from_secs(9));
        queue.add_after("c".into(), Duration::from_secs(5));
        queue.add_after("c".into(), Duration::from_secs(7));
        let failures = Rc::new(RefCell::new(2));
        let work = queue.work("test", &metrics, 1, |key| {
            let (log, failures, queue) = (log.clone(), failures.clone(), &queue);
            async move {
                log.borrow_mut().push(format!("{key}{}", started.elapsed().as_secs()));
                if key == "a" && log.borrow().len() == 1 {
                    queue.add("a".into());
                    queue.add("a".into());
                }
                if key == "b" && *failures.borrow() > 0 {
                    *failures.borrow_mut() -= 1;
                    return Err(failed());
                }
                Ok(if key == "c" && started.elapsed().as_secs() < 6 {
                    Next::After(Duration::from_secs(1))
                } else {
                    Next::Done
                })
            }
        });
        _ = tokio::time::timeout(Duration::from_secs(60), work).await;
        let mut log = log.borrow().clone();
        log.sort();
        assert_eq!(log, ["a0", "a0", "b0", "b0", "b0", "c5", "c6"]);
    }
}
