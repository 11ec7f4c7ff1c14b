//! Records counted by the facts that they share.
//!
//! Sealed segments are added up from their tallies; records are read one by one only in the last segment, and where
//! it cannot be told from a tally whether all of its records match.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use rusqlite::types::Value as Bound;
use rusqlite::{Connection, params_from_iter};

use super::durations::Durations;
use super::search::{Of, Plan, Range, Sql, Sure, compile};
use super::{StoreError, words};
use crate::search::{Expression, Shared};

/// Groups that are kept apart, at most: each takes memory until the end.
const MAX_GROUPS: usize = 50_000;

/// Records with the same facts.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Group {
    /// The facts, in the order asked for; none where there is none.
    pub(crate) key: Vec<Option<Fact>>,
    pub(crate) records: u64,
    /// Start of the first and the last, in nanoseconds since 1970.
    pub(crate) first_ns: i64,
    pub(crate) last_ns: i64,
    /// In microseconds.
    pub(crate) p50_us: u64,
    pub(crate) p95_us: u64,
}

/// A fact that records are grouped by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fact {
    Text(String),
    Number(i64),
}

/// Why records cannot be grouped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TooBroad {
    #[error("there are more than {MAX_GROUPS} groups: group by less, or filter more")]
    Groups,
    #[error("it would take too long: filter by time, or by what can be grouped by")]
    Work,
}

#[derive(Default)]
struct Sum {
    records: u64,
    times: Option<(i64, i64)>,
    durations: Durations,
}

impl Sum {
    fn add(&mut self, records: u64, first: i64, last: i64) {
        self.records += records;
        let (low, high) = self.times.unwrap_or((first, last));
        self.times = Some((low.min(first), high.max(last)));
    }
}

type Sums = HashMap<Vec<Option<i64>>, Sum>;

/// Counts the records that match, the largest group first.
pub(crate) fn group(
    connection: &Connection,
    expression: &Expression,
    by: &[Shared],
    patience: Duration,
) -> Result<Result<Vec<Group>, TooBroad>, StoreError> {
    let started = Instant::now();
    let transaction = connection.unchecked_transaction()?;
    let grouping = Grouping {
        connection: &transaction,
        columns: by.iter().map(|shared| shared.name()).collect::<Vec<_>>().join(", "),
        width: by.len(),
        exact: compile(&transaction, expression, Of::Record)?,
        may: compile(&transaction, expression, Of::Tally(Sure::May))?,
        must: compile(&transaction, expression, Of::Tally(Sure::Must))?,
    };
    let plan = Plan::new(&transaction, expression, false)?;
    let mut sums = Sums::new();
    for range in plan.ranges() {
        if started.elapsed() > patience {
            return Ok(Err(TooBroad::Work));
        }
        let is_added = match range.segment {
            Some(segment) => grouping.tallies(segment, &mut sums)?,
            None => false,
        };
        if !is_added && let Some(range) = plan.narrow(&transaction, range)? {
            grouping.records(range, &mut sums)?;
        }
        if sums.len() > MAX_GROUPS {
            return Ok(Err(TooBroad::Groups));
        }
    }
    let mut groups = Vec::with_capacity(sums.len());
    let mut known = HashMap::new();
    for (key, sum) in sums {
        let mut facts = Vec::with_capacity(key.len());
        for (value, shared) in key.into_iter().zip(by) {
            facts.push(
                value.map(|value| fact(&transaction, &mut known, *shared, value)).transpose()?,
            );
        }
        let (first_ns, last_ns) = sum.times.unwrap_or_default();
        groups.push(Group {
            key: facts,
            records: sum.records,
            first_ns,
            last_ns,
            p50_us: sum.durations.quantile(0.5).unwrap_or_default(),
            p95_us: sum.durations.quantile(0.95).unwrap_or_default(),
        });
    }
    groups.sort_unstable_by(|a, b| b.records.cmp(&a.records).then_with(|| a.key.cmp(&b.key)));
    Ok(Ok(groups))
}

fn fact(
    connection: &Connection,
    known: &mut HashMap<i64, String>,
    shared: Shared,
    value: i64,
) -> Result<Fact, StoreError> {
    if matches!(shared, Shared::Status | Shared::DryRun) {
        return Ok(Fact::Number(value));
    }
    if let Some(text) = known.get(&value) {
        return Ok(Fact::Text(text.clone()));
    }
    let text = words::text(connection, value)?;
    let text = text.ok_or(StoreError::Unreadable("a word without a text"))?;
    known.insert(value, text.clone());
    Ok(Fact::Text(text))
}

struct Grouping<'c> {
    connection: &'c Connection,
    columns: String,
    width: usize,
    exact: Sql,
    may: Sql,
    must: Sql,
}

impl Grouping<'_> {
    /// Adds a sealed segment up, if its tallies alone can tell.
    fn tallies(&self, segment: i64, sums: &mut Sums) -> Result<bool, StoreError> {
        let sql = format!(
            "SELECT records, first_ns, last_ns, durations, {} {}{} FROM tallies WHERE segment = ? AND {}",
            self.must.text,
            if self.width == 0 { "" } else { ", " },
            self.columns,
            self.may.text
        );
        let mut values = self.must.values.clone();
        values.push(Bound::from(segment));
        values.extend(self.may.values.iter().cloned());
        let mut statement = self.connection.prepare_cached(&sql)?;
        let mut rows = statement.query(params_from_iter(values))?;
        // Nothing is added before all of them could tell: it could not be taken away again.
        let (mut told, mut histograms) = (Vec::new(), Vec::new());
        while let Some(row) = rows.next()? {
            if !row.get::<_, bool>(4)? {
                return Ok(false);
            }
            let records = u64::try_from(row.get::<_, i64>(0)?).unwrap_or(0);
            let times: (i64, i64) = (row.get(1)?, row.get(2)?);
            let histogram = row.get_ref(3)?.as_blob().unwrap_or_default();
            histograms.extend_from_slice(histogram);
            told.push((self.key(row, 5)?, records, times, histogram.len()));
        }
        let mut rest = histograms.as_slice();
        for (key, records, (first, last), length) in told {
            let sum = sums.entry(key).or_default();
            sum.add(records, first, last);
            let (histogram, tail) = rest.split_at(length);
            sum.durations.merge(histogram).ok_or(StoreError::Unreadable("a histogram"))?;
            rest = tail;
        }
        Ok(true)
    }

    fn records(&self, range: Range, sums: &mut Sums) -> Result<(), StoreError> {
        let sql = format!(
            "SELECT time_ns, duration_us {}{} FROM facts WHERE facts.id BETWEEN ? AND ? AND {}",
            if self.width == 0 { "" } else { ", " },
            self.columns,
            self.exact.text
        );
        let mut values = vec![Bound::from(range.low), Bound::from(range.high)];
        values.extend(self.exact.values.iter().cloned());
        let mut statement = self.connection.prepare_cached(&sql)?;
        let mut rows = statement.query(params_from_iter(values))?;
        while let Some(row) = rows.next()? {
            let (time, duration): (i64, i64) = (row.get(0)?, row.get(1)?);
            let sum = sums.entry(self.key(row, 2)?).or_default();
            sum.add(1, time, time);
            sum.durations.add(duration);
        }
        Ok(())
    }

    fn key(&self, row: &rusqlite::Row<'_>, from: usize) -> Result<Vec<Option<i64>>, StoreError> {
        let mut key = Vec::with_capacity(self.width);
        for column in from..from + self.width {
            key.push(row.get(column)?);
        }
        Ok(key)
    }
}
