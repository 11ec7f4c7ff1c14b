//! One file of a lane, written through a memory map.
//!
//! Why a map: what is stored in it is in the page cache at once, so it outlives the process (a
//! buffer in user space would not), and storing costs no system call, which a write per request
//! would. The file's blocks are allocated when it is made, so a full disk is an error there and not
//! a SIGBUS later, and written, so that a sync has nothing to note but data.
#![allow(
    unsafe_code,
    reason = "mapping a file and prefetching are unsafe; this module is the only one that does so"
)]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use memmap2::MmapMut;
use rustix::fs::FallocateFlags;

use super::header::{self, Header, Live};
use super::record::Record;

/// Size of a worker's segment, in bytes.
pub(crate) const SIZE: u64 = 4 << 20;
/// Size of a segment of the lane that is nobody's worker's. These do not count towards the limit.
pub(crate) const SMALL: u64 = 256 << 10;

/// A segment that is being written.
pub(crate) struct Segment {
    map: MmapMut,
    number: u32,
    used: usize,
}

impl Segment {
    /// Makes the file and allocates it.
    pub(crate) fn create(directory: &Path, lane: u32, number: u32, size: u64) -> io::Result<Self> {
        let path = path(directory, lane, number);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(0o600);
        let file = options.open(&path)?;
        let map = Self::map(&file, size).inspect_err(|_| {
            // A half-made segment must not take the space that was missing.
            let _ignored = std::fs::remove_file(&path);
        })?;
        Ok(Self { map, number, used: header::SIZE })
    }

    fn map(file: &File, size: u64) -> io::Result<MmapMut> {
        rustix::fs::fallocate(file, FallocateFlags::empty(), 0, size)?;
        zero(file, size)?;
        // SAFETY: a map is unsound if the file shrinks or changes beneath it. The file was made just
        // now with mode 0600 inside a directory of mode 0700 that one process holds a lock on; only
        // that process writes it, through this map alone, and it never truncates it. The reader uses
        // pread and deletes whole files, which leaves a map intact.
        unsafe { MmapMut::map_mut(file) }
    }

    /// Writes the header: from now on it is the lane's current segment.
    pub(crate) fn open(&mut self, header: &Header) -> Option<()> {
        header.write(&mut self.map)
    }

    /// Keeps the header's second half up to date.
    pub(crate) fn update(&mut self, live: &Live) -> Option<()> {
        live.write(&mut self.map)
    }

    /// The segment's number within its lane, from 1.
    pub(crate) fn number(&self) -> u32 {
        self.number
    }

    /// Bytes written so far, those of the header included.
    pub(crate) fn used(&self) -> usize {
        self.used
    }

    /// Bytes that are left.
    pub(crate) fn left(&self) -> usize {
        self.map.len().saturating_sub(self.used)
    }

    /// Appends a record if it fits.
    pub(crate) fn append(&mut self, record: &Record<'_>) -> Option<()> {
        let size = Record::size(record.part, record.payload.len());
        let end = self.used.checked_add(size)?;
        record.write(self.map.get_mut(self.used..end)?)?;
        self.used = end;
        prefetch(self.map.get(end..).unwrap_or_default());
        Some(())
    }
}

/// Has the processor fetch what the next record is written over. It was written with zeros long ago and is in no cache,
/// and the next instruction that is atomic would wait for it.
fn prefetch(next: &[u8]) {
    /// More than most records take.
    const AHEAD: usize = 320;
    for line in next.chunks(64).take(AHEAD / 64) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a prefetch reads and writes nothing, and the address is that of a slice.
        unsafe {
            use std::arch::x86_64::{_MM_HINT_ET0, _mm_prefetch};
            _mm_prefetch::<_MM_HINT_ET0>(line.as_ptr().cast());
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = line;
    }
}

/// Writes zeros over blocks that were only allocated. Else the file system has to note with each sync
/// which of them hold data by now, and that costs more than the data.
///
/// The first page alone: the page cache keeps together what is written together, and brings it to disk together. The
/// header changes with every record, and what stands after it does not.
fn zero(file: &File, size: u64) -> io::Result<()> {
    const ZEROS: &[u8] = &[0; 64 << 10];
    const PAGE: u64 = 4 << 10;
    let mut done = 0;
    while done < size {
        let next = if done == 0 { PAGE } else { (done + 1).next_multiple_of(ZEROS.len() as u64) };
        let length = usize::try_from(next.min(size) - done).unwrap_or(usize::MAX);
        file.write_all_at(ZEROS.get(..length).unwrap_or_default(), done)?;
        done += length as u64;
    }
    Ok(())
}

/// Where a segment stands.
pub(crate) fn path(directory: &Path, lane: u32, number: u32) -> PathBuf {
    directory.join(format!("lane-{lane}-{number:08}.segment"))
}

/// The lane and number in a segment's file name.
pub(crate) fn parse_name(name: &str) -> Option<(u32, u32)> {
    let (lane, number) = name.strip_prefix("lane-")?.strip_suffix(".segment")?.split_once('-')?;
    Some((lane.parse().ok()?, number.parse().ok()?))
}
