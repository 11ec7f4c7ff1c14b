//! Audit records as they are asked for: by filter, in pages, in the order of their arrival.

use bytes::Bytes;
use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension as _, params, params_from_iter};

use super::StoreError;

/// Which records are wanted. Every part that is set has to match.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Filter {
    /// Not before, in nanoseconds since 1970.
    pub(crate) since: Option<i64>,
    /// Before.
    pub(crate) until: Option<i64>,
    /// The trace.
    pub(crate) trace: Option<Vec<u8>>,
    /// The span.
    pub(crate) span: Option<Vec<u8>>,
    /// A prefix of the path.
    pub(crate) path: Option<String>,
    /// From one status to another, both included.
    pub(crate) status: Option<(i64, i64)>,
    /// Columns of text, each with the value it shall have.
    pub(crate) equal: Vec<(TextColumn, String)>,
    /// The emitter.
    pub(crate) emitter: Option<String>,
    /// One record: boot, lane, sequence.
    pub(crate) id: Option<(String, i64, i64)>,
}

/// The columns that are compared as text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TextColumn {
    Kind,
    Event,
    Direction,
    Source,
    Destination,
    Method,
    Decision,
    DecisionId,
    Policy,
    Reason,
}

impl TextColumn {
    fn equality(self) -> &'static str {
        match self {
            Self::Kind => "kind IS (SELECT id FROM words WHERE text = ?)",
            Self::Event => "event IS (SELECT id FROM words WHERE text = ?)",
            Self::Direction => "direction IS (SELECT id FROM words WHERE text = ?)",
            Self::Source => "source IS (SELECT id FROM words WHERE text = ?)",
            Self::Destination => "destination IS (SELECT id FROM words WHERE text = ?)",
            Self::Method => "method IS (SELECT id FROM words WHERE text = ?)",
            Self::Decision => "decision IS (SELECT id FROM words WHERE text = ?)",
            Self::DecisionId => {
                "coalesce(decision_id, lower(hex(span))) = ? AND decision IS NOT NULL"
            }
            Self::Policy => "policy IS (SELECT id FROM words WHERE text = ?)",
            Self::Reason => "reason IS (SELECT id FROM words WHERE text = ?)",
        }
    }
}

/// Which part of the matching records is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Page {
    /// The first ones after a row.
    After(i64),
    /// The last ones.
    Latest,
}

/// A record that was found.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    /// Its row: the cursor.
    pub(crate) row: i64,
    /// The resource as it was received.
    pub(crate) resource: Bytes,
    /// The span as it was received.
    pub(crate) span: Bytes,
}

/// Finds at most `limit` records, oldest first.
pub(crate) fn find(
    connection: &Connection,
    filter: &Filter,
    page: Page,
    limit: usize,
) -> Result<Vec<Found>, StoreError> {
    let Some(mut query) = Query::new(connection, filter)? else { return Ok(Vec::new()) };
    let order = match page {
        Page::After(row) => {
            query.add("records.id > ?", row);
            "ASC"
        }
        Page::Latest => "DESC",
    };
    let conditions = query.conditions.join(" AND ");
    let filtered =
        if conditions.is_empty() { String::new() } else { format!("WHERE {conditions}") };
    let sql = format!(
        "SELECT records.id, resources.bytes, records.bytes
         FROM facts JOIN records ON records.id = facts.id
             JOIN resources ON resources.id = records.resource
         {filtered} ORDER BY records.id {order} LIMIT {limit}"
    );
    let mut statement = connection.prepare_cached(&sql)?;
    let rows = statement.query_map(params_from_iter(query.values), |row| {
        let resource: Vec<u8> = row.get(1)?;
        let span: Vec<u8> = row.get(2)?;
        Ok(Found { row: row.get(0)?, resource: resource.into(), span: span.into() })
    })?;
    let mut found: Vec<Found> = rows.collect::<Result<_, _>>()?;
    if page == Page::Latest {
        found.reverse();
    }
    Ok(found)
}

#[derive(Default)]
struct Query {
    conditions: Vec<&'static str>,
    values: Vec<Value>,
}

impl Query {
    /// None if nothing can match.
    fn new(connection: &Connection, filter: &Filter) -> Result<Option<Self>, StoreError> {
        let mut query = Self::default();
        if let Some(since) = filter.since {
            query.add("time_ns >= ?", since);
        }
        if let Some(until) = filter.until {
            query.add("time_ns < ?", until);
        }
        if let Some(trace) = &filter.trace {
            query.add("trace = ?", trace.clone());
        }
        if let Some(span) = &filter.span {
            query.add("span = ?", span.clone());
        }
        if let Some(prefix) = &filter.path {
            query.add("substr(path, 1, length(?)) = ?", prefix.clone());
            query.values.push(prefix.clone().into());
        }
        if let Some((from, to)) = filter.status {
            query.add("status BETWEEN ? AND ?", from);
            query.values.push(to.into());
        }
        for (column, value) in &filter.equal {
            query.add(column.equality(), value.clone());
        }
        if let Some(emitter) = &filter.emitter {
            query.add("facts.emitter IS (SELECT id FROM words WHERE text = ?)", emitter.clone());
        }
        if let Some((boot, lane, sequence)) = &filter.id {
            let Some(emitter) = emitter_of(connection, boot)? else { return Ok(None) };
            query.add("records.emitter = ?", emitter);
            query.add("lane = ?", *lane);
            query.add("sequence = ?", *sequence);
        }
        Ok(Some(query))
    }

    fn add(&mut self, condition: &'static str, value: impl Into<Value>) {
        self.conditions.push(condition);
        self.values.push(value.into());
    }
}

fn emitter_of(connection: &Connection, boot: &str) -> Result<Option<i64>, StoreError> {
    let id = connection
        .prepare_cached("SELECT id FROM emitters WHERE boot = ?1")?
        .query_row(params![boot], |row| row.get(0))
        .optional()?;
    Ok(id)
}
