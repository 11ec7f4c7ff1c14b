//! One unary gRPC call of the OTLP service.
//!
//! Written out, because tonic compresses with a level that costs several times what the first one
//! does, for a few percent: spans are alike, and their attributes' names are most of them.
//!
//! Specification: gRPC over HTTP/2 (`PROTOCOL-HTTP2.md`), OTLP 1.x "OTLP/gRPC".

use std::io::{self, Write as _};
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD_NO_PAD;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{CONTENT_TYPE, HeaderValue, TE};
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use picket_api::otlp::EXPORT_PATH;
use prost::Message;
use tonic::body::Body;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tower::{Service as _, ServiceExt as _};

/// Time for one batch.
const TIMEOUT: Duration = Duration::from_secs(30);
/// The same, for the receiver.
const TIMEOUT_HEADER: &str = "30S";
/// The metadata that the heads of the lanes travel in.
const HEADS: &str = "picket-heads-bin";
/// Longest answer.
const MAX_ANSWER: usize = 1 << 20;
/// Flag and length before a message.
const FRAME: usize = 5;

#[derive(Clone, PartialEq, Message)]
struct ExportResponse {
    #[prost(message, optional, tag = "1")]
    partial_success: Option<PartialSuccess>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct PartialSuccess {
    #[prost(int64, tag = "1")]
    pub(super) rejected_spans: i64,
    #[prost(string, tag = "2")]
    pub(super) error_message: String,
}

/// Sends one batch; tells what was rejected of it.
pub(super) async fn send(
    channel: Channel,
    message: Bytes,
    compressed: bool,
    heads: Option<&[u8]>,
) -> super::Sent {
    let sent = tokio::time::timeout(TIMEOUT, call(channel, message, compressed, heads)).await;
    sent.map_err(|_| Status::deadline_exceeded("no answer in time"))?
}

async fn call(
    mut channel: Channel,
    message: Bytes,
    compressed: bool,
    heads: Option<&[u8]>,
) -> super::Sent {
    let framed =
        frame(&message, compressed).map_err(|error| Status::internal(error.to_string()))?;
    let mut request = Request::post(EXPORT_PATH).body(Body::new(Full::new(framed)));
    if let Ok(request) = &mut request {
        let headers = request.headers_mut();
        headers.insert(TE, HeaderValue::from_static("trailers"));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert("grpc-timeout", HeaderValue::from_static(TIMEOUT_HEADER));
        if compressed {
            headers.insert("grpc-encoding", HeaderValue::from_static("gzip"));
        }
        let heads = heads.map(|heads| HeaderValue::try_from(BASE64_STANDARD_NO_PAD.encode(heads)));
        if let Some(Ok(heads)) = heads {
            headers.insert(HEADS, heads);
        }
    }
    let request = request.map_err(|error| Status::internal(error.to_string()))?;
    let unavailable = |error: tonic::transport::Error| Status::unavailable(crate::words(&error));
    let response = channel.ready().await.map_err(unavailable)?.call(request);
    let (head, body) = response.await.map_err(unavailable)?.into_parts();
    if head.status != StatusCode::OK {
        return Err(of_http(head.status));
    }
    check(Status::from_header_map(&head.headers))?;
    let body = Limited::new(body, MAX_ANSWER).collect().await;
    let body = body.map_err(|error| Status::unavailable(error.to_string()))?;
    let trailers = body.trailers().and_then(Status::from_header_map);
    check(Some(trailers.unwrap_or_else(|| Status::unavailable("the answer has no status"))))?;
    let bytes = body.to_bytes();
    let response = ExportResponse::decode(bytes.get(FRAME..).unwrap_or_default())
        .map_err(|error| Status::internal(error.to_string()))?;
    Ok(response.partial_success.filter(|partial| partial.rejected_spans > 0))
}

/// gRPC `http-grpc-status-mapping.md`.
fn of_http(status: StatusCode) -> Status {
    let words = format!("HTTP status {status}");
    match status {
        StatusCode::FORBIDDEN => Status::permission_denied(words),
        StatusCode::UNAUTHORIZED => Status::unauthenticated(words),
        StatusCode::NOT_FOUND => Status::unimplemented(words),
        StatusCode::TOO_MANY_REQUESTS
        | StatusCode::BAD_GATEWAY
        | StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::GATEWAY_TIMEOUT => Status::unavailable(words),
        _ => Status::unknown(words),
    }
}

fn check(status: Option<Status>) -> Result<(), Status> {
    match status {
        Some(status) if status.code() != Code::Ok => Err(status),
        _ => Ok(()),
    }
}

/// Length-prefixed message: `flag u8 | length u32 | message`.
fn frame(message: &Bytes, compressed: bool) -> io::Result<Bytes> {
    let mut out = vec![u8::from(compressed), 0, 0, 0, 0];
    if compressed {
        let mut encoder = GzEncoder::new(out, Compression::fast());
        encoder.write_all(message)?;
        out = encoder.finish()?;
    } else {
        out.extend_from_slice(message);
    }
    let length = u32::try_from(out.len() - FRAME).map_err(io::Error::other)?;
    if let Some(place) = out.get_mut(1..FRAME) {
        place.copy_from_slice(&length.to_be_bytes());
    }
    Ok(out.into())
}
