//! An authorizer that speaks `envoy.service.auth.v3.Authorization/Check`, in every way that it can be right or wrong.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use http::{HeaderMap, Response, StatusCode};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use picket_api::ext_authz::check_response::HttpResponse;
use picket_api::ext_authz::{
    AttributeContext, BoolValue, CheckRequest, CheckResponse, DeniedHttpResponse, HeaderValue,
    HeaderValueOption, HttpStatus, OkHttpResponse, QueryParameter, Status,
};
use picket_testkit::program::PYTHON_GRPC;
use picket_testkit::{Process, eventually};
use prost::Message as _;
use tokio::net::TcpListener;

use super::{header, policies, with};
use crate::support::{Options, Sidecar, get, json};

/// What comes back: the head's status, the message as it is, and the trailers.
#[derive(Clone, Default)]
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) body: Vec<u8>,
    pub(super) trailers: Option<&'static str>,
    pub(super) is_grpc: bool,
}

impl Reply {
    pub(super) fn of(response: &CheckResponse) -> Self {
        Self::bytes(&response.encode_to_vec())
    }

    pub(super) fn bytes(message: &[u8]) -> Self {
        let mut body = BytesMut::new();
        body.put_u8(0);
        body.put_u32(u32::try_from(message.len()).unwrap());
        body.put_slice(message);
        Self { body: body.to_vec(), trailers: Some("0"), is_grpc: true, ..Self::default() }
    }
}

pub(super) struct Authorizer {
    pub(super) address: SocketAddr,
    reply: Arc<Mutex<Reply>>,
    pub(super) asked: Arc<Mutex<Vec<AttributeContext>>>,
}

impl Authorizer {
    pub(super) async fn start(reply: Reply) -> Self {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let authorizer =
            Self { address, reply: Arc::new(Mutex::new(reply)), asked: Arc::default() };
        let (reply, asked) = (Arc::clone(&authorizer.reply), Arc::clone(&authorizer.asked));
        tokio::spawn(async move {
            loop {
                let (stream, _) = socket.accept().await.unwrap();
                let (reply, asked) = (Arc::clone(&reply), Arc::clone(&asked));
                tokio::spawn(async move {
                    let service = service_fn(move |request| {
                        let (reply, asked) = (Arc::clone(&reply), Arc::clone(&asked));
                        async move { answer(request, &reply, &asked).await }
                    });
                    let served = http2::Builder::new(TokioExecutor::new())
                        .serve_connection(TokioIo::new(stream), service);
                    let _ended = served.await;
                });
            }
        });
        authorizer
    }

    pub(super) fn now(&self, reply: Reply) {
        *self.reply.lock().unwrap() = reply;
    }

    pub(super) fn policies(&self, more: &str) -> String {
        let port = self.address.port();
        policies(&format!("envoyExtAuthzGrpc: {{service: 127.0.0.1, port: {port}, {more}}}"))
    }
}

async fn answer(
    request: http::Request<Incoming>,
    reply: &Mutex<Reply>,
    asked: &Mutex<Vec<AttributeContext>>,
) -> Result<Response<impl hyper::body::Body<Data = Bytes, Error = Infallible> + use<>>, Infallible>
{
    assert_eq!(request.uri().path(), "/envoy.service.auth.v3.Authorization/Check");
    assert_eq!(header(request.headers(), "te"), Some("trailers"));
    assert!(
        header(request.headers(), "grpc-timeout").is_some_and(|timeout| timeout.starts_with("300"))
    );
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let length = u32::from_be_bytes(body[1..5].try_into().unwrap()) as usize;
    assert_eq!((body[0], length), (0, body.len() - 5));
    let request = CheckRequest::decode(&body[5..]).unwrap();
    asked.lock().unwrap().push(request.attributes.unwrap());
    let Reply { status, body, trailers, is_grpc } = reply.lock().unwrap().clone();
    let mut frames = vec![Ok::<_, Infallible>(Frame::data(Bytes::from(body)))];
    if let Some(status) = trailers {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", status.parse().unwrap());
        frames.push(Ok(Frame::trailers(trailers)));
    }
    let mut response = Response::new(StreamBody::new(tokio_stream::iter(frames)));
    *response.status_mut() = status;
    if is_grpc {
        response.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
    }
    Ok(response)
}

pub(super) fn status(code: i32) -> Option<Status> {
    Some(Status { code, message: "words".to_owned() })
}

