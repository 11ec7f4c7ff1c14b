//! A service that says what it was asked, over HTTP/1.1 and HTTP/2 with prior knowledge.
//!
//! | path | answer |
//! |---|---|
//! | `/status/<n>` | that status |
//! | `/bytes/<n>` | that many bytes, streamed |
//! | `/broken` | the head of a response, and a broken connection |
//! | `/slow/<ms>` | as any other, but so much later |
//! | `/stream/<n>/<ms>` | so many lines, with a pause after each |
//! | `/grpc…` | the request's body again, as it comes, with gRPC trailers |
//! | with `Upgrade: echo` | 101, and from then on every byte again |
//! | with `Upgrade: websocket` | 101, and from then on every message again |
//! | any other | JSON of method, target, headers and the body's length |
//!
//! It keeps the trace id of every request that reaches it, and how each WebSocket ended.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, HeaderMap, HeaderValue, UPGRADE};
use http::{Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use serde_json::json;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};

use crate::websocket;

type Body = BoxBody<Bytes, std::io::Error>;

/// A running echo service. It ends when it is dropped.
pub struct Echo {
    address: SocketAddr,
    log: Arc<Log>,
    task: JoinHandle<()>,
}

/// What has reached it.
#[derive(Default)]
struct Log {
    requests: AtomicU64,
    traces: Mutex<Vec<String>>,
    closed: Mutex<Vec<String>>,
}

impl Log {
    fn take(&self, headers: &HeaderMap) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        // W3C Trace Context: version, trace id, parent id, flags.
        let parent = headers.get("traceparent").and_then(|value| value.to_str().ok());
        if let Some(trace) = parent.and_then(|parent| parent.split('-').nth(1)) {
            self.traces.lock().unwrap().push(trace.to_owned());
        }
    }
}

