//! Alerts: raised, going on, resolved, acknowledged.

pub(crate) mod digests;
pub(crate) mod episodes;

use picket_detect::{Alert, Document, Level};
use rusqlite::{Connection, OptionalExtension as _, Row, params, params_from_iter};

use super::feed::Arrived;
use super::{StoreError, Writing, meta};
use episodes::{Episode, Flapping};

/// Up to which record the detector has come, among the facts about the whole database.
const CURSOR: &str = "detection_cursor";
/// The last good rules of the directory, likewise.
const RULES: &str = "detection_rules";

/// An alert as it is kept.
#[derive(Debug, Clone)]
pub(crate) struct Kept {
    /// In the order in which they were raised.
    pub(crate) number: i64,
    pub(crate) alert: Alert,
    pub(crate) traces: Vec<String>,
    pub(crate) generation: Option<String>,
    pub(crate) raised_at: i64,
    pub(crate) resolved_at: Option<i64>,
    pub(crate) acknowledged: Option<Acknowledged>,
    /// The silence for whose sake nobody is told.
    pub(crate) silenced_by: Option<String>,
    /// Which one it is of its fingerprint, from 1.
    pub(crate) episode: i64,
    /// Whether sinks are told that it fires.
    pub(crate) told: bool,
    /// When the first of those was raised that are held as one, this one among them.
    pub(crate) flapping_since: Option<i64>,
    /// It is the newest of those, and it is not quiet yet.
    pub(crate) held: bool,
    /// The sinks that are told, as its rule named them; none: all.
    pub(crate) notify: Vec<String>,
    /// Nobody is told of it by itself: its rule is over its budget.
    pub(crate) digest: bool,
}

/// What has become of an alert.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Firing,
    Acknowledged,
    Silenced,
    Flapping,
    Digest,
    Resolved,
}

impl State {
    /// In the order in which they are told apart.
    pub(crate) const ALL: [Self; 6] = [
        Self::Flapping,
        Self::Resolved,
        Self::Acknowledged,
        Self::Silenced,
        Self::Digest,
        Self::Firing,
    ];

    /// As it is asked for.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Firing => "firing",
            Self::Acknowledged => "acknowledged",
            Self::Silenced => "silenced",
            Self::Flapping => "flapping",
            Self::Digest => "digest",
            Self::Resolved => "resolved",
        }
    }

    /// Which rows are in it, if none of those before it in [`State::ALL`] is theirs.
    fn sql(self) -> &'static str {
        match self {
            Self::Flapping => "held = 1",
            Self::Resolved => "resolved_at IS NOT NULL",
            Self::Acknowledged => "acknowledged_at IS NOT NULL",
            Self::Silenced => "silenced_by IS NOT NULL",
            Self::Digest => "digest > 0",
            Self::Firing => "1",
        }
    }
}

impl Kept {
    pub(crate) fn state(&self) -> State {
        let is = |state: &State| match state {
            State::Flapping => self.held,
            State::Resolved => self.resolved_at.is_some(),
            State::Acknowledged => self.acknowledged.is_some(),
            State::Silenced => self.silenced_by.is_some(),
            State::Digest => self.digest,
            State::Firing => true,
        };
        State::ALL.into_iter().find(is).unwrap_or(State::Firing)
    }
}

/// Who has seen to an alert.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Acknowledged {
    pub(crate) at: i64,
    pub(crate) by: String,
    pub(crate) note: String,
}

/// Which alerts are wanted.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wanted {
    /// The first ones raised after this one; none: the last ones.
    pub(crate) after: Option<i64>,
    /// Those that are over too.
    pub(crate) resolved: bool,
    /// At least so bad.
    pub(crate) severity: Option<Level>,
    pub(crate) rule: Option<String>,
    /// Of profiles; false: of rules.
    pub(crate) anomalies: Option<bool>,
    /// Raised not before, in milliseconds since 1970.
    pub(crate) since: Option<i64>,
    /// Raised before.
    pub(crate) until: Option<i64>,
    pub(crate) state: Option<State>,
    pub(crate) limit: usize,
}

const COLUMNS: &str = "number, alert, traces, generation, raised_at, resolved_at, acknowledged_at, \
                       acknowledged_by, note, silenced_by, episode, told, flapping_since, held, notify, digest > 0";

