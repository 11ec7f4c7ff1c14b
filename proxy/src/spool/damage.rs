//! What is missing where a segment was damaged, and where what can be read goes on.
//!
//! How many records a damaged stretch held follows from what stands around it: the segment's header
//! knows how many numbers were given out, and every completed span its place in the chain.

use super::header::{Header, Live};
use super::record::{Found, Record};

/// What has been seen of a segment so far.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Numbers that begin in it.
    pub(super) begun: u64,
    /// The highest of them, or the last one before the segment.
    pub(super) last: u64,
    pub(super) damage: Option<Damage>,
}

/// A stretch, or several of one segment, that cannot be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Damage {
    /// Numbers that must have begun there.
    pub(super) numbers: u64,
    /// Places in the chain that must have been there.
    pub(super) places: u64,
    /// The numbers next to it on either side.
    pub(super) after: u64,
    pub(super) before: Option<u64>,
}

impl Damage {
    /// Records that are missing, or of which the end is.
    pub(super) fn count(&self) -> u64 {
        self.numbers.max(self.places)
    }

    /// The first and the last number that is missing, if there are no others between.
    pub(super) fn range(&self) -> Option<(u64, u64)> {
        let (first, last) = (self.after + 1, self.before?.saturating_sub(1));
        let fits = last.checked_sub(first).is_some_and(|more| more + 1 == self.count());
        fits.then_some((first, last))
    }
}

impl Seen {
    /// At the end of a segment: how many numbers should have begun in it and were not seen. (What a
    /// power cut took may look like the end.)
    pub(super) fn close(&mut self, header: Option<&(Header, Live)>) {
        let Some((start, end)) = header else { return };
        let given = end.next_sequence.saturating_sub(start.next_sequence);
        let lost = end.lost.total().saturating_sub(start.lost.total());
        let numbers = given.saturating_sub(lost).saturating_sub(self.begun);
        if numbers > 0 {
            let after = self.last;
            self.damage.get_or_insert(Damage { after, ..Damage::default() }).numbers = numbers;
        }
        let Some(damage) = &mut self.damage else { return };
        if damage.before.is_none() {
            damage.before = Some(end.next_sequence);
        }
    }
}

/// Where in `bytes` the next record begins that is whole.
pub(super) fn next_record(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        // The unused end of a segment is long.
        while bytes.get(at..)?.first_chunk() == Some(&[0; 256]) {
            at += 256 - 3;
        }
        let rest = bytes.get(at..)?;
        // Where there are only zeros nothing begins; a length may begin with three of them.
        let zeros = rest.iter().position(|byte| *byte != 0)?;
        at += zeros.saturating_sub(3);
        if matches!(Record::read(bytes.get(at..)?), Found::Record(..)) {
            return Some(at);
        }
        at += 1;
    }
}
