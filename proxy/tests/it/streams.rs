//! What is open ends when there is no more right to it, within a second and in words that its protocol has; what may
//! still be stays as it is.
//!
//! Each test opens something, uses it, takes the right away and measures how long it takes until the client knows. The
//! figures are printed (`--nocapture`); asserted is what a busy machine keeps, the second itself where it is measured
//! alone.

use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use picket_certs::Svid;
use picket_testkit::otlp::Received;
use picket_testkit::{Issuer, Mesh, websocket};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::client::TlsStream;

use crate::support::{self, ALLOW_WEB, Options, Sidecar, TRUST_DOMAIN, get};

/// What a busy machine keeps.
const SOON: Duration = Duration::from_secs(5);

/// What takes the right away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    PolicyChange,
    TokenExpiry,
    CertificateExpiry,
}

const CAUSES: [Cause; 3] = [Cause::PolicyChange, Cause::TokenExpiry, Cause::CertificateExpiry];

impl Cause {
    fn ending(self) -> &'static str {
        match self {
            Self::PolicyChange => "policy_changed",
            Self::TokenExpiry => "token_expired",
            Self::CertificateExpiry => "certificate_expired",
        }
    }

    fn reason(self) -> &'static str {
        match self {
            Self::PolicyChange => "deny_matched",
            Self::TokenExpiry => "jwt_expired",
            Self::CertificateExpiry => "peer_expired",
        }
    }

    fn words(self) -> &'static str {
        match self {
            Self::PolicyChange => "access is no longer granted",
            Self::TokenExpiry => "the token has expired",
            Self::CertificateExpiry => "the certificate has expired",
        }
    }

    /// gRPC's code.
    fn grpc(self) -> &'static str {
        if self == Self::TokenExpiry { "16" } else { "7" }
    }
}

/// A proxy whose callers need a token, and one who has it.
struct Scene {
    sidecar: Sidecar,
    cause: Cause,
    policies: String,
    svid: Svid,
    token: String,
    /// When the right ends by itself.
    until: Option<SystemTime>,
}

const DENY_LIVE: &str = r#"
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-live, namespace: shop}
spec:
  action: DENY
  rules:
  - to: [{operation: {paths: ["/live*", "/grpc*", "/stream*"]}}]
"#;

impl Scene {
    async fn new(cause: Cause, protocol: &str) -> Self {
        let issuer = Issuer::new("https://issuer.example", "k1");
        let policies = format!(
            "{ALLOW_WEB}\n---\napiVersion: security.istio.io/v1\nkind: RequestAuthentication\n\
             metadata: {{name: tokens, namespace: shop}}\n\
             spec: {{jwtRules: [{{issuer: '{}', jwks: '{}'}}]}}\n---\n\
             apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
             metadata: {{name: only-with-token, namespace: shop}}\n\
             spec: {{action: DENY, rules: [{{from: [{{source: {{notRequestPrincipals: ['*']}}}}]}}]}}\n",
            issuer.name(),
            issuer.jwks()
        );
        let options = Options { policies: &policies, protocol, ..Options::default() };
        let sidecar = Sidecar::with(options).await;
        let now = SystemTime::now();
        let seconds = |at: SystemTime| at.duration_since(UNIX_EPOCH).unwrap().as_secs();
        let (mut life, mut expires) = (Duration::from_secs(3600), seconds(now) + 600);
        let mut until = None;
        match cause {
            Cause::PolicyChange => {}
            Cause::TokenExpiry => {
                // Clocks may differ by a minute: the token is good for that much longer.
                expires = seconds(now) - 56;
                until = Some(UNIX_EPOCH + Duration::from_secs(expires + 61));
            }
            Cause::CertificateExpiry => {
                life = Duration::from_secs(5);
                until = Some(UNIX_EPOCH + Duration::from_secs(seconds(now + life)));
            }
        }
        let svid = sidecar.mesh.svid_of_life("shop", "web", life);
        let token = issuer.sign(json!({"sub": "ana", "exp": expires}));
        Self { sidecar, cause, policies, svid, token, until }
    }