pub(super) fn yes() -> CheckResponse {
    CheckResponse { status: status(0), http_response: None }
}

pub(super) fn option(key: &str, value: &str, append: Option<bool>) -> HeaderValueOption {
    let header = HeaderValue { key: key.to_owned(), value: value.to_owned(), ..Default::default() };
    let append = append.map(|value| BoolValue { value });
    HeaderValueOption { header: Some(header), append, append_action: 0 }
}

pub(super) fn yes_with(ok: OkHttpResponse) -> CheckResponse {
    CheckResponse { http_response: Some(HttpResponse::OkResponse(ok)), ..yes() }
}

pub(super) fn no_with(code: i32, denied: DeniedHttpResponse) -> CheckResponse {
    CheckResponse {
        status: status(code),
        http_response: Some(HttpResponse::DeniedResponse(denied)),
    }
}

const TIMEOUT: &str = "timeout: 300ms";

#[tokio::test(flavor = "multi_thread")]
async fn it_is_told_who_asks_whom_for_what() {
    let authorizer = Authorizer::start(Reply::of(&yes())).await;
    let sidecar = Sidecar::start(&authorizer.policies(TIMEOUT)).await;
    let sent =
        [("x-a", "1"), ("x-a", "2"), ("cookie", "c"), ("connection", "x-hop"), ("x-hop", "1")];
    let (code, _, body) = sidecar.call("web", with("/ask/%61?b=c", &sent)).await;
    assert_eq!(code, StatusCode::OK);
    assert_eq!(json(&body)["target"], "/ask/a?b=c");
    let asked = authorizer.asked.lock().unwrap().pop().unwrap();
    let (source, destination) = (asked.source.unwrap(), asked.destination.unwrap());
    assert_eq!(source.principal, "spiffe://example.org/ns/shop/sa/web");
    assert_eq!(destination.principal, "spiffe://example.org/ns/shop/sa/orders");
    let place = destination.address.unwrap().socket_address.unwrap();
    assert_eq!(
        (place.address.as_str(), place.port_value),
        ("127.0.0.1", sidecar.inbound.port().into())
    );
    assert_eq!(asked.tls_session.unwrap().sni, "orders.shop");
    let request = asked.request.unwrap();
    assert!(request.time.unwrap().seconds > 1_700_000_000);
    let http = request.http.unwrap();
    assert_eq!((http.method.as_str(), http.path.as_str()), ("GET", "/ask/a?b=c"));
    assert_eq!((http.host.as_str(), http.scheme.as_str()), ("orders", "https"));
    assert_eq!((http.protocol.as_str(), http.size), ("HTTP/1.1", -1));
    let told: HashMap<&str, &str> =
        http.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    for (name, value) in [
        (":authority", "orders"),
        (":method", "GET"),
        (":path", "/ask/a?b=c"),
        (":scheme", "https"),
        ("x-a", "1,2"),
        ("cookie", "c"),
    ] {
        assert_eq!(told.get(name), Some(&value), "{name}");
    }
    assert!(told["x-forwarded-client-cert"].contains("sa/web"));
    assert_eq!(told.get("x-hop"), None, "the service does not get it either");
    let span = sidecar.sink.at_least(1).await.remove(0);
    assert_eq!(span.text("picket.decision.id"), Some(http.id.as_str()));
}

