//! Finding, counting, following and tapping, as an operator does it.

use std::io::Write as _;
use std::net::SocketAddr;
use std::process::{Command, Stdio};

use picket_testkit::program::PYTHON_OCSF;
use picket_testkit::{Echo, Process, eventually};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::app::{Call, call};
use crate::command::{Run, picket};
use crate::mesh::{Mesh, SOON, id, text};

const OCSF: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/python/ocsf_validate.py");

/// Calls what is allowed, what is denied and what fails; returns the traces.
async fn three_calls(web: SocketAddr) -> [String; 3] {
    let mut traces = Vec::new();
    for (path, status) in [("/orders/7", 200), ("/secret/7", 403), ("/status/503", 503)] {
        let asked = Call::get(path);
        assert_eq!(call(web, &asked).await.unwrap().0, status);
        traces.push(asked.trace);
    }
    traces.try_into().unwrap()
}

/// A command that goes on until it is told to stop; returns once it has asked for the first time.
fn going_on(mesh: &Mesh, name: &str, arguments: &[&str]) -> Process {
    let reads = || mesh.search(&["--event", "audit.read"]).len();
    let mut command = picket(arguments);
    command.env("PICKET_CONTROL", format!("unix:{}", mesh.path("control/control.sock").display()));
    // Each search that is not its own is on the record once.
    let before = (reads(), reads()).1;
    let process = Process::start(name, mesh.root(), command);
    eventually(SOON, &format!("{name} has begun"), || (reads() > before + 1).then_some(()));
    process
}

