//! The last good policy set, so that a restart with a broken directory still serves it.

use picket_policy::Document;
use rusqlite::{Connection, OptionalExtension as _, params};

use super::StoreError;

/// A set as it was kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Kept {
    /// Its generation.
    pub(crate) generation: String,
    /// When it came into force.
    pub(crate) saved_at: i64,
    /// The files.
    pub(crate) documents: Vec<Document>,
}

/// Keeps a set in place of the one before.
pub(crate) fn save(
    connection: &Connection,
    generation: &str,
    saved_at: i64,
    documents: &[Document],
) -> Result<(), StoreError> {
    let plain: Vec<(&str, &str)> =
        documents.iter().map(|d| (d.file.as_ref(), d.text.as_ref())).collect();
    let documents =
        serde_json::to_string(&plain).map_err(|_| StoreError::Unreadable("policies"))?;
    connection.execute(
        "INSERT INTO policy_set (one, generation, saved_at, documents) VALUES (1, ?1, ?2, ?3)
         ON CONFLICT (one) DO UPDATE SET generation = excluded.generation,
             saved_at = excluded.saved_at, documents = excluded.documents",
        params![generation, saved_at, documents],
    )?;
    Ok(())
}

/// The set that is kept, if one is.
pub(crate) fn load(connection: &Connection) -> Result<Option<Kept>, StoreError> {
    let kept = connection
        .query_row("SELECT generation, saved_at, documents FROM policy_set", [], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get::<_, String>(2)?))
        })
        .optional()?;
    let Some((generation, saved_at, documents)) = kept else { return Ok(None) };
    let plain: Vec<(String, String)> =
        serde_json::from_str(&documents).map_err(|_| StoreError::Unreadable("a policy set"))?;
    let documents = plain.into_iter().map(|(file, text)| Document::whole(file, text)).collect();
    Ok(Some(Kept { generation, saved_at, documents }))
}
