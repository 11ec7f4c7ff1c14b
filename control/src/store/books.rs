//! The books: what emitters say that they made, what is here, and what is missing.

use std::collections::BTreeMap;

use rusqlite::{Connection, params};

use super::StoreError;

/// A lane in which something is missing, or not settled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Missing {
    pub(crate) emitter: i64,
    pub(crate) spiffe_id: String,
    pub(crate) boot: String,
    pub(crate) lane: i64,
    pub(crate) first: i64,
    pub(crate) last: i64,
    /// In minutes since 1970.
    pub(crate) minute: i64,
    /// Since when, in milliseconds since 1970.
    pub(crate) since: i64,
    pub(crate) is_reported: bool,
    /// At the end of the chain: a head is further than the records.
    pub(crate) is_tail: bool,
}

/// Every hole in the chains, and every head that is further than its records.
pub(crate) fn missing(connection: &Connection) -> Result<Vec<Missing>, StoreError> {
    let mut statement = connection.prepare_cached(
        "SELECT emitters.id, spiffe_id, boot, lane, first, last, minute, seen_at,
             reported_at IS NOT NULL, 0
         FROM holes JOIN emitters ON emitters.id = holes.emitter
         UNION ALL
         SELECT emitters.id, spiffe_id, boot, heads.lane, coalesce(lanes.position, 0) + 1,
             max(heads.position), max(heads.time_ms) / 60000,
             max(min(heads.received_at), coalesce(lanes.updated_at, 0)), 0, 1
         FROM heads JOIN emitters ON emitters.id = heads.emitter
         LEFT JOIN lanes ON lanes.emitter = heads.emitter AND lanes.lane = heads.lane
         WHERE heads.position > coalesce(lanes.position, 0)
         GROUP BY heads.emitter, heads.lane
         ORDER BY 2, 3, 4, 5",
    )?;
    let rows = statement.query_map([], |row| {
        Ok(Missing {
            emitter: row.get(0)?,
            spiffe_id: row.get(1)?,
            boot: row.get(2)?,
            lane: row.get(3)?,
            first: row.get(4)?,
            last: row.get(5)?,
            minute: row.get(6)?,
            since: row.get(7)?,
            is_reported: row.get(8)?,
            is_tail: row.get(9)?,
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// A hole is on the record now.
pub(crate) fn reported(
    connection: &Connection,
    hole: &Missing,
    now: i64,
) -> Result<(), StoreError> {
    connection
        .prepare_cached(
            "UPDATE holes SET reported_at = ?4 WHERE emitter = ?1 AND lane = ?2 AND first = ?3",
        )?
        .execute([hole.emitter, hole.lane, hole.first, now])?;
    Ok(())
}

/// Declared by an emitter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Declared {
    pub(crate) emitter: i64,
    pub(crate) lane: i64,
    pub(crate) reason: String,
    pub(crate) count: i64,
    pub(crate) minute: i64,
}

/// Everything that was declared not to have been kept.
pub(crate) fn declared(connection: &Connection) -> Result<Vec<Declared>, StoreError> {
    let mut statement = connection.prepare_cached(
        "SELECT emitter, lane, reason, sum(count), minute FROM gaps
         GROUP BY emitter, lane, reason, minute",
    )?;
    let rows = statement.query_map([], |row| {
        Ok(Declared {
            emitter: row.get(0)?,
            lane: row.get(1)?,
            reason: row.get(2)?,
            count: row.get(3)?,
            minute: row.get(4)?,
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// What the newest head of a lane says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Newest {
    pub(crate) emitter: i64,
    pub(crate) lane: i64,
    pub(crate) open: i64,
    pub(crate) lost: i64,
    pub(crate) minute: i64,
}

/// The newest head of every lane.
pub(crate) fn newest(connection: &Connection) -> Result<Vec<Newest>, StoreError> {
    let mut statement = connection.prepare_cached(
        "SELECT emitter, lane, open, lost, time_ms / 60000, max(position) FROM heads
         GROUP BY emitter, lane",
    )?;
    let rows = statement.query_map([], |row| {
        Ok(Newest {
            emitter: row.get(0)?,
            lane: row.get(1)?,
            open: row.get(2)?,
            lost: row.get(3)?,
            minute: row.get(4)?,
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Records by emitter and minute, of the minutes from one to another.
pub(crate) fn stored(
    connection: &Connection,
    first: i64,
    end: i64,
) -> Result<Vec<(i64, i64, i64)>, StoreError> {
    let mut statement = connection.prepare_cached(
        "SELECT emitter, minute, stored FROM minutes WHERE minute >= ?1 AND minute < ?2",
    )?;
    let rows = statement
        .query_map(params![first, end], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Who the emitters are.
pub(crate) fn emitters(connection: &Connection) -> Result<BTreeMap<i64, String>, StoreError> {
    let mut statement = connection.prepare_cached("SELECT id, spiffe_id FROM emitters")?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(rows.collect::<Result<_, _>>()?)
}