/// Keeps a new alert; none if it is here already.
pub(crate) fn raise(
    writing: &Writing<'_>,
    alert: &Alert,
    generation: Option<&str>,
    flapping: Flapping,
    now: i64,
) -> Result<Option<Kept>, StoreError> {
    let Episode { number, flapping_since } = episodes::next(writing, alert, flapping, now)?;
    let mut traces = Vec::new();
    for record in &alert.records {
        traces.extend(trace_of(writing, record)?);
    }
    traces.dedup();
    let inserted = writing
        .prepare_cached(
            "INSERT INTO alerts (id, fingerprint, rule, severity, alert, traces, generation, raised_at, changed_at,
                 episode, flapping_since)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?8, ?9, ?10) ON CONFLICT (id) DO NOTHING",
        )?
        .execute(params![
            alert.id,
            alert.fingerprint,
            alert.rule,
            alert.severity as i64,
            text(alert)?,
            text(&traces)?,
            generation,
            now,
            number,
            flapping_since,
        ])?;
    if inserted == 0 {
        return Ok(None);
    }
    if flapping_since.is_some() {
        episodes::hold(writing, alert)?;
    }
    find(writing, &alert.id)
}

/// Notes what an alert has come to.
pub(crate) fn update(writing: &Writing<'_>, alert: &Alert, now: i64) -> Result<(), StoreError> {
    writing
        .prepare_cached("UPDATE alerts SET alert = ?2, changed_at = ?3 WHERE id = ?1")?
        .execute(params![alert.id, text(alert)?, now])?;
    Ok(())
}

/// Notes that an alert is over; none if it was, or never was.
pub(crate) fn resolve(
    writing: &Writing<'_>,
    alert: &Alert,
    now: i64,
) -> Result<Option<Kept>, StoreError> {
    let changed = writing
        .prepare_cached(
            "UPDATE alerts SET alert = ?2, changed_at = ?3, resolved_at = ?3
             WHERE id = ?1 AND resolved_at IS NULL",
        )?
        .execute(params![alert.id, text(alert)?, now])?;
    if changed == 0 { Ok(None) } else { find(writing, &alert.id) }
}

/// Notes who has seen to an alert, in place of whoever had.
pub(crate) fn acknowledge(
    writing: &Writing<'_>,
    id: &str,
    by: &Acknowledged,
) -> Result<(), StoreError> {
    writing.execute(
        "UPDATE alerts SET acknowledged_at = ?2, acknowledged_by = ?3, note = ?4 WHERE id = ?1",
        params![id, by.at, by.by, by.note],
    )?;
    Ok(())
}

/// Notes that sinks are told that an alert fires.
pub(crate) fn tell(writing: &Writing<'_>, id: &str, now: i64) -> Result<(), StoreError> {
    let sql = "UPDATE alerts SET told = 1, counted_at = ?2 WHERE id = ?1";
    writing.prepare_cached(sql)?.execute(params![id, now])?;
    Ok(())
}

/// Notes which sinks its rule has told; none: all.
pub(crate) fn address(
    writing: &Writing<'_>,
    id: &str,
    notify: &[String],
) -> Result<(), StoreError> {
    if notify.is_empty() {
        return Ok(());
    }
    let sql = "UPDATE alerts SET notify = ?2 WHERE id = ?1";
    writing.prepare_cached(sql)?.execute(params![id, text(&notify)?])?;
    Ok(())
}

/// Notes that nobody is told of an alert for the sake of a silence, or that somebody is.
pub(crate) fn silence(
    writing: &Writing<'_>,
    id: &str,
    silence: Option<&str>,
) -> Result<(), StoreError> {
    let sql = "UPDATE alerts SET silenced_by = ?2 WHERE id = ?1";
    writing.prepare_cached(sql)?.execute(params![id, silence])?;
    Ok(())
}

/// The alerts that are not over and silenced.
pub(crate) fn silenced(connection: &Connection) -> Result<Vec<Kept>, StoreError> {
    let sql = format!(
        "SELECT {COLUMNS} FROM alerts WHERE resolved_at IS NULL AND silenced_by IS NOT NULL"
    );
    all(connection, &sql)
}

/// The alerts that are not over.
pub(crate) fn open(connection: &Connection) -> Result<Vec<Kept>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM alerts WHERE resolved_at IS NULL ORDER BY number");
    all(connection, &sql)
}

/// The alerts that a sink which forgets is told of again: those that go on, or would if they were not held.
pub(crate) fn going_on(connection: &Connection) -> Result<Vec<Kept>, StoreError> {
    let sql = format!(
        "SELECT {COLUMNS} FROM alerts
         WHERE silenced_by IS NULL AND digest = 0 AND (resolved_at IS NULL OR held = 1) ORDER BY number"
    );
    all(connection, &sql)
}

