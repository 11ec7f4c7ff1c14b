//! What stands at the beginning of a segment.
//!
//! ```text
//! magic [8] | lane u32 | number u32 | position u64 | hash [32] | first sequence u64
//!           | lost u64 × 2 | declared u64 × 2 | crc32c u32 | 0 [28]
//! next sequence u64 | lost u64 × 2 | 0 …                                  (from byte 128)
//! ```
//! All little-endian. The first half is the lane's state when the segment was begun, the checksum
//! covers it from the lane's number on. The second half is kept up to date in place, one aligned
//! word at a time, so that it tells after a kill what no record does: how many records found no
//! room. It stays as it was when the next segment is begun.

use super::chain::{Hash, Link};

/// Bytes before the first record.
pub(crate) const SIZE: usize = 256;

const MAGIC: [u8; 8] = *b"picketS1";
/// Where the checksum stands; it covers what is between the magic and itself.
const CHECKSUM: usize = 96;
/// Where the words stand that are kept up to date.
const LIVE: usize = 128;

/// Why a record was not written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reason {
    /// There was no room.
    Full = 0,
    /// There was little room, and it was kept for others.
    Shed = 1,
}

impl Reason {
    pub(crate) const ALL: [Self; 2] = [Self::Full, Self::Shed];

    pub(crate) fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| *reason as u8 == byte)
    }

    /// As records name it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Shed => "shed",
        }
    }
}

/// Records by the reason why they are missing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Losses([u64; 2]);

impl Losses {
    pub(crate) fn of(&self, reason: Reason) -> u64 {
        self.0.get(reason as usize).copied().unwrap_or_default()
    }

    pub(crate) fn add(&mut self, reason: Reason, count: u64) {
        if let Some(losses) = self.0.get_mut(reason as usize) {
            *losses = losses.saturating_add(count);
        }
    }

    pub(crate) fn total(&self) -> u64 {
        self.0.iter().fold(0, |sum, losses| sum.saturating_add(*losses))
    }
}

/// The state of a lane at the beginning of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) lane: u32,
    pub(crate) number: u32,
    /// The span that was completed last.
    pub(crate) link: Link,
    /// The number that the next record gets.
    pub(crate) next_sequence: u64,
    pub(crate) lost: Losses,
    /// How many of them were declared by a record of their own.
    pub(crate) declared: Losses,
}

/// What is kept up to date.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Live {
    pub(crate) next_sequence: u64,
    pub(crate) lost: Losses,
}

impl Header {
    /// Writes it, its words that are kept up to date included. The magic comes last: until then the
    /// segment is none.
    pub(crate) fn write(&self, target: &mut [u8]) -> Option<()> {
        let header = target.get_mut(..SIZE)?;
        let mut at = MAGIC.len();
        let mut put = |header: &mut [u8], bytes: &[u8]| -> Option<()> {
            header.get_mut(at..at + bytes.len())?.copy_from_slice(bytes);
            at += bytes.len();
            Some(())
        };
        put(header, &self.lane.to_le_bytes())?;
        put(header, &self.number.to_le_bytes())?;
        put(header, &self.link.position.to_le_bytes())?;
        put(header, &self.link.hash)?;
        put(header, &self.next_sequence.to_le_bytes())?;
        for losses in [self.lost, self.declared] {
            for reason in Reason::ALL {
                put(header, &losses.of(reason).to_le_bytes())?;
            }
        }
        let checksum = crc32c::crc32c(header.get(MAGIC.len()..CHECKSUM)?);
        put(header, &checksum.to_le_bytes())?;
        Live { next_sequence: self.next_sequence, lost: self.lost }.write(header)?;
        header.get_mut(..MAGIC.len())?.copy_from_slice(&MAGIC);
        Some(())
    }

    /// Reads both halves; none if this is no header that is whole.
    pub(crate) fn read(bytes: &[u8]) -> Option<(Self, Live)> {
        let bytes = bytes.get(..SIZE)?;
        if !bytes.starts_with(&MAGIC) {
            return None;
        }
        let word = |at: usize| Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?));
        let half = |at: usize| Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?));
        if half(CHECKSUM)? != crc32c::crc32c(bytes.get(MAGIC.len()..CHECKSUM)?) {
            return None;
        }
        let hash: Hash = *bytes.get(24..)?.first_chunk()?;
        let header = Self {
            lane: half(8)?,
            number: half(12)?,
            link: Link { position: word(16)?, hash },
            next_sequence: word(56)?,
            lost: Losses([word(64)?, word(72)?]),
            declared: Losses([word(80)?, word(88)?]),
        };
        let lost = Losses([word(LIVE + 8)?, word(LIVE + 16)?]);
        Some((header, Live { next_sequence: word(LIVE)?, lost }))
    }
}

impl Live {
    /// Writes the words in place, each by one store. The number comes last: a kill between the two
    /// must not look like a record that is missing.
    pub(crate) fn write(&self, header: &mut [u8]) -> Option<()> {
        let words = header.get_mut(LIVE..LIVE + 24)?;
        let values = [self.next_sequence, self.lost.of(Reason::Full), self.lost.of(Reason::Shed)];
        for (word, value) in words.chunks_exact_mut(8).zip(values).rev() {
            word.copy_from_slice(&value.to_le_bytes());
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_read_as_it_was_written_and_no_flipped_bit_is_believed() {
        let (mut lost, mut declared) = (Losses::default(), Losses::default());
        lost.add(Reason::Full, 7);
        lost.add(Reason::Shed, 9);
        declared.add(Reason::Shed, 5);
        let link = Link { position: 3, hash: [4; 32] };
        let header = Header { lane: 1, number: 2, link, next_sequence: 20, lost, declared };
        let mut bytes = vec![0; SIZE];
        assert_eq!(Header::read(&bytes), None, "allocated, and not begun");
        header.write(&mut bytes).unwrap();
        assert_eq!(Header::read(&bytes), Some((header, Live { next_sequence: 20, lost })));
        lost.add(Reason::Full, 1);
        let live = Live { next_sequence: 22, lost };
        live.write(&mut bytes).unwrap();
        assert_eq!(Header::read(&bytes), Some((header, live)));
        for position in 0..CHECKSUM + 4 {
            for bit in 0..8 {
                let mut flipped = bytes.clone();
                flipped[position] ^= 1 << bit;
                assert_eq!(Header::read(&flipped), None, "bit {bit} of byte {position}");
            }
        }
        assert_eq!(Header::read(&bytes[..SIZE - 1]), None);
    }
}
