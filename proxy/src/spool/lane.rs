//! The writing end of one worker's part of the spool.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Account;
use super::chain::{Hash, Head, Link};
use super::header::{Header, Live, Losses};
use super::published::{Place, Published, State};
use super::record::{MAX_PAYLOAD, Part, Record};
use super::segment::{self, Segment};

/// No room for another record: the spool's limit is reached or the disk is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the audit spool is full")]
pub(crate) struct Full;

/// One worker's lane. It belongs to one thread; appending takes no lock and no system call, except
/// when a segment is full.
pub(crate) struct Lane {
    directory: PathBuf,
    number: u32,
    max_size: u64,
    current: Segment,
    /// Allocated ahead, so that a request that was begun can always be ended: when no further one
    /// can be had, no more requests are begun.
    spare: Option<Segment>,
    next_sequence: u64,
    open: u64,
    lost: Losses,
    declared: Losses,
    /// The span that was completed last.
    link: Link,
    published: Arc<Published>,
    account: Arc<Account>,
}

impl Lane {
    pub(super) fn create(
        directory: PathBuf,
        number: u32,
        seed: Link,
        max_size: u64,
        account: Arc<Account>,
    ) -> io::Result<Self> {
        let current = Segment::create(&directory, number, 1)?;
        account.size.fetch_add(segment::SIZE, Ordering::Relaxed);
        let mut lane = Self {
            directory,
            number,
            max_size,
            current,
            spare: None,
            next_sequence: 1,
            open: 0,
            lost: Losses::default(),
            declared: Losses::default(),
            link: seed,
            published: Arc::default(),
            account,
        };
        lane.open_current();
        lane.publish();
        lane.allocate_spare();
        Ok(lane)
    }

    pub(super) fn published(&self) -> Arc<Published> {
        Arc::clone(&self.published)
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

    /// Writes the first part of a span and gives its number.
    ///
    /// # Errors
    /// [`Full`]: nothing was written, and the number is not used up.
    pub(crate) fn begin(&mut self, time: u64, payload: &[u8]) -> Result<u64, Full> {
        let sequence = self.first(Part::Begin, time, None, payload)?;
        self.open += 1;
        self.publish();
        Ok(sequence)
    }

    /// Writes a span that is complete at once and gives its number. `hash` is that of the payload.
    ///
    /// # Errors
    /// As [`Lane::begin`].
    pub(crate) fn whole(&mut self, time: u64, payload: &[u8], hash: Hash) -> Result<u64, Full> {
        let link = self.link.next(hash);
        let sequence = self.first(Part::Whole, time, Some(link), payload)?;
        self.link = link;
        self.publish();
        Ok(sequence)
    }

    /// Writes a further part of a span that was begun.
    ///
    /// # Errors
    /// [`Full`], only when the disk has been full for longer than the reserve lasts. The record
    /// stays visible as begun and not ended.
    pub(crate) fn more(&mut self, sequence: u64, time: u64, payload: &[u8]) -> Result<(), Full> {
        let part = Part::More;
        self.write(&Record { part, time, sequence, link: None, payload }).ok_or(Full)?;
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
        payload: &[u8],
        hash: Hash,
    ) -> Result<(), Full> {
        let link = self.link.next(hash);
        let part = Part::End;
        self.write(&Record { part, time, sequence, link: Some(link), payload }).ok_or(Full)?;
        self.link = link;
        self.open = self.open.saturating_sub(1);
        self.publish();
        Ok(())
    }

    fn first(
        &mut self,
        part: Part,
        time: u64,
        link: Option<Link>,
        payload: &[u8],
    ) -> Result<u64, Full> {
        if self.spare.is_none() {
            self.allocate_spare();
        }
        if self.spare.is_none() || payload.len() > MAX_PAYLOAD {
            return Err(Full);
        }
        let sequence = self.next_sequence;
        self.write(&Record { part, time, sequence, link, payload }).ok_or(Full)?;
        self.next_sequence += 1;
        self.note();
        self.account.emitted.fetch_add(1, Ordering::Relaxed);
        Ok(sequence)
    }

    fn write(&mut self, record: &Record<'_>) -> Option<()> {
        if self.current.append(record).is_none() {
            self.current = self.spare.take()?;
            self.open_current();
            self.allocate_spare();
            self.current.append(record)?;
        }
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
        let written = Place { segment: self.current.number(), offset: self.current.used() as u64 };
        let emitted = self.next_sequence.saturating_sub(1);
        let head = Head { link: self.link, emitted, open: self.open, lost: self.lost.total() };
        self.published.store(&State { written, head });
    }

    fn allocate_spare(&mut self) {
        let size = self.account.size.fetch_add(segment::SIZE, Ordering::Relaxed) + segment::SIZE;
        let segment = if size > self.max_size {
            None
        } else {
            let number = self.current.number() + 1;
            Segment::create(&self.directory, self.number, number)
                .inspect_err(|error| tracing::error!(%error, "the audit spool cannot grow"))
                .ok()
        };
        if segment.is_none() {
            self.account.size.fetch_sub(segment::SIZE, Ordering::Relaxed);
        }
        self.spare = segment;
    }
}
