//! The Merkle tree of the log, of which only the right edge is kept.
//!
//! Hashes of complete subtrees of 256^L leaves stand in tiles of level L, 256 to a tile. A full tile never
//! changes and goes to whoever keeps tiles; the unfinished one of each level stays here, and the root
//! follows from these alone.
//!
//! Specification: RFC 6962 section 2.1; C2SP tlog-tiles.

use aws_lc_rs::digest::{Context, SHA256};

pub use picket_certs::leaf::sha256;

/// A SHA-256.
pub type Hash = [u8; 32];

/// Hashes of a full tile.
pub const WIDTH: usize = 256;

/// Bytes of one hash.
pub const HASH: usize = 32;

/// SHA-256 of parts that stand one after the other.
pub fn sha256_of(parts: &[&[u8]]) -> Hash {
    let mut context = Context::new(&SHA256);
    for part in parts {
        context.update(part);
    }
    let mut hash = [0; HASH];
    hash.copy_from_slice(context.finish().as_ref());
    hash
}

/// The hash of a leaf.
pub fn leaf(entry: &[u8]) -> Hash {
    sha256_of(&[&[0], entry])
}

/// The hash of a node.
pub fn node(left: &Hash, right: &Hash) -> Hash {
    let mut bytes = [1; 1 + 2 * HASH];
    let (_, rest) = bytes.split_at_mut(1);
    let (a, b) = rest.split_at_mut(HASH);
    a.copy_from_slice(left);
    b.copy_from_slice(right);
    sha256(&bytes)
}

/// The root of no leaves.
pub fn empty() -> Hash {
    sha256(&[])
}

/// The root over hashes of equally large complete subtrees, however many there are.
pub fn root_over(hashes: &[Hash]) -> Hash {
    match hashes {
        [] => empty(),
        [one] => *one,
        many => {
            let (left, right) = many.split_at(many.len().next_power_of_two() / 2);
            node(&root_over(left), &root_over(right))
        }
    }
}

/// A tile that is full now, and will never change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FullTile {
    /// Its level.
    pub level: u8,
    /// Its number in the level.
    pub number: u64,
    /// Its 256 hashes, one after the other.
    pub hashes: Vec<u8>,
}

/// A tree that grows at its right edge.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tree {
    size: u64,
    /// By level: the hashes of the unfinished tile, fewer than 256.
    edge: Vec<Vec<Hash>>,
}

/// The unfinished tiles do not belong to a tree of that size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the tiles at the edge do not belong to a tree of {0} entries")]
pub struct WrongEdge(u64);

impl Tree {
    /// The tree of `size` leaves whose unfinished tiles these are, from level 0 upwards.
    ///
    /// # Errors
    /// When a tile has another number of hashes than the size demands.
    pub fn restore(size: u64, edge: Vec<Vec<Hash>>) -> Result<Self, WrongEdge> {
        let mut left = size;
        for tile in &edge {
            if tile.len() as u64 != left % WIDTH as u64 {
                return Err(WrongEdge(size));
            }
            left /= WIDTH as u64;
        }
        if left == 0 { Ok(Self { size, edge }) } else { Err(WrongEdge(size)) }
    }

    /// How many leaves there are.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The unfinished tiles, from level 0 upwards; empty ones among them.
    pub fn edge(&self) -> &[Vec<Hash>] {
        &self.edge
    }

    /// Adds a leaf. Tiles that became full by it are pushed to `full`.
    pub fn push(&mut self, leaf: Hash, full: &mut Vec<FullTile>) {
        let mut hash = leaf;
        let mut finished = self.size;
        self.size += 1;
        for level in 0_u8.. {
            if self.edge.len() <= usize::from(level) {
                self.edge.push(Vec::new());
            }
            let Some(tile) = self.edge.get_mut(usize::from(level)) else { return };
            tile.push(hash);
            if tile.len() < WIDTH {
                return;
            }
            hash = root_over(tile);
            let hashes = tile.concat();
            tile.clear();
            finished /= WIDTH as u64;
            full.push(FullTile { level, number: finished, hashes });
        }
    }

    /// The root.
    pub fn root(&self) -> Hash {
        // From the right: the smallest subtrees stand there.
        let mut right: Option<Hash> = None;
        for tile in &self.edge {
            let mut end = tile.len();
            // The tile's hashes, cut into complete subtrees, from the smallest one.
            while end > 0 {
                let size = 1_usize << end.trailing_zeros();
                let start = end - size;
                let subtree = root_over(tile.get(start..end).unwrap_or_default());
                right = Some(right.map_or(subtree, |right| node(&subtree, &right)));
                end = start;
            }
        }
        right.unwrap_or_else(empty)
    }
}

/// Hashes that stand one after the other; none if they do not end evenly.
pub fn split_hashes(bytes: &[u8]) -> Option<Vec<Hash>> {
    let (hashes, rest) = bytes.as_chunks::<HASH>();
    rest.is_empty().then(|| hashes.to_vec())
}

#[cfg(test)]
mod tests;
