//! Erasing records: what they say and their salts go, the log and every proof stay good.

use rusqlite::{Connection, params};

use super::{StoreError, log};

/// Erases a record. False if it is not here, or was erased before.
pub(crate) fn erase(connection: &Connection, index: u64, now: i64) -> Result<bool, StoreError> {
    let Some(logged) = log::records(connection, index, index + 1)?.into_iter().next() else {
        return Ok(false);
    };
    if logged.salt.is_none() {
        return Ok(false);
    }
    let id = i64::try_from(index + 1).unwrap_or(i64::MAX);
    // What is let go of is overwritten in the file, not only no longer found.
    connection.pragma_update(None, "secure_delete", true)?;
    connection
        .prepare_cached("INSERT INTO erased (record, commitment, erased_at) VALUES (?1, ?2, ?3)")?
        .execute(params![id, logged.entry.commitment.as_slice(), now])?;
    connection
        .prepare_cached("UPDATE records SET bytes = x'', salt = NULL WHERE id = ?1")?
        .execute([id])?;
    connection.prepare_cached("DELETE FROM facts WHERE id = ?1")?.execute([id])?;
    Ok(true)
}
