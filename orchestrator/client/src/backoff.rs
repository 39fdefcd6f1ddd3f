//! Waiting between retries: exponential, bounded, and random so that a thousand clients do not come back at once.
use std::{
    hash::{BuildHasher, RandomState},
    time::Duration,
};

/// How long to wait before the next attempt.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    max: Duration,
    failures: u32,
}

impl Backoff {
    /// Starts at about `first` and doubles up to `max`.
    pub const fn new(first: Duration, max: Duration) -> Self {
        Self { first, max, failures: 0 }
    }

    /// The wait after one more failure: between half and all of the step, which doubles each time.
    pub fn next_wait(&mut self) -> Duration {
        let step = self.first.saturating_mul(1 << self.failures.min(20)).min(self.max);
        self.failures = self.failures.saturating_add(1);
        jitter(step / 2, step)
    }

    /// After a success.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// Failures since the last success.
    pub fn failures(&self) -> u32 {
        self.failures
    }
}

/// A random duration in a range. Not for secrets.
pub fn jitter(min: Duration, max: Duration) -> Duration {
    // A fresh RandomState hashes to 64 bits that differ from call to call; that is all the randomness needed here.
    let random = RandomState::new().hash_one(0_u8) as f64 / u64::MAX as f64;
    min + max.saturating_sub(min).mul_f64(random.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_the_bound() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        for expected_ms in [100, 200, 400, 800, 1000, 1000] {
            let (wait, step) = (backoff.next_wait(), Duration::from_millis(expected_ms));
            assert!(wait >= step / 2 && wait <= step, "{wait:?} of {step:?}");
        }
        backoff.reset();
        assert!(backoff.next_wait() <= Duration::from_millis(100));
    }
}
