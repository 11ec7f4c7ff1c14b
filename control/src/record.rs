//! What one audit span says: the facts it is searched by, and its flat JSON.
//!
//! A record is kept as the bytes that its emitter made. Here they are decoded, for looking only; what
//! is stored and forwarded is never encoded again.
//!
//! Specification: OTLP `opentelemetry.proto.trace.v1.Span`; names in [`picket_api::attributes`].

use bytes::Bytes;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use picket_api::attributes as names;
use picket_certs::leaf::hex;
use prost::Message as _;
use serde_json::{Map, Value};

use crate::clock;

/// Records of one declared gap: more are a mistake, and could make sums overflow.
const MAX_GAP: i64 = 1 << 40;

/// Largest record that is kept, in bytes.
pub(crate) const MAX_SIZE: usize = 256 * 1024;

/// Why a span cannot be a record of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    #[error("the span is not protobuf")]
    Protobuf,
    #[error("the span has more than {MAX_SIZE} bytes")]
    TooLarge,
    #[error("the span has no {} of 0 or more", names::LANE)]
    Lane,
    #[error("the span has no {} of 1 or more", names::SEQUENCE)]
    Sequence,
    #[error("the span's {} is none of \"request\", \"connection\" and \"event\"", names::KIND)]
    Kind,
    #[error("the span is of {} \"event\", and of none that a proxy may record", names::KIND)]
    Event,
    #[error("the span declares a gap of no or too many records, or without a reason")]
    Gap,
    #[error("the span's {} is not 1 or more", names::CHAIN_POSITION)]
    Position,
    #[error("the span's trace_id is not 16 bytes, or its span_id or parent_span_id not 8")]
    Ids,
    #[error("the span's start is not a time before the year 2262")]
    Time,
}

/// What a record is searched by.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    pub(crate) lane: i64,
    pub(crate) sequence: i64,
    pub(crate) time_ns: i64,
    pub(crate) duration_us: i64,
    pub(crate) trace: Vec<u8>,
    pub(crate) span: Vec<u8>,
    pub(crate) kind: String,
    pub(crate) event: Option<String>,
    pub(crate) direction: Option<String>,
    pub(crate) source: Option<String>,
    pub(crate) destination: Option<String>,
    pub(crate) route: Option<String>,
    pub(crate) method: Option<String>,
    pub(crate) path: Option<String>,
    pub(crate) status: Option<i64>,
    pub(crate) decision: Option<String>,
    pub(crate) decision_id: Option<String>,
    pub(crate) policy: Option<String>,
    pub(crate) reason: Option<String>,
    /// Dry-run policies would have decided otherwise.
    pub(crate) is_dry_run: bool,
    /// Its status is ERROR.
    pub(crate) failed: bool,
    /// Its place in the lane's chain; 0: it stands in none.
    pub(crate) position: i64,
    /// The hash before it in that chain.
    pub(crate) previous: Option<String>,
    /// What it declares not to be there.
    pub(crate) gap: Option<Box<Gap>>,
}

/// Records that an emitter declares not to have kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Gap {
    pub(crate) reason: String,
    pub(crate) count: i64,
    /// The boot and lane that are meant; left out: those of the record.
    pub(crate) boot: Option<String>,
    pub(crate) lane: Option<i64>,
    /// Sequence numbers, if they are known.
    pub(crate) first: Option<i64>,
    pub(crate) last: Option<i64>,
}

/// The events that proxies may record; all others are the control plane's.
const EVENTS_OF_PROXIES: [&str; 3] =
    ["picket.audit.gap", "picket.audit.spool", "certificate.renewal_failed"];

impl Facts {
    /// Whether its trace is to be seen, whatever share of the others is: it was refused, it failed, it
    /// lasted as long, or a policy on trial would have refused it.
    pub(crate) fn is_notable(&self, slow_us: i64) -> bool {
        self.kind != "event"
            && (self.decision.as_deref() == Some("deny")
                || self.failed
                || self.is_dry_run
                || self.status.is_some_and(|status| status >= 500)
                || self.duration_us >= slow_us)
    }

    /// Whether a workload may say so: on the way in it is the one that was called, on the way out the caller.
    pub(crate) fn is_of(&self, emitter: &str) -> bool {
        let own = match self.direction.as_deref() {
            Some("inbound") => &self.destination,
            Some("outbound") => &self.source,
            _ => return true,
        };
        own.as_ref().is_none_or(|own| own == emitter)
    }

