use opentelemetry_proto::tonic::common::v1::{ArrayValue, KeyValueList};
use opentelemetry_proto::tonic::trace::v1::Status;
use opentelemetry_proto::tonic::trace::v1::span::{Event, Link};

use super::*;

fn attribute(key: &str, value: Any) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), key_strindex: 0 }
}

fn text_attribute(key: &str, value: &str) -> KeyValue {
    attribute(key, Any::StringValue(value.to_owned()))
}

fn span() -> Span {
    Span {
        trace_id: vec![1; 16],
        span_id: vec![2; 8],
        name: "GET".to_owned(),
        start_time_unix_nano: 1_000,
        end_time_unix_nano: 3_500,
        attributes: vec![
            text_attribute(names::KIND, "request"),
            attribute(names::LANE, Any::IntValue(0)),
            attribute(names::SEQUENCE, Any::IntValue(1)),
        ],
        ..Span::default()
    }
}

fn facts(change: impl FnOnce(&mut Span)) -> Result<Facts, Malformed> {
    let mut span = span();
    change(&mut span);
    Facts::of_proxy(&span.encode_to_vec())
}

fn flat(span: &Span) -> Map<String, Value> {
    let attributes = vec![
        text_attribute(names::EMITTER, "spiffe://shop.example/ns/shop/sa/orders"),
        text_attribute(names::SERVICE_INSTANCE_ID, "b1"),
    ];
    let resource = Resource { attributes, ..Resource::default() };
    json(&resource.encode_to_vec(), &span.encode_to_vec().into()).unwrap()
}

#[test]
fn what_no_emitter_of_ours_would_send_is_refused() {
    assert!(facts(|_| {}).is_ok());
    let push = |key: &'static str, value: Any| {
        move |span: &mut Span| span.attributes.push(attribute(key, value))
    };
    assert_eq!(facts(|s| s.trace_id.truncate(8)), Err(Malformed::Ids));
    assert_eq!(facts(|s| s.span_id.clear()), Err(Malformed::Ids));
    assert_eq!(facts(|s| s.parent_span_id = vec![1]), Err(Malformed::Ids));
    assert_eq!(facts(|s| s.start_time_unix_nano = u64::MAX), Err(Malformed::Time));
    assert_eq!(facts(push(names::LANE, Any::IntValue(-1))), Err(Malformed::Lane));
    assert_eq!(facts(push(names::LANE, Any::StringValue("0".into()))), Err(Malformed::Lane));
    assert_eq!(facts(push(names::SEQUENCE, Any::IntValue(0))), Err(Malformed::Sequence));
    assert_eq!(facts(push(names::KIND, Any::StringValue("event".into()))), Err(Malformed::Event));
    assert_eq!(facts(push(names::KIND, Any::StringValue("x".into()))), Err(Malformed::Kind));
    assert_eq!(facts(|s| s.name = "x".repeat(MAX_SIZE)), Err(Malformed::TooLarge));
    assert_eq!(Facts::of_proxy(b"\xff"), Err(Malformed::Protobuf));
}

#[test]
fn what_a_record_is_filed_under_stands_above_what_it_claims() {
    let mut forged = span();
    for (key, value) in [
        (names::EMITTER, "spiffe://shop.example/ns/shop/sa/payments"),
        (names::SERVICE_INSTANCE_ID, "b9"),
        ("id", "b9-0-1"),
        ("time", "never"),
        ("trace_id", "00"),
        ("duration_us", "0"),
    ] {
        forged.attributes.push(text_attribute(key, value));
    }
    let record = flat(&forged);
    assert_eq!(record["id"], "b1-0-1");
    assert_eq!(record["picket.emitter"], "spiffe://shop.example/ns/shop/sa/orders");
    assert_eq!(record["time"], "1970-01-01T00:00:00.000001000Z");
    assert_eq!(record["trace_id"], "01".repeat(16));
    assert_eq!(record["duration_us"], 2);
}

#[test]
fn every_kind_of_value_has_its_plain_form() {
    let mut span = span();
    let list = |values: Vec<Any>| {
        let values = values.into_iter().map(|v| AnyValue { value: Some(v) }).collect();
        Any::ArrayValue(ArrayValue { values })
    };
    let map = Any::KvlistValue(KeyValueList { values: vec![text_attribute("a", "b")] });
    span.attributes.extend([
        attribute("true", Any::BoolValue(true)),
        attribute("real", Any::DoubleValue(0.5)),
        attribute("bytes", Any::BytesValue(vec![0, 255])),
        attribute("list", list(vec![Any::IntValue(1), Any::StringValue("x".into())])),
        attribute("map", map),
        KeyValue { key: "none".to_owned(), ..KeyValue::default() },
    ]);
    span.status = Some(Status { message: "denied".to_owned(), code: 2 });
    span.events = vec![Event {
        name: "picket.authz.denied".to_owned(),
        time_unix_nano: 2_000,
        attributes: vec![text_attribute(names::POLICY, "shop/orders")],
        ..Event::default()
    }];
    span.links = vec![Link { trace_id: vec![3; 16], span_id: vec![4; 8], ..Link::default() }];
    let record = flat(&span);
    assert_eq!(record["true"], true);
    assert_eq!(record["real"], 0.5);
    assert_eq!(record["bytes"], "00ff");
    assert_eq!(record["list"], serde_json::json!([1, "x"]));
    assert_eq!(record["map"], serde_json::json!({ "a": "b" }));
    assert_eq!(record["none"], Value::Null);
    assert_eq!(record["status.error"], "denied");
    let event = &record["events"][0];
    assert_eq!(
        (&event["name"], &event["picket.policy"]),
        (&"picket.authz.denied".into(), &"shop/orders".into())
    );
    assert_eq!(record["links"][0]["span_id"], "0404040404040404");
    assert!(!record.contains_key("parent_span_id"));
}
