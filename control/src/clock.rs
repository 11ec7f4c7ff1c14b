//! Points in time as the database, the API and OTLP write them. Reads no clock itself.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Milliseconds since 1970; 0 for anything before.
pub(crate) fn milliseconds(at: SystemTime) -> i64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// Nanoseconds since 1970; 0 for anything before.
pub(crate) fn nanoseconds(at: SystemTime) -> u64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// The time of a number of milliseconds since 1970.
pub(crate) fn from_milliseconds(milliseconds: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(u64::try_from(milliseconds).unwrap_or(0))
}

/// RFC 3339 in UTC, to the millisecond.
pub(crate) fn rfc3339(at: SystemTime) -> String {
    let timestamp = jiff::Timestamp::from_millisecond(milliseconds(at));
    timestamp.map_or_else(|_| "-".to_owned(), |t| format!("{t:.3}"))
}

/// RFC 3339 in UTC, to the nanosecond: how the time of an audit record is written.
pub(crate) fn rfc3339_nanoseconds(nanoseconds: i64) -> String {
    let timestamp = jiff::Timestamp::from_nanosecond(i128::from(nanoseconds));
    timestamp.map_or_else(|_| "-".to_owned(), |t| format!("{t:.9}"))
}

/// Reads RFC 3339, with any offset, into nanoseconds since 1970.
pub(crate) fn parse_rfc3339(text: &str) -> Option<i64> {
    let timestamp: jiff::Timestamp = text.parse().ok()?;
    i64::try_from(timestamp.as_nanosecond()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nanoseconds_survive_the_round_trip() {
        let at = 1_700_000_000_123_456_789;
        let text = rfc3339_nanoseconds(at);
        assert_eq!(text, "2023-11-14T22:13:20.123456789Z");
        assert_eq!(parse_rfc3339(&text), Some(at));
        assert_eq!(parse_rfc3339("2023-11-14T23:13:20.123456789+01:00"), Some(at));
        assert_eq!(parse_rfc3339("yesterday"), None);
        assert_eq!(rfc3339(from_milliseconds(1_700_000_000_120)), "2023-11-14T22:13:20.120Z");
    }
}