    /// Reads the facts of a proxy's span.
    pub(crate) fn of_proxy(bytes: &[u8]) -> Result<Self, Malformed> {
        if bytes.len() > MAX_SIZE {
            return Err(Malformed::TooLarge);
        }
        let facts = Self::of(Span::decode(bytes).map_err(|_| Malformed::Protobuf)?)?;
        let is_sound = |gap: &Gap| !gap.reason.is_empty() && (1..MAX_GAP).contains(&gap.count);
        if facts.gap.as_ref().is_some_and(|gap| !is_sound(gap)) {
            return Err(Malformed::Gap);
        }
        let event = facts.event.as_deref();
        match facts.kind.as_str() {
            "request" | "connection" => Ok(facts),
            "event" if event.is_some_and(|e| EVENTS_OF_PROXIES.contains(&e)) => Ok(facts),
            "event" => Err(Malformed::Event),
            _ => Err(Malformed::Kind),
        }
    }

    /// Reads the facts of any record, those of the control plane's own acts included.
    pub(crate) fn of(span: Span) -> Result<Self, Malformed> {
        let parent = span.parent_span_id.len();
        if span.trace_id.len() != 16 || span.span_id.len() != 8 || !matches!(parent, 0 | 8) {
            return Err(Malformed::Ids);
        }
        let time_ns = i64::try_from(span.start_time_unix_nano).map_err(|_| Malformed::Time)?;
        let duration_us = microseconds(span.start_time_unix_nano, span.end_time_unix_nano);
        let (trace, span_id) = (span.trace_id, span.span_id);
        let mut facts = Self { time_ns, duration_us, trace, span: span_id, ..Self::default() };
        facts.lane = -1;
        facts.failed = span.status.is_some_and(|status| status.code() == StatusCode::Error);
        for KeyValue { key, value, .. } in span.attributes {
            let Some(value) = value.and_then(|v| v.value) else { continue };
            facts.take(&key, value);
        }
        let is_gap = facts.event.as_deref() == Some("picket.audit.gap");
        facts.gap = facts.gap.take().filter(|_| is_gap);
        match facts {
            Self { lane: ..0, .. } => Err(Malformed::Lane),
            Self { sequence: ..1, .. } => Err(Malformed::Sequence),
            Self { position: ..0, .. } => Err(Malformed::Position),
            facts => Ok(facts),
        }
    }

    fn gap(&mut self) -> &mut Gap {
        self.gap.get_or_insert_default()
    }

    /// The later of two attributes with one name wins, as it does in [`json`].
    fn take(&mut self, key: &str, value: Any) {
        let number = |slot: &mut i64, value: Any| match value {
            Any::IntValue(number) => *slot = number,
            _ => *slot = -1,
        };
        let slot = match key {
            names::LANE => return number(&mut self.lane, value),
            names::SEQUENCE => return number(&mut self.sequence, value),
            names::CHAIN_POSITION => return number(&mut self.position, value),
            names::GAP_COUNT => return number(&mut self.gap().count, value),
            names::GAP_LANE => return number(self.gap().lane.insert(0), value),
            names::GAP_FIRST => return number(self.gap().first.insert(0), value),
            names::GAP_LAST => return number(self.gap().last.insert(0), value),
            names::GAP_REASON => {
                self.gap().reason = text(value).unwrap_or_default();
                return;
            }
            names::GAP_BOOT => {
                self.gap().boot = text(value);
                return;
            }
            names::CHAIN_PREVIOUS => &mut self.previous,
            names::STATUS => {
                self.status = if let Any::IntValue(number) = value { Some(number) } else { None };
                return;
            }
            names::DRY_RUN => {
                self.is_dry_run = matches!(value, Any::ArrayValue(list) if !list.values.is_empty());
                return;
            }
            names::KIND => {
                self.kind = text(value).unwrap_or_default();
                return;
            }
            names::EVENT => &mut self.event,
            names::DIRECTION => &mut self.direction,
            names::SOURCE => &mut self.source,
            names::DESTINATION => &mut self.destination,
            names::ROUTE => &mut self.route,
            names::METHOD => &mut self.method,
            names::URL_PATH => &mut self.path,
            names::DECISION => &mut self.decision,
            names::DECISION_ID => &mut self.decision_id,
            names::POLICY => &mut self.policy,
            names::REASON => &mut self.reason,
            _ => return,
        };
        *slot = text(value);
    }
}

