//! What a record is searched by, filed in a narrow table beside the record itself.

use bytes::Bytes;
use opentelemetry_proto::tonic::trace::v1::Span;
use picket_certs::leaf::hex;
use prost::Message as _;
use rusqlite::{CachedStatement, Connection, params};

use super::words::Words;
use super::{StoreError, segments};
use crate::record::Facts;

/// Files the records of one emitter, within one transaction.
pub(crate) struct Filing<'c> {
    words: Words<'c>,
    insert: CachedStatement<'c>,
    emitter: i64,
}

impl<'c> Filing<'c> {
    pub(crate) fn new(connection: &'c Connection, spiffe_id: &str) -> Result<Self, StoreError> {
        let mut words = Words::new(connection);
        let emitter = words.number(spiffe_id)?;
        let insert = connection.prepare_cached(
            "INSERT INTO facts (id, time_ns, duration_us, kind, event, direction, emitter, source, destination,
                 route, method, status, decision, policy, reason, dry_run, path, decision_id, trace, span)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20)",
        )?;
        Ok(Self { words, insert, emitter })
    }

    /// Files the record with this id.
    pub(crate) fn add(&mut self, id: i64, facts: &Facts) -> Result<(), StoreError> {
        let mut number =
            |text: &Option<String>| text.as_deref().map(|text| self.words.number(text)).transpose();
        let (event, direction) = (number(&facts.event)?, number(&facts.direction)?);
        let (source, destination) = (number(&facts.source)?, number(&facts.destination)?);
        let (route, decision) = (number(&facts.route)?, number(&facts.decision)?);
        let (policy, reason) = (number(&facts.policy)?, number(&facts.reason)?);
        let method = facts.method.as_deref().map(|text| self.words.known(text)).transpose()?;
        // It is the span's id, unless somebody else's proxy has made it.
        let is_own = |id: &&str| *id != hex(&facts.span);
        self.insert.execute(params![
            id,
            facts.time_ns,
            facts.duration_us,
            self.words.number(&facts.kind)?,
            event,
            direction,
            self.emitter,
            source,
            destination,
            route,
            method,
            facts.status,
            decision,
            policy,
            reason,
            facts.is_dry_run,
            facts.path,
            facts.decision_id.as_deref().filter(is_own),
            facts.trace,
            facts.span,
        ])?;
        Ok(())
    }
}

/// Files what was stored before there was such a table.
pub(super) fn file_all(connection: &Connection) -> Result<(), StoreError> {
    let mut all = connection.prepare(
        "SELECT records.id, records.bytes, emitters.spiffe_id FROM records
         JOIN emitters ON emitters.id = records.emitter ORDER BY records.id",
    )?;
    let mut rows = all.query([])?;
    let mut filing: Option<(String, Filing<'_>)> = None;
    while let Some(row) = rows.next()? {
        let (id, bytes): (i64, Vec<u8>) = (row.get(0)?, row.get(1)?);
        let spiffe_id: String = row.get(2)?;
        let span = Span::decode(Bytes::from(bytes)).ok();
        let facts = span.and_then(|span| Facts::of(span).ok());
        let facts = facts.ok_or(StoreError::Unreadable("an audit record"))?;
        match &mut filing {
            Some((of, filing)) if *of == spiffe_id => filing.add(id, &facts)?,
            _ => {
                let mut new = Filing::new(connection, &spiffe_id)?;
                new.add(id, &facts)?;
                filing = Some((spiffe_id, new));
            }
        }
    }
    segments::seal(connection)
}
