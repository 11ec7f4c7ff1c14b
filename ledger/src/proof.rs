//! Proofs that an entry is in a tree, and that one tree is the beginning of another.
//!
//! Specification: making them, RFC 6962 sections 2.1.1 and 2.1.2; checking them, RFC 9162 sections 2.1.3.2
//! and 2.1.4.2.

use crate::tree::{Hash, empty, node};

/// Reads the root of a complete subtree: of its height, and its number among those of that height.
pub type Read<'r, E> = dyn FnMut(u32, u64) -> Result<Hash, E> + 'r;

/// The largest power of two below `size`, which is at least 2.
fn split(size: u64) -> u64 {
    1 << (63 - (size - 1).leading_zeros())
}

/// The root over the leaves from `start` to `end`; `start` is a multiple of the first subtree's size.
fn range<E>(start: u64, end: u64, read: &mut Read<'_, E>) -> Result<Hash, E> {
    let size = end - start;
    if size.is_power_of_two() {
        return read(size.trailing_zeros(), start / size);
    }
    let middle = start + split(size);
    Ok(node(&range(start, middle, read)?, &range(middle, end, read)?))
}

/// The root of the tree of the first `size` leaves.
///
/// # Errors
/// Those of reading.
pub fn root<E>(size: u64, read: &mut Read<'_, E>) -> Result<Hash, E> {
    if size == 0 { Ok(empty()) } else { range(0, size, read) }
}

/// The way from a leaf to the root of the tree of `size`, from below.
///
/// # Errors
/// Those of reading.
pub fn inclusion<E>(index: u64, size: u64, read: &mut Read<'_, E>) -> Result<Vec<Hash>, E> {
    let (mut start, mut end) = (0, size);
    let mut path = Vec::new();
    while end - start > 1 {
        let middle = start + split(end - start);
        if index < middle {
            path.push(range(middle, end, read)?);
            end = middle;
        } else {
            path.push(range(start, middle, read)?);
            start = middle;
        }
    }
    path.reverse();
    Ok(path)
}

/// What shows that the tree of `old` leaves is the beginning of that of `new`.
///
/// # Errors
/// Those of reading.
pub fn consistency<E>(old: u64, new: u64, read: &mut Read<'_, E>) -> Result<Vec<Hash>, E> {
    let mut path = Vec::new();
    if old == 0 || old >= new {
        return Ok(path);
    }
    let (mut start, mut end) = (0, new);
    let mut is_whole = true;
    // SUBPROOF, its tail calls unrolled.
    while old != end {
        let middle = start + split(end - start);
        if old <= middle {
            path.push(range(middle, end, read)?);
            end = middle;
        } else {
            path.push(range(start, middle, read)?);
            start = middle;
            is_whole = false;
        }
    }
    if !is_whole {
        path.push(range(start, end, read)?);
    }
    path.reverse();
    Ok(path)
}

/// Whether a leaf is at an index of the tree with that size and root.
pub fn verify_inclusion(index: u64, size: u64, leaf: &Hash, path: &[Hash], root: &Hash) -> bool {
    if index >= size {
        return false;
    }
    let (mut place, mut last) = (index, size - 1);
    let mut hash = *leaf;
    for sibling in path {
        if last == 0 {
            return false;
        }
        if place & 1 == 1 || place == last {
            hash = node(sibling, &hash);
            while place & 1 == 0 && place != 0 {
                place >>= 1;
                last >>= 1;
            }
        } else {
            hash = node(&hash, sibling);
        }
        place >>= 1;
        last >>= 1;
    }
    last == 0 && hash == *root
}

/// Whether the tree with the size and root `old` is the beginning of the one with `new`.
pub fn verify_consistency(
    old: u64,
    new: u64,
    old_root: &Hash,
    new_root: &Hash,
    path: &[Hash],
) -> bool {
    if old > new {
        return false;
    }
    if old == new {
        return path.is_empty() && old_root == new_root;
    }
    if old == 0 {
        return path.is_empty() && *old_root == empty();
    }
    let mut rest = path.iter();
    let first = if old.is_power_of_two() { Some(old_root) } else { rest.next() };
    let Some(first) = first else { return false };
    let (mut place, mut last) = (old - 1, new - 1);
    while place & 1 == 1 {
        place >>= 1;
        last >>= 1;
    }
    let (mut of_old, mut of_new) = (*first, *first);
    for hash in rest {
        if last == 0 {
            return false;
        }
        if place & 1 == 1 || place == last {
            of_old = node(hash, &of_old);
            of_new = node(hash, &of_new);
            while place & 1 == 0 && place != 0 {
                place >>= 1;
                last >>= 1;
            }
        } else {
            of_new = node(&of_new, hash);
        }
        place >>= 1;
        last >>= 1;
    }
    last == 0 && of_old == *old_root && of_new == *new_root
}
