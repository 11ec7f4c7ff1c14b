//! What is revoked, and the revision of the list.

use rusqlite::{Connection, OptionalExtension as _, params};

use super::{StoreError, meta};

/// The key of the revision among the facts about the whole database.
const REVISION: &str = "revocations_revision";

/// One revocation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Row {
    /// Names it.
    pub(crate) id: String,
    /// What it is about.
    pub(crate) kind: String,
    /// Which one of these.
    pub(crate) value: String,
    /// The issuer of the tokens; empty for any.
    pub(crate) issuer: String,
    /// Only tokens issued until then, in seconds since 1970; none: all.
    pub(crate) issued_until: Option<i64>,
    /// When it was made.
    pub(crate) revoked_at: i64,
    /// By whom.
    pub(crate) revoked_by: String,
    /// When it is over; none: when it is lifted.
    pub(crate) until: Option<i64>,
    /// Why, in the words of whoever made it.
    pub(crate) reason: String,
}

const COLUMNS: &str =
    "id, kind, value, issuer, issued_until, revoked_at, revoked_by, until, reason";

/// Files a revocation, in place of an earlier one of the same, and gives the list a new revision.
pub(crate) fn save(connection: &Connection, row: &Row) -> Result<(), StoreError> {
    connection.execute(
        "DELETE FROM revocations WHERE kind = ?1 AND value = ?2 AND issuer = ?3",
        [&row.kind, &row.value, &row.issuer],
    )?;
    connection.execute(
        "INSERT INTO revocations (id, kind, value, issuer, issued_until, revoked_at, revoked_by, until, reason)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        params![
            row.id,
            row.kind,
            row.value,
            row.issuer,
            row.issued_until,
            row.revoked_at,
            row.revoked_by,
            row.until,
            row.reason
        ],
    )?;
    advance(connection)
}

/// The revocation of the same, if there is one.
pub(crate) fn find_same(
    connection: &Connection,
    kind: &str,
    value: &str,
    issuer: &str,
) -> Result<Option<Row>, StoreError> {
    let sql =
        format!("SELECT {COLUMNS} FROM revocations WHERE kind = ?1 AND value = ?2 AND issuer = ?3");
    Ok(connection.query_row(&sql, [kind, value, issuer], from_row).optional()?)
}

/// How many there are.
pub(crate) fn count(connection: &Connection) -> Result<usize, StoreError> {
    let count: i64 =
        connection.query_row("SELECT count(*) FROM revocations", [], |row| row.get(0))?;
    Ok(usize::try_from(count).unwrap_or(usize::MAX))
}

/// The revocation of an id.
pub(crate) fn find(connection: &Connection, id: &str) -> Result<Option<Row>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM revocations WHERE id = ?1");
    Ok(connection.query_row(&sql, [id], from_row).optional()?)
}

/// Lifts a revocation and gives the list a new revision; none if there is none of that id.
pub(crate) fn remove(connection: &Connection, id: &str) -> Result<Option<Row>, StoreError> {
    let sql = format!("DELETE FROM revocations WHERE id = ?1 RETURNING {COLUMNS}");
    let removed = connection.query_row(&sql, [id], from_row).optional()?;
    if removed.is_some() {
        advance(connection)?;
    }
    Ok(removed)
}

/// Forgets what is over. The list means what it meant, so its revision stays.
pub(crate) fn forget_over(connection: &Connection, before: i64) -> Result<usize, StoreError> {
    Ok(connection.execute("DELETE FROM revocations WHERE until < ?1", [before])?)
}

/// The revision, and all revocations, oldest first.
pub(crate) fn load(connection: &Connection) -> Result<(u64, Vec<Row>), StoreError> {
    let revision = connection
        .query_row("SELECT value FROM meta WHERE key = ?1", [REVISION], |row| {
            row.get::<_, String>(0)
        })
        .optional()?;
    let revision = revision.map_or(Ok(0), |revision| parse(&revision))?;
    let sql = format!("SELECT {COLUMNS} FROM revocations ORDER BY revoked_at, id");
    let mut statement = connection.prepare_cached(&sql)?;
    let rows = statement.query_map([], from_row)?;
    Ok((revision, rows.collect::<Result<_, _>>()?))
}

/// Whether an identity, or one of its certificates, is revoked at a time.
pub(crate) fn refuses(
    connection: &Connection,
    spiffe_id: &str,
    serial: Option<&str>,
    over: i64,
) -> Result<bool, StoreError> {
    let refuses = connection
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM revocations
             WHERE ((kind = 'identity' AND value = ?1) OR (kind = 'serial' AND value = ?2))
               AND (until IS NULL OR until >= ?3))",
        )?
        .query_row(params![spiffe_id, serial, over], |row| row.get(0))?;
    Ok(refuses)
}

fn advance(connection: &Connection) -> Result<(), StoreError> {
    let revision = parse(&meta(connection, REVISION, "0")?)?;
    let next = revision.saturating_add(1).to_string();
    connection.execute("UPDATE meta SET value = ?2 WHERE key = ?1", [REVISION, &next])?;
    Ok(())
}

fn parse(revision: &str) -> Result<u64, StoreError> {
    revision.parse().map_err(|_| StoreError::Unreadable("a revision"))
}

fn from_row(row: &rusqlite::Row<'_>) -> rusqlite::Result<Row> {
    Ok(Row {
        id: row.get(0)?,
        kind: row.get(1)?,
        value: row.get(2)?,
        issuer: row.get(3)?,
        issued_until: row.get(4)?,
        revoked_at: row.get(5)?,
        revoked_by: row.get(6)?,
        until: row.get(7)?,
        reason: row.get(8)?,
    })
}
