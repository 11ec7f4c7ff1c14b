//! How far the export has come, and the records that are next.

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::{StoreError, words};

/// How far one export has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Cursor {
    /// Every record up to this row was sent or skipped.
    pub(crate) position: i64,
    /// Records sent since the store was made.
    pub(crate) sent: i64,
    /// Records that the receiver would not take.
    pub(crate) skipped: i64,
    /// Records of traces that were not sampled.
    pub(crate) dropped: i64,
    /// Records up to this row came before there was any sampling; none: there is none.
    pub(crate) sampled_after: Option<i64>,
}

/// A record to be forwarded.
#[derive(Debug, Clone)]
pub(crate) struct Outgoing {
    /// Its row.
    pub(crate) row: i64,
    /// Names the resource.
    pub(crate) resource_id: i64,
    /// The resource as it was received.
    pub(crate) resource: Bytes,
    /// The span as it was received.
    pub(crate) span: Bytes,
}

/// Reads a cursor, if there is one yet.
pub(crate) fn load(connection: &Connection, name: &str) -> Result<Option<Cursor>, StoreError> {
    let cursor = connection
        .prepare_cached(
            "SELECT position, sent, skipped, dropped, sampled_after
             FROM export_cursors WHERE name = ?1",
        )?
        .query_row([name], |row| {
            Ok(Cursor {
                position: row.get(0)?,
                sent: row.get(1)?,
                skipped: row.get(2)?,
                dropped: row.get(3)?,
                sampled_after: row.get(4)?,
            })
        })
        .optional()?;
    Ok(cursor)
}

/// Keeps a cursor.
pub(crate) fn save(connection: &Connection, name: &str, cursor: Cursor) -> Result<(), StoreError> {
    let Cursor { position, sent, skipped, dropped, sampled_after } = cursor;
    connection
        .prepare_cached(
            "INSERT OR REPLACE INTO export_cursors
                 (name, position, sent, skipped, dropped, sampled_after)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        )?
        .execute(params![name, position, sent, skipped, dropped, sampled_after])?;
    Ok(())
}

/// The last row of all.
pub(crate) fn newest(connection: &Connection) -> Result<i64, StoreError> {
    Ok(connection
        .prepare_cached("SELECT coalesce(max(id), 0) FROM records")?
        .query_row([], |row| row.get(0))?)
}

/// The next spans after a row: at most `limit` of them and not much more than `bytes` bytes.
/// The acts of the control plane are no traces and stay here.
pub(crate) fn next(
    connection: &Connection,
    after: i64,
    limit: usize,
    bytes: usize,
) -> Result<Vec<Outgoing>, StoreError> {
    let mut statement = connection.prepare_cached(
        "SELECT records.id, records.resource, resources.bytes, records.bytes
         FROM records JOIN resources ON resources.id = records.resource
             JOIN facts ON facts.id = records.id
         WHERE records.id > ?1 AND facts.kind <> ?3 ORDER BY records.id LIMIT ?2",
    )?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let mut rows = statement.query(params![after, limit, words::EVENT])?;
    let mut found = Vec::new();
    let mut size = 0;
    while let Some(row) = rows.next()? {
        let next = outgoing(row)?;
        size += next.span.len();
        if size > bytes && !found.is_empty() {
            break;
        }
        found.push(next);
    }
    Ok(found)
}

/// One span, if it is there.
pub(crate) fn read_outgoing(
    connection: &Connection,
    row: i64,
) -> Result<Option<Outgoing>, StoreError> {
    let outgoing = connection
        .prepare_cached(
            "SELECT records.id, records.resource, resources.bytes, records.bytes
             FROM records JOIN resources ON resources.id = records.resource WHERE records.id = ?1",
        )?
        .query_row([row], outgoing)
        .optional()?;
    Ok(outgoing)
}

fn outgoing(row: &Row<'_>) -> rusqlite::Result<Outgoing> {
    Ok(Outgoing {
        row: row.get(0)?,
        resource_id: row.get(1)?,
        resource: Bytes::from(row.get::<_, Vec<u8>>(2)?),
        span: Bytes::from(row.get::<_, Vec<u8>>(3)?),
    })
}
