//! What became of the records of this boot, and how much room there is for more.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::published::Published;

/// How full the spool is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    #[default]
    Calm = 0,
    /// Four fifths are taken: somebody should look.
    High = 1,
    /// A twentieth is left: it is kept for denials and changes of state.
    Scarce = 2,
}

impl Level {
    /// Of so many bytes taken of so many. It comes down a little later than it goes up, so that it
    /// does not flutter.
    fn of(taken: u64, limit: u64, before: Self) -> Self {
        let above = |level: Self, percent: u64| {
            let slack = if before >= level { 3 } else { 0 };
            taken.saturating_mul(100) >= limit.saturating_mul(percent - slack)
        };
        if above(Self::Scarce, 95) {
            Self::Scarce
        } else if above(Self::High, 80) {
            Self::High
        } else {
            Self::Calm
        }
    }

    fn from_byte(byte: u8) -> Self {
        [Self::High, Self::Scarce].into_iter().find(|l| *l as u8 == byte).unwrap_or_default()
    }
}

/// What became of the records of this boot.
#[derive(Debug, Default)]
pub(crate) struct Account {
    /// Of this boot: each says itself how many numbers it gave out, so that workers do not count in one place.
    lanes: Mutex<Vec<Arc<Published>>>,
    pub(super) acknowledged: AtomicU64,
    pub(super) lost: AtomicU64,
    /// Bytes of all segments of all boots.
    pub(super) size: AtomicU64,
    /// Most bytes that these may be.
    limit: u64,
    level: AtomicU8,
    /// The disk has no room, whatever the limit says.
    pub(super) blocked: AtomicBool,
    /// How often room was made.
    pub(super) freed: AtomicU64,
    pub(super) sync_failures: AtomicU64,
}

impl Account {
    pub(super) fn new(size: u64, limit: u64) -> Self {
        Self { size: AtomicU64::new(size), limit, ..Self::default() }
    }

    pub(super) fn has_lane(&self, lane: Arc<Published>) {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner).push(lane);
    }

    /// Numbers given out: records begun, and records that there was no room for.
    pub(crate) fn emitted(&self) -> u64 {
        let lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        lanes.iter().map(|lane| lane.load().head.emitted).sum()
    }

    /// Records whose receipt was acknowledged.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// Records that could not be written, or were dropped to make room: declared lost.
    pub(crate) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Records that wait: for their end, or to be acknowledged.
    pub(crate) fn pending(&self) -> u64 {
        self.emitted().saturating_sub(self.acknowledged()).saturating_sub(self.lost())
    }

    /// Bytes on disk, records of earlier boots included.
    pub(crate) fn size(&self) -> u64 {
        self.size.load(Ordering::Relaxed)
    }

    /// Most bytes that the spool may take.
    pub(crate) fn limit(&self) -> u64 {
        self.limit
    }

    /// How full it was a few milliseconds ago.
    pub(crate) fn level(&self) -> Level {
        Level::from_byte(self.level.load(Ordering::Relaxed))
    }

    /// Segments that could not be brought to disk.
    pub(crate) fn sync_failures(&self) -> u64 {
        self.sync_failures.load(Ordering::Relaxed)
    }

    /// Takes note of how much of what is allocated is not written yet. Gives the level if it has
    /// changed.
    pub(super) fn watch(&self, free: u64) -> Option<Level> {
        let size = self.size();
        let limit = if self.blocked.load(Ordering::Relaxed) { size } else { self.limit };
        let before = self.level();
        let level = Level::of(size.saturating_sub(free), limit, before);
        self.level.store(level as u8, Ordering::Relaxed);
        (level != before).then_some(level)
    }

    /// Room was made.
    pub(super) fn free(&self, bytes: u64) {
        self.size.fetch_sub(bytes, Ordering::Relaxed);
        self.freed.fetch_add(1, Ordering::Relaxed);
        // The disk has room, too, until it says otherwise.
        self.blocked.store(false, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_is_left_a_little_below_where_it_was_reached() {
        let up = [(79, Level::Calm), (80, Level::High), (94, Level::High), (95, Level::Scarce)];
        let down = [(93, Level::Scarce), (91, Level::High), (78, Level::High), (76, Level::Calm)];
        let account = Account::new(0, 100);
        for (taken, level) in up.into_iter().chain(down) {
            account.size.store(taken + 7, Ordering::Relaxed);
            account.watch(7);
            assert_eq!(account.level(), level, "{taken}");
        }
        account.blocked.store(true, Ordering::Relaxed);
        assert_eq!(account.watch(0), Some(Level::Scarce), "a full disk is a full spool");
    }
}
