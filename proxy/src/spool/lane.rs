//! The writing end of one worker's part of the spool.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::account::{Account, Level};
use super::chain::{Hash, Head, Link};
use super::header::{Header, Live, Losses, Reason};
use super::published::{Place, State};
use super::record::{MAX_PAYLOAD, Part, Payload, Record};
use super::segment::{self, Segment};
use super::stem::Stem;
use super::syncer::{Durable, Shared, Unsynced};

/// What is kept of the room for each request that is open, so that it can be ended: more than its
/// last parts take, on an average.
const ENDING: u64 = 1024;
/// What is kept besides.
const SLACK: u64 = 64 << 10;
/// How soon a full disk is asked again.
const RETRY: Duration = Duration::from_millis(100);

/// How much a record matters when there is little room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// A request that was allowed and changes nothing.
    Read,
    /// A denial, a request that may change state, or what tells of the spool itself.
    Essential,
}

/// Records that are missing and not declared yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gap {
    pub(crate) reason: Reason,
    pub(crate) count: u64,
    /// The first and the last of their numbers; others between may be there.
    pub(crate) first: u64,
    pub(crate) last: u64,
}

/// One worker's lane. It belongs to one thread; appending takes no lock and no system call, except
/// when a segment is full.
pub(crate) struct Lane {
    directory: PathBuf,
    number: u32,
    segment_size: u64,
    current: Segment,
    /// Allocated ahead.
    spare: Option<Segment>,
    /// When the last attempt to allocate one failed, and how often room had been made by then.
    refused: Option<(Instant, u64)>,
    next_sequence: u64,
    open: u64,
    lost: Losses,
    declared: Losses,
    undeclared: Vec<Gap>,
    /// The span that was completed last.
    link: Link,
    shared: Shared,
    account: Arc<Account>,
}

impl Lane {
    pub(super) fn create(
        directory: PathBuf,
        number: u32,
        segment_size: u64,
        seed: Link,
        shared: Shared,
        account: Arc<Account>,
    ) -> io::Result<Self> {
        let current = Segment::create(&directory, number, 1, segment_size)?;
        let mut lane = Self {
            directory,
            number,
            segment_size,
            current,
            spare: None,
            refused: None,
            next_sequence: 1,
            open: 0,
            lost: Losses::default(),
            declared: Losses::default(),
            undeclared: Vec::new(),
            link: seed,
            shared,
            account,
        };
        lane.account.has_lane(Arc::clone(&lane.shared.published));
        lane.account.size.fetch_add(lane.counted(), Ordering::Relaxed);
        lane.open_current();
        lane.allocate_spare();
        lane.publish();
        Ok(lane)
    }

    /// The lane's number.
    pub(crate) fn number(&self) -> u32 {
        self.number
    }

    /// The sequence number that the next record begun will have.
    pub(crate) fn next_sequence(&self) -> u64 {
        self.next_sequence
    }

    /// The span that was completed last: the next one to be completed follows it.
    pub(crate) fn link(&self) -> &Link {
        &self.link
    }

    /// Writes the first part of a span and gives its number. With a stem the span is that, and the payload after it.
    ///
    /// # Errors
    /// Why there is no room: nothing was written, and the number is not used up.
    pub(crate) fn begin(
        &mut self,
        class: Class,
        time: u64,
        stem: Option<&Stem>,
        payload: Payload<'_>,
    ) -> Result<u64, Reason> {
        let sequence = self.next_sequence;
        let (link, gap, stem_id) = (None, None, stem.map(|stem| stem.id));
        let record = |part| Record { part, time, sequence, link, gap, stem: stem_id, payload };
        self.admits(class, stem.map_or(0, |stem| stem.bytes.len()) + payload.len())?;
        match stem {
            Some(stem) => self.write_on(stem, &record(Part::BeginOn)).ok_or(Reason::Full)?,
            None => self.write(&record(Part::Begin)).ok_or(Reason::Full)?,
        }
        self.given();
        self.open += 1;
        self.publish();
        Ok(sequence)
    }

    /// Writes a span that is complete at once and gives its number. `hash` is that of the payload.
    ///
    /// # Errors
    /// As [`Lane::begin`].
    pub(crate) fn whole(
        &mut self,
        class: Class,
        time: u64,
        payload: &[u8],
        hash: Hash,
    ) -> Result<u64, Reason> {
        let (part, sequence) = (Part::Whole, self.next_sequence);
        let (link, payload) = (self.link.next(hash), Payload::plain(payload));
        let record =
            Record { part, time, sequence, link: Some(link), gap: None, stem: None, payload };
        self.first(class, &record)?;
        self.link = link;
        self.publish();
        Ok(sequence)
    }

