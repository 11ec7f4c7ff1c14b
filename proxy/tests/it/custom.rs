//! External authorizers over real sockets: what they are asked, and what becomes of every kind of answer.
//!
//! One is plain bytes on a socket, so that it can misbehave in any way; the one that speaks gRPC is in [`grpc`], and a real
//! Envoy asks both in [`envoy`].

mod envoy;
mod grpc;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::support::{ALLOW_WEB, Options, Sidecar, get, http2, json, send};

/// What the authorizer does once it has read a question.
#[derive(Clone)]
enum Does {
    Answer(Vec<u8>),
    /// Until the question is taken back.
    Wait,
    Reset,
}

/// An authorizer on a socket of its own.
struct Authorizer {
    address: SocketAddr,
    does: Arc<Mutex<Does>>,
    /// The heads of the questions, in order.
    asked: Arc<Mutex<Vec<String>>>,
    /// Questions that were taken back.
    gone: Arc<Mutex<usize>>,
}

impl Authorizer {
    async fn start(does: Does) -> Self {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let authorizer = Self {
            address,
            does: Arc::new(Mutex::new(does)),
            asked: Arc::default(),
            gone: Arc::default(),
        };
        let (does, asked, gone) = (
            Arc::clone(&authorizer.does),
            Arc::clone(&authorizer.asked),
            Arc::clone(&authorizer.gone),
        );
        tokio::spawn(async move {
            loop {
                let (stream, _) = socket.accept().await.unwrap();
                let does = Arc::clone(&does);
                let (asked, gone) = (Arc::clone(&asked), Arc::clone(&gone));
                tokio::spawn(serve(stream, does, asked, gone));
            }
        });
        authorizer
    }

    fn now(&self, does: Does) {
        *self.does.lock().unwrap() = does;
    }

    fn answers(&self, answer: impl Into<Vec<u8>>) {
        self.now(Does::Answer(answer.into()));
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    fn last(&self) -> String {
        self.asked().pop().unwrap()
    }
}

async fn serve(
    mut stream: TcpStream,
    does: Arc<Mutex<Does>>,
    asked: Arc<Mutex<Vec<String>>>,
    gone: Arc<Mutex<usize>>,
) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    asked.lock().unwrap().push(String::from_utf8(head).unwrap());
    let does = does.lock().unwrap().clone();
    match does {
        Does::Answer(bytes) => {
            let _gone = stream.write_all(&bytes).await;
        }
        Does::Wait => {
            let _closed = stream.read_u8().await;
            *gone.lock().unwrap() += 1;
        }
        Does::Reset => stream.set_zero_linger().unwrap(),
    }
}

/// An answer, and the end of the connection.
fn answer(status: &str, headers: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n{body}"
    )
    .into_bytes()
}

const YES: &str = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

/// Whom `/ask…` is asked about, beside a policy that lets web do anything but `/ask/closed`.
fn policies(spec: &str) -> String {
    format!(
        "{ALLOW_WEB}---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
         metadata: {{name: closed, namespace: shop}}\n\
         spec: {{action: DENY, rules: [{{to: [{{operation: {{paths: [/ask/closed]}}}}]}}, \
         {{when: [{{key: 'request.headers[x-risk]', values: [high]}}]}}]}}\n\
         ---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
         metadata: {{name: asked, namespace: shop}}\n\
         spec: {{action: CUSTOM, provider: {{name: ext}}, rules: [{{to: [{{operation: {{paths: ['/ask*']}}}}]}}]}}\n\
         ---\napiVersion: picket.dev/v1alpha1\nkind: ExternalAuthorizer\n\
         metadata: {{name: ext, namespace: istio-system}}\nspec: {{{spec}}}\n"
    )
}

fn http(address: SocketAddr, more: &str) -> String {
    let port = address.port();
    policies(&format!("envoyExtAuthzHttp: {{service: 127.0.0.1, port: {port}, {more}}}"))
}

