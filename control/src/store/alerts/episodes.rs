//! Alerts about the same, one after the other: which number each is, and when they come so often that they are held as one.
//!
//! Times are the events' own where they are counted, so that what is looked at late is judged as it would have been, and the
//! clock's where it is waited for quiet.

use std::time::Duration;

use picket_detect::Alert;
use rusqlite::{OptionalExtension as _, params};

use super::{COLUMNS, Kept, kept};
use crate::clock;
use crate::store::{StoreError, Writing};

/// When alerts about the same are too many to tell of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flapping {
    /// So many …
    pub episodes: u64,
    /// … that begin within so long. Without one for so long it is quiet.
    pub within: Duration,
}

impl Default for Flapping {
    fn default() -> Self {
        Self { episodes: 3, within: Duration::from_secs(30 * 60) }
    }
}

/// An alert among those about the same.
pub(super) struct Episode {
    pub(super) number: i64,
    pub(super) flapping_since: Option<i64>,
}

/// What a new alert is.
pub(super) fn next(
    writing: &Writing<'_>,
    alert: &Alert,
    flapping: Flapping,
    now: i64,
) -> Result<Episode, StoreError> {
    let last: Option<(i64, Option<i64>)> = writing
        .prepare_cached(
            "SELECT episode, CASE held WHEN 1 THEN flapping_since END FROM alerts
             WHERE fingerprint = ?1 ORDER BY number DESC LIMIT 1",
        )?
        .query_row([&alert.fingerprint], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let Some((last, held)) = last else { return Ok(Episode { number: 1, flapping_since: None }) };
    let first = clock::parse_rfc3339(&alert.first).unwrap_or(i64::MAX);
    let within = i64::try_from(flapping.within.as_nanos()).unwrap_or(i64::MAX);
    // No more than are needed: there may be months of them.
    let before: i64 = writing
        .prepare_cached(
            "SELECT count(*) FROM
                 (SELECT alert FROM alerts WHERE fingerprint = ?1 ORDER BY number DESC LIMIT ?3)
             WHERE json_extract(alert, '$.first') >= ?2",
        )?
        .query_row(
            params![
                alert.fingerprint,
                clock::rfc3339_nanoseconds(first.saturating_sub(within)),
                i64::try_from(flapping.episodes).unwrap_or(i64::MAX),
            ],
            |row| row.get(0),
        )?;
    let begins = before.unsigned_abs() + 1 >= flapping.episodes;
    Ok(Episode { number: last + 1, flapping_since: held.or(begins.then_some(now)) })
}

/// It is the newest of those that are held as one.
pub(super) fn hold(writing: &Writing<'_>, alert: &Alert) -> Result<(), StoreError> {
    let_one_go(writing, &alert.fingerprint)?;
    writing.prepare_cached("UPDATE alerts SET held = 1 WHERE id = ?1")?.execute([&alert.id])?;
    Ok(())
}

fn let_one_go(writing: &Writing<'_>, fingerprint: &str) -> Result<(), StoreError> {
    let sql = "UPDATE alerts SET held = 0 WHERE held = 1 AND fingerprint = ?1";
    writing.prepare_cached(sql)?.execute([fingerprint])?;
    Ok(())
}

/// Whether sinks were told of one of those that an alert is held with.
pub(crate) fn is_told(writing: &Writing<'_>, alert: &Kept) -> Result<bool, StoreError> {
    Ok(writing
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM alerts WHERE fingerprint = ?1 AND flapping_since = ?2 AND told = 1)",
        )?
        .query_row(params![alert.alert.fingerprint, alert.flapping_since], |row| row.get(0))?)
}

/// Lets go of those of which none has gone on since a time; the alerts of them that sinks were told of.
pub(crate) fn let_go(writing: &Writing<'_>, before: i64) -> Result<Vec<Kept>, StoreError> {
    let mut quiet = writing.prepare_cached(
        "SELECT fingerprint, flapping_since FROM alerts WHERE held = 1 AND resolved_at < ?1",
    )?;
    let quiet = quiet.query_map([before], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let mut over = Vec::new();
    for (fingerprint, since) in quiet.collect::<Result<Vec<(String, i64)>, _>>()? {
        let_one_go(writing, &fingerprint)?;
        let sql = format!(
            "SELECT {COLUMNS} FROM alerts WHERE fingerprint = ?1 AND flapping_since = ?2 AND told = 1"
        );
        let mut statement = writing.prepare_cached(&sql)?;
        let rows = statement.query_map(params![fingerprint, since], |row| Ok(kept(row)))?;
        for row in rows {
            over.push(row??);
        }
    }
    Ok(over)
}

/// Whether there may be something to let go of.
pub(crate) fn are_held(connection: &rusqlite::Connection) -> Result<bool, StoreError> {
    let sql = "SELECT EXISTS (SELECT 1 FROM alerts WHERE held = 1)";
    Ok(connection.prepare_cached(sql)?.query_row([], |row| row.get(0))?)
}