    /// Writes a further part of a span that was begun.
    ///
    /// # Errors
    /// [`Reason::Full`], only when the disk has been full for longer than the reserve lasts. The
    /// record stays visible as begun and not ended.
    pub(crate) fn more(
        &mut self,
        sequence: u64,
        time: u64,
        payload: Payload<'_>,
    ) -> Result<(), Reason> {
        let part = Part::More;
        let record = Record { part, time, sequence, link: None, gap: None, stem: None, payload };
        self.write(&record).ok_or(Reason::Full)?;
        self.publish();
        Ok(())
    }

    /// Writes the last part of a span that was begun. `hash` is that of all its parts.
    ///
    /// # Errors
    /// As [`Lane::more`].
    pub(crate) fn end(
        &mut self,
        sequence: u64,
        time: u64,
        payload: Payload<'_>,
        hash: Hash,
    ) -> Result<(), Reason> {
        let (part, link) = (Part::End, self.link.next(hash));
        let record =
            Record { part, time, sequence, link: Some(link), gap: None, stem: None, payload };
        self.write(&record).ok_or(Reason::Full)?;
        self.link = link;
        self.open = self.open.saturating_sub(1);
        self.publish();
        Ok(())
    }

    /// Gives a record that is not written a number, so that its absence shows.
    pub(crate) fn lose(&mut self, reason: Reason) {
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        self.lost.add(reason, 1);
        match self.undeclared.iter_mut().find(|gap| gap.reason == reason) {
            Some(gap) => (gap.count, gap.last) = (gap.count + 1, sequence),
            None => {
                self.undeclared.push(Gap { reason, count: 1, first: sequence, last: sequence });
            }
        }
        self.account.lost.fetch_add(1, Ordering::Relaxed);
        self.note();
        self.publish();
    }

    /// What is missing and was not declared yet, one for each reason.
    pub(crate) fn undeclared(&self) -> &[Gap] {
        &self.undeclared
    }

    /// Writes the span that declares a gap, at the end also if there is room for that and no more.
    ///
    /// # Errors
    /// As [`Lane::begin`]; it stays undeclared.
    pub(crate) fn declare(
        &mut self,
        gap: &Gap,
        at_end: bool,
        time: u64,
        payload: &[u8],
        hash: Hash,
    ) -> Result<(), Reason> {
        let (part, sequence) = (Part::Gap, self.next_sequence);
        let (link, payload) = (self.link.next(hash), Payload::plain(payload));
        let declares = Some((gap.reason, gap.count));
        let record =
            Record { part, time, sequence, link: Some(link), gap: declares, stem: None, payload };
        if !at_end {
            self.admits(Class::Essential, payload.len())?;
        }
        self.write_first(&record)?;
        self.link = link;
        self.declared.add(gap.reason, gap.count);
        self.undeclared.retain(|known| known.reason != gap.reason);
        self.publish();
        Ok(())
    }

    /// The place up to which everything is written.
    pub(crate) fn place(&self) -> Place {
        Place { segment: self.current.number(), offset: self.current.used() as u64 }
    }

    /// To wait for the disk with.
    pub(crate) fn disk(&self) -> Disk {
        Disk { place: self.place(), shared: self.shared.clone() }
    }

    /// Whether a record with so many bytes could be begun now.
    ///
    /// # Errors
    /// As [`Lane::begin`].
    pub(crate) fn admits(&mut self, class: Class, payload: usize) -> Result<(), Reason> {
        if class == Class::Read && self.account.level() == Level::Scarce {
            return Err(Reason::Shed);
        }
        // No part has more around its payload.
        let size = Record::size(Part::Gap, payload) as u64;
        if payload > MAX_PAYLOAD || !self.has_room(size) {
            return Err(Reason::Full);
        }
        Ok(())
    }

    fn first(&mut self, class: Class, record: &Record<'_>) -> Result<(), Reason> {
        self.admits(class, record.payload.len())?;
        self.write_first(record)
    }

    fn write_first(&mut self, record: &Record<'_>) -> Result<(), Reason> {
        self.write(record).ok_or(Reason::Full)?;
        self.given();
        Ok(())
    }

    /// A number is used up.
    fn given(&mut self) {
        self.next_sequence += 1;
        self.note();
    }

