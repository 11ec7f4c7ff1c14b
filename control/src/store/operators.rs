//! The operator certificates that were issued.

use rusqlite::{Connection, params};

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
