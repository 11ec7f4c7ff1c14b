//! Where the records that match can be: the rows that an index names, or the segments in which some may be.

use rusqlite::{Connection, OptionalExtension as _, params, params_from_iter};

use super::compile::{Of, Sql, Sure, compile};
use crate::search::{Compare, Expression, RecordId, Subject, Test, Value};
use crate::store::{StoreError, segments};

/// Rows that an index may name before it is no help.
const MAX_NAMED: usize = 100_000;

/// Rows from one to another, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) struct Range {
    pub(in crate::store) low: i64,
    pub(in crate::store) high: i64,
    /// The sealed segment that it is, or is a part of.
    pub(in crate::store) segment: Option<i64>,
}

impl Range {
    pub(in crate::store) fn within(self, low: i64, high: i64) -> Self {
        Self { low: self.low.max(low), high: self.high.min(high), ..self }
    }

    pub(in crate::store) fn is_empty(&self) -> bool {
        self.low > self.high
    }
}

/// The ranges to look at, in the order of the search, and how to make each of them smaller.
pub(in crate::store) struct Plan {
    ranges: Vec<Range>,
    /// Which tallies may have a match; none if every one may.
    tallies: Option<Sql>,
}

impl Plan {
    pub(in crate::store) fn new(
        connection: &Connection,
        expression: &Expression,
        is_backwards: bool,
    ) -> Result<Self, StoreError> {
        let mut plan = match named(connection, expression)? {
            Some(mut rows) => {
                rows.sort_unstable();
                rows.dedup();
                let range = |row| Range { low: row, high: row, segment: None };
                Self { ranges: rows.into_iter().map(range).collect(), tallies: None }
            }
            None => Self::of_segments(connection, expression)?,
        };
        if is_backwards {
            plan.ranges.reverse();
        }
        Ok(plan)
    }

    fn of_segments(connection: &Connection, expression: &Expression) -> Result<Self, StoreError> {
        let may = compile(connection, expression, Of::Segment(Sure::May))?;
        let sql = format!("SELECT segment FROM sealed WHERE {} ORDER BY segment", may.text);
        let mut statement = connection.prepare_cached(&sql)?;
        let mut rows = statement.query(params_from_iter(may.values))?;
        let mut ranges = Vec::new();
        while let Some(row) = rows.next()? {
            let segment = row.get(0)?;
            let (low, high) = segments::ids(segment);
            ranges.push(Range { low, high, segment: Some(segment) });
        }
        let low = segments::unsealed(connection)?;
        ranges.push(Range { low, high: i64::MAX, segment: None });
        let tallies = match expression {
            Expression::All(parts) if parts.is_empty() => None,
            some => Some(compile(connection, some, Of::Tally(Sure::May))?),
        };
        Ok(Self { ranges, tallies })
    }

    pub(in crate::store) fn ranges(&self) -> impl Iterator<Item = Range> + '_ {
        self.ranges.iter().copied()
    }

    /// The part of a range outside of which nothing can match; none if nothing can in it.
    pub(in crate::store) fn narrow(
        &self,
        connection: &Connection,
        range: Range,
    ) -> Result<Option<Range>, StoreError> {
        let (Some(segment), Some(may)) = (range.segment, &self.tallies) else {
            return Ok(Some(range));
        };
        let sql = format!(
            "SELECT min(first_id), max(last_id) FROM tallies WHERE segment = ? AND {}",
            may.text
        );
        let mut values = vec![rusqlite::types::Value::from(segment)];
        values.extend(may.values.iter().cloned());
        let mut statement = connection.prepare_cached(&sql)?;
        let ends: (Option<i64>, Option<i64>) =
            statement.query_row(params_from_iter(values), |row| Ok((row.get(0)?, row.get(1)?)))?;
        let (Some(low), Some(high)) = ends else { return Ok(None) };
        Ok(Some(range.within(low, high)).filter(|range| !range.is_empty()))
    }
}

/// The rows that an index names, if one of the conditions that have to hold has one.
fn named(connection: &Connection, expression: &Expression) -> Result<Option<Vec<i64>>, StoreError> {
    for part in expression.parts() {
        let Expression::Is(subject, Test::Is(Compare::Equal, value)) = part else { continue };
        let rows = match (subject, value) {
            (Subject::Id, Value::Record(id)) => record(connection, id)?,
            (Subject::Trace, Value::Bytes(trace)) => {
                in_blocks(connection, "facts_trace", "trace", trace)?
            }
            (Subject::Span, Value::Bytes(span)) => {
                in_blocks(connection, "facts_span", "span", span)?
            }
            (Subject::DecisionId, Value::Text(text)) => decision(connection, text)?,
            _ => continue,
        };
        if rows.len() < MAX_NAMED {
            return Ok(Some(rows));
        }
    }
    Ok(None)
}

fn record(connection: &Connection, id: &RecordId) -> Result<Vec<i64>, StoreError> {
    let mut statement = connection.prepare_cached(
        "SELECT records.id FROM records JOIN emitters ON emitters.id = records.emitter
         WHERE emitters.boot = ?1 AND lane = ?2 AND sequence = ?3",
    )?;
    let row =
        statement.query_row(params![id.boot, id.lane, id.sequence], |row| row.get(0)).optional()?;
    Ok(row.into_iter().collect())
}

fn decision(connection: &Connection, id: &str) -> Result<Vec<i64>, StoreError> {
    let mut statement = connection.prepare_cached("SELECT id FROM facts WHERE decision_id = ?1")?;
    let rows = statement.query_map([id], |row| row.get(0))?;
    let mut found = rows.collect::<Result<Vec<i64>, _>>()?;
    if let Ok(number) = u64::from_str_radix(id, 16)
        && id.len() == 16
    {
        let span = number.to_be_bytes();
        found.extend(in_blocks(connection, "facts_span", "span", &span)?);
    }
    Ok(found)
}

/// Asks each block of rows: there are few of them, and in each the index is short.
fn in_blocks(
    connection: &Connection,
    index: &'static str,
    column: &'static str,
    value: &[u8],
) -> Result<Vec<i64>, StoreError> {
    let mut ends = connection
        .prepare_cached("SELECT (SELECT min(id) FROM facts), (SELECT max(id) FROM facts)")?;
    let ends = ends.query_row([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let (Some(first), Some(last)): (Option<i64>, Option<i64>) = ends else {
        return Ok(Vec::new());
    };
    let sql = format!(
        "SELECT id FROM facts INDEXED BY {index} WHERE (id >> {}) = ?1 AND {column} = ?2",
        segments::BLOCK_SHIFT
    );
    let mut statement = connection.prepare_cached(&sql)?;
    let mut found = Vec::new();
    for block in first >> segments::BLOCK_SHIFT..=last >> segments::BLOCK_SHIFT {
        let rows = statement.query_map(params![block, value], |row| row.get(0))?;
        for row in rows {
            found.push(row?);
        }
        if found.len() >= MAX_NAMED {
            break;
        }
    }
    Ok(found)
}
