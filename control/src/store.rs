//! The embedded database: one SQLite file, one thread that writes, a few read-only connections.
//!
//! Writes are grouped: everything that waits when the writer is free goes into one transaction, each
//! job in its own savepoint, and nobody is answered before that transaction is on the disk
//! (`journal_mode=WAL`, `synchronous=FULL`). Neither side ever blocks the asynchronous runtime.
//!
//! What the tables mean to the mesh is said in the modules below this one; nothing above it writes SQL.

pub(crate) mod alerts;
pub(crate) mod books;
pub(crate) mod certificates;
pub(crate) mod cursors;
pub(crate) mod deliveries;
mod durations;
pub(crate) mod erasure;
mod facts;
pub(crate) mod feed;
pub(crate) mod groups;
pub(crate) mod heads;
pub(crate) mod instances;
mod lanes;
pub(crate) mod log;
pub(crate) mod operators;
pub(crate) mod policy_set;
pub(crate) mod profiles;
pub(crate) mod prune;
pub(crate) mod records;
pub(crate) mod responses;
pub(crate) mod revocations;
pub(crate) mod sampling;
pub(crate) mod search;
mod segments;
pub(crate) mod silences;
pub(crate) mod tokens;
pub(crate) mod witnesses;
mod words;
mod writer;
mod writing;

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::{Connection, OpenFlags};
use tokio::sync::{Semaphore, oneshot, watch};

use feed::{Feed, Following};
pub(crate) use lanes::Broken;
use writer::{Answer, Job, Writer};
pub(crate) use writing::Writing;

/// The schema's version, kept in SQLite's `user_version`.
const VERSION: i64 = 13;

/// Queries that run at once.
pub(crate) const READERS: usize = 4;

/// Why the store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file cannot be created.
    #[error("cannot create {}", path.display())]
    Create {
        /// The database.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// SQLite refused.
    #[error("the database refused")]
    Sqlite(#[from] rusqlite::Error),
    /// Written by a later version of Picket.
    #[error(
        "the database has schema version {0}, this Picket knows {VERSION}; use the newer Picket"
    )]
    Newer(i64),
    /// Something that was stored cannot be read back.
    #[error("the database holds {0} that cannot be read")]
    Unreadable(&'static str),
    /// The transaction was not committed; nothing of it is in the database.
    #[error("the database did not commit: {0}")]
    NotCommitted(String),
    /// The writer has stopped.
    #[error("the database is closed")]
    Closed,
}

/// A handle to the database; clones share it.
#[derive(Clone)]
pub(crate) struct Store {
    shared: Arc<Shared>,
}

struct Shared {
    path: PathBuf,
    writer: Writer,
    readers: Arc<Semaphore>,
    idle: Mutex<Vec<Connection>>,
    log_size: Arc<AtomicU64>,
    feed: Arc<Feed>,
    /// Counts commits.
    changes: watch::Sender<u64>,
}

impl Store {
    /// Opens the database, creating or migrating it. Blocks: to be called before anything is served.
    pub(crate) fn open(path: &Path) -> Result<Self, StoreError> {
        // Before SQLite does: its own would be readable by all, and the side files take this mode.
        let created =
            OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path);
        created.map_err(|source| StoreError::Create { path: path.to_owned(), source })?;
        let mut connection = Connection::open(path)?;
        configure(&connection)?;
        migrate(&mut connection)?;
        let tree = log::load(&connection)?;
        let log_size = Arc::new(AtomicU64::new(tree.size()));
        let feed = Arc::<Feed>::default();
        let writer = Writer::start(connection, tree, Arc::clone(&log_size), Arc::clone(&feed));
        let readers = Arc::new(Semaphore::new(READERS));
        let (path, idle) = (path.to_owned(), Mutex::default());
        let changes = watch::Sender::default();
        let shared = Shared { path, writer, readers, idle, log_size, feed, changes };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Runs a job on the writing connection, in its own savepoint, and answers once it is durable.
    /// A job that fails leaves nothing behind.
    pub(crate) async fn write<T, F>(&self, job: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Writing<'_>) -> Result<T, StoreError> + Send + 'static,
    {
        let (answer, wait) = oneshot::channel();
        let changes = self.shared.changes.clone();
        let job: Job = Box::new(move |transaction| {
            let result = transaction.map_err(StoreError::NotCommitted).and_then(job);
            let keep = result.is_ok();
            let finish: Answer = Box::new(move |outcome| {
                let result = match outcome {
                    Ok(()) => result,
                    Err(failure) => result.and(Err(StoreError::NotCommitted(failure))),
                };
                changes.send_modify(|count| *count = count.wrapping_add(1));
                // Whoever asked may have gone; the commit stands.
                let _gone = answer.send(result);
            });
            (keep, finish)
        });
        self.shared.writer.send(job).await?;
        wait.await.map_err(|_| StoreError::Closed)?
    }

    /// Runs a query on a read-only connection, away from the runtime.
    pub(crate) async fn read<T, F>(&self, query: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    {
        let permit = Arc::clone(&self.shared.readers).acquire_owned().await;
        let permit = permit.map_err(|_| StoreError::Closed)?;
        let shared = Arc::clone(&self.shared);
        let task = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let idle = shared.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let connection = idle.map_or_else(|| open_reader(&shared.path), Ok)?;
            let result = query(&connection)?;
            shared.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
            Ok(result)
        });
        task.await.map_err(|_| StoreError::Closed)?
    }

