//! Contiguous slices of a fixed array: best fit, and a rest before what was freed is used again.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use crate::ids::GRACE;

/// The free and resting parts of an array of slots.
#[derive(Debug)]
pub(crate) struct Slots {
    capacity: u32,
    /// Free runs by start, never adjacent.
    by_start: BTreeMap<u32, u32>,
    /// The same runs by length, for best fit.
    by_length: BTreeSet<(u32, u32)>,
    /// Runs that a reader may still follow an old entry into: when they were given back, start, length.
    resting: VecDeque<(Duration, u32, u32)>,
}

impl Slots {
    /// All of `capacity` slots free.
    pub(crate) fn new(capacity: u32) -> Self {
        let mut slots = Slots {
            capacity,
            by_start: BTreeMap::new(),
            by_length: BTreeSet::new(),
            resting: VecDeque::new(),
        };
        slots.insert(0, capacity);
        slots
    }

    /// The start of a free run of `length`; `None` when there is none, which the caller must report.
    pub(crate) fn take(&mut self, length: u32) -> Option<u32> {
        if length == 0 {
            return Some(0);
        }
        let (run, start) = *self.by_length.range((length, 0)..).next()?;
        self.remove(start, run);
        self.insert(start + length, run - length);
        Some(start)
    }

    /// Takes exactly `start..start + length` if it is free: how a restarted agent finds its slices again.
    pub(crate) fn claim(&mut self, start: u32, length: u32) -> bool {
        if length == 0 {
            return true;
        }
        let Some((&at, &run)) = self.by_start.range(..=start).next_back() else { return false };
        let Some(end) = start.checked_add(length) else { return false };
        if end > at + run {
            return false;
        }
        self.remove(at, run);
        self.insert(at, start - at);
        self.insert(end, at + run - end);
        true
    }

    /// Gives a run back; it rests for `GRACE` first.
    pub(crate) fn release(&mut self, start: u32, length: u32, now: Duration) {
        if length > 0 {
            self.resting.push_back((now, start, length));
        }
    }

    /// Frees what has rested long enough; true while something still rests.
    pub(crate) fn settle(&mut self, now: Duration) -> bool {
        while let Some(&(since, start, length)) = self.resting.front() {
            if now.saturating_sub(since) < GRACE {
                return true;
            }
            self.resting.pop_front();
            self.free(start, length);
        }
        false
    }

    /// Slots that are in use or resting.
    pub(crate) fn used(&self) -> u32 {
        self.capacity - self.by_start.values().sum::<u32>()
    }

    fn free(&mut self, mut start: u32, mut length: u32) {
        if let Some((&before, &run)) = self.by_start.range(..start).next_back()
            && before + run == start
        {
            self.remove(before, run);
            start = before;
            length += run;
        }
        if let Some(&run) = self.by_start.get(&(start + length)) {
            self.remove(start + length, run);
            length += run;
        }
        self.insert(start, length);
    }

    fn insert(&mut self, start: u32, length: u32) {
        if length > 0 {
            self.by_start.insert(start, length);
            self.by_length.insert((length, start));
        }
    }

    fn remove(&mut self, start: u32, length: u32) {
        self.by_start.remove(&start);
        self.by_length.remove(&(length, start));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LATER: Duration = Duration::from_secs(10);

    #[test]
    fn freed_runs_rest_and_grow_together() {
        let mut slots = Slots::new(10);
        let (a, b) = (slots.take(4).unwrap(), slots.take(6).unwrap());
        assert_eq!(slots.take(1), None, "full");
        slots.release(a, 4, Duration::ZERO);
        slots.release(b, 6, Duration::ZERO);
        assert!(slots.settle(GRACE / 2));
        assert_eq!(slots.take(1), None, "a reader may still be there");
        assert!(!slots.settle(LATER));
        assert_eq!(slots.take(10), Some(0), "both runs are one again");
    }

    #[test]
    fn a_slice_is_claimed_once() {
        let mut slots = Slots::new(10);
        assert!(slots.claim(3, 4));
        assert!(!slots.claim(6, 2));
        assert!(!slots.claim(8, 3), "beyond the end");
        assert_eq!((slots.take(3), slots.take(3)), (Some(0), Some(7)));
        assert_eq!(slots.used(), 10);
    }

    #[test]
    fn best_fit_keeps_long_runs() {
        let mut slots = Slots::new(100);
        let first = slots.take(5).unwrap();
        slots.take(1).unwrap();
        slots.release(first, 5, Duration::ZERO);
        slots.settle(LATER);
        assert_eq!(slots.take(5), Some(first));
    }
}
