//! How one record stands in a segment.
//!
//! ```text
//! length u32 | crc32c u32 | part u8 | time u64 | sequence u64 | payload
//! length u32 | crc32c u32 | part u8 | time u64 | sequence u64 | position u64 | hash [32] | payload
//! ```
//! The second form has what a span ends with: its place in the chain and its hash, so that a reader
//! knows how far the chain has come without the span's other parts. A gap has besides, before the
//! payload, what it declares: `reason u8 | count u64`. A span that goes on from a [`super::stem::Stem`] has its number
//! there, `u64`; a stem's own number stands in the place of the sequence. The highest bit of the part says that the
//! payload is packed (see [`crate::audit::packed`]).
//!
//! All little-endian. `length` counts what follows the checksum, which covers the same bytes. A
//! length of zero ends the segment: it was allocated as zeros. A record that was being written when
//! the machine died fails its checksum.

use std::borrow::Cow;

use super::chain::Link;
use super::header::Reason;
use crate::audit::packed;

/// Bytes before the checksummed content.
const PREFIX: usize = 8;
/// Bytes of the content before the payload.
const FIXED: usize = 17;
/// Bytes of a link.
const LINK: usize = 40;
/// Bytes of what a gap declares.
const GAP: usize = 9;
/// Bytes of the name of a stem.
const STEM: usize = 8;
/// Of the part's byte: the payload is packed.
const PACKED: u8 = 0x80;

/// Largest payload that is written or believed, in bytes. A span is a few KiB; its texts are cut
/// long before this.
pub(crate) const MAX_PAYLOAD: usize = 256 * 1024;

/// Which part of a span a record holds; the parts of one sequence number, in order, are the span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// The intent: written before anything is forwarded.
    Begin = 1,
    /// What became known on the way.
    More = 2,
    /// The last part.
    End = 3,
    /// A span in one part: begun and ended at once.
    Whole = 4,
    /// A whole span which declares that records are missing.
    Gap = 5,
    /// What several spans begin with; no part of one.
    Stem = 6,
    /// As `Begin`, after the bytes of a stem.
    BeginOn = 7,
}

impl Part {
    fn from_byte(byte: u8) -> Option<Self> {
        let mut all =
            [Self::Begin, Self::More, Self::End, Self::Whole, Self::Gap, Self::Stem, Self::BeginOn]
                .into_iter();
        all.find(|part| *part as u8 == byte)
    }

    /// Whether a sequence number begins here.
    pub(crate) fn begins(self) -> bool {
        matches!(self, Self::Begin | Self::BeginOn | Self::Whole | Self::Gap)
    }

    /// Whether the span is complete here.
    pub(crate) fn ends(self) -> bool {
        matches!(self, Self::End | Self::Whole | Self::Gap)
    }
}

/// Bytes of a span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Payload<'a> {
    pub(crate) bytes: &'a [u8],
    /// As [`packed`] has them.
    pub(crate) is_packed: bool,
}

impl<'a> Payload<'a> {
    pub(crate) fn plain(bytes: &'a [u8]) -> Self {
        Self { bytes, is_packed: false }
    }

    pub(crate) fn packed(bytes: &'a [u8]) -> Self {
        Self { bytes, is_packed: true }
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The bytes themselves; none if a later Picket has packed them.
    pub(crate) fn unpacked(&self) -> Option<Cow<'a, [u8]>> {
        if self.is_packed {
            packed::unpacked(self.bytes).map(Cow::Owned)
        } else {
            Some(Cow::Borrowed(self.bytes))
        }
    }
}

/// One record, borrowed from the bytes of its segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record<'a> {
    pub(crate) part: Part,
    /// Nanoseconds since 1970 at which it was written.
    pub(crate) time: u64,
    pub(crate) sequence: u64,
    /// Of a part that ends.
    pub(crate) link: Option<Link>,
    /// Of a gap: how many records it declares missing, and why.
    pub(crate) gap: Option<(Reason, u64)>,
    /// Of a beginning: the stem that stands before its payload.
    pub(crate) stem: Option<u64>,
    pub(crate) payload: Payload<'a>,
}

/// What stands at a position of a segment.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found<'a> {
    /// A record, and the bytes it takes.
    Record(Record<'a>, usize),
    /// Nothing more was written.
    End,
    /// Bytes that are no record: torn at the end of a crash, or damaged.
    Damaged,
}

