//! Reads one lane, segment by segment, and joins the parts of its spans.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

use super::lane::Written;
use super::reader::{Batch, Completed};
use super::record::{Found, MAX_PAYLOAD, Record};
use super::segment;

/// Bytes read at once: more than any record takes, so that a buffer always holds a whole one.
const READ_SIZE: usize = 2 * MAX_PAYLOAD;

pub(super) struct LaneReader {
    number: u32,
    /// How far the lane is written, if it still is.
    written: Option<Arc<Written>>,
    segments: BTreeMap<u32, Progress>,
    next_segment: u32,
    current: Option<Current>,
    last_time: u64,
    open: HashMap<u64, Open>,
}

struct Current {
    number: u32,
    file: File,
    offset: u64,
}

#[derive(Default)]
struct Progress {
    read: bool,
    damaged: bool,
    /// Spans with a part in this segment that are not acknowledged.
    unacknowledged: usize,
}

struct Open {
    span: Vec<u8>,
    segments: Vec<u32>,
}

/// Why reading a buffer stopped.
enum Stopped {
    /// The batch is full.
    Full,
    /// The buffer ends here, perhaps within a record.
    Buffer,
    /// The segment has no more.
    End,
    Damaged,
}

impl LaneReader {
    pub(super) fn live(number: u32, written: Arc<Written>) -> Self {
        Self {
            number,
            written: Some(written),
            segments: BTreeMap::new(),
            next_segment: 1,
            current: None,
            last_time: 0,
            open: HashMap::new(),
        }
    }

    pub(super) fn earlier(number: u32, segments: impl Iterator<Item = u32>) -> Self {
        Self {
            number,
            written: None,
            segments: segments.map(|segment| (segment, Progress::default())).collect(),
            next_segment: 1,
            current: None,
            last_time: 0,
            open: HashMap::new(),
        }
    }

    pub(super) fn number(&self) -> u32 {
        self.number
    }

    pub(super) fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// Whether everything that was begun has been handed out and acknowledged.
    pub(super) fn is_drained(&self) -> bool {
        let unread = match (&self.written, &self.current) {
            (Some(written), Some(current)) => written.load() != (current.number, current.offset),
            (Some(written), None) => written.load().1 > 0 || written.load().0 >= self.next_segment,
            (None, _) => self.segments.values().any(|progress| !progress.read),
        };
        let waiting = |progress: &Progress| progress.unacknowledged > 0;
        !unread && self.open.is_empty() && !self.segments.values().any(waiting)
    }

    /// Reads on from where it stands until the batch is full or there is no more.
    pub(super) fn read(
        &mut self,
        directory: &Path,
        boot: usize,
        buffer: &mut Vec<u8>,
        batch: &mut Batch,
    ) -> io::Result<()> {
        buffer.resize(READ_SIZE, 0);
        while !batch.is_full() {
            // Loaded before reading: what is published by then is in the file.
            let written = self.written.as_ref().map(|written| written.load());
            if self.current.is_none() && !self.open_next(directory, written)? {
                return Ok(());
            }
            let Some(current) = &self.current else { return Ok(()) };
            let (number, offset) = (current.number, current.offset);
            let growing = written.filter(|(segment, _)| *segment == number);
            let end = growing.map_or(segment::SIZE, |(_, used)| used);
            let wanted = usize::try_from(end.saturating_sub(offset)).unwrap_or(READ_SIZE);
            let target = buffer.get_mut(..wanted.min(READ_SIZE)).unwrap_or_default();
            let got = current.file.read_at(target, offset)?;
            let bytes = target.get(..got).unwrap_or_default();
            let more_follows = got == READ_SIZE && wanted > READ_SIZE;
            let (used, stopped) = self.take(number, bytes, boot, more_follows, batch);
            if let Some(current) = &mut self.current {
                current.offset += used as u64;
            }
            match stopped {
                Stopped::Full => return Ok(()),
                Stopped::Buffer => {}
                Stopped::End if growing.is_some() => return Ok(()),
                Stopped::End => self.close_current(false),
                Stopped::Damaged => self.close_damaged(),
            }
        }
        Ok(())
    }

    fn open_next(&mut self, directory: &Path, written: Option<(u32, u64)>) -> io::Result<bool> {
        let next = match written {
            Some((segment, _)) => Some(self.next_segment).filter(|next| *next <= segment),
            None => self.segments.range(self.next_segment..).map(|(number, _)| *number).next(),
        };
        let Some(number) = next else { return Ok(false) };
        let file = File::open(segment::path(directory, self.number, number))?;
        self.segments.entry(number).or_default();
        self.current = Some(Current { number, file, offset: 0 });
        self.next_segment = number + 1;
        Ok(true)
    }

