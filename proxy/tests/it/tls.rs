//! Who gets in at all.

use std::time::Duration;

use http::StatusCode;
use picket_testkit::Mesh;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::{ALLOW_WEB, Options, Sidecar, TRUST_DOMAIN, connect, get, http1, json, send};

/// In TLS 1.3 the client learns of a refusal only when it reads.
async fn is_refused(sidecar: &Sidecar, client: std::sync::Arc<rustls::ClientConfig>) -> bool {
    match connect(sidecar.inbound, client).await {
        Err(_) => true,
        Ok(mut stream) => stream.read_u8().await.is_err(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_gets_in_without_a_certificate_of_the_mesh_and_each_attempt_is_recorded() {
    let sidecar = Sidecar::start(ALLOW_WEB).await;
    let server = sidecar.mesh.id("shop", "orders");
    let other = Mesh::new(TRUST_DOMAIN);
    let stranger = sidecar.client(None, b"http/1.1");
    assert!(is_refused(&sidecar, stranger).await);
    // Another authority's certificate; it still believes our server, to get as far as it can.
    let forged = sidecar.mesh.client(Some(&other.svid("shop", "web")), &server, b"http/1.1");
    assert!(is_refused(&sidecar, forged).await);
    let foreign = Mesh::new("other.org");
    let foreign = sidecar.mesh.client(Some(&foreign.svid("shop", "web")), &server, b"http/1.1");
    assert!(is_refused(&sidecar, foreign).await);
    let mut plain = TcpStream::connect(sidecar.inbound).await.unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\nhost: orders\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _reset = plain.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP"), "no HTTP is spoken with a stranger");

    let spans = sidecar.sink.at_least(4).await;
    let reasons: Vec<_> = spans.iter().map(|s| s.text("picket.decision.reason").unwrap()).collect();
    assert_eq!(
        reasons,
        ["no_client_certificate", "peer_unknown_authority", "peer_unknown_authority", "plaintext"]
    );
    for span in &spans {
        assert_eq!(span.text("picket.kind"), Some("connection"));
        assert_eq!(span.text("picket.decision"), Some("deny"));
        assert_eq!(span.text("picket.destination"), Some(server.as_str()));
        assert_eq!(span.text("picket.source"), None);
        assert!(span.text("picket.policy.generation").is_some());
        assert_eq!(span.span.status.as_ref().unwrap().code, 2);
    }
    assert_eq!(sidecar.echo.requests(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_can_tell_a_server_that_is_somebody_else() {
    let sidecar = Sidecar::start(ALLOW_WEB).await;
    let web = sidecar.mesh.svid("shop", "web");
    let payments = sidecar.mesh.id("shop", "payments");
    let tls = sidecar.mesh.client(Some(&web), &payments, b"http/1.1");
    let error = connect(sidecar.inbound, tls).await.unwrap_err().to_string();
    assert!(error.contains("sa/orders"), "{error}");
}

const PERMISSIVE: &str = r#"
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: orders, namespace: shop}
spec:
  selector: {matchLabels: {app: orders}}
  mtls: {mode: PERMISSIVE}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: public, namespace: shop}
spec:
  rules:
  - to: [{operation: {paths: ["/public*"]}}]
  - from: [{source: {principals: ["*"]}}]
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_permissive_port_takes_plain_text_but_gives_it_no_identity() {
    let sidecar = Sidecar::start(PERMISSIVE).await;
    for (path, expected) in [("/public/a", StatusCode::OK), ("/private", StatusCode::FORBIDDEN)] {
        let plain = TcpStream::connect(sidecar.inbound).await.unwrap();
        let mut request = get(path);
        let forged = "URI=spiffe://example.org/ns/shop/sa/web".parse().unwrap();
        request.headers_mut().insert("x-forwarded-client-cert", forged);
        let (status, _, body) = send(http1(plain).await, request).await;
        assert_eq!(status, expected);
        if status == StatusCode::OK {
            assert!(json(&body)["headers"].get("x-forwarded-client-cert").is_none());
        }
        let (status, _, _) = sidecar.call("web", get(path)).await;
        assert_eq!(status, StatusCode::OK, "with an identity");
    }
    let spans = sidecar.sink.at_least(4).await;
    assert_eq!(spans[0].text("picket.source"), None);
    assert_eq!(spans[0].text("url.scheme"), Some("http"));
    assert_eq!(spans[1].text("tls.protocol.version"), Some("1.3"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_ends_in_order_when_its_peers_certificate_does() {
    let sidecar = Sidecar::start(ALLOW_WEB).await;
    let directory = tempfile::tempdir().unwrap();
    let life = Duration::from_secs(2);
    let files = sidecar.mesh.files(directory.path(), "shop", "web", life);
    let chain = std::fs::read(files.certificate).unwrap();
    let key = std::fs::read(files.key).unwrap();
    let svid = picket_certs::Svid::from_pem(&chain, &key).unwrap();
    let server = sidecar.mesh.id("shop", "orders");
    let tls = sidecar.mesh.client(Some(&svid), &server, b"http/1.1");
    let mut client = http1(connect(sidecar.inbound, tls.clone()).await.unwrap()).await;
    assert_eq!(client.send_request(get("/a")).await.unwrap().status(), StatusCode::OK);
    let closed = tokio::time::timeout(Duration::from_secs(5), async {
        while client.ready().await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    closed.await.expect("the connection outlived its certificate");
    assert!(is_refused(&sidecar, tls).await, "not even a resumed session is accepted");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_handshake_is_cut_off() {
    let options = Options { config: "limits: {handshakeTimeout: 1s}\n", ..Options::default() };
    let sidecar = Sidecar::with(options).await;
    let mut silent = TcpStream::connect(sidecar.inbound).await.unwrap();
    let mut answer = Vec::new();
    let closed = tokio::time::timeout(Duration::from_secs(5), silent.read_to_end(&mut answer));
    closed.await.expect("the connection is still open").unwrap();
    let spans = sidecar.sink.at_least(1).await;
    assert_eq!(spans[0].text("picket.decision.reason"), Some("handshake_timeout"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_raw_port_is_decided_by_identity_alone() {
    let options = Options { protocol: "tcp", ..Options::default() };
    let sidecar = Sidecar::with(options).await;
    let mut stream = sidecar.connect(Some("web"), b"").await.unwrap();
    stream.write_all(b"GET /raw HTTP/1.0\r\n\r\n").await.unwrap();
    let answer = crate::support::read_all(&mut stream).await;
    assert!(answer.contains("\"/raw\""), "{answer}");
    let mut rogue = sidecar.connect(Some("rogue"), b"").await.unwrap();
    let _maybe_closed = rogue.write_all(b"GET /raw HTTP/1.0\r\n\r\n").await;
    assert_eq!(crate::support::read_all(&mut rogue).await, "");
    drop((stream, rogue));
    let mut spans = sidecar.sink.at_least(2).await;
    spans.sort_by_key(|span| span.text("picket.decision").map(str::to_owned));
    assert_eq!(spans[0].text("picket.policy"), Some("shop/allow-web"));
    assert_eq!(spans[1].text("picket.decision.reason"), Some("no_allow_matched"));
    assert!(spans.iter().all(|span| span.text("picket.kind") == Some("connection")));
}
