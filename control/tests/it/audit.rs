//! Records come in once, are kept, and are found again.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status, span};
use picket_api::attributes as names;
use picket_api::otlp::{EXPORT_PATH, RawCodec};
use picket_certs::Svid;
use picket_control::operator::AuditPage;
use prost::Message as _;
use tonic::Code;
use tonic::codec::CompressionEncoding;
use tonic::transport::Channel;

use crate::mesh::{Mesh, hello};

pub(crate) fn attribute(key: &str, value: Any) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), key_strindex: 0 }
}

pub(crate) fn text(key: &str, value: &str) -> KeyValue {
    attribute(key, Any::StringValue(value.to_owned()))
}

/// The span of a request, as a proxy records it.
pub(crate) fn request(lane: i64, sequence: i64) -> Span {
    let start = 1_763_700_000_000_000_000 + u64::try_from(sequence).unwrap() * 1_000_000;
    let denied = sequence % 2 == 0;
    let (status, decision) = if denied { (403, "deny") } else { (200, "allow") };
    Span {
        trace_id: u128::from(start).to_be_bytes().to_vec(),
        span_id: (start ^ u64::try_from(lane).unwrap()).to_be_bytes().to_vec(),
        parent_span_id: vec![7; 8],
        name: "POST /orders".to_owned(),
        kind: span::SpanKind::Server.into(),
        start_time_unix_nano: start,
        end_time_unix_nano: start + 1_500_000,
        attributes: vec![
            text(names::KIND, "request"),
            text(names::DIRECTION, "inbound"),
            attribute(names::LANE, Any::IntValue(lane)),
            attribute(names::SEQUENCE, Any::IntValue(sequence)),
            text(names::SOURCE, "spiffe://shop.example/ns/shop/sa/web"),
            text(names::DESTINATION, "spiffe://shop.example/ns/shop/sa/orders"),
            text(names::METHOD, "POST"),
            text(names::URL_PATH, &format!("/orders/{sequence}")),
            attribute(names::STATUS, Any::IntValue(status)),
            text(names::DECISION, decision),
            text(names::DECISION_ID, &format!("d_{lane}_{sequence}")),
            text(names::POLICY, "shop/orders"),
            text(names::REASON, "rule_matched"),
            text(names::TLS_VERSION, "1.3"),
        ],
        status: denied.then(|| Status { message: "authz denied".to_owned(), code: 2 }),
        ..Span::default()
    }
}

pub(crate) fn batch(emitter: &str, boot: &str, spans: Vec<Span>) -> ExportTraceServiceRequest {
    let attributes = vec![
        text(names::SERVICE_NAME, "orders"),
        text(names::SERVICE_NAMESPACE, "shop"),
        text(names::SERVICE_INSTANCE_ID, boot),
        text(names::EMITTER, emitter),
    ];
    let scope = InstrumentationScope { name: names::SCOPE.to_owned(), ..Default::default() };
    ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            resource: Some(Resource { attributes, ..Resource::default() }),
            scope_spans: vec![ScopeSpans { scope: Some(scope), spans, ..ScopeSpans::default() }],
            schema_url: String::new(),
        }],
    }
}

/// An emitter's connection.
pub(crate) struct Emitter {
    grpc: tonic::client::Grpc<Channel>,
}

impl Emitter {
    pub(crate) async fn new(mesh: &Mesh, svid: &Svid) -> Self {
        let grpc = tonic::client::Grpc::new(mesh.channel(Some(svid)).await);
        Self { grpc: grpc.send_compressed(CompressionEncoding::Gzip) }
    }

    pub(crate) async fn send(
        &mut self,
        message: ExportTraceServiceRequest,
    ) -> Result<Option<ExportTracePartialSuccess>, tonic::Status> {
        self.send_bytes(message.encode_to_vec().into()).await
    }

    pub(crate) async fn send_bytes(
        &mut self,
        message: Bytes,
    ) -> Result<Option<ExportTracePartialSuccess>, tonic::Status> {
        self.grpc.ready().await.unwrap();
        let path = EXPORT_PATH.parse().unwrap();
        let answer = self.grpc.unary(tonic::Request::new(message), path, RawCodec).await?;
        let answer = ExportTraceServiceResponse::decode(answer.into_inner()).unwrap();
        Ok(answer.partial_success)
    }
}

pub(crate) const ORDERS: &str = "spiffe://shop.example/ns/shop/sa/orders";

