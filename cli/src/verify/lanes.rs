//! The lanes of emitters: each chain in its order, up to its newest signed head.

use std::collections::BTreeMap;

use picket_api::v1::ChainHead;
use picket_ledger::entry::Entry;
use picket_ledger::{Hash, chain, hex};

use super::findings::{Code, Finding, Report};
use super::span::Facts;

/// How long a record may be on its way, in milliseconds.
const SETTLE: i64 = 30_000;
/// Links of one lane that may wait for those before them.
const MAX_AHEAD: usize = 100_000;
/// Missing places of one lane that are named one by one.
const MAX_NAMED: u64 = 100;

type Place = (String, String, i64);

/// A record as its chain has it.
pub(super) struct Link {
    place: Place,
    pub(super) position: i64,
    /// None if the record was erased.
    hash: Option<Hash>,
    pub(super) facts: Facts,
    is_altered: bool,
}

impl Link {
    pub(super) fn of(entry: &Entry, span: Option<&[u8]>, is_altered: bool) -> Self {
        Self {
            place: (entry.emitter.clone(), entry.boot.clone(), entry.lane),
            position: entry.position,
            hash: span.map(chain::hash),
            facts: span.map(Facts::of).unwrap_or_default(),
            is_altered,
        }
    }
}

/// The last link that is joined to those before it.
struct End {
    position: i64,
    hash: Option<Hash>,
    is_altered: bool,
}

#[derive(Default)]
struct Lane {
    end: Option<End>,
    /// Links that came before those that they follow.
    ahead: BTreeMap<i64, (String, Link)>,
    /// Places that were passed without a record.
    missing: BTreeMap<i64, i64>,
    /// Whether any record of it stands in a chain.
    is_chained: bool,
    sequences: Ranges,
    /// Signed: position and hash.
    heads: BTreeMap<i64, Hash>,
    newest: Option<ChainHead>,
    declared: u64,
}

/// All lanes.
#[derive(Default)]
pub(super) struct Lanes {
    lanes: BTreeMap<Place, Lane>,
    is_whole: bool,
}

impl Lanes {
    /// Whether the records are all that there ever were.
    pub(super) fn begin(&mut self, is_whole: bool) {
        self.is_whole = is_whole;
    }

    /// A head whose signature was checked.
    pub(super) fn head(&mut self, emitter: &str, head: &ChainHead, hash: Hash) {
        let place = (emitter.to_owned(), head.boot.clone(), i64::from(head.lane));
        let lane = self.lanes.entry(place).or_default();
        let position = i64::try_from(head.position).unwrap_or(i64::MAX);
        lane.heads.insert(position, hash);
        if lane.newest.as_ref().is_none_or(|newest| newest.position <= head.position) {
            lane.newest = Some(head.clone());
        }
    }

    /// Notes a record's number. False if it was there before.
    pub(super) fn sequence(&mut self, entry: &Entry) -> bool {
        let place = (entry.emitter.clone(), entry.boot.clone(), entry.lane);
        self.lanes.entry(place).or_default().sequences.insert(entry.sequence)
    }

    /// Whether a record of that name was there.
    pub(super) fn knows(&self, id: &str) -> bool {
        let mut parts = id.rsplitn(3, '-');
        let mut number = || parts.next().and_then(|part| part.parse::<i64>().ok());
        let (Some(sequence), Some(lane)) = (number(), number()) else { return false };
        let Some(boot) = parts.next() else { return false };
        self.lanes
            .iter()
            .any(|((_, b, l), known)| b == boot && *l == lane && known.sequences.contains(sequence))
    }

    /// Takes a record.
    pub(super) fn record(&mut self, id: &str, link: Link, report: &mut Report) {
        if let Some((boot, lane, count)) = &link.facts.gap
            && !link.is_altered
        {
            let (emitter, own_boot, own_lane) = &link.place;
            let boot = boot.clone().unwrap_or_else(|| own_boot.clone());
            let meant = (emitter.clone(), boot, lane.unwrap_or(*own_lane));
            self.lanes.entry(meant).or_default().declared += count;
        }
        if link.position <= 0 {
            return;
        }
        let is_whole = self.is_whole;
        let place = link.place.clone();
        let lane = self.lanes.entry(place.clone()).or_default();
        lane.is_chained = true;
        if lane.fill(link.position) {
            return;
        }
        lane.ahead.insert(link.position, (id.to_owned(), link));
        if lane.end.is_none() && is_whole {
            let (emitter, boot, number) = &place;
            let seed = chain::seed(emitter, boot, *number);
            lane.end = Some(End { position: 0, hash: Some(seed), is_altered: false });
        }
        lane.advance(&place, report);
        if lane.ahead.len() > MAX_AHEAD {
            lane.pass(&place, report);
            lane.advance(&place, report);
        }
    }

    /// What is missing in the end, by the clock of whoever made the bundle; without one nothing is still on
    /// its way.
    pub(super) fn finish(self, made_at: Option<&str>, report: &mut Report) {
        let now: Option<jiff::Timestamp> = made_at.and_then(|made_at| made_at.parse().ok());
        let now = now.map_or(i64::MAX, |now| now.as_millisecond());
        for (place, mut lane) in self.lanes {
            report.lanes += 1;
            lane.finish(&place, self.is_whole, now, report);
        }
    }
}

impl Lane {
    /// Joins what follows the end.
    fn advance(&mut self, place: &Place, report: &mut Report) {
        loop {
            let Some(end) = &self.end else { return };
            let Some((id, link)) = self.ahead.remove(&(end.position + 1)) else { return };
            self.join(place, &id, link, report);
        }
    }

