//! The lane that belongs to no worker: what the background has to tell of the audit.
//!
//! Its segments are small and do not count towards the spool's limit, so that it can be said that
//! the spool is full. What finds no room even so waits here.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use super::nanos;
use super::notice::{self, Missing, Notice, Place, RenewalFailure};
use crate::spool::{Class, Lane, sha256};

/// Notices that wait for room. One that is one too many is only logged.
const MAX_WAITING: usize = 1024;

/// Never used by a worker: it has a lock.
pub(crate) struct Bulletin {
    number: u32,
    writer: Mutex<Writer>,
}

struct Writer {
    lane: Lane,
    scratch: Vec<u8>,
    waiting: VecDeque<(Notice, u64)>,
}

impl Bulletin {
    pub(crate) fn new(lane: Lane) -> Self {
        let number = lane.number();
        let writer = Writer { lane, scratch: Vec::new(), waiting: VecDeque::new() };
        Self { number, writer: Mutex::new(writer) }
    }

    /// The number of its lane.
    pub(crate) fn lane(&self) -> u32 {
        self.number
    }

    /// Declares that records are missing.
    pub(crate) fn missing(&self, missing: Missing, now: SystemTime) {
        let Missing { reason, count, boot, lane, .. } = &missing;
        tracing::error!(reason, count, boot, lane, "audit records are missing");
        self.tell(Notice::Gap(missing), now);
    }

    /// Tells how the spool fares.
    pub(crate) fn spool(&self, words: String, now: SystemTime) {
        tracing::warn!("the audit spool: {words}");
        self.tell(Notice::Spool(words), now);
    }

    /// Tells that the certificate was not renewed.
    pub(crate) fn renewal(&self, failure: RenewalFailure, now: SystemTime) {
        self.tell(Notice::Renewal(failure), now);
    }

    /// Writes what has waited, if there is room now.
    pub(crate) fn retry(&self, now: SystemTime) {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner).write(now);
    }

    fn tell(&self, notice: Notice, now: SystemTime) {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        if writer.waiting.len() < MAX_WAITING {
            writer.waiting.push_back((notice, nanos(now)));
        }
        writer.write(now);
    }
}

impl Writer {
    fn write(&mut self, now: SystemTime) {
        let Self { lane, scratch, waiting } = self;
        while let Some((notice, at)) = waiting.front() {
            scratch.clear();
            let (number, sequence) = (lane.number(), lane.next_sequence());
            let place = Place { lane: number, sequence, previous: lane.link() };
            notice::write(scratch, notice, *at, place);
            let hash = sha256(scratch);
            if lane.whole(Class::Essential, nanos(now), scratch, hash).is_err() {
                return;
            }
            waiting.pop_front();
        }
    }
}
