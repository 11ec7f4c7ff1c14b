//! Responses: suggested, active, over; and each step of them.

use std::collections::BTreeMap;

use picket_detect::Respond;
use rusqlite::{Connection, OptionalExtension as _, Row, params};
use serde::{Deserialize, Serialize};

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
    /// A SPIFFE ID, or the subject of tokens.
    pub(crate) target: String,
    /// The issuer of these tokens.
    pub(crate) issuer: Option<String>,
    /// What is done.
    pub(crate) plan: Respond,
    /// Where it holds; none: everywhere.
    pub(crate) place: Option<Place>,
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
    /// Ids of the revocations that it made.
    pub(crate) revoked: Vec<String>,
}

/// The workload at which something holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Place {
    pub(crate) spiffe_id: String,
    pub(crate) namespace: String,
    /// Those that all of its replicas have.
    pub(crate) labels: BTreeMap<String, String>,
}

/// Something that happened to a response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) at: i64,
    /// As in the audit trail.
    pub(crate) event: String,
    /// Why it was not done, as a code.
    pub(crate) refused: Option<String>,
    pub(crate) actor: String,
    pub(crate) detail: Option<String>,
}

const COLUMNS: &str = "id, alert, rule, title, target, state, mode, ttl_ms, made_at, acted_at, acted_by, until, \
                       ended_at, ended_by, why, plan, issuer, revoked, place";

/// Keeps a new one, or what has become of one.
pub(crate) fn save(writing: &Writing<'_>, kept: &Kept) -> Result<(), StoreError> {
    let unreadable = |_| StoreError::Unreadable("a response");
    let plan = serde_json::to_string(&kept.plan).map_err(unreadable)?;
    let revoked = serde_json::to_string(&kept.revoked).map_err(unreadable)?;
    let place = kept.place.as_ref().map(serde_json::to_string).transpose().map_err(unreadable)?;
    writing
        .prepare_cached(
            "INSERT INTO responses (id, alert, rule, title, target, state, mode, ttl_ms, made_at, acted_at, acted_by,
                 until, ended_at, ended_by, why, plan, issuer, revoked, place)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19)
             ON CONFLICT (id) DO UPDATE SET state = ?6, acted_at = ?10, acted_by = ?11, until = ?12, ended_at = ?13,
                 ended_by = ?14, why = ?15, revoked = ?18",
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
            plan,
            kept.issuer,
            revoked,
            place,
        ])?;
    Ok(())
}

/// One of them.
pub(crate) fn find(connection: &Connection, id: &str) -> Result<Option<Kept>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM responses WHERE id = ?1");
    connection.prepare_cached(&sql)?.query_row([id], |row| Ok(kept(row))).optional()?.transpose()
}

/// The last ones, oldest first.
pub(crate) fn list(connection: &Connection, limit: usize) -> Result<Vec<Kept>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM responses ORDER BY number DESC LIMIT ?1");
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let mut statement = connection.prepare_cached(&sql)?;
    let rows = statement.query_map([limit], |row| Ok(kept(row)))?;
    let mut found = rows.map(|row| row?).collect::<Result<Vec<_>, _>>()?;
    found.reverse();
    Ok(found)
}

/// Those that are suggested or active.
pub(crate) fn open(connection: &Connection) -> Result<Vec<Kept>, StoreError> {
    let sql = format!(
        "SELECT {COLUMNS} FROM responses WHERE state IN ('suggested', 'active') ORDER BY number"
    );
    let mut statement = connection.prepare_cached(&sql)?;
    let rows = statement.query_map([], |row| Ok(kept(row)))?;
    rows.map(|row| row?).collect()
}

/// Notes something that happened to a response.
pub(crate) fn note(writing: &Writing<'_>, response: &str, step: &Step) -> Result<(), StoreError> {
    let Step { at, event, refused, actor, detail } = step;
    writing
        .prepare_cached(
            "INSERT INTO response_steps (response, at, event, refused, actor, detail)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        )?
        .execute(params![response, at, event, refused, actor, detail])?;
    Ok(())
}

/// What happened to a response, in order.
pub(crate) fn steps(connection: &Connection, response: &str) -> Result<Vec<Step>, StoreError> {
    let mut statement = connection.prepare_cached(
        "SELECT at, event, refused, actor, detail FROM response_steps WHERE response = ?1 ORDER BY number",
    )?;
    let rows = statement.query_map([response], |row| {
        Ok(Step {
            at: row.get(0)?,
            event: row.get(1)?,
            refused: row.get(2)?,
            actor: row.get(3)?,
            detail: row.get(4)?,
        })
    })?;
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
    let forgotten = connection.execute(sql, [before])?;
    connection.execute(
        "DELETE FROM response_steps WHERE at < ?1 AND response NOT IN (SELECT id FROM responses)",
        [before],
    )?;
    Ok(forgotten)
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

fn kept(row: &Row<'_>) -> Result<Kept, StoreError> {
    let unreadable = |_| StoreError::Unreadable("a response");
    let place: Option<String> = row.get(18)?;
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
        plan: serde_json::from_str(&row.get::<_, String>(15)?).map_err(unreadable)?,
        issuer: row.get(16)?,
        place: place.map(|text| serde_json::from_str(&text)).transpose().map_err(unreadable)?,
        revoked: serde_json::from_str(&row.get::<_, String>(17)?).map_err(unreadable)?,
    })
}
