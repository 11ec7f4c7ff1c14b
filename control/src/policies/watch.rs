//! Noticing that the policy directory has changed.
//!
//! The system's notifications make it quick; reading the directory every few seconds makes it certain,
//! on file systems that notify of nothing too. What was read is compared by content, so that neither
//! can cause anything but work.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::Policies;

/// How long the directory has to be quiet before it is read: editors write in several steps.
const QUIET: Duration = Duration::from_millis(50);
/// How long it may be restless before it is read all the same.
const RESTLESS: Duration = Duration::from_millis(500);
/// How often it is read without being told to.
const POLL: Duration = Duration::from_secs(5);

/// Reads the directory, and again whenever it changes, until `stop`. `seen` is what was read before.
pub(crate) async fn watch(
    policies: Arc<Policies>,
    mut seen: Option<[u8; 32]>,
    stop: CancellationToken,
) {
    let (events, mut changes) = mpsc::channel(1);
    let mut watcher = None;
    let mut watched = None;
    loop {
        // A directory that was put in the place of the watched one has to be watched anew.
        let present = identity(policies.directory());
        if watcher.is_none() || watched != present {
            watcher = start(&policies, events.clone());
            watched = present;
        }
        tokio::select! {
            () = stop.cancelled() => return,
            // The watcher holds the other end for as long as it lives; without one there is the poll.
            Some(()) = changes.recv() => settle(&mut changes).await,
            () = sleep(POLL) => {}
        }
        policies.reload(&mut seen).await;
    }
}

fn start(policies: &Policies, events: mpsc::Sender<()>) -> Option<RecommendedWatcher> {
    let handler = move |event: notify::Result<notify::Event>| {
        let is_change = event.map_or(true, |e| !e.kind.is_access());
        if is_change {
            // Full means that somebody was told already.
            let _told = events.try_send(());
        }
    };
    let watch = || {
        let mut watcher = notify::recommended_watcher(handler)?;
        watcher.watch(policies.directory(), RecursiveMode::Recursive)?;
        Ok::<_, notify::Error>(watcher)
    };
    watch()
        .map_err(|error| tracing::debug!(%error, "the policy directory is polled, not watched"))
        .ok()
}

/// Which directory it is, whatever its name.
fn identity(directory: &Path) -> Option<(u64, u64)> {
    let metadata = std::fs::metadata(directory).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

/// Waits until nothing has changed for a moment.
async fn settle(changes: &mut mpsc::Receiver<()>) {
    let quiet = async { while timeout(QUIET, changes.recv()).await.is_ok() {} };
    // Restless for too long: then it is read as it is.
    let _either = timeout(RESTLESS, quiet).await;
}
