//! Join tokens: only their hashes, each good for one certificate.

use rusqlite::{Connection, OptionalExtension as _, params};

use super::StoreError;

/// What is known of a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Token {
    /// SHA-256 of the token.
    pub(crate) hash: Vec<u8>,
    /// Whom it admits.
    pub(crate) spiffe_id: String,
    /// When it was made.
    pub(crate) created_at: i64,
    /// By whom.
    pub(crate) created_by: String,
    /// When it ends.
    pub(crate) expires_at: i64,
    /// When it was used.
    pub(crate) used_at: Option<i64>,
}

const COLUMNS: &str = "hash, spiffe_id, created_at, created_by, expires_at, used_at";

/// How long a token is listed after it was used or has ended.
const KEPT: i64 = 7 * 24 * 3600 * 1000;

/// Files a new token.
pub(crate) fn insert(connection: &Connection, token: &Token) -> Result<(), StoreError> {
    connection.execute(
        "INSERT INTO join_tokens (hash, spiffe_id, created_at, created_by, expires_at)
         VALUES (?1, ?2, ?3, ?4, ?5)",
        params![token.hash, token.spiffe_id, token.created_at, token.created_by, token.expires_at],
    )?;
    Ok(())
}

/// Looks a token up by its hash.
pub(crate) fn find(connection: &Connection, hash: &[u8]) -> Result<Option<Token>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM join_tokens WHERE hash = ?1");
    Ok(connection.prepare_cached(&sql)?.query_row([hash], from_row).optional()?)
}

/// Uses a token up; false if somebody was faster, or it has ended.
pub(crate) fn consume(connection: &Connection, hash: &[u8], now: i64) -> Result<bool, StoreError> {
    let changed = connection.execute(
        "UPDATE join_tokens SET used_at = ?2
         WHERE hash = ?1 AND used_at IS NULL AND expires_at > ?2",
        params![hash, now],
    )?;
    Ok(changed == 1)
}

/// All tokens that are kept, newest first.
pub(crate) fn list(connection: &Connection) -> Result<Vec<Token>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM join_tokens ORDER BY created_at DESC, hash");
    let mut statement = connection.prepare_cached(&sql)?;
    let rows = statement.query_map([], from_row)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Forgets the tokens that ended long ago; the audit records of what became of them stay.
pub(crate) fn forget_old(connection: &Connection, now: i64) -> Result<usize, StoreError> {
    Ok(connection.execute("DELETE FROM join_tokens WHERE expires_at < ?1", [now - KEPT])?)
}

fn from_row(row: &rusqlite::Row<'_>) -> rusqlite::Result<Token> {
    Ok(Token {
        hash: row.get(0)?,
        spiffe_id: row.get(1)?,
        created_at: row.get(2)?,
        created_by: row.get(3)?,
        expires_at: row.get(4)?,
        used_at: row.get(5)?,
    })
}
