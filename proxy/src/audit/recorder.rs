//! Encodes one worker's records and writes them to its lane.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use picket_api::attributes;

use super::notice::{self, Missing, Notice, Place};
use super::preamble::Opening;
use super::span::SpanPart;
use super::{closing, nanos};
use crate::config::{self, Durability};
use crate::metrics::WorkerMetrics;
use crate::spool::{Class, Disk, Lane, Payload, Reason, RunningHash, sha256};

/// How often what is missing is declared, if anything is.
const DECLARE: Duration = Duration::from_secs(1);

/// Writes one worker's records.
pub(crate) struct Recorder {
    lane: RefCell<Lane>,
    scratch: RefCell<Scratch>,
    boot: Arc<str>,
    pub(super) config: Arc<config::Audit>,
    pub(super) cut_off: Cell<bool>,
    pub(crate) metrics: WorkerMetrics,
}

/// Where a part is written before it goes to the lane.
#[derive(Default)]
struct Scratch {
    span: Vec<u8>,
    packed: Vec<u8>,
}

impl Scratch {
    /// Has a part written, both as it is hashed and as it is spooled.
    fn write(&mut self, write: impl FnOnce(&mut SpanPart<'_>)) -> (&[u8], Payload<'_>) {
        self.span.clear();
        self.packed.clear();
        let mut part = SpanPart::packing(&mut self.span, &mut self.packed);
        write(&mut part);
        part.close();
        (&self.span, Payload::packed(&self.packed))
    }
}

/// A record that is begun.
pub(super) enum Begun {
    /// Nothing is recorded at all.
    Off,
    /// A part of it is written.
    Written { sequence: u64 },
    /// It is kept here until it is complete.
    Held { class: Class, span: Vec<u8> },
}

/// What a record needs to know of its writer.
pub(super) struct Stamp {
    pub(super) lane: u32,
    /// None if it gets one at its end.
    pub(super) sequence: Option<u64>,
    pub(super) durability: Durability,
}

impl Recorder {
    pub(crate) fn new(
        lane: Lane,
        boot: Arc<str>,
        config: Arc<config::Audit>,
        metrics: WorkerMetrics,
    ) -> Self {
        let (lane, scratch) = (RefCell::new(lane), RefCell::default());
        Self { lane, scratch, boot, config, cut_off: Cell::new(false), metrics }
    }

    /// The lane's number, which every record says.
    pub(crate) fn lane(&self) -> u32 {
        self.lane.borrow().number()
    }

    /// From now on what is dropped was not given up by its client: the proxy ends.
    pub(crate) fn cut_off(&self) {
        self.cut_off.set(true);
    }

