//! The reading end: joins the parts of each span, hands out what is complete, and deletes segments
//! of which everything has been acknowledged.
//!
//! Earlier boots are read first, oldest first.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::chain::Head;
use super::lane_reader::{DONE, LaneReader};
use super::syncer::Shared;
use super::{Account, RESOURCE, segment};
use crate::audit::notice::Missing;

/// Spans handed out together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limit {
    /// At most so many spans.
    pub(crate) spans: usize,
    /// No further span once there are so many bytes.
    pub(crate) bytes: usize,
}

/// A span whose parts are all there.
#[derive(Debug)]
pub(crate) struct Completed {
    /// The parts, one after the other: the bytes of an OTLP `Span`.
    pub(crate) span: Vec<u8>,
    pub(super) boot: usize,
    pub(super) lane: u32,
    pub(super) sequence: u64,
    /// Nanoseconds since 1970 at which it was completed.
    pub(super) time: u64,
    /// The segments that its parts stand in.
    pub(super) segments: Vec<u32>,
}

impl Completed {
    /// The boot it belongs to: an index for [`Reader::resource`].
    pub(crate) fn boot(&self) -> usize {
        self.boot
    }

    pub(crate) fn lane(&self) -> u32 {
        self.lane
    }

    pub(crate) fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Nanoseconds since 1970 at which it was completed.
    pub(crate) fn time(&self) -> u64 {
        self.time
    }
}

/// A lane of an earlier boot that was handed out to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EndedLane {
    pub(crate) boot: String,
    pub(crate) lane: u32,
    pub(crate) head: Head,
}

/// A batch that is being gathered.
pub(super) struct Batch {
    pub(super) spans: Vec<Completed>,
    bytes: usize,
    limit: Limit,
}

impl Batch {
    pub(super) fn push(&mut self, completed: Completed) {
        self.bytes += completed.span.len();
        self.spans.push(completed);
    }

    pub(super) fn is_full(&self) -> bool {
        self.spans.len() >= self.limit.spans || self.bytes >= self.limit.bytes
    }
}

/// Reads the spool of this boot and of earlier ones.
pub(crate) struct Reader {
    boots: Vec<Boot>,
    account: Arc<Account>,
    buffer: Vec<u8>,
    ended: Vec<EndedLane>,
}

struct Boot {
    name: String,
    directory: PathBuf,
    resource: Vec<u8>,
    lanes: Vec<LaneReader>,
    /// Still being written.
    live: bool,
    /// Of an earlier boot: handed out whole.
    finished: bool,
}

impl Reader {
    pub(super) fn open(
        directory: &Path,
        own: &str,
        lanes: &[Shared],
        account: Arc<Account>,
    ) -> io::Result<Self> {
        let mut earlier = Vec::new();
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() && entry.file_name() != *own {
                earlier.push((entry.metadata()?.modified()?, Boot::earlier(entry.path())?));
            }
        }
        earlier.sort_by_key(|(modified, _)| *modified);
        let mut boots: Vec<Boot> = earlier.into_iter().map(|(_, boot)| boot).collect();
        boots.push(Boot::live(directory.join(own), lanes)?);
        Ok(Self { boots, account, buffer: Vec::new(), ended: Vec::new() })
    }

    /// The OTLP resource of a boot's spans.
    pub(crate) fn resource(&self, boot: usize) -> &[u8] {
        self.boots.get(boot).map(|boot| boot.resource.as_slice()).unwrap_or_default()
    }

    /// The next complete spans, in the order in which each lane completed them. Empty when there is
    /// nothing new. Each must come back through [`Reader::acknowledge`] or [`Reader::lose`].
    ///
    /// # Errors
    /// When a segment cannot be read.
    pub(crate) fn next(&mut self, limit: Limit) -> io::Result<Vec<Completed>> {
        let mut batch = Batch { spans: Vec::new(), bytes: 0, limit };
        for (index, boot) in self.boots.iter_mut().enumerate().filter(|(_, b)| !b.finished) {
            for lane in &mut boot.lanes {
                lane.read(&boot.directory, index, &mut self.buffer, &mut batch)?;
            }
            if batch.is_full() {
                break;
            }
            if !boot.live {
                for lane in &mut boot.lanes {
                    let head = lane.finish(index, &boot.name, &mut batch);
                    let (boot, lane) = (boot.name.clone(), lane.number());
                    self.ended.push(EndedLane { boot, lane, head });
                }
                boot.finished = true;
            }
        }
        if batch.spans.is_empty() {
            // An earlier boot may have had nothing to say.
            self.delete_finished();
        }
        Ok(batch.spans)
    }

    /// The lanes of earlier boots that have come to their end since this was asked last.
    pub(crate) fn ended(&mut self) -> Vec<EndedLane> {
        std::mem::take(&mut self.ended)
    }

    /// What is missing of this boot's lanes, since this was asked last.
    pub(crate) fn missing(&mut self) -> Vec<Missing> {
        let live = self.boots.iter_mut().filter(|boot| boot.live);
        live.flat_map(|boot| {
            let name = &boot.name;
            boot.lanes.iter_mut().flat_map(|lane| lane.missing(name)).collect::<Vec<_>>()
        })
        .collect()
    }

    /// Whether everything that was written may be read.
    pub(crate) fn is_caught_up(&self) -> bool {
        self.boots.iter().all(|boot| boot.lanes.iter().all(LaneReader::is_caught_up))
    }

    /// The name of a boot.
    pub(crate) fn name(&self, boot: usize) -> &str {
        self.boots.get(boot).map(|boot| boot.name.as_str()).unwrap_or_default()
    }

    /// Whether it is the boot that is running.
    pub(crate) fn is_of_this_boot(&self, boot: usize) -> bool {
        self.boots.get(boot).is_some_and(|boot| boot.live)
    }

    /// Whether the boot that is running has this name.
    pub(crate) fn is_named(&self, name: &str) -> bool {
        self.boots.last().is_some_and(|boot| boot.name == name)
    }

    /// Takes note that these were received for good, and deletes what is no longer needed.
    pub(crate) fn acknowledge(&mut self, spans: &[Completed]) {
        let count = self.of_this_boot(spans);
        self.account.acknowledged.fetch_add(count, Ordering::Relaxed);
        self.release(spans);
    }

    /// Takes note that these will never arrive, and deletes what is no longer needed.
    pub(crate) fn lose(&mut self, spans: &[Completed]) {
        let count = self.of_this_boot(spans);
        self.account.lost.fetch_add(count, Ordering::Relaxed);
        self.release(spans);
    }

    fn of_this_boot(&self, spans: &[Completed]) -> u64 {
        let own = self.boots.len().saturating_sub(1);
        spans.iter().filter(|span| span.boot == own).count() as u64
    }

    fn release(&mut self, spans: &[Completed]) {
        for span in spans {
            let lanes = self.boots.get_mut(span.boot).map(|boot| &mut boot.lanes);
            let lane = lanes.and_then(|lanes| lanes.iter_mut().find(|l| l.number() == span.lane));
            if let Some(lane) = lane {
                lane.release(span);
            }
        }
        self.delete_finished();
    }

    fn delete_finished(&mut self) {
        let freed: u64 = self.boots.iter_mut().map(Boot::delete_finished).sum();
        if freed > 0 {
            self.account.free(freed);
        }
    }

    /// Whether everything that was begun has been handed out and acknowledged.
    #[cfg(test)]
    pub(crate) fn is_drained(&self) -> bool {
        self.boots.iter().all(|boot| boot.lanes.iter().all(LaneReader::is_drained))
    }

    /// After the writers have ended: removes every boot of which nothing is left to send.
    pub(crate) fn close(self) {
        for boot in &self.boots {
            if boot.lanes.iter().all(LaneReader::is_drained) {
                // Half of a lane would be another lane: it goes as a whole. What cannot be removed
                // is found by the next boot.
                let done = boot.directory.with_file_name(format!("{}{DONE}", boot.name));
                if fs::rename(&boot.directory, &done).is_ok() {
                    let _ignored = fs::remove_dir_all(&done);
                }
            }
        }
    }
}

