//! The description of the operator API says what there is, and the answers are as it says.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use http::Method;
use picket_testkit::program::PYTHON_OPENAPI;
use picket_testkit::{Echo, eventually};
use serde_json::{Value, json};

use crate::app::{Call, call};
use crate::command::Run;
use crate::mesh::{Mesh, SOON};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/python/openapi_validate.py");
const ROUTES: &str = include_str!("../../../control/src/api.rs");

/// The routes of the router's source: method and path.
fn routes() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for part in ROUTES.split(".route(").skip(1) {
        let path = part.split('"').nth(1).unwrap();
        // Up to the next route, or the end of the statement.
        let handlers = part.split_once(')').map_or(part, |_| part.split('\n').next().unwrap());
        for method in ["get", "post", "put", "delete", "patch"] {
            if handlers.contains(&format!("{method}(")) {
                found.insert(format!("{method} {}", path.replace("{*", "{")));
            }
        }
    }
    found
}

/// One question over the socket: status, content type, body.
fn ask(mesh: &Mesh, method: &str, path: &str, body: &str) -> (u16, String, String) {
    let mut stream = UnixStream::connect(mesh.path("control/control.sock")).unwrap();
    let length = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.0\r\nhost: control\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    )
    .unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let kind = head.lines().find_map(|line| line.strip_prefix("content-type: "));
    (status, kind.unwrap_or_default().to_owned(), body.to_owned())
}

