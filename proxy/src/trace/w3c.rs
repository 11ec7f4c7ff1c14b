//! `traceparent` and `tracestate`.
//!
//! Specification: W3C Trace Context level 2, sections 3.2 and 3.3.

use http::{HeaderMap, HeaderName, HeaderValue};

use super::{Claim, RANDOM, SAMPLED, SpanContext, Text, field, id};

pub(super) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
pub(super) const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// Members of a `tracestate`; more make it invalid.
const MAX_MEMBERS: usize = 32;
/// Bytes of a `tracestate` that are passed on. None are recorded: it may hold anything.
const MAX_STATE: usize = 512;
/// Members longer than this are the first to go when there is too much.
const LONG_MEMBER: usize = 128;
/// The key of our own member: the last span of the trace that a proxy recorded. It is there only while
/// the trace is not sampled, when nobody else's span can be relied on.
const OWN_KEY: &str = "picket";

/// The span that a `traceparent` names.
pub(super) fn parent(value: &HeaderValue) -> Option<Claim> {
    let mut fields = value.to_str().ok()?.split('-');
    let [version] = field(fields.next()?)?;
    let trace_id = id(fields.next()?)?;
    let span_id = id(fields.next()?)?;
    let [flags] = field(fields.next()?)?;
    // Version 00 has exactly four fields; a later one may have more (section 3.2.4); ff is forbidden.
    let more = fields.next().is_some();
    if version == 0xff || (version == 0 && more) {
        return None;
    }
    Some(Claim { trace_id, span_id, flags: flags & (SAMPLED | RANDOM) })
}

/// The `tracestate` of a request, if it is one; in several headers it is one list. What is too long for
/// us loses whole members, as the specification has it (section 3.3.1.5).
pub(super) fn state(headers: &HeaderMap) -> Option<Box<str>> {
    let mut members: Vec<&str> = Vec::new();
    for value in headers.get_all(&TRACESTATE) {
        let listed = value.to_str().ok()?.split(',').map(|member| member.trim_matches([' ', '\t']));
        for member in listed.filter(|member| !member.is_empty()) {
            let key = key(member)?;
            let is_twice = members.iter().any(|known| known.split('=').next() == Some(key));
            if is_twice || members.len() == MAX_MEMBERS {
                return None;
            }
            members.push(member);
        }
    }
    shorten(&mut members);
    (!members.is_empty()).then(|| members.join(",").into())
}

fn shorten(members: &mut Vec<&str>) {
    while members.iter().map(|member| member.len() + 1).sum::<usize>() > MAX_STATE + 1 {
        match members.iter().rposition(|member| member.len() > LONG_MEMBER) {
            Some(long) => drop(members.remove(long)),
            None => drop(members.pop()),
        }
    }
}

/// The key of a member that is well-formed.
fn key(member: &str) -> Option<&str> {
    let (key, value) = member.split_once('=')?;
    let begins = key.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
    let is_key_byte =
        |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'*' | b'/' | b'@');
    let is_value_byte = |byte: u8| matches!(byte, 0x20..0x7f) && byte != b'=';
    let fits = (1..=256).contains(&key.len()) && (1..=256).contains(&value.len());
    (fits && begins && key.bytes().all(is_key_byte) && value.bytes().all(is_value_byte))
        .then_some(key)
}

/// The span that our own member names.
pub(super) fn recorded(state: &str) -> Option<[u8; 8]> {
    state.split(',').find_map(|member| id(member.strip_prefix(OWN_KEY)?.strip_prefix('=')?))
}

pub(super) fn write(context: &SpanContext, headers: &mut HeaderMap) {
    let mut parent = Text::<55>::new();
    parent.hex(&[0]).push(b'-').hex(&context.trace_id);
    parent.push(b'-').hex(&context.span_id).push(b'-').hex(&[context.flags]);
    headers.insert(TRACEPARENT, parent.value());
    let state = match &context.state {
        state if !context.is_sampled() => Some(with_own(context, state.as_deref())),
        Some(state) => HeaderValue::from_str(state).ok(),
        None => None,
    };
    match state {
        Some(state) => drop(headers.insert(TRACESTATE, state)),
        None if headers.contains_key(&TRACESTATE) => drop(headers.remove(TRACESTATE)),
        None => {}
    }
}

/// The state with our own member first, as whoever changes a member writes it.
fn with_own(context: &SpanContext, state: Option<&str>) -> HeaderValue {
    let own = format!("{OWN_KEY}={}", context.decision_id());
    let others = state.unwrap_or_default().split(',');
    let others = others.filter(|member| !member.is_empty() && key(member) != Some(OWN_KEY));
    let mut members: Vec<&str> = std::iter::once(own.as_str()).chain(others).collect();
    members.truncate(MAX_MEMBERS);
    shorten(&mut members);
    HeaderValue::from_str(&members.join(",")).unwrap_or_else(|_| HeaderValue::from_static(""))
}
