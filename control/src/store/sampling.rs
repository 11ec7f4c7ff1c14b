//! Which records the export sends when it sends a share of the traces: whole traces, decided on once
//! they have settled.
//!
//! A trace outside of the share goes if one of its spans is notable, which is noted when the span comes
//! in. What was known at a decision is kept (a row for each batch), so that a trace that becomes notable
//! later still goes whole: its earlier spans are sent then, and none twice.
//!
//! Specification: OpenTelemetry, "TraceState: Probability Sampling" (trace ids with 56 random bits).

use std::collections::HashMap;

use rusqlite::{Connection, OptionalExtension as _, params};

use super::cursors::{Outgoing, read_outgoing};
use super::segments::BLOCK_SHIFT;
use super::{StoreError, words};

/// Rows that are looked at for one batch.
const LOOKED_AT: i64 = 2048;
/// Earlier spans of one trace that are sent when it becomes notable: the last ones.
const MAX_EARLIER: usize = 4096;
/// How far back decisions are remembered, in rows.
const MEMORY: i64 = 1_000_000;

/// The traces that are in the share: those whose 56 lowest bits are not below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Threshold(u64);

impl Threshold {
    /// For a share from 0 to 1.
    pub(crate) fn of(share: f64) -> Self {
        const ALL: f64 = (1_u64 << 56) as f64;
        Self(((1.0 - share) * ALL).round() as u64)
    }

    pub(crate) fn keeps(self, trace: &[u8]) -> bool {
        let random = trace.iter().rev().take(7).rev();
        random.fold(0, |number, byte| number << 8 | u64::from(*byte)) >= self.0
    }
}

/// What a batch is chosen by.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Choice {
    pub(crate) threshold: Threshold,
    /// Rows up to this one all go: they came before there was any sampling.
    pub(crate) all_until: i64,
    /// The batch begins after this row …
    pub(crate) after: i64,
    /// … and ends with this one at the latest: later ones have not settled.
    pub(crate) until: i64,
    /// Spans and bytes of one batch.
    pub(crate) limit: (usize, usize),
}

/// A batch that was chosen.
#[derive(Debug, Default)]
pub(crate) struct Chosen {
    /// What goes, in order.
    pub(crate) outgoing: Vec<Outgoing>,
    /// Rows that do not.
    pub(crate) dropped: Vec<i64>,
    /// Everything up to this row was decided on …
    pub(crate) last: i64,
    /// … by the rows up to this one.
    pub(crate) horizon: i64,
}

/// Notes that a record is notable.
pub(crate) fn note(connection: &Connection, trace: &[u8], record: i64) -> Result<(), StoreError> {
    connection
        .prepare_cached("INSERT OR IGNORE INTO notable_spans (trace, record) VALUES (?1, ?2)")?
        .execute(params![trace, record])?;
    Ok(())
}

/// Decides on the rows that are next.
pub(crate) fn choose(connection: &Connection, choice: Choice) -> Result<Chosen, StoreError> {
    let horizon = super::cursors::newest(connection)?;
    let mut chosen = Chosen { last: choice.after, horizon, ..Chosen::default() };
    let mut statement = connection.prepare_cached(
        "SELECT id, trace, kind FROM facts WHERE id > ?1 AND id <= ?2 ORDER BY id LIMIT ?3",
    )?;
    let mut rows = statement.query(params![choice.after, choice.until, LOOKED_AT])?;
    let mut first_notable: HashMap<Vec<u8>, Option<i64>> = HashMap::new();
    let (mut size, mut looked_at) = (0, 0);
    while let Some(row) = rows.next()? {
        let id: i64 = row.get(0)?;
        looked_at += 1;
        if row.get::<_, i64>(2)? != words::EVENT {
            let trace: Vec<u8> = row.get(1)?;
            let goes = id <= choice.all_until || choice.threshold.keeps(&trace);
            let notable = match first_notable.get(&trace) {
                _ if goes => None,
                Some(known) => *known,
                None => {
                    let found = find_notable(connection, &trace, horizon)?;
                    *first_notable.entry(trace.clone()).or_insert(found)
                }
            };
            if goes || notable.is_some() {
                if notable == Some(id) {
                    for earlier in not_sent(connection, &trace, id)? {
                        let outgoing = read_outgoing(connection, earlier)?;
                        chosen.outgoing.extend(outgoing);
                    }
                }
                let outgoing = read_outgoing(connection, id)?;
                size += outgoing.as_ref().map_or(0, |outgoing| outgoing.span.len());
                chosen.outgoing.extend(outgoing);
            } else {
                chosen.dropped.push(id);
            }
        }
        chosen.last = id;
        if chosen.outgoing.len() >= choice.limit.0 || size >= choice.limit.1 {
            return Ok(chosen);
        }
    }
    if looked_at < LOOKED_AT {
        // Whatever rows there are not up to here, there will never be.
        chosen.last = choice.until.max(choice.after);
    }
    Ok(chosen)
}

