//! Keeping refused joins from filling the disk.
//!
//! Strangers can cause them at no cost. Up to a rate each is entered in the audit; the rest are counted
//! in the next entry.

use std::time::Instant;

/// Refused joins that are entered one by one each second.
const PER_SECOND: u32 = 50;

/// Counts refusals within the current second.
pub(super) struct Flood {
    second: Instant,
    entered: u32,
    suppressed: u64,
}

impl Flood {
    pub(super) fn new(now: Instant) -> Self {
        Self { second: now, entered: 0, suppressed: 0 }
    }

    /// Whether a refusal is to be entered, and how many were not since the last one that was.
    pub(super) fn admit(&mut self, now: Instant) -> Option<u64> {
        if now.duration_since(self.second).as_secs() >= 1 {
            self.second = now;
            self.entered = 0;
        }
        if self.entered < PER_SECOND {
            self.entered += 1;
            return Some(std::mem::take(&mut self.suppressed));
        }
        self.suppressed += 1;
        None
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_flood_of_refusals_is_counted_instead_of_entered_one_by_one() {
        let start = Instant::now();
        let mut flood = Flood::new(start);
        let entered = (0..1_000).filter_map(|_| flood.admit(start)).count();
        assert_eq!(entered, 50);
        assert_eq!(flood.admit(start + Duration::from_secs(1)), Some(950));
        assert_eq!(flood.admit(start + Duration::from_secs(1)), Some(0));
    }
}
