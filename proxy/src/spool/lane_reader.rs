//! Reads one lane, segment by segment, and joins the parts of its spans.
//!
//! A lane of an earlier boot has an end. What was open there was cut off by a crash; it is closed here
//! and goes on with the lane's chain, in the order of the numbers, and after it what is missing and
//! was not declared. Nothing of that is written down: it follows from what is on disk alone, so that
//! whoever has to do it again gives the same bytes. Therefore such a lane is deleted as a whole, when
//! all of it was acknowledged.

mod finish;

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use super::chain::Link;
use super::damage::{Damage, Seen, next_record};
use super::header::{self, Header, Live, Losses};
use super::published::Place;
use super::reader::{Batch, Completed};
use super::record::{Found, MAX_PAYLOAD, Part, Record};
use super::segment;
use super::settled::Settled;
use super::syncer::Shared;
use crate::audit::notice::Missing;

/// Bytes read at once: more than any record takes, so that a buffer always holds a whole one.
const READ_SIZE: usize = 4 * MAX_PAYLOAD;
/// More than any record takes.
const MAX_RECORD: usize = MAX_PAYLOAD + 1024;

pub(super) struct LaneReader {
    number: u32,
    /// The writer's end, if the lane still has one.
    shared: Option<Shared>,
    segments: BTreeMap<u32, Progress>,
    next_segment: u32,
    current: Option<Current>,
    last_time: u64,
    open: HashMap<u64, Open>,
    /// Those of the segment at hand.
    stems: HashMap<u64, Vec<u8>>,
    settled: Settled,
    /// The span that was completed last, of those that were read.
    link: Link,
    /// What the header of the segment that was read last says.
    live: Option<Live>,
    declared: Losses,
    seen: Seen,
    /// What was damaged: of a lane that is being written, since this was asked last.
    damages: Vec<(Damage, &'static str)>,
    /// Of an earlier boot: everything was handed out.
    ended: bool,
}

struct Current {
    number: u32,
    file: File,
    offset: u64,
    /// The last attempt to read failed.
    failed: bool,
}

#[derive(Default)]
struct Progress {
    read: bool,
    damaged: bool,
    /// Bytes that count towards the limit.
    counted: u64,
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
    pub(super) fn live(number: u32, shared: Shared) -> Self {
        Self::new(number, Some(shared), BTreeMap::new(), Settled::default())
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
        shared: Option<Shared>,
        segments: BTreeMap<u32, Progress>,
        settled: Settled,
    ) -> Self {
        Self {
            number,
            shared,
            segments,
            next_segment: 1,
            current: None,
            last_time: 0,
            open: HashMap::new(),
            stems: HashMap::new(),
            settled,
            link: Link { position: 0, hash: [0; 32] },
            live: None,
            declared: Losses::default(),
            seen: Seen::default(),
            damages: Vec::new(),
            ended: false,
        }
    }

    pub(super) fn number(&self) -> u32 {
        self.number
    }

    pub(super) fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// Whether everything that was written may be read.
    pub(super) fn is_caught_up(&self) -> bool {
        self.shared.as_ref().is_none_or(Shared::is_caught_up)
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
        // What is missing and was not declared its successor declares.
        let lost = self.shared.as_ref().map_or(0, |shared| shared.head().lost);
        let declared = lost == 0 || lost <= self.declared.total();
        let whole = self.seen.damage.is_none() && self.damages.is_empty();
        !unread && declared && whole && self.open.is_empty() && !self.segments.values().any(waiting)
    }

