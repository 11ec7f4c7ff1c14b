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
        // Either the sleeper sees what was published, or we see that it sleeps.
        fence(Ordering::SeqCst);
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

    /// Sleeps until something is written, but not if there is something already.
    pub(super) fn sleep(&self, at_most: Duration, is_new: impl FnOnce() -> bool) {
        self.asleep.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        if !is_new() {
            thread::park_timeout(at_most);
        }
        self.asleep.store(false, Ordering::Relaxed);
    }
}
