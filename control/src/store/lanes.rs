//! The lanes of emitters: how many records are here, how far their chains go, what is missing in them,
//! and what is counted by minute.

use std::collections::BTreeMap;

use picket_certs::leaf::hex;
use picket_ledger::{Hash, chain};
use rusqlite::{Connection, OptionalExtension as _, params};

use super::{StoreError, records};
use crate::record::{Facts, Gap};

/// Something about a lane's chain that cannot be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Broken {
    pub(crate) boot: String,
    pub(crate) lane: i64,
    pub(crate) position: i64,
    pub(crate) what: &'static str,
}

#[derive(Default)]
struct Lane {
    stored: i64,
    highest: i64,
    position: i64,
    hash: Option<Hash>,
    /// Heads with places that are still to come, and their hashes.
    heads: BTreeMap<i64, Vec<u8>>,
}

/// The lanes that a batch touches.
pub(super) struct Lanes<'c> {
    connection: &'c Connection,
    emitter: i64,
    spiffe_id: &'c str,
    boot: &'c str,
    now: i64,
    lanes: BTreeMap<i64, Lane>,
    minutes: BTreeMap<i64, i64>,
    pub(super) broken: Vec<Broken>,
}

impl<'c> Lanes<'c> {
    pub(super) fn new(
        connection: &'c Connection,
        emitter: i64,
        (spiffe_id, boot): (&'c str, &'c str),
        now: i64,
    ) -> Self {
        let (lanes, minutes, broken) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
        Self { connection, emitter, spiffe_id, boot, now, lanes, minutes, broken }
    }

