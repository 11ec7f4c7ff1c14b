//! What a correlation remembers: for each group the matches that may still count.
//!
//! Times are the events' own. A match is counted in every window that it falls into, also if it comes a little late. What
//! is kept is bounded: groups, and matches of all groups together; whoever was not heard of for longest is forgotten
//! first, and that is counted.

use std::collections::{HashMap, VecDeque};

use hashlink::LinkedHashMap;

use crate::alert::EXAMPLES;
use crate::correlation::Kind;

/// Matches that are kept of all groups of one correlation.
const MAX_ENTRIES: usize = 500_000;

/// The windows of one correlation.
pub(crate) struct Windows {
    kind: Kind,
    parts: usize,
    timespan: i64,
    lateness: i64,
    max_groups: usize,
    groups: LinkedHashMap<Vec<String>, Group>,
    entries: usize,
    /// Groups that were forgotten to make room.
    pub(crate) evicted: u64,
    /// Matches that came too late to count.
    pub(crate) late: u64,
}

enum Group {
    /// Times and records, in the order of the times.
    Events(VecDeque<(i64, String)>),
    /// When each value was last seen, and in which record.
    Values(HashMap<String, (i64, String)>),
    /// When each rule last matched.
    Parts(Vec<Option<(i64, String)>>),
    /// The latest beginning of a row that has come as far as each rule.
    Rows(Vec<Option<Row>>),
}

#[derive(Clone)]
struct Row {
    start: i64,
    last: i64,
    records: Vec<String>,
}

/// One match of a part.
pub(crate) struct Hit<'h> {
    /// Which of the rules, by its place.
    pub(crate) part: usize,
    pub(crate) time: i64,
    /// The value that is counted, if values are.
    pub(crate) value: Option<String>,
    pub(crate) record: &'h str,
}

impl Windows {
    pub(crate) fn new(
        kind: Kind,
        parts: usize,
        timespan: i64,
        lateness: i64,
        max_groups: usize,
    ) -> Self {
        let groups = LinkedHashMap::new();
        Self {
            kind,
            parts,
            timespan,
            lateness,
            max_groups,
            groups,
            entries: 0,
            evicted: 0,
            late: 0,
        }
    }

    /// The field whose values are counted.
    pub(crate) fn counted(&self) -> Option<&str> {
        match &self.kind {
            Kind::ValueCount(_, field) => Some(field),
            _ => None,
        }
    }

    /// Whether it is events that are counted.
    pub(crate) fn counts_events(&self) -> bool {
        matches!(self.kind, Kind::EventCount(_))
    }

    /// Takes a match; the records that complete the correlation, if it does.
    pub(crate) fn add(
        &mut self,
        key: &[String],
        hit: &Hit<'_>,
        newest: i64,
    ) -> Option<Vec<String>> {
        if hit.time < newest.saturating_sub(self.lateness) {
            self.late += 1;
            return None;
        }
        let mut group = match self.groups.remove(key) {
            Some(group) => group,
            None => self.empty(),
        };
        let before = group.len();
        let complete = group.add(&self.kind, self.timespan, self.lateness, hit);
        self.entries = (self.entries + group.len()).saturating_sub(before);
        self.groups.insert(key.to_vec(), group);
        while self.groups.len() > self.max_groups
            || (self.entries > MAX_ENTRIES && self.groups.len() > 1)
        {
            let Some((_, group)) = self.groups.pop_front() else { break };
            self.entries = self.entries.saturating_sub(group.len());
            self.evicted += 1;
        }
        complete
    }

    /// Forgets groups in which nothing can count any more.
    pub(crate) fn sweep(&mut self, newest: i64) {
        let limit = newest.saturating_sub(self.timespan).saturating_sub(self.lateness);
        // Those at the front were not heard of for longest.
        while let Some((_, group)) = self.groups.front() {
            if group.newest() >= limit {
                break;
            }
            let length = group.len();
            self.groups.pop_front();
            self.entries = self.entries.saturating_sub(length);
        }
    }

    fn empty(&self) -> Group {
        match self.kind {
            Kind::EventCount(_) => Group::Events(VecDeque::new()),
            Kind::ValueCount(..) => Group::Values(HashMap::new()),
            Kind::Temporal => Group::Parts(vec![None; self.parts]),
            Kind::TemporalOrdered => Group::Rows(vec![None; self.parts]),
        }
    }
}

impl Group {
    fn len(&self) -> usize {
        match self {
            Self::Events(events) => events.len(),
            Self::Values(values) => values.len(),
            Self::Parts(parts) => parts.len(),
            Self::Rows(rows) => rows.len(),
        }
    }

    fn newest(&self) -> i64 {
        let newest = match self {
            Self::Events(events) => events.back().map(|(time, _)| *time),
            Self::Values(values) => values.values().map(|(time, _)| *time).max(),
            Self::Parts(parts) => parts.iter().flatten().map(|(time, _)| *time).max(),
            Self::Rows(rows) => rows.iter().flatten().map(|row| row.last).max(),
        };
        newest.unwrap_or(i64::MIN)
    }