fn all(connection: &Connection, sql: &str) -> Result<Vec<Kept>, StoreError> {
    let mut statement = connection.prepare_cached(sql)?;
    let rows = statement.query_map([], |row| Ok(kept(row)))?;
    rows.map(|row| row?).collect()
}

/// The alerts that are wanted, oldest first.
pub(crate) fn list(connection: &Connection, wanted: &Wanted) -> Result<Vec<Kept>, StoreError> {
    let mut sql = format!("SELECT {COLUMNS} FROM alerts WHERE number > ?");
    let mut values: Vec<rusqlite::types::Value> = vec![wanted.after.unwrap_or_default().into()];
    if !wanted.resolved && wanted.state.is_none() {
        sql.push_str(" AND (resolved_at IS NULL OR held = 1)");
    }
    if let Some(state) = wanted.state {
        for before in State::ALL.into_iter().take_while(|before| *before != state) {
            sql.push_str(&format!(" AND NOT ({})", before.sql()));
        }
        sql.push_str(&format!(" AND {}", state.sql()));
    }
    if let Some(severity) = wanted.severity {
        sql.push_str(" AND severity >= ?");
        values.push((severity as i64).into());
    }
    if let Some(rule) = &wanted.rule {
        sql.push_str(" AND rule = ?");
        values.push(rule.clone().into());
    }
    if let Some(anomalies) = wanted.anomalies {
        sql.push_str(" AND (rule LIKE 'anomaly.%') = ?");
        values.push(i64::from(anomalies).into());
    }
    if let Some(since) = wanted.since {
        sql.push_str(" AND raised_at >= ?");
        values.push(since.into());
    }
    if let Some(until) = wanted.until {
        sql.push_str(" AND raised_at < ?");
        values.push(until.into());
    }
    // Whoever follows wants the next ones, everybody else the last ones.
    let order = if wanted.after.is_some() { "ASC" } else { "DESC" };
    sql.push_str(&format!(" ORDER BY number {order} LIMIT ?"));
    values.push(i64::try_from(wanted.limit).unwrap_or(i64::MAX).into());
    let mut statement = connection.prepare_cached(&sql)?;
    let rows = statement.query_map(params_from_iter(values), |row| Ok(kept(row)))?;
    let mut found = rows.map(|row| row?).collect::<Result<Vec<_>, StoreError>>()?;
    if wanted.after.is_none() {
        found.reverse();
    }
    Ok(found)
}

/// The last one of all.
pub(crate) fn newest(connection: &Connection) -> Result<i64, StoreError> {
    let sql = "SELECT coalesce(max(number), 0) FROM alerts";
    Ok(connection.prepare_cached(sql)?.query_row([], |row| row.get(0))?)
}

/// The alert with an id.
pub(crate) fn find(connection: &Connection, id: &str) -> Result<Option<Kept>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM alerts WHERE id = ?1");
    let mut statement = connection.prepare_cached(&sql)?;
    statement.query_row([id], |row| Ok(kept(row))).optional()?.transpose()
}

/// Forgets what was over before.
pub(crate) fn forget_old(connection: &Connection, before: i64) -> Result<usize, StoreError> {
    let sql = "DELETE FROM alerts WHERE resolved_at < ?1 AND held = 0";
    Ok(connection.execute(sql, [before])?)
}

/// Up to which record the detector has come; none: it has not begun.
pub(crate) fn cursor(connection: &Connection) -> Result<Option<i64>, StoreError> {
    fact(connection, CURSOR)?
        .map(|value| value.parse().map_err(|_| StoreError::Unreadable("the detector's cursor")))
        .transpose()
}

/// Keeps how far the detector has come.
pub(crate) fn save_cursor(writing: &Writing<'_>, cursor: i64) -> Result<(), StoreError> {
    save_fact(writing, CURSOR, &cursor.to_string())
}

/// Keeps the rules of a directory in place of those before.
pub(crate) fn save_rules(
    writing: &Writing<'_>,
    directory: &str,
    documents: &[Document],
) -> Result<(), StoreError> {
    let plain: Vec<(&str, &str)> =
        documents.iter().map(|d| (d.file.as_ref(), d.text.as_ref())).collect();
    save_fact(writing, RULES, &text(&(directory, plain))?)
}

/// The rules of a directory that were kept, if they were.
pub(crate) fn rules(
    connection: &Connection,
    directory: &str,
) -> Result<Option<Vec<Document>>, StoreError> {
    let Some(kept) = fact(connection, RULES)? else { return Ok(None) };
    let (of, plain): (String, Vec<(String, String)>) =
        serde_json::from_str(&kept).map_err(|_| StoreError::Unreadable("detection rules"))?;
    let documents = plain.into_iter().map(|(file, text)| Document::whole(file, text));
    Ok((of == directory).then(|| documents.collect()))
}

