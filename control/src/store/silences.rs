//! Silences: alerts that nobody is told of, for a time.

use std::collections::BTreeMap;

use picket_detect::{Alert, Level};
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::{StoreError, Writing};
use crate::search::Glob;

/// Which alerts nobody is told of. Times are milliseconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Silence {
    pub(crate) id: String,
    /// Of rules whose id or title fits this pattern.
    pub(crate) rule: Option<String>,
    /// Of those that are exactly so bad.
    pub(crate) severity: Option<Level>,
    /// Of those whose group has values that fit these patterns.
    pub(crate) fields: BTreeMap<String, String>,
    pub(crate) until: i64,
    pub(crate) author: String,
    pub(crate) reason: String,
    pub(crate) made_at: i64,
}

impl Silence {
    pub(crate) fn fits(&self, alert: &Alert) -> bool {
        let fits = |(name, pattern): (&String, &String)| {
            alert.group.get(name).is_some_and(|value| Glob::new(pattern).matches(value))
        };
        self.is_about(&alert.rule, &alert.title)
            && self.severity.is_none_or(|severity| severity == alert.severity)
            && self.fields.iter().all(fits)
    }

    /// Whether it is about a rule.
    pub(crate) fn is_about(&self, id: &str, title: &str) -> bool {
        self.rule.as_ref().is_none_or(|pattern| {
            let pattern = Glob::new(pattern);
            pattern.matches(id) || pattern.matches(title)
        })
    }
}

const COLUMNS: &str = "id, rule, fields, until, author, reason, made_at, severity";

/// Keeps a new one.
pub(crate) fn add(writing: &Writing<'_>, silence: &Silence) -> Result<(), StoreError> {
    let fields = serde_json::to_string(&silence.fields);
    let fields = fields.map_err(|_| StoreError::Unreadable("a silence"))?;
    writing.execute(
        "INSERT INTO silences (id, rule, fields, until, author, reason, made_at, severity)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        params![
            silence.id,
            silence.rule,
            fields,
            silence.until,
            silence.author,
            silence.reason,
            silence.made_at,
            silence.severity.map(Level::as_str),
        ],
    )?;
    Ok(())
}

/// Lifts one; none if there is none of that id.
pub(crate) fn remove(writing: &Writing<'_>, id: &str) -> Result<Option<Silence>, StoreError> {
    let sql = format!("DELETE FROM silences WHERE id = ?1 RETURNING {COLUMNS}");
    let removed = writing.query_row(&sql, [id], |row| Ok(kept(row))).optional()?;
    removed.transpose()
}

/// Those that stand at a time, oldest first.
pub(crate) fn standing(connection: &Connection, now: i64) -> Result<Vec<Silence>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM silences WHERE until > ?1 ORDER BY made_at, id");
    let mut statement = connection.prepare_cached(&sql)?;
    let rows = statement.query_map([now], |row| Ok(kept(row)))?;
    rows.map(|row| row?).collect()
}

/// Forgets what was over before.
pub(crate) fn forget_old(connection: &Connection, before: i64) -> Result<usize, StoreError> {
    Ok(connection.execute("DELETE FROM silences WHERE until < ?1", [before])?)
}

fn kept(row: &Row<'_>) -> Result<Silence, StoreError> {
    let fields: String = row.get(2)?;
    let severity: Option<String> = row.get(7)?;
    Ok(Silence {
        severity: Level::ALL.into_iter().find(|l| severity.as_deref() == Some(l.as_str())),
        id: row.get(0)?,
        rule: row.get(1)?,
        fields: serde_json::from_str(&fields).map_err(|_| StoreError::Unreadable("a silence"))?,
        until: row.get(3)?,
        author: row.get(4)?,
        reason: row.get(5)?,
        made_at: row.get(6)?,
    })
}
