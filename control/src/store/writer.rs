//! The one thread that writes, and its group commit.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use picket_ledger::Tree;
use rusqlite::Connection;
use tokio::sync::mpsc;

use super::feed::Feed;
use super::{StoreError, Writing};

/// Jobs that may wait; whoever comes later waits for a place.
const QUEUE: usize = 256;

/// Why a transaction does not stand.
pub(super) type Failure = String;

/// Tells whoever asked how the transaction ended.
pub(super) type Answer = Box<dyn FnOnce(Result<(), Failure>) + Send>;

/// Does its work, if there is a transaction to do it in, and says whether to keep it.
pub(super) type Job = Box<dyn FnOnce(Result<&Writing<'_>, Failure>) -> (bool, Answer) + Send>;

pub(super) struct Writer {
    jobs: Mutex<Option<mpsc::Sender<Job>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Writer {
    /// `size` shows how many entries the log has, once they are on the disk.
    pub(super) fn start(
        connection: Connection,
        tree: Tree,
        size: Arc<AtomicU64>,
        feed: Arc<Feed>,
    ) -> Self {
        let (jobs, queue) = mpsc::channel(QUEUE);
        let thread = std::thread::Builder::new()
            .name("picket-store".to_owned())
            .spawn(move || write(&Writing::new(&connection, tree, &size, feed), queue))
            .map_err(|error| tracing::error!(%error, "the database's thread cannot be started"))
            .ok();
        Self { jobs: Mutex::new(Some(jobs)), thread: Mutex::new(thread) }
    }

    pub(super) async fn send(&self, job: Job) -> Result<(), StoreError> {
        let jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner).clone();
        jobs.ok_or(StoreError::Closed)?.send(job).await.map_err(|_| StoreError::Closed)
    }

    pub(super) fn is_running(&self) -> bool {
        let jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        jobs.as_ref().is_some_and(|jobs| !jobs.is_closed())
    }

    pub(super) fn stop(&self) {
        drop(self.jobs.lock().unwrap_or_else(PoisonError::into_inner).take());
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Err(_)) = thread.map(JoinHandle::join) {
            tracing::error!("the database's thread panicked");
        }
    }
}

fn write(writing: &Writing<'_>, mut queue: mpsc::Receiver<Job>) {
    while let Some(first) = queue.blocking_recv() {
        let mut answers = Vec::new();
        let outcome = commit(writing, first, &mut queue, &mut answers);
        if let Err(failure) = &outcome {
            tracing::error!(failure, "a transaction was not committed");
        }
        for answer in answers {
            answer(outcome.clone());
        }
    }
}

/// One transaction over all jobs that wait.
fn commit(
    writing: &Writing<'_>,
    first: Job,
    queue: &mut mpsc::Receiver<Job>,
    answers: &mut Vec<Answer>,
) -> Result<(), Failure> {
    let execute = |sql| writing.execute_batch(sql).map_err(|error| error.to_string());
    let mut outcome = execute("BEGIN IMMEDIATE");
    let mut next = Some(first);
    while let Some(job) = next {
        outcome = outcome.and_then(|()| execute("SAVEPOINT job"));
        let mark = writing.mark();
        let (keep, answer) = job(outcome.clone().map(|()| writing));
        answers.push(answer);
        if !keep {
            writing.back_to(mark);
        }
        let end = if keep { "RELEASE job" } else { "ROLLBACK TO job; RELEASE job" };
        outcome = outcome.and_then(|()| execute(end));
        next = if answers.len() < QUEUE { queue.try_recv().ok() } else { None };
    }
    outcome = outcome.and_then(|()| writing.save_edge().map_err(|error| error.to_string()));
    outcome = outcome.and_then(|()| execute("COMMIT"));
    writing.ended(outcome.is_ok());
    // A full disk ends the transaction by itself; any other failure leaves it open.
    if outcome.is_err() && !writing.is_autocommit() {
        execute("ROLLBACK")?;
    }
    outcome
}
