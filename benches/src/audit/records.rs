//! A mesh that never was, and what its proxies would have recorded.
//!
//! Forty services, each called by a few others over some routes; some are called much more than others. One request
//! in fifty is denied. Each is recorded at both ends.

use std::collections::HashMap;

use bytes::Bytes;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, span};
use picket_api::attributes as names;
use picket_ledger::{Hash, chain};
use prost::Message as _;

/// 2026-11-01, in nanoseconds.
const START: u64 = 1_793_491_200_000_000_000;
/// Between two records: ten million of them are a week.
const STEP: u64 = 60_000_000;

const SERVICES: u64 = 40;

struct Edge {
    source: String,
    destination: String,
    routes: Vec<(&'static str, String)>,
}

pub(crate) struct Mesh {
    edges: Vec<Edge>,
    /// The chains of lanes: place and hash of the last record.
    lanes: HashMap<(String, i64), (i64, Hash)>,
}

fn id(service: u64) -> String {
    format!("spiffe://shop.example/ns/shop/sa/service-{service}")
}

impl Mesh {
    pub(crate) fn new() -> Self {
        let mut random = fastrand::Rng::with_seed(7);
        let mut edges = Vec::new();
        for destination in 0..SERVICES {
            let routes: Vec<(&'static str, String)> = (0..10)
                .map(|route| {
                    let method = ["GET", "GET", "GET", "POST", "PUT", "DELETE"][random.usize(0..6)];
                    (method, format!("/service-{destination}/resource-{route}/{{id}}"))
                })
                .collect();
            for _ in 0..3 {
                let source = random.u64(0..SERVICES);
                let count = random.usize(2..8);
                let routes = random.choose_multiple(routes.iter().cloned(), count);
                edges.push(Edge { source: id(source), destination: id(destination), routes });
            }
        }
        Self { edges, lanes: HashMap::new() }
    }

    /// What one emitter sends: its identity, and an `ExportTraceServiceRequest`. Emitters take turns, so that of those
    /// that send at the same time no two are one.
    pub(crate) fn message(&mut self, first: u64, count: u64) -> (String, Bytes) {
        let mut random = fastrand::Rng::with_seed(first);
        let number = first / count;
        let emitter = id(number % SERVICES);
        let is_outbound = number / SERVICES % 2 == 1;
        let mine =
            |edge: &&Edge| (if is_outbound { &edge.source } else { &edge.destination }) == &emitter;
        let mut edges: Vec<&Edge> = self.edges.iter().filter(mine).collect();
        let is_inbound = edges.is_empty() || !is_outbound;
        if edges.is_empty() {
            edges = self.edges.iter().filter(|edge| edge.destination == emitter).collect();
        }
        let boot = format!("boot-{}", number % SERVICES);
        let lane = i64::from(is_inbound);
        let seed = || (0, chain::seed(&emitter, &boot, lane));
        let place = self.lanes.entry((emitter.clone(), lane)).or_insert_with(seed);
        let spans = (first..first + count).map(|number| {
            // The first edges carry most of it.
            let share = random.f64() * random.f64();
            let edge = edges[((share * edges.len() as f64) as usize).min(edges.len() - 1)];
            place.0 += 1;
            let mut span = span(edge, (number, lane, place.0), is_inbound, &mut random);
            span.attributes.push(attribute(names::CHAIN_POSITION, Any::IntValue(place.0)));
            span.attributes.push(text(names::CHAIN_PREVIOUS, &picket_certs::leaf::hex(&place.1)));
            place.1 = chain::hash(&span.encode_to_vec());
            span
        });
        let attributes = vec![
            text(names::SERVICE_NAME, "service"),
            text(names::SERVICE_NAMESPACE, "shop"),
            text(
                names::SERVICE_INSTANCE_ID,
                &format!("boot-{}", emitter.rsplit('/').next().unwrap_or_default()),
            ),
            text(names::EMITTER, &emitter),
        ];
        let scope = InstrumentationScope { name: names::SCOPE.to_owned(), ..Default::default() };
        let spans = spans.collect();
        let message = ExportTraceServiceRequest {
            resource_spans: vec![ResourceSpans {
                resource: Some(Resource { attributes, ..Resource::default() }),
                scope_spans: vec![ScopeSpans {
                    scope: Some(scope),
                    spans,
                    ..ScopeSpans::default()
                }],
                schema_url: String::new(),
            }],
        };
        (emitter, message.encode_to_vec().into())
    }
}

fn attribute(key: &str, value: Any) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), key_strindex: 0 }
}

