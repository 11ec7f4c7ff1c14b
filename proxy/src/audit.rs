//! The record of what was done: one span per request and hop, kept whatever happens.
//!
//! [`Audit`] is a guard. It is opened before anything can fail, learns facts on the way, and writes
//! to the spool at three moments: the intent before anything is forwarded, the status before the
//! response's head is released (and the ending with it, if the whole answer is there), the ending when
//! the last byte has passed. Dropping it at any point records that too. The *decision* (may it pass?)
//! is apart from the *ending* (what became of it): a client that never reads its 403 was denied, not
//! aborted.
//!
//! What a span says is in [`facts`], how it is written in [`span`], where it is kept in
//! [`crate::spool`].

pub(crate) mod bulletin;
pub(crate) mod closing;
mod facts;
pub(crate) mod heads;
pub(crate) mod notice;
pub(crate) mod packed;
mod preamble;
pub(crate) mod recorder;
pub(crate) mod span;
mod text;

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{Method, StatusCode};

use crate::config::{Durability, OnFull};
use crate::error::{Fault, RequestError};
use crate::recheck::Lost;
use crate::spool::{Class, Reason, RunningHash};
use recorder::Begun;
use span::SpanPart;

pub(crate) use facts::{Direction, Facts, Failure, Kind, TokenFacts};
use preamble::Opening;
pub(crate) use preamble::Preamble;
pub(crate) use recorder::Recorder;

/// What became of a request or connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Ending {
    /// The whole response was handed over.
    Completed,
    /// The proxy answered in the upstream's stead.
    Refused,
    /// The client went away before the end.
    ClientAborted,
    /// The upstream failed before the end.
    UpstreamAborted,
    /// The proxy ended before it did.
    CutOff,
    /// The policy in force no longer allows it.
    PolicyChanged,
    /// The caller's token expired.
    TokenExpired,
    /// The caller's token was revoked.
    TokenRevoked,
    /// The certificate of the other end expired.
    CertificateExpired,
    /// The certificate of the other end was revoked.
    CertificateRevoked,
    /// The called service is no longer one of the mesh.
    DestinationGone,
}

impl Ending {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Refused => "refused",
            Self::ClientAborted => "client_aborted",
            Self::UpstreamAborted => "upstream_aborted",
            Self::CutOff => "cut_off",
            Self::PolicyChanged => "policy_changed",
            Self::TokenExpired => "token_expired",
            Self::TokenRevoked => "token_revoked",
            Self::CertificateExpired => "certificate_expired",
            Self::CertificateRevoked => "certificate_revoked",
            Self::DestinationGone => "destination_gone",
        }
    }
}

enum State {
    /// Nothing is written yet.
    Open,
    /// The intent is written.
    Begun(Begun),
    /// There was no room, so that it was declared lost; or its last part is being written.
    Over,
    Done,
}

/// How far a request's body has come.
#[derive(Default)]
pub(crate) struct Progress {
    /// Bytes that were forwarded.
    pub(crate) bytes: Cell<u64>,
    /// The client broke off.
    pub(crate) broken: Cell<bool>,
}

/// The guard of one request or connection.
pub(crate) struct Audit {
    recorder: Rc<Recorder>,
    facts: Box<Facts>,
    state: State,
    /// Of what is written.
    hash: RunningHash,
    request_body: Rc<Progress>,
    /// Bytes of the response's body.
    received: u64,
    /// It has to be on disk before anybody sees what it tells of.
    committed: bool,
}

/// A wait for the disk.
pub(crate) struct Commit(Rc<Recorder>);

impl Commit {
    /// Until what was recorded so far is on disk. If the disk fails that is told by itself.
    pub(crate) async fn reached(self) {
        let _told = self.0.disk().reached().await;
    }
}

impl Audit {
    pub(crate) fn open(recorder: &Rc<Recorder>, facts: Facts) -> Self {
        Self {
            recorder: Rc::clone(recorder),
            facts: Box::new(facts),
            state: State::Open,
            hash: RunningHash::default(),
            request_body: Rc::default(),
            received: 0,
            committed: false,
        }
    }

    /// What is known so far; whoever learns more writes it here.
    pub(crate) fn facts(&mut self) -> &mut Facts {
        &mut self.facts
    }

    /// The trace context that the forwarded request carries on.
    pub(crate) fn context(&self) -> &crate::trace::SpanContext {
        &self.facts.context
    }

    /// Follows the request's body as it is forwarded.
    pub(crate) fn request_body(&self) -> Rc<Progress> {
        Rc::clone(&self.request_body)
    }

    /// Counts bytes of the response's body.
    pub(crate) fn received(&mut self, bytes: usize) {
        self.received += bytes as u64;
    }

