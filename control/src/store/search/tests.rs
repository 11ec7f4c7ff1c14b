//! What the database finds is what looking at every record finds, for filters that nobody would write.

use std::collections::BTreeMap;
use std::time::SystemTime;

use bytes::Bytes;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::Span;
use picket_api::attributes as names;
use picket_certs::leaf::hex;
use prost::Message as _;
use serde_json::{Map, Value as Json};

use super::*;
use crate::clock;
use crate::record::{self, Facts};
use crate::search::{Scope, Shared, parse};
use crate::store::groups::{self, Fact};
use crate::store::records::{self, Batch, NewRecord};

const RECORDS: i64 = 400;

fn text(key: &str, value: impl Into<String>) -> KeyValue {
    attribute(key, Any::StringValue(value.into()))
}

fn attribute(key: &str, value: Any) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue { value: Some(value) }),
        ..KeyValue::default()
    }
}

/// A record with few values for each fact, some of them missing.
fn span(sequence: i64, random: &mut fastrand::Rng) -> Span {
    let number = u64::try_from(sequence).unwrap();
    let start = 1_000_000_000 * (number + random.u64(0..20));
    let mut attributes = vec![
        text(names::KIND, if random.u8(0..10) == 0 { "connection" } else { "request" }),
        attribute(names::LANE, Any::IntValue(0)),
        attribute(names::SEQUENCE, Any::IntValue(sequence)),
        text(names::URL_PATH, format!("/orders/{}", random.u8(0..30))),
        attribute("picket.time.policy_us", Any::IntValue(random.i64(0..50))),
    ];
    let mut maybe = |key: &str, values: &[&str]| {
        let at = random.usize(0..=values.len());
        attributes.extend(values.get(at).map(|value| text(key, *value)));
    };
    maybe(names::DIRECTION, &["inbound", "outbound"]);
    maybe(names::SOURCE, &["spiffe://a/ns/b/sa/web", "spiffe://a/ns/b/sa/orders"]);
    maybe(names::DESTINATION, &["spiffe://a/ns/b/sa/orders", "spiffe://a/ns/b/sa/payments"]);
    maybe(names::ROUTE, &["/orders/{id}", "/orders"]);
    maybe(names::METHOD, &["GET", "POST", "BREW", "(other)"]);
    maybe(names::DECISION, &["allow", "deny"]);
    maybe(names::POLICY, &["b/x", "b/y"]);
    maybe(names::REASON, &["rule_matched"]);
    maybe(names::JWT_ISSUER, &["https://id.example", "https://other.example"]);
    if random.bool() {
        attributes
            .push(attribute(names::STATUS, Any::IntValue([200, 403, 503][random.usize(0..3)])));
    }
    if random.u8(0..4) == 0 {
        let list = vec![AnyValue { value: Some(Any::StringValue("b/z=deny".to_owned())) }];
        attributes.push(attribute(names::DRY_RUN, Any::ArrayValue(ArrayValue { values: list })));
    }
    let id = number.to_be_bytes().to_vec();
    if random.bool() {
        attributes.push(text(names::DECISION_ID, hex(&id)));
    }
    Span {
        trace_id: u128::from(number / 3).to_be_bytes().to_vec(),
        span_id: id,
        start_time_unix_nano: start,
        end_time_unix_nano: start + random.u64(0..3_000_000),
        attributes,
        ..Span::default()
    }
}

async fn filled(
    random: &mut fastrand::Rng,
) -> (tempfile::TempDir, crate::store::Store, Vec<Map<String, Json>>) {
    let directory = tempfile::tempdir().unwrap();
    let store = crate::store::Store::open(&directory.path().join("control.db")).unwrap();
    let resource = Resource {
        attributes: vec![
            text(names::SERVICE_INSTANCE_ID, "b1"),
            text(names::SERVICE_NAME, "orders"),
        ],
        ..Resource::default()
    };
    let resource = Bytes::from(resource.encode_to_vec());
    let spans: Vec<Span> = (1..=RECORDS).map(|sequence| span(sequence, random)).collect();
    let json = spans.iter().map(|span| {
        let span = Bytes::from(span.encode_to_vec());
        record::json(&resource, &span).unwrap()
    });
    let json = json.collect();
    let batches = spans.chunks(70).map(|part| Batch {
        spiffe_id: "spiffe://a/ns/b/sa/orders".to_owned(),
        boot: "b1".to_owned(),
        resource: resource.clone(),
        records: part
            .iter()
            .map(|span| NewRecord {
                facts: Facts::of(span.clone()).unwrap(),
                bytes: span.encode_to_vec().into(),
            })
            .collect(),
        slow_us: None,
    });
    for batch in batches.collect::<Vec<_>>() {
        store.write(move |writing| records::insert(writing, &batch, 0)).await.unwrap().unwrap();
    }
    (directory, store, json)
}

