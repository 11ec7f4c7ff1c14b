//! The few facts of a span that verification needs.

use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use picket_api::attributes as names;
use prost::Message as _;

/// Of a span, by its own word; what is not there is 0 or empty.
#[derive(Debug, Default)]
pub(super) struct Facts {
    pub(super) previous: String,
    /// What it declares lost after completion: boot and lane if others than its own are meant, and how many.
    pub(super) gap: Option<(Option<String>, Option<i64>, u64)>,
    /// Up to which row retention removed records, if that is what it is about.
    pub(super) pruned: Option<u64>,
}

/// Reasons for which records are lost that had a place in the chain.
const AFTER_COMPLETION: [&str; 3] = ["damaged", "refused", "unsynced"];

impl Facts {
    pub(super) fn of(bytes: &[u8]) -> Self {
        let Ok(span) = Span::decode(bytes) else { return Self::default() };
        let mut facts = Self::default();
        let (mut event, mut reason, mut detail) = (String::new(), String::new(), String::new());
        let (mut boot, mut lane, mut count) = (None, None, 0);
        for attribute in span.attributes {
            let value = attribute.value.and_then(|value| value.value);
            match (attribute.key.as_str(), value) {
                (names::CHAIN_PREVIOUS, Some(Value::StringValue(text))) => facts.previous = text,
                (names::EVENT, Some(Value::StringValue(text))) => event = text,
                (names::DETAIL, Some(Value::StringValue(text))) => detail = text,
                (names::GAP_REASON, Some(Value::StringValue(text))) => reason = text,
                (names::GAP_BOOT, Some(Value::StringValue(text))) => boot = Some(text),
                (names::GAP_LANE, Some(Value::IntValue(number))) => lane = Some(number),
                (names::GAP_COUNT, Some(Value::IntValue(number))) => count = number,
                _ => {}
            }
        }
        if event == "picket.audit.gap" && AFTER_COMPLETION.contains(&reason.as_str()) {
            facts.gap = Some((boot, lane, u64::try_from(count).unwrap_or(0)));
        }
        if event == "audit.prune" {
            let detail: serde_json::Value = serde_json::from_str(&detail).unwrap_or_default();
            facts.pruned = detail.get("through").and_then(serde_json::Value::as_u64);
        }
        facts
    }
}