impl Echo {
    /// Starts it.
    pub async fn start() -> Self {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let log = Arc::new(Log::default());
        let entries = Arc::clone(&log);
        let task = tokio::spawn(async move {
            // Connections end with the service.
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = socket.accept().await.unwrap();
                let entries = Arc::clone(&entries);
                connections.spawn(async move {
                    let service = service_fn(move |request: Request<Incoming>| {
                        entries.take(request.headers());
                        let entries = Arc::clone(&entries);
                        async move { answer(request, entries).await }
                    });
                    let mut builder = auto::Builder::new(TokioExecutor::new());
                    // A proxy has one connection for all its callers.
                    builder.http2().max_concurrent_streams(20_000);
                    // A client that goes away is none of the test's business.
                    let _ended =
                        builder.serve_connection_with_upgrades(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { address, log, task }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Requests that have reached it.
    pub fn requests(&self) -> u64 {
        self.log.requests.load(Ordering::Relaxed)
    }

    /// How WebSockets ended, in order: the code and reason of the Close frame, or `broken`.
    pub fn closed(&self) -> Vec<String> {
        self.log.closed.lock().unwrap().clone()
    }

    /// The trace ids of the requests that have reached it, in order.
    pub fn traces(&self) -> Vec<String> {
        self.log.traces.lock().unwrap().clone()
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(
    mut request: Request<Incoming>,
    log: Arc<Log>,
) -> Result<Response<Body>, std::io::Error> {
    let protocol = request.headers().get(UPGRADE);
    if protocol.is_some_and(|protocol| protocol == "echo") {
        return Ok(upgrade(&mut request));
    }
    if protocol.is_some_and(|protocol| protocol == "websocket") {
        return Ok(websocket(&mut request, log));
    }
    let path = request.uri().path().to_owned();
    if let Some(status) = path.strip_prefix("/status/") {
        let mut response = Response::new(full(Bytes::new()));
        *response.status_mut() = StatusCode::from_bytes(status.as_bytes()).unwrap();
        return Ok(response);
    }
    if let Some(size) = path.strip_prefix("/bytes/") {
        return Ok(Response::new(zeros(size.parse().unwrap())));
    }
    if let Some(status) = path.strip_prefix("/broken/") {
        let mut response = Response::new(broken());
        *response.status_mut() = StatusCode::from_bytes(status.as_bytes()).unwrap();
        return Ok(response);
    }
    if let Some(milliseconds) = path.strip_prefix("/slow/") {
        tokio::time::sleep(Duration::from_millis(milliseconds.parse().unwrap())).await;
    }
    if let Some((count, milliseconds)) =
        path.strip_prefix("/stream/").and_then(|p| p.split_once('/'))
    {
        return Ok(Response::new(lines(count.parse().unwrap(), milliseconds.parse().unwrap())));
    }
    if path.starts_with("/grpc") {
        return Ok(grpc(request));
    }
    Ok(describe(request).await)
}

async fn describe(request: Request<Incoming>) -> Response<Body> {
    let (parts, mut body) = request.into_parts();
    let mut received = 0;
    let mut complete = true;
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => received += frame.data_ref().map_or(0, Bytes::len),
            Err(_) => complete = false,
        }
    }
    let mut headers: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (name, value) in &parts.headers {
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        headers.entry(name.as_str()).or_default().push(value);
    }
    let description = json!({
        "method": parts.method.as_str(),
        "target": parts.uri.to_string(),
        "version": format!("{:?}", parts.version),
        "headers": headers,
        "received": received,
        "complete": complete,
    });
    let mut response = Response::new(full(Bytes::from(description.to_string())));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn grpc(request: Request<Incoming>) -> Response<Body> {
    let frames = futures_util::stream::unfold(Some(request.into_body()), |body| async {
        let mut body = body?;
        match body.frame().await {
            Some(Ok(frame)) => Some((Ok(frame), Some(body))),
            Some(Err(error)) => Some((Err(std::io::Error::other(error)), None)),
            None => {
                let mut trailers = HeaderMap::new();
                trailers.insert("grpc-status", HeaderValue::from_static("0"));
                Some((Ok(Frame::trailers(trailers)), None))
            }
        }
    });
    let mut response = Response::new(StreamBody::new(Box::pin(frames)).boxed());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

fn upgrade(request: &mut Request<Incoming>) -> Response<Body> {
    let upgraded = hyper::upgrade::on(request);
    tokio::spawn(async move {
        let stream = TokioIo::new(upgraded.await.unwrap());
        let (mut read, mut write) = tokio::io::split(stream);
        let _ended = tokio::io::copy(&mut read, &mut write).await;
    });
    let mut response = Response::new(full(Bytes::new()));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert(UPGRADE, HeaderValue::from_static("echo"));
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
    response
}

fn websocket(request: &mut Request<Incoming>, log: Arc<Log>) -> Response<Body> {
    let upgraded = hyper::upgrade::on(&mut *request);
    let key = request.headers().get("sec-websocket-key").and_then(|key| key.to_str().ok());
    let accept = websocket::accept(key.unwrap_or_default());
    tokio::spawn(async move {
        let mut stream = TokioIo::new(upgraded.await.unwrap());
        let ending = loop {
            match websocket::read(&mut stream).await {
                Ok((websocket::CLOSE, payload)) => {
                    let (code, reason) = websocket::close(&payload);
                    break format!("{code} {reason}");
                }
                Ok((opcode, payload)) => {
                    let again = websocket::frame(opcode, &payload, false);
                    if stream.write_all(&again).await.is_err() {
                        break "broken".to_owned();
                    }
                }
                Err(_) => break "broken".to_owned(),
            }
        };
        log.closed.lock().unwrap().push(ending);
    });
    let mut response = Response::new(full(Bytes::new()));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert("sec-websocket-accept", HeaderValue::from_str(&accept).unwrap());
    response
}

fn full(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never: Infallible| match never {}).boxed()
}

/// Some bytes, time for them to be sent, and an error.
fn broken() -> Body {
    let frames = futures_util::stream::unfold(0, |step| async move {
        match step {
            0 => Some((Ok(Frame::data(Bytes::from_static(b"half"))), 1)),
            1 => {
                tokio::time::sleep(Duration::from_millis(50)).await;
                Some((Err(std::io::ErrorKind::Other.into()), 2))
            }
            _ => None,
        }
    });
    StreamBody::new(Box::pin(frames)).boxed()
}

/// Lines, each followed by a pause.
fn lines(count: u64, milliseconds: u64) -> Body {
    let frames = futures_util::stream::unfold(0, move |line| async move {
        if line == count {
            return None;
        }
        if line > 0 {
            tokio::time::sleep(Duration::from_millis(milliseconds)).await;
        }
        Some((Ok(Frame::data(Bytes::from(format!("{line}\n")))), line + 1))
    });
    StreamBody::new(Box::pin(frames)).boxed()
}

fn zeros(size: u64) -> Body {
    const CHUNK: u64 = 64 << 10;
    static ZEROS: [u8; CHUNK as usize] = [0; CHUNK as usize];
    let frames = (0..size.div_ceil(CHUNK)).map(move |index| {
        let left = size - index * CHUNK;
        let end = usize::try_from(left.min(CHUNK)).unwrap();
        Ok(Frame::data(Bytes::from_static(ZEROS.get(..end).unwrap())))
    });
    StreamBody::new(stream(frames)).boxed()
}

fn stream<T>(items: impl IntoIterator<Item = T>) -> impl futures_util::Stream<Item = T> {
    futures_util::stream::iter(items)
}
