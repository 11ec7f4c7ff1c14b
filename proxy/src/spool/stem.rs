//! What several spans begin with, written once for each segment.
//!
//! Most of what a record says is the same for every request of a connection. It stands in the segment as a record of its own;
//! the spans that begin with it name it, and the reader puts both together again. So nothing outside the spool knows of it,
//! and no segment needs another one to be read.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

/// The beginning of several spans of one lane.
pub(crate) struct Stem {
    /// Its name in the segments of its lane.
    pub(super) id: u64,
    pub(super) bytes: Box<[u8]>,
    /// The segment in which it was written last.
    pub(super) segment: Cell<u32>,
}

impl Stem {
    pub(crate) fn new(bytes: Vec<u8>) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        Self { id, bytes: bytes.into(), segment: Cell::new(0) }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}
