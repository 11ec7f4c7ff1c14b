//! The spool: audit records on disk before anybody outside has seen what they tell of.
//!
//! Each worker has a lane of its own and takes no lock to append to it. A lane is a row of segments;
//! a record is a part of a span (see [`crate::audit`]). The exporter reads along behind, and a
//! segment is deleted when everything in it has been acknowledged. What a process leaves behind when
//! it is killed is read by its successor first.
//!
//! ```text
//! <directory>/<boot>/resource          the OTLP resource of that boot's spans
//! <directory>/<boot>/lane-0-00000001.segment …
//! ```
//!
//! Not done here: what a span says, and where it is sent.

mod chain;
mod header;
mod lane;
mod lane_reader;
mod published;
mod reader;
mod record;
mod segment;
mod settled;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

pub(crate) use chain::{Hash, Head, Link, Running, sha256};
pub(crate) use lane::{Full, Lane};
pub(crate) use published::Published;
pub(crate) use reader::{Completed, EndedLane, Limit, Reader};

/// The smallest limit on the spool of so many workers, in bytes: each has a segment that it writes
/// and one in reserve, and as many may wait to be received.
pub(crate) fn min_size(workers: usize) -> u64 {
    4 * segment::SIZE * workers as u64
}

const RESOURCE: &str = "resource";

/// What became of the records of this boot.
#[derive(Debug, Default)]
pub(crate) struct Account {
    emitted: AtomicU64,
    acknowledged: AtomicU64,
    lost: AtomicU64,
    /// Bytes of all segments of all boots.
    size: AtomicU64,
}

impl Account {
    /// Records begun.
    pub(crate) fn emitted(&self) -> u64 {
        self.emitted.load(Ordering::Relaxed)
    }

    /// Records whose receipt was acknowledged.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// Records that could not be written, or were dropped to make room: declared lost.
    pub(crate) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Records that wait: for their end, or to be acknowledged.
    pub(crate) fn pending(&self) -> u64 {
        self.emitted().saturating_sub(self.acknowledged()).saturating_sub(self.lost())
    }

    /// Bytes on disk, records of earlier boots included.
    pub(crate) fn size(&self) -> u64 {
        self.size.load(Ordering::Relaxed)
    }

    /// Declares one record that was never written.
    pub(crate) fn lose_one(&self) {
        self.emitted.fetch_add(1, Ordering::Relaxed);
        self.lost.fetch_add(1, Ordering::Relaxed);
    }
}

/// The spool of one process.
pub(crate) struct Spool {
    directory: PathBuf,
    emitter: String,
    boot: String,
    max_size: u64,
    account: Arc<Account>,
    lanes: Vec<Arc<Published>>,
}

impl Spool {
    /// Opens the spool for a new boot, beside what earlier ones left.
    ///
    /// `emitter` is the SPIFFE ID of whose records these are, `resource` the OTLP resource that this
    /// boot's spans belong to. The caller holds a lock on the directory.
    ///
    /// # Errors
    /// When the directory cannot be made or written.
    pub(crate) fn open(
        directory: &Path,
        emitter: &str,
        boot: &str,
        resource: &[u8],
        max_size: u64,
    ) -> io::Result<Self> {
        let own = directory.join(boot);
        fs::create_dir_all(&own)?;
        fs::write(own.join(RESOURCE), resource)?;
        reader::clean(directory)?;
        let account = Account::default();
        account.size.store(reader::size_on_disk(directory)?, Ordering::Relaxed);
        Ok(Self {
            directory: directory.to_owned(),
            emitter: emitter.to_owned(),
            boot: boot.to_owned(),
            max_size,
            account: Arc::new(account),
            lanes: Vec::new(),
        })
    }

    /// Makes the next lane, to be moved to its worker.
    ///
    /// # Errors
    /// When its first segment cannot be allocated.
    pub(crate) fn lane(&mut self) -> io::Result<Lane> {
        let number = u32::try_from(self.lanes.len()).unwrap_or(u32::MAX);
        let directory = self.directory.join(&self.boot);
        let seed = Link::seed(&self.emitter, &self.boot, number);
        let account = Arc::clone(&self.account);
        let lane = Lane::create(directory, number, seed, self.max_size, account)?;
        self.lanes.push(lane.published());
        Ok(lane)
    }

    /// The reader of everything: this boot's lanes as they grow, and earlier boots to their end.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub(crate) fn reader(&self) -> io::Result<Reader> {
        Reader::open(&self.directory, &self.boot, &self.lanes, Arc::clone(&self.account))
    }

    /// What the lanes' writers publish, in the order of their numbers.
    pub(crate) fn published(&self) -> Vec<Arc<Published>> {
        self.lanes.clone()
    }

    /// The account, to be shown.
    pub(crate) fn account(&self) -> Arc<Account> {
        Arc::clone(&self.account)
    }
}

#[cfg(test)]
mod tests;