fn text(key: &str, value: &str) -> KeyValue {
    attribute(key, Any::StringValue(value.to_owned()))
}

fn number(key: &str, value: i64) -> KeyValue {
    attribute(key, Any::IntValue(value))
}

/// The trace of a record: two records have one.
fn trace(record: u64) -> [u8; 16] {
    let mut random = fastrand::Rng::with_seed(record / 2);
    random.u128(..).to_be_bytes()
}

fn span(
    edge: &Edge,
    (record, lane, sequence): (u64, i64, i64),
    is_inbound: bool,
    random: &mut fastrand::Rng,
) -> Span {
    let start = START + record * STEP + random.u64(0..STEP);
    let (method, route) = &edge.routes[random.usize(0..edge.routes.len())];
    let path = route.replace("{id}", &random.u32(..).to_string());
    let is_denied = random.u8(0..50) == 0;
    let status = match random.u8(0..100) {
        _ if is_denied => 403,
        0 => 503,
        1..4 => 404,
        _ => 200,
    };
    let policy = format!("shop/{}", edge.destination.rsplit('/').next().unwrap_or_default());
    let span_id = random.u64(..).to_be_bytes();
    let decision_id: String = span_id.iter().map(|byte| format!("{byte:02x}")).collect();
    let spent = (random.f64() * 8.0).exp() as u64 * 20 + 150;
    let mut attributes = vec![
        text(names::KIND, "request"),
        text(names::DIRECTION, if is_inbound { "inbound" } else { "outbound" }),
        number(names::LANE, lane),
        number(names::SEQUENCE, sequence),
        text(names::SOURCE, &edge.source),
        text(names::DESTINATION, &edge.destination),
        number(names::DESTINATION_PORT, 80),
        text(names::PEER_SERIAL, "4f1c9a77d2b04e6f8a35c1e09b7d6248"),
        number(names::PEER_NOT_AFTER, 1_793_494_800),
        text(names::TLS_VERSION, "1.3"),
        text(names::TLS_CIPHER, "TLS_AES_256_GCM_SHA384"),
        text(names::TLS_CURVE, "X25519MLKEM768"),
        text(names::NETWORK_PEER_ADDRESS, "10.1.4.27"),
        number(names::NETWORK_PEER_PORT, random.i64(30_000..60_000)),
        text(names::NETWORK_PROTOCOL_VERSION, "2"),
        text(names::METHOD, method),
        text(names::URL_PATH, &path),
        text(names::URL_SCHEME, "https"),
        text(names::SERVER_ADDRESS, "orders.shop"),
        number(names::STATUS, status),
        number(names::REQUEST_BODY_SIZE, 0),
        number(names::RESPONSE_BODY_SIZE, random.i64(0..9_000)),
        text(names::DECISION, if is_denied { "deny" } else { "allow" }),
        text(names::DECISION_ID, &decision_id),
        text(names::STAGE, "allow"),
        text(names::REASON, if is_denied { "no_allow_matched" } else { "allow_matched" }),
        text(names::GENERATION, "47a4b4730b8df95a"),
        number(names::POLICY_TIME, random.i64(5..60)),
        number(names::UPSTREAM_TIME, random.i64(100..5_000)),
        text(names::ENDING, "completed"),
    ];
    if !is_denied && is_inbound {
        attributes.push(text(names::ROUTE, route));
        attributes.push(text(names::POLICY, &policy));
        attributes.push(number(names::RULE, 0));
        attributes.push(text(names::POLICY_SOURCE, "orders.yaml:7"));
    }
    Span {
        trace_id: trace(record).to_vec(),
        span_id: span_id.to_vec(),
        parent_span_id: vec![7; 8],
        name: format!("{method} {route}"),
        kind: span::SpanKind::Server.into(),
        start_time_unix_nano: start,
        end_time_unix_nano: start + spent * 1_000,
        attributes,
        ..Span::default()
    }
}

