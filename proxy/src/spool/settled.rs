//! Spans that are done with although a part of them is still on disk.
//!
//! A segment is deleted when everything in it was acknowledged, whatever is before it: a stream that
//! lives for days must not keep what came after. A span may then have lost its end and kept its
//! beginning, which after a kill would look like a request that was cut off. Its number is noted
//! here before the segment goes.
//!
//! ```text
//! lane-0.settled          sequence u64 …, crc32c u32; little-endian
//! ```

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// Of one lane: numbers, and the segments in which they have parts.
#[derive(Default)]
pub(super) struct Settled(BTreeMap<u64, Vec<u32>>);

impl Settled {
    /// What an earlier boot noted.
    pub(super) fn read(directory: &Path, lane: u32) -> Self {
        let path = path(directory, lane);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Self::default(),
            Err(error) => {
                tracing::error!(%error, path = %path.display(), "cannot be read");
                return Self::default();
            }
        };
        let checked = bytes.split_last_chunk::<4>();
        let checked = checked.filter(|(numbers, sum)| {
            crc32c::crc32c(numbers) == u32::from_le_bytes(**sum) && numbers.len() % 8 == 0
        });
        let Some((numbers, _)) = checked else {
            tracing::error!(path = %path.display(), "is damaged");
            return Self::default();
        };
        let numbers = numbers.chunks_exact(8).filter_map(|number| number.first_chunk());
        Self(numbers.map(|number| (u64::from_le_bytes(*number), Vec::new())).collect())
    }

    pub(super) fn contains(&self, sequence: u64) -> bool {
        self.0.contains_key(&sequence)
    }

    /// A span with parts in several segments was acknowledged.
    pub(super) fn add(&mut self, sequence: u64, segments: &[u32]) {
        self.0.insert(sequence, segments.to_vec());
    }

    /// Before these segments go: notes on disk what they leave half of.
    pub(super) fn save(
        &mut self,
        directory: &Path,
        lane: u32,
        going: &[u32],
        is_there: impl Fn(u32) -> bool,
    ) -> io::Result<()> {
        let stays = |segment: &u32| is_there(*segment) && !going.contains(segment);
        self.0.retain(|_, segments| segments.iter().any(stays));
        let half = |segments: &Vec<u32>| !segments.iter().all(stays);
        let mut bytes: Vec<u8> = Vec::new();
        for (sequence, _) in self.0.iter().filter(|(_, segments)| half(segments)) {
            bytes.extend_from_slice(&sequence.to_le_bytes());
        }
        let path = path(directory, lane);
        if bytes.is_empty() && !path.exists() {
            return Ok(());
        }
        bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
        let new = path.with_extension("new");
        let mut file = File::create(&new)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        fs::rename(&new, &path)?;
        File::open(directory)?.sync_all()
    }
}

fn path(directory: &Path, lane: u32) -> PathBuf {
    directory.join(format!("lane-{lane}.settled"))
}
