//! The outbox: what each sink is to be told, kept in the transaction that caused it.

use rusqlite::{Connection, OptionalExtension as _, params};

use super::{StoreError, Writing};

/// Something to be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Delivery {
    pub(crate) number: i64,
    /// Names it for the receiver, however often it comes.
    pub(crate) key: String,
    /// The notice as JSON.
    pub(crate) notice: String,
    pub(crate) attempts: u32,
}

/// How one sink fares.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct SinkState {
    pub(crate) pending: u64,
    pub(crate) given_up: u64,
    pub(crate) delivered: u64,
    pub(crate) last_delivered_at: Option<i64>,
    /// Of the oldest delivery that waits.
    pub(crate) error: Option<String>,
}

/// Enters a notice for a sink; a second time it changes nothing.
pub(crate) fn enter(
    writing: &Writing<'_>,
    sink: &str,
    key: &str,
    notice: &str,
    now: i64,
) -> Result<(), StoreError> {
    writing
        .prepare_cached(
            "INSERT INTO deliveries (sink, key, notice, made_at, due_at) VALUES (?1, ?2, ?3, ?4, ?4)
             ON CONFLICT (sink, key) DO NOTHING",
        )?
        .execute(params![sink, key, notice, now])?;
    Ok(())
}

/// The next thing to tell a sink, in order, if it is due; else when something is.
pub(crate) fn next(
    connection: &Connection,
    sink: &str,
    now: i64,
) -> Result<Result<Delivery, Option<i64>>, StoreError> {
    let found = connection
        .prepare_cached(
            "SELECT number, key, notice, attempts, due_at FROM deliveries
             WHERE sink = ?1 AND delivered_at IS NULL AND given_up_at IS NULL
             ORDER BY number LIMIT 1",
        )?
        .query_row([sink], |row| {
            let delivery = Delivery {
                number: row.get(0)?,
                key: row.get(1)?,
                notice: row.get(2)?,
                attempts: row.get(3)?,
            };
            Ok((delivery, row.get::<_, i64>(4)?))
        })
        .optional()?;
    Ok(match found {
        Some((delivery, due)) if due <= now => Ok(delivery),
        Some((_, due)) => Err(Some(due)),
        None => Err(None),
    })
}

/// It was delivered.
pub(crate) fn delivered(writing: &Writing<'_>, number: i64, now: i64) -> Result<(), StoreError> {
    writing
        .prepare_cached(
            "UPDATE deliveries SET delivered_at = ?2, attempts = attempts + 1, error = NULL WHERE number = ?1",
        )?
        .execute([number, now])?;
    Ok(())
}

/// It was not, and why; `again`: when to try again, never if there is none.
pub(crate) fn failed(
    writing: &Writing<'_>,
    number: i64,
    error: &str,
    again: Option<i64>,
    now: i64,
) -> Result<(), StoreError> {
    writing
        .prepare_cached(
            "UPDATE deliveries SET attempts = attempts + 1, error = ?2, due_at = coalesce(?3, due_at),
                 given_up_at = CASE WHEN ?3 IS NULL THEN ?4 END
             WHERE number = ?1",
        )?
        .execute(params![number, error, again, now])?;
    Ok(())
}

/// Gives one up that was made before: nobody is helped by it any more.
pub(crate) fn give_up_before(
    writing: &Writing<'_>,
    number: i64,
    made_before: i64,
    now: i64,
) -> Result<(), StoreError> {
    writing.execute(
        "UPDATE deliveries SET given_up_at = ?3 WHERE number = ?1 AND made_at < ?2 AND given_up_at IS NULL",
        [number, made_before, now],
    )?;
    Ok(())
}

/// Whether one was given up.
pub(crate) fn is_given_up(connection: &Connection, number: i64) -> Result<bool, StoreError> {
    let sql =
        "SELECT EXISTS (SELECT 1 FROM deliveries WHERE number = ?1 AND given_up_at IS NOT NULL)";
    Ok(connection.prepare_cached(sql)?.query_row([number], |row| row.get(0))?)
}

/// Gives up what was not delivered yet and has a key with this end, and says which.
pub(crate) fn withdraw(
    writing: &Writing<'_>,
    end: &str,
    reason: &str,
    now: i64,
) -> Result<Vec<String>, StoreError> {
    let mut statement = writing.prepare_cached(
        "UPDATE deliveries SET given_up_at = ?3, error = ?2
         WHERE delivered_at IS NULL AND given_up_at IS NULL AND substr(key, -length(?1)) = ?1
         RETURNING key",
    )?;
    let rows = statement.query_map(params![end, reason, now], |row| row.get(0))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Forgets what was delivered or given up before.
pub(crate) fn forget_old(connection: &Connection, before: i64) -> Result<usize, StoreError> {
    let sql = "DELETE FROM deliveries WHERE delivered_at < ?1 OR given_up_at < ?1";
    Ok(connection.execute(sql, [before])?)
}

/// How a sink fares.
pub(crate) fn state(connection: &Connection, sink: &str) -> Result<SinkState, StoreError> {
    let state = connection
        .prepare_cached(
            "SELECT count(*) FILTER (WHERE delivered_at IS NULL AND given_up_at IS NULL),
                 count(given_up_at), count(delivered_at), max(delivered_at)
             FROM deliveries WHERE sink = ?1",
        )?
        .query_row([sink], |row| {
            Ok(SinkState {
                pending: row.get::<_, i64>(0)?.unsigned_abs(),
                given_up: row.get::<_, i64>(1)?.unsigned_abs(),
                delivered: row.get::<_, i64>(2)?.unsigned_abs(),
                last_delivered_at: row.get(3)?,
                error: None,
            })
        })?;
    let error = connection
        .prepare_cached(
            "SELECT error FROM deliveries
             WHERE sink = ?1 AND delivered_at IS NULL AND error IS NOT NULL ORDER BY number DESC LIMIT 1",
        )?
        .query_row([sink], |row| row.get(0))
        .optional()?;
    Ok(SinkState { error, ..state })
}
