//! The programs' clock in calendar time.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A moment known in both clocks.
///
/// `Instant` is CLOCK_MONOTONIC on Linux, but hides its value; the events' own clock is anchored by the first event seen, which is
/// at most milliseconds old.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    monotonic_ns: u64,
    calendar: SystemTime,
    taken: Instant,
}

/// How far the anchor may be off before it is taken anew: the calendar was set meanwhile.
const RENEW: Duration = Duration::from_secs(60);

impl Clock {
    /// Anchors the clocks at an event that happened just now.
    pub(crate) fn anchored(event_ns: u64) -> Self {
        Clock { monotonic_ns: event_ns, calendar: SystemTime::now(), taken: Instant::now() }
    }

    /// The calendar time of an event, in microseconds since 1970.
    pub(crate) fn micros(&mut self, event_ns: u64) -> u64 {
        if self.taken.elapsed() > RENEW {
            *self = Clock::anchored(event_ns);
        }
        let calendar = self.calendar.duration_since(UNIX_EPOCH).unwrap_or_default().as_micros() as i128;
        let since = (i128::from(event_ns) - i128::from(self.monotonic_ns)) / 1000;
        u64::try_from(calendar + since).unwrap_or_default()
    }
}

/// Microseconds since 1970 as RFC 3339 in UTC.
pub(crate) fn rfc3339(micros: u64) -> String {
    let (seconds, fraction) = (micros / 1_000_000, micros % 1_000_000);
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days as i64);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{fraction:06}Z")
}

/// Days since 1970 as a date of the Gregorian calendar: eras of 400 years that begin in March, so that leap days come last.
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_kubernetes_writes_them() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00.000000Z");
        assert_eq!(rfc3339(1_709_210_096_123_456), "2024-02-29T12:34:56.123456Z");
        assert_eq!(rfc3339(4_102_444_799_000_001), "2099-12-31T23:59:59.000001Z");
    }

    #[test]
    fn events_keep_their_distance() {
        let mut clock = Clock::anchored(5_000_000);
        assert_eq!(clock.micros(7_000_000) - clock.micros(5_000_000), 2000);
        assert_eq!(clock.micros(5_000_000) - clock.micros(4_000_000), 1000, "an older event of another CPU");
    }
}
