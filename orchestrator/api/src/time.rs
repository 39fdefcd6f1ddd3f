//! Kubernetes' two time formats. The current time always comes in from outside: this crate reads no clock.
use chrono::{DateTime, SecondsFormat, Utc};

/// A point in time.
pub type Time = DateTime<Utc>;

/// `2026-11-01T10:00:00Z`, the format of `metav1.Time`.
pub fn format(time: Time) -> String {
    time.to_rfc3339_opts(SecondsFormat::Secs, true)
}

/// `2026-11-01T10:00:00.000000Z`, the format of `metav1.MicroTime`.
pub fn format_micro(time: Time) -> String {
    time.to_rfc3339_opts(SecondsFormat::Micros, true)
}

/// Reads either format.
pub fn parse(text: &str) -> Option<Time> {
    DateTime::parse_from_rfc3339(text).ok().map(|time| time.with_timezone(&Utc))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_round_trip() {
        let time = parse("2026-11-01T12:00:00.123456+02:00").unwrap();
        assert_eq!(format(time), "2026-11-01T10:00:00Z");
        assert_eq!(format_micro(time), "2026-11-01T10:00:00.123456Z");
        assert_eq!(parse("yesterday"), None);
    }
}