#[test]
fn every_route_is_described_and_nothing_else() {
    let document: Value = serde_json::from_str(include_str!("../../../docs/openapi.json")).unwrap();
    let described = document["paths"].as_object().unwrap().iter().flat_map(|(path, operations)| {
        let methods = operations.as_object().unwrap().keys();
        methods.map(move |method| format!("{method} {path}"))
    });
    assert_eq!(described.collect::<BTreeSet<_>>(), routes());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_are_as_they_are_described() {
    let test = "answers_are_as_they_are_described";
    let Some(python) = PYTHON_OPENAPI.or_skip(test) else { return };
    let echo = Echo::start().await;
    let told = tempfile::tempdir().unwrap();
    let file = told.path().join("alerts.jsonl").display().to_string();
    let config = format!("alerts: {{sinks: [{{name: log, kind: file, path: '{file}'}}]}}");
    let mesh = Mesh::of_two(&config, echo.address());
    let web = mesh.sidecar("web").outbound;
    for path in ["/orders/7", "/secret/7"] {
        call(web, &Call::get(path)).await.unwrap();
    }
    eventually(SOON, "four requests are recorded", || {
        (mesh.search(&["--kind", "request"]).len() == 4).then_some(())
    });
    eventually(SOON, "the log has a checkpoint", || {
        (ask(&mesh, "GET", "/api/v1/log", "").0 == 200).then_some(())
    });
    // Whoever reads and then tries three times to delete is an alert.
    for _ in 0..3 {
        let delete = Call { method: Method::DELETE, ..Call::get("/orders/7") };
        call(web, &delete).await.unwrap();
    }
    let alert = eventually(SOON, "there is an alert", || {
        let page: Value = serde_json::from_str(&ask(&mesh, "GET", "/api/v1/alerts", "").2).unwrap();
        page["alerts"][0]["id"].as_str().map(|id| format!("/api/v1/alerts/{id}"))
    });
    let acknowledge = format!("{alert}/acknowledge");
    let response = eventually(SOON, "something is suggested", || {
        let list: Value =
            serde_json::from_str(&ask(&mesh, "GET", "/api/v1/responses", "").2).unwrap();
        list["responses"][0]["id"].as_str().map(|id| format!("/api/v1/responses/{id}"))
    });
    let (approve, revert) = (format!("{response}/approve"), format!("{response}/revert"));
    let revoke = json!({ "kind": "jti", "value": "a", "issuer": "https://id.example" }).to_string();
    let revoked: Value =
        serde_json::from_str(&ask(&mesh, "POST", "/api/v1/revocations", &revoke).2).unwrap();
    let lift = format!("/api/v1/revocations/{}", revoked["revocation"]["id"].as_str().unwrap());
    let token = json!({ "workload": "shop/web", "ttl": "10m" }).to_string();
    let wrong = json!({ "workload": "web", "ttl": "10m" }).to_string();
    let nothing = json!({ "ids": ["none-0-1"], "reason": "a test" }).to_string();
    let subject = json!({ "subject": "ana" }).to_string();
    let record =
        mesh.search(&["--direction", "inbound"]).remove(0)["id"].as_str().unwrap().to_owned();
    let proof = format!("/api/v1/audit/proof?id={record}");
    let erase = json!({ "ids": [record, "none-0-1"], "reason": "a test" }).to_string();
    let fields = json!({ "picket.source": "*/sa/web" });
    let silence = json!({ "fields": fields, "for": "1h", "reason": "a test" }).to_string();
    let mut answers = Vec::new();
    // How it is asked, the path of the document, and the body.
    for (method, path, described, body) in [
        ("get", "/api/v1/openapi.json", "", ""),
        ("get", "/api/v1/status", "", ""),
        ("get", "/api/v1/check", "", ""),
        ("get", "/api/v1/bundle", "", ""),
        ("get", "/api/v1/policies", "", ""),
        ("get", "/api/v1/policies/set", "", ""),
        ("get", "/api/v1/audit/records?limit=1000", "/api/v1/audit/records", ""),
        ("get", "/api/v1/audit/records?q=decison%3Ddeny", "/api/v1/audit/records", ""),
        ("get", "/api/v1/audit/groups?by=source,status,dry_run", "/api/v1/audit/groups", ""),
        ("get", "/api/v1/audit/groups", "", ""),
        ("get", "/api/v1/audit/accounts", "", ""),
        ("get", "/api/v1/alerts?anomalies=true", "/api/v1/alerts", ""),
        ("get", "/api/v1/profiles", "", ""),
        ("get", "/api/v1/profiles/workload?id=orders", "/api/v1/profiles/workload", ""),
        ("get", "/api/v1/profiles/workload?id=nobody", "/api/v1/profiles/workload", ""),
        ("get", "/api/v1/profiles/workload?workload=orders", "/api/v1/profiles/workload", ""),
        ("get", "/api/v1/audit/bundle", "", ""),
        ("get", "/api/v1/audit/proof?id=none-0-1", "/api/v1/audit/proof", ""),
        ("post", "/api/v1/audit/erase", "", nothing.as_str()),
        ("get", "/api/v1/audit/bundle?since=x", "/api/v1/audit/bundle", ""),
        ("get", "/api/v1/audit/bundle", "", ""),
        ("get", proof.as_str(), "/api/v1/audit/proof", ""),
        ("get", "/api/v1/audit/proof?id=none-0-1", "/api/v1/audit/proof", ""),
        ("post", "/api/v1/audit/erase", "", erase.as_str()),
        ("post", "/api/v1/audit/erase", "", "{}"),
        ("get", "/api/v1/log", "", ""),
        ("get", "/api/v1/log/checkpoint", "", ""),
        ("get", "/api/v1/log/consistency?old=1&new=2", "/api/v1/log/consistency", ""),
        ("get", "/api/v1/log/tile/0/999", "/api/v1/log/tile/{path}", ""),
        ("get", "/api/v1/alerts?resolved=true&severity=low", "/api/v1/alerts", ""),
        ("get", "/api/v1/alerts?severity=bad", "/api/v1/alerts", ""),
        ("get", alert.as_str(), "/api/v1/alerts/{id}", ""),
        ("get", "/api/v1/alerts/none", "/api/v1/alerts/{id}", ""),
        ("post", acknowledge.as_str(), "/api/v1/alerts/{id}/acknowledge", "{\"note\": \"a test\"}"),
        ("post", "/api/v1/alerts/test", "", "{}"),
        ("post", "/api/v1/alerts/test", "", "{\"sink\": \"nobody\"}"),
        ("get", "/api/v1/rules", "", ""),
        ("get", "/api/v1/sinks", "", ""),
        ("post", "/api/v1/silences", "", silence.as_str()),
        ("post", "/api/v1/silences", "", "{\"for\": \"1h\", \"reason\": \"everything\"}"),
        ("get", "/api/v1/silences", "", ""),
        ("delete", "/api/v1/silences/none", "/api/v1/silences/{id}", ""),
        ("get", "/api/v1/responses", "", ""),
        ("get", response.as_str(), "/api/v1/responses/{id}", ""),
        ("get", "/api/v1/responses/none", "/api/v1/responses/{id}", ""),
        ("post", approve.as_str(), "/api/v1/responses/{id}/approve", ""),
        ("post", approve.as_str(), "/api/v1/responses/{id}/approve", ""),
        ("post", revert.as_str(), "/api/v1/responses/{id}/revert", "{\"reason\": \"a test\"}"),
        ("post", "/api/v1/responses/none/revert", "/api/v1/responses/{id}/revert", "{}"),
        ("post", "/api/v1/responses/halt", "", "{\"revert\": true}"),
        ("post", "/api/v1/responses/resume", "", ""),
        ("get", "/api/v1/join-tokens", "", ""),
        ("post", "/api/v1/join-tokens", "", token.as_str()),
        ("post", "/api/v1/join-tokens", "", wrong.as_str()),
        ("get", "/api/v1/revocations", "", ""),
        ("post", "/api/v1/revocations", "", revoke.as_str()),
        ("delete", lift.as_str(), "/api/v1/revocations/{id}", ""),
        ("delete", lift.as_str(), "/api/v1/revocations/{id}", ""),
        ("put", "/api/v1/policies", "", "{}"),
        ("post", "/api/v1/operators", "", "{}"),
        ("post", "/api/v1/subject-hashes", "", subject.as_str()),
        ("get", "/metrics", "", ""),
        ("get", "/livez", "", ""),
        ("get", "/readyz", "", ""),
    ] {
        let (status, kind, body) = ask(&mesh, &method.to_uppercase(), path, body);
        let described = if described.is_empty() { path } else { described };
        answers.push(json!({
            "method": method, "path": described, "status": status, "type": kind, "body": body
        }));
    }
    let document: Value = serde_json::from_str(answers[0]["body"].as_str().unwrap()).unwrap();
    let mut command = Command::new(python);
    command.arg(SCRIPT).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let given = json!({ "document": document, "answers": answers }).to_string();
    child.stdin.take().unwrap().write_all(given.as_bytes()).unwrap();
    let report = Run::from(child.wait_with_output().unwrap()).fine().json();
    assert_eq!(report["errors"], json!([]));
    let seen: BTreeSet<&str> =
        report["seen"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
    for name in [
        "GET /api/v1/audit/records 400",
        "GET /api/v1/audit/groups 200",
        "DELETE /api/v1/revocations/{id} 404",
        "GET /api/v1/alerts 400",
        "POST /api/v1/alerts/{id}/acknowledge 200",
        "POST /api/v1/alerts/test 404",
        "GET /api/v1/responses/{id} 200",
        "GET /api/v1/responses/{id} 404",
        "POST /api/v1/responses/{id}/approve 200",
        "POST /api/v1/responses/{id}/approve 409",
        "POST /api/v1/responses/{id}/revert 200",
    ] {
        assert!(seen.contains(name), "{seen:?}");
    }
}
