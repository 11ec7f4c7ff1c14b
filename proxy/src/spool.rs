//! The spool: audit records on disk before anybody outside has seen what they tell of.
//!
//! Each worker has a lane of its own and takes no lock to append to it. A lane is a row of segments;
//! a record is a part of a span (see [`crate::audit`]). A thread brings lanes to disk; the exporter
//! reads what is there, and a segment is deleted when everything in it has been acknowledged. What a
//! process leaves behind when it is killed is read by its successor first.
//!
//! ```text
//! <directory>/<boot>/resource          the OTLP resource of that boot's spans
//! <directory>/<boot>/lane-0-00000001.segment …
//! <directory>/<boot>/lane-0.settled    what was acknowledged and is half there
//! ```
//!
//! Not done here: what a span says, and where it is sent.

mod account;
mod bell;
mod chain;
mod damage;
mod header;
mod lane;
mod lane_reader;
mod published;
mod reader;
mod record;
mod segment;
mod settled;
mod stem;
mod syncer;

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(crate) use account::Account;
pub(crate) use bell::Bell;
pub(crate) use chain::{Head, Link, Running as RunningHash, sha256};
pub(crate) use header::Reason;
pub(crate) use lane::{Class, Disk, Lane};
pub(crate) use reader::{Completed, EndedLane, Limit, Reader};
pub(crate) use record::Payload;
pub(crate) use stem::Stem;
pub(crate) use syncer::{Shared as SharedLane, SpoolEvent, Syncer};

/// The smallest limit on the spool of so many workers, in bytes: each has a segment that it writes
/// and one in reserve, and as many may wait to be received.
pub(crate) fn min_size(workers: usize) -> u64 {
    4 * segment::SIZE * workers as u64
}

const RESOURCE: &str = "resource";

/// The spool of one process.
pub(crate) struct Spool {
    directory: PathBuf,
    emitter: String,
    boot: String,
    account: Arc<Account>,
    bell: Arc<Bell>,
    lanes: Vec<SharedLane>,
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
        let mut file = fs::File::create(own.join(RESOURCE))?;
        file.write_all(resource)?;
        file.sync_all()?;
        fs::File::open(&own)?.sync_all()?;
        fs::File::open(directory)?.sync_all()?;
        reader::clean(directory)?;
        let account = Account::new(reader::size_on_disk(directory)?, max_size);
        Ok(Self {
            directory: directory.to_owned(),
            emitter: emitter.to_owned(),
            boot: boot.to_owned(),
            account: Arc::new(account),
            bell: Arc::default(),
            lanes: Vec::new(),
        })
    }

    /// Makes the next lane, to be moved to its worker.
    ///
    /// # Errors
    /// When its first segment cannot be allocated.
    pub(crate) fn lane(&mut self) -> io::Result<Lane> {
        self.add(segment::SIZE)
    }

    /// Makes the next lane, for the little that is not a worker's. It does not count towards the
    /// limit.
    ///
    /// # Errors
    /// As [`Spool::lane`].
    pub(crate) fn small_lane(&mut self) -> io::Result<Lane> {
        self.add(segment::SMALL)
    }

    fn add(&mut self, size: u64) -> io::Result<Lane> {
        let number = u32::try_from(self.lanes.len()).unwrap_or(u32::MAX);
        let seed = Link::seed(&self.emitter, &self.boot, number);
        let shared = SharedLane { bell: Arc::clone(&self.bell), ..SharedLane::default() };
        let (own, account) = (self.directory.join(&self.boot), Arc::clone(&self.account));
        let lane = Lane::create(own, number, size, seed, shared.clone(), account)?;
        self.lanes.push(shared);
        Ok(lane)
    }

    /// What brings the lanes made so far to disk. Nothing is read of them before.
    pub(crate) fn syncer(&self) -> Syncer {
        let (account, bell) = (Arc::clone(&self.account), Arc::clone(&self.bell));
        Syncer::new(self.directory.join(&self.boot), &self.lanes, account, bell)
    }

    /// The reader of everything: this boot's lanes as they grow, and earlier boots to their end.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub(crate) fn reader(&self) -> io::Result<Reader> {
        Reader::open(&self.directory, &self.boot, &self.lanes, Arc::clone(&self.account))
    }

    /// The lanes, in the order of their numbers.
    pub(crate) fn lanes(&self) -> &[SharedLane] {
        &self.lanes
    }

    /// To wake the syncer with.
    pub(crate) fn bell(&self) -> Arc<Bell> {
        Arc::clone(&self.bell)
    }

    /// The account, to be shown.
    pub(crate) fn account(&self) -> Arc<Account> {
        Arc::clone(&self.account)
    }
}

#[cfg(test)]
mod tests;
