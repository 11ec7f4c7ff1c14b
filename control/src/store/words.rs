//! The dictionary of texts that many records share: a number for each.
//!
//! It never shrinks, so what goes in is bounded: texts that clients choose (methods) have to stand in it from the
//! start, and once it is full nothing more goes in. A text without a number is [`OTHER`]; whoever needs it looks into
//! the span.

use std::collections::HashMap;

use rusqlite::{Connection, OptionalExtension as _};

use super::StoreError;

/// Stands for every text that has no number.
pub(crate) const OTHER: i64 = 0;
/// `event` of the column `kind`, as the schema numbers it.
pub(crate) const EVENT: i64 = 3;

/// Texts that have a number, at most.
const MAX_WORDS: i64 = 200_000;
/// Longest text that gets a number.
const MAX_LENGTH: usize = 1024;

/// Numbers of one transaction: a savepoint that is rolled back takes them with it.
pub(crate) struct Words<'c> {
    connection: &'c Connection,
    known: HashMap<String, i64>,
}

impl<'c> Words<'c> {
    pub(crate) fn new(connection: &'c Connection) -> Self {
        Self { connection, known: HashMap::new() }
    }

    /// The number of a text, from now on if it had none.
    pub(crate) fn number(&mut self, text: &str) -> Result<i64, StoreError> {
        self.look(text, true)
    }

    /// The number of a text that clients choose: only those of the schema have one.
    pub(crate) fn known(&mut self, text: &str) -> Result<i64, StoreError> {
        self.look(text, false)
    }

    fn look(&mut self, text: &str, is_new: bool) -> Result<i64, StoreError> {
        if let Some(number) = self.known.get(text) {
            return Ok(*number);
        }
        let number = match number(self.connection, text)? {
            Some(number) => number,
            None if is_new && text.len() <= MAX_LENGTH => insert(self.connection, text)?,
            None => OTHER,
        };
        // Not for texts that anybody may choose: they would fill the memory.
        if number != OTHER {
            self.known.insert(text.to_owned(), number);
        }
        Ok(number)
    }
}

fn insert(connection: &Connection, text: &str) -> Result<i64, StoreError> {
    let sql = "INSERT INTO words (text) SELECT ?1 WHERE (SELECT max(id) FROM words) < ?2";
    let inserted = connection.prepare_cached(sql)?.execute(rusqlite::params![text, MAX_WORDS])?;
    Ok(if inserted == 1 { connection.last_insert_rowid() } else { OTHER })
}

/// The number of a text, if it has one.
pub(crate) fn number(connection: &Connection, text: &str) -> Result<Option<i64>, StoreError> {
    let mut statement = connection.prepare_cached("SELECT id FROM words WHERE text = ?1")?;
    Ok(statement.query_row([text], |row| row.get(0)).optional()?)
}

/// The text of a number.
pub(crate) fn text(connection: &Connection, number: i64) -> Result<Option<String>, StoreError> {
    let mut statement = connection.prepare_cached("SELECT text FROM words WHERE id = ?1")?;
    Ok(statement.query_row([number], |row| row.get(0)).optional()?)
}

/// The numbers of all texts that are as wanted.
pub(crate) fn matching(
    connection: &Connection,
    is_wanted: impl Fn(&str) -> bool,
) -> Result<Vec<i64>, StoreError> {
    let mut statement = connection.prepare_cached("SELECT id, text FROM words WHERE id > 0")?;
    let mut rows = statement.query([])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        if is_wanted(row.get_ref(1)?.as_str().unwrap_or_default()) {
            found.push(row.get(0)?);
        }
    }
    Ok(found)
}
