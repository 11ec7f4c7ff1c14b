//! The registry's instances, so that a restarted control plane knows the mesh it had.

use rusqlite::{Connection, params};

use super::StoreError;

/// An instance as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Row {
    /// Its SPIFFE ID and addresses.
    pub(crate) key: String,
    /// When it was last heard of.
    pub(crate) last_contact: i64,
    /// Everything else, as JSON.
    pub(crate) state: String,
}

/// Keeps an instance in place of what was known of it.
pub(crate) fn save(connection: &Connection, row: &Row) -> Result<(), StoreError> {
    connection
        .prepare_cached(
            "INSERT INTO instances (key, last_contact, state) VALUES (?1, ?2, ?3)
             ON CONFLICT (key) DO UPDATE SET last_contact = excluded.last_contact,
                 state = excluded.state",
        )?
        .execute(params![row.key, row.last_contact, row.state])?;
    Ok(())
}

/// Forgets an instance.
pub(crate) fn remove(connection: &Connection, key: &str) -> Result<(), StoreError> {
    connection.prepare_cached("DELETE FROM instances WHERE key = ?1")?.execute([key])?;
    Ok(())
}

/// All instances.
pub(crate) fn load(connection: &Connection) -> Result<Vec<Row>, StoreError> {
    let mut statement = connection.prepare("SELECT key, last_contact, state FROM instances")?;
    let rows = statement.query_map([], |row| {
        Ok(Row { key: row.get(0)?, last_contact: row.get(1)?, state: row.get(2)? })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}
