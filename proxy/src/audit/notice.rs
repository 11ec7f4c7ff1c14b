//! Records that tell of no request: what of the audit is missing, how the spool fares, a certificate that is not renewed.

use picket_api::attributes as names;

use super::closing;
use super::span::{SpanKind, SpanPart};
use crate::spool::{Link, sha256};

const GAP: &str = "picket.audit.gap";
const SPOOL: &str = "picket.audit.spool";
const RENEWAL: &str = "certificate.renewal_failed";

/// Records that are not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Missing {
    /// Why, as a code.
    pub(crate) reason: &'static str,
    pub(crate) count: u64,
    pub(crate) boot: String,
    pub(crate) lane: u32,
    /// The first and the last of their numbers.
    pub(crate) range: Option<(u64, u64)>,
}

/// A certificate that was not renewed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RenewalFailure {
    /// Why, as a code.
    pub(crate) reason: &'static str,
    pub(crate) detail: String,
    /// Serial number of the one that is in use.
    pub(crate) serial: String,
}

/// What is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Notice {
    Gap(Missing),
    Spool(String),
    Renewal(RenewalFailure),
}

/// Where a notice stands.
#[derive(Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) lane: u32,
    pub(crate) sequence: u64,
    /// The span before it.
    pub(crate) previous: &'a Link,
}

/// Writes a notice as a whole span. `now` in nanoseconds since 1970.
pub(crate) fn write(out: &mut Vec<u8>, notice: &Notice, now: u64, place: Place<'_>) {
    let Place { lane, sequence, previous } = place;
    let mut part = SpanPart::new(out);
    let event = match notice {
        Notice::Gap(_) => GAP,
        Notice::Spool(_) => SPOOL,
        Notice::Renewal(_) => RENEWAL,
    };
    // Not by chance: whoever writes it again gives the same bytes.
    let (trace, span) = ids(lane, sequence, previous);
    part.identity(&trace, &span, None);
    part.kind(SpanKind::Internal);
    part.name(&[event]);
    part.start(now);
    part.text(names::KIND, "event");
    part.int(names::LANE, i64::from(lane));
    part.int(names::SEQUENCE, sequence.cast_signed());
    part.text(names::EVENT, event);
    match notice {
        Notice::Gap(missing) => {
            part.text(names::GAP_REASON, missing.reason);
            part.int(names::GAP_COUNT, missing.count.cast_signed());
            part.text(names::GAP_BOOT, &missing.boot);
            part.int(names::GAP_LANE, i64::from(missing.lane));
            if let Some((first, last)) = missing.range {
                part.int(names::GAP_FIRST, first.cast_signed());
                part.int(names::GAP_LAST, last.cast_signed());
            }
        }
        Notice::Spool(detail) => part.text(names::DETAIL, detail),
        Notice::Renewal(failure) => {
            part.text(names::REASON, failure.reason);
            part.text(names::DETAIL, &failure.detail);
            part.text(names::CERTIFICATE_SERIAL, &failure.serial);
        }
    }
    part.end(now);
    closing::chain(&mut part, previous);
}

fn ids(lane: u32, sequence: u64, previous: &Link) -> ([u8; 16], [u8; 8]) {
    let mut seed = previous.hash.to_vec();
    seed.extend_from_slice(&lane.to_le_bytes());
    seed.extend_from_slice(&sequence.to_le_bytes());
    let hash = sha256(&seed);
    let (mut trace, mut span) = ([1; 16], [1; 8]);
    trace.iter_mut().zip(&hash).for_each(|(to, from)| *to = *from);
    span.iter_mut().zip(hash.iter().skip(16)).for_each(|(to, from)| *to = *from);
    (trace, span)
}