/// A filter, and what it says of a record's JSON.
type Filter = (String, Box<dyn Fn(&Map<String, Json>) -> bool>);

fn condition(random: &mut fastrand::Rng) -> Filter {
    let equal = |short: &str,
                 key: &'static str,
                 values: &[&'static str],
                 random: &mut fastrand::Rng| {
        let value = values[random.usize(0..values.len())];
        let is_equal =
            move |record: &Map<String, Json>| record.get(key).is_some_and(|found| found == value);
        let filter: Filter = match random.u8(0..4) {
            0 => (format!("{short} != \"{value}\""), Box::new(move |r| !is_equal(r))),
            1 => (format!("has {short}"), Box::new(move |r| r.contains_key(key))),
            2 => {
                let stem = &value[..value.len() - 2];
                let begins = move |r: &Map<String, Json>| {
                    r.get(key).and_then(Json::as_str).is_some_and(|found| found.starts_with(stem))
                };
                (format!("{short} ~ \"{stem}*\""), Box::new(begins))
            }
            _ => (format!("{short} in (\"{value}\", \"{value}\")"), Box::new(is_equal)),
        };
        filter
    };
    let seconds = |record: &Map<String, Json>| {
        clock::parse_rfc3339(record["time"].as_str().unwrap()).unwrap() / 1_000_000_000
    };
    match random.u8(0..15) {
        0 => equal(
            "source",
            names::SOURCE,
            &["spiffe://a/ns/b/sa/web", "spiffe://a/ns/x/sa/x"],
            random,
        ),
        1 => equal("destination", names::DESTINATION, &["spiffe://a/ns/b/sa/payments"], random),
        2 => equal("route", names::ROUTE, &["/orders/{id}", "/nowhere"], random),
        3 => equal("method", names::METHOD, &["GET", "BREW", "(other)", "STEEP"], random),
        4 => equal("policy", names::POLICY, &["b/x", "b/q"], random),
        5 => equal("path", names::URL_PATH, &["/orders/7", "/orders/11"], random),
        6 => equal("picket.jwt.issuer", names::JWT_ISSUER, &["https://id.example"], random),
        7 => {
            let at = random.i64(0..RECORDS);
            let time = clock::rfc3339_nanoseconds(at * 1_000_000_000);
            match random.u8(0..3) {
                0 => (format!("time >= {time}"), Box::new(move |r| seconds(r) >= at)),
                1 => (format!("time < {time}"), Box::new(move |r| seconds(r) < at)),
                _ => (format!("time != {time}"), Box::new(move |r| seconds(r) != at)),
            }
        }
        8 => {
            let than = random.i64(0..3_000);
            let length = |r: &Map<String, Json>| r["duration_us"].as_i64().unwrap();
            (format!("duration > {than}us"), Box::new(move |r| length(r) > than))
        }
        9 => {
            let status = |r: &Map<String, Json>| r.get(names::STATUS).and_then(Json::as_i64);
            match random.bool() {
                true => (
                    "status = 5xx".to_owned(),
                    Box::new(move |r| status(r).is_some_and(|s| s >= 500)),
                ),
                false => (
                    "status < 500".to_owned(),
                    Box::new(move |r| status(r).is_some_and(|s| s < 500)),
                ),
            }
        }
        13 => {
            let is_ours = random.bool();
            let who = if is_ours { "b/orders" } else { "b/web" };
            (format!("emitter = {who}"), Box::new(move |_| is_ours))
        }
        10 => ("dry_run = true".to_owned(), Box::new(|r| r.contains_key(names::DRY_RUN))),
        11 => {
            let trace = hex(&u128::from(random.u64(0..140)).to_be_bytes());
            (format!("trace = {trace}"), Box::new(move |r| r["trace_id"] == trace.as_str()))
        }
        12 => {
            let than = random.i64(0..50);
            let spent = |r: &Map<String, Json>| r["picket.time.policy_us"].as_i64().unwrap();
            (format!("picket.time.policy_us <= {than}"), Box::new(move |r| spent(r) <= than))
        }
        _ => {
            let sequence = random.i64(1..RECORDS + 20);
            let id = format!("b1-0-{sequence}");
            (format!("id = {id}"), Box::new(move |r| r["id"] == id.as_str()))
        }
    }
}

fn filter(random: &mut fastrand::Rng, depth: u32) -> Filter {
    if depth == 0 || random.u8(0..3) == 0 {
        return condition(random);
    }
    let (one, is_one) = filter(random, depth - 1);
    let (other, is_other) = filter(random, depth - 1);
    match random.u8(0..4) {
        0 => (format!("not ({one})"), Box::new(move |r| !is_one(r))),
        1 => (format!("({one}) or ({other})"), Box::new(move |r| is_one(r) || is_other(r))),
        _ => (format!("({one}) and ({other})"), Box::new(move |r| is_one(r) && is_other(r))),
    }
}

fn read(filter: &str) -> Expression {
    let trust_domain = "a".parse().unwrap();
    let scope = Scope { trust_domain: &trust_domain, now: SystemTime::UNIX_EPOCH };
    parse(filter, scope).unwrap_or_else(|error| panic!("{error}"))
}

/// Every page of a search, in one direction.
fn pages(
    connection: &Connection,
    expression: &Expression,
    first: Page,
    limit: usize,
    patience: Duration,
) -> Vec<i64> {
    let (mut rows, mut page) = (Vec::new(), first);
    loop {
        let matches = find(connection, expression, page, limit, patience).unwrap();
        assert!(matches.found.len() <= limit);
        let found: Vec<i64> = matches.found.iter().map(|found| found.row).collect();
        assert!(found.is_sorted());
        if page.is_backwards() {
            rows.splice(0..0, found);
            page = Page::Before(matches.through);
        } else {
            rows.extend(found);
            page = Page::After(matches.through);
        }
        if matches.is_all {
            return rows;
        }
    }
}

#[tokio::test]
async fn what_is_found_is_what_looking_at_every_record_finds() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let (_directory, store, json) = filled(&mut random).await;
    for _ in 0..120 {
        let (words, is_wanted) = filter(&mut random, 3);
        let wanted: Vec<i64> =
            (1..).zip(&json).filter(|(_, record)| is_wanted(record)).map(|(row, _)| row).collect();
        let (limit, expression) = (random.usize(1..60), read(&words));
        let found = store.read(move |connection| {
            let soon = Duration::from_secs(60);
            Ok([
                pages(connection, &expression, Page::After(0), limit, soon),
                pages(connection, &expression, Page::Latest, limit, soon),
                // Whoever has no patience gets there, too, one segment after the other.
                pages(connection, &expression, Page::After(0), limit, Duration::ZERO),
                pages(connection, &expression, Page::Latest, 1_000, Duration::ZERO),
            ])
        });
        for found in found.await.unwrap() {
            assert_eq!(found, wanted, "seed {seed}: {words}");
        }
    }
}