fn with(path: &str, headers: &[(&'static str, &str)]) -> Request<Full<Bytes>> {
    let mut request = get(path);
    for (name, value) in headers {
        request.headers_mut().append(*name, value.parse().unwrap());
    }
    request
}

fn header<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name).map(|value| value.to_str().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_authorizer_is_asked_as_it_should_be_and_its_yes_is_not_the_last_word() {
    let authorizer = Authorizer::start(Does::Answer(YES.into())).await;
    let fields = "pathPrefix: /check, includeRequestHeadersInCheck: [x-tenant, 'x-b3-*', x-forwarded-client-cert], \
                  includeAdditionalHeadersInCheck: {x-mesh: shop}";
    let sidecar = Sidecar::start(&http(authorizer.address, fields)).await;
    let sent = [
        ("authorization", "Bearer x"),
        ("x-tenant", "a"),
        ("x-tenant", "b"),
        ("x-b3-traceid", "7"),
        ("x-mesh", "forged"),
        ("cookie", "secret"),
        ("x-forwarded-client-cert", "forged"),
    ];
    let mut request = with("/ask/x/../a%61?b=c", &sent);
    *request.method_mut() = http::Method::PUT;
    *request.body_mut() = Full::new(Bytes::from_static(b"body"));
    let (status, _, body) = sidecar.call("web", request).await;
    assert_eq!(status, StatusCode::OK);
    let seen = json(&body);
    assert_eq!(seen["received"], 4, "the body goes to the service");
    let question = authorizer.last();
    let (line, headers) = question.split_once("\r\n").unwrap();
    assert_eq!(line, "PUT /check/ask/aa?b=c HTTP/1.1", "what is forwarded, not what was sent");
    assert_eq!(seen["target"], "/ask/aa?b=c");
    let mut headers: Vec<&str> = headers.trim_end().split("\r\n").collect();
    headers.sort_unstable();
    let (xfcc, others): (Vec<&str>, Vec<&str>) =
        headers.into_iter().partition(|line| line.starts_with("x-forwarded-client-cert"));
    assert_eq!(
        others,
        [
            "authorization: Bearer x",
            "content-length: 0",
            "host: orders",
            "x-b3-traceid: 7",
            "x-mesh: shop",
            "x-tenant: a,b",
        ]
    );
    assert!(
        xfcc.len() == 1 && xfcc[0].contains("URI=spiffe://example.org/ns/shop/sa/web"),
        "{xfcc:?}"
    );

    // A DENY policy still denies, and who is in no ALLOW policy is not let in.
    assert_eq!(sidecar.call("web", get("/ask/closed")).await.0, StatusCode::FORBIDDEN);
    assert_eq!(sidecar.call("rogue", get("/ask/a")).await.0, StatusCode::FORBIDDEN);
    assert_eq!(authorizer.asked().len(), 3, "it has the first word");
    assert_eq!(sidecar.call("web", get("/other")).await.0, StatusCode::OK);
    assert_eq!(authorizer.asked().len(), 3, "no rule matches");
    assert_eq!(sidecar.echo.requests(), 2);

    let spans = sidecar.sink.at_least(4).await;
    let of = |path: &str, decision: &str| {
        let mut found = spans.iter().filter(|span| {
            span.text("url.path") == Some(path) && span.text("picket.decision") == Some(decision)
        });
        found.next().unwrap()
    };
    let asked = of("/ask/aa", "allow");
    assert_eq!(asked.text("picket.authorizer"), Some("ext"));
    assert_eq!(asked.text("picket.authorizer.outcome"), Some("allowed"));
    assert!(asked.int("picket.time.authorizer_us").unwrap() > 0);
    assert_eq!(asked.text("picket.decision.stage"), Some("allow"));
    assert_eq!(of("/ask/closed", "deny").text("picket.decision.stage"), Some("deny"));
    assert_eq!(of("/other", "allow").text("picket.authorizer"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_no_is_the_clients_answer_and_on_the_record() {
    let no = answer(
        "401 Unauthorized",
        "www-authenticate: Basic\r\nset-cookie: a=1\r\nset-cookie: b=2\r\nx-internal: secret\r\n\
         x-picket-decision-id: forged\r\n",
        "who are you?",
    );
    let authorizer = Authorizer::start(Does::Answer(no)).await;
    let fields = "headersToDownstreamOnDeny: [set-cookie]";
    let sidecar = Sidecar::start(&http(authorizer.address, fields)).await;
    let (status, headers, body) = sidecar.call("web", get("/ask")).await;
    assert_eq!((status, &*body), (StatusCode::UNAUTHORIZED, &b"who are you?"[..]));
    assert_eq!(header(&headers, "www-authenticate"), Some("Basic"));
    assert_eq!(headers.get_all("set-cookie").iter().count(), 2);
    assert_eq!(header(&headers, "x-internal"), None, "not on the list");
    let id = header(&headers, "x-picket-decision-id").unwrap();

    let span = sidecar.sink.at_least(1).await.remove(0);
    assert_eq!(span.text("picket.decision.id"), Some(id));
    assert_eq!(span.text("picket.decision"), Some("deny"));
    assert_eq!(span.text("picket.decision.stage"), Some("custom"));
    assert_eq!(span.text("picket.decision.reason"), Some("custom_denied"));
    assert_eq!(span.text("picket.policy"), Some("shop/asked"));
    assert_eq!(span.int("picket.policy.rule"), Some(0));
    assert!(span.text("picket.policy.source").unwrap().contains("policies.yaml:"));
    assert_eq!(span.text("picket.authorizer.outcome"), Some("denied"));
    assert_eq!(span.int("http.response.status_code"), Some(401));

    // Elsewhere.
    authorizer.answers(answer("302 Found", "location: https://login.example/\r\n", ""));
    let (status, headers, _) = sidecar.call("web", get("/ask")).await;
    assert_eq!(status, StatusCode::FOUND);
    assert_eq!(header(&headers, "location"), Some("https://login.example/"));
    // A denial never looks like a success.
    authorizer.answers("HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n");
    assert_eq!(sidecar.call("web", get("/ask")).await.0, StatusCode::FORBIDDEN);
    authorizer.answers(answer("202 Accepted", "", "yes, yes"));
    assert_eq!(sidecar.call("web", get("/ask")).await.0, StatusCode::FORBIDDEN);
    assert_eq!(sidecar.echo.requests(), 0);

    // A gRPC client reads a status that it understands.
    authorizer.answers(answer("401 Unauthorized", "", "no"));
    let mut client = http2(sidecar.connect(Some("web"), b"h2").await.unwrap()).await;
    let request = Request::post("http://orders/ask/grpc.Test/Call")
        .header("content-type", "application/grpc")
        .body(Full::new(Bytes::new()))
        .unwrap();
    let response = client.send_request(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(header(response.headers(), "grpc-status"), Some("16"), "UNAUTHENTICATED");
    assert_eq!(header(response.headers(), "content-type"), Some("application/grpc"));
}

/// Everything that can go wrong on an HTTP authorizer's side, and its name in records.
fn failures() -> Vec<(&'static str, Does, &'static str)> {
    let answers = |bytes: &[u8]| Does::Answer(bytes.to_vec());
    let huge = "x".repeat(400_000);
    vec![
        ("silence", Does::Wait, "timeout"),
        ("a reset connection", Does::Reset, "broken"),
        ("a closed connection", answers(b""), "broken"),
        ("half a head", answers(b"HTTP/1.1 200 OK\r\ncontent-le"), "broken"),
        ("half a body", answers(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf"), "broken"),
        ("nonsense", answers(b"yes, of course\r\n\r\n"), "broken"),
        ("another protocol", answers(b"SSH-2.0-OpenSSH_9.2\r\n"), "broken"),
        (
            "two lengths",
            answers(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\ncontent-length: 5\r\n\r\nhello"),
            "broken",
        ),
        ("an error", Does::Answer(answer("500 Internal Server Error", "", "oh")), "error"),
        ("unavailability", Does::Answer(answer("503 Service Unavailable", "", "")), "error"),
        ("too long a body", Does::Answer(answer("200 OK", "", &huge)), "too_large"),
        (
            "too long a head",
            Does::Answer(answer("200 OK", &format!("x: {huge}\r\n"), "")),
            "broken",
        ),
        (
            "a name that is none",
            Does::Answer(answer("200 OK", "x-envoy-auth-headers-to-remove: a b\r\n", "")),
            "malformed",
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_goes_wrong_denies_and_says_what_it_was() {
    let authorizer = Authorizer::start(Does::Wait).await;
    let fields = "timeout: 300ms, statusOnError: '503'";
    let sidecar = Sidecar::start(&http(authorizer.address, fields)).await;
    let mut expected = Vec::new();
    for (what, does, outcome) in failures() {
        authorizer.now(does);
        let asked = Instant::now();
        let (status, _, body) = sidecar.call("web", get("/ask")).await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{what}");
        assert_eq!(json(&body)["code"], "denied", "{what}");
        assert!(asked.elapsed() < Duration::from_secs(5), "{what}");
        expected.push(outcome);
    }
    assert_eq!(sidecar.echo.requests(), 0);
    // It is asked again each time: nothing is remembered against it.
    authorizer.answers(YES);
    assert_eq!(sidecar.call("web", get("/ask")).await.0, StatusCode::OK);
    expected.push("allowed");

    let spans = sidecar.sink.at_least(expected.len()).await;
    let mut outcomes: Vec<&str> =
        spans.iter().map(|span| span.text("picket.authorizer.outcome").unwrap()).collect();
    outcomes.sort_unstable();
    expected.sort_unstable();
    assert_eq!(outcomes, expected);
    for span in spans.iter().filter(|span| span.text("picket.decision") == Some("deny")) {
        assert_eq!(span.text("picket.decision.stage"), Some("custom"));
        assert_eq!(span.text("picket.decision.reason"), Some("custom_error"));
        assert_eq!(span.text("picket.policy"), Some("shop/asked"));
    }
    let metrics = sidecar.admin("/metrics").await.1;
    for line in [
        "picket_authorizer_checks_total{authorizer=\"ext\",outcome=\"timeout\"} 1",
        "picket_authorizer_checks_total{authorizer=\"ext\",outcome=\"allowed\"} 1",
        "picket_authorizer_check_duration_seconds_count{authorizer=\"ext\"} 14",
    ] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_there_denies_with_the_usual_status() {
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let sidecar = Sidecar::start(&http(nobody, "")).await;
    let (status, _, body) = sidecar.call("web", get("/ask")).await;
    assert_eq!((status, &json(&body)["detail"]), (StatusCode::FORBIDDEN, &"access denied".into()));
    let span = sidecar.sink.at_least(1).await.remove(0);
    assert_eq!(span.text("picket.authorizer.outcome"), Some("unreachable"));
    let unknown = "envoyExtAuthzHttp: {service: authz.invalid, port: 80}";
    let sidecar = Sidecar::start(&policies(unknown)).await;
    assert_eq!(sidecar.call("web", get("/ask")).await.0, StatusCode::FORBIDDEN);
    assert_eq!(sidecar.echo.requests(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_who_writes_fail_open_is_let_by_and_other_policies_still_count() {
    let authorizer = Authorizer::start(Does::Wait).await;
    let fields = "timeout: 300ms, failOpen: true, headersToUpstreamOnAllow: [x-user]";
    let sidecar = Sidecar::start(&http(authorizer.address, fields)).await;
    for (what, does, outcome) in failures() {
        authorizer.now(does);
        let (status, _, body) = sidecar.call("web", with("/ask", &[("x-user", "forged")])).await;
        assert_eq!(status, StatusCode::OK, "{what} ({outcome})");
        assert_eq!(json(&body)["headers"].get("x-user"), None, "{what}");
    }
    authorizer.now(Does::Reset);
    assert_eq!(sidecar.call("web", get("/ask/closed")).await.0, StatusCode::FORBIDDEN);
    authorizer.answers(answer("403 Forbidden", "", ""));
    assert_eq!(sidecar.call("web", get("/ask")).await.0, StatusCode::FORBIDDEN, "a no is a no");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_it_adds_reaches_service_and_rules_and_cannot_be_forged() {
    let headers = "x-user: ana\r\nx-groups: a\r\nx-groups: b\r\nx-other: no\r\nhost: evil\r\n\
                   x-forwarded-client-cert: By=x;URI=spiffe://example.org/ns/shop/sa/admin\r\n\
                   x-picket-user: admin\r\ntransfer-encoding-x: y\r\n\
                   x-envoy-auth-headers-to-remove: cookie, host, x-forwarded-client-cert\r\n\
                   set-cookie: seen=1\r\n";
    let authorizer = Authorizer::start(Does::Answer(answer("200 OK", headers, "ignored"))).await;
    let fields = "headersToUpstreamOnAllow: [x-user, x-groups, x-tenant, authorization, '*cert', 'x-picket*', x-risk], \
                  headersToDownstreamOnAllow: [set-cookie]";
    let sidecar = Sidecar::start(&http(authorizer.address, fields)).await;
    let forged = [
        ("x-user", "admin"),
        ("x-groups", "root"),
        ("x-tenant", "victim"),
        ("x-other", "mine"),
        ("authorization", "Bearer mine"),
        ("cookie", "secret"),
        // Nor can it be taken away.
        ("connection", "x-user, x-groups"),
    ];
    let (status, answered, body) = sidecar.call("web", with("/ask", &forged)).await;
    assert_eq!(status, StatusCode::OK);
    let seen = json(&body)["headers"].clone();
    assert_eq!(seen["x-user"], serde_json::json!(["ana"]));
    assert_eq!(seen["x-groups"], serde_json::json!(["a", "b"]));
    assert_eq!(seen["host"], serde_json::json!(["orders"]));
    assert_eq!(seen["x-other"], serde_json::json!(["mine"]), "not its to write");
    for gone in ["x-tenant", "x-picket-user", "authorization", "cookie"] {
        assert_eq!(seen.get(gone), None, "{gone}");
    }
    let xfcc = seen["x-forwarded-client-cert"].to_string();
    assert!(xfcc.contains("sa/web") && !xfcc.contains("sa/admin"), "{xfcc}");
    assert_eq!(header(&answered, "set-cookie"), Some("seen=1"));

    // Where it is not asked nobody speaks for it; the service judges credentials by itself.
    let (_, answered, body) = sidecar.call("web", with("/other", &forged)).await;
    let seen = json(&body)["headers"].clone();
    for gone in ["x-user", "x-groups", "x-tenant"] {
        assert_eq!(seen.get(gone), None, "{gone}");
    }
    assert_eq!(seen["authorization"], serde_json::json!(["Bearer mine"]));
    assert_eq!(header(&answered, "set-cookie"), None);

    // Rules see what the service will.
    authorizer.answers(answer("200 OK", "x-risk: high\r\n", ""));
    assert_eq!(sidecar.call("web", with("/ask", &[])).await.0, StatusCode::FORBIDDEN);
    authorizer.answers(YES);
    let (status, ..) = sidecar.call("web", with("/ask", &[("x-risk", "high")])).await;
    assert_eq!(status, StatusCode::OK, "the client's own is gone");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_takes_its_question_back() {
    let authorizer = Authorizer::start(Does::Wait).await;
    let sidecar = Sidecar::start(&http(authorizer.address, "timeout: 60s")).await;
    let mut clients = Vec::new();
    for _ in 0..3 {
        let mut stream = sidecar.connect(Some("web"), b"http/1.1").await.unwrap();
        stream.write_all(b"GET /ask HTTP/1.1\r\nhost: orders\r\n\r\n").await.unwrap();
        clients.push(stream);
    }
    let mut client = http2(sidecar.connect(Some("web"), b"h2").await.unwrap()).await;
    let stream =
        client.send_request(Request::get("http://orders/ask").body(Full::default()).unwrap());
    let stream = tokio::spawn(stream);
    until(|| authorizer.asked().len() == 4, "all are asked about").await;
    drop(clients);
    stream.abort();
    until(|| *authorizer.gone.lock().unwrap() == 4, "all are taken back").await;
    let spans = sidecar.sink.at_least(4).await;
    for span in &spans {
        assert_eq!(span.text("picket.ending"), Some("client_aborted"));
        assert_eq!(span.text("picket.decision.stage"), None, "nothing was decided");
    }
}

async fn until(condition: impl Fn() -> bool, what: &str) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < Duration::from_secs(10), "not so: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_authorizer_is_asked_from_the_next_request_on() {
    let first = Authorizer::start(Does::Answer(YES.into())).await;
    let second = Authorizer::start(Does::Answer(answer("403 Forbidden", "", ""))).await;
    let sidecar = Sidecar::start(&http(first.address, "")).await;
    let client = sidecar.web().await;
    assert_eq!(send(client, get("/ask")).await.0, StatusCode::OK);
    std::fs::write(sidecar.path("policies/policies.yaml"), http(second.address, "")).unwrap();
    let started = Instant::now();
    while sidecar.call("web", get("/ask")).await.0 != StatusCode::FORBIDDEN {
        assert!(started.elapsed() < Duration::from_secs(10), "the new one is not asked");
    }
    // At least once: what is open when the policy changes is asked about again.
    assert!(!second.asked().is_empty());
    // A set that names nobody is refused, and the last one stays.
    let nobody = http(second.address, "").replace("{name: ext}", "{name: nobody}");
    std::fs::write(sidecar.path("policies/policies.yaml"), nobody).unwrap();
    assert_eq!(sidecar.call("web", get("/ask")).await.0, StatusCode::FORBIDDEN);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_http_authorizer_cannot_be_asked_about_a_raw_connection_and_so_denies() {
    let authorizer = Authorizer::start(Does::Answer(YES.into())).await;
    let policies = http(authorizer.address, "").replace("paths: ['/ask*']", "ports: ['*']");
    let policies = policies.replace("rules: [{to: [{operation: {ports: ['*']}}]}]", "rules: [{}]");
    let policies = policies.replace("name: closed", "name: unused").replace("action: DENY, ", "");
    let sidecar =
        Sidecar::with(Options { policies: &policies, protocol: "tcp", ..Options::default() }).await;
    let answer = sidecar.raw("web", b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert_eq!(answer, "");
    let span = sidecar.sink.at_least(1).await.remove(0);
    assert_eq!(span.text("picket.decision.reason"), Some("custom_error"));
    assert_eq!(span.text("picket.authorizer.outcome"), Some("raw_connection"));
    assert!(authorizer.asked().is_empty());
    assert_eq!(sidecar.echo.requests(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_open_is_asked_about_again_when_the_policy_changes() {
    let authorizer = Authorizer::start(Does::Answer(YES.into())).await;
    let policies = http(authorizer.address, "").replace("'/ask*'", "'/stream*'");
    let sidecar = Sidecar::start(&policies).await;
    let mut client = sidecar.web().await;
    let response = client.send_request(get("/stream/100000/20")).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    // Another generation that says the same, and an authorizer that still says yes.
    let change = |comment: &str| {
        std::fs::write(sidecar.path("policies/policies.yaml"), format!("{policies}# {comment}\n"))
            .unwrap();
    };
    change("a");
    until(|| authorizer.asked().len() == 2, "it is asked again").await;
    authorizer.answers(answer("403 Forbidden", "", "no more"));
    change("b");
    let broken = response.into_body().collect().await;
    assert!(broken.is_err(), "the stream is cut");
    let span = sidecar.sink.at_least(1).await.remove(0);
    assert_eq!(span.text("picket.ending"), Some("policy_changed"));
    assert_eq!(span.text("picket.decision"), Some("allow"), "what was decided then");
}