    /// Encodes and writes the first part of a record, and begins its hash in the place where it stays.
    pub(super) fn begin(
        &self,
        class: Class,
        durability: Durability,
        now: u64,
        opening: Option<&Opening>,
        hash: &mut RunningHash,
        write: impl FnOnce(&mut SpanPart<'_>, &Stamp),
    ) -> Result<Begun, Reason> {
        if !self.config.enabled {
            return Ok(Begun::Off);
        }
        let mut lane = self.lane.borrow_mut();
        let mut stamp = stamp(&lane, durability);
        if durability == Durability::Memory {
            lane.admits(class, 0)?;
            stamp.sequence = None;
            let mut span = Vec::new();
            span.extend_from_slice(opening.map_or(&[], |opening| opening.stem().bytes()));
            write(&mut SpanPart::new(&mut span), &stamp);
            return Ok(Begun::Held { class, span });
        }
        let mut scratch = self.scratch.borrow_mut();
        let (span, payload) = scratch.write(|part| write(part, &stamp));
        if let Some(opening) = opening {
            hash.clone_from(opening.hash());
        }
        hash.update(span);
        let sequence = lane.begin(class, now, opening.map(Opening::stem), payload)?;
        Ok(Begun::Written { sequence })
    }

    /// Encodes and writes a record that is complete at once.
    pub(super) fn whole(
        &self,
        class: Class,
        durability: Durability,
        now: u64,
        opening: Option<&Opening>,
        write: impl FnOnce(&mut SpanPart<'_>, &Stamp),
    ) -> Result<(), Reason> {
        if !self.config.enabled {
            return Ok(());
        }
        let mut lane = self.lane.borrow_mut();
        let scratch = &mut self.scratch.borrow_mut().span;
        scratch.clear();
        scratch.extend_from_slice(opening.map_or(&[], |opening| opening.stem().bytes()));
        let hashed = scratch.len();
        let mut part = SpanPart::new(scratch);
        write(&mut part, &stamp(&lane, durability));
        closing::chain(&mut part, lane.link());
        let mut hash = opening.map(Opening::hash).cloned().unwrap_or_default();
        let hash = hash.finish(scratch.get(hashed..).unwrap_or_default());
        lane.whole(class, now, scratch, hash).map(drop)
    }

    /// Encodes and writes a further part.
    pub(super) fn more(
        &self,
        begun: &mut Begun,
        now: u64,
        hash: &mut RunningHash,
        write: impl FnOnce(&mut SpanPart<'_>),
    ) {
        let sequence = match begun {
            Begun::Off => return,
            Begun::Written { sequence } => *sequence,
            Begun::Held { span, .. } => return write(&mut SpanPart::new(span)),
        };
        let mut scratch = self.scratch.borrow_mut();
        let (span, payload) = scratch.write(write);
        match self.lane.borrow_mut().more(sequence, now, payload) {
            Ok(()) => hash.update(span),
            Err(_) => unfinished(sequence),
        }
    }

    /// Encodes and writes the last part.
    pub(super) fn end(
        &self,
        begun: Begun,
        now: u64,
        hash: &mut RunningHash,
        write: impl FnOnce(&mut SpanPart<'_>),
    ) {
        let mut lane = self.lane.borrow_mut();
        match begun {
            Begun::Off => {}
            Begun::Written { sequence } => {
                let mut scratch = self.scratch.borrow_mut();
                let (span, payload) = scratch.write(|part| {
                    write(part);
                    closing::chain(part, lane.link());
                });
                let hash = hash.finish(span);
                if lane.end(sequence, now, payload, hash).is_err() {
                    unfinished(sequence);
                }
            }
            Begun::Held { class, mut span } => {
                let mut part = SpanPart::new(&mut span);
                write(&mut part);
                part.int(attributes::SEQUENCE, lane.next_sequence().cast_signed());
                closing::chain(&mut part, lane.link());
                let hash = sha256(&span);
                if let Err(reason) = lane.whole(class, now, &span, hash) {
                    lane.lose(reason);
                }
            }
        }
    }

    /// To wait with until everything that was written so far is on disk.
    pub(super) fn disk(&self) -> Disk {
        self.lane.borrow().disk()
    }

    /// A record that finds no room: it uses up a number, and is declared when there is room again.
    pub(super) fn lose(&self, reason: Reason) {
        self.lane.borrow_mut().lose(reason);
    }

    /// Declares what is missing, if there is room for that. At the end nothing has to be left for
    /// others.
    pub(crate) fn declare(&self, now: SystemTime, at_end: bool) {
        let mut lane = self.lane.borrow_mut();
        let scratch = &mut self.scratch.borrow_mut().span;
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
            notice::write(scratch, &Notice::Gap(missing), now, place);
            let hash = sha256(scratch);
            if lane.declare(&gap, at_end, now, scratch, hash).is_err() {
                return;
            }
        }
    }

    /// Declares what is missing, for ever.
    pub(crate) async fn keep_declaring(&self) {
        loop {
            tokio::time::sleep(DECLARE).await;
            self.declare(SystemTime::now(), false);
        }
    }
}

fn stamp(lane: &Lane, durability: Durability) -> Stamp {
    Stamp { lane: lane.number(), sequence: Some(lane.next_sequence()), durability }
}

/// The record stays visible as begun and never ended.
fn unfinished(sequence: u64) {
    tracing::error!(sequence, "an audit record could not be finished: the disk is full");
}
