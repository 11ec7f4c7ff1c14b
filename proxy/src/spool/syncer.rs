//! Brings what the lanes have written to disk, every few milliseconds while there is something new,
//! on a thread of its own: a group of records costs one `fdatasync`.
//!
//! Only what is on disk is read and sent, so that a receiver never knows more than the disk does: a
//! power cut cannot make two histories. A file that could not be synced once is never synced again
//! (after a failure the kernel may call its pages clean without having written them): its lane goes
//! on in another one, and what can be read of it is sent all the same.

use std::fmt;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::fs::Advice;
use tokio::sync::watch;

use super::account::{Account, Level};
use super::bell::Bell;
use super::chain::Head;
use super::published::{Place, Published};
use super::segment;

/// How long it sleeps at most when nothing is written.
const IDLE: Duration = Duration::from_secs(1);

/// How far a lane is on disk. Written by the syncer.
#[derive(Debug)]
pub(crate) struct Durable {
    /// What may be read, and the head that may be signed.
    pub(super) readable: Published,
    /// The last segment that could not be brought to disk; 0 if there is none.
    failed: AtomicU32,
    synced: watch::Sender<Place>,
}

impl Default for Durable {
    fn default() -> Self {
        Self {
            readable: Published::default(),
            failed: AtomicU32::new(0),
            synced: watch::Sender::new(Place::default()),
        }
    }
}

/// What could not be brought to disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the audit record could not be brought to disk")]
pub(crate) struct Unsynced;

impl Durable {
    /// Whether this segment is to be left.
    pub(super) fn has_failed(&self, segment: u32) -> bool {
        self.failed.load(Ordering::Relaxed) == segment
    }

    /// Waits until everything up to a place is on disk.
    pub(super) async fn reached(&self, place: Place) -> Result<(), Unsynced> {
        let mut synced = self.synced.subscribe();
        let known = |synced: &Place| *synced >= place || self.has_failed(place.segment);
        // The sender lives as long as this does.
        let reached = synced.wait_for(known).await.is_ok();
        if reached && !self.has_failed(place.segment) { Ok(()) } else { Err(Unsynced) }
    }
}

/// One lane, as its writer and its reader share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shared {
    pub(crate) published: Arc<Published>,
    pub(crate) durable: Arc<Durable>,
    pub(crate) bell: Arc<Bell>,
}

impl Shared {
    /// How far the lane is on disk.
    pub(crate) fn head(&self) -> Head {
        self.durable.readable.load().head
    }

    /// Whether all that was written may be read.
    pub(super) fn is_caught_up(&self) -> bool {
        self.published.load() == self.durable.readable.load()
    }
}

/// What the operator should know.
#[derive(Debug)]
pub(crate) enum SpoolEvent {
    Level(Level),
    Unsynced { lane: u32, segment: u32, error: io::Error },
}

impl fmt::Display for SpoolEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Level(Level::Calm) => f.write_str("recovered: less than four fifths are taken"),
            Self::Level(Level::High) => f.write_str("high: four fifths are taken"),
            Self::Level(Level::Scarce) => {
                f.write_str("scarce: of what is allowed only changes of state are recorded")
            }
            Self::Unsynced { lane, segment, error } => {
                write!(f, "fsync failed: segment {segment} of lane {lane} is left ({error})")
            }
        }
    }
}

/// Brings lanes to disk.
pub(crate) struct Syncer {
    directory: PathBuf,
    lanes: Vec<Lane>,
    account: Arc<Account>,
    bell: Arc<Bell>,
}

struct Lane {
    shared: Shared,
    file: Option<(u32, File)>,
    /// The segment before that one.
    left: Option<File>,
}

impl Syncer {
    pub(super) fn new(
        directory: PathBuf,
        lanes: &[Shared],
        account: Arc<Account>,
        bell: Arc<Bell>,
    ) -> Self {
        let lanes =
            lanes.iter().map(|shared| Lane { shared: shared.clone(), file: None, left: None });
        Self { directory, lanes: lanes.collect(), account, bell }
    }

    /// Starts the thread. `tell` is called on it.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub(crate) fn start(
        mut self,
        interval: Duration,
        mut tell: impl FnMut(SpoolEvent) + Send + 'static,
    ) -> io::Result<Running> {
        let bell = Arc::clone(&self.bell);
        let thread = thread::Builder::new().name("audit-sync".to_owned()).spawn(move || {
            self.bell.adopt();
            while !self.bell.is_stopped() {
                if self.pass(&mut tell) {
                    self.bell.pause(interval);
                } else {
                    let is_new = || self.lanes.iter().any(|lane| !lane.shared.is_caught_up());
                    self.bell.sleep(interval, IDLE, is_new);
                }
            }
            self.pass(&mut tell);
        })?;
        Ok(Running { bell, thread: Some(thread) })
    }

    /// Syncs what is new; tells whether there was something.
    pub(super) fn pass(&mut self, tell: &mut impl FnMut(SpoolEvent)) -> bool {
        let mut moved = false;
        let mut free = 0;
        for (number, lane) in (0_u32..).zip(&mut self.lanes) {
            let state = lane.shared.published.load();
            free += state.free;
            if state == lane.shared.durable.readable.load() {
                continue;
            }
            moved = true;
            let durable = Arc::clone(&lane.shared.durable);
            let from = durable.readable.load().written.segment.max(1);
            for segment in from..=state.written.segment {
                if durable.has_failed(segment) {
                    continue;
                }
                if let Err(error) = lane.sync(&self.directory, number, segment) {
                    durable.failed.store(segment, Ordering::Relaxed);
                    self.account.sync_failures.fetch_add(1, Ordering::Relaxed);
                    tell(SpoolEvent::Unsynced { lane: number, segment, error });
                }
            }
            durable.readable.store(&state);
            let failed = durable.has_failed(state.written.segment);
            durable.synced.send_modify(|synced| {
                if !failed {
                    *synced = state.written;
                }
            });
        }
        if let Some(level) = self.account.watch(free) {
            tell(SpoolEvent::Level(level));
        }
        moved
    }
}

impl Lane {
    fn sync(&mut self, directory: &std::path::Path, lane: u32, segment: u32) -> io::Result<()> {
        // One description for the life of the segment: the kernel tells each of an error only once.
        let file = match self.file.take() {
            Some((number, file)) if number == segment => file,
            earlier => {
                self.leave(earlier.map(|(_, file)| file));
                let file = File::open(segment::path(directory, lane, segment))?;
                File::open(directory)?.sync_all()?;
                file
            }
        };
        file.sync_data()?;
        self.file = Some((segment, file));
        Ok(())
    }

    /// Gives back the memory of the segment before the one that was left just now. Whoever reads along has read it; if
    /// nobody does, a long absence of the receiver must not fill the memory with what is on disk.
    fn leave(&mut self, left: Option<File>) {
        if let Some(file) = std::mem::replace(&mut self.left, left)
            && let Err(error) = rustix::fs::fadvise(&file, 0, None, Advice::DontNeed)
        {
            tracing::debug!(%error, "the page cache keeps an audit segment");
        }
    }
}

/// The syncer at work. Ends with a last pass when it is dropped.
pub(crate) struct Running {
    bell: Arc<Bell>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.bell.stop();
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}