#[tokio::test(flavor = "multi_thread")]
async fn its_yes_may_change_headers_and_its_no_is_the_clients_answer() {
    let ok = OkHttpResponse {
        headers: vec![
            option("x-user", "ana", None),
            option("x-seen", "ext", Some(true)),
            option("x-forwarded-client-cert", "By=x", None),
            option("host", "evil", None),
        ],
        headers_to_remove: vec!["authorization".into(), "host".into(), ":path".into()],
        response_headers_to_add: vec![option("x-checked", "1", None)],
        ..OkHttpResponse::default()
    };
    let authorizer = Authorizer::start(Reply::of(&yes_with(ok))).await;
    let sidecar = Sidecar::start(&authorizer.policies(TIMEOUT)).await;
    let sent = [("x-user", "admin"), ("x-seen", "me"), ("authorization", "Bearer x")];
    let (code, headers, body) = sidecar.call("web", with("/ask", &sent)).await;
    assert_eq!((code, header(&headers, "x-checked")), (StatusCode::OK, Some("1")));
    let seen = json(&body)["headers"].clone();
    assert_eq!(seen["x-user"], serde_json::json!(["ana"]));
    assert_eq!(seen["x-seen"], serde_json::json!(["me", "ext"]));
    assert_eq!(seen["host"], serde_json::json!(["orders"]));
    assert_eq!(seen.get("authorization"), None);
    assert!(seen["x-forwarded-client-cert"].to_string().contains("sa/web"));

    let denied = DeniedHttpResponse {
        status: Some(HttpStatus { code: 429 }),
        headers: vec![option("retry-after", "7", None), option("content-length", "1", None)],
        body: "later".to_owned(),
    };
    authorizer.now(Reply::of(&no_with(7, denied.clone())));
    let (code, headers, body) = sidecar.call("web", get("/ask")).await;
    assert_eq!((code, &*body), (StatusCode::TOO_MANY_REQUESTS, &b"later"[..]));
    assert_eq!(header(&headers, "retry-after"), Some("7"));
    let success = DeniedHttpResponse { status: Some(HttpStatus { code: 200 }), ..denied };
    for no in [
        CheckResponse { status: status(16), http_response: None },
        CheckResponse { status: status(7), ..yes_with(OkHttpResponse::default()) },
        no_with(7, DeniedHttpResponse::default()),
        no_with(7, success),
    ] {
        authorizer.now(Reply::of(&no));
        assert_eq!(sidecar.call("web", get("/ask")).await.0, StatusCode::FORBIDDEN, "{no:?}");
    }
    assert_eq!(sidecar.echo.requests(), 1);
}