    /// Counts a record that is new, under its id.
    pub(super) fn add(&mut self, id: i64, facts: &Facts, bytes: &[u8]) -> Result<(), StoreError> {
        let minute = facts.time_ns / 60_000_000_000;
        *self.minutes.entry(minute).or_default() += 1;
        if let Some(gap) = &facts.gap {
            self.declare(id, gap, facts.lane, minute)?;
        }
        let connection = self.connection;
        let lane = match self.lanes.entry(facts.lane) {
            std::collections::btree_map::Entry::Occupied(known) => known.into_mut(),
            std::collections::btree_map::Entry::Vacant(place) => {
                place.insert(load(connection, self.emitter, facts.lane)?)
            }
        };
        lane.stored += 1;
        lane.highest = lane.highest.max(facts.sequence);
        if facts.position == 0 {
            return Ok(());
        }
        let broken = |what| Broken {
            boot: self.boot.to_owned(),
            lane: facts.lane,
            position: facts.position,
            what,
        };
        let place = (self.emitter, facts.lane, facts.position);
        if facts.position <= lane.position {
            if !fill(connection, place)? {
                self.broken.push(broken("there is another record at this place of the chain"));
            }
            return Ok(());
        }
        if facts.position == lane.position + 1 {
            let seed = || chain::seed(self.spiffe_id, self.boot, facts.lane);
            let before = lane.hash.unwrap_or_else(seed);
            if facts.previous.as_deref() != Some(hex(&before).as_str()) {
                self.broken.push(broken("it does not continue the chain"));
            }
        } else {
            connection
                .prepare_cached(
                    "INSERT INTO holes (emitter, lane, first, last, minute, seen_at)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                )?
                .execute(params![
                    self.emitter,
                    facts.lane,
                    lane.position + 1,
                    facts.position - 1,
                    minute,
                    self.now
                ])?;
        }
        let hash = chain::hash(bytes);
        if lane.heads.get(&facts.position).is_some_and(|head| head.as_slice() != hash) {
            self.broken.push(broken("a signed head says that another record stands here"));
        }
        (lane.position, lane.hash) = (facts.position, Some(hash));
        Ok(())
    }

    /// Enters what an emitter says that it did not keep.
    fn declare(&self, id: i64, gap: &Gap, lane: i64, minute: i64) -> Result<(), StoreError> {
        // A boot of its own that is over, or this one: nobody declares another's records lost.
        let meant = match gap.boot.as_deref() {
            Some(boot) if boot != self.boot => {
                records::emitter(self.connection, boot, self.spiffe_id)?
            }
            _ => Some(self.emitter),
        };
        let Some(meant) = meant else { return Ok(()) };
        self.connection
            .prepare_cached(
                "INSERT INTO gaps (record, emitter, lane, reason, count, first, last, minute)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            )?
            .execute(params![
                id,
                meant,
                gap.lane.unwrap_or(lane),
                gap.reason,
                gap.count,
                gap.first,
                gap.last,
                minute
            ])?;
        Ok(())
    }

    /// Writes it all down.
    pub(super) fn finish(self) -> Result<Vec<Broken>, StoreError> {
        let mut write = self.connection.prepare_cached(
            "INSERT INTO lanes (emitter, lane, stored, highest, position, hash, updated_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
             ON CONFLICT (emitter, lane) DO UPDATE SET stored = excluded.stored,
                 highest = excluded.highest, position = excluded.position, hash = excluded.hash,
                 updated_at = excluded.updated_at",
        )?;
        for (number, lane) in &self.lanes {
            let hash = lane.hash.as_ref().map(|hash| hash.as_slice());
            let Lane { stored, highest, position, .. } = lane;
            write.execute(params![
                self.emitter,
                number,
                stored,
                highest,
                position,
                hash,
                self.now
            ])?;
        }
        let mut count = self.connection.prepare_cached(
            "INSERT INTO minutes (emitter, minute, stored) VALUES (?1, ?2, ?3)
             ON CONFLICT (emitter, minute) DO UPDATE SET stored = stored + excluded.stored",
        )?;
        for (minute, stored) in &self.minutes {
            count.execute([self.emitter, *minute, *stored])?;
        }
        Ok(self.broken)
    }
}

fn load(connection: &Connection, emitter: i64, number: i64) -> Result<Lane, StoreError> {
    let found = connection
        .prepare_cached(
            "SELECT stored, highest, position, hash FROM lanes WHERE emitter = ?1 AND lane = ?2",
        )?
        .query_row([emitter, number], |row| {
            let hash: Option<Vec<u8>> = row.get(3)?;
            Ok(Lane {
                stored: row.get(0)?,
                highest: row.get(1)?,
                position: row.get(2)?,
                hash: hash.and_then(|hash| Hash::try_from(hash.as_slice()).ok()),
                heads: BTreeMap::new(),
            })
        })
        .optional()?;
    let mut lane = found.unwrap_or_default();
    let mut heads = connection.prepare_cached(
        "SELECT position, hash FROM heads WHERE emitter = ?1 AND lane = ?2 AND position > ?3",
    )?;
    let rows = heads.query_map([emitter, number, lane.position], |r| Ok((r.get(0)?, r.get(1)?)))?;
    lane.heads = rows.collect::<Result<_, _>>()?;
    Ok(lane)
}

/// Takes a place out of the holes. False if it is in none.
fn fill(
    connection: &Connection,
    (emitter, lane, position): (i64, i64, i64),
) -> Result<bool, StoreError> {
    let hole: Option<(i64, i64, i64, i64, Option<i64>)> = connection
        .prepare_cached(
            "SELECT first, last, minute, seen_at, reported_at FROM holes
             WHERE emitter = ?1 AND lane = ?2 AND first <= ?3 ORDER BY first DESC LIMIT 1",
        )?
        .query_row([emitter, lane, position], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?))
        })
        .optional()?;
    let Some((first, last, minute, seen_at, reported_at)) = hole.filter(|h| h.1 >= position) else {
        return Ok(false);
    };
    connection
        .prepare_cached("DELETE FROM holes WHERE emitter = ?1 AND lane = ?2 AND first = ?3")?
        .execute([emitter, lane, first])?;
    let mut insert = connection.prepare_cached(
        "INSERT INTO holes (emitter, lane, first, last, minute, seen_at, reported_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?;
    for (first, last) in [(first, position - 1), (position + 1, last)] {
        if first <= last {
            insert.execute(params![emitter, lane, first, last, minute, seen_at, reported_at])?;
        }
    }
    Ok(true)
}