#[tokio::test]
async fn groups_are_what_counting_every_record_gives() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let (_directory, store, json) = filled(&mut random).await;
    let columns = [
        (Shared::Source, names::SOURCE),
        (Shared::Method, names::METHOD),
        (Shared::Status, names::STATUS),
        (Shared::Decision, names::DECISION),
    ];
    for _ in 0..120 {
        let (words, is_wanted) = filter(&mut random, 2);
        let by: Vec<_> = columns.iter().filter(|_| random.bool()).copied().collect();
        let mut wanted = BTreeMap::<Vec<Option<Fact>>, (u64, i64, i64)>::new();
        for record in json.iter().filter(|record| is_wanted(record)) {
            let key = by.iter().map(|(_, name)| match record.get(*name)? {
                // What has no number of its own is one group.
                Json::String(text) if matches!(text.as_str(), "BREW") => {
                    Some(Fact::Text("(other)".to_owned()))
                }
                Json::String(text) => Some(Fact::Text(text.clone())),
                number => Some(Fact::Number(number.as_i64().unwrap())),
            });
            let time = clock::parse_rfc3339(record["time"].as_str().unwrap()).unwrap();
            let group = wanted.entry(key.collect()).or_insert((0, time, time));
            *group = (group.0 + 1, group.1.min(time), group.2.max(time));
        }
        let (expression, shared) = (read(&words), by.iter().map(|(s, _)| *s).collect::<Vec<_>>());
        let found = store.read(move |connection| {
            groups::group(connection, &expression, &shared, Duration::from_secs(60))
        });
        let found = found.await.unwrap().unwrap();
        assert!(found.is_sorted_by(|a, b| a.records >= b.records));
        assert!(found.iter().all(|group| group.p50_us <= group.p95_us && group.p95_us < 3_200));
        let found =
            found.into_iter().map(|g| (g.key, (g.records, g.first_ns, g.last_ns))).collect();
        assert_eq!(wanted, found, "seed {seed}: {words} by {by:?}");
    }
}