    async fn connect(&self, alpn: &[u8]) -> TlsStream<TcpStream> {
        let mesh = &self.sidecar.mesh;
        let client = mesh.client(Some(&self.svid), &mesh.id("shop", "orders"), alpn);
        support::connect(self.sidecar.inbound, client).await.unwrap()
    }

    fn authorization(&self) -> String {
        format!("Bearer {}", self.token)
    }

    fn write(&self, policies: &str) {
        fs::write(self.sidecar.path("policies/policies.yaml"), policies).unwrap();
    }

    /// Takes the right away, or waits until it has gone by itself; returns when that was.
    async fn happen(&self) -> Instant {
        match self.until {
            None => self.write(&format!("{}{DENY_LIVE}", self.policies)),
            Some(until) => {
                let left = until.duration_since(SystemTime::now()).expect("it has just begun");
                tokio::time::sleep(left).await;
            }
        }
        Instant::now()
    }

    fn took(&self, what: &str, since: Instant) {
        let took = since.elapsed();
        println!("{what}, {:?}: closed after {took:?}", self.cause);
        assert!(took < SOON, "{what} was still open after {took:?}");
    }

    /// Holds the record of what was open against what took the right away.
    async fn check_record(&self, path: &str) -> Received {
        let span = record(&self.sidecar, path).await;
        assert_eq!(span.text("picket.decision"), Some("allow"), "that is what was decided");
        assert_eq!(span.text("picket.ending"), Some(self.cause.ending()));
        assert_eq!(span.text("picket.ending.reason"), Some(self.cause.reason()));
        let (decided, ended) =
            (span.text("picket.policy.generation"), span.text("picket.ending.generation"));
        assert_eq!(decided == ended, self.cause != Cause::PolicyChange, "{decided:?} {ended:?}");
        let policy = match self.cause {
            Cause::PolicyChange => Some("shop/no-live"),
            Cause::TokenExpiry => Some("shop/tokens"),
            Cause::CertificateExpiry => None,
        };
        assert_eq!(span.text("picket.ending.policy"), policy);
        assert_eq!(span.span.events.last().unwrap().name, "picket.authz.ended");
        let (_, metrics) = self.sidecar.admin("/metrics").await;
        let counted = format!(r#"picket_streams_ended_total{{reason="{}"}}"#, self.cause.ending());
        assert!(metrics.contains(&counted), "{metrics}");
        span
    }
}

async fn record(sidecar: &Sidecar, path: &str) -> Received {
    let started = Instant::now();
    loop {
        let mut spans = sidecar.sink.spans();
        spans.retain(|span| span.text("url.path") == Some(path));
        if let Some(span) = spans.pop() {
            return span;
        }
        assert!(started.elapsed() < SOON, "no record of {path}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_is_told_why_it_is_closed() {
    for cause in CAUSES {
        let scene = Scene::new(cause, "http").await;
        let mut stream = scene.connect(b"http/1.1").await;
        let headers = format!("authorization: {}\r\n", scene.authorization());
        websocket::open(&mut stream, "/live", "orders", &headers).await;
        for message in ["a first message", &"long ".repeat(30_000)] {
            let frame = websocket::frame(websocket::TEXT, message.as_bytes(), true);
            stream.write_all(&frame).await.unwrap();
            let answer = websocket::read(&mut stream).await.unwrap();
            assert_eq!(answer, (websocket::TEXT, message.as_bytes().to_vec()));
        }
        let since = scene.happen().await;
        let (opcode, payload) = websocket::read(&mut stream).await.unwrap();
        scene.took("a WebSocket", since);
        assert_eq!(opcode, websocket::CLOSE);
        assert_eq!(websocket::close(&payload), (1008, cause.words().to_owned()));
        assert_eq!(stream.read(&mut [0; 16]).await.unwrap(), 0, "closed in order");
        let span = scene.check_record("/live").await;
        assert!(span.int("http.response.body.size").unwrap() > 150_000, "bytes are counted");
        let started = Instant::now();
        while scene.sidecar.echo.closed().is_empty() {
            assert!(started.elapsed() < SOON, "the service was not told");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(scene.sidecar.echo.closed(), [format!("1008 {}", cause.words())]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_protocol_is_broken_off_without_a_word() {
    let scene = Scene::new(Cause::PolicyChange, "http").await;
    let mut stream = scene.connect(b"http/1.1").await;
    let head = format!(
        "GET /live HTTP/1.1\r\nhost: orders\r\nconnection: upgrade\r\nupgrade: echo\r\n\
         authorization: {}\r\n\r\n",
        scene.authorization()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(stream.read_u8().await.unwrap());
    }
    stream.write_all(b"x").await.unwrap();
    assert_eq!(stream.read_u8().await.unwrap(), b'x');
    let since = scene.happen().await;
    let error = stream.read_u8().await.expect_err("no farewell that could be taken for an end");
    scene.took("an upgraded connection", since);
    assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof);
    scene.check_record("/live").await;
}

type Sender = mpsc::UnboundedSender<Bytes>;
type Outgoing = UnsyncBoxBody<Bytes, std::io::Error>;

/// A body whose frames are sent one by one.
fn body() -> (Sender, Outgoing) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let frames = futures_util::stream::unfold(receiver, |mut receiver| async {
        let bytes: Bytes = receiver.recv().await?;
        Some((Ok(Frame::data(bytes)), receiver))
    });
    (sender, StreamBody::new(Box::pin(frames)).boxed_unsync())
}

async fn http2_client(stream: TlsStream<TcpStream>) -> http2::SendRequest<Outgoing> {
    let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
    let (client, connection) = handshake.unwrap();
    tokio::spawn(connection);
    client
}

/// A gRPC message.
fn message(text: &str) -> Bytes {
    let mut message = vec![0];
    message.extend_from_slice(&u32::try_from(text.len()).unwrap().to_be_bytes());
    message.extend_from_slice(text.as_bytes());
    message.into()
}

async fn next(response: &mut Response<Incoming>) -> Option<Result<Frame<Bytes>, hyper::Error>> {
    response.body_mut().frame().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grpc_stream_ends_with_a_status() {
    for cause in CAUSES {
        let scene = Scene::new(cause, "grpc").await;
        let mut client = http2_client(scene.connect(b"h2").await).await;
        let (sender, body) = body();
        let request = Request::post("https://orders/grpc.Live/Chat")
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("authorization", scene.authorization());
        sender.send(message("hello")).unwrap();
        let mut response = client.send_request(request.body(body).unwrap()).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        let echoed = next(&mut response).await.unwrap().unwrap();
        assert_eq!(echoed.into_data().unwrap(), message("hello"));

        let since = scene.happen().await;
        let last = next(&mut response).await.unwrap().unwrap();
        scene.took("a gRPC stream", since);
        let trailers = last.into_trailers().unwrap();
        assert_eq!(trailers["grpc-status"], cause.grpc());
        assert!(trailers["grpc-message"].to_str().unwrap().starts_with(cause.words()));
        assert!(next(&mut response).await.is_none(), "nothing follows");
        let span = scene.check_record("/grpc.Live/Chat").await;
        assert_eq!(span.int("http.request.body.size"), Some(10));
        assert_eq!(span.int("http.response.body.size"), Some(10));
        // The service is told, too: what it gets to read is not the end of a whole request.
        let started = Instant::now();
        while sender.send(message("more")).is_ok() {
            assert!(started.elapsed() < SOON, "the request goes on");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grpc_stream_in_the_midst_of_a_message_and_another_body_are_reset() {
    for (path, content_type) in
        [("/grpc.Live/Chat", "application/grpc"), ("/stream/1000/20", "text/plain")]
    {
        let scene = Scene::new(Cause::PolicyChange, "http2").await;
        let mut client = http2_client(scene.connect(b"h2").await).await;
        let (sender, body) = body();
        sender.send(message("hello").slice(..7)).unwrap();
        let request = Request::post(format!("https://orders{path}"))
            .header("content-type", content_type)
            .header("authorization", scene.authorization());
        let mut response = client.send_request(request.body(body).unwrap()).await.unwrap();
        assert!(next(&mut response).await.unwrap().is_ok());
        let since = scene.happen().await;
        let error = loop {
            match next(&mut response).await.expect("not as if it were whole") {
                Ok(_) => assert!(since.elapsed() < SOON, "it goes on"),
                Err(error) => break error,
            }
        };
        scene.took("an HTTP/2 response", since);
        let reset = std::error::Error::source(&error).unwrap().to_string();
        assert!(reset.contains("no longer needed"), "CANCEL: {reset}");
        scene.check_record(path).await;
        // The connection itself may go on.
        let (_, empty) = self::body();
        let request = Request::get("https://orders/other");
        let request = request.header("authorization", scene.authorization());
        let other = client.send_request(request.body(empty).unwrap()).await.unwrap();
        assert_eq!(other.status(), StatusCode::OK);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_is_not_waited_for() {
    for alpn in [&b"http/1.1"[..], b"h2"] {
        let scene = Scene::new(Cause::PolicyChange, "http").await;
        let stream = scene.connect(alpn).await;
        let request = Request::get("https://orders/bytes/67108864").header("host", "orders");
        let request = request.header("authorization", scene.authorization());
        let request = request.body(Full::<Bytes>::default()).unwrap();
        let closed;
        let _unread = if alpn == b"h2" {
            let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
            let (mut client, connection) = handshake.unwrap();
            closed = tokio::spawn(async move { drop(connection.await) });
            client.send_request(request).await.unwrap()
        } else {
            let handshake = http1::handshake(TokioIo::new(stream)).await;
            let (mut client, connection) = handshake.unwrap();
            closed = tokio::spawn(async move { drop(connection.await) });
            client.send_request(request).await.unwrap()
        };
        scene.write(&format!("{}{}", scene.policies, DENY_LIVE.replace("/live*", "/bytes/*")));
        let since = Instant::now();
        let span = record(&scene.sidecar, "/bytes/67108864").await;
        assert_eq!(span.text("picket.ending"), Some("policy_changed"));
        if alpn == b"h2" {
            // It reads frames, only not this body.
            tokio::time::timeout(SOON, closed).await.expect("it lingers").unwrap();
        } else {
            let started = Instant::now();
            while !scene.sidecar.admin("/metrics").await.1.contains("direction=\"inbound\"} 0") {
                assert!(started.elapsed() < SOON, "it lingers");
            }
        }
        scene.took("a response that is not read", since);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_http1_response_is_cut_so_that_it_can_be_seen() {
    for cause in CAUSES {
        let scene = Scene::new(cause, "http").await;
        let mut client = support::http1(scene.connect(b"http/1.1").await).await;
        let mut request = get("/stream/1000/20");
        request.headers_mut().insert("authorization", scene.authorization().parse().unwrap());
        let mut response = client.send_request(request).await.unwrap();
        let since = scene.happen();
        let mut since = std::pin::pin!(since);
        let mut happened = None;
        let error = loop {
            tokio::select! {
                at = &mut since, if happened.is_none() => happened = Some(at),
                frame = next(&mut response) => match frame.expect("not as if it were whole") {
                    Ok(_) => assert!(happened.is_none_or(|at| at.elapsed() < SOON), "it goes on"),
                    Err(error) => break error,
                }
            }
        };
        // What happens by itself may be noticed here a moment after it was there.
        scene.took("an HTTP/1.1 response", happened.unwrap_or_else(Instant::now));
        assert!(error.is_incomplete_message() || std::error::Error::source(&error).is_some());
        scene.check_record("/stream/1000/20").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_waits_for_its_answer_is_answered_with_the_refusal() {
    for (cause, status) in [
        (Cause::PolicyChange, StatusCode::FORBIDDEN),
        (Cause::TokenExpiry, StatusCode::UNAUTHORIZED),
        (Cause::CertificateExpiry, StatusCode::FORBIDDEN),
    ] {
        let scene = Scene::new(cause, "http").await;
        let mut client = http2_client(scene.connect(b"h2").await).await;
        let (sender, body) = body();
        sender.send(Bytes::from_static(b"half")).unwrap();
        let request = Request::post("https://orders/live/upload")
            .header("authorization", scene.authorization());
        let response = tokio::spawn(client.send_request(request.body(body).unwrap()));
        let started = Instant::now();
        while scene.sidecar.echo.requests() == 0 {
            assert!(started.elapsed() < SOON, "the request did not arrive");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let since = scene.happen().await;
        let response = response.await.unwrap().unwrap();
        scene.took("an upload", since);
        assert_eq!(response.status(), status);
        let (_, _, problem) = support::collect(response).await;
        let problem = support::json(&problem);
        assert_eq!(problem["detail"], cause.words());
        let span = scene.check_record("/live/upload").await;
        assert_eq!(span.int("http.response.status_code"), Some(i64::from(status.as_u16())));
        drop(sender);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_raw_connection_is_reset() {
    let options = Options { protocol: "tcp", ..Options::default() };
    let sidecar = Sidecar::with(options).await;
    let mut stream = sidecar.connect(Some("web"), b"").await.unwrap();
    let head = "GET /live HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    assert_eq!(stream.read_u8().await.unwrap(), b'H');
    let policies = ALLOW_WEB.replace("sa/web", "sa/other");
    fs::write(sidecar.path("policies/policies.yaml"), policies).unwrap();
    let since = Instant::now();
    let error = loop {
        match stream.read_u8().await {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    println!("a raw connection: closed after {:?}", since.elapsed());
    assert!(since.elapsed() < SOON);
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
    let span = sidecar.sink.at_least(1).await.remove(0);
    assert_eq!(span.text("picket.kind"), Some("connection"));
    assert_eq!(span.text("picket.ending"), Some("policy_changed"));
    assert_eq!(span.text("picket.ending.reason"), Some("no_allow_matched"));
    assert!(span.text("picket.ending.nearest_miss").unwrap().contains("sa/other"));
    assert!(span.int("http.response.body.size").unwrap() > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_connection_is_closed_when_nothing_can_be_allowed_on_it() {
    // Its certificate expires.
    for alpn in [&b"http/1.1"[..], b"h2"] {
        let scene = Scene::new(Cause::CertificateExpiry, "http").await;
        let mut stream = scene.connect(alpn).await;
        if alpn == b"h2" {
            stream
                .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
                .await
                .unwrap();
        }
        let since = scene.happen().await;
        let mut received = Vec::new();
        // This client does not even answer the PING by which HTTP/2 takes its leave: it is cut.
        let ended = stream.read_to_end(&mut received).await;
        assert_eq!(ended.is_ok(), alpn == b"http/1.1", "{ended:?}");
        scene.took("an idle connection", since);
        if alpn == b"h2" {
            assert!(goes_away(&received), "{received:?}");
        }
        let span = scene.sidecar.sink.at_least(1).await.remove(0);
        assert_eq!(span.text("picket.kind"), Some("connection"));
        assert_eq!(span.text("picket.ending"), Some("certificate_expired"));
    }
    // Its port demands mTLS now, and it has none.
    let mode = |mode: &str| {
        format!(
            "{ALLOW_WEB}\n---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\n\
             metadata: {{name: mode, namespace: shop}}\nspec: {{mtls: {{mode: {mode}}}}}\n"
        )
    };
    let sidecar = Sidecar::start(&mode("PERMISSIVE")).await;
    let mut stream = TcpStream::connect(sidecar.inbound).await.unwrap();
    stream.write_all(b"GET /a HTTP/1.1\r\nhost: orders\r\n\r\n").await.unwrap();
    assert_eq!(stream.read_u8().await.unwrap(), b'H');
    fs::write(sidecar.path("policies/policies.yaml"), mode("STRICT")).unwrap();
    let since = Instant::now();
    stream.read_to_end(&mut Vec::new()).await.unwrap();
    println!("an idle connection, mTLS: closed after {:?}", since.elapsed());
    assert!(since.elapsed() < SOON);
    let spans = sidecar.sink.at_least(2).await;
    let span = spans.iter().find(|s| s.text("picket.kind") == Some("connection")).unwrap();
    assert_eq!(span.text("picket.ending"), Some("policy_changed"));
    assert_eq!(span.text("picket.ending.reason"), Some("mtls_required"));
    assert_eq!(span.text("picket.ending.policy"), Some("shop/mode"));
}

/// Whether there is a GOAWAY among HTTP/2 frames (RFC 9113 sections 4.1 and 6.8).
fn goes_away(mut frames: &[u8]) -> bool {
    while let Some((head, rest)) = frames.split_at_checked(9) {
        if head[3] == 7 {
            return true;
        }
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        frames = rest.get(length..).unwrap_or_default();
    }
    false
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_still_allows_it_leaves_a_stream_alone() {
    let scene = Scene::new(Cause::PolicyChange, "http").await;
    let mut stream = scene.connect(b"http/1.1").await;
    let headers = format!("authorization: {}\r\n", scene.authorization());
    websocket::open(&mut stream, "/live", "orders", &headers).await;
    scene.write(&format!("{}{}", scene.policies, DENY_LIVE.replace("/live*", "/elsewhere")));
    let started = Instant::now();
    loop {
        let (_, metrics) = scene.sidecar.admin("/metrics").await;
        if ["picket_streams_rechecked_total 1", "picket_streams_open 1"]
            .iter()
            .all(|line| metrics.contains(line))
        {
            break;
        }
        assert!(started.elapsed() < SOON, "it was not looked at: {metrics}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let frame = websocket::frame(websocket::TEXT, b"still there", true);
    stream.write_all(&frame).await.unwrap();
    let (_, answer) = websocket::read(&mut stream).await.unwrap();
    assert_eq!(answer, b"still there");
    drop(stream);
    let span = record(&scene.sidecar, "/live").await;
    assert!(span.text("picket.ending.reason").is_none());
    let (_, dump) = scene.sidecar.admin("/config_dump").await;
    let now = support::json(dump.as_bytes())["in_force"]["generation"].clone();
    assert_ne!(span.text("picket.policy.generation"), now.as_str(), "the one that decided");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_stream_slips_through_while_the_policy_changes() {
    let sidecar = Arc::new(Sidecar::start(ALLOW_WEB).await);
    let file = sidecar.path("policies/policies.yaml");
    let mut opened = 0;
    for round in 0..5 {
        // Streams are opened all the time; in the midst of it the policy forbids them.
        let openers = (0..8).map(|_| {
            let sidecar = Arc::clone(&sidecar);
            tokio::spawn(async move {
                let mut open = Vec::new();
                loop {
                    let mut stream = sidecar.connect(Some("web"), b"http/1.1").await.unwrap();
                    let head = "GET /live HTTP/1.1\r\nhost: orders\r\nconnection: upgrade\r\n\
                                upgrade: echo\r\n\r\n";
                    stream.write_all(head.as_bytes()).await.unwrap();
                    let mut status = [0; 12];
                    match stream.read_exact(&mut status).await {
                        Ok(_) if status.ends_with(b"101") => open.push(stream),
                        Ok(_) => break open,
                        Err(_) => {}
                    }
                }
            })
        });
        let openers: Vec<_> = openers.collect();
        tokio::time::sleep(Duration::from_millis(40 * (round + 1))).await;
        fs::write(&file, ALLOW_WEB.replace("sa/web", "sa/other")).unwrap();
        for opener in openers {
            for mut stream in opener.await.unwrap() {
                opened += 1;
                let to_the_end = async { while stream.read_u8().await.is_ok() {} };
                tokio::time::timeout(SOON, to_the_end).await.expect("a stream slipped through");
            }
        }
        fs::write(&file, ALLOW_WEB).unwrap();
        let started = Instant::now();
        while sidecar.call("web", get("/a")).await.0 != StatusCode::OK {
            assert!(started.elapsed() < SOON);
        }
    }
    println!("{opened} streams were opened while the policy changed");
    assert!(opened > 20, "{opened}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_ends_when_its_service_has_left_the_mesh_or_its_certificate_has_expired() {
    for (ending, life) in [
        ("destination_gone", Duration::from_secs(3600)),
        ("certificate_expired", Duration::from_secs(6)),
    ] {
        let mesh = Arc::new(Mesh::new(TRUST_DOMAIN));
        let options = Options { certificate_life: life, ..Options::default() };
        let orders = Sidecar::in_mesh(&mesh, options).await;
        let peers = format!(
            "peers:\n- {{service: orders, namespace: shop, serviceAccount: orders, \
             endpoints: [{{address: '{}', port: 8080, protocol: http}}]}}\n",
            orders.inbound
        );
        let options = Options { account: "web", peers: &peers, ..Options::default() };
        let web = Sidecar::in_mesh(&mesh, options).await;
        let mut client = support::http1(TcpStream::connect(web.outbound).await.unwrap()).await;
        let mut response = client.send_request(get("/stream/1000/20")).await.unwrap();
        assert!(next(&mut response).await.unwrap().is_ok());
        if ending == "destination_gone" {
            // Another service comes first: that is none of its business.
            let more = peers.replace("service: orders", "service: other");
            fs::write(web.path("peers.yaml"), format!("{peers}{}", &more["peers:\n".len()..]))
                .unwrap();
            let started = Instant::now();
            while !web.admin("/metrics").await.1.contains("picket_streams_rechecked_total 1") {
                assert!(started.elapsed() < SOON, "it was not looked at");
            }
            fs::write(web.path("peers.yaml"), "peers: []\n").unwrap();
        }
        let since = Instant::now();
        while next(&mut response).await.expect("not as if it were whole").is_ok() {
            assert!(since.elapsed() < life.min(2 * SOON) + SOON, "it goes on");
        }
        println!("a call, {ending}: closed after {:?} at most", since.elapsed());
        let span = record(&web, "/stream/1000/20").await;
        assert_eq!(span.text("picket.direction"), Some("outbound"));
        assert_eq!(span.text("picket.ending"), Some(ending));
        let callee = record(&orders, "/stream/1000/20").await;
        assert_eq!(callee.text("picket.ending"), Some("client_aborted"), "its caller is gone");
    }
}

async fn rechecked(sidecar: &Sidecar) -> usize {
    let (_, metrics) = sidecar.admin("/metrics").await;
    let line = metrics.lines().find_map(|l| l.strip_prefix("picket_streams_rechecked_total "));
    line.unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn many_streams_are_looked_at_without_keeping_anybody_waiting() {
    let long = std::env::var_os("PICKET_LONG_TESTS").is_some_and(|value| value == "1");
    let connections = if long { 40 } else { 4 };
    let options = Options { protocol: "http2", workers: 1, ..Options::default() };
    let sidecar = Sidecar::with(options).await;
    let (mut streams, mut senders) = (Vec::new(), Vec::new());
    for _ in 0..connections {
        let mut client = http2_client(sidecar.connect(Some("web"), b"h2").await.unwrap()).await;
        for _ in 0..250 {
            let (sender, body) = body();
            sender.send(message("hello")).unwrap();
            senders.push(sender);
            let request = Request::post("https://orders/grpc.Live/Chat");
            let request = request.header("content-type", "application/grpc").body(body).unwrap();
            let mut response = client.send_request(request).await.unwrap();
            next(&mut response).await.unwrap().unwrap();
            streams.push(response);
        }
    }
    // A change that still allows them: requests are served meanwhile.
    let file = sidecar.path("policies/policies.yaml");
    fs::write(&file, format!("{ALLOW_WEB}{}", DENY_LIVE.replace("\"/grpc*\", ", ""))).unwrap();
    let (started, mut slowest) = (Instant::now(), Duration::ZERO);
    let mut web = sidecar.web().await;
    while rechecked(&sidecar).await < streams.len() {
        let sent = Instant::now();
        web.ready().await.unwrap();
        let response = web.send_request(get("/other")).await.unwrap();
        assert_eq!(support::collect(response).await.0, StatusCode::OK);
        slowest = slowest.max(sent.elapsed());
        assert!(started.elapsed() < 2 * SOON, "they are not looked at");
    }
    let (looked, count) = (started.elapsed(), streams.len());
    println!("{count} streams: looked at within {looked:?}, the slowest request took {slowest:?}");
    // One that does not.
    fs::write(&file, ALLOW_WEB.replace("sa/web", "sa/other")).unwrap();
    let since = Instant::now();
    for mut response in streams {
        let last = next(&mut response).await.unwrap().unwrap();
        assert_eq!(last.into_trailers().unwrap()["grpc-status"], "7");
    }
    println!("{count} streams: closed within {:?}", since.elapsed());
    // So many records and farewells at once are much work for a build that is not optimised.
    assert!(long || since.elapsed() < 2 * SOON);
    drop(senders);
}
