//! Audit records as they come in: deduplicated, counted, and kept as the bytes they were.

use bytes::Bytes;
use picket_certs::leaf::sha256;
use picket_ledger::entry;
use rusqlite::{Connection, OptionalExtension as _, params};

use super::facts::Filing;
use super::feed::Arrived;
use super::lanes::{Broken, Lanes};
use super::{StoreError, Writing, log, sampling, segments};
use crate::record::Facts;

/// One record and the bytes it is made of.
#[derive(Debug, Clone)]
pub(crate) struct NewRecord {
    pub(crate) facts: Facts,
    pub(crate) bytes: Bytes,
}

/// Records of one emitter's boot under one resource.
#[derive(Debug, Clone)]
pub(crate) struct Batch {
    pub(crate) spiffe_id: String,
    pub(crate) boot: String,
    pub(crate) resource: Bytes,
    pub(crate) records: Vec<NewRecord>,
    /// What lasts as long, in microseconds, is noted for the export's sampling; none: nothing is.
    pub(crate) slow_us: Option<i64>,
}

/// What became of a batch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Stored {
    /// Records that are new.
    pub(crate) new: u64,
    /// Records that were here already, byte for byte.
    pub(crate) duplicates: u64,
    /// Records whose number belongs to another record.
    pub(crate) conflicts: u64,
    /// Records that were stored although they do not fit their lane's chain.
    pub(crate) broken: Vec<Broken>,
}

/// The boot belongs to another emitter: nobody writes another's history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ForeignBoot;

/// Stores a batch, and enters it into the log; what is here already is counted, not stored again.
pub(crate) fn insert(
    writing: &Writing<'_>,
    batch: &Batch,
    now: i64,
) -> Result<Result<Stored, ForeignBoot>, StoreError> {
    let Some(emitter) = emitter(writing, &batch.boot, &batch.spiffe_id)? else {
        return Ok(Err(ForeignBoot));
    };
    let resource = resource(writing, &batch.resource)?;
    let mut insert = writing.prepare_cached(
        "INSERT INTO records (id, emitter, lane, sequence, resource, bytes, position, salt)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
         ON CONFLICT (emitter, lane, sequence) DO NOTHING",
    )?;
    let mut filing = Filing::new(writing, &batch.spiffe_id)?;
    let mut stored = Stored::default();
    let mut lanes = Lanes::new(writing, emitter, (&batch.spiffe_id, &batch.boot), now);
    let resource_hash = sha256(&batch.resource);
    let mut leaves = Vec::with_capacity(batch.records.len());
    let first = i64::try_from(writing.log_size()).unwrap_or(i64::MAX);
    for (NewRecord { facts, bytes }, salt) in
        batch.records.iter().zip(log::salts(batch.records.len())?)
    {
        let id = first + i64::try_from(leaves.len()).unwrap_or(0) + 1;
        let changed = insert.execute(params![
            id,
            emitter,
            facts.lane,
            facts.sequence,
            resource,
            bytes.as_ref(),
            facts.position,
            salt,
        ])?;
        if changed == 1 {
            filing.add(id, facts)?;
            writing.arrived(|| Arrived {
                id,
                resource: batch.resource.clone(),
                span: bytes.clone(),
            });
            stored.new += 1;
            if batch.slow_us.is_some_and(|slow| facts.is_notable(slow)) {
                sampling::note(writing, &facts.trace, id)?;
            }
            lanes.add(id, facts, bytes)?;
            let commitment = entry::commitment_under(&salt, &resource_hash, bytes);
            let numbers = [facts.lane, facts.sequence, facts.position];
            leaves.push(entry::leaf_of((&batch.spiffe_id, &batch.boot), numbers, &commitment));
        } else if is_same(writing, emitter, facts, bytes)? {
            stored.duplicates += 1;
        } else {
            stored.conflicts += 1;
        }
    }
    writing.append(leaves)?;
    stored.broken = lanes.finish()?;
    if stored.new > 0 {
        segments::seal(writing)?;
    }
    Ok(Ok(stored))
}

/// The next number of a lane. Only sound inside the writer's transaction.
pub(crate) fn next_sequence(
    connection: &Connection,
    spiffe_id: &str,
    boot: &str,
    lane: i64,
) -> Result<i64, StoreError> {
    let Some(emitter) = emitter(connection, boot, spiffe_id)? else {
        return Err(StoreError::Unreadable(
            "a boot of the control plane's that another emitter uses",
        ));
    };
    let highest: Option<i64> = connection
        .prepare_cached("SELECT highest FROM lanes WHERE emitter = ?1 AND lane = ?2")?
        .query_row(params![emitter, lane], |row| row.get(0))
        .optional()?;
    Ok(highest.unwrap_or(0) + 1)
}

/// How many records of a boot are here, over all its lanes.
pub(crate) fn stored_of_boot(connection: &Connection, boot: &str) -> Result<u64, StoreError> {
    let sum: i64 = connection
        .prepare_cached(
            "SELECT coalesce(sum(stored), 0) FROM lanes
             WHERE emitter = (SELECT id FROM emitters WHERE boot = ?1)",
        )?
        .query_row([boot], |row| row.get(0))?;
    Ok(u64::try_from(sum).unwrap_or(0))
}

/// How many records are here, and how many numbers are missing below the highest of each lane.
pub(crate) fn totals(connection: &Connection) -> Result<(u64, u64), StoreError> {
    let (stored, missing): (i64, i64) = connection
        .prepare_cached(
            "SELECT coalesce(sum(stored), 0), coalesce(sum(highest - stored), 0) FROM lanes",
        )?
        .query_row([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok((u64::try_from(stored).unwrap_or(0), u64::try_from(missing).unwrap_or(0)))
}

/// The number of an emitter's boot; none if the boot is another's.
pub(super) fn emitter(
    connection: &Connection,
    boot: &str,
    spiffe_id: &str,
) -> Result<Option<i64>, StoreError> {
    let known: Option<(i64, String)> = connection
        .prepare_cached("SELECT id, spiffe_id FROM emitters WHERE boot = ?1")?
        .query_row([boot], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    match known {
        Some((id, owner)) => Ok((owner == spiffe_id).then_some(id)),
        None => {
            connection
                .prepare_cached("INSERT INTO emitters (boot, spiffe_id) VALUES (?1, ?2)")?
                .execute([boot, spiffe_id])?;
            Ok(Some(connection.last_insert_rowid()))
        }
    }
}

fn resource(connection: &Connection, bytes: &Bytes) -> Result<i64, StoreError> {
    let hash = sha256(bytes);
    let known: Option<i64> = connection
        .prepare_cached("SELECT id FROM resources WHERE hash = ?1")?
        .query_row([hash.as_slice()], |row| row.get(0))
        .optional()?;
    if let Some(id) = known {
        return Ok(id);
    }
    connection
        .prepare_cached("INSERT INTO resources (hash, bytes) VALUES (?1, ?2)")?
        .execute(params![hash.as_slice(), bytes.as_ref()])?;
    Ok(connection.last_insert_rowid())
}

fn is_same(
    connection: &Connection,
    emitter: i64,
    facts: &Facts,
    bytes: &Bytes,
) -> Result<bool, StoreError> {
    let same = connection
        .prepare_cached(
            "SELECT bytes = ?4 FROM records WHERE emitter = ?1 AND lane = ?2 AND sequence = ?3",
        )?
        .query_row(params![emitter, facts.lane, facts.sequence, bytes.as_ref()], |row| {
            row.get(0)
        })?;
    Ok(same)
}
