//! One record for everything, whatever becomes of it.

use std::time::{Duration, Instant};

use http::StatusCode;
use http_body_util::BodyExt as _;
use tokio::io::AsyncWriteExt as _;

use crate::support::{ALLOW_WEB, Options, Sidecar, get, http1};

const RULES: &str = r#"
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: orders, namespace: shop}
spec:
  rules:
  - from: [{source: {principals: ["example.org/ns/shop/sa/web"]}}]
    to: [{operation: {methods: [GET, POST], paths: ["/orders/{*}"]}}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-export, namespace: shop}
spec:
  action: DENY
  rules:
  - to: [{operation: {paths: [/orders/export]}}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: soon, namespace: shop, annotations: {istio.io/dry-run: "true"}}
spec:
  action: DENY
  rules:
  - to: [{operation: {paths: [/orders/7]}}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: watch, namespace: shop}
spec:
  action: AUDIT
  rules:
  - to: [{operation: {methods: [POST]}}]
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_record_says_who_what_why_and_by_which_rule() {
    let sidecar = Sidecar::start(RULES).await;
    let mut post = crate::support::post("/orders/7?card=4111", "x");
    post.headers_mut().insert("authorization", "Bearer secret-token".parse().unwrap());
    post.headers_mut().insert("cookie", "session=secret-cookie".parse().unwrap());
    let (status, _, _) = sidecar.call("web", post).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(sidecar.call("web", get("/orders/export")).await.0, StatusCode::FORBIDDEN);
    let (_, headers, _) = sidecar.call("rogue", get("/orders/8")).await;

    let spans = sidecar.sink.at_least(3).await;
    let allowed = &spans[0];
    assert_eq!(allowed.span.name, "POST /orders/{*}");
    let expected = [
        ("picket.kind", "request"),
        ("picket.direction", "inbound"),
        ("picket.source", "spiffe://example.org/ns/shop/sa/web"),
        ("picket.destination", "spiffe://example.org/ns/shop/sa/orders"),
        ("picket.decision", "allow"),
        ("picket.decision.stage", "allow"),
        ("picket.decision.reason", "allow_matched"),
        ("picket.policy", "shop/orders"),
        ("picket.policy.source", "policies.yaml:7"),
        ("http.request.method", "POST"),
        ("http.route", "/orders/{*}"),
        ("url.path", "/orders/7"),
        ("url.query", "card=REDACTED"),
        ("url.scheme", "https"),
        ("server.address", "orders"),
        ("network.protocol.version", "1.1"),
        ("tls.protocol.version", "1.3"),
        ("tls.cipher", "TLS_AES_128_GCM_SHA256"),
        ("tls.curve", "X25519MLKEM768"),
        ("picket.ending", "completed"),
    ];
    for (name, value) in expected {
        assert_eq!(allowed.text(name), Some(value), "{name}");
    }
    assert_eq!(allowed.int("picket.policy.rule"), Some(0));
    assert_eq!(allowed.int("http.response.status_code"), Some(200));
    assert_eq!(allowed.int("http.request.body.size"), Some(1));
    assert!(allowed.int("picket.time.policy_us").is_some());
    assert!(allowed.int("picket.time.upstream_us").is_some());
    assert!(allowed.span.end_time_unix_nano > allowed.span.start_time_unix_nano);
    let debug = format!("{allowed:?}");
    assert!(debug.contains("shop/soon=deny") && debug.contains("shop/watch"), "{debug}");
    assert_eq!(allowed.span.events[0].name, "picket.authz.dry_run");
    let everything = format!("{spans:?}");
    for secret in ["4111", "secret-token", "secret-cookie"] {
        assert!(!everything.contains(secret), "{secret} was recorded");
    }

    let denied = &spans[1];
    assert_eq!(denied.text("picket.decision.stage"), Some("deny"));
    assert_eq!(denied.text("picket.policy"), Some("shop/no-export"));
    assert_eq!(denied.text("picket.ending"), Some("refused"));
    let status = denied.span.status.as_ref().unwrap();
    assert_eq!((status.code, status.message.as_str()), (2, "denied: shop/no-export"));
    assert_eq!(denied.span.events[0].name, "picket.authz.denied");

    let missed = &spans[2];
    assert_eq!(missed.text("picket.decision.stage"), Some("default"));
    let miss = missed.text("picket.decision.nearest_miss").unwrap();
    assert!(miss.starts_with("shop/orders rule[0] policies.yaml:7: source.principals"), "{miss}");
    let id = headers["x-picket-decision-id"].to_str().unwrap();
    assert_eq!(missed.text("picket.decision.id"), Some(id));
    assert_eq!(picket_certs::leaf::hex(&missed.span.span_id), id);

    let generation = allowed.text("picket.policy.generation");
    assert!(generation.is_some_and(|generation| generation.len() == 16));
    assert!(spans.iter().all(|span| span.text("picket.policy.generation") == generation));
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_have_no_gaps_and_nothing_comes_twice() {
    let sidecar = Sidecar::start(ALLOW_WEB).await;
    let callers = (0..8).map(|number| {
        let account = if number % 2 == 0 { "web" } else { "rogue" };
        let tls = sidecar.client(Some(account), b"http/1.1");
        let address = sidecar.inbound;
        tokio::spawn(async move {
            let stream = crate::support::connect(address, tls).await.unwrap();
            let mut client = http1(stream).await;
            for _ in 0..250 {
                client.ready().await.unwrap();
                let response = client.send_request(get("/a")).await.unwrap();
                response.into_body().collect().await.unwrap();
            }
        })
    });
    for caller in callers.collect::<Vec<_>>() {
        caller.await.unwrap();
    }
    let spans = sidecar.sink.at_least(2000).await;
    assert_eq!(spans.len(), 2000);
    let mut numbers: Vec<(i64, i64)> = spans
        .iter()
        .map(|s| (s.int("picket.lane").unwrap(), s.int("picket.sequence").unwrap()))
        .collect();
    numbers.sort_unstable();
    for lane in [0, 1] {
        let of_lane: Vec<i64> =
            numbers.iter().filter(|(l, _)| *l == lane).map(|(_, sequence)| *sequence).collect();
        let count = i64::try_from(of_lane.len()).unwrap();
        assert_eq!(of_lane, (1..=count).collect::<Vec<_>>(), "lane {lane}");
    }
    let denied = spans.iter().filter(|s| s.text("picket.decision") == Some("deny")).count();
    assert_eq!(denied, 1000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_is_recorded_as_such_and_a_denied_one_as_denied() {
    let sidecar = Sidecar::start(ALLOW_WEB).await;
    // Gone in the middle of a response.
    let mut client = sidecar.web().await;
    let response = client.send_request(get("/bytes/1000000000")).await.unwrap();
    drop((response, client));
    // Gone in the middle of its own request.
    let mut upload = sidecar.connect(Some("web"), b"http/1.1").await.unwrap();
    let head = "POST /up HTTP/1.1\r\nhost: orders\r\ncontent-length: 100\r\n\r\nabc";
    upload.write_all(head.as_bytes()).await.unwrap();
    let started = Instant::now();
    while sidecar.echo.requests() < 2 {
        assert!(started.elapsed() < Duration::from_secs(5));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    drop(upload);
    // Denied, and never reads the answer.
    let mut denied = sidecar.connect(Some("rogue"), b"http/1.1").await.unwrap();
    denied.write_all(b"GET /a HTTP/1.1\r\nhost: orders\r\n\r\n").await.unwrap();
    let spans = sidecar.sink.at_least(3).await;
    drop(denied);
    let endings: Vec<_> = spans.iter().map(|span| span.text("picket.ending").unwrap()).collect();
    assert_eq!(endings, ["client_aborted", "client_aborted", "refused"]);
    let decisions: Vec<_> =
        spans.iter().map(|span| span.text("picket.decision").unwrap()).collect();
    assert_eq!(decisions, ["allow", "allow", "deny"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn records_wait_for_a_receiver_that_is_away() {
    let mut sidecar = Sidecar::start(ALLOW_WEB).await;
    let address = sidecar.sink.address();
    assert_eq!(sidecar.call("web", get("/before")).await.0, StatusCode::OK);
    sidecar.sink.at_least(1).await;
    // Replaced by one on the same port, some time later.
    let placeholder = picket_testkit::OtlpSink::start().await;
    drop(std::mem::replace(&mut sidecar.sink, placeholder));
    for _ in 0..20 {
        assert_eq!(sidecar.call("web", get("/meanwhile")).await.0, StatusCode::OK);
    }
    let started = Instant::now();
    sidecar.sink = loop {
        // The old connections have to be gone before the port is free.
        match tokio::net::TcpListener::bind(address).await {
            Ok(free) => {
                drop(free);
                break picket_testkit::OtlpSink::start_on(address).await;
            }
            Err(_) => assert!(started.elapsed() < Duration::from_secs(5)),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    let spans = sidecar.sink.at_least(20).await;
    let meanwhile = spans.iter().filter(|s| s.text("url.path") == Some("/meanwhile")).count();
    assert_eq!(meanwhile, 20);
}

/// Sends requests with long targets until one is not answered 200, or none is left.
async fn fill(sidecar: &Sidecar, method: &str, requests: usize) -> Option<StatusCode> {
    let mut client = sidecar.web().await;
    let query = "key=1&".repeat(400);
    let target = format!("/{}?{query}", "a".repeat(2000));
    for _ in 0..requests {
        let request = http::Request::builder().method(method).uri(&target).header("host", "orders");
        client.ready().await.unwrap();
        let request = request.body(http_body_util::Full::default()).unwrap();
        let response = client.send_request(request).await.unwrap();
        let status = response.status();
        response.into_body().collect().await.unwrap();
        if status != StatusCode::OK {
            return Some(status);
        }
    }
    None
}

/// The smallest spool there is, and nobody to send it to.
async fn sidecar_without_receiver(on_full: &str) -> Sidecar {
    let config = format!("audit: {{maxSize: 16MiB, onFull: {on_full}}}\n");
    let mut sidecar =
        Sidecar::with(Options { config: &config, workers: 1, ..Options::default() }).await;
    sidecar.sink = picket_testkit::OtlpSink::start().await;
    sidecar
}

#[tokio::test(flavor = "multi_thread")]
async fn when_nothing_more_can_be_recorded_state_is_not_changed_but_reads_go_on() {
    let sidecar = sidecar_without_receiver("denyStateChanges").await;
    let refused = fill(&sidecar, "POST", 20_000).await;
    assert_eq!(refused, Some(StatusCode::SERVICE_UNAVAILABLE));
    let reached = sidecar.echo.requests();
    assert_eq!(fill(&sidecar, "DELETE", 1).await, Some(StatusCode::SERVICE_UNAVAILABLE));
    assert_eq!(sidecar.echo.requests(), reached, "what is not recorded is not forwarded");
    assert_eq!(fill(&sidecar, "GET", 10).await, None);
    let metrics = sidecar.admin("/metrics").await.1;
    let value = |name: &str| -> u64 {
        let line = metrics.lines().find(|line| line.starts_with(name)).unwrap();
        line.rsplit(' ').next().unwrap().parse().unwrap()
    };
    assert_eq!(value("picket_audit_records_lost_total"), 12, "two refusals and ten reads");
    let emitted = value("picket_audit_records_total");
    assert_eq!(emitted, value("picket_audit_records_pending") + 12);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_prefers_to_serve_can_count_instead() {
    let sidecar = sidecar_without_receiver("allowAndCount").await;
    assert_eq!(fill(&sidecar, "POST", 8_000).await, None);
    let metrics = sidecar.admin("/metrics").await.1;
    assert!(!metrics.contains("picket_audit_records_lost_total 0"), "{metrics}");
}
