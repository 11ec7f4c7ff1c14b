//! Responses: suggested, active, over.

use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::{StoreError, Writing, meta};

/// Whether responses are halted, among the facts about the whole database.
const HALTED: &str = "respond_halted";

/// A response as it is kept. Times are milliseconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Kept {
    pub(crate) id: String,
    pub(crate) alert: String,
    pub(crate) rule: String,
    pub(crate) title: String,
    pub(crate) target: String,
    pub(crate) state: String,
    pub(crate) mode: String,
    pub(crate) ttl_ms: i64,
    pub(crate) made_at: i64,
    pub(crate) acted_at: Option<i64>,
    pub(crate) acted_by: Option<String>,
    pub(crate) until: Option<i64>,
    pub(crate) ended_at: Option<i64>,
    pub(crate) ended_by: Option<String>,
    pub(crate) why: Option<String>,
}

const COLUMNS: &str = "id, alert, rule, title, target, state, mode, ttl_ms, made_at, acted_at, acted_by, until, \
                       ended_at, ended_by, why";

/// Keeps a new one, or what has become of one.
pub(crate) fn save(writing: &Writing<'_>, kept: &Kept) -> Result<(), StoreError> {
    writing
        .prepare_cached(
            "INSERT INTO responses (id, alert, rule, title, target, state, mode, ttl_ms, made_at, acted_at, acted_by,
                 until, ended_at, ended_by, why)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)
             ON CONFLICT (id) DO UPDATE SET state = ?6, acted_at = ?10, acted_by = ?11, until = ?12, ended_at = ?13,
                 ended_by = ?14, why = ?15",
        )?
        .execute(params![
            kept.id,
            kept.alert,
            kept.rule,
            kept.title,
            kept.target,
            kept.state,
            kept.mode,
            kept.ttl_ms,
            kept.made_at,
            kept.acted_at,
            kept.acted_by,
            kept.until,
            kept.ended_at,
            kept.ended_by,
            kept.why,
        ])?;
    Ok(())
}

/// One of them.
pub(crate) fn find(connection: &Connection, id: &str) -> Result<Option<Kept>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM responses WHERE id = ?1");
    Ok(connection.prepare_cached(&sql)?.query_row([id], kept).optional()?)
}

/// The last ones, oldest first.
pub(crate) fn list(connection: &Connection, limit: usize) -> Result<Vec<Kept>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM responses ORDER BY number DESC LIMIT ?1");
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let mut statement = connection.prepare_cached(&sql)?;
    let rows = statement.query_map([limit], kept)?;
    let mut found = rows.collect::<Result<Vec<_>, _>>()?;
    found.reverse();
    Ok(found)
}

/// Those that are suggested or active.
pub(crate) fn open(connection: &Connection) -> Result<Vec<Kept>, StoreError> {
    let sql = format!(
        "SELECT {COLUMNS} FROM responses WHERE state IN ('suggested', 'active') ORDER BY number"
    );
    let mut statement = connection.prepare_cached(&sql)?;
    let rows = statement.query_map([], kept)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// When something was last done to a target, or was over.
pub(crate) fn last_of(connection: &Connection, target: &str) -> Result<Option<i64>, StoreError> {
    Ok(connection
        .prepare_cached(
            "SELECT max(coalesce(ended_at, acted_at)) FROM responses
             WHERE target = ?1 AND acted_at IS NOT NULL",
        )?
        .query_row([target], |row| row.get(0))?)
}

/// Whether a response to a target was refused since a time.
pub(crate) fn was_refused(
    connection: &Connection,
    target: &str,
    since: i64,
) -> Result<bool, StoreError> {
    Ok(connection
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM responses
             WHERE target = ?1 AND state = 'refused' AND made_at >= ?2)",
        )?
        .query_row(params![target, since], |row| row.get(0))?)
}

/// Forgets what was over before.
pub(crate) fn forget_old(connection: &Connection, before: i64) -> Result<usize, StoreError> {
    let sql = "DELETE FROM responses WHERE state NOT IN ('suggested', 'active') AND made_at < ?1";
    Ok(connection.execute(sql, [before])?)
}

/// To how many identities something was done by rules alone since a time.
pub(crate) fn automatic_since(connection: &Connection, since: i64) -> Result<u64, StoreError> {
    let count: i64 = connection
        .prepare_cached(
            "SELECT count(DISTINCT target) FROM responses
             WHERE acted_at >= ?1 AND acted_by = 'rule ' || rule",
        )?
        .query_row([since], |row| row.get(0))?;
    Ok(count.unsigned_abs())
}

/// Whether responses are halted.
pub(crate) fn is_halted(connection: &Connection) -> Result<bool, StoreError> {
    let value: Option<String> = connection
        .query_row("SELECT value FROM meta WHERE key = ?1", [HALTED], |row| row.get(0))
        .optional()?;
    Ok(value.as_deref() == Some("true"))
}

/// Halts responses, or lets them go on.
pub(crate) fn halt(writing: &Writing<'_>, halted: bool) -> Result<(), StoreError> {
    let value = halted.to_string();
    if meta(writing, HALTED, &value)? != value {
        writing.execute("UPDATE meta SET value = ?2 WHERE key = ?1", [HALTED, &value])?;
    }
    Ok(())
}

fn kept(row: &Row<'_>) -> rusqlite::Result<Kept> {
    Ok(Kept {
        id: row.get(0)?,
        alert: row.get(1)?,
        rule: row.get(2)?,
        title: row.get(3)?,
        target: row.get(4)?,
        state: row.get(5)?,
        mode: row.get(6)?,
        ttl_ms: row.get(7)?,
        made_at: row.get(8)?,
        acted_at: row.get(9)?,
        acted_by: row.get(10)?,
        until: row.get(11)?,
        ended_at: row.get(12)?,
        ended_by: row.get(13)?,
        why: row.get(14)?,
    })
}
