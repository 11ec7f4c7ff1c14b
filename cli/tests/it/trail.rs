//! The audit trail of ten thousand requests: each is there exactly once per hop, and says it all.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use http::Method;
use picket_testkit::{Echo, eventually};

use crate::app::{App, Call, new_trace};
use crate::mesh::{Mesh, Record, SOON, id, number, text};
use crate::policies::{ISSUER, token};

const REQUESTS: usize = 10_000;
/// Connections of HTTP/1.1, and tasks on each of two connections of HTTP/2.
const HTTP1: usize = 6;
const HTTP2: usize = 3;

/// A request that was sent, and what its records must say.
struct Sent {
    call: Call,
    kind: &'static Kind,
}

/// A kind of request.
struct Kind {
    method: Method,
    path: &'static str,
    token: Token,
    status: i64,
    decision: &'static str,
    stage: &'static str,
    reason: &'static str,
    /// Name and rule.
    policy: Option<(&'static str, Option<i64>)>,
}

#[derive(PartialEq)]
enum Token {
    None,
    Good,
    Expired,
}

const fn kind(
    method: Method,
    path: &'static str,
    token: Token,
    (status, decision): (i64, &'static str),
    (stage, reason): (&'static str, &'static str),
    policy: Option<(&'static str, Option<i64>)>,
) -> Kind {
    Kind { method, path, token, status, decision, stage, reason, policy }
}

const ALLOW: (i64, &str) = (200, "allow");
const DENY: (i64, &str) = (403, "deny");
const BY_RULE: (&str, &str) = ("allow", "allow_matched");
const BY_DEFAULT: (&str, &str) = ("default", "no_allow_matched");
const ORDERS: Option<(&str, Option<i64>)> = Some(("shop/orders", Some(0)));

/// In turn; half of them are denied.
static KINDS: [Kind; 10] = [
    kind(Method::GET, "/orders/7", Token::None, ALLOW, BY_RULE, ORDERS),
    kind(Method::DELETE, "/orders/7", Token::None, DENY, BY_DEFAULT, None),
    kind(Method::POST, "/orders", Token::Good, ALLOW, BY_RULE, Some(("shop/orders", Some(1)))),
    kind(
        Method::GET,
        "/secret/7",
        Token::None,
        DENY,
        ("deny", "deny_matched"),
        Some(("shop/secret", Some(0))),
    ),
    kind(Method::PUT, "/orders/8", Token::Good, ALLOW, BY_RULE, ORDERS),
    kind(Method::POST, "/orders", Token::None, DENY, BY_DEFAULT, None),
    kind(Method::GET, "/status/200", Token::None, ALLOW, BY_RULE, ORDERS),
    kind(
        Method::POST,
        "/orders",
        Token::Expired,
        (401, "deny"),
        ("request_authentication", "jwt_expired"),
        Some(("shop/login", None)),
    ),
    kind(Method::GET, "/bytes/2000", Token::None, ALLOW, BY_RULE, ORDERS),
    kind(Method::GET, "/elsewhere", Token::Good, DENY, BY_DEFAULT, None),
];

/// Sends every request, and checks what came back.
async fn send_all(to: SocketAddr, sent: Vec<Sent>) -> Vec<Sent> {
    let sent = Arc::new(sent);
    let workers = HTTP1 + 2 * HTTP2;
    let shared = [App::http2(to).await.unwrap(), App::http2(to).await.unwrap()];
    let tasks: Vec<_> = (0..workers)
        .map(|worker| {
            let sent = Arc::clone(&sent);
            let app = worker.checked_sub(HTTP1).map(|n| shared[n % 2].clone_http2());
            tokio::spawn(async move {
                let mut app = match app {
                    Some(app) => app,
                    None => App::http1(to).await.unwrap(),
                };
                for Sent { call, kind } in sent.iter().skip(worker).step_by(workers) {
                    let (status, _) = app.send(call).await.unwrap();
                    assert_eq!(i64::from(status.as_u16()), kind.status, "{call:?}");
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    Arc::into_inner(sent).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_requests_are_each_on_the_record_once_per_hop() {
    let echo = Echo::start().await;
    let mesh = Mesh::of_two("", echo.address());
    let (good, expired) = (token(&mesh.issuer, 3600), token(&mesh.issuer, -600));
    let mut random = fastrand::Rng::new();
    let sent = (0..REQUESTS).map(|number| {
        let kind = &KINDS[number % KINDS.len()];
        let token = match kind.token {
            Token::None => None,
            Token::Good => Some(good.clone()),
            Token::Expired => Some(expired.clone()),
        };
        let (method, path) = (kind.method.clone(), kind.path.to_owned());
        Sent { call: Call { method, path, token, trace: new_trace(&mut random) }, kind }
    });
    let started = Instant::now();
    let sent = send_all(mesh.sidecar("web").outbound, sent.collect()).await;
    let took = started.elapsed();

    let started = Instant::now();
    eventually(SOON, "every record is in the store", || {
        let events = mesh.search(&["--kind", "event"]).len();
        let stored = mesh.status()["control"]["audit_records"].as_u64()?;
        (stored >= (2 * REQUESTS + events) as u64).then_some(())
    });
    let arrived = started.elapsed();
    let started = Instant::now();
    let found = mesh.search(&["--kind", "request"]);
    let searched = started.elapsed();
    println!(
        "{REQUESTS} requests in {took:.1?}, all stored {arrived:.1?} later, {} records \
         found in {searched:.1?}",
        found.len()
    );

    let mut by_trace: BTreeMap<&str, Vec<&Record>> = BTreeMap::new();
    for record in &found {
        by_trace.entry(text(record, "trace_id")).or_default().push(record);
    }
    assert_eq!(found.len(), 2 * REQUESTS);
    for sent in &sent {
        let records = by_trace.remove(sent.call.trace.as_str()).unwrap_or_default();
        let [a, b] = records[..] else { panic!("{:?} has {records:#?}", sent.call) };
        let (outbound, inbound) =
            if text(a, "picket.direction") == "outbound" { (a, b) } else { (b, a) };
        check_hop(sent, outbound, ("outbound", "web"));
        check_hop(sent, inbound, ("inbound", "orders"));
        assert_eq!(text(inbound, "parent_span_id"), text(outbound, "span_id"), "one trace");
        check_decision(sent.kind, inbound);
    }
    assert!(by_trace.is_empty(), "nobody sent {by_trace:#?}");
    let allowed = sent.iter().filter(|sent| sent.kind.decision == "allow").count();
    // Every allowed request, and no other, reached the service.
    assert_eq!(echo.traces().len(), allowed);
}

/// What every hop must say.
#[track_caller]
fn check_hop(Sent { call, kind }: &Sent, record: &Record, (direction, emitter): (&str, &str)) {
    let is = |name: &str, value: &str| assert_eq!(text(record, name), value, "{name} {record:#?}");
    is("picket.direction", direction);
    is("picket.emitter", &id(emitter));
    is("picket.source", &id("web"));
    is("picket.destination", &id("orders"));
    is("http.request.method", kind.method.as_str());
    is("url.path", &call.path);
    is("tls.protocol.version", "1.3");
    is(
        "picket.ending",
        if direction == "inbound" && kind.decision == "deny" { "refused" } else { "completed" },
    );
    assert_eq!(number(record, "http.response.status_code"), Some(kind.status), "{record:#?}");
    for name in ["picket.decision", "picket.decision.reason", "picket.decision.stage"] {
        assert_ne!(text(record, name), "", "{name} {record:#?}");
    }
    let generation = text(record, "picket.policy.generation");
    assert_eq!(generation.len(), 16, "{record:#?}");
    for name in ["duration_us", "picket.time.policy_us"] {
        assert!(number(record, name).is_some_and(|time| time > 0), "{name} {record:#?}");
    }
    if direction == "outbound" || kind.decision == "allow" {
        assert!(number(record, "picket.time.upstream_us") > Some(0), "{record:#?}");
    }
}

/// What the hop that decides must say.
#[track_caller]
fn check_decision(kind: &Kind, record: &Record) {
    let is = |name: &str, value: &str| assert_eq!(text(record, name), value, "{name} {record:#?}");
    is("picket.decision", kind.decision);
    is("picket.decision.stage", kind.stage);
    is("picket.decision.reason", kind.reason);
    match kind.policy {
        Some((policy, rule)) => {
            is("picket.policy", policy);
            assert_eq!(number(record, "picket.policy.rule"), rule, "{record:#?}");
            assert!(text(record, "picket.policy.source").contains(".yaml:"), "{record:#?}");
        }
        None => {
            is("picket.policy", "");
            assert!(text(record, "picket.decision.nearest_miss").contains("shop/orders"));
        }
    }
    is("picket.jwt.issuer", if kind.token == Token::Good { ISSUER } else { "" });
}
