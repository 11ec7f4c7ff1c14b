//! An OTLP/gRPC receiver that keeps what it gets, as bytes and decoded by `opentelemetry-proto`.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::io::Read as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use base64::Engine as _;
use bytes::{BufMut as _, Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use http::{Request, Response};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::Span;
use picket_api::otlp::EXPORT_PATH;
use picket_api::v1::SignedHeads;
use prost::Message as _;
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};

/// A received span with the attributes of its resource.
#[derive(Clone, Debug)]
pub struct Received {
    /// The resource's attributes.
    pub resource: Vec<KeyValue>,
    /// The span.
    pub span: Span,
    /// Its bytes, as they came.
    pub bytes: Vec<u8>,
}

/// `ExportTraceServiceRequest` down to the bytes of its spans.
#[derive(Clone, PartialEq, prost::Message)]
struct RawExport {
    #[prost(message, repeated, tag = "1")]
    resource_spans: Vec<RawResourceSpans>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct RawResourceSpans {
    #[prost(message, optional, tag = "1")]
    resource: Option<Resource>,
    #[prost(message, repeated, tag = "2")]
    scope_spans: Vec<RawScopeSpans>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct RawScopeSpans {
    #[prost(bytes = "vec", repeated, tag = "2")]
    spans: Vec<Vec<u8>>,
}

/// What a receiver has.
#[derive(Default)]
struct Kept {
    spans: Vec<Received>,
    heads: Vec<SignedHeads>,
    /// Messages that came compressed.
    compressed: u64,
    /// What it does not take, and the status that it answers.
    poison: Option<(Poison, &'static str)>,
}

type Poison = Box<dyn Fn(&Received) -> bool + Send>;

impl Received {
    /// A text attribute of the span.
    pub fn text(&self, name: &str) -> Option<&str> {
        text(&self.span.attributes, name)
    }

    /// A whole-number attribute of the span.
    pub fn int(&self, name: &str) -> Option<i64> {
        match value(&self.span.attributes, name)? {
            Value::IntValue(value) => Some(*value),
            _ => None,
        }
    }

    /// The span's attributes that are texts or whole numbers, and its ids, flat, as
    /// `picket audit search` prints them.
    pub fn flat(&self) -> serde_json::Map<String, serde_json::Value> {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let mut flat = serde_json::Map::new();
        for attribute in &self.span.attributes {
            let value = match value(&self.span.attributes, &attribute.key) {
                Some(Value::StringValue(text)) => text.as_str().into(),
                Some(Value::IntValue(number)) => (*number).into(),
                Some(Value::ArrayValue(list)) => list.values.iter().filter_map(item).collect(),
                _ => continue,
            };
            flat.insert(attribute.key.clone(), value);
        }
        flat.insert("trace_id".to_owned(), hex(&self.span.trace_id).into());
        flat.insert("span_id".to_owned(), hex(&self.span.span_id).into());
        flat
    }

    /// A text attribute of the resource.
    pub fn resource_text(&self, name: &str) -> Option<&str> {
        text(&self.resource, name)
    }
}

/// An item of a list of texts.
fn item(value: &AnyValue) -> Option<serde_json::Value> {
    match value.value.as_ref()? {
        Value::StringValue(text) => Some(text.as_str().into()),
        _ => None,
    }
}

fn value<'a>(attributes: &'a [KeyValue], name: &str) -> Option<&'a Value> {
    attributes.iter().find(|a| a.key == name)?.value.as_ref()?.value.as_ref()
}

fn text<'a>(attributes: &'a [KeyValue], name: &str) -> Option<&'a str> {
    match value(attributes, name)? {
        Value::StringValue(text) => Some(text),
        _ => None,
    }
}

/// A running receiver. It ends when it is dropped.
pub struct OtlpSink {
    address: SocketAddr,
    received: Arc<Mutex<Kept>>,
    task: JoinHandle<()>,
}

impl OtlpSink {
    /// Starts it on a free port.
    pub async fn start() -> Self {
        Self::start_on("127.0.0.1:0".parse().unwrap()).await
    }

