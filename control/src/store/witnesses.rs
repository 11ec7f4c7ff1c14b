//! Witnesses of the log: what they cosigned last, and their cosignatures.

use picket_ledger::Hash;
use rusqlite::{Connection, params};

use super::StoreError;

/// A witness, by its own word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Witness {
    /// Its key, as signed notes write it.
    pub(crate) key: String,
    pub(crate) spiffe_id: String,
    /// Of the last tree that it cosigned.
    pub(crate) size: u64,
    pub(crate) root: Hash,
    /// That checkpoint, if it has shown it.
    pub(crate) note: String,
    /// Why it refuses the log.
    pub(crate) refusal: Option<String>,
    pub(crate) heard_at: i64,
}

/// Keeps what a witness says.
pub(crate) fn save(connection: &Connection, witness: &Witness) -> Result<(), StoreError> {
    let Witness { key, spiffe_id, size, root, note, refusal, heard_at } = witness;
    let size = i64::try_from(*size).unwrap_or(i64::MAX);
    connection
        .prepare_cached(
            "INSERT INTO witnesses (key, spiffe_id, size, root, note, refusal, heard_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
             ON CONFLICT (key) DO UPDATE SET size = excluded.size, root = excluded.root,
                 note = excluded.note, refusal = excluded.refusal, heard_at = excluded.heard_at",
        )?
        .execute(params![key, spiffe_id, size, root.as_slice(), note, refusal, heard_at])?;
    Ok(())
}

/// Keeps a cosignature: a line of the checkpoint of that size.
pub(crate) fn cosigned(
    connection: &Connection,
    size: u64,
    witness: &str,
    line: &str,
) -> Result<(), StoreError> {
    let size = i64::try_from(size).unwrap_or(i64::MAX);
    connection
        .prepare_cached(
            "INSERT INTO cosignatures (size, witness, line) VALUES (?1, ?2, ?3)
             ON CONFLICT (size, witness) DO UPDATE SET line = excluded.line",
        )?
        .execute(params![size, witness, line])?;
    Ok(())
}

/// Every witness that was ever heard of.
pub(crate) fn all(connection: &Connection) -> Result<Vec<Witness>, StoreError> {
    let mut statement = connection.prepare_cached(
        "SELECT key, spiffe_id, size, root, note, refusal, heard_at FROM witnesses
         ORDER BY spiffe_id, key",
    )?;
    let rows = statement.query_map([], |row| {
        let (size, root): (i64, Vec<u8>) = (row.get(2)?, row.get(3)?);
        Ok(Witness {
            key: row.get(0)?,
            spiffe_id: row.get(1)?,
            size: u64::try_from(size).unwrap_or(0),
            root: Hash::try_from(root.as_slice()).unwrap_or_default(),
            note: row.get(4)?,
            refusal: row.get(5)?,
            heard_at: row.get(6)?,
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}
