//! The log over the records as the database has it: tiles, checkpoints, entries.
//!
//! The entry of a record has the index `id - 1`. Tiles are written in the transaction of the records.

use picket_ledger::entry::{self, Entry, SALT};
use picket_ledger::tree::{HASH, WIDTH, root_over, split_hashes};
use picket_ledger::{Hash, Tree, proof, tile};
use rusqlite::{Connection, OptionalExtension as _, params};

use super::StoreError;

const LEVEL: u32 = 48;

fn tile_id(level: u8, number: u64) -> Result<i64, StoreError> {
    let id = (u64::from(level) << LEVEL) | number;
    i64::try_from(id).map_err(|_| StoreError::Unreadable("a tile's number"))
}

/// Keeps a tile.
pub(super) fn save(
    connection: &Connection,
    level: u8,
    number: u64,
    hashes: &[u8],
) -> Result<(), StoreError> {
    connection
        .prepare_cached(
            "INSERT INTO tiles (id, hashes) VALUES (?1, ?2)
             ON CONFLICT (id) DO UPDATE SET hashes = excluded.hashes",
        )?
        .execute(params![tile_id(level, number)?, hashes])?;
    Ok(())
}

/// The hashes of a tile, as many as there are; none if there is no such tile.
pub(crate) fn read_tile(
    connection: &Connection,
    level: u8,
    number: u64,
) -> Result<Option<Vec<Hash>>, StoreError> {
    let hashes: Option<Vec<u8>> = connection
        .prepare_cached("SELECT hashes FROM tiles WHERE id = ?1")?
        .query_row([tile_id(level, number)?], |row| row.get(0))
        .optional()?;
    let Some(hashes) = hashes else { return Ok(None) };
    let hashes = split_hashes(&hashes).filter(|hashes| hashes.len() <= WIDTH);
    hashes.map(Some).ok_or(StoreError::Unreadable("a tile of the log"))
}

