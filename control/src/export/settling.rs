//! How far the store's rows have settled: whatever came in until so long ago.
//!
//! Rows come in the order of their arrival, so that one number says it. Remembered are a few marks of
//! that number, however much comes in.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// The least time between two marks.
const GRAIN: Duration = Duration::from_millis(100);

/// Marks of how far the rows had come when.
#[derive(Debug)]
pub(super) struct Settling {
    wait: Duration,
    marks: VecDeque<(Instant, i64)>,
    settled: i64,
}

impl Settling {
    /// What was there before counts as having come now.
    pub(super) fn new(wait: Duration, settled: i64) -> Self {
        Self { wait, marks: VecDeque::new(), settled }
    }

    /// Takes note of the newest row; the last one that has settled.
    pub(super) fn see(&mut self, newest: i64, now: Instant) -> i64 {
        let is_due = self.marks.back().is_none_or(|(at, row)| newest > *row && now >= *at + GRAIN);
        if is_due && newest > self.settled {
            self.marks.push_back((now, newest));
        }
        while let Some((at, row)) = self.marks.front()
            && *at + self.wait <= now
        {
            self.settled = *row;
            self.marks.pop_front();
        }
        self.settled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_has_settled_when_it_has_been_there_for_so_long_and_marks_are_few() {
        let wait = Duration::from_secs(10);
        let (start, mut settling) = (Instant::now(), Settling::new(wait, 100));
        let after = |millis: u64| start + Duration::from_millis(millis);
        assert_eq!(settling.see(100, after(0)), 100);
        assert_eq!(settling.see(150, after(1_000)), 100);
        // Too soon for a mark of its own: it settles with the next one.
        assert_eq!(settling.see(160, after(1_050)), 100);
        assert_eq!(settling.see(170, after(1_100)), 100);
        assert_eq!(settling.see(170, after(10_999)), 100);
        assert_eq!(settling.see(170, after(11_000)), 150);
        assert_eq!(settling.see(170, after(11_100)), 170);
        for millis in 0..100_000 {
            let newest = 170 + i64::try_from(millis).unwrap() * 50;
            let settled = settling.see(newest, after(20_000 + millis));
            assert!(settled <= newest && settling.marks.len() <= 101);
        }
        // Without a wait everything has settled.
        assert_eq!(Settling::new(Duration::ZERO, 0).see(7, start), 7);
    }
}
