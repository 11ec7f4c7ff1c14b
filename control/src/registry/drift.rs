//! Proxies' clocks: which are off by too much, and when that is worth a word.

/// How far a proxy's clock may be off, in milliseconds.
const MAX: i64 = 30_000;
/// Heartbeats in a row that have to say so: one alone may have been held up on its way.
const STRIKES: u8 = 2;

/// Whether a clock is off that differs from ours by so many milliseconds.
pub(crate) fn is_off(offset: i64) -> bool {
    offset.saturating_abs() > MAX
}

/// Whether it is news that a clock is off by so many milliseconds, or no longer: then it is by half as much at most.
/// `strikes` are the heartbeats in a row that found it off.
pub(super) fn is_news(strikes: &mut u8, offset: i64) -> bool {
    if is_off(offset) {
        *strikes = strikes.saturating_add(1).min(STRIKES + 1);
        return *strikes == STRIKES;
    }
    let was_off = *strikes >= STRIKES;
    if !was_off || offset.saturating_abs() <= MAX / 2 {
        *strikes = 0;
    }
    was_off && *strikes == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_told_of_once_when_it_goes_off_and_once_when_it_is_right() {
        let offsets = [0, 90_000, 0, -90_000, -91_000, -92_000, 20_000, 40_000, 20_000, 1_000, 0];
        let mut strikes = 0;
        let news: Vec<_> = offsets.into_iter().filter(|o| is_news(&mut strikes, *o)).collect();
        assert_eq!(news, [-91_000, 1_000]);
    }
}
