//! What passes, what is refused, and what the service and the caller get to see.

use bytes::Bytes;
use http::{Request, StatusCode, Version};
use http_body_util::{BodyExt as _, Full};
use picket_certs::Leaf;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::support::{ALLOW_WEB, Options, Sidecar, collect, get, http1, http2, json, post, send};

#[tokio::test(flavor = "multi_thread")]
async fn an_allowed_request_reaches_the_service_with_its_caller_vouched_for() {
    let sidecar = Sidecar::start(ALLOW_WEB).await;
    let svid = sidecar.mesh.svid("shop", "web");
    let server = sidecar.mesh.id("shop", "orders");
    let tls = sidecar.mesh.client(Some(&svid), &server, b"http/1.1");
    let stream = crate::support::connect(sidecar.inbound, tls).await.unwrap();
    let mut request = post("/orders//7?note=private", "two of them");
    let headers = request.headers_mut();
    headers
        .insert("x-forwarded-client-cert", "By=x;URI=spiffe://example.org/admin".parse().unwrap());
    headers.insert("x-picket-principal", "admin".parse().unwrap());
    headers.insert("connection", "x-hop".parse().unwrap());
    headers.insert("x-hop", "1".parse().unwrap());
    headers.insert("x-end", "2".parse().unwrap());
    let traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    headers.insert("traceparent", traceparent.parse().unwrap());
    let (status, _, body) = send(http1(stream).await, request).await;
    assert_eq!(status, StatusCode::OK);
    let seen = json(&body);
    assert_eq!(seen["method"], "POST");
    assert_eq!(seen["target"], "/orders/7?note=private");
    assert_eq!(seen["received"], 11);
    let headers = &seen["headers"];
    assert_eq!(headers["host"][0], "orders");
    assert_eq!(headers["x-end"][0], "2");
    assert!(headers.get("x-hop").is_none() && headers.get("x-picket-principal").is_none());
    let leaf = Leaf::from_der(&svid.chain()[0]).unwrap();
    let expected = format!(
        "By=spiffe://example.org/ns/shop/sa/orders;Hash={};Subject=\"\";\
         URI=spiffe://example.org/ns/shop/sa/web",
        leaf.fingerprint_hex()
    );
    assert_eq!(headers["x-forwarded-client-cert"], serde_json::json!([expected]));
    let passed_on = headers["traceparent"][0].as_str().unwrap();
    assert!(passed_on.starts_with("00-0af7651916cd43dd8448eb211c80319c-"), "{passed_on}");
    assert!(!passed_on.contains("b7ad6b7169203331"), "the service's parent is our span");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denial_is_a_problem_document_that_names_the_decision_and_no_policy() {
    let sidecar = Sidecar::start(ALLOW_WEB).await;
    let (status, headers, body) = sidecar.call("rogue", get("/orders")).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    assert_eq!(headers["content-type"], "application/problem+json");
    let problem = json(&body);
    assert_eq!((&problem["status"], &problem["code"]), (&403.into(), &"denied".into()));
    assert_eq!(problem["decision"], headers["x-picket-decision-id"].to_str().unwrap());
    assert!(!String::from_utf8_lossy(&body).contains("allow-web"));
    assert_eq!(sidecar.echo.requests(), 0, "nothing reached the service");
}

#[tokio::test(flavor = "multi_thread")]
async fn both_http_versions_are_served_and_connections_are_reused() {
    let sidecar = Sidecar::start(ALLOW_WEB).await;
    let mut client = sidecar.web().await;
    for _ in 0..3 {
        client.ready().await.unwrap();
        let (status, _, body) = collect(client.send_request(get("/a")).await.unwrap()).await;
        assert_eq!((status, &json(&body)["version"]), (StatusCode::OK, &"HTTP/1.1".into()));
    }
    let mut client = http2(sidecar.connect(Some("web"), b"h2").await.unwrap()).await;
    let requests = (0..20).map(|number| {
        let request = Request::get(format!("https://orders/{number}"));
        client.send_request(request.body(Full::default()).unwrap())
    });
    let responses: Vec<_> = requests.collect();
    for (number, response) in responses.into_iter().enumerate() {
        let response = response.await.unwrap();
        assert_eq!(response.version(), Version::HTTP_2);
        let (_, _, body) = collect(response).await;
        assert_eq!(json(&body)["target"], format!("/{number}"));
        assert_eq!(json(&body)["headers"]["host"][0], "orders");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_keeps_its_trailers_and_is_denied_in_its_own_words() {
    let options = Options { protocol: "grpc", ..Options::default() };
    let sidecar = Sidecar::with(options).await;
    let call = || {
        Request::post("https://orders/grpc.Test/Call")
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(Full::new(Bytes::from_static(b"\0\0\0\0\x02hi")))
            .unwrap()
    };
    let mut web = http2(sidecar.connect(Some("web"), b"h2").await.unwrap()).await;
    let response = web.send_request(call()).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let body = response.into_body().collect().await.unwrap();
    assert_eq!(body.trailers().unwrap()["grpc-status"], "0");
    assert_eq!(body.to_bytes(), "\0\0\0\0\x02hi");

    let mut rogue = http2(sidecar.connect(Some("rogue"), b"h2").await.unwrap()).await;
    let (status, headers, body) = collect(rogue.send_request(call()).await.unwrap()).await;
    assert_eq!((status, body.len()), (StatusCode::OK, 0));
    assert_eq!(headers["grpc-status"], "7", "PERMISSION_DENIED");
    assert_eq!(headers["content-type"], "application/grpc");
    let id = headers["x-picket-decision-id"].to_str().unwrap();
    assert!(headers["grpc-message"].to_str().unwrap().contains(id));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgraded_connection_carries_bytes_both_ways() {
    let sidecar = Sidecar::start(ALLOW_WEB).await;
    let mut stream = sidecar.connect(Some("web"), b"http/1.1").await.unwrap();
    let head = "GET /live HTTP/1.1\r\nhost: orders\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(stream.read_u8().await.unwrap());
    }
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 101"), "{answer}");
    for message in ["first", "\n\nsecond\r\n", "third"] {
        stream.write_all(message.as_bytes()).await.unwrap();
        let mut echoed = vec![0; message.len()];
        stream.read_exact(&mut echoed).await.unwrap();
        assert_eq!(echoed, message.as_bytes());
    }
    stream.shutdown().await.unwrap();
    let spans = sidecar.sink.at_least(1).await;
    assert_eq!(spans[0].int("http.response.status_code"), Some(101));
    assert_eq!(spans[0].int("http.response.body.size"), Some(20));
    assert_eq!(spans[0].text("picket.ending"), Some("completed"));
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_are_streamed_both_ways_whatever_their_size() {
    let sidecar = Sidecar::start(ALLOW_WEB).await;
    let size = 32 << 20;
    let (_, _, body) = sidecar.call("web", get(&format!("/bytes/{size}"))).await;
    assert_eq!(body.len(), size);
    let (_, _, body) = sidecar.call("web", post("/upload", vec![7; size])).await;
    assert_eq!(json(&body)["received"], size);
    let spans = sidecar.sink.at_least(2).await;
    let sizes: Vec<_> = spans
        .iter()
        .map(|s| (s.int("http.request.body.size"), s.int("http.response.body.size").unwrap() > 100))
        .collect();
    assert_eq!(sizes, [(Some(0), true), (Some(size as i64), true)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn smuggling_shapes_and_ambiguous_requests_get_a_4xx_and_a_record() {
    let sidecar = Sidecar::start(ALLOW_WEB).await;
    let with = |head: &str| format!("POST / HTTP/1.1\r\nhost: orders\r\n{head}\r\n0\r\n\r\n");
    let table = [
        (with("content-length: 5\r\ntransfer-encoding: chunked\r\n"), "400", "ambiguous_length"),
        (with("transfer-encoding: chunked\r\ncontent-length: 5\r\n"), "400", "ambiguous_length"),
        (with("content-length: 5\r\ncontent-length: 5\r\n"), "400", "ambiguous_length"),
        (with("transfer-encoding: gzip, chunked\r\n"), "400", "ambiguous_length"),
        (with("x: y\nz: w\r\n"), "400", "ambiguous_length"),
        (with("content-length: 5\r\ncontent-length: 6\r\n"), "400", "malformed_http"),
        (with("transfer-encoding: xchunked\r\n"), "400", "malformed_http"),
        (with("content-length: +5\r\n"), "400", "malformed_http"),
        (with("content-length : 5\r\n"), "400", "malformed_http"),
        (with("x: y\r\n folded\r\n"), "400", "malformed_http"),
        ("GET /a#b HTTP/1.1\r\nhost: orders\r\n\r\n".into(), "400", "ambiguous_length"),
        ("GET /a%2fb HTTP/1.1\r\nhost: orders\r\n\r\n".into(), "400", "path_encoded_slash"),
        ("GET /a HTTP/1.1\r\n\r\n".into(), "400", "bad_host"),
        ("GET /a HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n".into(), "400", "bad_host"),
        ("GET http://x/a HTTP/1.1\r\nhost: b\r\n\r\n".into(), "400", "host_mismatch"),
        ("CONNECT orders:80 HTTP/1.1\r\nhost: orders:80\r\n\r\n".into(), "400", "connect_refused"),
        (with(&format!("x: {}\r\n", "y".repeat(100_000))), "431", "head_too_large"),
    ];
    for (number, (request, status, code)) in table.iter().enumerate() {
        let answer = sidecar.raw("web", request.as_bytes()).await;
        let shown: String = request.chars().take(80).collect();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{shown:?}: {answer}");
        let spans = sidecar.sink.at_least(number + 1).await;
        let last = spans.last().unwrap();
        assert_eq!(last.text("picket.decision.reason"), Some(*code), "{shown:?}");
        assert_eq!(last.text("picket.source"), Some("spiffe://example.org/ns/shop/sa/web"));
    }
    assert_eq!(sidecar.echo.requests(), 0, "nothing reached the service");
}

#[tokio::test(flavor = "multi_thread")]
async fn after_an_ambiguous_request_nothing_on_the_connection_is_believed() {
    let sidecar = Sidecar::start(ALLOW_WEB).await;
    let smuggled = "GET /first HTTP/1.1\r\nhost: orders\r\n\r\n\
        POST / HTTP/1.1\r\nhost: orders\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n\
        0\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: orders\r\n\r\n";
    let answer = sidecar.raw("web", smuggled.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains("HTTP/1.1 400"), "{answer}");
    assert!(!answer.contains("/smuggled"), "{answer}");
    assert_eq!(sidecar.echo.requests(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_is_away_or_breaks_is_a_5xx_with_its_reason() {
    let sidecar = Sidecar::start(ALLOW_WEB).await;
    let statuses = [
        (StatusCode::OK, "upstream_aborted"),
        (StatusCode::IM_A_TEAPOT, "upstream_aborted"),
        (StatusCode::BAD_GATEWAY, "502"),
    ];
    for (number, (status, error_type)) in (1..).zip(statuses) {
        let stream = sidecar.connect(Some("web"), b"http/1.1").await.unwrap();
        let mut client = http1(stream).await;
        let path = format!("/broken/{}", status.as_str());
        let response = client.send_request(get(&path)).await.unwrap();
        assert_eq!(response.status(), status);
        assert!(response.into_body().collect().await.is_err(), "a cut body is not a whole one");
        let spans = sidecar.sink.at_least(number).await;
        let span = spans.iter().find(|span| span.text("url.path") == Some(&path));
        let span = span.expect("the record of the request");
        assert_eq!(span.text("picket.ending"), Some("upstream_aborted"));
        assert_eq!(span.text("error.type"), Some(error_type));
        let shown = span.int("http.response.status_code");
        assert_eq!(shown, Some(i64::from(status.as_u16())));
    }
    let (status, ..) = sidecar.call("web", get("/status/101")).await;
    assert_eq!(status, StatusCode::BAD_GATEWAY, "nobody asked for another protocol");
    let spans = sidecar.sink.at_least(4).await;
    let span = spans.last().unwrap();
    assert_eq!(span.text("error.type"), Some("upstream_unasked_switch"));
    assert_eq!(span.int("http.response.status_code"), Some(502), "as the client saw it");
    drop(sidecar);

    let options = Options { config: "", ..Options::default() };
    let mut sidecar = Sidecar::with(options).await;
    sidecar.echo = picket_testkit::Echo::start().await; // the one behind the proxy is gone
    let (status, headers, body) = sidecar.call("web", get("/a")).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(json(&body)["code"], "upstream_unreachable");
    assert!(headers.contains_key("x-picket-decision-id"));
    let span = sidecar.sink.at_least(1).await.remove(0);
    assert_eq!(span.text("picket.decision"), Some("allow"), "it was allowed all the same");
    assert_eq!(span.text("error.type"), Some("upstream_unreachable"));
}
