//! The detector kept at work: whatever fails or panics, it begins again at what was saved last.
//!
//! Pauses grow with each failure in a row. A record that makes it panic again and again is left out in the end, loudly: one
//! record that is not looked at is better than none that is.

use std::any::Any;
use std::collections::BTreeSet;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use picket_api::attributes as names;
use tokio::runtime::Handle;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{Detector, Sets};
use crate::journal::{Act, Event};
use crate::store::feed::Following;
use crate::store::{StoreError, alerts, cursors};

/// The pause after the first failure; it doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// How long what is under way has when everything ends.
const LAST: Duration = Duration::from_millis(500);
/// How often the same record may make the detector panic.
const MAX_STUMBLES: u32 = 3;
/// Longest text of a failure that is kept, in characters.
const MAX_DETAIL: usize = 500;

/// Kinds of failures, in the metric and as reasons in the audit trail.
pub(super) const NOT_KEPT: &str = "not_kept";
const FAILED: &str = "failed";
const PANICKED: &str = "panicked";
const LEFT_OUT: &str = "left_out";

/// Failures in a row.
#[derive(Debug, Default)]
pub(super) struct Failures {
    count: u32,
    last: String,
}

impl Failures {
    /// Waits after a further one; true if everything ends meanwhile.
    pub(super) async fn pause(&mut self, stop: &CancellationToken, error: &StoreError) -> bool {
        self.last = shortened(&crate::chain(error).to_string());
        self.wait(stop).await
    }

    async fn wait(&mut self, stop: &CancellationToken) -> bool {
        let pause = FIRST_PAUSE * 2_u32.saturating_pow(self.count.min(16));
        self.count += 1;
        tokio::select! {
            () = stop.cancelled() => true,
            () = sleep(pause.min(LONGEST_PAUSE)) => false,
        }
    }

    /// What is to be said when it has succeeded; nothing if it did at once.
    pub(super) fn over(self) -> Option<Act> {
        let detail = format!("kept after {} failures: {}", self.count, self.last);
        let act = Act::refused(Event::Detect, SystemTime::now(), NOT_KEPT);
        (self.count > 0).then(|| act.subject("detector").with(names::DETAIL, detail))
    }
}

/// The record at hand, and those that nobody looks at any more.
#[derive(Debug, Default)]
pub(super) struct Stumbling {
    /// 0: none.
    at: AtomicI64,
    left_out: ArcSwap<BTreeSet<i64>>,
    /// Records from this one on make the detector panic, so many times.
    #[cfg(test)]
    pub(super) trap: std::sync::Mutex<(i64, u32)>,
}

impl Stumbling {
    /// A record is to be looked at; false: it is left out.
    pub(super) fn enter(&self, record: i64) -> bool {
        if self.left_out.load().contains(&record) {
            return false;
        }
        self.at.store(record, Ordering::Relaxed);
        #[cfg(test)]
        self.spring(record);
        true
    }

    /// It was looked at.
    pub(super) fn leave(&self) {
        self.at.store(0, Ordering::Relaxed);
    }

    #[cfg(test)]
    fn spring(&self, record: i64) {
        let mut trap = self.trap.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if trap.0 == record && trap.1 > 0 {
            trap.1 -= 1;
            drop(trap);
            panic!("a trap in record {record}");
        }
    }

    fn leave_out(&self, record: i64) {
        let mut all = BTreeSet::clone(&self.left_out.load());
        all.insert(record);
        self.left_out.store(Arc::new(all));
    }
}

impl Detector {
    /// A trail that nobody has watched yet is not judged afterwards: `picket detect replay` does that. False if everything
    /// ends meanwhile.
    pub(super) async fn begin_trail(&self, stop: &CancellationToken) -> bool {
        let mut failures = Failures::default();
        loop {
            let begin = self.store.write(|writing| match alerts::cursor(writing)? {
                Some(_) => Ok(()),
                None => alerts::save_cursor(writing, cursors::newest(writing)?),
            });
            match unless_stopped(stop, begin).await {
                None | Some(Err(StoreError::Closed)) => return false,
                Some(Ok(())) => return true,
                Some(Err(error)) => {
                    self.metrics.detector_failed(FAILED);
                    tracing::error!(error = %crate::chain(&error), "the detector cannot begin");
                    if failures.pause(stop, &error).await {
                        return false;
                    }
                }
            }
        }
    }

    /// Watches until `stop`, whatever happens.
    pub(super) fn keep_watching(
        &self,
        following: &Following,
        sets: &Sets,
        runtime: &Handle,
        stop: &CancellationToken,
    ) {
        let (mut failures, mut stumbles) = (Failures::default(), (0, 0));
        while !stop.is_cancelled() {
            let (begun, before) = (Instant::now(), stumbles.0);
            self.stumbling.leave();
            let watching = || self.watch(following, sets.clone(), runtime, stop);
            // Nothing of what it has in its hands is used again: it begins with what is in the database.
            let (kind, detail) = match catch_unwind(AssertUnwindSafe(watching)) {
                Ok(Ok(())) => return,
                Ok(Err(StoreError::Closed)) if !self.store.is_open() => return,
                Ok(Err(error)) => (FAILED, crate::chain(&error).to_string()),
                Err(panic) => self.panicked(panic.as_ref(), &mut stumbles),
            };
            // It has come further than the last time.
            if begun.elapsed() > LONGEST_PAUSE || stumbles.0 != before {
                failures = Failures::default();
            }
            let detail = shortened(&detail);
            self.metrics.detector_failed(kind);
            tracing::error!(kind, detail, "the detector failed, and begins again");
            let act = Act::refused(Event::Detect, SystemTime::now(), kind)
                .subject("detector")
                .with(names::DETAIL, detail);
            runtime.block_on(unless_stopped(stop, self.journal.note(act)));
            if runtime.block_on(failures.wait(stop)) {
                return;
            }
        }
    }

    /// What to say of a panic. The record at which it happened so often is left out from now on.
    fn panicked(
        &self,
        panic: &(dyn Any + Send),
        (record, times): &mut (i64, u32),
    ) -> (&'static str, String) {
        let words = panic.downcast_ref::<String>().map(String::as_str);
        let words = words.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic");
        let at = self.stumbling.at.load(Ordering::Relaxed);
        if at == 0 {
            return (PANICKED, words.to_owned());
        }
        *times = if *record == at { *times + 1 } else { 1 };
        *record = at;
        if *times < MAX_STUMBLES {
            return (PANICKED, format!("entry {at} of the log: {words}"));
        }
        self.stumbling.leave_out(at);
        (LEFT_OUT, format!("entry {at} of the log, after {times} panics: {words}"))
    }
}

/// What a future gives; nothing if it has not within half a second of `stop`.
pub(super) async fn unless_stopped<T>(
    stop: &CancellationToken,
    future: impl Future<Output = T>,
) -> Option<T> {
    let end = async {
        stop.cancelled().await;
        sleep(LAST).await;
    };
    tokio::select! {
        biased;
        done = future => Some(done),
        () = end => None,
    }
}

fn shortened(text: &str) -> String {
    text.chars().take(MAX_DETAIL).collect()
}