fn interrupted(mut process: Process) {
    process.signal(Signal::INT);
    assert_eq!(process.wait(SOON).code(), Some(0), "{}", process.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_follows_waits_for_a_control_plane_that_is_away_and_misses_nothing() {
    let echo = Echo::start().await;
    let mut mesh = Mesh::of_two("", echo.address());
    let web = mesh.sidecar("web").outbound;
    let tap = going_on(&mesh, "tap", &["tap"]);
    let seen = |count: usize| {
        eventually(SOON, "what was called is tapped", || {
            (tap.log().matches("GET /orders/").count() == count).then_some(())
        });
    };
    call(web, &Call::get("/orders/1")).await.unwrap();
    seen(1);
    mesh.kill_control();
    for number in 2..=4 {
        call(web, &Call::get(&format!("/orders/{number}"))).await.unwrap();
    }
    eventually(SOON, "it says that it waits", || {
        tap.log().contains("Waiting for it").then_some(())
    });
    mesh.start_control();
    seen(4);
    interrupted(tap);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_happens_is_tapped_followed_found_and_counted() {
    let echo = Echo::start().await;
    let mesh = Mesh::of_two("", echo.address());
    let web = mesh.sidecar("web").outbound;
    let all = going_on(&mesh, "tap", &["tap"]);
    let denied = going_on(
        &mesh,
        "tap-denied",
        &["tap", "--verdict", "deny", "--to", "shop/orders", "-o", "jsonl"],
    );
    let failed =
        going_on(&mesh, "tap-failed", &["tap", "--verdict", "error", "--path", "/status/*"]);
    let following = going_on(
        &mesh,
        "follow",
        &["audit", "search", "kind = request and status >= 400", "-f", "-o", "csv"],
    );
    let [_, secret, _] = three_calls(web).await;

    let lines = eventually(SOON, "three requests are tapped", || {
        let lines: Vec<String> = all.log().lines().map(str::to_owned).collect();
        (lines.len() == 3).then_some(lines)
    });
    // Time and milliseconds are what they are.
    let fixed = |line: &str| {
        let words: Vec<&str> =
            line.split_whitespace().skip(1).filter(|w| w.parse::<f64>().is_err()).collect();
        words.join(" ")
    };
    let fixed: Vec<String> = lines.iter().map(|line| fixed(line)).collect();
    assert!(
        fixed.contains(
            &"allow GET /orders/7 shop/web -> shop/orders ms shop/orders rule[0]".to_owned()
        ),
        "{lines:#?}"
    );
    assert!(
        fixed.contains(
            &"deny GET /secret/7 shop/web -> shop/orders ms shop/secret rule[0]".to_owned()
        ),
        "{lines:#?}"
    );
    let error = "error GET /status/503 shop/web -> shop/orders ms shop/orders rule[0] (503)";
    assert!(fixed.contains(&error.to_owned()), "{lines:#?}");
    let line =
        eventually(SOON, "the denial is tapped", || denied.log().lines().next().map(str::to_owned));
    let record: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(record["trace_id"], secret.as_str());
    let line = eventually(SOON, "the failure is tapped", || {
        failed.log().lines().next().map(str::to_owned)
    });
    assert!(line.contains(" error   GET /status/503 "), "{line}");
    // The denial by the callee and the failure, each at both ends.
    let lines = eventually(SOON, "four lines and a head", || {
        Some(following.log()).filter(|log| log.lines().count() == 5)
    });
    assert!(lines.starts_with("time,id,kind,event,direction,emitter,source,"), "{lines}");
    assert_eq!(lines.matches(",/secret/7,").count(), 2);
    assert_eq!((all.log().lines().count(), denied.log().lines().count()), (3, 1));
    for process in [all, denied, failed, following] {
        interrupted(process);
    }

    let groups = mesh.picket(&[
        "audit",
        "search",
        "kind = request and direction = inbound",
        "--group-by",
        "destination,decision",
        "-o",
        "json",
    ]);
    let groups = groups.fine().json();
    let counts: Vec<(&Value, &Value)> =
        groups["groups"].as_array().unwrap().iter().map(|g| (&g["key"], &g["records"])).collect();
    let key = |decision: &str| json!({ "destination": id("orders"), "decision": decision });
    assert_eq!(counts, [(&key("allow"), &json!(2)), (&key("deny"), &json!(1))]);
    let table =
        mesh.picket(&["audit", "search", "kind = request", "--group-by", "source,status"]).fine();
    assert!(table.stdout.starts_with("SOURCE    STATUS  RECORDS  FIRST"), "{}", table.stdout);
    assert!(table.stdout.contains("shop/web  403     2 "), "{}", table.stdout);
    let csv = mesh
        .picket(&["audit", "search", "kind = request", "--group-by", "decision", "-o", "csv"])
        .fine();
    assert!(
        csv.stdout.starts_with("decision,records,first,last,p50_us,p95_us\nallow,5,"),
        "{}",
        csv.stdout
    );
    let last = mesh.search(&["kind = request", "--limit", "2"]);
    assert_eq!(last.len(), 2);
    assert_eq!(mesh.search(&["--trace", &secret, "--decision", "deny"]).len(), 1);
    assert!(last.iter().all(|record| text(record, "picket.kind") == "request"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mistakes_are_told_with_their_place() {
    let mesh = Mesh::start("");
    for (arguments, words) in [
        (
            &["audit", "search", "decision = deny and polcy = x"][..],
            "filter:1:21: there is no field polcy",
        ),
        (&["audit", "search", "--group-by", "desicion"], "did you mean decision?"),
        (&["audit", "search", "--group-by", "source", "-o", "ocsf"], "table, json or csv"),
        (&["audit", "search", "--follow", "-o", "json"], "use --output jsonl"),
        (&["audit", "search", "--source", "web"], "namespace/service-account"),
        (&["tap", "--from", "shop/wbe"], "--from: there is no workload shop/wbe"),
        (&["tap", "stattus = 403"], "did you mean status?"),
    ] {
        let run = mesh.picket(arguments);
        assert_eq!(run.status, 2, "{run:?}");
        assert!(run.stderr.contains(words), "{run:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ocsf_events_are_as_the_published_schema_has_them() {
    let test = "ocsf_events_are_as_the_published_schema_has_them";
    let Some(python) = PYTHON_OCSF.or_skip(test) else { return };
    let echo = Echo::start().await;
    let mesh = Mesh::of_two("", echo.address());
    three_calls(mesh.sidecar("web").outbound).await;
    // A connection that is refused before any request, and an act that is refused.
    let inbound = mesh.sidecar("orders").inbound;
    drop(crate::mesh::get(inbound, "/"));
    assert_eq!(
        mesh.picket(&["token", "revoke", "--jti", "a", "--issuer", "https://id.example"]).status,
        0
    );
    eventually(SOON, "six requests and a connection are recorded", || {
        let of = |kind| mesh.search(&["--kind", kind]).len();
        (of("request") == 6 && of("connection") == 1).then_some(())
    });
    let events = mesh.picket(&["audit", "search", "-o", "ocsf"]).fine().stdout;
    let mut command = Command::new(python);
    command.arg(OCSF).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(events.as_bytes()).unwrap();
    let report = Run::from(child.wait_with_output().unwrap()).fine().json();
    assert_eq!(report["errors"], json!([]));
    assert_eq!(report["counts"]["http_activity"], 6);
    assert_eq!(report["counts"]["network_activity"], 1);
    assert!(report["counts"]["api_activity"].as_u64().unwrap() > 5, "{report}");
    let events: Vec<Value> =
        events.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let denied = events.iter().find(|event| {
        event["http_request"]["url"]["path"] == "/secret/7" && event["disposition_id"] == 2
    });
    let denied = denied.unwrap();
    assert_eq!((&denied["action_id"], &denied["http_response"]["code"]), (&json!(2), &json!(403)));
    assert_eq!(denied["src_endpoint"]["uid"], id("web"));
    assert_eq!(denied["policy"]["name"], "shop/secret");
    assert_eq!(denied["type_uid"], 400_203);
}
