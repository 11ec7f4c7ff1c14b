//! Durations as people write them: `1h`, `90s`, `500ms`, `1h30m`.

use std::time::Duration;

/// Reads a duration: whole numbers, each with `ms`, `s`, `m`, `h` or `d`, one after the other.
pub fn parse(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    if rest.is_empty() {
        return None;
    }
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let (number, tail) = rest.split_at(digits);
        let unit_length = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, next) = tail.split_at(unit_length);
        let number: u64 = number.parse().ok()?;
        let milliseconds = match unit {
            "ms" => number,
            "s" => number.checked_mul(1_000)?,
            "m" => number.checked_mul(60_000)?,
            "h" => number.checked_mul(3_600_000)?,
            "d" => number.checked_mul(86_400_000)?,
            _ => return None,
        };
        total = total.checked_add(Duration::from_millis(milliseconds))?;
        rest = next;
    }
    Some(total)
}

/// Writes a duration the way [`parse`] reads it, in its largest fitting units.
pub fn text(duration: Duration) -> String {
    let mut rest = duration.as_millis();
    let mut out = String::new();
    for (unit, size) in
        [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)]
    {
        if rest >= size {
            out.push_str(&format!("{}{unit}", rest / size));
            rest %= size;
        }
    }
    if out.is_empty() { "0s".to_owned() } else { out }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        for (written, milliseconds) in [
            ("500ms", 500),
            ("90s", 90_000),
            ("1h", 3_600_000),
            ("1h30m", 5_400_000),
            ("2d", 172_800_000),
        ] {
            assert_eq!(parse(written), Some(Duration::from_millis(milliseconds)), "{written}");
        }
        assert_eq!(text(Duration::from_secs(5_400)), "1h30m");
        for bad in ["", "1", "h", "-1s", "1 h", "1w", "1.5h", "99999999999999999999s", "1h2"] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
    }
}
