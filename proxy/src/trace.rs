//! Trace context: which trace a request belongs to, and how that is passed on.
//!
//! A context that is not exactly as the specification writes it is as good as none: a new trace
//! begins, and nothing of the hostile value is carried on.
//!
//! Specification: W3C Trace Context level 2.

use http::{HeaderMap, HeaderName, HeaderValue};

/// `traceparent`.
pub(crate) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// `tracestate`.
pub(crate) const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// Longest `tracestate` that is recorded and carried on, in bytes.
const MAX_TRACESTATE: usize = 512;

const SAMPLED: u8 = 0x01;
/// Level 2: the trace id was chosen at random.
const RANDOM: u8 = 0x02;

/// One span's place in its trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SpanContext {
    /// The trace.
    pub(crate) trace_id: [u8; 16],
    /// This span.
    pub(crate) span_id: [u8; 8],
    /// The span that caused it, if the request said so.
    pub(crate) parent: Option<[u8; 8]>,
    /// The W3C flags.
    pub(crate) flags: u8,
}

impl SpanContext {
    /// Continues the trace in a request's headers, or begins one.
    pub(crate) fn continued(headers: &HeaderMap) -> Self {
        let span_id = random_id();
        match single(headers, &TRACEPARENT).and_then(parse) {
            Some((trace_id, parent, flags)) => {
                Self { trace_id, span_id, parent: Some(parent), flags }
            }
            None => {
                Self { trace_id: random_trace_id(), span_id, parent: None, flags: SAMPLED | RANDOM }
            }
        }
    }

    /// Begins a trace of its own.
    pub(crate) fn root() -> Self {
        Self::continued(&HeaderMap::new())
    }

    /// Makes this span the parent of whatever the forwarded request causes.
    pub(crate) fn inject(&self, headers: &mut HeaderMap) {
        if self.parent.is_none() || !has_usable_state(headers) {
            headers.remove(TRACESTATE);
        }
        headers.insert(TRACEPARENT, self.header());
    }

    fn header(&self) -> HeaderValue {
        const LENGTH: usize = 55;
        let mut text = [b'-'; LENGTH];
        let mut position = 0;
        let mut put = |bytes: &[u8]| {
            for byte in bytes {
                for nibble in [byte >> 4, byte & 0xf] {
                    if let (Some(slot), Some(digit)) =
                        (text.get_mut(position), HEX.get(usize::from(nibble)))
                    {
                        *slot = *digit;
                    }
                    position += 1;
                }
            }
            position += 1; // the dash
        };
        put(&[0]);
        put(&self.trace_id);
        put(&self.span_id);
        put(&[self.flags]);
        HeaderValue::from_bytes(&text).unwrap_or_else(|_| HeaderValue::from_static(""))
    }

    /// The name under which the caller is told of the decision: the span's own id.
    pub(crate) fn decision_id(&self) -> String {
        picket_certs::leaf::hex(&self.span_id)
    }
}

const HEX: &[u8; 16] = b"0123456789abcdef";

/// The `tracestate` of a request, if it is one that may be carried on.
pub(crate) fn state(headers: &HeaderMap) -> Option<&str> {
    has_usable_state(headers).then(|| single(headers, &TRACESTATE)).flatten()
}

fn has_usable_state(headers: &HeaderMap) -> bool {
    single(headers, &TRACESTATE).is_some_and(|state| {
        state.len() <= MAX_TRACESTATE && state.bytes().all(|b| (0x20..0x7f).contains(&b))
    })
}

fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?.to_str().ok()?;
    values.next().is_none().then_some(first)
}

fn parse(text: &str) -> Option<([u8; 16], [u8; 8], u8)> {
    let mut fields = text.split('-');
    let version = field::<1>(fields.next()?)?;
    let trace_id = field::<16>(fields.next()?)?;
    let parent = field::<8>(fields.next()?)?;
    let flags = field::<1>(fields.next()?)?;
    // Version 00 has exactly four fields; a later one may have more; ff is forbidden.
    let more = fields.next().is_some();
    if version == [0xff] || (version == [0] && more) {
        return None;
    }
    if trace_id == [0; 16] || parent == [0; 8] {
        return None;
    }
    Some((trace_id, parent, flags.first()? & (SAMPLED | RANDOM)))
}

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
                // Upper case is not allowed (section 3.2.2).
                _ => return None,
            };
            byte = byte << 4 | value;
        }
        *slot = byte;
    }
    Some(out)
}

fn random_id() -> [u8; 8] {
    // An id must not be zero; drawing zero is as likely as any other value.
    fastrand::u64(1..).to_be_bytes()
}

fn random_trace_id() -> [u8; 16] {
    fastrand::u128(1..).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(traceparent: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(TRACEPARENT, HeaderValue::from_str(traceparent).unwrap());
        headers
    }

    const VALID: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_trace_is_continued_and_passed_on() {
        let mut headers = headers(VALID);
        headers.insert(TRACESTATE, HeaderValue::from_static("congo=t61rcWkgMzE"));
        let context = SpanContext::continued(&headers);
        assert_eq!(context.parent, Some([0xb7, 0xad, 0x6b, 0x71, 0x69, 0x20, 0x33, 0x31]));
        assert_eq!(context.flags, 1);
        context.inject(&mut headers);
        let passed_on = headers.get(TRACEPARENT).unwrap().to_str().unwrap();
        let span = context.decision_id();
        assert_eq!(passed_on, format!("00-0af7651916cd43dd8448eb211c80319c-{span}-01"));
        assert_eq!(state(&headers), Some("congo=t61rcWkgMzE"));
    }

    #[test]
    fn what_is_not_exactly_a_context_begins_a_new_trace() {
        for hostile in [
            "",
            "00",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b716920333g-01",
            "00-0af7651916cd43dd8448eb211c80319-b7ad6b7169203331-01",
            "0-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ] {
            let mut headers = headers(hostile);
            headers.insert(TRACESTATE, HeaderValue::from_static("congo=t61rcWkgMzE"));
            let context = SpanContext::continued(&headers);
            assert_eq!(context.parent, None, "{hostile}");
            assert_ne!(context.trace_id, [0; 16]);
            context.inject(&mut headers);
            assert_eq!(headers.get(TRACESTATE), None, "a state without its parent is dropped");
            assert!(SpanContext::continued(&headers).parent.is_some());
        }
        // A later version may have more fields (section 3.2.4).
        let later = "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more";
        assert!(SpanContext::continued(&headers(later)).parent.is_some());
    }

    #[test]
    fn two_contexts_are_none() {
        let mut headers = headers(VALID);
        headers.append(TRACEPARENT, HeaderValue::from_static(VALID));
        assert_eq!(SpanContext::continued(&headers).parent, None);
    }
}