    /// How far a lane that is being written may be read.
    fn readable(&self) -> Option<Place> {
        self.shared.as_ref().map(|shared| shared.durable.readable.load().written)
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
            let Some(current) = &mut self.current else { return Ok(()) };
            let (number, offset) = (current.number, current.offset);
            let growing = readable.filter(|end| end.segment == number);
            let end = growing.map_or(segment::SIZE, |end| end.offset);
            let wanted = usize::try_from(end.saturating_sub(offset)).unwrap_or(READ_SIZE);
            let target = buffer.get_mut(..wanted.min(READ_SIZE)).unwrap_or_default();
            let got = match current.file.read_at(target, offset) {
                Ok(got) => got,
                Err(error) if !std::mem::replace(&mut current.failed, true) => return Err(error),
                // What cannot be read must not keep what can.
                Err(_) => {
                    self.note_damage();
                    self.close_current(true);
                    continue;
                }
            };
            let bytes = target.get(..got).unwrap_or_default();
            let more_follows = got == READ_SIZE && wanted > READ_SIZE;
            let (mut used, stopped) = self.take(number, bytes, boot, more_follows, batch);
            let rest = bytes.get(used..).unwrap_or_default();
            let mut close = None;
            match stopped {
                Stopped::Full | Stopped::Buffer => {}
                Stopped::End if growing.is_some() && rest.is_empty() => {
                    self.advance(used);
                    return Ok(());
                }
                Stopped::End | Stopped::Damaged => {
                    let zeros = matches!(stopped, Stopped::End);
                    match next_record(rest.get(1..).unwrap_or_default()) {
                        Some(at) => {
                            self.note_damage();
                            used += at + 1;
                        }
                        None if more_follows => {
                            if !zeros {
                                self.note_damage();
                            }
                            used = used.max(bytes.len().saturating_sub(MAX_RECORD));
                        }
                        None if growing.is_some() => {
                            self.note_damage();
                            used = bytes.len();
                        }
                        None => close = Some(zeros),
                    }
                }
            }
            self.advance(used);
            match close {
                Some(true) => self.close_current(false),
                Some(false) => self.close_torn(),
                None => {}
            }
        }
        Ok(())
    }

    fn advance(&mut self, used: usize) {
        if let Some(current) = &mut self.current {
            current.offset += used as u64;
            current.failed = false;
        }
    }