    /// Writes the intent: this will be forwarded.
    ///
    /// # Errors
    /// When it cannot be kept and the request may change state: it must not be forwarded then.
    pub(crate) async fn begin(&mut self) -> Result<(), RequestError> {
        self.write_intent()?;
        if self.committed && self.class() == Class::Essential {
            let reached = self.recorder.disk().reached().await;
            reached.map_err(|_| RequestError::AuditUnsynced)?;
        }
        Ok(())
    }

    /// What to wait for before the head of the response is released, if its record has to be on disk
    /// then.
    pub(crate) fn commit(&self) -> Option<Commit> {
        self.durability().eq(&Durability::Committed).then(|| Commit(Rc::clone(&self.recorder)))
    }

    fn durability(&self) -> Durability {
        let path = self.facts.path.as_deref().unwrap_or(self.facts.uri.path());
        self.recorder.config.durability(self.facts.method.as_ref(), path)
    }

    fn write_intent(&mut self) -> Result<(), RequestError> {
        let elapsed = self.facts.clock.elapsed();
        let now = self.facts.at(elapsed);
        self.facts.decided_after = Some(elapsed);
        let durability = self.durability();
        self.committed = durability == Durability::Committed;
        let facts = &self.facts;
        let (class, opening) = (self.class(), Opening::of(facts));
        let opening = opening.as_ref();
        let hash = &mut self.hash;
        let begun = self.recorder.begin(class, durability, now, opening, hash, |part, stamp| {
            facts.write_begin(part, stamp, opening);
        });
        match begun {
            Ok(begun) => self.state = State::Begun(begun),
            Err(Reason::Full) if self.must_be_recorded() => {
                // What was decided no longer holds: the record says why it is refused instead.
                self.facts.decision = None;
                self.facts.destination_known = false;
                return Err(RequestError::AuditFull);
            }
            Err(reason) => self.lose(reason),
        }
        Ok(())
    }

    fn must_be_recorded(&self) -> bool {
        self.recorder.config.on_full == OnFull::DenyStateChanges && self.class() == Class::Essential
    }

