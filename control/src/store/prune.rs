//! Removing the oldest records, a little at a time, in the order in which they came.
//!
//! What was sealed goes by whole segments: their tallies with the first of their records, so that no sum ever counts
//! what is gone. The log keeps its leaves, lanes and minutes keep their counts.

use rusqlite::{Connection, OptionalExtension as _, params};

use super::{StoreError, cursors, segments};

/// Records that one transaction removes.
const BATCH: i64 = 2_000;
/// Pages that one transaction gives back to the file system.
const PAGES: i64 = 500;

/// What may be kept, and what must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Records that began before this time go, in nanoseconds since 1970.
    pub(crate) before: Option<i64>,
    /// Bytes that the database may take; the oldest records go to keep it so.
    pub(crate) size: Option<u64>,
    /// For want of room no record goes that began after this time.
    pub(crate) floor: i64,
    /// No record goes that this export has not come to.
    pub(crate) export: Option<&'static str>,
}

/// What one step did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// So many records are gone; there may be more to remove.
    Removed(u64),
    /// There is nothing to remove.
    Enough,
    /// There is not enough room, and the oldest record may not go.
    Kept(Why),
}

/// Why a record may not go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    /// It was not exported yet.
    Unexported,
    /// It is too young.
    TooYoung,
}

impl Why {
    pub(crate) fn code(self) -> &'static str {
        match self {
            Self::Unexported => "unexported",
            Self::TooYoung => "too_young",
        }
    }
}

/// Removes some of the oldest records, if they have to go.
pub(crate) fn step(connection: &Connection, limits: Limits) -> Result<Step, StoreError> {
    let oldest: Option<(i64, i64)> = connection
        .prepare_cached("SELECT id, time_ns FROM facts ORDER BY id LIMIT 1")?
        .query_row([], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let Some((first, time)) = oldest else { return Ok(Step::Enough) };
    let segment = first >> segments::SHIFT;
    let sealed: Option<i64> = connection
        .prepare_cached("SELECT last_ns FROM sealed WHERE segment = ?1")?
        .query_row([segment], |row| row.get(0))
        .optional()?;
    let is_half_gone = sealed.is_none() && first < segments::unsealed(connection)?;
    // Of a segment the youngest record counts: it goes as a whole.
    let youngest = sealed.unwrap_or(time);
    let is_full = limits.size.is_some_and(|size| bytes(connection).is_ok_and(|used| used > size));
    let is_old = limits.before.is_some_and(|before| youngest < before);
    if !is_old && !is_full && !is_half_gone {
        return Ok(Step::Enough);
    }
    let end = match sealed {
        Some(_) => segments::ids(segment).1,
        None if is_half_gone => segments::ids(segment).1,
        None => first,
    };
    let exported = match limits.export {
        Some(name) => cursors::load(connection, name)?.map_or(i64::MAX, |cursor| cursor.position),
        None => i64::MAX,
    };
    if end > exported && !is_half_gone {
        return Ok(if is_full { Step::Kept(Why::Unexported) } else { Step::Enough });
    }
    if !is_old && !is_half_gone && youngest >= limits.floor {
        return Ok(Step::Kept(Why::TooYoung));
    }
    let end = match sealed {
        Some(_) => {
            for sql in
                ["DELETE FROM tallies WHERE segment = ?1", "DELETE FROM sealed WHERE segment = ?1"]
            {
                connection.prepare_cached(sql)?.execute([segment])?;
            }
            end.min(first + BATCH - 1)
        }
        None if is_half_gone => end.min(first + BATCH - 1),
        None => {
            let until = if is_full { limits.floor } else { limits.before.unwrap_or(i64::MIN) };
            until_young(connection, first, (until, exported))?
        }
    };
    remove(connection, first, end).map(Step::Removed)
}

/// The last of the next records that are all old enough; the first one is.
fn until_young(
    connection: &Connection,
    first: i64,
    (until, exported): (i64, i64),
) -> Result<i64, StoreError> {
    let mut statement = connection.prepare_cached(
        "SELECT id, time_ns FROM facts WHERE id BETWEEN ?1 AND ?2 ORDER BY id LIMIT ?3",
    )?;
    let mut rows = statement.query(params![first, exported, BATCH])?;
    let mut last = first;
    while let Some(row) = rows.next()? {
        if row.get::<_, i64>(1)? >= until {
            break;
        }
        last = row.get(0)?;
    }
    Ok(last)
}

fn remove(connection: &Connection, first: i64, last: i64) -> Result<u64, StoreError> {
    for sql in [
        "DELETE FROM facts WHERE id BETWEEN ?1 AND ?2",
        "DELETE FROM records WHERE id BETWEEN ?1 AND ?2",
    ] {
        connection.prepare_cached(sql)?.execute([first, last])?;
    }
    let removed = connection.changes();
    connection
        .prepare_cached("UPDATE pruned SET through = max(through, ?1), records = records + ?2")?
        .execute(params![last, i64::try_from(removed).unwrap_or(i64::MAX)])?;
    Ok(removed)
}

/// Gives some of what is free back to the file system. False if there is nothing that is worth it.
pub(crate) fn shrink(connection: &Connection) -> Result<bool, StoreError> {
    let (all, free, _) = pages(connection)?;
    if free < PAGES || free < all / 20 {
        return Ok(false);
    }
    let mut statement = connection.prepare(&format!("PRAGMA incremental_vacuum({PAGES})"))?;
    let mut rows = statement.query([])?;
    while rows.next()?.is_some() {}
    Ok(pages(connection)?.1 < free)
}

/// Bytes of the database that are in use.
pub(crate) fn bytes(connection: &Connection) -> Result<u64, StoreError> {
    let (all, free, size) = pages(connection)?;
    Ok(u64::try_from((all - free) * size).unwrap_or(0))
}

fn pages(connection: &Connection) -> Result<(i64, i64, i64), StoreError> {
    let of = |name| connection.pragma_query_value(None, name, |row| row.get(0));
    Ok((of("page_count")?, of("freelist_count")?, of("page_size")?))
}

/// What was removed in all: up to which record, and how many.
pub(crate) fn totals(connection: &Connection) -> Result<(i64, u64), StoreError> {
    let (through, records): (i64, i64) = connection
        .prepare_cached("SELECT through, records FROM pruned")?
        .query_row([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok((through, u64::try_from(records).unwrap_or(0)))
}

/// Records that were removed and not reported yet; from now on they are.
pub(crate) fn report(connection: &Connection) -> Result<u64, StoreError> {
    let (_, records) = totals(connection)?;
    let key = "audit_pruned_reported";
    let before = super::meta(connection, key, "0")?.parse::<u64>().unwrap_or(0);
    connection
        .prepare_cached("UPDATE meta SET value = ?2 WHERE key = ?1")?
        .execute([key, &records.to_string()])?;
    Ok(records.saturating_sub(before))
}

#[cfg(test)]
mod tests;