/// From one time to another, both in nanoseconds.
fn microseconds(start: u64, end: u64) -> i64 {
    i64::try_from(end.saturating_sub(start) / 1_000).unwrap_or(i64::MAX)
}

fn text(value: Any) -> Option<String> {
    match value {
        Any::StringValue(text) => Some(text),
        _ => None,
    }
}

/// One resource attribute as text.
pub(crate) fn resource_text<'a>(resource: &'a Resource, name: &str) -> Option<&'a str> {
    let mut found = None;
    for attribute in resource.attributes.iter().filter(|a| a.key == name) {
        found = match attribute.value.as_ref().and_then(|v| v.value.as_ref()) {
            Some(Any::StringValue(text)) => Some(text.as_str()),
            _ => None,
        };
    }
    found
}

/// A stored record as flat JSON: dotted attribute names, the resource's included.
///
/// What the record is filed under (its emitter, times and ids) stands above anything that the span's
/// own attributes claim.
pub(crate) fn json(resource: &[u8], span: &Bytes) -> Option<Map<String, Value>> {
    let resource = Resource::decode(resource).ok()?;
    let span = Span::decode(span.clone()).ok()?;
    let mut record = Map::new();
    insert_all(&mut record, span.attributes);
    let boot = resource_text(&resource, names::SERVICE_INSTANCE_ID).unwrap_or_default().to_owned();
    insert_all(&mut record, resource.attributes);
    let number = |name: &str| record.get(name).and_then(Value::as_i64).unwrap_or_default();
    let id = format!("{boot}-{}-{}", number(names::LANE), number(names::SEQUENCE));
    let start = i64::try_from(span.start_time_unix_nano).unwrap_or(i64::MAX);
    let duration = microseconds(span.start_time_unix_nano, span.end_time_unix_nano);
    let mut set = |name: &str, value: Value| record.insert(name.to_owned(), value);
    set("id", id.into());
    set("time", clock::rfc3339_nanoseconds(start).into());
    set("duration_us", duration.into());
    set("name", span.name.into());
    set("trace_id", hex(&span.trace_id).into());
    set("span_id", hex(&span.span_id).into());
    if !span.parent_span_id.is_empty() {
        set("parent_span_id", hex(&span.parent_span_id).into());
    }
    if let Some(status) = span.status.filter(|s| s.code() == StatusCode::Error) {
        set("status.error", status.message.into());
    }
    if !span.events.is_empty() {
        let events = span.events.into_iter().map(|event| {
            let mut flat = Map::new();
            insert_all(&mut flat, event.attributes);
            let at = i64::try_from(event.time_unix_nano).unwrap_or(i64::MAX);
            flat.insert("name".to_owned(), event.name.into());
            flat.insert("time".to_owned(), clock::rfc3339_nanoseconds(at).into());
            Value::Object(flat)
        });
        set("events", events.collect::<Vec<_>>().into());
    }
    if !span.links.is_empty() {
        let links = span.links.into_iter().map(|link| {
            serde_json::json!({ "trace_id": hex(&link.trace_id), "span_id": hex(&link.span_id) })
        });
        set("links", links.collect::<Vec<_>>().into());
    }
    Some(record)
}

fn insert_all(record: &mut Map<String, Value>, attributes: Vec<KeyValue>) {
    for KeyValue { key, value, .. } in attributes {
        record.insert(key, value.map_or(Value::Null, plain));
    }
}

fn plain(value: AnyValue) -> Value {
    match value.value {
        Some(Any::StringValue(text)) => text.into(),
        Some(Any::BoolValue(truth)) => truth.into(),
        Some(Any::IntValue(number)) => number.into(),
        Some(Any::DoubleValue(number)) => number.into(),
        Some(Any::BytesValue(bytes)) => hex(&bytes).into(),
        Some(Any::ArrayValue(list)) => list.values.into_iter().map(plain).collect(),
        Some(Any::KvlistValue(list)) => {
            let mut map = Map::new();
            insert_all(&mut map, list.values);
            map.into()
        }
        _ => Value::Null,
    }
}

#[cfg(test)]
mod tests;
