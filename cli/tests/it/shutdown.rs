//! SIGTERM of a proxy under load: what it has taken on it finishes, and all of it is on the record.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use http_body_util::BodyExt as _;
use picket_testkit::{Echo, Process, eventually};

use crate::app::{App, Call};
use crate::load::{Entry, Load};
use crate::mesh::{Mesh, Record, SOON, Workload, number, text};

const DEADLINE: Duration = Duration::from_secs(5);

/// A mesh whose sidecars have that deadline.
fn mesh(echo: &Echo) -> Mesh {
    let config = format!("drain: {{deadline: {}s}}", DEADLINE.as_secs());
    let mut mesh = Mesh::start("");
    mesh.add(&Workload { config: &config, ..Workload::service("orders", echo.address()) });
    mesh.add(&Workload { config: &config, ..Workload::caller("web") });
    mesh.until_synced();
    mesh
}

/// Ends a proxy; returns how long that took.
#[track_caller]
fn terminate(process: &mut Process, limit: Duration) -> Duration {
    let started = Instant::now();
    let status = process.terminate(limit);
    assert_eq!(status.code(), Some(0), "{}", process.log());
    started.elapsed()
}

/// Terminates one of the sidecars under load and holds what the clients know against its records.
async fn terminated_under_load(name: &'static str) {
    let seed = fastrand::u64(..);
    let mut random = fastrand::Rng::with_seed(seed);
    let echo = Echo::start().await;
    let mut mesh = mesh(&echo);
    let mut log: Vec<Entry> = Vec::new();
    let mut took = Vec::new();
    for _ in 0..4 {
        let load = Load::start(mesh.sidecar("web").outbound, &mut random);
        load.serves(60, "before the end").await;
        tokio::time::sleep(Duration::from_millis(random.u64(0..50))).await;
        took.push(terminate(mesh.process(name), DEADLINE));
        log.extend(load.stop().await);
        mesh.restart(name);
    }
    let emitter = format!("shop/{name}");
    let ended = mesh.process(name).log();
    let in_order = |line: &&str| {
        line.contains(" ended; ") && line.contains(" cut_off=0 ") && line.ends_with(" pending=0")
    };
    assert_eq!(ended.lines().filter(in_order).count(), 4, "{ended}");

    let found = eventually(SOON, "every answer of the proxy is on the record", || {
        let found = mesh.search(&["--kind", "request", "--emitter", &emitter]);
        let by_trace: BTreeMap<&str, &Record> =
            found.iter().map(|record| (text(record, "trace_id"), record)).collect();
        assert_eq!(by_trace.len(), found.len(), "a request is there twice");
        let of_orders = |entry: &&Entry| matches!(entry.answered, Some(200 | 403));
        let missing =
            log.iter().filter(of_orders).filter(|e| !by_trace.contains_key(e.trace.as_str()));
        (missing.count() == 0).then_some(found)
    });
    let answers: BTreeMap<&str, Option<u16>> =
        log.iter().map(|entry| (entry.trace.as_str(), entry.answered)).collect();
    for record in &found {
        let trace = text(record, "trace_id");
        let status = number(record, "http.response.status_code");
        let answered = answers[trace].map(i64::from);
        // It was taken, so it was answered: by the very status that the client received.
        assert_eq!(answered, status, "{record:#?}");
        let ending = text(record, "picket.ending");
        assert!(["completed", "refused", "upstream_aborted"].contains(&ending), "{record:#?}");
    }
    let without = log.iter().filter(|entry| entry.answered.is_none()).count();
    let refused = log.iter().filter(|e| e.answered.is_some_and(|status| status >= 500)).count();
    println!(
        "{name} ended within {:.0?}: {} requests, {} of them recorded by {name}, {refused} answered \
         with 5xx by web, {without} not answered because nobody took them",
        took.iter().max().unwrap(),
        log.len(),
        found.len(),
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_callers_proxy_ends_in_order_under_load() {
    terminated_under_load("web").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_called_proxy_ends_in_order_under_load() {
    terminated_under_load("orders").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_outlasts_the_deadline_is_cut_off_and_on_the_record() {
    let echo = Echo::start().await;
    let mut mesh = mesh(&echo);
    let mut app = App::http1(mesh.sidecar("web").outbound).await.unwrap();
    let call = Call::get("/stream/10000/100");
    let mut body = app.start(call.request()).await.unwrap().into_body();
    body.frame().await.unwrap().unwrap();
    let took = terminate(mesh.process("orders"), DEADLINE + Duration::from_secs(3));
    assert!(took >= DEADLINE, "an open stream was given {took:?} only");
    assert!(body.collect().await.is_err(), "a response that was cut off looks whole");
    let record = mesh.inbound(&call.trace);
    assert_eq!(text(&record, "picket.ending"), "cut_off", "{record:#?}");
    assert_eq!(number(&record, "http.response.status_code"), Some(200));
}