/// Everything that is no answer, and its name in records.
fn failures() -> Vec<(&'static str, Reply, &'static str)> {
    let good = Reply::of(&yes());
    let body = |body: Vec<u8>| Reply { body, ..good.clone() };
    let twice = [good.body.clone(), good.body.clone()].concat();
    let mut compressed = good.body.clone();
    compressed[0] = 1;
    let without_status = CheckResponse { status: None, ..yes_with(OkHttpResponse::default()) };
    let other_query = OkHttpResponse {
        query_parameters_to_set: vec![QueryParameter { key: "a".into(), value: "b".into() }],
        ..OkHttpResponse::default()
    };
    let other_path =
        OkHttpResponse { headers: vec![option(":path", "/b", None)], ..OkHttpResponse::default() };
    let bad_header =
        OkHttpResponse { headers: vec![option("x", "a\nb", None)], ..OkHttpResponse::default() };
    let error = CheckResponse {
        http_response: Some(HttpResponse::ErrorResponse(DeniedHttpResponse::default())),
        ..yes()
    };
    let bad_status =
        DeniedHttpResponse { status: Some(HttpStatus { code: 99_999 }), ..Default::default() };
    vec![
        ("no status in it", Reply::of(&without_status), "malformed"),
        ("nothing in it", Reply::of(&CheckResponse::default()), "malformed"),
        ("a failed call", Reply { trailers: Some("13"), ..good.clone() }, "error"),
        ("a status that is none", Reply { trailers: Some("yes"), ..good.clone() }, "malformed"),
        ("a call without a status", Reply { trailers: None, ..good.clone() }, "malformed"),
        ("no message", body(Vec::new()), "malformed"),
        ("two messages", body(twice), "malformed"),
        ("half a message", body(good.body[..good.body.len() - 1].to_vec()), "malformed"),
        ("a compressed message", body(compressed), "malformed"),
        ("another message", Reply::bytes(b"\x0a\xff\xff"), "malformed"),
        ("a huge message", Reply::bytes(&vec![b'x'; 100_000]), "too_large"),
        ("another content", Reply { is_grpc: false, ..good.clone() }, "malformed"),
        ("an HTTP error", Reply { status: StatusCode::BAD_GATEWAY, ..good.clone() }, "error"),
        ("an error of its own", Reply::of(&error), "error"),
        ("yes and no", Reply::of(&no_with(0, DeniedHttpResponse::default())), "malformed"),
        ("another query", Reply::of(&yes_with(other_query)), "unsupported"),
        ("another path", Reply::of(&yes_with(other_path)), "unsupported"),
        ("a header that is none", Reply::of(&yes_with(bad_header)), "malformed"),
        ("an HTTP status that is none", Reply::of(&no_with(7, bad_status)), "malformed"),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_not_a_whole_yes_denies() {
    let authorizer = Authorizer::start(Reply::default()).await;
    let sidecar = Sidecar::start(&authorizer.policies(TIMEOUT)).await;
    let mut expected = Vec::new();
    for (what, reply, outcome) in failures() {
        authorizer.now(reply);
        let (code, _, body) = sidecar.call("web", get("/ask")).await;
        assert_eq!(
            (code, &json(&body)["code"]),
            (StatusCode::FORBIDDEN, &"denied".into()),
            "{what}"
        );
        expected.push(outcome);
    }
    assert_eq!(sidecar.echo.requests(), 0);
    assert_eq!(authorizer.asked.lock().unwrap().len(), expected.len(), "each was asked about");
    let spans = sidecar.sink.at_least(expected.len()).await;
    let mut outcomes: Vec<&str> =
        spans.iter().map(|span| span.text("picket.authorizer.outcome").unwrap()).collect();
    outcomes.sort_unstable();
    expected.sort_unstable();
    assert_eq!(outcomes, expected);
    authorizer.now(Reply::of(&yes()));
    assert_eq!(sidecar.call("web", get("/ask")).await.0, StatusCode::OK, "this is one");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authorizer_that_speaks_http_1_or_is_not_there_denies() {
    let http1 = super::Authorizer::start(super::Does::Answer(super::YES.into())).await;
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    for address in [http1.address, nobody] {
        let spec = format!(
            "envoyExtAuthzGrpc: {{service: 127.0.0.1, port: {}, {TIMEOUT}}}",
            address.port()
        );
        let sidecar = Sidecar::start(&policies(&spec)).await;
        assert_eq!(sidecar.call("web", get("/ask")).await.0, StatusCode::FORBIDDEN);
        assert_eq!(sidecar.echo.requests(), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn raw_connections_are_asked_about_by_what_is_known_of_them() {
    let authorizer = Authorizer::start(Reply::of(&yes())).await;
    // HTTP fields are left out on a raw connection, so more is asked about.
    let policies = authorizer.policies(TIMEOUT).replace("action: DENY, ", "");
    let sidecar =
        Sidecar::with(Options { policies: &policies, protocol: "tcp", ..Options::default() }).await;
    let request = b"GET /a HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    let answer = sidecar.raw("web", request).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let asked = authorizer.asked.lock().unwrap().pop().unwrap();
    assert_eq!(asked.source.unwrap().principal, "spiffe://example.org/ns/shop/sa/web");
    assert!(asked.request.unwrap().http.is_none());

    authorizer.now(Reply::of(&CheckResponse { status: status(7), http_response: None }));
    assert_eq!(sidecar.raw("web", request).await, "");
    authorizer.now(Reply { trailers: Some("14"), ..Reply::of(&yes()) });
    assert_eq!(sidecar.raw("web", request).await, "");
    assert_eq!(sidecar.echo.requests(), 1);
    let spans = sidecar.sink.at_least(3).await;
    let mut reasons: Vec<&str> =
        spans.iter().map(|span| span.text("picket.decision.reason").unwrap()).collect();
    reasons.sort_unstable();
    assert_eq!(reasons, ["allow_matched", "custom_denied", "custom_error"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authorizer_made_with_grpcio_is_understood() {
    let Some(python) = PYTHON_GRPC.or_skip("an_authorizer_made_with_grpcio_is_understood") else {
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/python/grpcio_authorizer.py");
    let authorizer = Process::foreign("authorizer", directory.path(), &python, &[script]);
    let port: u16 = eventually(Duration::from_secs(60), "the authorizer listens", || {
        authorizer.log().lines().next_back()?.parse().ok()
    });
    let spec = format!("envoyExtAuthzGrpc: {{service: localhost, port: {port}, timeout: 10s}}");
    let sidecar = Sidecar::start(&policies(&spec)).await;
    for _ in 0..3 {
        let (code, _, body) = sidecar.call("web", with("/ask/open", &[("x-caller", "me")])).await;
        assert_eq!(code, StatusCode::OK);
        let caller = serde_json::json!(["spiffe://example.org/ns/shop/sa/web"]);
        assert_eq!(json(&body)["headers"]["x-caller"], caller);
        let (code, _, body) = sidecar.call("web", get("/ask/other")).await;
        assert_eq!((code, &*body), (StatusCode::FORBIDDEN, &b"not open"[..]));
    }
}
