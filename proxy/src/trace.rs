//! Trace context: which trace a request belongs to, and how that is passed on.
//!
//! A context that is not exactly as its specification writes it is as good as none: a new trace begins,
//! and nothing of the hostile value is carried on. No span gets a parent that nobody recorded: what a
//! request claims beyond that becomes a link.
//!
//! Specifications: W3C Trace Context level 2 ([`w3c`]); B3 of Zipkin ([`b3`]). `baggage` is for the
//! services and passes untouched.

mod b3;
mod w3c;

use http::{HeaderMap, HeaderName, HeaderValue};
use picket_certs::leaf::write_hex;

use w3c::TRACEPARENT;

const SAMPLED: u8 = 0x01;
/// Level 2: the trace id was chosen at random.
const RANDOM: u8 = 0x02;

/// Claims of one request that become links; nobody honest has more.
const MAX_LINKS: usize = 2;

/// A span of somebody else's, as a request names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    /// The trace.
    pub(crate) trace_id: [u8; 16],
    /// The span.
    pub(crate) span_id: [u8; 8],
    /// The W3C flags.
    flags: u8,
}

/// One span's place in its trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SpanContext {
    /// The trace.
    pub(crate) trace_id: [u8; 16],
    /// This span.
    pub(crate) span_id: [u8; 8],
    /// The recorded span that caused it, if the request said so.
    pub(crate) parent: Option<[u8; 8]>,
    /// The W3C flags.
    pub(crate) flags: u8,
    /// The W3C `tracestate` of the trace that is continued.
    pub(crate) state: Option<Box<str>>,
    /// What the request claimed and cannot be the parent.
    pub(crate) links: Vec<Claim>,
    /// The forms of B3 that the request came with.
    b3: b3::Forms,
}

impl SpanContext {
    /// Continues the trace in a request's headers, or begins one.
    pub(crate) fn continued(headers: &HeaderMap) -> Self {
        let mut parents = headers.get_all(&TRACEPARENT).iter().map(w3c::parent);
        let b3 = b3::read(headers);
        let mut context = match (parents.next(), parents.next()) {
            // W3C wins over B3, also where it is broken: it is what the last hop wrote.
            (Some(claim), None) => match claim {
                Some(claim) => Self::after(claim, w3c::state(headers)),
                None => Self::root(),
            },
            (Some(first), Some(second)) => {
                let mut context = Self::root();
                let claims = [first, second].into_iter().chain(parents).flatten();
                claims.for_each(|claim| context.link(claim));
                context
            }
            (None, _) => match b3.claim {
                Some(claim) => Self::after(claim, None),
                None if b3.sampled == Some(false) => Self { flags: RANDOM, ..Self::root() },
                None => Self::root(),
            },
        };
        if let Some(claim) = b3.claim
            && claim.trace_id != context.trace_id
        {
            context.link(claim);
        }
        context.b3 = b3.forms;
        context
    }

    /// Begins a trace.
    pub(crate) fn root() -> Self {
        Self {
            trace_id: fastrand::u128(1..).to_be_bytes(),
            span_id: random_id(),
            parent: None,
            flags: SAMPLED | RANDOM,
            state: None,
            links: Vec::new(),
            b3: b3::Forms::default(),
        }
    }

    /// The next span of a trace. Whoever does not sample does not record, so that such a span cannot be a
    /// parent; the last one that a proxy recorded, named in the state, can.
    fn after(claim: Claim, state: Option<Box<str>>) -> Self {
        let Claim { trace_id, span_id, flags } = claim;
        let mut context = Self { trace_id, flags, state, ..Self::root() };
        context.parent = Some(span_id);
        if flags & SAMPLED == 0 {
            context.parent = context.state.as_deref().and_then(w3c::recorded);
            if context.parent.is_none() {
                context.link(claim);
            }
        }
        context
    }

    fn link(&mut self, claim: Claim) {
        if self.links.len() < MAX_LINKS && !self.links.contains(&claim) {
            self.links.push(claim);
        }
    }

    fn is_sampled(&self) -> bool {
        self.flags & SAMPLED != 0
    }

    /// Makes this span the parent of whatever the forwarded request causes, in every form in which the
    /// request came.
    pub(crate) fn inject(&self, headers: &mut HeaderMap) {
        w3c::write(self, headers);
        b3::write(self, headers);
    }

    /// The name under which the caller is told of the decision: the span's own id.
    pub(crate) fn decision_id(&self) -> String {
        picket_certs::leaf::hex(&self.span_id)
    }
}

/// A header's text that is put together from digits and dashes, without allocating.
struct Text<const N: usize> {
    bytes: [u8; N],
    length: usize,
}

impl<const N: usize> Text<N> {
    fn new() -> Self {
        Self { bytes: [0; N], length: 0 }
    }

    fn push(&mut self, byte: u8) -> &mut Self {
        if let Some(slot) = self.bytes.get_mut(self.length) {
            *slot = byte;
            self.length += 1;
        }
        self
    }

    fn hex(&mut self, bytes: &[u8]) -> &mut Self {
        let end = self.length + bytes.len() * 2;
        if let Some(slots) = self.bytes.get_mut(self.length..end) {
            write_hex(bytes, slots);
            self.length = end;
        }
        self
    }

    fn value(&self) -> HeaderValue {
        let text = self.bytes.get(..self.length).unwrap_or_default();
        HeaderValue::from_bytes(text).unwrap_or_else(|_| HeaderValue::from_static(""))
    }
}

/// The text of a header that is there once.
fn one<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h str> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?.to_str().ok()?;
    values.next().is_none().then_some(first)
}

/// Bytes in lower-case hexadecimal: upper case is not allowed (W3C, section 3.2.2; B3 likewise).
fn field<const N: usize>(text: &str) -> Option<[u8; N]> {
    let text = text.as_bytes();
    if text.len() != N * 2 {
        return None;
    }
    let mut out = [0; N];
    for (slot, pair) in out.iter_mut().zip(text.chunks_exact(2)) {
        let mut byte = 0;
        for digit in pair {
            let value = match digit {
                b'0'..=b'9' => digit - b'0',
                b'a'..=b'f' => digit - b'a' + 10,
                _ => return None,
            };
            byte = byte << 4 | value;
        }
        *slot = byte;
    }
    Some(out)
}

/// An id: all zeroes are none.
fn id<const N: usize>(text: &str) -> Option<[u8; N]> {
    field(text).filter(|id| *id != [0; N])
}

fn random_id() -> [u8; 8] {
    // An id must not be zero; drawing zero is as likely as any other value.
    fastrand::u64(1..).to_be_bytes()
}

#[cfg(test)]
mod tests;
