//! Signed heads of lanes, and the certificates that they were signed with.

use picket_api::v1::{ChainHead, SignedHeads};
use prost::Message as _;
use rusqlite::{Connection, OptionalExtension as _, params};

use super::{StoreError, records};

/// What became of a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Saved {
    /// It says more than was known, or the same.
    Kept,
    /// The boot belongs to another emitter.
    ForeignBoot,
    /// Its numbers are larger than numbers of records get.
    TooLarge,
    /// Another head was signed with this position and another hash.
    Fork,
    /// The record at its position is another one.
    OtherRecord,
}

const MINUTE: i64 = 60_000;

/// Keeps the certificates of heads; the answer names them.
pub(crate) fn certificate(connection: &Connection, chain: &[Vec<u8>]) -> Result<i64, StoreError> {
    let chain = SignedHeads { certificate_chain: chain.to_vec(), heads: Vec::new() };
    let bytes = chain.encode_to_vec();
    let hash = picket_certs::leaf::sha256(&bytes);
    let known = connection
        .prepare_cached("SELECT id FROM head_certificates WHERE hash = ?1")?
        .query_row([hash.as_slice()], |row| row.get(0))
        .optional()?;
    if let Some(id) = known {
        return Ok(id);
    }
    connection
        .prepare_cached("INSERT INTO head_certificates (hash, chain) VALUES (?1, ?2)")?
        .execute(params![hash.as_slice(), bytes])?;
    Ok(connection.last_insert_rowid())
}

/// Keeps a head whose signature was checked.
pub(crate) fn save(
    connection: &Connection,
    spiffe_id: &str,
    head: &ChainHead,
    certificate: i64,
    now: i64,
) -> Result<Saved, StoreError> {
    let numbers = [head.position, head.emitted, head.open, head.lost].map(i64::try_from);
    let [Ok(position), Ok(emitted), Ok(open), Ok(lost)] = numbers else {
        return Ok(Saved::TooLarge);
    };
    let Some(emitter) = records::emitter(connection, &head.boot, spiffe_id)? else {
        return Ok(Saved::ForeignBoot);
    };
    let lane = i64::from(head.lane);
    let newest = connection
        .prepare_cached(
            "SELECT position, hash, time_ms, received_at FROM heads WHERE emitter = ?1 AND lane = ?2
             ORDER BY position DESC LIMIT 1",
        )?
        .query_row([emitter, lane], |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, Vec<u8>>(1)?, row.get::<_, i64>(2)?, row.get(3)?))
        })
        .optional()?;
    let mut received_at = now;
    if let Some((before, hash, time_ms, since)) = newest {
        match before.cmp(&position) {
            std::cmp::Ordering::Greater => return older(connection, emitter, lane, position, head),
            std::cmp::Ordering::Equal if hash != head.hash => return Ok(Saved::Fork),
            std::cmp::Ordering::Equal if time_ms > head.time_ms => return Ok(Saved::Kept),
            // Since when this position has been heard of is what a missing record is judged by.
            std::cmp::Ordering::Equal => received_at = since,
            std::cmp::Ordering::Less if time_ms / MINUTE == head.time_ms / MINUTE => {
                connection
                    .prepare_cached(
                        "DELETE FROM heads WHERE emitter = ?1 AND lane = ?2 AND position = ?3",
                    )?
                    .execute([emitter, lane, before])?;
            }
            std::cmp::Ordering::Less => {}
        }
    }
    connection
        .prepare_cached(
            "INSERT INTO heads (emitter, lane, position, hash, emitted, open, lost, time_ms, signature,
                 certificate, received_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)
             ON CONFLICT (emitter, lane, position) DO UPDATE SET emitted = excluded.emitted,
                 open = excluded.open, lost = excluded.lost, time_ms = excluded.time_ms,
                 signature = excluded.signature, certificate = excluded.certificate",
        )?
        .execute(params![
            emitter,
            lane,
            position,
            head.hash,
            emitted,
            open,
            lost,
            head.time_ms,
            head.signature,
            certificate,
            received_at
        ])?;
    let stored: Option<(i64, Option<Vec<u8>>)> = connection
        .prepare_cached("SELECT position, hash FROM lanes WHERE emitter = ?1 AND lane = ?2")?
        .query_row([emitter, lane], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let is_other = stored.is_some_and(|(at, hash)| {
        at == position && position > 0 && hash.is_some_and(|hash| hash != head.hash)
    });
    Ok(if is_other { Saved::OtherRecord } else { Saved::Kept })
}

/// A head that comes late adds nothing, unless it says something else.
fn older(
    connection: &Connection,
    emitter: i64,
    lane: i64,
    position: i64,
    head: &ChainHead,
) -> Result<Saved, StoreError> {
    let known: Option<Vec<u8>> = connection
        .prepare_cached(
            "SELECT hash FROM heads WHERE emitter = ?1 AND lane = ?2 AND position = ?3",
        )?
        .query_row([emitter, lane, position], |row| row.get(0))
        .optional()?;
    Ok(if known.is_some_and(|hash| hash != head.hash) { Saved::Fork } else { Saved::Kept })
}

/// A head as it is kept.
#[derive(Debug, Clone)]
pub(crate) struct Kept {
    pub(crate) spiffe_id: String,
    pub(crate) head: ChainHead,
    pub(crate) certificate: i64,
}

/// Every head that is kept.
pub(crate) fn all(connection: &Connection) -> Result<Vec<Kept>, StoreError> {
    let mut statement = connection.prepare_cached(
        "SELECT spiffe_id, boot, lane, position, hash, emitted, open, lost, time_ms, signature, certificate
         FROM heads JOIN emitters ON emitters.id = heads.emitter ORDER BY emitter, lane, position",
    )?;
    let number = |row: &rusqlite::Row<'_>, at| -> rusqlite::Result<u64> {
        Ok(u64::try_from(row.get::<_, i64>(at)?).unwrap_or(0))
    };
    let rows = statement.query_map([], |row| {
        Ok(Kept {
            spiffe_id: row.get(0)?,
            head: ChainHead {
                boot: row.get(1)?,
                lane: u32::try_from(row.get::<_, i64>(2)?).unwrap_or(u32::MAX),
                position: number(row, 3)?,
                hash: row.get(4)?,
                emitted: number(row, 5)?,
                open: number(row, 6)?,
                lost: number(row, 7)?,
                time_ms: row.get(8)?,
                signature: row.get(9)?,
            },
            certificate: row.get(10)?,
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Certificates that heads were signed with: their number, and DER, leaf first.
pub(crate) type Certificates = (i64, Vec<Vec<u8>>);

/// The certificates of heads: number, and DER, leaf first.
pub(crate) fn certificates(connection: &Connection) -> Result<Vec<Certificates>, StoreError> {
    let mut statement = connection.prepare_cached("SELECT id, chain FROM head_certificates")?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get::<_, Vec<u8>>(1)?)))?;
    let mut chains = Vec::new();
    for row in rows {
        let (id, bytes) = row?;
        let chain = SignedHeads::decode(bytes.as_slice());
        let chain = chain.map_err(|_| StoreError::Unreadable("certificates of a head"))?;
        chains.push((id, chain.certificate_chain));
    }
    Ok(chains)
}
