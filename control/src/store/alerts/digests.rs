//! Rules over their budget, and the alerts of them that are told of together.

use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::{COLUMNS, Kept, kept};
use crate::store::{StoreError, Writing};

/// Alerts that a digest names.
pub(crate) const EXAMPLES: usize = 5;

/// A rule of whose alerts nobody is told one by one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Demoted {
    pub(crate) rule: String,
    pub(crate) since: i64,
    /// When the last digest was made.
    pub(crate) told_at: i64,
}

fn demoted(row: &Row<'_>) -> rusqlite::Result<Demoted> {
    Ok(Demoted { rule: row.get(0)?, since: row.get(1)?, told_at: row.get(2)? })
}

/// Every rule that is demoted.
pub(crate) fn all(connection: &Connection) -> Result<Vec<Demoted>, StoreError> {
    let mut statement =
        connection.prepare_cached("SELECT rule, since, told_at FROM demoted ORDER BY rule")?;
    let rows = statement.query_map([], demoted)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// A rule, if it is.
pub(crate) fn of(connection: &Connection, rule: &str) -> Result<Option<Demoted>, StoreError> {
    let sql = "SELECT rule, since, told_at FROM demoted WHERE rule = ?1";
    Ok(connection.prepare_cached(sql)?.query_row([rule], demoted).optional()?)
}

/// Demotes a rule.
pub(crate) fn demote(writing: &Writing<'_>, rule: &str, now: i64) -> Result<Demoted, StoreError> {
    writing.execute(
        "INSERT INTO demoted (rule, since, told_at) VALUES (?1, ?2, ?2)",
        params![rule, now],
    )?;
    Ok(Demoted { rule: rule.to_owned(), since: now, told_at: now })
}

/// Its alerts are told of one by one again.
pub(crate) fn promote(writing: &Writing<'_>, rule: &str) -> Result<(), StoreError> {
    writing.execute("DELETE FROM demoted WHERE rule = ?1", [rule])?;
    Ok(())
}

/// Keeps an alert for the next digest.
pub(crate) fn keep(writing: &Writing<'_>, id: &str, now: i64) -> Result<(), StoreError> {
    let sql = "UPDATE alerts SET digest = 1, counted_at = ?2 WHERE id = ?1";
    writing.prepare_cached(sql)?.execute(params![id, now])?;
    Ok(())
}

/// How many alerts of a rule were told of after a time: one by one, or one by one and in digests.
pub(crate) fn counted(
    connection: &Connection,
    rule: &str,
    after: i64,
    together: bool,
) -> Result<u64, StoreError> {
    let count: i64 = connection
        .prepare_cached(
            "SELECT count(*) FROM alerts
             WHERE rule = ?1 AND counted_at IS NOT NULL AND counted_at > ?2 AND (digest = 0 OR ?3)",
        )?
        .query_row(params![rule, after, together], |row| row.get(0))?;
    Ok(count.unsigned_abs())
}

/// How many alerts of a rule wait for its next digest, and the first of them; if there are none, the rule's last one.
pub(crate) fn waiting(connection: &Connection, rule: &str) -> Result<(u64, Vec<Kept>), StoreError> {
    let count: i64 = connection
        .prepare_cached(
            "SELECT count(*) FROM alerts WHERE rule = ?1 AND counted_at IS NOT NULL AND digest = 1",
        )?
        .query_row([rule], |row| row.get(0))?;
    let which = match count {
        0 => "ORDER BY number DESC LIMIT 1".to_owned(),
        _ => format!("AND digest = 1 ORDER BY number LIMIT {EXAMPLES}"),
    };
    let sql =
        format!("SELECT {COLUMNS} FROM alerts WHERE rule = ?1 AND counted_at IS NOT NULL {which}");
    let mut statement = connection.prepare_cached(&sql)?;
    let rows = statement.query_map([rule], |row| Ok(kept(row)))?;
    Ok((count.unsigned_abs(), rows.map(|row| row?).collect::<Result<_, StoreError>>()?))
}

/// A digest has told of those that waited.
pub(crate) fn told(writing: &Writing<'_>, rule: &str, now: i64) -> Result<(), StoreError> {
    writing.execute(
        "UPDATE alerts SET digest = 2 WHERE rule = ?1 AND counted_at IS NOT NULL AND digest = 1",
        [rule],
    )?;
    writing.execute("UPDATE demoted SET told_at = ?2 WHERE rule = ?1", params![rule, now])?;
    Ok(())
}
