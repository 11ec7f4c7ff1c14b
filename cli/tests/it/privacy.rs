//! Canaries: a secret of its own in every position of a request and of its answer, through two sidecars
//! that log all they can, with every outcome. Then nothing that is left of it anywhere (spool, database,
//! logs, metrics, dumps, exports, the operator API) holds one of them, in whatever form.
//!
//! What is meant to be kept is: paths, the keys of queries, hosts, methods.

mod canaries;
mod formatted;
mod upstream;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use picket_certs::{Expect, PeerVerifier, Svid, TrustBundle, tls};
use picket_testkit::mesh::Files;
use picket_testkit::{Echo, OtlpSink, eventually};
use prost::Message as _;
use serde_json::json;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::app::{App, Call, new_trace};
use crate::command::{Run, picket};
use crate::enroll::enrolled;
use crate::mesh::{Mesh, SOON, TRUST_DOMAIN, Workload, get, id, text};
use canaries::{Canaries, Finding, Place};
use upstream::Upstream;

/// Keys that are kept.
const KEY: &str = "keptkey";

/// Policies that look at what must not be kept.
const KEYED: &str = "\
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: keyed, namespace: shop}
spec:
  selector: {matchLabels: {app: orders}}
  rules:
  - to: [{operation: {paths: [/keyed/*]}}]
    when:
    - {key: 'request.headers[x-api-key]', values: [good]}
    - {key: 'request.headers[cookie]', values: [good]}
    - {key: 'request.headers[authorization]', values: [good]}
    - {key: 'request.auth.claims[email]', values: [ana@shop.example]}
  - to: [{operation: {paths: [/claims/*]}}]
    when: [{key: 'request.auth.claims[email]', notValues: [ana@shop.example]}]
---
apiVersion: picket.dev/v1alpha1
kind: RateLimit
metadata: {name: limited, namespace: shop}
spec:
  selector: {matchLabels: {app: orders}}
  limits:
  - to: [{operation: {paths: [/stream/*]}}]
    key: ['request.headers[x-api-key]', 'request.headers[cookie]', 'request.auth.claims[email]']
    requests: 1
    per: 24h
";

/// Where a request enters the mesh.
enum Way {
    /// By its own sidecar.
    Sidecar(SocketAddr),
    /// Over mTLS of its own, under a server name.
    Direct { to: SocketAddr, svid: Box<Svid>, bundle: TrustBundle, name: String },
}

impl Way {
    fn direct(mesh: &Mesh, files: &Files, name: String) -> Self {
        let read = |path| fs::read(path).unwrap();
        let svid = Svid::from_pem(&read(&files.certificate), &read(&files.key)).unwrap();
        let bundle =
            TrustBundle::from_pem(TRUST_DOMAIN.parse().unwrap(), &read(&files.bundle)).unwrap();
        Self::Direct { to: mesh.sidecar("orders").inbound, svid: Box::new(svid), bundle, name }
    }

    /// Sends bytes, and more when an answer begins; reads to the end, or as long as there is patience.
    async fn send(&self, request: &[u8], more: &[u8], patience: Duration) -> String {
        match self {
            Self::Sidecar(to) => {
                exchange(TcpStream::connect(to).await.unwrap(), request, more, patience).await
            }
            Self::Direct { to, svid, bundle, name } => {
                let orders = id("orders").parse().unwrap();
                let verifier = PeerVerifier::new(bundle.clone(), Expect::Workload(orders));
                let config = tls::client_config(Some(svid), verifier, &[b"http/1.1"]).unwrap();
                let stream = TcpStream::connect(to).await.unwrap();
                let name = name.clone().try_into().unwrap();
                let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
                exchange(stream.unwrap(), request, more, patience).await
            }
        }
    }
}

async fn exchange<S>(mut stream: S, request: &[u8], more: &[u8], patience: Duration) -> String
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    stream.write_all(request).await.unwrap();
    let mut answer = vec![0; 65_536];
    // Whoever is refused may find the connection broken.
    let first = timeout(patience, stream.read(&mut answer)).await;
    let mut length = first.unwrap_or(Ok(0)).unwrap_or(0);
    if !more.is_empty() {
        stream.write_all(more).await.unwrap();
        stream.shutdown().await.unwrap();
    }
    while length < answer.len() {
        match timeout(patience, stream.read(&mut answer[length..])).await {
            Ok(Ok(read)) if read > 0 => length += read,
            _ => break,
        }
    }
    String::from_utf8_lossy(&answer[..length]).into_owned()
}

/// A request with a canary wherever one fits.
fn planted(
    canaries: &mut Canaries,
    what: &str,
    path: &str,
    authorization: Option<&str>,
) -> Vec<u8> {
    let mut plant = |position: &str| canaries.plant(format!("{what}: {position}"));
    let authorization = authorization.map_or_else(
        || format!("Basic {}", STANDARD.encode(format!("ana:{}", plant("basic")))),
        str::to_owned,
    );
    let body = plant("body");
    let pairs = [
        ("authorization", authorization),
        ("proxy-authorization", format!("Basic {}", STANDARD.encode(plant("proxy basic")))),
        ("cookie", format!("sid={}; theme={}", plant("cookie"), plant("second cookie"))),
        ("x-api-key", plant("x-api-key")),
        ("x-auth-token", plant("x-auth-token")),
        ("x-custom", plant("x-custom")),
        ("x-picket-decision-id", plant("a header of ours")),
        ("x-forwarded-client-cert", plant("xfcc")),
        ("x-forwarded-for", plant("x-forwarded-for")),
        ("forwarded", format!("for={}", plant("forwarded"))),
        ("user-agent", plant("user-agent")),
        ("referer", format!("https://shop.example/?t={}", plant("referer"))),
        (
            "traceparent",
            format!("00-{0}-{1}-01", new_trace(&mut fastrand::Rng::new()), "b7ad6b7169203331"),
        ),
        ("tracestate", format!("vendor={}", plant("tracestate"))),
        ("baggage", format!("user={}", plant("baggage"))),
        ("b3", plant("b3")),
        ("grpc-metadata-bin", STANDARD.encode(plant("binary metadata"))),
        ("content-type", format!("text/plain; charset={}", plant("content-type"))),
        ("content-length", body.len().to_string()),
    ];
    let (value, second, bare) = (plant("query"), plant("second query"), plant("query without ="));
    let encoded: String = plant("encoded query").bytes().map(|b| format!("%{b:02x}")).collect();
    let mut text = format!(
        "POST {path}?{KEY}={value}&{KEY}2={second}={value}&{bare}&{KEY}3={encoded} HTTP/1.1\r\n\
         host: orders.shop\r\nconnection: close\r\n"
    );
    for (name, value) in pairs {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    format!("{text}\r\n{body}").into_bytes()
}

/// Requests that are no good, each with a canary in it.
fn broken(canaries: &mut Canaries, way: &str) -> Vec<Vec<u8>> {
    let shapes: [(&str, &str); 16] = [
        (
            "userinfo of the target",
            "GET http://ana:{}@orders.shop/orders/1 HTTP/1.1\r\nhost: orders.shop\r\n\r\n",
        ),
        ("userinfo of the host", "GET /orders/1 HTTP/1.1\r\nhost: ana:{}@orders.shop\r\n\r\n"),
        (
            "userinfo of the host with a port",
            "GET /orders/1 HTTP/1.1\r\nhost: {}@orders.shop:80\r\n\r\n",
        ),
        ("fragment", "GET /orders/1#{} HTTP/1.1\r\nhost: orders.shop\r\n\r\n"),
        (
            "fragment of a whole target",
            "GET http://orders.shop/orders/1?keptkey=1#{} HTTP/1.1\r\nhost: orders.shop\r\n\r\n",
        ),
        ("version", "GET /orders/1 HTTP/{}\r\nhost: orders.shop\r\n\r\n"),
        ("a line", "{}\r\n\r\n"),
        (
            "query of a malformed line",
            "GET /orders/1?keptkey={} HTTP/1.1 x\r\nhost: orders.shop\r\n\r\n",
        ),
        (
            "a header without a colon",
            "GET /orders/1 HTTP/1.1\r\nhost: orders.shop\r\ncookie {}\r\n\r\n",
        ),
        (
            "a header with a control character",
            "GET /orders/1 HTTP/1.1\r\nhost: orders.shop\r\ncookie: \x01{}\r\n\r\n",
        ),
        (
            "query of an ambiguous path",
            "GET /orders/%2e%2e/x?keptkey={} HTTP/1.1\r\nhost: orders.shop\r\nconnection: close\r\n\r\n",
        ),
        (
            "a body of two lengths",
            "POST /orders/1 HTTP/1.1\r\nhost: orders.shop\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n{}\r\n\r\n",
        ),
        (
            "a chunk",
            "POST /orders/1 HTTP/1.1\r\nhost: orders.shop\r\ntransfer-encoding: chunked\r\n\r\n{}\r\n",
        ),
        (
            "a second host",
            "GET /orders/1 HTTP/1.1\r\nhost: orders.shop\r\nhost: ana:{}@orders.shop\r\n\r\n",
        ),
        ("CONNECT", "CONNECT ana:{}@orders.shop:80 HTTP/1.1\r\nhost: orders.shop:80\r\n\r\n"),
        ("asterisk", "OPTIONS * HTTP/1.1\r\nhost: orders.shop\r\ncookie: {}\r\n\r\n"),
    ];
    let plant = |(position, shape): &(&str, &str)| {
        let canary = canaries.plant(format!("{way}: {position}"));
        shape.replace("{}", &canary).into_bytes()
    };
    shapes.iter().map(plant).collect()
}

/// Tokens with canaries in them, good and bad.
fn tokens(canaries: &mut Canaries, mesh: &Mesh) -> Vec<(&'static str, String)> {
    let now = jiff::Timestamp::now().as_second();
    let mut sign = |what: &str, audience: &str, seconds: i64| {
        let mut plant = |claim: &str| canaries.plant(format!("{what} token: {claim}"));
        let claims = json!({
            "aud": audience, "exp": now + seconds, "sub": plant("sub"), "jti": plant("jti"),
            "email": plant("email"), "tenant": plant("tenant"), "realm": {"roles": [plant("role")]},
        });
        let token = mesh.issuer.sign(claims);
        canaries.secret(format!("{what} token: signature"), token.rsplit('.').next().unwrap());
        token
    };
    let good = sign("good", "shop", 3600);
    let expired = sign("expired", "shop", -600);
    let foreign = sign("foreign", "bank", 3600);
    let forged = format!("{}x", sign("forged", "shop", 3600));
    let opaque = canaries.plant("opaque token");
    let malformed =
        format!("{}.e30.{}", canaries.plant("malformed token"), canaries.plant("its signature"));
    let bearer = |token: String| format!("Bearer {token}");
    vec![
        ("good", bearer(good)),
        ("expired", bearer(expired)),
        ("foreign", bearer(foreign)),
        ("forged", bearer(forged)),
        ("opaque", bearer(opaque)),
        ("malformed", bearer(malformed)),
        ("unknown scheme", format!("Digest response={}", canaries.plant("digest"))),
    ]
}

/// gRPC over HTTP/2, with canaries in metadata, message and trailers.
async fn grpc(canaries: &mut Canaries, to: SocketAddr, path: &str) {
    let mut plant = |position: &str| canaries.plant(format!("gRPC {path}: {position}"));
    let mut trailers = HeaderMap::new();
    let value = |text: String| HeaderValue::from_str(&text).unwrap();
    trailers.insert(HeaderName::from_static("x-request-trailer"), value(plant("trailer")));
    let mut message = vec![0, 0, 0, 0, 28];
    message.extend(plant("message").bytes());
    let frames = [Ok(Frame::data(Bytes::from(message))), Ok(Frame::trailers(trailers))];
    let body = StreamBody::new(futures_util::stream::iter(frames)).boxed();
    let request = Request::post(format!("http://orders.shop{path}?{KEY}={}", plant("query")))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("grpc-timeout", "20S")
        .header("authorization-extra", plant("metadata"))
        .header("token-bin", STANDARD.encode(plant("binary metadata")))
        .body(body)
        .unwrap();
    let mut app = App::http2(to).await.unwrap();
    if let Ok(response) = app.start(request).await {
        let _read = response.into_body().collect().await;
    }
}

/// Everything that the mesh can be asked.
fn asked(mesh: &Mesh) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    for name in ["web", "orders"] {
        for path in ["/metrics", "/config_dump", "/readyz?verbose"] {
            let (_, text) = get(mesh.sidecar(name).admin, path).unwrap();
            found.push((format!("{name}{path}"), text.into_bytes()));
        }
    }
    let commands: [&[&str]; 11] = [
        &["audit", "search", "-o", "json"],
        &["audit", "search", "-o", "csv"],
        &["audit", "search", "-o", "ocsf"],
        &["audit", "search", "--group-by", "source,route,policy", "-o", "json"],
        &["audit", "accounts", "-o", "json"],
        &["audit", "search"],
        &["status", "-o", "json"],
        &["check", "-o", "json"],
        &["join-token", "list", "-o", "json"],
        &["token", "revocations", "-o", "json"],
        &["status"],
    ];
    for command in commands {
        let run = mesh.picket(command);
        found.push((command.join(" "), [run.stdout, run.stderr].concat().into_bytes()));
    }
    let metrics = mesh.api("/metrics");
    assert!(metrics.contains("picket_control_audit_records"), "{metrics}");
    found.push(("control/metrics".to_owned(), metrics.into_bytes()));
    found
}

/// A workload with a token that is none; everything that it prints.
fn rogue(canaries: &mut Canaries, mesh: &Mesh) -> Vec<u8> {
    let root = mesh.root().display();
    let text = format!(
        "trustDomain: {TRUST_DOMAIN}\nstateDir: {root}/rogue\n\
         workload: {{namespace: shop, serviceAccount: rogue}}\n\
         control: {{address: '{}', trustBundle: {root}/control/bundle.pem}}\n\
         outbound: {{listen: '127.0.0.1:0'}}\n",
        mesh.proxies
    );
    fs::write(mesh.path("rogue.yaml"), text).unwrap();
    let config = mesh.path("rogue.yaml").display().to_string();
    let mut command = picket(&["proxy", "run", "--config", &config]);
    command.env("PICKET_JOIN_TOKEN", canaries.plant("join token")).env("PICKET_LOG", "trace");
    let run = Run::of(&mut command);
    assert_eq!(run.status, 3, "{run:?}");
    [run.stdout, run.stderr].concat().into_bytes()
}

#[track_caller]
fn assert_none(findings: &[Finding]) {
    let mut lines: Vec<String> = findings.iter().map(ToString::to_string).collect();
    lines.sort();
    assert!(lines.is_empty(), "{} canaries were found:\n{}", lines.len(), lines.join("\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_secret_of_a_request_is_left_anywhere() {
    let mut canaries = Canaries::default();
    let upstream = Upstream::start(&mut canaries).await;
    let sink = OtlpSink::start().await;
    let export = format!("export: {{otlp: '{}'}}", sink.url());
    let mut mesh = Mesh::start_logging(&export, "trace");
    fs::write(mesh.policy("keyed.yaml"), KEYED).unwrap();
    mesh.add(&Workload::service("orders", upstream.address()));
    mesh.add(&Workload::caller("web"));
    mesh.until_synced();
    for name in ["web", "orders"] {
        let token = fs::read_to_string(mesh.path(&format!("{name}.token"))).unwrap();
        canaries.secret(format!("join token of {name}"), token.trim());
    }
    let files = TempDir::new().unwrap();
    let web = enrolled(&mesh, "web", &files.path().join("web")).await;
    let rogue_output = rogue(&mut canaries, &mesh);
    // From now on the records stay in the spools.
    mesh.kill_control();

    let sidecar = mesh.sidecar("web").outbound;
    let name = format!("{}.example", canaries.plant("server name"));
    let ways = [("sidecar", Way::Sidecar(sidecar)), ("direct", Way::direct(&mesh, &web, name))];
    let bearers = tokens(&mut canaries, &mesh);
    for (how, way) in &ways {
        for (path, answer) in [
            ("/orders/1", "200"),
            ("/secret/1", "403"),
            ("/keyed/1", "403"),
            ("/status/503", "503"),
            ("/bytes/garbage", "502"),
            ("/slow/broken", "200"),
            ("/nowhere", "403"),
        ] {
            let request = planted(&mut canaries, &format!("{how} {path}"), path, None);
            let answered = way.send(&request, b"", SOON).await;
            assert_eq!(answered.split(' ').nth(1), Some(answer), "{how} {path}: {answered}");
        }
        // Twice the same: the second one is too often.
        let request = planted(&mut canaries, &format!("{how} limited"), "/stream/1", None);
        for status in ["200", "429"] {
            let answered = way.send(&request, b"", SOON).await;
            assert_eq!(answered.split(' ').nth(1), Some(status), "{how}: {answered}");
        }
        for (what, bearer) in &bearers {
            for path in ["/orders/1", "/claims/1", "/keyed/1"] {
                let what = format!("{how} {what} token {path}");
                let request = planted(&mut canaries, &what, path, Some(bearer));
                let answered = way.send(&request, b"", SOON).await;
                assert!(answered.starts_with("HTTP/1.1 "), "{what}: {answered}");
            }
        }
        for request in broken(&mut canaries, how) {
            // Some of them are waited for to go on.
            way.send(&request, b"", Duration::from_millis(300)).await;
        }
        // What follows an upgrade.
        let head = "GET /orders/1 HTTP/1.1\r\nhost: orders.shop\r\nconnection: upgrade\r\n\
                    upgrade: echo\r\n\r\n";
        let payload = canaries.plant(format!("{how}: upgraded"));
        let answered = way.send(head.as_bytes(), payload.as_bytes(), SOON).await;
        assert!(answered.starts_with("HTTP/1.1 101") && answered.ends_with(&payload), "{answered}");
    }
    grpc(&mut canaries, sidecar, "/grpc.Shop/Charge").await;
    grpc(&mut canaries, sidecar, "/grpc.Bank/Charge").await;

    // They were there: whatever may pass has reached the service.
    let seen = upstream.seen();
    for position in [
        "query",
        "second query",
        "query without =",
        "cookie",
        "x-custom",
        "body",
        "baggage",
        "tracestate",
    ] {
        assert!(seen.contains(canaries.of(&format!("direct /orders/1: {position}"))), "{position}");
    }
    // The spools are full of records, which say what they should.
    let spooled: Vec<Place> = Place::files(mesh.root());
    let spool = spooled.iter().filter(|place| place.name.contains(".segment"));
    let keys = format!("{KEY}=REDACTED&{KEY}2=REDACTED&REDACTED&{KEY}3=REDACTED");
    assert!(spool.filter(|place| place.contains(&keys)).count() >= 2, "no query is on record");
    assert_none(&canaries.look_in(&spooled));

    // Now they are delivered, stored and forwarded.
    mesh.start_control();
    for name in ["web", "orders"] {
        eventually(SOON, &format!("the records of {name} are delivered"), || {
            let audit = &mesh.status_of(name)["audit"];
            let (emitted, pending) = (audit["emitted"].as_u64()?, audit["pending"].as_u64()?);
            (emitted > 0 && pending == 0).then_some(())
        });
    }
    eventually(SOON, "the traces are forwarded", || {
        let export = &mesh.status()["control"]["export"];
        (export["behind"] == 0 && export["sent"].as_u64() > Some(50)).then_some(())
    });
    let mut places = Place::files(mesh.root());
    places.extend(asked(&mesh).into_iter().map(Place::from));
    places.push(Place::from(("the rogue's output".to_owned(), rogue_output)));
    for received in sink.spans() {
        let resource = format!("{:?}", received.resource).into_bytes();
        places.push(Place::from(("export".to_owned(), received.span.encode_to_vec())));
        places.push(Place::from(("export".to_owned(), resource)));
    }
    assert!(places.iter().any(|place| place.name.starts_with("audit") && place.contains(&keys)));
    assert_none(&canaries.look_in(&places));
    let logs = places.iter().filter(|place| place.name.ends_with(".log"));
    assert!(
        logs.filter(|place| place.bytes.len() > 10_000).count() >= 3,
        "the logs say too little"
    );
}

/// A call of a service with a token of a subject.
async fn call_as(mesh: &Mesh, service: &str, subject: &str, trace: &str) {
    let now = jiff::Timestamp::now().as_second();
    let claims = json!({"aud": "shop", "sub": subject, "exp": now + 3600});
    let call = Call {
        method: Method::GET,
        path: "/orders/1".to_owned(),
        token: Some(mesh.issuer.sign(claims)),
        trace: trace.to_owned(),
    };
    let mut request = call.request();
    *request.uri_mut() = format!("http://{service}.shop/orders/1").parse().unwrap();
    request.headers_mut().insert("host", format!("{service}.shop").parse().unwrap());
    let mut app = App::http1(mesh.sidecar("web").outbound).await.unwrap();
    let response = app.start(request).await.unwrap();
    response.into_body().collect().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_persons_requests_are_found_at_every_service_and_under_every_key() {
    let echo = Echo::start().await;
    let mut mesh = Mesh::start("privacy: {subjectKey: {rotate: 3s}}");
    mesh.add(&Workload::service("orders", echo.address()));
    mesh.add(&Workload::service("payments", echo.address()));
    mesh.add(&Workload::caller("web"));
    mesh.until_synced();
    let mut traces = Vec::new();
    let mut keys = BTreeMap::new();
    // Until two keys have been seen, each at both services.
    while keys.values().filter(|services: &&BTreeSet<String>| services.len() == 2).count() < 2 {
        assert!(traces.len() < 400, "{keys:?}");
        for service in ["orders", "payments"] {
            let trace = new_trace(&mut fastrand::Rng::new());
            call_as(&mesh, service, "ana", &trace).await;
            let hashed = ["--trace", &trace, "--direction", "inbound"];
            let record = eventually(SOON, "the record", || mesh.search(&hashed).pop());
            let part = |name: &str| text(&record, name).to_owned();
            let hash = (part("picket.jwt.subject_key"), part("picket.jwt.subject_hash"));
            keys.entry(hash).or_default().insert(service.to_owned());
            traces.push(trace);
        }
    }
    // One hash for each key, at whatever service.
    let names: BTreeSet<&String> = keys.keys().map(|(key, _)| key).collect();
    assert_eq!(names.len(), keys.len(), "{keys:?}");
    let other = new_trace(&mut fastrand::Rng::new());
    call_as(&mesh, "orders", "bob", &other).await;
    eventually(SOON, "bob's record", || {
        mesh.search(&["--trace", &other, "--direction", "inbound"]).pop()
    });
    let found = mesh.search(&["--subject", "ana"]);
    let found: BTreeSet<&str> = found.iter().map(|record| text(record, "trace_id")).collect();
    assert_eq!(found, traces.iter().map(String::as_str).collect());
    assert_eq!(mesh.search(&["--subject", "ana", "destination = shop/nobody"]).len(), 0);
    // It is on record that somebody asked, and not for whom.
    assert!(!mesh.search(&["--event", "audit.subject_hash"]).is_empty());
    assert!(!mesh.search(&["--event", "subject_key.rotate"]).is_empty());
    let everything = serde_json::to_string(&mesh.search(&[])).unwrap();
    assert!(!everything.contains("\"ana\"") && !everything.contains("ana)"), "{everything}");
}