#[tokio::test(flavor = "multi_thread")]
async fn a_record_is_found_again_with_every_name_and_stored_once() {
    let mesh = Mesh::start().await;
    let svid = mesh.svid("shop/orders").await;
    let mut emitter = Emitter::new(&mesh, &svid).await;
    let message = batch(ORDERS, "b1", vec![request(0, 1), request(0, 2), request(1, 1)]);
    assert_eq!(emitter.send(message.clone()).await.unwrap(), None);
    // Sent again after an answer was lost, and again in another cut.
    assert_eq!(emitter.send(message).await.unwrap(), None);
    let message = batch(ORDERS, "b1", vec![request(0, 2), request(0, 3)]);
    assert_eq!(emitter.send(message).await.unwrap(), None);

    let records = mesh.records("kind=request").await;
    let ids: Vec<&str> = records.iter().map(|r| r["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["b1-0-1", "b1-0-2", "b1-1-1", "b1-0-3"]);
    let record = serde_json::Value::Object(records[1].clone());
    let span = request(0, 2);
    let expected = serde_json::json!({
        "id": "b1-0-2",
        "time": "2025-11-21T04:40:00.002000000Z",
        "duration_us": 1500,
        "name": "POST /orders",
        "trace_id": picket_certs::leaf::hex(&span.trace_id),
        "span_id": picket_certs::leaf::hex(&span.span_id),
        "parent_span_id": "0707070707070707",
        "status.error": "authz denied",
        "service.name": "orders",
        "service.namespace": "shop",
        "service.instance.id": "b1",
        "picket.emitter": ORDERS,
        "picket.kind": "request",
        "picket.direction": "inbound",
        "picket.lane": 0,
        "picket.sequence": 2,
        "picket.source": "spiffe://shop.example/ns/shop/sa/web",
        "picket.destination": ORDERS,
        "http.request.method": "POST",
        "url.path": "/orders/2",
        "http.response.status_code": 403,
        "picket.decision": "deny",
        "picket.decision.id": "d_0_2",
        "picket.policy": "shop/orders",
        "picket.decision.reason": "rule_matched",
        "tls.protocol.version": "1.3",
    });
    assert_eq!(record, expected);
    let trace = format!("kind=request&trace={}", record["trace_id"].as_str().unwrap());
    for (filter, count) in [
        ("decision=deny", 1),
        ("decision=allow&kind=request", 3),
        ("status=403", 1),
        ("status=2xx", 3),
        ("source=shop/web", 4),
        ("destination=shop/orders&method=POST", 4),
        ("destination=spiffe://shop.example/ns/shop/sa/web", 0),
        ("path=/orders/", 4),
        ("path=/orders/3", 1),
        ("path=%25", 0),
        ("decision_id=d_1_1", 1),
        ("id=b1-1-1", 1),
        ("id=b2-1-1", 0),
        ("emitter=shop/orders", 4),
        ("policy=shop/orders&reason=rule_matched&direction=inbound", 4),
        ("kind=request&since=2025-11-21T04:40:00.002Z", 2),
        ("kind=request&until=2025-11-21T04:40:00.002Z", 2),
        (trace.as_str(), 1),
    ] {
        assert_eq!(mesh.records(filter).await.len(), count, "{filter}");
    }
    let latest: AuditPage =
        mesh.get("/api/v1/audit/records?kind=request&latest=true&limit=2").await;
    let ids: Vec<&str> = latest.records.iter().map(|r| r["id"].as_str().unwrap()).collect();
    assert_eq!((ids, latest.more), (vec!["b1-1-1", "b1-0-3"], true));
    let path = format!("/api/v1/audit/records?kind=request&after={}", latest.next);
    assert_eq!(mesh.get::<AuditPage>(&path).await.records.len(), 0);
    emitter.send(batch(ORDERS, "b1", vec![request(0, 4)])).await.unwrap();
    assert_eq!(mesh.get::<AuditPage>(&path).await.records.len(), 1, "a cursor goes on");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_writes_anothers_history() {
    let mesh = Mesh::start().await;
    let (orders, rogue) = (mesh.svid("shop/orders").await, mesh.svid("shop/rogue").await);
    let mut honest = Emitter::new(&mesh, &orders).await;
    let mut foreign = Emitter::new(&mesh, &rogue).await;
    honest.send(batch(ORDERS, "b1", vec![request(0, 1)])).await.unwrap();

    let refused = foreign.send(batch(ORDERS, "b1", vec![request(0, 2)])).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    // The attribute counts as it is filed, however often it is written.
    let own = rogue.leaf().identity.as_str();
    let mut twice = batch(own, "b1", vec![request(0, 2)]);
    let resource = twice.resource_spans[0].resource.as_mut().unwrap();
    resource.attributes.push(text(names::EMITTER, ORDERS));
    foreign.send(twice).await.unwrap_err();
    // Nor can it use another's boot, or claim an emitter in the span itself.
    let called = |sequence| {
        let mut request = request(0, sequence);
        // The later of two attributes counts.
        request.attributes.push(text(names::DESTINATION, own));
        request
    };
    let rejected = foreign.send(batch(own, "b1", vec![called(2)])).await.unwrap().unwrap();
    assert_eq!(rejected.rejected_spans, 1);
    // Nor can it say what came in at another service.
    let rejected = foreign.send(batch(own, "b2", vec![request(0, 1)])).await.unwrap().unwrap();
    assert!(rejected.error_message.contains("another service's side"), "{rejected:?}");
    let mut claiming = called(1);
    claiming.attributes.push(text(names::EMITTER, ORDERS));
    foreign.send(batch(own, "b2", vec![claiming])).await.unwrap();
    assert_eq!(mesh.records("kind=request&emitter=shop/orders").await.len(), 1);
    let filed = mesh.records("kind=request&emitter=shop/rogue").await;
    assert_eq!(filed[0]["picket.emitter"], own);
    // Nor can it replace what it once said itself.
    let mut other = request(0, 1);
    other.name = "GET /harmless".to_owned();
    let rejected = honest.send(batch(ORDERS, "b1", vec![other])).await.unwrap().unwrap();
    assert!(rejected.error_message.contains("belongs to another record"), "{rejected:?}");
    let reasons: Vec<String> = mesh
        .events("audit.ingest")
        .await
        .iter()
        .map(|e| e["picket.decision.reason"].as_str().unwrap().to_owned())
        .collect();
    let (foreign, boot, conflict) = ("foreign_emitter", "foreign_boot", "sequence_conflict");
    assert_eq!(reasons, [foreign, foreign, boot, foreign, conflict]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_record_is_rejected_with_the_reason_and_the_rest_is_kept() {
    let mesh = Mesh::start().await;
    let svid = mesh.svid("shop/orders").await;
    let mut emitter = Emitter::new(&mesh, &svid).await;
    let without = |name: &str, mut span: Span| {
        span.attributes.retain(|a| a.key != name);
        span
    };
    let mut event = request(0, 4);
    event.attributes.push(text(names::KIND, "event"));
    let mut no_trace = request(0, 5);
    no_trace.trace_id.clear();
    let spans = vec![
        request(0, 1),
        without(names::SEQUENCE, request(0, 2)),
        without(names::LANE, request(0, 3)),
        event,
        no_trace,
    ];
    let rejected = emitter.send(batch(ORDERS, "b1", spans)).await.unwrap().unwrap();
    assert_eq!(rejected.rejected_spans, 4);
    for named in [names::SEQUENCE, names::LANE, names::KIND, "trace_id"] {
        assert!(rejected.error_message.contains(named), "{}", rejected.error_message);
    }
    let rejected = emitter.send(batch(ORDERS, "", vec![request(0, 6)])).await.unwrap().unwrap();
    assert!(rejected.error_message.contains(names::SERVICE_INSTANCE_ID));
    assert_eq!(mesh.records("kind=request").await.len(), 1);

    let refused = emitter.send_bytes(Bytes::from_static(b"\x0a\xff")).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    // A gzip bomb: 17 MiB of nothing.
    let refused = emitter.send_bytes(vec![0; 17 << 20].into()).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_records_are_paged_through_each_exactly_once() {
    let mesh = Mesh::start().await;
    let svid = mesh.svid("shop/orders").await;
    let mut emitter = Emitter::new(&mesh, &svid).await;
    let mut other = Emitter::new(&mesh, &svid).await;
    for start in (1..=5_000).step_by(500) {
        let spans = |lane| (start..start + 500).map(|s| request(lane, s)).collect();
        let (one, two) = tokio::join!(
            emitter.send(batch(ORDERS, "b1", spans(0))),
            other.send(batch(ORDERS, "b1", spans(1)))
        );
        assert_eq!((one.unwrap(), two.unwrap()), (None, None));
    }
    let (mut seen, mut after, mut pages) = (BTreeSet::new(), "0".to_owned(), 0);
    loop {
        let path = format!("/api/v1/audit/records?kind=request&limit=700&after={after}");
        let page: AuditPage = mesh.get(&path).await;
        for record in &page.records {
            assert!(
                seen.insert(record["id"].as_str().unwrap().to_owned()),
                "{record:?} came twice"
            );
        }
        (after, pages) = (page.next, pages + 1);
        if !page.more {
            break;
        }
    }
    assert_eq!((seen.len(), pages), (10_000, 15));
    assert_eq!(mesh.status().await.control.audit_missing, 0);
    // One read, however many pages; the filter is on the record.
    let reads = mesh.events("audit.read").await;
    let filters: Vec<&str> = reads.iter().map(|r| r["picket.detail"].as_str().unwrap()).collect();
    assert_eq!(filters[0], "{\"kind\":\"request\"}");
    assert_eq!(filters.iter().filter(|f| **f == filters[0]).count(), 1);
}

/// How many instances stand in a database, seen from outside.
fn instances(database: &Path) -> i64 {
    let read_only = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
    let connection = rusqlite::Connection::open_with_flags(database, read_only).unwrap();
    connection.query_row("SELECT count(*) FROM instances", [], |row| row.get(0)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_survives_a_kill() {
    let mesh = Mesh::start().await;
    let svid = mesh.svid("shop/orders").await;
    let mut emitter = Emitter::new(&mesh, &svid).await;
    let spans = (1..=500).map(|sequence| request(0, sequence)).collect();
    emitter.send(batch(ORDERS, "b1", spans)).await.unwrap();
    let _proxy = mesh.proxy(&svid, hello("orders", 15006)).await;
    mesh.wait_for("the proxy", |s| s.proxies.len() == 1).await;
    // The registry is written behind: what is known of a proxy is told again when it comes back.
    let database = mesh.path("state").join("control.db");
    let started = Instant::now();
    while instances(&database) == 0 {
        assert!(started.elapsed() < Duration::from_secs(10), "the proxy was not written down");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // What a killed process leaves: the files as they are now, with nothing closed or checkpointed.
    let copy = Arc::new(tempfile::tempdir().unwrap());
    let state = copy.path().join("state");
    std::fs::create_dir_all(state.join("ca")).unwrap();
    for name in ["control.db", "control.db-wal", "bundle.pem", "ca/key.pem", "ca/certificate.pem"] {
        std::fs::copy(mesh.path("state").join(name), state.join(name)).unwrap();
    }
    std::fs::create_dir(copy.path().join("policies")).unwrap();
    let revived = Mesh::start_in(copy, "").await;
    assert_eq!(revived.records("kind=request").await.len(), 500);
    assert_eq!(revived.status().await.proxies.len(), 1);
    // The emitter does not know which control plane it is: what was stored is not stored again.
    let mut emitter = Emitter::new(&revived, &svid).await;
    emitter.send(batch(ORDERS, "b1", vec![request(0, 500), request(0, 501)])).await.unwrap();
    assert_eq!(revived.records("kind=request").await.len(), 501);
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_thousand_records_are_no_long_work() {
    let mesh = Mesh::start().await;
    let svid = mesh.svid("shop/orders").await;
    let mut messages: Vec<Bytes> = Vec::new();
    for start in (1..=20_000).step_by(500) {
        let spans = (start..start + 500).map(|sequence| request(0, sequence)).collect();
        messages.push(batch(ORDERS, "b1", spans).encode_to_vec().into());
    }
    let mut emitters = Vec::new();
    for _ in 0..4 {
        emitters.push(Emitter::new(&mesh, &svid).await);
    }
    let start = Instant::now();
    let share = messages.len() / emitters.len();
    let sending =
        emitters.iter_mut().zip(messages.chunks(share)).map(|(emitter, share)| async move {
            for message in share {
                assert_eq!(emitter.send_bytes(message.clone()).await.unwrap(), None);
            }
        });
    futures_util::future::join_all(sending).await;
    let took = start.elapsed();
    println!("20,000 records over mTLS, gzip and SQLite: {took:?}");
    assert_eq!(mesh.status().await.control.audit_missing, 0);
    assert!(took < Duration::from_secs(30), "{took:?}");
}