/// A filter and what to group by, for the number of the question and of all records.
type Question = fn(&Mesh, u64, u64) -> (String, &'static [&'static str]);

/// A time so far into the records, in whole seconds.
fn time(part: u64, parts: u64, records: u64) -> String {
    let seconds = (START + records * STEP / parts * part) / 1_000_000_000;
    let day = (seconds - START / 1_000_000_000) / 86_400;
    let rest = seconds % 86_400;
    format!("2026-11-{:02}T{:02}:{:02}:{:02}Z", day + 1, rest / 3600, rest % 3600 / 60, rest % 60)
}

fn some(mesh: &Mesh, number: u64) -> &Edge {
    &mesh.edges[(number * 7) as usize % mesh.edges.len()]
}

const NONE: &[&str] = &[];

/// What operators ask.
pub(crate) const QUESTIONS: [(&str, Question); 17] = [
    ("last 100: of a caller", |mesh, n, _| (format!("source = {}", some(mesh, n).source), NONE)),
    ("last 100: of a destination", |mesh, n, _| {
        (format!("destination = {}", some(mesh, n).destination), NONE)
    }),
    ("last 100: of a route", |mesh, n, _| {
        (format!("route = \"{}\"", some(mesh, n).routes[0].1), NONE)
    }),
    ("last 100: denied", |_, _, _| ("decision = deny".to_owned(), NONE)),
    ("last 100: by a policy", |_, n, _| (format!("policy = shop/service-{}", n % SERVICES), NONE)),
    ("last 100: of an hour", |_, n, all| {
        (format!("time >= {} and time < {}", time(n, 168, all), time(n + 1, 168, all)), NONE)
    }),
    ("of a trace", |_, n, all| {
        let trace: String = trace(n * all / 41).iter().map(|byte| format!("{byte:02x}")).collect();
        (format!("trace = {trace}"), NONE)
    }),
    ("last 100: caller, destination, denied", |mesh, n, _| {
        let edge = some(mesh, n);
        let (source, destination) = (&edge.source, &edge.destination);
        (format!("source = {source} and destination = {destination} and decision = deny"), NONE)
    }),
    ("last 100: rare (503, PUT, one caller)", |mesh, n, _| {
        (format!("status = 503 and method = PUT and source = {}", some(mesh, n).source), NONE)
    }),
    ("last 100: nothing matches", |mesh, n, _| {
        (format!("destination = {} and status = 418", some(mesh, n).destination), NONE)
    }),
    ("last 100: not GET, or 5xx, in a day", |_, n, all| {
        let from = time(n % 6, 7, all);
        (format!("(not method = GET or status = 5xx) and time >= {from}"), NONE)
    }),
    ("last 100: a path, of a destination", |mesh, n, _| {
        let destination = &some(mesh, n).destination;
        (format!("destination = {destination} and path ~ \"*/resource-3/1*\""), NONE)
    }),
    ("last 100: an attribute, of a caller, denied", |mesh, n, _| {
        let source = &some(mesh, n).source;
        (format!("source = {source} and decision = deny and picket.time.policy_us > 50"), NONE)
    }),
    ("groups: caller, destination, decision, of all", |_, _, _| {
        (String::new(), &["source", "destination", "decision"])
    }),
    ("groups: route, status, of a destination", |mesh, n, _| {
        (format!("destination = {}", some(mesh, n).destination), &["route", "status"])
    }),
    ("groups: caller, decision, of a day", |_, n, all| {
        let (from, to) = (time(n % 6, 7, all), time(n % 6 + 1, 7, all));
        (format!("time >= {from} and time < {to}"), &["source", "decision"])
    }),
    ("groups: policy, reason, of an hour", |_, n, all| {
        let (from, to) = (time(n, 168, all), time(n + 1, 168, all));
        (format!("time >= {from} and time < {to}"), &["policy", "reason"])
    }),
];