    fn close_current(&mut self, damaged: bool) {
        if let Some(current) = self.current.take()
            && let Some(progress) = self.segments.get_mut(&current.number)
        {
            progress.read = true;
            progress.damaged = damaged;
        }
    }

    /// At the very end of an earlier boot a damaged record is one that the crash of the machine cut
    /// off. Anywhere else something has changed what was written: that segment is kept.
    fn close_damaged(&mut self) {
        let Some(current) = &self.current else { return };
        let last = self.segments.keys().next_back() == Some(&current.number);
        let torn = self.written.is_none() && last;
        let (lane, segment, offset) = (self.number, current.number, current.offset);
        if torn {
            tracing::warn!(lane, segment, offset, "the audit spool's torn end was cut off");
        } else {
            tracing::error!(lane, segment, offset, "an audit segment is damaged; it is kept");
        }
        self.close_current(!torn);
    }

    /// Takes the records of a buffer; returns how many bytes were used and why it stopped.
    fn take(
        &mut self,
        segment: u32,
        bytes: &[u8],
        boot: usize,
        more_follows: bool,
        batch: &mut Batch,
    ) -> (usize, Stopped) {
        let mut used = 0;
        loop {
            if batch.is_full() {
                return (used, Stopped::Full);
            }
            let rest = bytes.get(used..).unwrap_or_default();
            match Record::read(rest) {
                Found::Record(record, size) => {
                    self.take_record(&record, segment, boot, batch);
                    used += size;
                }
                _ if more_follows && used > 0 => return (used, Stopped::Buffer),
                Found::End => return (used, Stopped::End),
                Found::Damaged => return (used, Stopped::Damaged),
            }
        }
    }

    fn take_record(&mut self, record: &Record<'_>, segment: u32, boot: usize, batch: &mut Batch) {
        self.last_time = self.last_time.max(record.time);
        let mut open = match self.open.remove(&record.sequence) {
            Some(open) if !record.part.begins() => open,
            None if record.part.begins() => Open { span: Vec::new(), segments: Vec::new() },
            other => {
                // Parts of a record whose beginning was in a damaged segment.
                let sequence = record.sequence;
                tracing::error!(lane = self.number, sequence, "an audit record lacks its begin");
                other.unwrap_or(Open { span: Vec::new(), segments: Vec::new() })
            }
        };
        open.span.extend_from_slice(record.payload);
        if open.segments.last() != Some(&segment) {
            open.segments.push(segment);
            if let Some(progress) = self.segments.get_mut(&segment) {
                progress.unacknowledged += 1;
            }
        }
        if record.part.ends() {
            batch.push(self.completed(open, boot, None));
        } else {
            self.open.insert(record.sequence, open);
        }
    }

    /// Hands out what an earlier boot left open.
    pub(super) fn hand_out_interrupted(&mut self, boot: usize, batch: &mut Batch) {
        let mut open: Vec<(u64, Open)> = self.open.drain().collect();
        open.sort_by_key(|(sequence, _)| *sequence);
        for (_, open) in open {
            batch.push(self.completed(open, boot, Some(self.last_time)));
        }
    }

    fn completed(&self, open: Open, boot: usize, interrupted: Option<u64>) -> Completed {
        Completed { span: open.span, interrupted, boot, lane: self.number, segments: open.segments }
    }

    /// One span with parts in these segments is done with.
    pub(super) fn release(&mut self, segments: &[u32]) {
        for segment in segments {
            if let Some(progress) = self.segments.get_mut(segment) {
                progress.unacknowledged = progress.unacknowledged.saturating_sub(1);
            }
        }
    }

    /// Deletes segments that are no longer needed; returns how many.
    pub(super) fn delete_finished(&mut self, directory: &Path) -> usize {
        let number = self.number;
        let mut deleted = 0;
        self.segments.retain(|segment, progress| {
            if !progress.read || progress.unacknowledged > 0 {
                return true;
            }
            let path = segment::path(directory, number, *segment);
            let done = if progress.damaged {
                fs::rename(&path, path.with_extension("damaged"))
            } else {
                fs::remove_file(&path)
            };
            if let Err(error) = done {
                tracing::warn!(%error, path = %path.display(), "cannot put away an audit segment");
            }
            deleted += 1;
            false
        });
        deleted
    }
}
