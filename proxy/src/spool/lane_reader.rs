//! Reads one lane, segment by segment, and joins the parts of its spans.
//!
//! A lane of an earlier boot has an end. What was open there was cut off by a crash; it is closed here
//! and goes on with the lane's chain, in the order of the numbers. Nothing of that is written down: it
//! follows from what is on disk alone, so that whoever has to do it again gives the same bytes.
//! Therefore such a lane is deleted as a whole, when all of it was acknowledged.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

use super::chain::{Head, Link, sha256};
use super::header::{self, Header, Live};
use super::published::{Place, Published};
use super::reader::{Batch, Completed};
use super::record::{Found, MAX_PAYLOAD, Record};
use super::segment;
use super::settled::Settled;
use crate::audit::closing;

/// Bytes read at once: more than any record takes, so that a buffer always holds a whole one.
const READ_SIZE: usize = 2 * MAX_PAYLOAD;

pub(super) struct LaneReader {
    number: u32,
    /// The writer's state, if the lane still has one.
    published: Option<Arc<Published>>,
    segments: BTreeMap<u32, Progress>,
    next_segment: u32,
    current: Option<Current>,
    last_time: u64,
    open: HashMap<u64, Open>,
    settled: Settled,
    /// The span that was completed last, of those that were read.
    link: Link,
    /// What the header of the segment that was read last says.
    live: Option<Live>,
    /// Of an earlier boot: everything was handed out.
    ended: bool,
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
    pub(super) fn live(number: u32, published: Arc<Published>) -> Self {
        Self::new(number, Some(published), BTreeMap::new(), Settled::default())
    }

    pub(super) fn earlier(
        directory: &Path,
        number: u32,
        segments: impl Iterator<Item = u32>,
    ) -> Self {
        let segments = segments.map(|segment| (segment, Progress::default())).collect();
        Self::new(number, None, segments, Settled::read(directory, number))
    }

