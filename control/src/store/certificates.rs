//! The workload certificates that were issued.

use rusqlite::{Connection, OptionalExtension as _, params};

use super::StoreError;

/// How long a certificate is kept after its end.
const KEPT: i64 = 60 * 24 * 3600 * 1000;

/// What is known of a certificate, beyond what it says itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Known {
    /// Whom it was issued to.
    pub(crate) spiffe_id: String,
    /// Whether another has replaced it.
    pub(crate) is_renewed: bool,
}

/// Files a certificate that was just issued.
pub(crate) fn insert(
    connection: &Connection,
    serial: &str,
    spiffe_id: &str,
    issued_at: i64,
    not_after: i64,
) -> Result<(), StoreError> {
    connection.execute(
        "INSERT INTO certificates (serial, spiffe_id, issued_at, not_after) VALUES (?1, ?2, ?3, ?4)",
        params![serial, spiffe_id, issued_at, not_after],
    )?;
    Ok(())
}

/// Looks a certificate up.
pub(crate) fn find(connection: &Connection, serial: &str) -> Result<Option<Known>, StoreError> {
    let known = connection
        .prepare_cached(
            "SELECT spiffe_id, renewed_by IS NOT NULL FROM certificates WHERE serial = ?1",
        )?
        .query_row([serial], |row| Ok(Known { spiffe_id: row.get(0)?, is_renewed: row.get(1)? }))
        .optional()?;
    Ok(known)
}

/// When a certificate ends, and the serial number of the one that replaced it.
pub(crate) fn end_of(
    connection: &Connection,
    serial: &str,
) -> Result<Option<(i64, Option<String>)>, StoreError> {
    let found = connection
        .prepare_cached("SELECT not_after, renewed_by FROM certificates WHERE serial = ?1")?
        .query_row([serial], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    Ok(found)
}

/// The serial numbers of an identity's certificates that are good at a time, or for a renewal with that grace.
pub(crate) fn good_of(
    connection: &Connection,
    spiffe_id: &str,
    at: i64,
    grace: i64,
) -> Result<Vec<String>, StoreError> {
    let mut statement = connection.prepare_cached(
        "SELECT serial FROM certificates
         WHERE spiffe_id = ?1 AND not_after >= ?2 AND (not_after >= ?3 OR renewed_by IS NULL) ORDER BY not_after",
    )?;
    let rows =
        statement.query_map(params![spiffe_id, at.saturating_sub(grace), at], |row| row.get(0))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Notes that `successor` replaces `serial`.
pub(crate) fn renewed(
    connection: &Connection,
    serial: &str,
    successor: &str,
) -> Result<(), StoreError> {
    connection.execute(
        "UPDATE certificates SET renewed_by = ?2 WHERE serial = ?1",
        [serial, successor],
    )?;
    Ok(())
}

/// Forgets the certificates that ended long ago; the audit records of them stay.
pub(crate) fn forget_old(connection: &Connection, now: i64) -> Result<usize, StoreError> {
    Ok(connection.execute("DELETE FROM certificates WHERE not_after < ?1", [now - KEPT])?)
}
