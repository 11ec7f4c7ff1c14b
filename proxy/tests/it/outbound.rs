//! The service's own calls, through two proxies.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::Full;
use picket_testkit::Mesh;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::{ALLOW_WEB, Options, Sidecar, TRUST_DOMAIN, http1, http2, json, send};

struct Pair {
    web: Sidecar,
    orders: Sidecar,
}

/// `web` knows `orders`, and believes it to run as the service account given.
async fn pair(account: &str, protocol: &str) -> Pair {
    pair_of_life(account, protocol, Duration::from_secs(3600)).await
}

/// The same, where the certificate of `web` lives no longer than that.
async fn pair_of_life(account: &str, protocol: &str, certificate_life: Duration) -> Pair {
    let mesh = Arc::new(Mesh::new(TRUST_DOMAIN));
    let orders = Sidecar::in_mesh(&mesh, Options { protocol, ..Options::default() }).await;
    let peers = format!(
        "peers:\n- {{service: orders, namespace: shop, serviceAccount: {account}, \
         endpoints: [{{address: '{}', port: 8080, protocol: {protocol}}}]}}\n",
        orders.inbound
    );
    let options = Options { account: "web", peers: &peers, certificate_life, ..Options::default() };
    Pair { web: Sidecar::in_mesh(&mesh, options).await, orders }
}