/// The first notable span of a trace.
fn find_notable(
    connection: &Connection,
    trace: &[u8],
    horizon: i64,
) -> Result<Option<i64>, StoreError> {
    let found = connection
        .prepare_cached("SELECT min(record) FROM notable_spans WHERE trace = ?1 AND record <= ?2")?
        .query_row(params![trace, horizon], |row| row.get(0))?;
    Ok(found)
}

/// The rows of a trace before its first notable one that were dropped because nobody knew of that yet.
fn not_sent(connection: &Connection, trace: &[u8], notable: i64) -> Result<Vec<i64>, StoreError> {
    let mut statement = connection.prepare_cached(
        "SELECT id FROM facts WHERE id >> 16 = ?1 AND trace = ?2 AND id < ?3 AND kind <> ?4
         ORDER BY id DESC",
    )?;
    let mut found = Vec::new();
    // The index is by blocks of rows.
    let block = |row: i64| row >> BLOCK_SHIFT;
    'blocks: for block in (block((notable - MEMORY).max(0))..=block(notable)).rev() {
        let arguments = params![block, trace, notable, words::EVENT];
        let rows = statement.query_map(arguments, |row| row.get(0))?;
        for row in rows {
            let row: i64 = row?;
            // What there is no memory of was sent when everything was, or is long forgotten.
            if horizon_of(connection, row)?.is_some_and(|horizon| horizon < notable) {
                found.push(row);
            }
            if found.len() == MAX_EARLIER {
                break 'blocks;
            }
        }
    }
    found.reverse();
    Ok(found)
}

fn horizon_of(connection: &Connection, row: i64) -> Result<Option<i64>, StoreError> {
    let decided: Option<(i64, i64)> = connection
        .prepare_cached(
            "SELECT first, horizon FROM export_decided WHERE last >= ?1 ORDER BY last LIMIT 1",
        )?
        .query_row([row], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    Ok(decided.filter(|(first, _)| *first <= row).map(|(_, horizon)| horizon))
}

/// Keeps what was known when the rows from `first` to `last` were decided on; forgets what is old.
pub(crate) fn decided(
    connection: &Connection,
    (first, last): (i64, i64),
    horizon: i64,
) -> Result<(), StoreError> {
    if first > last {
        return Ok(());
    }
    connection
        .prepare_cached(
            "INSERT OR REPLACE INTO export_decided (last, first, horizon) VALUES (?1, ?2, ?3)",
        )?
        .execute([last, first, horizon])?;
    for forget in [
        "DELETE FROM export_decided WHERE last < ?1",
        "DELETE FROM notable_spans WHERE record < ?1",
    ] {
        connection.prepare_cached(forget)?.execute([last - MEMORY])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_is_consistent_and_of_the_size_that_was_asked_for() {
        let trace = |low: u64| (0xffff_u128 << 112 | u128::from(low)).to_be_bytes();
        let last = (1 << 56) - 1;
        // Values of the specification: half of the traces, those from 0x80000000000000 on.
        let half = Threshold::of(0.5);
        assert!(half.keeps(&trace(0x80_0000_0000_0000)) && half.keeps(&trace(last)));
        assert!(!half.keeps(&trace(0x7f_ffff_ffff_ffff)) && !half.keeps(&trace(0)));
        // The upper bits say nothing.
        assert!(!half.keeps(&trace(0xff7f_ffff_ffff_ffff)));
        assert!(Threshold::of(1.0).keeps(&trace(0)));
        assert!(!Threshold::of(0.0).keeps(&trace(last)));
        let mut random = fastrand::Rng::with_seed(7);
        let (tenth, fifth) = (Threshold::of(0.1), Threshold::of(0.2));
        let traces: Vec<_> = (0..20_000).map(|_| random.u128(..).to_be_bytes()).collect();
        let kept = traces.iter().filter(|trace| tenth.keeps(*trace)).count();
        assert!((1_800..2_200).contains(&kept), "{kept}");
        assert!(traces.iter().all(|trace| !tenth.keeps(trace) || fifth.keeps(trace)));
    }
}
