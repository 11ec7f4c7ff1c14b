//! Noticing that files have changed.
//!
//! The system's notifications make it quick; looking every few seconds makes it certain, on file
//! systems that notify of nothing too. So [`Changes::next`] means "look again": whoever waits compares
//! by content.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

/// How long files have to be quiet before they are looked at: editors write in several steps.
const QUIET: Duration = Duration::from_millis(50);
/// How long they may be restless before they are looked at all the same.
const RESTLESS: Duration = Duration::from_millis(500);
/// How often they are looked at without being told to.
const POLL: Duration = Duration::from_secs(5);

/// Tells when to look at some files again.
pub struct Changes {
    /// By directory, whether everything below it counts too.
    directories: BTreeMap<PathBuf, RecursiveMode>,
    /// Which directories are watched: one that was put in the place of another is not the same.
    watched: Vec<Option<(u64, u64)>>,
    watcher: Option<RecommendedWatcher>,
    told: mpsc::Receiver<()>,
    tell: mpsc::Sender<()>,
}

impl Changes {
    /// Watches directories with everything below them, and single files.
    pub fn of<'p>(
        trees: impl IntoIterator<Item = &'p Path>,
        files: impl IntoIterator<Item = &'p Path>,
    ) -> Self {
        let name = |path: &Path| match path.as_os_str().is_empty() {
            true => PathBuf::from("."),
            false => path.to_owned(),
        };
        // A file's directory stands for it: programs replace files, and Kubernetes the links to them.
        // Not what is below: that may be as much as a home directory.
        let parents = files.into_iter().filter_map(Path::parent);
        let mut directories: BTreeMap<_, _> =
            parents.map(|path| (name(path), RecursiveMode::NonRecursive)).collect();
        directories.extend(trees.into_iter().map(|path| (name(path), RecursiveMode::Recursive)));
        let (tell, told) = mpsc::channel(1);
        let mut changes = Self { directories, watched: Vec::new(), watcher: None, told, tell };
        changes.watch();
        changes
    }

    /// Waits until something may have changed. If it is cancelled, what it was told may be seen only
    /// at the next poll.
    pub async fn next(&mut self) {
        tokio::select! {
            _ = self.told.recv() => self.settle().await,
            () = sleep(POLL) => {}
        }
        self.watch();
    }

    async fn settle(&mut self) {
        let restless = Instant::now() + RESTLESS;
        while Instant::now() < restless && timeout(QUIET, self.told.recv()).await.is_ok() {}
    }

    fn watch(&mut self) {
        let present: Vec<_> = self.directories.keys().map(|path| identity(path)).collect();
        if self.watcher.is_some() && self.watched == present {
            return;
        }
        self.watched = present;
        self.watcher = self
            .start()
            .inspect_err(|error| tracing::debug!(%error, "files are polled, not watched"))
            .ok();
    }

    fn start(&self) -> notify::Result<RecommendedWatcher> {
        let tell = self.tell.clone();
        let mut watcher =
            notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
                if event.map_or(true, |event| !event.kind.is_access()) {
                    // Full means that somebody was told already.
                    let _told = tell.try_send(());
                }
            })?;
        for (directory, mode) in &self.directories {
            watcher.watch(directory, *mode)?;
        }
        Ok(watcher)
    }
}

fn identity(directory: &Path) -> Option<(u64, u64)> {
    let metadata = std::fs::metadata(directory).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Well before the poll, so that it is the notification that is tested.
    const SOON: Duration = Duration::from_secs(2);

    #[tokio::test]
    async fn a_change_is_noticed_soon_even_in_a_directory_that_was_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let watched = directory.path().join("policies");
        std::fs::create_dir(&watched).unwrap();
        let mut changes = Changes::of([&*watched], []);
        std::fs::write(watched.join("a.yaml"), "a").unwrap();
        timeout(SOON, changes.next()).await.unwrap();
        std::fs::rename(&watched, directory.path().join("old")).unwrap();
        std::fs::create_dir(&watched).unwrap();
        timeout(SOON, changes.next()).await.unwrap();
        std::fs::write(watched.join("b.yaml"), "b").unwrap();
        timeout(SOON, changes.next()).await.unwrap();
    }

    #[tokio::test]
    async fn of_a_single_file_s_directory_nothing_below_is_watched() {
        let directory = tempfile::tempdir().unwrap();
        let below = directory.path().join("below");
        std::fs::create_dir(&below).unwrap();
        let file = directory.path().join("bundle.pem");
        let mut changes = Changes::of([], [&*file]);
        std::fs::write(below.join("other"), "o").unwrap();
        assert!(timeout(SOON, changes.next()).await.is_err());
        std::fs::write(&file, "b").unwrap();
        timeout(SOON, changes.next()).await.unwrap();
    }
}
