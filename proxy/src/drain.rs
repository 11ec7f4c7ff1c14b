//! How the proxy ends: one deadline, inbound first, outbound as long as somebody may need it.
//!
//! A request that is being served may still make calls of its own, so the outbound listener stays
//! open until the last inbound connection of every worker is done.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

/// How far the end has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// No end in sight.
    Serving,
    /// Nothing new comes in; open inbound requests are finished.
    Inbound,
    /// Open outbound requests are finished too.
    Outbound,
    /// Whatever is still open is cut off.
    Over,
}

/// Tells everybody of the phase.
pub(crate) struct Drain {
    phase: watch::Sender<Phase>,
    inbound: Arc<AtomicUsize>,
    outbound: Arc<AtomicUsize>,
}

impl Drain {
    pub(crate) fn new() -> Self {
        Self {
            phase: watch::Sender::new(Phase::Serving),
            inbound: Arc::default(),
            outbound: Arc::default(),
        }
    }

    pub(crate) fn watch(&self) -> PhaseWatch {
        PhaseWatch(self.phase.subscribe())
    }

    /// Counts an open inbound connection for as long as the guard lives.
    pub(crate) fn inbound(&self) -> OpenGuard {
        OpenGuard::new(&self.inbound)
    }

    /// Counts an open outbound connection for as long as the guard lives.
    pub(crate) fn outbound(&self) -> OpenGuard {
        OpenGuard::new(&self.outbound)
    }

    pub(crate) fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Goes through the phases; returns how many connections were cut off.
    pub(crate) async fn run(&self, deadline: Duration) -> usize {
        let deadline = Instant::now() + deadline;
        self.phase.send_replace(Phase::Inbound);
        until_none(&self.inbound, deadline).await;
        self.phase.send_replace(Phase::Outbound);
        until_none(&self.outbound, deadline).await;
        let cut_off = self.inbound.load(Ordering::Acquire) + self.outbound.load(Ordering::Acquire);
        self.phase.send_replace(Phase::Over);
        cut_off
    }
}

async fn until_none(open: &AtomicUsize, deadline: Instant) {
    while open.load(Ordering::Acquire) > 0 && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A view of the phase.
#[derive(Clone)]
pub(crate) struct PhaseWatch(watch::Receiver<Phase>);

impl PhaseWatch {
    /// Waits until a phase has been reached.
    pub(crate) async fn reached(&mut self, phase: Phase) {
        // The sender lives as long as the proxy; if it is gone, everything is over.
        let _gone = self.0.wait_for(|now| *now >= phase).await;
    }
}

/// One open connection.
pub(crate) struct OpenGuard(Arc<AtomicUsize>);

impl OpenGuard {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(count))
    }
}

impl Drop for OpenGuard {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}
