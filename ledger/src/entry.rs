//! One entry of the log: which record it stands for, and a commitment to what the record says.
//!
//! The entry itself says nothing of the record. The commitment is salted, so that a record which is erased
//! together with its salt cannot be found out by trying.
//!
//! Format: `docs/audit-attributes.md`, "The log".

use std::fmt::Write as _;

use crate::hex;
use crate::tree::{Hash, leaf, sha256, sha256_of};

/// The first line of an entry.
const VERSION: &str = "picket-entry-v1";

/// Bytes of a salt.
pub const SALT: usize = 16;

/// What a record is committed to by: its salt, its resource and its span, byte for byte.
pub fn commitment(salt: &[u8], resource: &[u8], span: &[u8]) -> Hash {
    commitment_under(salt, &sha256(resource), span)
}

/// The same, if the hash of the resource is known.
pub fn commitment_under(salt: &[u8], resource: &Hash, span: &[u8]) -> Hash {
    sha256_of(&[salt, resource, span])
}

/// The leaf of an entry: emitter and boot, lane, sequence and position, commitment.
pub fn leaf_of(
    (emitter, boot): (&str, &str),
    [lane, sequence, position]: [i64; 3],
    commitment: &Hash,
) -> Hash {
    leaf(text((emitter, boot), [lane, sequence, position], commitment).as_bytes())
}

fn text(
    (emitter, boot): (&str, &str),
    [lane, sequence, position]: [i64; 3],
    commitment: &Hash,
) -> String {
    let mut text = String::with_capacity(256);
    // Writing to a String cannot fail.
    let _infallible = write!(
        text,
        "{VERSION}\n{emitter}\n{boot}\n{lane}\n{sequence}\n{position}\n{}\n",
        hex::encode(commitment)
    );
    text
}

/// An entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// SPIFFE ID of the emitter.
    pub emitter: String,
    /// The emitter's boot.
    pub boot: String,
    /// Its lane.
    pub lane: i64,
    /// The record's number in the lane.
    pub sequence: i64,
    /// The record's place in the lane's chain; 0: it stands in none.
    pub position: i64,
    /// See [`commitment`].
    pub commitment: Hash,
}

impl Entry {
    /// The bytes that are hashed.
    pub fn to_text(&self) -> String {
        let numbers = [self.lane, self.sequence, self.position];
        text((&self.emitter, &self.boot), numbers, &self.commitment)
    }

    /// Reads what [`Entry::to_text`] wrote; none if it is anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let mut lines = text.split('\n');
        let mut line = || lines.next();
        if line()? != VERSION {
            return None;
        }
        let entry = Self {
            emitter: line()?.to_owned(),
            boot: line()?.to_owned(),
            lane: line()?.parse().ok()?,
            sequence: line()?.parse().ok()?,
            position: line()?.parse().ok()?,
            commitment: hex::decode(line()?)?,
        };
        (entry.to_text() == text).then_some(entry)
    }

    /// The entry's leaf in the tree.
    pub fn leaf(&self) -> Hash {
        leaf(self.to_text().as_bytes())
    }

    /// How the record is named.
    pub fn id(&self) -> String {
        format!("{}-{}-{}", self.boot, self.lane, self.sequence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_read_as_it_is_written_and_in_no_other_spelling() {
        let entry = Entry {
            emitter: "spiffe://shop.example/ns/shop/sa/web".to_owned(),
            boot: "b-1".to_owned(),
            lane: 1,
            sequence: 42,
            position: 7,
            commitment: commitment(&[1; 16], b"resource", b"span"),
        };
        let text = entry.to_text();
        assert_eq!(Entry::parse(&text), Some(entry.clone()));
        assert_eq!(entry.id(), "b-1-1-42");
        for other in [
            text.replace("\n42\n", "\n042\n"),
            text.replace("\n42\n", "\n+42\n"),
            format!("{text}\n"),
            text.trim_end().to_owned(),
            text.replace("-v1", "-v2"),
            text.to_uppercase(),
        ] {
            assert_eq!(Entry::parse(&other), None, "{other}");
        }
    }

    #[test]
    fn a_commitment_depends_on_every_part_and_on_where_it_ends() {
        let base = commitment(b"salt", b"re", b"source");
        assert_ne!(base, commitment(b"salu", b"re", b"source"));
        assert_ne!(base, commitment(b"salt", b"res", b"ource"));
        assert_ne!(base, commitment(b"salt", b"re", b"sourcf"));
    }
}
