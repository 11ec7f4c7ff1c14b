//! What is open is decided again when what it was decided by has changed.
//!
//! Every request, tunnel and raw connection is on its worker's list from its decision to its end ([`Open`]), and every
//! connection as long as it is open. When the policy, the revocations or the directory of peers change, and when a
//! certificate or token comes to its end, those that it concerns are decided again by the very functions of the first
//! decision ([`right`]), except that nothing is counted against a rate limit. What still holds goes on untouched; what
//! does not is ended, and its record says why ([`Lost`]).
//!
//! Each worker looks after its own, on its own thread: there is no lock. Whatever is added is compared with what was
//! looked at last, so a change between a decision and its entry in the list is not missed. A long list is worked off in
//! slices, between which requests are served. Times are compared with the clock four times a second rather than waited
//! for, so a clock that is set, or a machine that slept, changes nothing.

mod right;
mod stream;

use std::cell::{Cell, RefCell};
use std::future::{Future as _, poll_fn};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant, SystemTime};

use slab::Slab;
use tokio::sync::Notify;

use crate::connection::Connection;
use crate::metrics::StreamMetrics;
use crate::snapshot::Snapshot;
use crate::worker::Worker;

pub(crate) use right::{Lost, Right, until};
pub(crate) use stream::{Open, Stream, Upload};

/// How often times are looked at.
const TICK: Duration = Duration::from_millis(250);
/// For how long rechecking keeps the worker from serving.
const SLICE: Duration = Duration::from_micros(500);
/// How long a decision may wait for others, such as an issuer whose keys have to be fetched. Then it is a no.
const DECISION: Duration = Duration::from_millis(600);

/// What is open on one worker.
#[derive(Default)]
pub(crate) struct OpenStreams {
    streams: RefCell<Slab<Rc<Stream>>>,
    connections: RefCell<Slab<Rc<Connection>>>,
    /// What was looked at last.
    seen: Cell<Seen>,
    wake: Notify,
    /// Nobody looks, because there is nothing.
    resting: Cell<bool>,
}

/// When a right comes to its end by itself, if it does.
type Until = Option<SystemTime>;

/// What has to be decided again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scope {
    /// Everything: the policy has changed.
    Policy,
    /// What time and revocations do to a certificate and a token. The policy says what it said.
    Credentials,
}

/// Numbers of the changes that decisions were made under.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    /// Of the policy.
    pub(crate) policy: u64,
    /// Of what decides on requests to the service.
    pub(crate) inbound: u64,
    /// Of what decides on calls of the service.
    pub(crate) outbound: u64,
}

impl OpenStreams {
    fn add(&self, stream: Rc<Stream>) -> usize {
        if self.resting.get() || stream.is_older_than(self.seen.get()) {
            self.wake.notify_one();
        }
        self.streams.borrow_mut().insert(stream)
    }

    fn remove(&self, key: usize) {
        self.streams.borrow_mut().try_remove(key);
    }

    /// Looks after a connection as long as the guard lives.
    pub(crate) fn watch(connection: &Rc<Connection>) -> Watched {
        let open = &connection.worker.open;
        let key = open.connections.borrow_mut().insert(Rc::clone(connection));
        if open.resting.get() {
            open.wake.notify_one();
        }
        Watched { connection: Rc::clone(connection), key }
    }

    fn stream(&self, key: usize) -> Option<Rc<Stream>> {
        self.streams.borrow().get(key).cloned()
    }

    fn connection(&self, key: usize) -> Option<Rc<Connection>> {
        self.connections.borrow().get(key).cloned()
    }

    fn len(&self) -> usize {
        self.streams.borrow().len()
    }

    fn is_empty(&self) -> bool {
        self.len() == 0 && self.connections.borrow().is_empty()
    }

    /// Looks at everything once.
    async fn pass(&self, snapshot: &Arc<Snapshot>, metrics: &StreamMetrics) {
        self.seen.set(snapshot.seen);
        let (mut slice, now) = (Slice::new(), SystemTime::now());
        let mut key = 0;
        while key < self.connections.borrow().capacity() {
            if let Some(connection) = self.connection(key) {
                right::look_at(&connection, snapshot, now);
            }
            key += 1;
            slice.pause().await;
        }
        let mut key = 0;
        while key < self.streams.borrow().capacity() {
            if let Some(stream) = self.stream(key) {
                stream.stop_lingering();
                if stream.is_older_than(snapshot.seen) || stream.is_due(now) {
                    decide(stream, snapshot, metrics).await;
                }
            }
            key += 1;
            slice.pause().await;
        }
    }
}

/// A connection that is looked after.
pub(crate) struct Watched {
    connection: Rc<Connection>,
    key: usize,
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.connection.worker.open.connections.borrow_mut().try_remove(self.key);
    }
}

/// Looks after what is open on a worker, for ever.
pub(crate) async fn run(worker: Rc<Worker>) {
    let (open, current) = (&worker.open, &worker.shared.current);
    let metrics = &worker.shared.metrics.streams;
    let mut shown = 0;
    loop {
        // Whatever is published from here on wakes us.
        let changed = current.changed();
        if let Some(snapshot) = current.load() {
            open.pass(&snapshot, metrics).await;
        }
        let now_open = i64::try_from(open.len()).unwrap_or(i64::MAX);
        metrics.open.inc_by(now_open - shown);
        shown = now_open;
        open.resting.set(open.is_empty());
        tokio::select! {
            () = changed => {}
            () = open.wake.notified() => {}
            () = tokio::time::sleep(TICK), if !open.resting.get() => {}
        }
        open.resting.set(false);
    }
}

/// Decides on a stream again. What cannot be decided at once is waited for elsewhere.
async fn decide(stream: Rc<Stream>, snapshot: &Arc<Snapshot>, metrics: &StreamMetrics) {
    let scope = stream.decides(snapshot.seen);
    let deciding = {
        let (stream, snapshot) = (Rc::clone(&stream), Arc::clone(snapshot));
        async move { stream.right().decide(scope, &snapshot, SystemTime::now()).await }
    };
    let mut deciding = Box::pin(deciding);
    let at_once = poll_fn(|cx| Poll::Ready(deciding.as_mut().poll(cx))).await;
    if let Poll::Ready(decided) = at_once {
        return settle(&stream, snapshot.seen, decided, metrics);
    }
    let (policy, seen) = (Arc::clone(&snapshot.policy), snapshot.seen);
    let metrics = metrics.clone();
    tokio::task::spawn_local(async move {
        let decided = tokio::time::timeout(DECISION, deciding).await;
        let decided = decided.unwrap_or_else(|_| Err(Lost::undecided(&policy)));
        settle(&stream, seen, decided, &metrics);
    });
}

fn settle(stream: &Stream, seen: Seen, decided: Result<Until, Lost>, metrics: &StreamMetrics) {
    match decided {
        Ok(until) => {
            stream.renew(seen, until);
            metrics.kept.inc();
        }
        Err(lost) => {
            let ending = lost.ending;
            if stream.lose(lost) {
                metrics.ended(ending);
            }
        }
    }
}

/// Gives the worker back to requests every now and then.
struct Slice(Instant, u32);

impl Slice {
    fn new() -> Self {
        Self(Instant::now(), 0)
    }

    async fn pause(&mut self) {
        self.1 += 1;
        // The clock is looked at for every few, since most of the list needs nothing.
        if self.1.is_multiple_of(16) && self.0.elapsed() >= SLICE {
            tokio::task::yield_now().await;
            self.0 = Instant::now();
        }
    }
}