impl Boot {
    fn live(directory: PathBuf, lanes: &[Shared]) -> io::Result<Self> {
        let lanes = (0_u32..).zip(lanes);
        let lanes = lanes.map(|(number, lane)| LaneReader::live(number, lane.clone()));
        let resource = fs::read(directory.join(RESOURCE))?;
        let (name, lanes) = (name(&directory), lanes.collect());
        Ok(Self { name, lanes, directory, resource, live: true, finished: false })
    }

    fn earlier(directory: PathBuf) -> io::Result<Self> {
        // A crash before the resource was written is one before any span was.
        let resource = fs::read(directory.join(RESOURCE)).unwrap_or_default();
        let mut segments = segments(&directory)?;
        segments.sort_unstable();
        let lanes = segments
            .chunk_by(|(lane, _), (next, _)| lane == next)
            .filter_map(|run| {
                let (lane, _) = run.first()?;
                let numbers = run.iter().map(|(_, number)| *number);
                Some(LaneReader::earlier(&directory, *lane, numbers))
            })
            .collect();
        let name = name(&directory);
        Ok(Self { name, directory, resource, lanes, live: false, finished: false })
    }

    /// Deletes segments that are no longer needed; returns how many bytes they took of the limit.
    fn delete_finished(&mut self) -> u64 {
        let directory = &self.directory;
        let freed = self.lanes.iter_mut().map(|lane| lane.delete_finished(directory)).sum();
        if self.finished && self.lanes.iter().all(LaneReader::is_empty) {
            // Damaged segments that were kept for inspection keep the directory too.
            let _ignored = fs::remove_file(self.directory.join(RESOURCE));
            let _ignored = fs::remove_dir(&self.directory);
            self.lanes.clear();
        }
        freed
    }
}

fn name(boot: &Path) -> String {
    boot.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Finishes what an earlier boot began to delete.
pub(super) fn clean(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if !entry.file_type()?.is_dir() {
            continue;
        }
        if entry.file_name().to_string_lossy().ends_with(DONE) {
            fs::remove_dir_all(entry.path())?;
            continue;
        }
        for marker in fs::read_dir(entry.path())? {
            let marker = marker?;
            let file_name = marker.file_name();
            let lane = file_name.to_str().and_then(|name| name.strip_prefix("lane-"));
            let Some(lane) = lane.and_then(|name| name.strip_suffix(DONE)?.parse::<u32>().ok())
            else {
                continue;
            };
            for (_, number) in segments(&entry.path())?.into_iter().filter(|(of, _)| *of == lane) {
                fs::remove_file(segment::path(&entry.path(), lane, number))?;
            }
            fs::remove_file(marker.path())?;
        }
    }
    Ok(())
}

/// Lane and number of each segment in a boot's directory.
fn segments(directory: &Path) -> io::Result<Vec<(u32, u32)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        found.extend(entry?.file_name().to_str().and_then(segment::parse_name));
    }
    Ok(found)
}

/// Bytes that all segments of all boots take of the limit.
pub(super) fn size_on_disk(directory: &Path) -> io::Result<u64> {
    let mut size = 0;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            for (lane, number) in segments(&entry.path())? {
                let length = fs::metadata(segment::path(&entry.path(), lane, number))?.len();
                size += if length >= segment::SIZE { segment::SIZE } else { 0 };
            }
        }
    }
    Ok(size)
}