async fn call(web: &Sidecar, host: &str, path: &str) -> (StatusCode, HeaderMap, Bytes) {
    let stream = TcpStream::connect(web.outbound).await.unwrap();
    let request = Request::get(path).header("host", host).body(Full::default()).unwrap();
    send(http1(stream).await, request).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_goes_by_both_proxies_in_one_trace() {
    let Pair { web, orders } = pair("orders", "http").await;
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let stream = TcpStream::connect(web.outbound).await.unwrap();
    // As an HTTP proxy: an absolute target.
    let request = Request::get("http://orders.shop:8080/a?x=1")
        .header("host", "orders.shop:8080")
        .header("traceparent", format!("00-{trace}-b7ad6b7169203331-01"))
        .body(Full::default())
        .unwrap();
    let (status, _, body) = send(http1(stream).await, request).await;
    assert_eq!(status, StatusCode::OK);
    let seen = json(&body);
    assert_eq!(
        (&seen["target"], &seen["headers"]["host"][0]),
        (&"/a?x=1".into(), &"orders.shop:8080".into())
    );
    let xfcc = seen["headers"]["x-forwarded-client-cert"][0].as_str().unwrap();
    assert!(xfcc.ends_with("URI=spiffe://example.org/ns/shop/sa/web"), "{xfcc}");

    let client = web.sink.at_least(1).await.remove(0);
    let server = orders.sink.at_least(1).await.remove(0);
    assert_eq!((client.span.kind, server.span.kind), (3, 2), "CLIENT and SERVER");
    assert_eq!(client.span.trace_id, server.span.trace_id);
    assert_eq!(picket_certs::leaf::hex(&client.span.trace_id), trace);
    assert_eq!(server.span.parent_span_id, client.span.span_id, "a direct child");
    let (source, destination) =
        ("spiffe://example.org/ns/shop/sa/web", "spiffe://example.org/ns/shop/sa/orders");
    for (span, service) in [(&client, "web"), (&server, "orders")] {
        assert_eq!(span.resource_text("service.name"), Some(service));
        assert_eq!(span.text("picket.source"), Some(source));
        assert_eq!(span.text("picket.destination"), Some(destination));
        assert_eq!(span.text("picket.decision"), Some("allow"));
        assert_eq!(span.int("http.response.status_code"), Some(200));
        assert_eq!(span.text("url.query"), Some("x=REDACTED"));
    }
    // With the peer's name as Host alone, by every name it has.
    for host in ["orders", "orders:8080", "orders.shop", "ORDERS.shop.svc.cluster.local"] {
        assert_eq!(call(&web, host, "/b").await.0, StatusCode::OK, "{host}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_not_who_it_should_be_gets_nothing() {
    let Pair { web, orders } = pair("payments", "http").await;
    let (status, _, body) = call(&web, "orders", "/a").await;
    assert_eq!(status, StatusCode::BAD_GATEWAY);
    assert_eq!(json(&body)["code"], "upstream_identity");
    assert_eq!(orders.echo.requests(), 0);
    let span = web.sink.at_least(1).await.remove(0);
    assert_eq!(span.text("error.type"), Some("upstream_identity"));
    assert_eq!(span.text("picket.ending"), Some("upstream_aborted"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_does_not_take_our_certificate_is_named_as_the_reason() {
    let life = Duration::from_secs(2);
    for protocol in ["http", "http2"] {
        let Pair { web, orders } = pair_of_life("orders", protocol, life).await;
        // TLS looks at whole seconds.
        tokio::time::sleep(life + Duration::from_secs(1)).await;
        let (status, _, body) = call(&web, "orders", "/a").await;
        assert_eq!(status, StatusCode::BAD_GATEWAY);
        assert_eq!(json(&body)["code"], "upstream_tls");
        assert_eq!(orders.echo.requests(), 0);
        let span = web.sink.at_least(1).await.remove(0);
        assert_eq!(span.text("error.type"), Some("upstream_tls"));
        let refused = orders.sink.at_least(1).await.remove(0);
        assert_eq!(refused.text("error.type"), Some("peer_expired"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_of_the_mesh_is_refused_with_the_reason() {
    let Pair { web, orders } = pair("orders", "http").await;
    for (host, code) in [
        ("example.com", "destination_unknown"),
        ("payments", "destination_unknown"),
        ("orders:9", "destination_port_unknown"),
    ] {
        let (status, _, body) = call(&web, host, "/a").await;
        assert_eq!(status, StatusCode::BAD_GATEWAY);
        assert_eq!(json(&body)["code"], code);
    }
    let spans = web.sink.at_least(3).await;
    assert!(spans.iter().all(|span| span.text("picket.decision") == Some("deny")));
    assert_eq!(orders.echo.requests(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_goes_through_as_http2_on_every_hop() {
    let Pair { web, orders: _orders } = pair("orders", "grpc").await;
    let stream = TcpStream::connect(web.outbound).await.unwrap();
    let mut client = http2(stream).await;
    let request = Request::post("http://orders:8080/grpc.Test/Call")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Full::new(Bytes::from_static(b"\0\0\0\0\0")))
        .unwrap();
    let response = client.send_request(request).await.unwrap();
    let body = http_body_util::BodyExt::collect(response.into_body()).await.unwrap();
    assert_eq!(body.trailers().unwrap()["grpc-status"], "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn connect_opens_a_raw_connection_to_a_raw_port_only() {
    let Pair { web, orders } = pair("orders", "tcp").await;
    let mut stream = TcpStream::connect(web.outbound).await.unwrap();
    let head = "CONNECT orders:8080 HTTP/1.1\r\nhost: orders:8080\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(stream.read_u8().await.unwrap());
    }
    assert!(answer.starts_with(b"HTTP/1.1 200"));
    stream.write_all(b"GET /raw HTTP/1.0\r\n\r\n").await.unwrap();
    let answer = crate::support::read_all(&mut stream).await;
    assert!(answer.contains("\"/raw\""), "{answer}");
    assert_eq!(orders.echo.requests(), 1);
    drop(stream);
    let span = orders.sink.at_least(1).await.remove(0);
    assert_eq!(span.text("picket.source"), Some("spiffe://example.org/ns/shop/sa/web"));

    let Pair { web, .. } = pair("orders", "http").await;
    let mut stream = TcpStream::connect(web.outbound).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    let answer = crate::support::read_all(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    assert_eq!(ALLOW_WEB.matches("principals").count(), 1);
}
