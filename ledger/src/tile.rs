//! Tiles: where one is found, and the hash of a subtree inside of it.
//!
//! Specification: C2SP tlog-tiles (tiles of height 8).

use crate::tree::{Hash, WIDTH, root_over};

/// A tile, or a bundle of entries, as it is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tile {
    /// Its level; none for a bundle of entries.
    pub level: Option<u8>,
    /// Its number in the level.
    pub number: u64,
    /// How many hashes or entries of it are meant, 1 to 256.
    pub width: usize,
}

/// Highest level that a tile can have.
const LEVELS: u8 = 7;

impl Tile {
    /// Reads what follows `/tile/`: `<L>/<N>[.p/<W>]`, with N as `x001/x234/067`.
    pub fn parse(path: &str) -> Option<Self> {
        let (level, rest) = path.split_once('/')?;
        let level = match level {
            "entries" => None,
            level => {
                Some(canonical(level)?).and_then(|l| u8::try_from(l).ok()).filter(|l| *l <= LEVELS)
            }
        };
        if level.is_none() && !path.starts_with("entries/") {
            return None;
        }
        let (number, width) = match rest.split_once(".p/") {
            Some((number, width)) => (number, usize::try_from(canonical(width)?).ok()?),
            None => (rest, WIDTH),
        };
        let is_partial = rest.contains(".p/");
        if width == 0 || width > WIDTH || (is_partial && width == WIDTH) {
            return None;
        }
        let number = read_number(number)?;
        Some(Self { level, number, width })
    }

    /// What follows `/tile/`.
    pub fn path(&self) -> String {
        let level = self.level.map_or_else(|| "entries".to_owned(), |level| level.to_string());
        let width = if self.width == WIDTH { String::new() } else { format!(".p/{}", self.width) };
        format!("{level}/{}{width}", number_path(self.number))
    }
}

/// A number without signs or leading zeros.
fn canonical(text: &str) -> Option<u64> {
    let number: u64 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

fn number_path(number: u64) -> String {
    let mut path = format!("{:03}", number % 1000);
    let mut rest = number / 1000;
    while rest > 0 {
        path = format!("x{:03}/{path}", rest % 1000);
        rest /= 1000;
    }
    path
}

fn read_number(path: &str) -> Option<u64> {
    let mut number = 0_u64;
    for part in path.split('/') {
        let digits = part.strip_prefix('x').unwrap_or(part);
        if digits.len() != 3 || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        number = number.checked_mul(1000)?.checked_add(digits.parse().ok()?)?;
    }
    (number_path(number) == path).then_some(number)
}

/// Where the root of a complete subtree is found: the tile's level and number, and the hashes of it
/// from which it follows.
pub fn holding(height: u32, index: u64) -> (u8, u64, std::ops::Range<usize>) {
    let level = height / 8;
    let span = 1_u64 << (height % 8);
    let first = index * span;
    let start = usize::try_from(first % WIDTH as u64).unwrap_or(0);
    let end = start + usize::try_from(span).unwrap_or(0);
    (u8::try_from(level).unwrap_or(u8::MAX), first / WIDTH as u64, start..end)
}

/// The root of a complete subtree from the tile that holds it; none if the tile is too short.
pub fn subtree(tile: &[Hash], range: std::ops::Range<usize>) -> Option<Hash> {
    tile.get(range).map(root_over)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_those_of_the_specification_and_nothing_else_is_one() {
        let tile = |level, number, width| Tile { level, number, width };
        for (path, expected) in [
            ("0/000", tile(Some(0), 0, 256)),
            ("0/x001/x234/067", tile(Some(0), 1_234_067, 256)),
            ("1/005.p/7", tile(Some(1), 5, 7)),
            ("entries/x001/000.p/255", tile(None, 1000, 255)),
        ] {
            assert_eq!(Tile::parse(path), Some(expected));
            assert_eq!(expected.path(), path);
        }
        for path in [
            "0/0",
            "0/x000/001",
            "0/001.p/0",
            "0/001.p/256",
            "0/001.p/07",
            "8/000",
            "00/000",
            "-1/000",
            "0/001/002",
            "x/000",
            "0",
            "entries",
            "entries/1",
            "0/x001",
            "0/+01",
        ] {
            assert_eq!(Tile::parse(path), None, "{path}");
        }
    }
}
