//! A wait that doubles with each failure, up to a bound. Pure: the caller brings the time.

use std::time::Duration;

use tokio::time::Instant;

/// A wait that doubles with each failure.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    max: Duration,
    next: Duration,
    /// The wait now in force.
    pub current: Duration,
    /// End of the wait now in force.
    pub until: Option<Instant>,
}

// === impl Backoff ===

impl Backoff {
    /// Waits `first` after the first failure.
    pub fn new(first: Duration, max: Duration) -> Self {
        Backoff { first, max, next: first, current: Duration::ZERO, until: None }
    }

    /// Does not wait at all after the first failure, `first` after the second.
    pub fn forgiving_once(first: Duration, max: Duration) -> Self {
        Backoff { next: Duration::ZERO, ..Self::new(first, max) }
    }

    /// Counts a failure at `now`.
    pub fn fail(&mut self, now: Instant) {
        self.current = self.next;
        self.until = Some(now + self.next);
        self.next = if self.next.is_zero() { self.first } else { (self.next * 2).min(self.max) };
    }

    /// Forgets all failures but keeps the kindness to the first one.
    pub fn reset_forgiving(&mut self) {
        *self = Self::forgiving_once(self.first, self.max);
    }

    /// Waits until `at`, without counting a failure.
    pub fn wait_until(&mut self, at: Instant) {
        self.until = Some(at);
    }

    /// Ends the wait now in force, without forgetting failures.
    pub fn release(&mut self) {
        self.until = None;
    }

    /// Whether the wait still lasts.
    pub fn holds(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| until > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn waits_double_up_to_the_bound() {
        let now = Instant::now();
        let mut backoff = Backoff::forgiving_once(Duration::from_secs(10), Duration::from_secs(300));
        let waits: Vec<u64> = (0..8)
            .map(|_| {
                backoff.fail(now);
                backoff.current.as_secs()
            })
            .collect();
        assert_eq!(waits, [0, 10, 20, 40, 80, 160, 300, 300]);
        assert!(
            backoff.holds(now + Duration::from_secs(299)) && !backoff.holds(now + Duration::from_secs(300))
        );
        backoff.reset_forgiving();
        assert!(!backoff.holds(now));
    }
}
