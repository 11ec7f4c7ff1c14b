//! Segments of the records' rows, and what sealed ones hold in sum.
//!
//! A segment is 32,768 consecutive ids. Once it gets no more records, those with the same facts are counted together:
//! a search leaves out the segments, and the parts of them, in which nothing can match; grouping adds counts up in
//! place of records. The last segment, which still grows, is read record by record.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension as _, params};

use super::StoreError;
use super::durations::Durations;

/// A record's segment is its id divided by two to the power of this. Tests have many segments of few records.
pub(crate) const SHIFT: u32 = if cfg!(test) { 5 } else { 15 };
/// A record's block (of the indexes on random values) likewise.
pub(crate) const BLOCK_SHIFT: u32 = 16;

/// Columns that tallies have in common with facts, in the order of both statements here.
const SHARED: usize = 13;

/// The ids of a segment: the first, and the last.
pub(crate) fn ids(segment: i64) -> (i64, i64) {
    (segment << SHIFT, ((segment + 1) << SHIFT) - 1)
}

/// The first id that stands in no sealed segment.
pub(crate) fn unsealed(connection: &Connection) -> Result<i64, StoreError> {
    let mut last = connection.prepare_cached("SELECT max(segment) FROM sealed")?;
    let last: Option<i64> = last.query_row([], |row| row.get(0))?;
    Ok(last.map_or(0, |segment| ids(segment + 1).0))
}

/// Seals every segment that gets no more records.
pub(crate) fn seal(connection: &Connection) -> Result<(), StoreError> {
    let mut newest = connection.prepare_cached("SELECT max(id) FROM facts")?;
    let newest: Option<i64> = newest.query_row([], |row| row.get(0))?;
    let open = newest.unwrap_or(0) >> SHIFT;
    let mut next = unsealed(connection)? >> SHIFT;
    while next < open {
        seal_one(connection, next)?;
        // Whole segments may have been removed before they were sealed.
        let mut first = connection.prepare_cached("SELECT min(id) FROM facts WHERE id >= ?1")?;
        let first: Option<i64> =
            first.query_row([ids(next + 1).0], |row| row.get(0)).optional()?.flatten();
        next = first.unwrap_or(0) >> SHIFT;
        if first.is_none() {
            break;
        }
    }
    Ok(())
}

#[derive(Default)]
struct Tally {
    records: i64,
    ids: (i64, i64),
    times: (i64, i64),
    lengths: (i64, i64),
    durations: Durations,
}

fn seal_one(connection: &Connection, segment: i64) -> Result<(), StoreError> {
    let (first, last) = ids(segment);
    let mut records = connection.prepare_cached(
        "SELECT id, time_ns, duration_us, kind, event, direction, emitter, source, destination, route, method, status,
             decision, policy, reason, dry_run
         FROM facts WHERE id BETWEEN ?1 AND ?2 ORDER BY id",
    )?;
    let mut rows = records.query([first, last])?;
    let mut tallies: BTreeMap<[Option<i64>; SHARED], Tally> = BTreeMap::new();
    let (mut count, mut span) = (0, (i64::MAX, i64::MIN));
    while let Some(row) = rows.next()? {
        let (id, time, length): (i64, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
        let mut shared = [None; SHARED];
        for (column, value) in shared.iter_mut().enumerate() {
            *value = row.get(column + 3)?;
        }
        let tally = tallies.entry(shared).or_insert_with(|| Tally {
            ids: (id, id),
            times: (time, time),
            lengths: (length, length),
            ..Tally::default()
        });
        tally.records += 1;
        tally.ids.1 = id;
        tally.times = (tally.times.0.min(time), tally.times.1.max(time));
        tally.lengths = (tally.lengths.0.min(length), tally.lengths.1.max(length));
        tally.durations.add(length);
        count += 1;
        span = (span.0.min(time), span.1.max(time));
    }
    if count == 0 {
        return Ok(());
    }
    let mut insert = connection.prepare_cached(
        "INSERT INTO tallies (segment, number, kind, event, direction, emitter, source, destination, route, method,
             status, decision, policy, reason, dry_run, records, first_id, last_id, first_ns, last_ns, shortest_us,
             longest_us, durations)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22,
             ?23)",
    )?;
    for (number, (shared, tally)) in (0_i64..).zip(&tallies) {
        let [kind, event, direction, emitter, source, destination, route, method, rest @ ..] =
            shared;
        let [status, decision, policy, reason, dry_run] = rest;
        insert.execute(params![
            segment,
            number,
            kind,
            event,
            direction,
            emitter,
            source,
            destination,
            route,
            method,
            status,
            decision,
            policy,
            reason,
            dry_run,
            tally.records,
            tally.ids.0,
            tally.ids.1,
            tally.times.0,
            tally.times.1,
            tally.lengths.0,
            tally.lengths.1,
            tally.durations.encode(),
        ])?;
    }
    connection
        .prepare_cached(
            "INSERT INTO sealed (segment, records, first_ns, last_ns) VALUES (?1, ?2, ?3, ?4)",
        )?
        .execute(params![segment, count, span.0, span.1])?;
    Ok(())
}
