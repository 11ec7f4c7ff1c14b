//! What profiles have learnt, and from which records.

use rusqlite::{Connection, OptionalExtension as _, params};

use super::{StoreError, Writing};

/// The entry of the log up to which was learnt, and what.
pub(crate) fn read(connection: &Connection) -> Result<Option<(i64, Vec<u8>)>, StoreError> {
    let row = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?));
    Ok(connection.query_row("SELECT cursor, state FROM profiles", [], row).optional()?)
}

/// Puts what has been learnt in the place of what was.
pub(crate) fn save(
    writing: &Writing<'_>,
    cursor: i64,
    state: &[u8],
    now: i64,
) -> Result<(), StoreError> {
    writing
        .prepare_cached(
            "INSERT INTO profiles (only, cursor, saved_at, state) VALUES (1, ?1, ?2, ?3)
             ON CONFLICT (only) DO UPDATE SET cursor = ?1, saved_at = ?2, state = ?3",
        )?
        .execute(params![cursor, now, state])?;
    Ok(())
}