fn fact(connection: &Connection, key: &str) -> Result<Option<String>, StoreError> {
    let sql = "SELECT value FROM meta WHERE key = ?1";
    Ok(connection.prepare_cached(sql)?.query_row([key], |row| row.get(0)).optional()?)
}

fn save_fact(writing: &Writing<'_>, key: &str, value: &str) -> Result<(), StoreError> {
    if meta(writing, key, value)? != value {
        writing.execute("UPDATE meta SET value = ?2 WHERE key = ?1", [key, value])?;
    }
    Ok(())
}

/// When the record happened that the detector has come to, in nanoseconds since 1970.
pub(crate) fn time_at(connection: &Connection, cursor: i64) -> Result<Option<i64>, StoreError> {
    Ok(connection
        .prepare_cached("SELECT time_ns FROM facts WHERE id <= ?1 ORDER BY id DESC LIMIT 1")?
        .query_row([cursor], |row| row.get(0))
        .optional()?)
}

/// The first record of some rows that is not older than a time.
pub(crate) fn first_since(
    connection: &Connection,
    (from, through): (i64, i64),
    time_ns: i64,
) -> Result<Option<i64>, StoreError> {
    // Not by an index of times, which there is none of: they are looked at.
    Ok(connection
        .prepare_cached("SELECT min(id) FROM facts WHERE id BETWEEN ?1 AND ?2 AND time_ns >= ?3")?
        .query_row([from, through, time_ns], |row| row.get(0))?)
}

/// The records of some rows.
pub(crate) fn records(
    connection: &Connection,
    from: i64,
    through: i64,
) -> Result<Vec<Arrived>, StoreError> {
    let mut statement = connection.prepare_cached(
        "SELECT records.id, resources.bytes, records.bytes
         FROM records JOIN resources ON resources.id = records.resource
         WHERE records.id BETWEEN ?1 AND ?2 ORDER BY records.id",
    )?;
    let rows = statement.query_map([from, through], |row| {
        let (resource, span): (Vec<u8>, Vec<u8>) = (row.get(1)?, row.get(2)?);
        Ok(Arrived { id: row.get(0)?, resource: resource.into(), span: span.into() })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// The trace of a record, by the id that records are shown with: `boot-lane-sequence`.
fn trace_of(connection: &Connection, record: &str) -> Result<Option<String>, StoreError> {
    let mut parts = record.rsplitn(3, '-');
    let (Some(sequence), Some(lane), Some(boot)) = (parts.next(), parts.next(), parts.next())
    else {
        return Ok(None);
    };
    let trace = connection
        .prepare_cached(
            "SELECT lower(hex(facts.trace)) FROM records JOIN facts ON facts.id = records.id
             WHERE records.emitter = (SELECT id FROM emitters WHERE boot = ?1) AND records.lane = ?2
               AND records.sequence = ?3",
        )?
        .query_row([boot, lane, sequence], |row| row.get(0))
        .optional()?;
    Ok(trace)
}

fn kept(row: &Row<'_>) -> Result<Kept, StoreError> {
    let (alert, traces): (String, String) = (row.get(1)?, row.get(2)?);
    let unreadable = |_| StoreError::Unreadable("an alert");
    let acknowledged = match row.get::<_, Option<i64>>(6)? {
        Some(at) => Some(Acknowledged {
            at,
            by: row.get::<_, Option<String>>(7)?.unwrap_or_default(),
            note: row.get::<_, Option<String>>(8)?.unwrap_or_default(),
        }),
        None => None,
    };
    let notify: Option<String> = row.get(14)?;
    Ok(Kept {
        number: row.get(0)?,
        alert: serde_json::from_str(&alert).map_err(unreadable)?,
        traces: serde_json::from_str(&traces).map_err(unreadable)?,
        generation: row.get(3)?,
        raised_at: row.get(4)?,
        resolved_at: row.get(5)?,
        acknowledged,
        silenced_by: row.get(9)?,
        episode: row.get(10)?,
        told: row.get(11)?,
        flapping_since: row.get(12)?,
        held: row.get(13)?,
        notify: notify
            .map_or(Ok(Vec::new()), |text| serde_json::from_str(&text))
            .map_err(unreadable)?,
        digest: row.get(15)?,
    })
}

fn text(value: &impl serde::Serialize) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|_| StoreError::Unreadable("an alert"))
}
