//! Times of the two weeks: minutes since their beginning, days of the week, and how they are written.

use std::fmt;

/// Monday, 2026-11-02T00:00:00Z, in seconds since 1970.
const START: i64 = 1_793_577_600;

pub(crate) const SECOND: i64 = 1_000_000_000;
pub(crate) const MINUTE: i64 = 60 * SECOND;
/// Minutes of a day.
pub(crate) const DAY: i64 = 24 * 60;

/// Nanoseconds since the beginning, written as RFC 3339.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct At(pub(crate) i64);

impl At {
    pub(crate) fn of_minute(minute: i64) -> Self {
        Self(minute * MINUTE)
    }

    /// Reads what is written like `2026-11-02T00:00:00.5Z`; all else is none.
    pub(crate) fn read(text: &str) -> Option<Self> {
        let (text, fraction) = match text.strip_suffix('Z')?.split_once('.') {
            Some((text, fraction)) => (text, format!("{fraction:0<9}").parse().ok()?),
            None => (text.trim_end_matches('Z'), 0),
        };
        let mut parts = text.split(['-', 'T', ':']).map(|part| part.parse::<i64>().ok());
        let mut next = || parts.next().flatten();
        let (year, month, day) = (next()?, next()?, next()?);
        let (hour, minute, second) = (next()?, next()?, next()?);
        // A date to days: the way back of what `fmt` does.
        let year = if month <= 2 { year - 1 } else { year };
        let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
        let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
        let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
        let seconds = days * 86_400 + hour * 3_600 + minute * 60 + second - START;
        Some(Self(seconds * SECOND + fraction))
    }
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = START + self.0.div_euclid(SECOND);
        let (day, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
        // Days to a date: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms".
        let shifted = day + 719_468;
        let era = shifted.div_euclid(146_097);
        let of_era = shifted.rem_euclid(146_097);
        let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let part = (5 * of_year + 2) / 153;
        let date = of_year - (153 * part + 2) / 5 + 1;
        let month = if part < 10 { part + 3 } else { part - 9 };
        let year = year_of_era + era * 400 + i64::from(month <= 2);
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        let fraction = self.0.rem_euclid(SECOND);
        write!(f, "{year:04}-{month:02}-{date:02}T{hour:02}:{minute:02}:{second:02}.{fraction:09}Z")
    }
}

/// 0 is Monday.
pub(crate) fn weekday(minute: i64) -> i64 {
    minute.div_euclid(DAY) % 7
}

pub(crate) fn is_weekend(minute: i64) -> bool {
    weekday(minute) >= 5
}

/// The hour of the day with its fraction.
pub(crate) fn hour(minute: i64) -> f64 {
    minute.rem_euclid(DAY) as f64 / 60.0
}

/// When people who deploy are at work.
pub(crate) fn is_working(minute: i64) -> bool {
    !is_weekend(minute) && (8.0..17.0).contains(&hour(minute))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_others_read_them() {
        let late = At(40 * DAY * MINUTE + 77 * MINUTE + 5 * SECOND + 42);
        assert_eq!(late.to_string(), "2026-12-12T01:17:05.000000042Z");
        assert_eq!(At::read(&late.to_string()), Some(late));
        assert_eq!(At::read("2026-11-02T00:01:00Z"), Some(At(MINUTE)));
        assert_eq!(At::read("2026-11-01T23:59:59.5Z"), Some(At(-SECOND / 2)));
        assert_eq!(At::read("2026-11-02"), None);
        assert_eq!(At(0).to_string(), "2026-11-02T00:00:00.000000000Z");
        assert!(is_weekend(5 * DAY) && is_weekend(13 * DAY) && !is_weekend(14 * DAY));
    }
}
