//! The operator certificates that were issued.

use rusqlite::{Connection, OptionalExtension as _, params};

use super::StoreError;

/// Files an operator's certificate.
pub(crate) fn insert(
    connection: &Connection,
    serial: &str,
    spiffe_id: &str,
    (created_at, created_by): (i64, &str),
    not_after: i64,
) -> Result<(), StoreError> {
    connection.execute(
        "INSERT INTO operators (serial, spiffe_id, created_at, created_by, not_after)
         VALUES (?1, ?2, ?3, ?4, ?5)",
        params![serial, spiffe_id, created_at, created_by, not_after],
    )?;
    Ok(())
}

/// When an operator's certificate ends.
pub(crate) fn end_of(connection: &Connection, serial: &str) -> Result<Option<i64>, StoreError> {
    let found = connection
        .prepare_cached("SELECT not_after FROM operators WHERE serial = ?1")?
        .query_row([serial], |row| row.get(0))
        .optional()?;
    Ok(found)
}
