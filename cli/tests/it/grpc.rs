//! gRPC clients that are not ours: grpclib over mTLS to an inbound listener, and grpcio in plain text
//! through the outbound listener of its own sidecar.

use std::path::Path;
use std::process::Command;

use picket_testkit::mesh::Files;
use picket_testkit::program::PYTHON_GRPC;
use serde_json::{Value, json};

use crate::app::new_trace;
use crate::command::Run;
use crate::house::House;
use crate::mesh::{id, number, text};

const GRPCLIB: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/python/grpclib_client.py");
const GRPCIO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/python/grpcio_client.py");

// gRPC's status codes.
const OK: u64 = 0;
const PERMISSION_DENIED: u64 = 7;
const UNAUTHENTICATED: u64 = 16;

/// A path of the echo service's that policies let web have, and one that they do not.
const OPEN: &str = "/grpc.Shop/Charge";
const CLOSED: &str = "/grpc.Bank/Charge";

fn traced(trace: &str) -> String {
    format!("traceparent=00-{trace}-{}-01", &trace[..16])
}

fn grpclib(python: &Path, house: &House, caller: &Files, path: &str, metadata: &[String]) -> Value {
    let mut command = Command::new(python);
    command.args([GRPCLIB, "127.0.0.1", &house.inbound.port().to_string()]);
    command.arg(&caller.certificate).arg(&caller.key).arg(&caller.bundle).arg(path);
    Run::of(command.args(metadata)).fine().json()
}

/// The record of a call, which tells the same as its caller was told.
#[track_caller]
fn check(house: &House, trace: &str, (who, path): (&str, &str), (status, decision): (i64, &str)) {
    let record = house.record(trace);
    assert_eq!(text(&record, "picket.source"), id(who));
    assert_eq!(text(&record, "picket.decision"), decision);
    assert_eq!(text(&record, "url.path"), path);
    assert_eq!(text(&record, "http.request.method"), "POST");
    assert_eq!(text(&record, "network.protocol.version"), "2");
    assert_eq!(number(&record, "http.response.status_code"), Some(status), "{record:#?}");
}

fn grpclib_gets_what_policy_says(house: &House, python: &Path) {
    let bad = format!("authorization=Bearer {}", house.token(-600));
    for (caller, who, path, token, expected, recorded) in [
        (&house.web, "web", OPEN, None, OK, (200, "allow")),
        (&house.web, "web", CLOSED, None, PERMISSION_DENIED, (403, "deny")),
        (&house.rogue, "rogue", OPEN, None, PERMISSION_DENIED, (403, "deny")),
        (&house.web, "web", OPEN, Some(&bad), UNAUTHENTICATED, (401, "deny")),
    ] {
        let trace = new_trace(&mut fastrand::Rng::new());
        let metadata: Vec<String> = std::iter::once(traced(&trace)).chain(token.cloned()).collect();
        let answer = grpclib(python, house, caller, path, &metadata);
        assert_eq!(answer["status"], expected, "{who} {path}: {answer}");
        if expected == OK {
            assert_eq!(answer["answer"], "hello");
        }
        check(house, &trace, (who, path), recorded);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpclib_over_mtls_gets_what_policy_says() {
    let test = "grpclib_over_mtls_gets_what_policy_says";
    let Some(python) = PYTHON_GRPC.or_skip(test) else { return };
    grpclib_gets_what_policy_says(&House::of_files("grpc").await, &python);
    grpclib_gets_what_policy_says(&House::of_mesh("grpc").await, &python);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpcio_through_its_sidecar_gets_what_policy_says() {
    let test = "grpcio_through_its_sidecar_gets_what_policy_says";
    let Some(python) = PYTHON_GRPC.or_skip(test) else { return };
    let house = House::of_mesh("grpc").await;
    let target = house.mesh().sidecar("web").outbound.to_string();
    let bad = format!("authorization=Bearer {}", house.token(-600));
    for (shape, path, token, expected, recorded) in [
        ("unary", OPEN, None, OK, (200, "allow")),
        ("stream", OPEN, None, OK, (200, "allow")),
        ("unary", CLOSED, None, PERMISSION_DENIED, (403, "deny")),
        ("stream", CLOSED, None, PERMISSION_DENIED, (403, "deny")),
        ("unary", OPEN, Some(&bad), UNAUTHENTICATED, (401, "deny")),
    ] {
        let trace = new_trace(&mut fastrand::Rng::new());
        let mut command = Command::new(&python);
        command.args([GRPCIO, &target, "orders.shop", shape, path, &traced(&trace)]);
        let answer = Run::of(command.args(token)).fine().json();
        assert_eq!(answer["status"], expected, "{shape} {path}: {answer}");
        match (expected, shape) {
            (OK, "unary") => assert_eq!(answer["answer"], json!(["hello"])),
            (OK, _) => assert_eq!(answer["answer"], json!(["one", "two", "three"])),
            _ => {}
        }
        check(&house, &trace, ("web", path), recorded);
        let records = house.mesh().records(&trace, 2);
        let outbound = records.iter().find(|r| text(r, "picket.direction") == "outbound").unwrap();
        assert_eq!(text(outbound, "picket.source"), id("web"));
        assert_eq!(text(outbound, "picket.destination"), id("orders"));
    }
}
