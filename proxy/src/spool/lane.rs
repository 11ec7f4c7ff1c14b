//! The writing end of one worker's part of the spool.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::Account;
use super::record::{MAX_PAYLOAD, Part, Record};
use super::segment::{self, Segment};

/// No room for another record: the spool's limit is reached or the disk is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the audit spool is full")]
pub(crate) struct Full;

/// How far a lane has been written: number of the segment and bytes in it, in one word, so that the
/// reader sees both of the same moment.
#[derive(Debug, Default)]
pub(crate) struct Written(AtomicU64);

impl Written {
    fn publish(&self, segment: &Segment) {
        let position = u64::from(segment.number()) << 32 | segment.used() as u64;
        // Release: whoever sees the position sees the bytes before it.
        self.0.store(position, Ordering::Release);
    }

    /// The current segment's number and how many of its bytes may be read.
    pub(crate) fn load(&self) -> (u32, u64) {
        let position = self.0.load(Ordering::Acquire);
        ((position >> 32) as u32, position & u64::from(u32::MAX))
    }
}

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
    written: Arc<Written>,
    account: Arc<Account>,
}

impl Lane {
    pub(super) fn create(
        directory: PathBuf,
        number: u32,
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
            written: Arc::default(),
            account,
        };
        lane.written.publish(&lane.current);
        lane.allocate_spare();
        Ok(lane)
    }

    pub(super) fn written(&self) -> Arc<Written> {
        Arc::clone(&self.written)
    }

    /// The lane's number.
    pub(crate) fn number(&self) -> u32 {
        self.number
    }

    /// The sequence number that the next record begun will have.
    pub(crate) fn next_sequence(&self) -> u64 {
        self.next_sequence
    }

    /// Writes the first part of a record, [`Part::Begin`] or [`Part::Whole`], and gives its number.
    ///
    /// # Errors
    /// [`Full`]: nothing was written, and the number is not used up.
    pub(crate) fn begin(&mut self, part: Part, time: u64, payload: &[u8]) -> Result<u64, Full> {
        if self.spare.is_none() {
            self.allocate_spare();
        }
        if self.spare.is_none() || payload.len() > MAX_PAYLOAD {
            return Err(Full);
        }
        let sequence = self.next_sequence;
        self.write(&Record { part, time, sequence, payload }).ok_or(Full)?;
        self.next_sequence += 1;
        self.account.emitted.fetch_add(1, Ordering::Relaxed);
        Ok(sequence)
    }

    /// Writes a further part of a record that was begun.
    ///
    /// # Errors
    /// [`Full`], only when the disk has been full for longer than the reserve lasts. The record
    /// stays visible as begun and not ended.
    pub(crate) fn append(
        &mut self,
        part: Part,
        sequence: u64,
        time: u64,
        payload: &[u8],
    ) -> Result<(), Full> {
        self.write(&Record { part, time, sequence, payload }).ok_or(Full)
    }

    fn write(&mut self, record: &Record<'_>) -> Option<()> {
        if self.current.append(record).is_none() {
            self.current = self.spare.take()?;
            self.allocate_spare();
            self.current.append(record)?;
        }
        self.written.publish(&self.current);
        Some(())
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