    /// How many entries of the log are on the disk.
    pub(crate) fn log_size(&self) -> u64 {
        self.shared.log_size.load(Ordering::Acquire)
    }

    /// Tells of every commit from now on.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.shared.changes.subscribe()
    }

    /// Hands on every record that is committed from now on; none if somebody has it already.
    pub(crate) fn follow(&self) -> Option<Following> {
        self.shared.feed.follow()
    }

    /// Whether writes can still succeed.
    pub(crate) fn is_open(&self) -> bool {
        self.shared.writer.is_running()
    }

    /// Finishes every commit that was asked for and stops the writer. Blocks.
    pub(crate) fn close(&self) {
        self.shared.writer.stop();
    }
}

fn configure(connection: &Connection) -> Result<(), StoreError> {
    connection.busy_timeout(std::time::Duration::from_secs(5))?;
    // Both only count while the database is being made: records of 1 to 2 KiB fill larger pages better, and what
    // retention frees can be given back.
    connection.pragma_update(None, "page_size", 8192)?;
    connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    // 64 MiB: the pages that every transaction touches are not written back each time.
    connection.pragma_update(None, "wal_autocheckpoint", 8_000)?;
    connection.pragma_update(None, "journal_size_limit", 128 << 20)?;
    connection.pragma_update(None, "cache_size", -64_000)?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(())
}

/// Brings the schema from one version to the next.
type Step = fn(&Connection) -> Result<(), StoreError>;

fn migrate(connection: &mut Connection) -> Result<(), StoreError> {
    let transaction = connection.transaction()?;
    let version: i64 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let steps: [Step; VERSION as usize] = [
        |c| Ok(c.execute_batch(include_str!("store/schema.sql"))?),
        |c| Ok(c.execute_batch(include_str!("store/schema-2.sql"))?),
        |c| {
            log::renumber(c)?;
            c.execute_batch(include_str!("store/schema-3.sql"))?;
            facts::file_all(c)?;
            Ok(c.execute_batch(include_str!("store/schema-3-drop.sql"))?)
        },
        |c| Ok(c.execute_batch(include_str!("store/schema-4.sql"))?),
        |c| {
            c.execute_batch(include_str!("store/schema-5.sql"))?;
            log::enter_all(c)
        },
        |c| Ok(c.execute_batch(include_str!("store/schema-6.sql"))?),
        |c| Ok(c.execute_batch(include_str!("store/schema-7.sql"))?),
        |c| Ok(c.execute_batch(include_str!("store/schema-8.sql"))?),
        |c| Ok(c.execute_batch(include_str!("store/schema-9.sql"))?),
        |c| Ok(c.execute_batch(include_str!("store/schema-10.sql"))?),
        |c| Ok(c.execute_batch(include_str!("store/schema-11.sql"))?),
        |c| Ok(c.execute_batch(include_str!("store/schema-12.sql"))?),
        |c| Ok(c.execute_batch(include_str!("store/schema-13.sql"))?),
    ];
    let done = usize::try_from(version).ok().filter(|done| *done <= steps.len());
    for step in steps.iter().skip(done.ok_or(StoreError::Newer(version))?) {
        step(&transaction)?;
    }
    transaction.pragma_update(None, "user_version", VERSION)?;
    transaction.commit()?;
    Ok(())
}

fn open_reader(path: &Path) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(std::time::Duration::from_secs(5))?;
    connection.pragma_update(None, "cache_size", -32_000)?;
    search::register(&connection)?;
    Ok(connection)
}

/// A fact about the whole database: the stored value, or `first` from now on.
pub(crate) fn meta(connection: &Connection, key: &str, first: &str) -> Result<String, StoreError> {
    connection.execute(
        "INSERT INTO meta (key, value) VALUES (?1, ?2) ON CONFLICT (key) DO NOTHING",
        [key, first],
    )?;
    let value =
        connection.query_row("SELECT value FROM meta WHERE key = ?1", [key], |row| row.get(0));
    Ok(value?)
}

#[cfg(test)]
mod tests;
