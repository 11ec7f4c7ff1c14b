//! A file of JSON lines, one a notice, each on the disk before it counts as delivered.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use super::{Notice, SendError};

pub(super) async fn send(path: &Path, notice: &Notice) -> Result<(), SendError> {
    let mut line = serde_json::to_vec(notice).map_err(|e| SendError::Refused(e.to_string()))?;
    line.push(b'\n');
    let path = path.to_owned();
    let written = tokio::task::spawn_blocking(move || {
        // Opened each time, so that it can be rotated by renaming it.
        let mut options = OpenOptions::new();
        let mut file = options.create(true).append(true).mode(0o600).open(&path)?;
        file.write_all(&line)?;
        file.sync_data()
    });
    let written = written.await.unwrap_or_else(|error| Err(std::io::Error::other(error)));
    written.map_err(|error| SendError::io("the file cannot be written", &error))
}
