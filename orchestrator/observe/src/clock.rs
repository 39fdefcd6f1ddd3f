//! Times of flows: the programs' clock as calendar time, and how times are written.

use chrono::{DateTime, SubsecRound, TimeDelta, Utc};
use nix::time::{ClockId, clock_gettime};

/// Above this an older time is no other CPU's event that came late, but a calendar that was set back.
const LATE_MAX: TimeDelta = TimeDelta::seconds(1);

/// Gives events of one node their times.
#[derive(Debug, Default)]
pub(crate) struct Clock {
    last: DateTime<Utc>,
}

impl Clock {
    /// The calendar time of an event, later than that of every event before: a time names one flow of a node, so that a
    /// reader can go on after it.
    pub(crate) fn of_event(&mut self, event_ns: u64) -> DateTime<Utc> {
        let age_ns = monotonic_ns().saturating_sub(event_ns);
        self.stamp(Utc::now() - TimeDelta::nanoseconds(i64::try_from(age_ns).unwrap_or(0)))
    }

    /// The time of a gap: right after what came before it.
    pub(crate) fn after_last(&mut self) -> DateTime<Utc> {
        let began = self.last > DateTime::UNIX_EPOCH;
        self.stamp(if began { self.last } else { Utc::now() })
    }

    fn stamp(&mut self, time: DateTime<Utc>) -> DateTime<Utc> {
        // What is written has microseconds; a reader that comes back with it must not be told the same flow again.
        let time = time.trunc_subsecs(6);
        let after_last = self.last + TimeDelta::microseconds(1);
        self.last = if time < after_last && after_last - time < LATE_MAX { after_last } else { time };
        self.last
    }
}

/// `CLOCK_MONOTONIC`, which the programs' events carry.
pub(crate) fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC);
    let now = now.expect("invariant: every kernel has a monotonic clock");
    u64::try_from(now.tv_sec()).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec()).unwrap_or(0)
}

/// For `serde(with)`: RFC 3339 in UTC with microseconds.
pub(crate) mod rfc3339 {
    use chrono::{DateTime, Utc};
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    pub(crate) fn serialize<S: Serializer>(time: &DateTime<Utc>, serializer: S) -> Result<S::Ok, S::Error> {
        client::objects::rfc3339_micros(*time).serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<DateTime<Utc>, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        DateTime::parse_from_rfc3339(&text).map(|time| time.to_utc()).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_get_calendar_times_that_only_grow() {
        let mut clock = Clock::default();
        let now_ns = monotonic_ns();
        let second_ago = clock.of_event(now_ns - 1_000_000_000);
        let age = Utc::now() - second_ago;
        assert!(age >= TimeDelta::seconds(1) && age < TimeDelta::seconds(3), "{age}");
        let other_cpu = clock.of_event(now_ns - 1_000_400_000);
        assert_eq!(other_cpu - second_ago, TimeDelta::microseconds(1), "an older event of another CPU");
        assert_eq!(clock.after_last() - other_cpu, TimeDelta::microseconds(1));
        assert_eq!(other_cpu.timestamp_subsec_nanos() % 1000, 0);
    }

    #[test]
    fn a_calendar_that_was_set_back_is_believed() {
        let mut clock = Clock { last: Utc::now() + TimeDelta::hours(1) };
        assert!(clock.of_event(monotonic_ns()) < Utc::now() + TimeDelta::seconds(1));
    }
}
