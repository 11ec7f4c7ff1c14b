//! Names what is wrong with entries: changed, moved, there twice, gone.

use std::collections::BTreeMap;

use picket_ledger::Hash;

use super::findings::{Code, Finding};
use super::{Mismatch, Verification};

impl Verification {
    /// A record that is not the one that was entered: changed, moved, or there a second time.
    pub(super) fn name_mismatches(&mut self) {
        let mismatches = std::mem::take(&mut self.mismatches);
        let place: BTreeMap<Hash, u64> = mismatches.iter().map(|m| (m.logged, m.index)).collect();
        for Mismatch { index, id, computed, is_duplicate, .. } in &mismatches {
            let (code, detail) = if *is_duplicate {
                (Code::DuplicatedRecord, format!("it is there a second time, at index {index}"))
            } else if let Some(place) = place.get(computed) {
                (
                    Code::ReorderedRecord,
                    format!("it is at index {index}, and was entered at {place}"),
                )
            } else {
                let detail = format!("it is not what was entered at index {index}");
                (Code::AlteredRecord, detail)
            };
            self.report.add(Finding::of_record(code, id, detail).at(*index));
        }
    }

    /// Entries without a record: in the middle, or at the end of what a process wrote.
    pub(super) fn name_gone(&mut self, size: u64) {
        let gone = std::mem::take(&mut self.gone);
        let mut runs: Vec<(u64, u64)> = Vec::new();
        for index in gone {
            match runs.last_mut() {
                Some((_, end)) if *end == index => *end = index + 1,
                _ => runs.push((index, index + 1)),
            }
        }
        for (first, end) in runs {
            // What a process wrote last was cut off, and the next one went on behind it.
            if end == size || self.starts.contains(&end) {
                let count = end - first;
                let detail = format!(
                    "the {count} entries from index {first} on were the last ones, and have no records any more"
                );
                self.report.add(Finding::new(Code::TruncatedTail, detail).at(first));
                continue;
            }
            for index in first..end {
                let detail = format!("the record that was entered at index {index} is gone");
                self.report.add(Finding::new(Code::MissingRecord, detail).at(index));
            }
        }
    }

    /// What retention removed has to be on the record.
    pub(super) fn judge_removed(&mut self, first: u64) {
        let (removed, pruned) = (std::mem::take(&mut self.removed), self.pruned);
        let (good, bad): (Vec<u64>, Vec<u64>) = removed.into_iter().partition(|i| *i < pruned);
        self.report.removed = good.len() as u64;
        self.gone.extend(bad);
        self.gone.sort_unstable();
        if self.trust.is_whole && first > 0 {
            match first <= pruned {
                true => self.report.removed += first,
                false => {
                    let detail = format!(
                        "the first {first} entries are not here, and nothing on the record says that \
                         retention removed more than {pruned}"
                    );
                    self.report.add(Finding::new(Code::MissingRecord, detail).at(0));
                }
            }
        }
    }
}