    /// How much the record matters, of what is not refused.
    fn class(&self) -> Class {
        let safe = |method: &Method| {
            matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE)
        };
        if self.facts.method.as_ref().is_some_and(safe) { Class::Read } else { Class::Essential }
    }

    fn lose(&mut self, reason: Reason) {
        self.recorder.lose(reason);
        self.state = State::Over;
    }

    /// Writes the status, before the response's head is released.
    pub(crate) fn answered(&mut self, status: StatusCode) {
        self.facts.status = Some(status);
        let after = self.facts.clock.elapsed();
        if let State::Begun(begun) = &mut self.state {
            let (now, facts) = (self.facts.at(after), &self.facts);
            let hash = &mut self.hash;
            self.recorder.more(begun, now, hash, |part| facts.write_answer(part, status, after));
        }
    }

    /// Writes the status and the ending in one, before the response's head is released: all of its body, of so many
    /// bytes, is there already.
    pub(crate) fn answered_whole(&mut self, status: StatusCode, received: usize) {
        self.facts.status = Some(status);
        self.received(received);
        let after = self.facts.clock.elapsed();
        self.finish(Ending::Completed, after, Some(status));
    }

    /// Records that the proxy answers itself, before that answer is released.
    pub(crate) fn refused(&mut self, error: &RequestError) {
        self.facts.status = Some(error.status());
        self.facts.failed = Some(Failure { stage: error.stage(), code: error.code() });
        let after = self.facts.clock.elapsed();
        let now = self.facts.at(after);
        let begun = self.take_begun();
        match (begun, &self.state) {
            (Some(begun), _) => {
                let facts = &self.facts;
                let sent = self.request_body.bytes.get();
                let ending = match error {
                    RequestError::Lost(lost) => lost.ending,
                    RequestError::AuditUnsynced => Ending::Refused,
                    // An upload that its client broke off breaks the upstream's connection too.
                    _ if self.request_body.broken.get() => Ending::ClientAborted,
                    _ => Ending::UpstreamAborted,
                };
                self.recorder.end(begun, now, &mut self.hash, |part| {
                    match error {
                        RequestError::Lost(lost) => {
                            facts.write_status(part, error);
                            facts.write_lost(part, lost, now);
                        }
                        _ => facts.write_failure(part, error),
                    }
                    part.short_int(packed::REQUEST_BODY_SIZE, sent.cast_signed());
                    part.short_text(packed::ENDING, ending.as_str());
                    part.end(now);
                });
                self.close(after);
            }
            (None, State::Open) => self.write_whole(after, |facts, part, now| {
                facts.write_refusal(part, error, now);
                part.short_text(packed::ENDING, Ending::Refused.as_str());
            }),
            (None, _) => self.close(after),
        }
        match error.fault() {
            Fault::Internal => tracing::warn!(code = error.code(), "a request could not be served"),
            Fault::Upstream => {
                tracing::debug!(cause = crate::words(error), "a request got no answer");
            }
            Fault::Downstream => {}
        }
    }

    /// Records a connection that never came to carry anything, and why.
    pub(crate) fn connection_refused(
        mut self,
        generation: Option<Arc<str>>,
        code: &'static str,
        message: &str,
    ) {
        self.facts.generation = generation;
        self.facts.failed = Some(Failure { stage: "connection", code });
        let after = self.facts.clock.elapsed();
        self.write_whole(after, |facts, part, now| {
            facts.write_connection_refusal(part, code, message, now);
            part.short_text(packed::ENDING, Ending::Refused.as_str());
        });
    }

    /// Writes the ending. The first one counts.
    pub(crate) fn end(&mut self, ending: Ending) {
        let after = self.facts.clock.elapsed();
        self.finish(ending, after, None);
    }

    /// Writes the ending, after the status if that is not written yet.
    fn finish(&mut self, ending: Ending, after: Duration, status: Option<StatusCode>) {
        let now = self.facts.at(after);
        if let Some(begun) = self.take_begun() {
            let (sent, received) = (self.request_body.bytes.get(), self.received);
            let facts = &self.facts;
            self.recorder.end(begun, now, &mut self.hash, |part| {
                if let Some(status) = status {
                    facts.write_answer(part, status, after);
                }
                part.short_int(packed::REQUEST_BODY_SIZE, sent.cast_signed());
                part.short_int(packed::RESPONSE_BODY_SIZE, received.cast_signed());
                part.short_text(packed::ENDING, ending.as_str());
                if ending == Ending::UpstreamAborted {
                    facts.write_abort(part, "upstream_aborted");
                }
                part.end(now);
            });
        }
        self.close(after);
    }

    /// Records that it was ended because there was no more right to it.
    pub(crate) fn lost(&mut self, lost: &Lost) {
        let after = self.facts.clock.elapsed();
        let now = self.facts.at(after);
        if let Some(begun) = self.take_begun() {
            let (sent, received) = (self.request_body.bytes.get(), self.received);
            let facts = &self.facts;
            self.recorder.end(begun, now, &mut self.hash, |part| {
                part.short_int(packed::REQUEST_BODY_SIZE, sent.cast_signed());
                part.short_int(packed::RESPONSE_BODY_SIZE, received.cast_signed());
                part.short_text(packed::ENDING, lost.ending.as_str());
                facts.write_lost(part, lost, now);
                part.end(now);
            });
        }
        self.close(after);
    }

    /// Records that a connection was closed because nothing can be allowed on it any more.
    pub(crate) fn connection_lost(mut self, lost: &Lost) {
        let after = self.facts.clock.elapsed();
        self.write_whole(after, |facts, part, now| {
            part.short_text(packed::ENDING, lost.ending.as_str());
            facts.write_lost(part, lost, now);
        });
    }

    /// Writes a record that is begun and ended so long after it was opened.
    fn write_whole(&mut self, after: Duration, write: impl FnOnce(&Facts, &mut SpanPart<'_>, u64)) {
        self.facts.decided_after = Some(after);
        let now = self.facts.at(after);
        let class = match self.facts.failed {
            Some(_) => Class::Essential,
            None => self.class(),
        };
        let durability = self.durability();
        let facts = &self.facts;
        let opening = Opening::of(facts);
        let opening = opening.as_ref();
        let written = self.recorder.whole(class, durability, now, opening, |part, stamp| {
            facts.write_begin(part, stamp, opening);
            write(facts, part, now);
            part.end(now);
        });
        if let Err(reason) = written {
            self.lose(reason);
        }
        self.close(after);
    }

    fn take_begun(&mut self) -> Option<Begun> {
        if !matches!(self.state, State::Begun(_)) {
            return None;
        }
        match std::mem::replace(&mut self.state, State::Over) {
            State::Begun(begun) => Some(begun),
            _ => None,
        }
    }

    fn close(&mut self, after: Duration) {
        if !matches!(self.state, State::Done) {
            self.state = State::Done;
            self.recorder.metrics.finished(&self.facts, after);
        }
    }
}

impl Drop for Audit {
    fn drop(&mut self) {
        let gone = if self.recorder.cut_off.get() { Ending::CutOff } else { Ending::ClientAborted };
        match &self.state {
            State::Done => {}
            // Before a decision was reached.
            State::Open => {
                let after = self.facts.clock.elapsed();
                self.facts.failed = Some(Failure { stage: "request", code: gone.as_str() });
                self.write_whole(after, |_, part, _| {
                    part.short_text(packed::ENDING, gone.as_str())
                });
            }
            State::Begun(_) | State::Over => self.end(gone),
        }
    }
}

/// Nanoseconds since 1970.
pub(crate) fn nanos(at: SystemTime) -> u64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}
