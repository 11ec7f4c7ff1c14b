//! Encodes one worker's records and writes them to its lane.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::notice::{self, Missing, Notice, Place};
use super::span::SpanPart;
use super::{closing, nanos};
use crate::config::OnFull;
use crate::metrics::WorkerMetrics;
use crate::spool::{Class, Lane, Reason, RunningHash, sha256};

/// How often what is missing is declared, if anything is.
const DECLARE: Duration = Duration::from_secs(1);

/// Writes one worker's records.
pub(crate) struct Recorder {
    lane: RefCell<Lane>,
    scratch: RefCell<Vec<u8>>,
    boot: Arc<str>,
    pub(super) on_full: OnFull,
    pub(super) cut_off: Cell<bool>,
    pub(crate) metrics: WorkerMetrics,
}

/// A record of which a part is written.
pub(super) struct Begun {
    sequence: u64,
    hash: RunningHash,
}

/// What a record needs to know of its writer.
pub(super) struct Stamp {
    pub(super) lane: u32,
    pub(super) sequence: u64,
}

impl Recorder {
    pub(crate) fn new(lane: Lane, boot: Arc<str>, on_full: OnFull, metrics: WorkerMetrics) -> Self {
        let (lane, scratch) = (RefCell::new(lane), RefCell::default());
        Self { lane, scratch, boot, on_full, cut_off: Cell::new(false), metrics }
    }

    /// From now on what is dropped was not given up by its client: the proxy ends.
    pub(crate) fn cut_off(&self) {
        self.cut_off.set(true);
    }

    /// Encodes and writes the first part of a record.
    pub(super) fn begin(
        &self,
        class: Class,
        now: u64,
        write: impl FnOnce(&mut SpanPart<'_>, &Stamp),
    ) -> Result<Begun, Reason> {
        let mut lane = self.lane.borrow_mut();
        let mut scratch = self.scratch.borrow_mut();
        scratch.clear();
        write(&mut SpanPart::new(&mut scratch), &self.stamp(&lane));
        let sequence = lane.begin(class, now, &scratch)?;
        Ok(Begun { sequence, hash: RunningHash::new(&scratch) })
    }

    /// Encodes and writes a record that is complete at once.
    pub(super) fn whole(
        &self,
        class: Class,
        now: u64,
        write: impl FnOnce(&mut SpanPart<'_>, &Stamp),
    ) -> Result<(), Reason> {
        let mut lane = self.lane.borrow_mut();
        let mut scratch = self.scratch.borrow_mut();
        scratch.clear();
        let mut part = SpanPart::new(&mut scratch);
        write(&mut part, &self.stamp(&lane));
        closing::chain(&mut part, lane.link());
        let hash = sha256(&scratch);
        lane.whole(class, now, &scratch, hash).map(drop)
    }

    /// Encodes and writes a further part.
    pub(super) fn more(&self, begun: &mut Begun, now: u64, write: impl FnOnce(&mut SpanPart<'_>)) {
        let mut scratch = self.scratch.borrow_mut();
        scratch.clear();
        write(&mut SpanPart::new(&mut scratch));
        match self.lane.borrow_mut().more(begun.sequence, now, &scratch) {
            Ok(()) => begun.hash.update(&scratch),
            Err(_) => unfinished(begun.sequence),
        }
    }

    /// Encodes and writes the last part.
    pub(super) fn end(&self, begun: Begun, now: u64, write: impl FnOnce(&mut SpanPart<'_>)) {
        let mut lane = self.lane.borrow_mut();
        let mut scratch = self.scratch.borrow_mut();
        scratch.clear();
        let mut part = SpanPart::new(&mut scratch);
        write(&mut part);
        closing::chain(&mut part, lane.link());
        let hash = begun.hash.finish(&scratch);
        if lane.end(begun.sequence, now, &scratch, hash).is_err() {
            unfinished(begun.sequence);
        }
    }

    /// A record that finds no room: it uses up a number, and is declared when there is room again.
    pub(super) fn lose(&self, reason: Reason) {
        self.lane.borrow_mut().lose(reason);
    }

    /// Declares what is missing, if there is room for that.
    pub(crate) fn declare(&self, now: SystemTime) {
        let mut lane = self.lane.borrow_mut();
        let mut scratch = self.scratch.borrow_mut();
        let now = nanos(now);
        for gap in lane.undeclared().to_vec() {
            scratch.clear();
            let missing = Missing {
                reason: gap.reason.as_str(),
                count: gap.count,
                boot: self.boot.as_ref().to_owned(),
                lane: lane.number(),
                range: Some((gap.first, gap.last)),
            };
            let (number, sequence) = (lane.number(), lane.next_sequence());
            let place = Place { lane: number, sequence, previous: lane.link() };
            notice::write(&mut scratch, &Notice::Gap(missing), now, place);
            let hash = sha256(&scratch);
            if lane.declare(&gap, now, &scratch, hash).is_err() {
                return;
            }
        }
    }

    /// Declares what is missing, for ever.
    pub(crate) async fn keep_declaring(&self) {
        loop {
            tokio::time::sleep(DECLARE).await;
            self.declare(SystemTime::now());
        }
    }

    fn stamp(&self, lane: &Lane) -> Stamp {
        let (lane, sequence) = (lane.number(), lane.next_sequence());
        Stamp { lane, sequence }
    }
}

/// The record stays visible as begun and never ended.
fn unfinished(sequence: u64) {
    tracing::error!(sequence, "an audit record could not be finished: the disk is full");
}
