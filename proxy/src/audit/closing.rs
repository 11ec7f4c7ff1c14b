//! What is added to a span when it is complete, whoever completes it: its place in the hash chain,
//! and the ending of one that a crash of the proxy cut off.

use picket_api::attributes;

use super::notice::{self, Missing, Notice, Place};
use super::packed;
use super::span::SpanPart;
use crate::spool::Link;

/// The ending of a record that a crash of the proxy cut off; written by its successor.
const INTERRUPTED: &str = "interrupted";

/// The last attributes of a span: it follows `previous`.
pub(crate) fn chain(part: &mut SpanPart<'_>, previous: &Link) {
    let position = previous.position.saturating_add(1);
    part.short_int(packed::CHAIN_POSITION, position.cast_signed());
    part.short_hex(packed::CHAIN_PREVIOUS, &previous.hash);
}

/// The last part of a span that a crash of the proxy cut off. `last_seen`: when its lane was last
/// written, in nanoseconds since 1970.
pub(crate) fn interrupted(span: &mut Vec<u8>, last_seen: u64, previous: &Link) {
    let mut part = SpanPart::new(span);
    part.text(attributes::ENDING, INTERRUPTED);
    part.text(attributes::ERROR_TYPE, INTERRUPTED);
    part.error("the proxy was killed before the request ended");
    part.end(last_seen);
    chain(&mut part, previous);
}

/// The span in which a successor declares what is missing of a lane, in that lane.
pub(crate) fn gap(
    span: &mut Vec<u8>,
    last_seen: u64,
    sequence: u64,
    missing: &Missing,
    previous: &Link,
) {
    let place = Place { lane: missing.lane, sequence, previous };
    notice::write(span, &Notice::Gap(missing.clone()), last_seen, place);
}
