//! New records, handed on as they are committed, in the order of their ids.
//!
//! Whoever follows gets them out of memory. If it falls behind by too much nothing is kept for it: ids have no holes, so
//! that it sees what it has missed and reads that from the database. Writing never waits for it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;

/// Bytes of records that wait.
const MAX_BYTES: usize = 64 << 20;

/// A record that is on the disk.
#[derive(Debug, Clone)]
pub(crate) struct Arrived {
    /// Its row.
    pub(crate) id: i64,
    pub(crate) resource: Bytes,
    pub(crate) span: Bytes,
}

/// The writer's end.
#[derive(Default)]
pub(super) struct Feed {
    follower: OnceLock<Sender<Vec<Arrived>>>,
    waiting: Arc<AtomicUsize>,
}

/// The follower's end. There is one at most.
pub(crate) struct Following {
    records: Receiver<Vec<Arrived>>,
    waiting: Arc<AtomicUsize>,
}

impl Feed {
    /// From now on; none if somebody follows already.
    pub(super) fn follow(&self) -> Option<Following> {
        let (sender, records) = channel();
        self.follower.set(sender).ok()?;
        Some(Following { records, waiting: Arc::clone(&self.waiting) })
    }

    pub(super) fn is_wanted(&self) -> bool {
        self.follower.get().is_some()
    }

    pub(super) fn give(&self, records: Vec<Arrived>) {
        let Some(follower) = self.follower.get().filter(|_| !records.is_empty()) else { return };
        let size = size(&records);
        if self.waiting.load(Ordering::Relaxed) + size > MAX_BYTES {
            return;
        }
        self.waiting.fetch_add(size, Ordering::Relaxed);
        // Whoever followed may be gone.
        let _gone = follower.send(records);
    }
}

impl Following {
    /// The next records, at once or within so long.
    pub(crate) fn next(&self, patience: std::time::Duration) -> Vec<Arrived> {
        let records = self.records.recv_timeout(patience).unwrap_or_default();
        self.waiting.fetch_sub(size(&records), Ordering::Relaxed);
        records
    }
}

fn size(records: &[Arrived]) -> usize {
    records.iter().map(|record| record.span.len() + 200).sum()
}
