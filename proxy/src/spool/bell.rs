//! Wakes the thread that brings the spool to disk.
//!
//! A worker pays for it only when that thread sleeps, or when somebody waits for the disk.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::thread::{self, Thread};
use std::time::Duration;

#[derive(Debug, Default)]
pub(crate) struct Bell {
    sleeper: OnceLock<Thread>,
    /// There was nothing to do, and it sleeps until there is.
    asleep: AtomicBool,
    stopped: AtomicBool,
}

impl Bell {
    /// Something was written, and published before this call.
    pub(super) fn ring(&self) {
        // That it sleeps may not be seen here yet, and what was published not there. A fence would exclude that, and
        // make each request wait until all it has stored is in the cache; so the sleeper looks once more.
        if self.asleep.load(Ordering::Relaxed) && self.asleep.swap(false, Ordering::Relaxed) {
            self.ring_now();
        }
    }

    /// Somebody waits.
    pub(crate) fn ring_now(&self) {
        if let Some(thread) = self.sleeper.get() {
            thread.unpark();
        }
    }

    /// The sleeper is to end.
    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        self.ring_now();
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    /// The calling thread is the one that sleeps.
    pub(super) fn adopt(&self) {
        let _only_once = self.sleeper.set(thread::current());
    }

    /// Sleeps so long, or until somebody waits.
    pub(super) fn pause(&self, at_most: Duration) {
        thread::park_timeout(at_most);
    }

    /// Sleeps until something is written, but not if there is something already. It looks again after `soon`: by then
    /// each processor has seen what another one stored.
    pub(super) fn sleep(&self, soon: Duration, at_most: Duration, is_new: impl Fn() -> bool) {
        self.asleep.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        for at_most in [soon, at_most] {
            if !is_new() && !self.is_stopped() {
                thread::park_timeout(at_most);
            }
        }
        self.asleep.store(false, Ordering::Relaxed);
    }
}