    /// Starts it where an earlier one was.
    pub async fn start_on(address: SocketAddr) -> Self {
        let socket = TcpListener::bind(address).await.unwrap();
        let address = socket.local_addr().unwrap();
        let received: Arc<Mutex<Kept>> = Arc::default();
        let store = Arc::clone(&received);
        let task = tokio::spawn(async move {
            // Connections end with the receiver.
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = socket.accept().await.unwrap();
                let store = Arc::clone(&store);
                connections.spawn(async move {
                    let service = service_fn(move |request| {
                        let store = Arc::clone(&store);
                        async move { Ok::<_, Infallible>(receive(request, &store).await) }
                    });
                    let builder = http2::Builder::new(TokioExecutor::new());
                    let _ended = builder.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { address, received, task }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// All spans so far, by the time at which they began.
    pub fn spans(&self) -> Vec<Received> {
        let mut spans = self.received.lock().unwrap().spans.clone();
        spans.sort_by_key(|received| received.span.start_time_unix_nano);
        spans
    }

    /// From now on a message with such a span is answered with this gRPC status, and none of it kept.
    pub fn refuse(
        &self,
        status: &'static str,
        poison: impl Fn(&Received) -> bool + Send + 'static,
    ) {
        self.received.lock().unwrap().poison = Some((Box::new(poison), status));
    }

    /// How many messages came compressed.
    pub fn compressed(&self) -> u64 {
        self.received.lock().unwrap().compressed
    }

    /// The signed heads that came with the exports so far, in their order.
    pub fn heads(&self) -> Vec<SignedHeads> {
        self.received.lock().unwrap().heads.clone()
    }

    /// Waits until at least so many spans have arrived.
    ///
    /// # Panics
    /// When they have not within ten seconds.
    pub async fn at_least(&self, count: usize) -> Vec<Received> {
        let started = Instant::now();
        loop {
            let spans = self.spans();
            if spans.len() >= count {
                return spans;
            }
            let seen = spans.len();
            assert!(started.elapsed() < Duration::from_secs(10), "{seen} of {count} spans arrived");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Drop for OtlpSink {
    fn drop(&mut self) {
        self.task.abort();
    }
}

type Body = StreamBody<
    futures_util::stream::Iter<std::array::IntoIter<Result<Frame<Bytes>, Infallible>, 2>>,
>;

async fn receive(request: Request<Incoming>, store: &Mutex<Kept>) -> Response<Body> {
    let known = request.uri().path() == EXPORT_PATH;
    let heads = request.headers().get("picket-heads-bin").map(heads);
    let body = request.into_body().collect().await.map(|b| b.to_bytes()).unwrap_or_default();
    // gRPC's framing: a flag for compression, the length in four bytes, the message.
    let framed = body.get(5..).unwrap_or_default();
    let message = match body.first() {
        Some(1) => {
            let mut message = Vec::new();
            flate2::read::GzDecoder::new(framed).read_to_end(&mut message).unwrap();
            message
        }
        _ => framed.to_vec(),
    };
    let status = match spans(&message) {
        Some(mut spans) if known => {
            let mut store = store.lock().unwrap();
            store.compressed += u64::from(body.first() == Some(&1));
            if let Some((poison, status)) = &store.poison
                && spans.iter().any(poison)
            {
                return answer(status);
            }
            store.spans.append(&mut spans);
            store.heads.extend(heads);
            "0"
        }
        _ => "12",
    };
    answer(status)
}

fn answer(status: &'static str) -> Response<Body> {
    let mut empty_message = BytesMut::new();
    empty_message.put_bytes(0, 5);
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static(status));
    let frames = [Ok(Frame::data(empty_message.freeze())), Ok(Frame::trailers(trailers))];
    let mut response = Response::new(StreamBody::new(futures_util::stream::iter(frames)));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

/// gRPC: binary metadata is base64, with or without padding.
fn heads(value: &HeaderValue) -> SignedHeads {
    let text = value.to_str().unwrap().trim_end_matches('=');
    let bytes = base64::prelude::BASE64_STANDARD_NO_PAD.decode(text).unwrap();
    SignedHeads::decode(bytes.as_slice()).unwrap()
}

/// The spans of an `ExportTraceServiceRequest`; none if it is not one.
///
/// # Panics
/// When a key stands twice in a span.
pub fn spans(message: &[u8]) -> Option<Vec<Received>> {
    let mut spans = Vec::new();
    for of_resource in RawExport::decode(message).ok()?.resource_spans {
        let resource = of_resource.resource.unwrap_or_default().attributes;
        for bytes in of_resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
            let span = Span::decode(bytes.as_slice()).ok()?;
            let keys: BTreeSet<&str> =
                span.attributes.iter().map(|attribute| &*attribute.key).collect();
            // OTLP: "Attribute keys MUST be unique". The sender gets no answer, so its test does not
            // get its spans.
            assert_eq!(keys.len(), span.attributes.len(), "a key stands twice: {span:?}");
            spans.push(Received { resource: resource.clone(), span, bytes });
        }
    }
    Some(spans)
}

/// SHA-256, hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}