/// How many entries there are, by the tiles.
fn size(connection: &Connection) -> Result<u64, StoreError> {
    let last: Option<(i64, i64)> = connection
        .query_row(
            "SELECT id, length(hashes) FROM tiles WHERE id < ?1 ORDER BY id DESC LIMIT 1",
            [1_i64 << LEVEL],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
        .optional()?;
    let (number, bytes) = last.unwrap_or_default();
    let (number, bytes) = (u64::try_from(number).unwrap_or(0), u64::try_from(bytes).unwrap_or(0));
    Ok(number * WIDTH as u64 + bytes / HASH as u64)
}

/// The tree as the tiles have it.
pub(super) fn load(connection: &Connection) -> Result<Tree, StoreError> {
    tree_of(connection, size(connection)?)
}

/// The tree of the first `size` entries.
pub(crate) fn tree_of(connection: &Connection, size: u64) -> Result<Tree, StoreError> {
    let broken = StoreError::Unreadable("tiles of the log");
    let (mut edge, mut left) = (Vec::new(), size);
    let mut level = 0;
    while left > 0 {
        let width = usize::try_from(left % WIDTH as u64).unwrap_or(0);
        left /= WIDTH as u64;
        let tile = match width {
            0 => Vec::new(),
            _ => read_tile(connection, level, left)?.unwrap_or_default(),
        };
        edge.push(tile.get(..width).map(<[Hash]>::to_vec).unwrap_or_default());
        level += 1;
    }
    Tree::restore(size, edge).map_err(|_| broken)
}

/// Reads the roots of complete subtrees from tiles.
pub(crate) fn node(connection: &Connection, height: u32, index: u64) -> Result<Hash, StoreError> {
    let (level, number, range) = tile::holding(height, index);
    let tile = read_tile(connection, level, number)?.unwrap_or_default();
    match tile.get(range) {
        Some(hashes) => Ok(root_over(hashes)),
        None => Err(StoreError::Unreadable("a tile of the log")),
    }
}

/// The root of the first `size` entries.
pub(crate) fn root(connection: &Connection, size: u64) -> Result<Hash, StoreError> {
    proof::root(size, &mut |height, index| node(connection, height, index))
}

/// That the tree of `old` entries is the beginning of that of `new`.
pub(crate) fn consistency(
    connection: &Connection,
    old: u64,
    new: u64,
) -> Result<Vec<Hash>, StoreError> {
    proof::consistency(old, new, &mut |height, index| node(connection, height, index))
}

/// The way from an entry to the root of the first `size` entries.
pub(crate) fn inclusion(
    connection: &Connection,
    index: u64,
    size: u64,
) -> Result<Vec<Hash>, StoreError> {
    proof::inclusion(index, size, &mut |height, index| node(connection, height, index))
}

/// A record with everything that its entry follows from.
#[derive(Debug, Clone)]
pub(crate) struct Logged {
    pub(crate) index: u64,
    /// The entry, as what is stored now would have it.
    pub(crate) entry: Entry,
    /// None if it was erased.
    pub(crate) salt: Option<Vec<u8>>,
    pub(crate) resource_id: i64,
    pub(crate) resource: Vec<u8>,
    /// Empty if it was erased.
    pub(crate) span: Vec<u8>,
}

/// The records from one index to another that are here.
pub(crate) fn records(
    connection: &Connection,
    first: u64,
    end: u64,
) -> Result<Vec<Logged>, StoreError> {
    let mut statement = connection.prepare_cached(
        "SELECT records.id, emitters.spiffe_id, emitters.boot, lane, sequence, position, salt, resource,
             resources.bytes, records.bytes, erased.commitment
         FROM records
         LEFT JOIN emitters ON emitters.id = records.emitter
         LEFT JOIN resources ON resources.id = records.resource
         LEFT JOIN erased ON erased.record = records.id
         WHERE records.id > ?1 AND records.id <= ?2 ORDER BY records.id",
    )?;
    let id = |index: u64| i64::try_from(index).unwrap_or(i64::MAX);
    let rows = statement.query_map([id(first), id(end)], |row| {
        let salt: Option<Vec<u8>> = row.get(6)?;
        let resource = row.get::<_, Option<Vec<u8>>>(8)?.unwrap_or_default();
        let span: Vec<u8> = row.get(9)?;
        let kept: Option<Vec<u8>> = row.get(10)?;
        let kept = kept.and_then(|kept| Hash::try_from(kept.as_slice()).ok());
        let computed = || entry::commitment(salt.as_deref().unwrap_or_default(), &resource, &span);
        let commitment = kept.filter(|_| salt.is_none()).unwrap_or_else(computed);
        let entry = Entry {
            emitter: row.get::<_, Option<String>>(1)?.unwrap_or_default(),
            boot: row.get::<_, Option<String>>(2)?.unwrap_or_default(),
            lane: row.get(3)?,
            sequence: row.get(4)?,
            position: row.get(5)?,
            commitment,
        };
        let id: i64 = row.get(0)?;
        let index = u64::try_from(id - 1).unwrap_or(0);
        Ok(Logged { index, entry, salt, resource_id: row.get(7)?, resource, span })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Salts for so many records.
pub(super) fn salts(count: usize) -> Result<Vec<[u8; SALT]>, StoreError> {
    let mut bytes = vec![0; count * SALT];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| StoreError::Unreadable("no randomness"))?;
    Ok(bytes.as_chunks::<SALT>().0.to_vec())
}

/// Gives the records of an older schema ids without holes, in their order.
pub(super) fn renumber(connection: &Connection) -> Result<(), StoreError> {
    connection.execute_batch(
        "CREATE TEMP TABLE renumbered AS
             SELECT id AS old, row_number() OVER (ORDER BY id) AS new FROM records;
         CREATE UNIQUE INDEX temp.renumbered_old ON renumbered (old);
         UPDATE export_cursors SET position =
             (SELECT count(*) FROM renumbered WHERE old <= export_cursors.position);
         UPDATE records SET id = (SELECT new FROM renumbered WHERE old = id)
             WHERE id <> (SELECT new FROM renumbered WHERE old = id);
         DROP TABLE renumbered;",
    )?;
    Ok(())
}

/// Enters the records of an older schema.
pub(super) fn enter_all(connection: &Connection) -> Result<(), StoreError> {
    let (mut tree, mut full) = (Tree::default(), Vec::new());
    loop {
        let first = tree.size();
        let found = records(connection, first, first + 1_000)?;
        if found.is_empty() {
            break;
        }
        let mut salted = connection.prepare_cached("UPDATE records SET salt = ?2 WHERE id = ?1")?;
        for (mut logged, salt) in found.into_iter().zip(salts(1_000)?) {
            salted.execute(params![i64::try_from(logged.index + 1).unwrap_or(0), salt])?;
            logged.entry.commitment = entry::commitment(&salt, &logged.resource, &logged.span);
            tree.push(logged.entry.leaf(), &mut full);
        }
        for tile in full.drain(..) {
            save(connection, tile.level, tile.number, &tile.hashes)?;
        }
    }
    let mut number = tree.size();
    for (level, tile) in (0_u8..).zip(tree.edge()) {
        number /= WIDTH as u64;
        if !tile.is_empty() {
            save(connection, level, number, &tile.concat())?;
        }
    }
    Ok(())
}

/// Moves rows aside that have not come through the log, and says which.
pub(crate) fn set_aside(
    connection: &Connection,
    size: u64,
    now: i64,
) -> Result<Vec<i64>, StoreError> {
    let size = i64::try_from(size).unwrap_or(i64::MAX);
    let mut ids = connection.prepare("SELECT id FROM records WHERE id > ?1 ORDER BY id")?;
    let ids: Vec<i64> = ids.query_map([size], |row| row.get(0))?.collect::<Result<_, _>>()?;
    if !ids.is_empty() {
        connection.execute(
            "INSERT INTO unlogged (found_at, record, emitter, lane, sequence, bytes)
             SELECT ?2, id, emitter, lane, sequence, bytes FROM records WHERE id > ?1",
            [size, now],
        )?;
        connection.execute("DELETE FROM records WHERE id > ?1", [size])?;
    }
    Ok(ids)
}

/// A checkpoint as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Kept {
    pub(crate) size: u64,
    pub(crate) root: Hash,
    pub(crate) note: String,
}

/// Keeps a checkpoint. Of those of the last hour all are kept, of older ones one of each hour.
pub(crate) fn keep(connection: &Connection, kept: &Kept, now: i64) -> Result<(), StoreError> {
    let size = i64::try_from(kept.size).unwrap_or(i64::MAX);
    connection
        .prepare_cached(
            "INSERT INTO checkpoints (size, root, note, made_at) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT (size) DO NOTHING",
        )?
        .execute(params![size, kept.root.as_slice(), kept.note, now])?;
    Ok(())
}

/// Forgets checkpoints that add nothing to what later and earlier ones say.
pub(crate) fn thin_out(connection: &Connection, now: i64) -> Result<(), StoreError> {
    const HOUR: i64 = 3_600_000;
    connection.execute(
        "DELETE FROM checkpoints WHERE made_at < ?1 AND size NOT IN
             (SELECT max(size) FROM checkpoints GROUP BY made_at / ?2)",
        [now - HOUR, HOUR],
    )?;
    connection
        .execute("DELETE FROM cosignatures WHERE size NOT IN (SELECT size FROM checkpoints)", [])?;
    Ok(())
}

fn kept(row: &rusqlite::Row<'_>) -> rusqlite::Result<Kept> {
    let (size, root): (i64, Vec<u8>) = (row.get(0)?, row.get(1)?);
    let size = u64::try_from(size).unwrap_or(0);
    Ok(Kept { size, root: Hash::try_from(root.as_slice()).unwrap_or_default(), note: row.get(2)? })
}

/// The last checkpoint.
pub(crate) fn last_checkpoint(connection: &Connection) -> Result<Option<Kept>, StoreError> {
    let last = connection
        .prepare_cached("SELECT size, root, note FROM checkpoints ORDER BY size DESC LIMIT 1")?
        .query_row([], kept)
        .optional()?;
    Ok(last)
}

/// Every checkpoint that is kept, smallest first.
pub(crate) fn checkpoints(connection: &Connection) -> Result<Vec<Kept>, StoreError> {
    let mut statement =
        connection.prepare_cached("SELECT size, root, note FROM checkpoints ORDER BY size")?;
    Ok(statement.query_map([], kept)?.collect::<Result<_, _>>()?)
}

/// The newest checkpoint over an entry that a witness has cosigned.
pub(crate) fn cosigned_after(
    connection: &Connection,
    index: u64,
) -> Result<Option<Kept>, StoreError> {
    let found = connection
        .prepare_cached(
            "SELECT size, root, note FROM checkpoints
             WHERE size > ?1 AND size IN (SELECT size FROM cosignatures) ORDER BY size DESC LIMIT 1",
        )?
        .query_row([i64::try_from(index).unwrap_or(i64::MAX)], kept)
        .optional()?;
    Ok(found)
}

/// A checkpoint with the cosignatures that have come.
pub(crate) fn cosigned_note(connection: &Connection, kept: &Kept) -> Result<String, StoreError> {
    let mut note = kept.note.clone();
    for line in cosignatures(connection, kept.size)? {
        note.push_str(&line);
        note.push('\n');
    }
    Ok(note)
}

/// The index of a record, by its boot, lane and sequence.
pub(crate) fn index_of(
    connection: &Connection,
    (boot, lane, sequence): &(String, i64, i64),
) -> Result<Option<u64>, StoreError> {
    let id: Option<i64> = connection
        .prepare_cached(
            "SELECT id FROM records WHERE emitter = (SELECT id FROM emitters WHERE boot = ?1)
                 AND lane = ?2 AND sequence = ?3",
        )?
        .query_row(params![boot, lane, sequence], |row| row.get(0))
        .optional()?;
    Ok(id.and_then(|id| u64::try_from(id - 1).ok()))
}

/// Before this index retention has removed records.
pub(crate) fn retained(connection: &Connection) -> Result<u64, StoreError> {
    let through: i64 = connection.query_row("SELECT through FROM pruned", [], |row| row.get(0))?;
    Ok(u64::try_from(through).unwrap_or(0))
}

/// The index of the first record that began at a time or later, in nanoseconds since 1970.
pub(crate) fn first_since(connection: &Connection, since: i64) -> Result<u64, StoreError> {
    let id: Option<i64> = connection
        .prepare_cached("SELECT id FROM facts WHERE time_ns >= ?1 ORDER BY id LIMIT 1")?
        .query_row([since], |row| row.get(0))
        .optional()?;
    Ok(id.and_then(|id| u64::try_from(id - 1).ok()).unwrap_or(u64::MAX))
}

/// Rows that had not come through the log: the record that each claims to be, and when it was found.
pub(crate) fn unlogged(connection: &Connection) -> Result<Vec<(String, i64)>, StoreError> {
    let mut statement = connection.prepare_cached(
        "SELECT coalesce(boot, '?') || '-' || lane || '-' || sequence, found_at
         FROM unlogged LEFT JOIN emitters ON emitters.id = unlogged.emitter ORDER BY unlogged.id",
    )?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// The cosignatures of a checkpoint, as lines of its note.
pub(crate) fn cosignatures(connection: &Connection, size: u64) -> Result<Vec<String>, StoreError> {
    let mut statement = connection
        .prepare_cached("SELECT line FROM cosignatures WHERE size = ?1 ORDER BY witness")?;
    let size = i64::try_from(size).unwrap_or(i64::MAX);
    Ok(statement.query_map([size], |row| row.get(0))?.collect::<Result<_, _>>()?)
}

#[cfg(test)]
mod tests;
