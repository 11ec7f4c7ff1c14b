//! The end of an earlier boot's lane.

use super::{LaneReader, Open};
use crate::audit::closing;
use crate::audit::notice::Missing;
use crate::spool::chain::{Head, sha256};
use crate::spool::header::Reason;
use crate::spool::reader::Batch;

impl LaneReader {
    /// At the end of an earlier boot's lane: closes and hands out what was open there, and what
    /// declares what is missing. Tells how far the lane has come then.
    pub(in crate::spool) fn finish(&mut self, boot: usize, name: &str, batch: &mut Batch) -> Head {
        self.settle_damage(None);
        let mut open: Vec<(u64, Open)> = self.open.drain().collect();
        open.sort_by_key(|(sequence, _)| *sequence);
        for (sequence, mut open) in open {
            closing::interrupted(&mut open.span, self.last_time, &self.link);
            self.link = self.link.next(sha256(&open.span));
            batch.push(self.completed(open, boot, sequence, self.last_time));
        }
        let lost = self.live.map(|live| live.lost).unwrap_or_default();
        let mut missing: Vec<Missing> = Vec::new();
        for reason in Reason::ALL {
            let count = lost.of(reason).saturating_sub(self.declared.of(reason));
            let (reason, boot) = (reason.as_str(), name.to_owned());
            missing.push(Missing { reason, count, boot, lane: self.number, range: None });
        }
        missing.extend(self.missing(name));
        let next = self.live.map_or(0, |live| live.next_sequence);
        let sequences = self.seen.last.saturating_add(1).max(next)..;
        let last = self.segments.keys().next_back().copied();
        let missing = missing.into_iter().filter(|missing| missing.count > 0);
        for (sequence, missing) in sequences.zip(missing) {
            let mut span = Vec::new();
            closing::gap(&mut span, self.last_time, sequence, &missing, &self.link);
            self.link = self.link.next(sha256(&span));
            let mut segments = Vec::new();
            if let Some((number, progress)) =
                last.and_then(|l| Some((l, self.segments.get_mut(&l)?)))
            {
                progress.unacknowledged += 1;
                segments.push(number);
            }
            let open = Open { span, segments };
            batch.push(self.completed(open, boot, sequence, self.last_time));
        }
        self.ended = true;
        // What was damaged had its place in the chain.
        let lost = lost.total();
        let emitted = self.link.position.saturating_add(lost);
        Head { link: self.link, emitted, open: 0, lost }
    }
}