impl Record<'_> {
    /// The bytes it takes in a segment.
    pub(crate) fn size(part: Part, payload: usize) -> usize {
        let more = match part {
            Part::Begin | Part::More | Part::Stem => 0,
            Part::BeginOn => STEM,
            Part::End | Part::Whole => LINK,
            Part::Gap => LINK + GAP,
        };
        PREFIX + FIXED + more + payload
    }

    /// Writes the record to the start of `target`, which must have [`Record::size`] bytes.
    pub(crate) fn write(&self, target: &mut [u8]) -> Option<()> {
        let mut fixed = Fixed::new();
        let packed = if self.payload.is_packed { PACKED } else { 0 };
        fixed.put(&[self.part as u8 | packed])?;
        fixed.put(&self.time.to_le_bytes())?;
        fixed.put(&self.sequence.to_le_bytes())?;
        if let Some(link) = &self.link {
            fixed.put(&link.position.to_le_bytes())?;
            fixed.put(&link.hash)?;
        }
        if let Some(stem) = self.stem {
            fixed.put(&stem.to_le_bytes())?;
        }
        if let Some((reason, count)) = self.gap {
            fixed.put(&[reason as u8])?;
            fixed.put(&count.to_le_bytes())?;
        }
        let fixed = fixed.bytes()?;
        let length = fixed.len() + self.payload.len();
        // Of what is at hand, not of what was written: that is in no cache yet.
        let checksum = append(append(0, fixed), self.payload.bytes);
        let (prefix, rest) = target.split_at_mut_checked(PREFIX)?;
        let (head, payload) = rest.get_mut(..length)?.split_at_mut_checked(fixed.len())?;
        head.copy_from_slice(fixed);
        payload.copy_from_slice(self.payload.bytes);
        let (length_bytes, checksum_bytes) = prefix.split_at_mut_checked(4)?;
        checksum_bytes.copy_from_slice(&checksum.to_le_bytes());
        length_bytes.copy_from_slice(&u32::try_from(length).ok()?.to_le_bytes());
        Some(())
    }

    /// Reads what stands at the start of `bytes`.
    pub(crate) fn read(bytes: &[u8]) -> Found<'_> {
        // Fewer bytes than a prefix are the unused end of a segment.
        let Some((length, rest)) = bytes.split_first_chunk::<4>() else { return Found::End };
        let length = u32::from_le_bytes(*length) as usize;
        if length == 0 {
            return Found::End;
        }
        Self::read_content(length, rest)
            .map_or(Found::Damaged, |record| Found::Record(record, PREFIX + length))
    }

    fn read_content(length: usize, rest: &[u8]) -> Option<Record<'_>> {
        let (checksum, content) = rest.split_first_chunk::<4>()?;
        if length > FIXED + LINK + GAP + MAX_PAYLOAD {
            return None;
        }
        let content = content.get(..length)?;
        if append(0, content) != u32::from_le_bytes(*checksum) {
            return None;
        }
        let (part, rest) = content.split_first()?;
        let (part, is_packed) = (Part::from_byte(*part & !PACKED)?, *part & PACKED != 0);
        let (time, rest) = rest.split_first_chunk::<8>()?;
        let (sequence, mut payload) = rest.split_first_chunk::<8>()?;
        let mut link = None;
        if part.ends() {
            let (position, rest) = payload.split_first_chunk::<8>()?;
            let (hash, rest) = rest.split_first_chunk::<32>()?;
            link = Some(Link { position: u64::from_le_bytes(*position), hash: *hash });
            payload = rest;
        }
        let mut gap = None;
        if part == Part::Gap {
            let (reason, rest) = payload.split_first()?;
            let (count, rest) = rest.split_first_chunk::<8>()?;
            gap = Some((Reason::from_byte(*reason)?, u64::from_le_bytes(*count)));
            payload = rest;
        }
        let mut stem = None;
        if part == Part::BeginOn {
            let (name, rest) = payload.split_first_chunk::<STEM>()?;
            stem = Some(u64::from_le_bytes(*name));
            payload = rest;
        }
        let (time, sequence) = (u64::from_le_bytes(*time), u64::from_le_bytes(*sequence));
        let payload = Payload { bytes: payload, is_packed };
        Some(Record { part, time, sequence, link, gap, stem, payload })
    }
}

/// What stands before a payload.
struct Fixed {
    bytes: [u8; FIXED + LINK + STEM + GAP],
    used: usize,
}

impl Fixed {
    fn new() -> Self {
        Self { bytes: [0; FIXED + LINK + STEM + GAP], used: 0 }
    }

    fn put(&mut self, bytes: &[u8]) -> Option<()> {
        let end = self.used + bytes.len();
        self.bytes.get_mut(self.used..end)?.copy_from_slice(bytes);
        self.used = end;
        Some(())
    }

    fn bytes(&self) -> Option<&[u8]> {
        self.bytes.get(..self.used)
    }
}

/// CRC32C with further bytes. In pieces: from 768 bytes on the crate computes three lanes at once and joins them by tables
/// of 16 KiB, which are in nobody's cache when a request comes; one lane after the other is faster then.
fn append(checksum: u32, bytes: &[u8]) -> u32 {
    bytes.chunks(512).fold(checksum, crc32c::crc32c_append)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_and_nothing_else() {
        let link = Some(Link { position: 3, hash: [9; 32] });
        let (part, gap) = (Part::Gap, Some((Reason::Shed, 11)));
        let payload = Payload::packed(b"span");
        let record = Record { part, time: 5, sequence: 7, link, gap, stem: None, payload };
        let size = Record::size(part, 4);
        let mut bytes = vec![0; size + 8];
        record.write(&mut bytes).unwrap();
        assert_eq!(Record::read(&bytes), Found::Record(record, size));
        assert_eq!(Record::read(&bytes[size..]), Found::End);
        assert_eq!(Record::read(&bytes[..3]), Found::End);
        assert_eq!(Record::read(&bytes[..size - 1]), Found::Damaged, "torn");
        for position in 0..size {
            for bit in 0..8 {
                let mut flipped = bytes.clone();
                flipped[position] ^= 1 << bit;
                let found = Record::read(&flipped);
                assert!(!matches!(found, Found::Record(..)), "bit {bit} of byte {position}");
            }
        }
    }

    #[test]
    fn a_record_that_does_not_fit_is_not_written() {
        let record = Record {
            part: Part::More,
            time: 0,
            sequence: 1,
            link: None,
            gap: None,
            stem: None,
            payload: Payload::plain(b"span"),
        };
        assert_eq!(record.write(&mut vec![0; Record::size(Part::More, 3)]), None);
        assert_eq!(record.write(&mut []), None);
    }
}