    fn new(
        number: u32,
        published: Option<Arc<Published>>,
        segments: BTreeMap<u32, Progress>,
        settled: Settled,
    ) -> Self {
        Self {
            number,
            published,
            segments,
            next_segment: 1,
            current: None,
            last_time: 0,
            open: HashMap::new(),
            settled,
            link: Link { position: 0, hash: [0; 32] },
            live: None,
            ended: false,
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
        let unread = match (self.readable(), &self.current) {
            (Some(end), Some(current)) => {
                end != Place { segment: current.number, offset: current.offset }
            }
            (Some(end), None) => {
                end.offset > header::SIZE as u64 || end.segment >= self.next_segment.max(2)
            }
            (None, _) => self.segments.values().any(|progress| !progress.read),
        };
        let waiting = |progress: &Progress| progress.unacknowledged > 0;
        !unread && self.open.is_empty() && !self.segments.values().any(waiting)
    }

    /// How far a lane that is being written may be read.
    fn readable(&self) -> Option<Place> {
        self.published.as_ref().map(|published| published.load().written)
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
            let readable = self.readable();
            if self.current.is_none() && !self.open_next(directory, readable)? {
                return Ok(());
            }
            let Some(current) = &self.current else { return Ok(()) };
            let (number, offset) = (current.number, current.offset);
            let growing = readable.filter(|end| end.segment == number);
            let end = growing.map_or(segment::SIZE, |end| end.offset);
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

    fn open_next(&mut self, directory: &Path, readable: Option<Place>) -> io::Result<bool> {
        let next = match readable {
            Some(end) => Some(self.next_segment).filter(|next| *next <= end.segment),
            None => self.segments.range(self.next_segment..).map(|(number, _)| *number).next(),
        };
        let Some(number) = next else { return Ok(false) };
        let file = File::open(segment::path(directory, self.number, number))?;
        let mut start = [0; header::SIZE];
        // What was cut short has no header.
        let got = file.read_at(&mut start, 0)?;
        match Header::read(start.get(..got).unwrap_or_default()) {
            Some((header, live)) => {
                if header.link.position >= self.link.position {
                    self.link = header.link;
                }
                self.live = Some(live);
            }
            // Allocated ahead, and never begun.
            None if start == [0; header::SIZE] => {}
            None => tracing::error!(lane = self.number, number, "a segment's header is damaged"),
        }
        self.segments.entry(number).or_default();
        self.current = Some(Current { number, file, offset: header::SIZE as u64 });
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
        let torn = self.published.is_none() && last;
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
        let sequence = record.sequence;
        self.last_time = self.last_time.max(record.time);
        self.link = record.link.unwrap_or(self.link);
        if self.settled.contains(sequence) && self.published.is_none() {
            return;
        }
        let known = self.open.remove(&sequence);
        let mut open = match known {
            _ if record.part.begins() => Open { span: Vec::new(), segments: Vec::new() },
            Some(open) => open,
            // Its beginning was in a segment that is gone, so that it was acknowledged; or in what is
            // damaged.
            None => return,
        };
        open.span.extend_from_slice(record.payload);
        if open.segments.last() != Some(&segment) {
            open.segments.push(segment);
            if let Some(progress) = self.segments.get_mut(&segment) {
                progress.unacknowledged += 1;
            }
        }
        if record.part.ends() {
            batch.push(self.completed(open, boot, sequence));
        } else {
            self.open.insert(sequence, open);
        }
    }

    /// At the end of an earlier boot's lane: closes and hands out what was open there. Tells how far
    /// the lane has come then.
    pub(super) fn finish(&mut self, boot: usize, batch: &mut Batch) -> Head {
        let mut open: Vec<(u64, Open)> = self.open.drain().collect();
        open.sort_by_key(|(sequence, _)| *sequence);
        for (sequence, mut open) in open {
            closing::interrupted(&mut open.span, self.last_time, &self.link);
            self.link = self.link.next(sha256(&open.span));
            batch.push(self.completed(open, boot, sequence));
        }
        self.ended = true;
        let lost = self.live.map_or(0, |live| live.lost.total());
        let emitted = self.link.position.saturating_add(lost);
        Head { link: self.link, emitted, open: 0, lost }
    }

    fn completed(&self, open: Open, boot: usize, sequence: u64) -> Completed {
        let Open { span, segments } = open;
        Completed { span, boot, lane: self.number, sequence, segments }
    }

    /// A span is done with.
    pub(super) fn release(&mut self, span: &Completed) {
        for segment in &span.segments {
            if let Some(progress) = self.segments.get_mut(segment) {
                progress.unacknowledged = progress.unacknowledged.saturating_sub(1);
            }
        }
        if span.segments.len() > 1 {
            self.settled.add(span.sequence, &span.segments);
        }
    }

    /// Deletes segments that are no longer needed; returns how many.
    pub(super) fn delete_finished(&mut self, directory: &Path) -> usize {
        let is_done = |progress: &Progress| progress.read && progress.unacknowledged == 0;
        let going: Vec<u32> =
            self.segments.iter().filter(|(_, p)| is_done(p)).map(|(number, _)| *number).collect();
        let marker = directory.join(format!("lane-{}{DONE}", self.number));
        let noted = if going.is_empty() {
            return 0;
        } else if self.published.is_some() {
            let is_there = |segment| self.segments.contains_key(&segment);
            self.settled.save(directory, self.number, &going, is_there)
        } else if self.ended && going.len() == self.segments.len() {
            // A part of it alone would be another lane.
            File::create(&marker).and_then(|file| file.sync_all())
        } else {
            return 0;
        };
        if let Err(error) = noted {
            tracing::warn!(%error, "audit segments cannot be put away");
            return 0;
        }
        for segment in &going {
            let damaged = self.segments.remove(segment).is_some_and(|progress| progress.damaged);
            let path = segment::path(directory, self.number, *segment);
            let done = if damaged {
                fs::rename(&path, path.with_extension("damaged"))
            } else {
                fs::remove_file(&path)
            };
            if let Err(error) = done {
                tracing::warn!(%error, path = %path.display(), "cannot put away an audit segment");
            }
        }
        if self.published.is_none() {
            let _ignored = fs::remove_file(directory.join(format!("lane-{}.settled", self.number)));
            let _ignored = fs::remove_file(marker);
        }
        going.len()
    }
}

/// What a lane's marker ends with while its segments are being deleted.
pub(super) const DONE: &str = ".done";
