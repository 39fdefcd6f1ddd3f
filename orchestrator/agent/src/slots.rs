//! Bounds how many starts run in the runtime at once, and lets a pod that was begun finish before the next one begins:
//! containers go before new pods, so that pods come up one after the other instead of all at the end. Stops are bounded the
//! same way, and go before the removal of what has stopped.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;

/// Starts at once. More only queue inside containerd: throughput peaks here on two cores (design/node.md).
pub const STARTS_AT_ONCE: usize = 4;
/// Stops at once, counted apart so that a mass deletion does not hold up starts. A stop is half a start's work.
pub const STOPS_AT_ONCE: usize = 8;

/// Who is served first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Urgency {
    /// A container of a pod that has its sandbox; a pod that is to stop.
    First,
    /// A new pod; one that has stopped and is to be removed.
    Later,
}

/// A counting semaphore with two queues.
#[derive(Clone)]
pub struct Slots {
    inner: Arc<Mutex<Inner>>,
}

struct Inner {
    free: usize,
    first: VecDeque<oneshot::Sender<Slot>>,
    later: VecDeque<oneshot::Sender<Slot>>,
}

/// One place, given back on drop.
pub struct Slot {
    /// Empty once the place was handed on.
    inner: Option<Arc<Mutex<Inner>>>,
}

// === impl Slots ===

impl Slots {
    /// `count` places.
    pub fn new(count: usize) -> Self {
        let inner = Inner { free: count, first: VecDeque::new(), later: VecDeque::new() };
        Slots { inner: Arc::new(Mutex::new(inner)) }
    }

    /// Waits for a place.
    pub async fn acquire(&self, urgency: Urgency) -> Slot {
        let waiter = {
            let mut inner = self.inner.lock();
            if inner.free > 0 {
                inner.free -= 1;
                return Slot { inner: Some(self.inner.clone()) };
            }
            let (sender, receiver) = oneshot::channel();
            match urgency {
                Urgency::First => inner.first.push_back(sender),
                Urgency::Later => inner.later.push_back(sender),
            }
            receiver
        };
        waiter.await.expect("invariant: a queued sender is only dropped after it sent its slot")
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let Some(shared) = self.inner.take() else { return };
        loop {
            let next = {
                let mut inner = shared.lock();
                let next = inner.first.pop_front().or_else(|| inner.later.pop_front());
                if next.is_none() {
                    inner.free += 1;
                }
                next
            };
            let Some(next) = next else { return };
            match next.send(Slot { inner: Some(shared.clone()) }) {
                Ok(()) => return,
                // The waiter gave up; its slot goes to the next one instead of through its own drop.
                Err(mut slot) => slot.inner = None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn containers_go_before_pods_and_no_place_is_lost() {
        let slots = Slots::new(1);
        let held = slots.acquire(Urgency::Later).await;
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = Vec::new();
        for (name, urgency) in [("pod", Urgency::Later), ("container", Urgency::First)] {
            let (waiting, seen) = (slots.clone(), order.clone());
            tasks.push(tokio::spawn(async move {
                let _slot = waiting.acquire(urgency).await;
                seen.lock().push(name);
            }));
            tokio::task::yield_now().await;
        }
        let abandoned = tokio::time::timeout(std::time::Duration::ZERO, slots.acquire(Urgency::First)).await;
        assert!(abandoned.is_err());
        drop(held);
        for task in tasks {
            task.await.expect("no panic");
        }
        assert_eq!(*order.lock(), ["container", "pod"]);
        assert_eq!(slots.inner.lock().free, 1);
    }
}