    /// Joins the next link there is, past those that are missing.
    fn pass(&mut self, place: &Place, report: &mut Report) {
        let Some((position, (id, link))) = self.ahead.pop_first() else { return };
        let (emitter, boot, number) = place;
        match &self.end {
            Some(end) if position <= end.position => {
                let detail = "there is another record at this place of the chain".to_owned();
                let at = (emitter.as_str(), boot.as_str(), *number);
                let finding = Finding::of_place(Code::BrokenChain, at, Some(position), detail);
                report.add(Finding { record: Some(id), ..finding });
                return;
            }
            Some(end) if position > end.position + 1 => {
                self.missing.insert(end.position + 1, position - 1);
            }
            // In a bundle that begins later the first one that is here is where the chain begins.
            Some(_) | None => {}
        }
        self.join(place, &id, link, report);
    }

    /// Takes a place that had been passed. False if it had not.
    fn fill(&mut self, position: i64) -> bool {
        let hole = self.missing.range(..=position).next_back().map(|(first, last)| (*first, *last));
        let Some((first, last)) = hole.filter(|(_, last)| *last >= position) else { return false };
        self.missing.remove(&first);
        for (first, last) in [(first, position - 1), (position + 1, last)] {
            if first <= last {
                self.missing.insert(first, last);
            }
        }
        true
    }

    /// Makes a link the end. Whether it follows is judged only if what is before it is whole.
    fn join(&mut self, (emitter, boot, number): &Place, id: &str, link: Link, report: &mut Report) {
        let before = self.end.as_ref().filter(|end| end.position + 1 == link.position);
        let hash = before.and_then(|end| end.hash.filter(|_| !end.is_altered));
        let place = (emitter.as_str(), boot.as_str(), *number);
        let is_judged = link.hash.is_some() && !link.is_altered;
        if let Some(hash) = hash.filter(|_| is_judged)
            && link.facts.previous != hex::encode(&hash)
        {
            let detail = "it does not follow the record before it".to_owned();
            let finding = Finding::of_place(Code::BrokenChain, place, Some(link.position), detail);
            report.add(Finding { record: Some(id.to_owned()), ..finding });
        }
        if let (Some(signed), Some(hash)) = (self.heads.get(&link.position), link.hash)
            && *signed != hash
            && !link.is_altered
        {
            let detail = "a signed head says that another record stands here".to_owned();
            let finding = Finding::of_place(Code::BrokenChain, place, Some(link.position), detail);
            report.add(Finding { record: Some(id.to_owned()), ..finding });
        }
        self.end =
            Some(End { position: link.position, hash: link.hash, is_altered: link.is_altered });
    }

    fn finish(&mut self, place: &Place, is_whole: bool, now: i64, report: &mut Report) {
        let (emitter, boot, number) = place;
        let at = (emitter.as_str(), boot.as_str(), *number);
        while !self.ahead.is_empty() {
            self.pass(place, report);
        }
        let mut missing = std::mem::take(&mut self.missing);
        let last = self.end.as_ref().map_or(0, |end| end.position);
        if let Some(head) = self.newest.take() {
            let position = i64::try_from(head.position).unwrap_or(i64::MAX);
            let is_known = self.end.is_some() || is_whole;
            if position > last && is_known {
                match head.time_ms.saturating_add(SETTLE) < now {
                    true => drop(missing.insert(last + 1, position)),
                    false => report.pending += head.position - u64::try_from(last).unwrap_or(0),
                }
            }
        }
        let mut declared = self.declared;
        let mut named = 0;
        for (first, last) in missing {
            for position in first..=last {
                if declared > 0 {
                    declared -= 1;
                    report.declared_lost += 1;
                    continue;
                }
                named += 1;
                if named > MAX_NAMED {
                    let left = last - position + 1;
                    let detail = format!("and {left} more, up to position {last}");
                    report.add(Finding::of_place(Code::MissingRecord, at, Some(position), detail));
                    break;
                }
                let detail = "the emitter made it, and it is not here".to_owned();
                report.add(Finding::of_place(Code::MissingRecord, at, Some(position), detail));
            }
        }
        if !self.is_chained && is_whole {
            for (first, last) in self.sequences.holes() {
                let detail = format!("its numbers {first} to {last} are not here");
                report.add(Finding::of_place(Code::MissingRecord, at, None, detail));
            }
        }
    }
}

/// A set of numbers, as ranges.
#[derive(Default)]
struct Ranges(BTreeMap<i64, i64>);

impl Ranges {
    /// False if it was in it.
    fn insert(&mut self, number: i64) -> bool {
        let before = self.0.range(..=number).next_back().map(|(first, last)| (*first, *last));
        if before.is_some_and(|(_, last)| last >= number) {
            return false;
        }
        let first = match before {
            Some((first, last)) if last + 1 == number => first,
            _ => number,
        };
        let last = self.0.remove(&(number + 1)).unwrap_or(number);
        self.0.insert(first, last);
        true
    }

    fn contains(&self, number: i64) -> bool {
        self.0.range(..=number).next_back().is_some_and(|(_, last)| *last >= number)
    }

    /// What is missing from 1 to the highest.
    fn holes(&self) -> Vec<(i64, i64)> {
        let mut next = 1;
        let mut holes = Vec::new();
        for (first, last) in &self.0 {
            if *first > next {
                holes.push((next, first - 1));
            }
            next = last + 1;
        }
        holes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_hold_what_was_put_in_and_know_what_is_missing() {
        let mut ranges = Ranges::default();
        for number in [5, 1, 3, 2, 9] {
            assert!(ranges.insert(number));
        }
        for number in [1, 2, 3, 5, 9] {
            assert!(!ranges.insert(number));
        }
        assert_eq!(ranges.holes(), [(4, 4), (6, 8)]);
        assert!(ranges.insert(4));
        assert_eq!(ranges.0, BTreeMap::from([(1, 5), (9, 9)]));
    }
}