    fn open_next(&mut self, directory: &Path, readable: Option<Place>) -> io::Result<bool> {
        let next = match readable {
            Some(end) => Some(self.next_segment).filter(|next| *next <= end.segment),
            None => self.segments.range(self.next_segment..).map(|(number, _)| *number).next(),
        };
        let Some(number) = next else { return Ok(false) };
        let file = match File::open(segment::path(directory, self.number, number)) {
            Ok(file) => file,
            // Somebody has removed it: the chain's positions show what is missing.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                tracing::error!(lane = self.number, number, "an audit segment is gone");
                self.segments.remove(&number);
                self.next_segment = number + 1;
                return self.open_next(directory, readable);
            }
            Err(error) => return Err(error),
        };
        let size = file.metadata()?.len();
        let found = read_header(&file)?;
        self.settle_damage(found.as_ref().map(|(header, _)| header.link.position));
        if let Some((header, live)) = &found {
            if header.link.position >= self.link.position {
                self.link = header.link;
            }
            (self.live, self.declared) = (Some(*live), header.declared);
            self.seen.last = self.seen.last.max(header.next_sequence.saturating_sub(1));
        }
        self.stems.clear();
        let counted = if size >= segment::SIZE { segment::SIZE } else { 0 };
        self.segments.entry(number).or_default().counted = counted;
        let offset = header::SIZE as u64;
        self.current = Some(Current { number, file, offset, failed: false });
        self.next_segment = number + 1;
        Ok(true)
    }

    fn close_current(&mut self, damaged: bool) {
        let Some(current) = self.current.take() else { return };
        // Its second half has changed since the segment was opened.
        let header = read_header(&current.file).ok().flatten();
        self.live = header.map(|(_, live)| live).or(self.live);
        self.seen.close(header.as_ref());
        if let Some(progress) = self.segments.get_mut(&current.number) {
            progress.read = true;
            progress.damaged = damaged || self.seen.damage.is_some();
        }
    }

    /// Nothing can be read from here to the end of the segment. At the very end of an earlier boot
    /// that is what the crash of the machine cut off. Anywhere else something has changed what was
    /// written.
    fn close_torn(&mut self) {
        let Some(current) = &self.current else { return };
        let last = self.segments.keys().next_back() == Some(&current.number);
        let torn = self.shared.is_none() && last && self.seen.damage.is_none();
        self.note_damage();
        self.close_current(!torn);
        if torn && let Some(progress) = self.segments.values_mut().next_back() {
            progress.damaged = false;
        }
    }

    fn note_damage(&mut self) {
        let Some(current) = &self.current else { return };
        let (lane, segment, offset) = (self.number, current.number, current.offset);
        tracing::error!(lane, segment, offset, "an audit segment is damaged here");
        let after = self.seen.last;
        self.seen.damage.get_or_insert(Damage { after, ..Damage::default() });
    }

    /// Before the next segment, or at the end: what of the last one is missing is known now.
    /// `position`: of the chain, at the beginning of the next one.
    fn settle_damage(&mut self, position: Option<u64>) {
        self.seen.begun = 0;
        let Some(mut damage) = self.seen.damage.take() else { return };
        damage.places += position.unwrap_or_default().saturating_sub(self.link.position);
        let segment = self.next_segment.saturating_sub(1);
        let unsynced = self.shared.as_ref().is_some_and(|s| s.durable.has_failed(segment));
        self.damages.push((damage, if unsynced { "unsynced" } else { "damaged" }));
    }

    /// What is missing of a lane that is being written, since this was asked last.
    pub(super) fn missing(&mut self, boot: &str) -> Vec<Missing> {
        let lane = self.number;
        let damages = self.damages.drain(..).filter(|(damage, _)| damage.count() > 0);
        damages
            .map(|(damage, reason)| {
                let (boot, range) = (boot.to_owned(), damage.range());
                Missing { reason, count: damage.count(), boot, lane, range }
            })
            .collect()
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
        if record.part == Part::Stem {
            self.stems.insert(sequence, record.payload.bytes.to_vec());
            return;
        }
        let Some(payload) = record.payload.unpacked() else { return self.note_damage() };
        if record.stem.is_some_and(|stem| !self.stems.contains_key(&stem)) {
            // What it begins with was damaged, and so it is.
            self.note_damage();
            return;
        }
        if record.part.begins() {
            self.seen.begun += 1;
            self.seen.last = self.seen.last.max(sequence);
        }
        if let Some(damage) = &mut self.seen.damage {
            let link = record.link.map_or(0, |link| link.position);
            damage.places += link.saturating_sub(self.link.position + 1);
            if record.part.begins() {
                damage.before.get_or_insert(sequence);
            }
        }
        if let Some((reason, count)) = record.gap {
            self.declared.add(reason, count);
        }
        self.link = record.link.unwrap_or(self.link);
        if self.settled.contains(sequence) && self.shared.is_none() {
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
        if let Some(stem) = record.stem.and_then(|stem| self.stems.get(&stem)) {
            open.span.extend_from_slice(stem);
        }
        open.span.extend_from_slice(&payload);
        if open.segments.last() != Some(&segment) {
            open.segments.push(segment);
            if let Some(progress) = self.segments.get_mut(&segment) {
                progress.unacknowledged += 1;
            }
        }
        if record.part.ends() {
            batch.push(self.completed(open, boot, sequence, record.time));
        } else {
            self.open.insert(sequence, open);
        }
    }

    fn completed(&self, open: Open, boot: usize, sequence: u64, time: u64) -> Completed {
        let Open { span, segments } = open;
        Completed { span, boot, lane: self.number, sequence, time, segments }
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

    /// Deletes segments that are no longer needed; returns how many bytes they took of the limit.
    pub(super) fn delete_finished(&mut self, directory: &Path) -> u64 {
        let is_done = |progress: &Progress| progress.read && progress.unacknowledged == 0;
        let going: Vec<u32> =
            self.segments.iter().filter(|(_, p)| is_done(p)).map(|(number, _)| *number).collect();
        let marker = directory.join(format!("lane-{}{DONE}", self.number));
        let noted = if going.is_empty() {
            return 0;
        } else if self.shared.is_some() {
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
        let mut freed = 0;
        for segment in &going {
            let Some(progress) = self.segments.remove(segment) else { continue };
            freed += progress.counted;
            let path = segment::path(directory, self.number, *segment);
            let done = if progress.damaged {
                fs::rename(&path, path.with_extension("damaged"))
            } else {
                fs::remove_file(&path)
            };
            if let Err(error) = done {
                tracing::warn!(%error, path = %path.display(), "cannot put away an audit segment");
            }
        }
        if self.shared.is_none() {
            let _ignored = fs::remove_file(directory.join(format!("lane-{}.settled", self.number)));
            let _ignored = fs::remove_file(marker);
        }
        freed
    }
}

/// None if it is damaged, or the segment was never begun.
fn read_header(file: &File) -> io::Result<Option<(Header, Live)>> {
    let mut start = [0; header::SIZE];
    let got = file.read_at(&mut start, 0)?;
    Ok(Header::read(start.get(..got).unwrap_or_default()))
}

/// What a lane's marker ends with while its segments are being deleted.
pub(super) const DONE: &str = ".done";
