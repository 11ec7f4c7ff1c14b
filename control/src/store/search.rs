//! Audit records as they are asked for: by filter, in pages, in the order of their arrival.
//!
//! Segments whose tallies say that nothing in them can match are left out. What is looked at at once is bounded in
//! time: a page that took too long ends where it has come to, and the next one goes on from there.

mod compile;
mod functions;
mod plan;

use std::time::{Duration, Instant};

use bytes::Bytes;
use rusqlite::{Connection, params_from_iter};

use super::{StoreError, cursors};
use crate::search::Expression;

pub(super) use compile::{Of, Sql, Sure, compile};
pub(super) use functions::register;
pub(super) use plan::{Plan, Range};

/// Which part of the matching records is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Page {
    /// The first ones after a row.
    After(i64),
    /// The last ones before a row.
    Before(i64),
    /// The last ones.
    Latest,
}

impl Page {
    pub(crate) fn is_backwards(self) -> bool {
        !matches!(self, Self::After(_))
    }
}

/// A record that was found.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    /// Its row: the cursor.
    pub(crate) row: i64,
    /// The resource as it was received.
    pub(crate) resource: Bytes,
    /// The span as it was received.
    pub(crate) span: Bytes,
}

/// What was found, oldest first.
#[derive(Debug, Clone)]
pub(crate) struct Matches {
    pub(crate) found: Vec<Found>,
    /// Every row from the page's beginning to this one was looked at.
    pub(crate) through: i64,
    /// The last row of all at that time.
    pub(crate) newest: i64,
    /// Nothing further matches now.
    pub(crate) is_all: bool,
}

/// Finds at most `limit` records. After `patience` no further segment is begun.
pub(crate) fn find(
    connection: &Connection,
    expression: &Expression,
    page: Page,
    limit: usize,
    patience: Duration,
) -> Result<Matches, StoreError> {
    let started = Instant::now();
    // One view of the database for all that is asked of it.
    let transaction = connection.unchecked_transaction()?;
    let newest = cursors::newest(&transaction)?;
    let (low, high) = match page {
        Page::After(row) => (row.saturating_add(1), i64::MAX),
        Page::Before(row) => (i64::MIN, row.saturating_sub(1)),
        Page::Latest => (i64::MIN, i64::MAX),
    };
    let end = if page.is_backwards() { 0 } else { newest.max(low.saturating_sub(1)) };
    let mut matches = Matches { found: Vec::new(), through: end, newest, is_all: true };
    let plan = Plan::new(&transaction, expression, page.is_backwards())?;
    let exact = compile(&transaction, expression, Of::Record)?;
    let mut looked_at = 0_usize;
    for range in plan.ranges() {
        let range = range.within(low, high);
        if range.is_empty() {
            continue;
        }
        // Each page comes further by one range at least.
        if looked_at > 0 && started.elapsed() > patience {
            matches.is_all = false;
            matches.through = if page.is_backwards() { range.high + 1 } else { range.low - 1 };
            break;
        }
        looked_at += 1;
        let Some(range) = plan.narrow(&transaction, range)? else { continue };
        let wanted = limit - matches.found.len();
        collect(&transaction, &exact, (range, page), wanted + 1, &mut matches.found)?;
        if matches.found.len() > limit {
            matches.is_all = false;
            matches.found.truncate(limit);
            matches.through = matches.found.last().map_or(matches.through, |found| found.row);
            break;
        }
    }
    if page.is_backwards() {
        matches.found.reverse();
    }
    Ok(matches)
}

fn collect(
    connection: &Connection,
    exact: &Sql,
    (range, page): (Range, Page),
    limit: usize,
    found: &mut Vec<Found>,
) -> Result<(), StoreError> {
    let order = if page.is_backwards() { "DESC" } else { "ASC" };
    let sql = format!(
        "SELECT records.id, resources.bytes, records.bytes
         FROM records JOIN resources ON resources.id = records.resource
         WHERE records.id IN (
             SELECT id FROM facts WHERE id BETWEEN ? AND ? AND {} ORDER BY id {order} LIMIT ?)
         ORDER BY records.id {order}",
        exact.text
    );
    let mut values = vec![range.low.into(), range.high.into()];
    values.extend(exact.values.iter().cloned());
    values.push(i64::try_from(limit).unwrap_or(i64::MAX).into());
    let mut statement = connection.prepare_cached(&sql)?;
    let mut rows = statement.query(params_from_iter(values))?;
    while let Some(row) = rows.next()? {
        let (resource, span): (Vec<u8>, Vec<u8>) = (row.get(1)?, row.get(2)?);
        found.push(Found { row: row.get(0)?, resource: resource.into(), span: span.into() });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