    fn add(&mut self, kind: &Kind, span: i64, lateness: i64, hit: &Hit<'_>) -> Option<Vec<String>> {
        match (self, kind) {
            (Self::Events(events), Kind::EventCount(count)) => {
                let count = usize::try_from(*count).unwrap_or(usize::MAX);
                add_event(events, count, span, lateness, hit)
            }
            (Self::Values(values), Kind::ValueCount(count, _)) => {
                let count = usize::try_from(*count).unwrap_or(usize::MAX);
                add_value(values, count, span, hit)
            }
            (Self::Parts(parts), _) => add_part(parts, span, hit),
            (Self::Rows(rows), _) => add_row(rows, span, hit),
            _ => None,
        }
    }
}

fn add_event(
    events: &mut VecDeque<(i64, String)>,
    count: usize,
    span: i64,
    lateness: i64,
    hit: &Hit<'_>,
) -> Option<Vec<String>> {
    let place = events.partition_point(|(time, _)| *time <= hit.time);
    events.insert(place, (hit.time, hit.record.to_owned()));
    // Every window of so many events that this one is in.
    let first = place.saturating_sub(count - 1);
    let mut complete = None;
    for start in first..=place {
        let (Some((from, _)), Some((to, _))) = (events.get(start), events.get(start + count - 1))
        else {
            break;
        };
        if to - from <= span {
            let window = events.iter().skip(start).take(count.min(EXAMPLES));
            complete = Some(window.map(|(_, record)| record.clone()).collect());
            break;
        }
    }
    let newest = events.back().map_or(hit.time, |(time, _)| *time);
    let limit = newest.saturating_sub(span).saturating_sub(lateness);
    while events.len() > 2 * count || events.front().is_some_and(|(time, _)| *time < limit) {
        events.pop_front();
    }
    complete
}

fn add_value(
    values: &mut HashMap<String, (i64, String)>,
    count: usize,
    span: i64,
    hit: &Hit<'_>,
) -> Option<Vec<String>> {
    let value = hit.value.clone()?;
    let slot = values.entry(value).or_insert_with(|| (hit.time, hit.record.to_owned()));
    if slot.0 < hit.time {
        *slot = (hit.time, hit.record.to_owned());
    }
    let newest = values.values().map(|(time, _)| *time).max().unwrap_or(hit.time);
    values.retain(|_, (time, _)| *time >= newest.saturating_sub(span));
    if values.len() < count {
        return None;
    }
    let mut records: Vec<(i64, String)> = values.values().cloned().collect();
    records.sort_unstable();
    // One below the threshold is enough to notice the next value.
    if values.len() > count {
        let oldest = values.iter().min_by(|a, b| a.1.cmp(b.1)).map(|(value, _)| value.clone());
        oldest.map(|value| values.remove(&value));
    }
    Some(records.into_iter().take(EXAMPLES).map(|(_, record)| record).collect())
}

fn add_part(parts: &mut [Option<(i64, String)>], span: i64, hit: &Hit<'_>) -> Option<Vec<String>> {
    let slot = parts.get_mut(hit.part)?;
    if slot.as_ref().is_none_or(|(time, _)| *time <= hit.time) {
        *slot = Some((hit.time, hit.record.to_owned()));
    }
    let all: Vec<&(i64, String)> = parts.iter().map(Option::as_ref).collect::<Option<_>>()?;
    let first = all.iter().map(|(time, _)| *time).min()?;
    let last = all.iter().map(|(time, _)| *time).max()?;
    if last - first > span {
        return None;
    }
    let mut records: Vec<(i64, String)> = all.into_iter().cloned().collect();
    records.sort_unstable();
    records.dedup();
    Some(records.into_iter().take(EXAMPLES).map(|(_, record)| record).collect())
}

/// For each rule the row that began last is the one with the most time left.
fn add_row(rows: &mut [Option<Row>], span: i64, hit: &Hit<'_>) -> Option<Vec<String>> {
    let row = match hit.part.checked_sub(1) {
        None => Row { start: hit.time, last: hit.time, records: vec![hit.record.to_owned()] },
        Some(before) => {
            let before = rows.get(before)?.as_ref()?;
            if before.last > hit.time || hit.time - before.start > span {
                return None;
            }
            let mut records = before.records.clone();
            if records.len() < EXAMPLES {
                records.push(hit.record.to_owned());
            }
            Row { start: before.start, last: hit.time, records }
        }
    };
    let is_complete = hit.part + 1 == rows.len();
    let slot = rows.get_mut(hit.part)?;
    let records = is_complete.then(|| row.records.clone());
    if slot.as_ref().is_none_or(|known| known.start <= row.start) {
        *slot = Some(row);
    }
    records
}
