//! B3, as Zipkin and older meshes write it: in one header or in several. Services that speak it get it
//! back in the form and width in which it came, beside W3C's.
//!
//! Specification: openzipkin/b3-propagation.

use http::{HeaderMap, HeaderName, HeaderValue};

use super::{Claim, SAMPLED, SpanContext, Text, id, one};

const SINGLE: HeaderName = HeaderName::from_static("b3");
const TRACE_ID: HeaderName = HeaderName::from_static("x-b3-traceid");
const SPAN_ID: HeaderName = HeaderName::from_static("x-b3-spanid");
const PARENT_ID: HeaderName = HeaderName::from_static("x-b3-parentspanid");
const SAMPLED_NAME: HeaderName = HeaderName::from_static("x-b3-sampled");
const FLAGS: HeaderName = HeaderName::from_static("x-b3-flags");

/// Which forms a request came with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Forms {
    single: bool,
    multiple: bool,
    /// Its trace id has 64 bits.
    narrow: bool,
    /// Tracing was demanded, and not only decided on.
    debug: bool,
}

/// What a request says in B3.
#[derive(Default)]
pub(super) struct Received {
    pub(super) forms: Forms,
    /// The span that it names, if it names one.
    pub(super) claim: Option<Claim>,
    /// Whether the trace shall be sampled, if it says so.
    pub(super) sampled: Option<bool>,
}

pub(super) fn read(headers: &HeaderMap) -> Received {
    let single = headers.contains_key(&SINGLE);
    let multiple = headers.contains_key(&TRACE_ID) || headers.contains_key(&SAMPLED_NAME);
    if !(single || multiple) {
        return Received::default();
    }
    // The one header wins over the several.
    let mut received = match single {
        true => one(headers, &SINGLE).and_then(of_one),
        false => of_several(headers),
    }
    .unwrap_or_default();
    (received.forms.single, received.forms.multiple) = (single, multiple);
    received
}

/// `{trace}-{span}[-{sampling}[-{parent}]]`, or the sampling alone.
fn of_one(text: &str) -> Option<Received> {
    let mut fields = text.split('-');
    let first = fields.next()?;
    let Some(span) = fields.next() else {
        let (sampled, debug) = sampling(first)?;
        let forms = Forms { debug, ..Forms::default() };
        return Some(Received { forms, claim: None, sampled: Some(sampled) });
    };
    let (sampled, debug) = match fields.next() {
        Some(text) => sampling(text).map(|(sampled, debug)| (Some(sampled), debug))?,
        None => (None, false),
    };
    if let Some(parent) = fields.next() {
        id::<8>(parent)?;
    }
    fields.next().is_none().then_some(())?;
    claim(first, span, sampled, debug)
}

fn of_several(headers: &HeaderMap) -> Option<Received> {
    let debug = one(headers, &FLAGS) == Some("1");
    let sampled = match one(headers, &SAMPLED_NAME) {
        _ if debug => Some(true),
        Some("1" | "true") => Some(true),
        Some("0" | "false") => Some(false),
        Some(_) => return None,
        None if headers.contains_key(&SAMPLED_NAME) => return None,
        None => None,
    };
    if !headers.contains_key(&TRACE_ID) {
        let forms = Forms { debug, ..Forms::default() };
        return Some(Received { forms, claim: None, sampled });
    }
    claim(one(headers, &TRACE_ID)?, one(headers, &SPAN_ID)?, sampled, debug)
}

/// Whether it is sampled, and whether that was demanded.
fn sampling(text: &str) -> Option<(bool, bool)> {
    match text {
        "1" => Some((true, false)),
        "0" => Some((false, false)),
        "d" => Some((true, true)),
        _ => None,
    }
}

fn claim(trace: &str, span: &str, sampled: Option<bool>, debug: bool) -> Option<Received> {
    let narrow = trace.len() == 16;
    let trace_id = match narrow {
        true => u128::from(u64::from_be_bytes(id(trace)?)).to_be_bytes(),
        false => id(trace)?,
    };
    // Who defers the decision leaves it to us, and we record.
    let flags = if sampled.unwrap_or(true) { SAMPLED } else { 0 };
    let claim = Claim { trace_id, span_id: id(span)?, flags };
    let forms = Forms { narrow, debug, ..Forms::default() };
    Some(Received { forms, claim: Some(claim), sampled })
}

pub(super) fn write(context: &SpanContext, headers: &mut HeaderMap) {
    let forms = context.b3;
    // Narrow only as long as it is the same trace.
    let (high, low) = context.trace_id.split_at(8);
    let trace = if forms.narrow && high == [0; 8] { low } else { &context.trace_id };
    let sampling = match (forms.debug, context.is_sampled()) {
        (true, true) => b'd',
        (false, true) => b'1',
        (_, false) => b'0',
    };
    if forms.single {
        let mut text = Text::<68>::new();
        text.hex(trace).push(b'-').hex(&context.span_id).push(b'-').push(sampling);
        if let Some(parent) = &context.parent {
            text.push(b'-').hex(parent);
        }
        headers.insert(SINGLE, text.value());
    }
    if forms.multiple {
        headers.insert(TRACE_ID, Text::<32>::new().hex(trace).value());
        headers.insert(SPAN_ID, Text::<16>::new().hex(&context.span_id).value());
        match &context.parent {
            Some(parent) => drop(headers.insert(PARENT_ID, Text::<16>::new().hex(parent).value())),
            None => drop(headers.remove(PARENT_ID)),
        }
        headers.remove(FLAGS);
        if sampling == b'd' {
            // It implies that it is sampled, and stands alone.
            headers.insert(FLAGS, HeaderValue::from_static("1"));
            headers.remove(SAMPLED_NAME);
        } else {
            headers.insert(SAMPLED_NAME, Text::<1>::new().push(sampling).value());
        }
    }
}
