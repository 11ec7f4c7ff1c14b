//! Tail sampling: a trace is forwarded whole or not at all, and what matters always is.

use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue};
use opentelemetry_proto::tonic::trace::v1::{Span, Status};
use picket_api::attributes as names;

use crate::audit::{Emitter, ORDERS, attribute, batch, request, text};
use crate::export::{Received, Receiver, anywhere};
use crate::mesh::Mesh;

fn sampling(address: std::net::SocketAddr, sampling: &str) -> String {
    format!("export: {{ otlp: 'http://{address}', sampling: {{ {sampling}, wait: 1s }} }}")
}

/// An allowed request in a trace; its path is its name.
fn plain(trace: u128, sequence: i64, path: &str) -> Span {
    // An odd number is an allowed one.
    let mut span = request(0, 2 * sequence + 1);
    set(&mut span, names::SEQUENCE, Any::IntValue(sequence));
    set(&mut span, names::URL_PATH, Any::StringValue(path.to_owned()));
    Span { trace_id: trace.to_be_bytes().to_vec(), ..span }
}

fn set(span: &mut Span, name: &str, value: Any) {
    span.attributes.retain(|attribute| attribute.key != name);
    span.attributes.push(attribute(name, value));
}

fn denied(mut span: Span) -> Span {
    set(&mut span, names::DECISION, Any::StringValue("deny".to_owned()));
    span
}

fn sorted(received: &Received) -> Vec<String> {
    let mut spans = received.spans.lock().unwrap().clone();
    spans.sort();
    spans.iter().map(|span| span.trim_start_matches("orders").to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn whole_traces_go_if_one_of_their_spans_is_notable_also_if_it_comes_late() {
    let received = Received::default();
    let receiver = Receiver::listen(&received, anywhere());
    let config = sampling(receiver.address, "share: 0");
    let mesh = Mesh::start_with(&config).await;
    let svid = mesh.svid("shop/orders").await;
    let mut emitter = Emitter::new(&mesh, &svid).await;
    let dry_run = |mut span: Span| {
        let value = AnyValue { value: Some(Any::StringValue("shop/next=deny".to_owned())) };
        set(&mut span, names::DRY_RUN, Any::ArrayValue(ArrayValue { values: vec![value] }));
        span
    };
    let failed = |mut span: Span| {
        span.attributes.push(text(names::ERROR_TYPE, "upstream_unreachable"));
        span.status = Some(Status { message: String::new(), code: 2 });
        span
    };
    let answered_503 = |mut span: Span| {
        set(&mut span, names::STATUS, Any::IntValue(503));
        span
    };
    let slow = |mut span: Span| {
        span.end_time_unix_nano = span.start_time_unix_nano + 1_000_000_000;
        span
    };
    let spans = vec![
        plain(1, 1, "a1"),
        plain(2, 2, "b1"),
        plain(1, 3, "a2"),
        denied(plain(2, 4, "b2")),
        dry_run(plain(3, 5, "c1")),
        plain(2, 6, "b3"),
        failed(plain(4, 7, "d1")),
        answered_503(plain(5, 8, "e1")),
        slow(plain(6, 9, "f1")),
        plain(6, 10, "f2"),
        plain(1, 11, "a3"),
    ];
    emitter.send(batch(ORDERS, "b1", spans)).await.unwrap();
    let is = |sent: u64, dropped: u64| {
        move |status: &picket_control::operator::Status| {
            let export = status.control.export.as_ref().unwrap();
            (export.sent, export.dropped) == (sent, dropped)
        }
    };
    mesh.wait_for("what is notable", is(8, 3)).await;
    assert_eq!(sorted(&received), ["b1", "b2", "b3", "c1", "d1", "e1", "f1", "f2"]);

    // A trace that was left out becomes notable: all of it goes, once.
    let spans = vec![
        plain(1, 12, "a4"),
        denied(plain(1, 13, "a5")),
        denied(plain(1, 14, "a6")),
        plain(2, 15, "b4"),
        plain(7, 16, "g1"),
    ];
    emitter.send(batch(ORDERS, "b1", spans)).await.unwrap();
    mesh.wait_for("the late ones", is(15, 4)).await;
    let all =
        ["a1", "a2", "a3", "a4", "a5", "a6", "b1", "b2", "b3", "b4", "c1", "d1", "e1", "f1", "f2"];
    assert_eq!(sorted(&received), all);

    // What was decided is remembered across a restart.
    let directory = mesh.stop().await;
    let mesh = Mesh::start_in(directory, &config).await;
    let mut emitter = Emitter::new(&mesh, &svid).await;
    let spans = vec![denied(plain(7, 17, "g2")), plain(1, 18, "a7"), plain(8, 19, "h1")];
    emitter.send(batch(ORDERS, "b1", spans)).await.unwrap();
    mesh.wait_for("those after the restart", is(18, 5)).await;
    let new: Vec<String> = sorted(&received).into_iter().filter(|s| !all.contains(&&**s)).collect();
    assert_eq!(new, ["a7", "g1", "g2"]);
    let metrics = mesh.request(http::Method::GET, "/metrics", None).await.text();
    assert!(
        metrics.contains("picket_control_exported_spans_total{outcome=\"dropped\"} 1"),
        "{metrics}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_share_of_the_others_goes_and_what_was_there_before_the_sampling_goes_whole() {
    let received = Received::default();
    let receiver = Receiver::listen(&received, anywhere());
    let address = receiver.address;
    drop(receiver);
    let everything = format!("export: {{ otlp: 'http://{address}' }}");
    let mesh = Mesh::start_with(&everything).await;
    let svid = mesh.svid("shop/orders").await;
    let mut emitter = Emitter::new(&mesh, &svid).await;
    emitter.send(batch(ORDERS, "b1", vec![plain(1, 1, "before")])).await.unwrap();
    let directory = mesh.stop().await;

    let mesh = Mesh::start_in(directory, &sampling(address, "share: 0.25")).await;
    let _receiver = Receiver::listen(&received, address);
    let mut emitter = Emitter::new(&mesh, &svid).await;
    // The 56 lowest bits decide: a quarter of them is not below this.
    let first = 0xc0_0000_0000_0000_u128;
    let spans = vec![
        plain(first - 1, 2, "below"),
        plain(first, 3, "within1"),
        plain(u128::MAX, 4, "within2"),
        plain(first | 0xff << 56, 5, "within3"),
        plain(0xff << 56, 6, "below2"),
        plain(first, 7, "within4"),
    ];
    emitter.send(batch(ORDERS, "b1", spans)).await.unwrap();
    mesh.wait_for("the share", |status| {
        let export = status.control.export.as_ref().unwrap();
        (export.sent, export.dropped, export.behind) == (5, 2, 0)
    })
    .await;
    assert_eq!(sorted(&received), ["before", "within1", "within2", "within3", "within4"]);
}