    /// Writes a beginning into a segment that has its stem.
    fn write_on(&mut self, stem: &Stem, record: &Record<'_>) -> Option<()> {
        if self.shared.durable.has_failed(self.current.number()) {
            self.next_segment();
        }
        let following = Record::size(record.part, record.payload.len());
        let both = Record::size(Part::Stem, stem.bytes.len()) + following;
        let is_there = stem.segment.get() == self.current.number();
        if self.current.left() < if is_there { following } else { both } {
            self.next_segment()?;
        }
        if stem.segment.get() != self.current.number() {
            let (part, sequence, payload) = (Part::Stem, stem.id, Payload::plain(&stem.bytes));
            let (time, link, gap) = (record.time, None, None);
            let written = Record { part, time, sequence, link, gap, stem: None, payload };
            self.current.append(&written)?;
            stem.segment.set(self.current.number());
        }
        self.current.append(record)
    }

    /// Whether a record can be begun so that all that is open can still be ended.
    fn has_room(&mut self, size: u64) -> bool {
        if self.spare.is_none() && self.may_have_room() {
            self.allocate_spare();
        }
        let needed = size + (self.open + 1) * ENDING + SLACK;
        self.free() >= needed
    }

    /// Bytes that can be written whatever happens.
    fn free(&self) -> u64 {
        let spare = self.spare.as_ref().map_or(0, Segment::left);
        (self.current.left() + spare) as u64
    }

    fn write(&mut self, record: &Record<'_>) -> Option<()> {
        if self.shared.durable.has_failed(self.current.number()) {
            // Its file is not to be trusted.
            self.next_segment();
        }
        if self.current.append(record).is_none() {
            self.next_segment()?;
            self.current.append(record)?;
        }
        Some(())
    }

    fn next_segment(&mut self) -> Option<()> {
        self.current = self.spare.take()?;
        self.open_current();
        self.allocate_spare();
        Some(())
    }

    fn open_current(&mut self) {
        let header = Header {
            lane: self.number,
            number: self.current.number(),
            link: self.link,
            next_sequence: self.next_sequence,
            lost: self.lost,
            declared: self.declared,
        };
        // A segment is larger than its header.
        let _written = self.current.open(&header);
    }

    /// Notes in the current segment what only its header tells.
    fn note(&mut self) {
        let live = Live { next_sequence: self.next_sequence, lost: self.lost };
        // A segment is larger than its header.
        let _written = self.current.update(&live);
    }

    fn publish(&self) {
        let emitted = self.next_sequence.saturating_sub(1);
        let head = Head { link: self.link, emitted, open: self.open, lost: self.lost.total() };
        let free = if self.counted() > 0 { self.free() } else { 0 };
        self.shared.published.store(&State { written: self.place(), free, head });
        self.shared.bell.ring();
    }

    /// What a segment of this lane takes of the limit.
    fn counted(&self) -> u64 {
        if self.segment_size == segment::SIZE { segment::SIZE } else { 0 }
    }

    /// Whether something has changed since there was no room for a segment.
    fn may_have_room(&self) -> bool {
        let freed = self.account.freed.load(Ordering::Relaxed);
        self.refused.is_none_or(|(at, before)| freed != before || at.elapsed() >= RETRY)
    }

    fn allocate_spare(&mut self) {
        let freed = self.account.freed.load(Ordering::Relaxed);
        let counted = self.counted();
        let size = self.account.size.fetch_add(counted, Ordering::Relaxed) + counted;
        let segment = if counted > 0 && size > self.account.limit() {
            None
        } else {
            let number = self.current.number() + 1;
            let segment = Segment::create(&self.directory, self.number, number, self.segment_size);
            let told_before =
                counted == 0 || self.account.blocked.swap(segment.is_err(), Ordering::Relaxed);
            let told = |error: &io::Error| {
                if !told_before {
                    tracing::error!(%error, "the audit spool cannot grow");
                }
            };
            segment.inspect_err(told).ok()
        };
        self.refused = None;
        if segment.is_none() {
            self.account.size.fetch_sub(counted, Ordering::Relaxed);
            self.refused = Some((Instant::now(), freed));
        }
        self.spare = segment;
    }
}

/// Waits for the disk.
pub(crate) struct Disk {
    place: Place,
    shared: Shared,
}

impl Disk {
    /// Until all is on disk that the lane had written when this was made.
    ///
    /// # Errors
    /// [`Unsynced`]: the disk failed.
    pub(crate) async fn reached(self) -> Result<(), Unsynced> {
        self.shared.bell.ring_now();
        let durable: &Durable = &self.shared.durable;
        durable.reached(self.place).await
    }
}
