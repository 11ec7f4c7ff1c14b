//! An authorizer that speaks `envoy.service.auth.v3.Authorization/Check`.
//!
//! One call by hand, because what a client library makes of a stream that ends without a status is a yes too many.
//! Specification: gRPC over HTTP/2; `external_auth.proto` and `attribute_context.proto` of Envoy.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::{BufMut as _, Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HOST, TE};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri, Version};
use http_body_util::Full;
use picket_api::ext_authz::attribute_context::{self, Peer};
use picket_api::ext_authz::check_response::HttpResponse;
use picket_api::ext_authz::header_value_option::HeaderAppendAction;
use picket_api::ext_authz::{
    Address, AttributeContext, CheckRequest, CheckResponse, DeniedHttpResponse, HeaderValueOption,
    OkHttpResponse, SocketAddress, Timestamp,
};
use picket_policy::authorizer::ExternalAuthorizer;
use prost::Message as _;

use super::client::Reply;
use super::{Change, Changes, CheckError, Consent, Head, Question, Refusal, Said};

const CHECK: &str = "/envoy.service.auth.v3.Authorization/Check";
const GRPC: &str = "application/grpc";
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
/// A flag that says whether it is compressed, and its length.
const PREFIX: usize = 5;
const OK: i32 = 0;

/// The question as a call.
pub(super) fn request(
    authority: Option<&Authority>,
    authorizer: &ExternalAuthorizer,
    question: &Question<'_>,
) -> Result<Request<Full<Bytes>>, CheckError> {
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(Scheme::HTTP);
    parts.authority = authority.cloned();
    parts.path_and_query = Some(PathAndQuery::from_static(CHECK));
    let uri = Uri::from_parts(parts).map_err(|_| CheckError::Malformed("no target"))?;
    let message = message(question);
    let length = message.encoded_len();
    let mut body = BytesMut::with_capacity(PREFIX + length);
    body.put_u8(0);
    body.put_u32(u32::try_from(length).map_err(|_| CheckError::TooLarge)?);
    // It grows as needed.
    message.encode(&mut body).map_err(|_| CheckError::TooLarge)?;
    let mut request = Request::new(Full::new(body.freeze()));
    *request.uri_mut() = uri;
    *request.method_mut() = Method::POST;
    *request.version_mut() = Version::HTTP_2;
    let headers = request.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(GRPC));
    headers.insert(TE, HeaderValue::from_static("trailers"));
    let timeout = format!("{}m", authorizer.timeout().as_millis());
    if let Ok(timeout) = HeaderValue::from_str(&timeout) {
        headers.insert(GRPC_TIMEOUT, timeout);
    }
    Ok(request)
}

fn message(question: &Question<'_>) -> CheckRequest {
    let peer = |address, principal: Option<&str>| Peer {
        address: Some(socket_address(address)),
        principal: principal.unwrap_or_default().to_owned(),
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let time = Timestamp {
        seconds: i64::try_from(now.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(now.subsec_nanos()).unwrap_or_default(),
    };
    let http = question.request.as_ref().map(|head| http_request(head, question.is_tls));
    CheckRequest {
        attributes: Some(AttributeContext {
            source: Some(peer(question.remote, question.source)),
            destination: Some(peer(question.local, Some(question.destination))),
            request: Some(attribute_context::Request { time: Some(time), http }),
            tls_session: question
                .sni
                .map(|sni| attribute_context::TlsSession { sni: sni.to_owned() }),
        }),
    }
}

fn socket_address(address: SocketAddr) -> Address {
    Address {
        socket_address: Some(SocketAddress {
            address: address.ip().to_canonical().to_string(),
            port_value: address.port().into(),
        }),
    }
}

fn http_request(head: &Head<'_>, is_tls: bool) -> attribute_context::HttpRequest {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let host = head.headers.get(HOST).map_or_else(String::new, |host| text(host.as_bytes()));
    let scheme = if is_tls { "https" } else { "http" };
    // As Envoy has them: what HTTP/2 says in pseudo-headers stands among them.
    let mut headers: HashMap<String, String> = [
        (":authority", host.as_str()),
        (":method", head.method.as_str()),
        (":path", head.target),
        (":scheme", scheme),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .collect();
    headers.extend(
        head.headers()
            .filter(|(name, _)| *name != HOST)
            .map(|(name, value)| (name.as_str().to_owned(), text(&value))),
    );
    let size =
        head.headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    attribute_context::HttpRequest {
        id: head.id.to_owned(),
        method: head.method.as_str().to_owned(),
        headers,
        path: head.target.to_owned(),
        host,
        scheme: scheme.to_owned(),
        size: size.unwrap_or(-1),
        protocol: match head.version {
            Version::HTTP_2 => "HTTP/2".to_owned(),
            Version::HTTP_10 => "HTTP/1.0".to_owned(),
            _ => "HTTP/1.1".to_owned(),
        },
    }
}

/// What the answer means. A status that is missing, the call's or the answer's own, is none that says yes.
pub(super) fn answer(reply: Reply) -> Result<Result<Consent, Refusal>, CheckError> {
    let Reply { status, headers, body, trailers } = reply;
    if status != StatusCode::OK {
        return Err(CheckError::Status(status));
    }
    let content_type = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    if !content_type.starts_with(GRPC.as_bytes()) {
        return Err(CheckError::Malformed("it is not gRPC"));
    }
    // With nothing to say a server sends its status in the head.
    let call = trailers.as_ref().and_then(grpc_status).or_else(|| grpc_status(&headers));
    match call {
        Some(OK) => {}
        Some(other) => return Err(CheckError::GrpcStatus(other)),
        None => return Err(CheckError::Malformed("the call has no status")),
    }
    let response = decode(&body)?;
    let status = response.status.ok_or(CheckError::Malformed("it has no status"))?;
    match (status.code, response.http_response) {
        (_, Some(HttpResponse::ErrorResponse(_))) => Err(CheckError::Reported),
        (OK, Some(HttpResponse::OkResponse(ok))) => Ok(Ok(consent(ok)?)),
        (OK, None) => Ok(Ok(Consent::default())),
        (OK, Some(HttpResponse::DeniedResponse(_))) => {
            Err(CheckError::Malformed("it says both yes and no"))
        }
        (_, Some(HttpResponse::DeniedResponse(denied))) => Ok(Err(refusal(denied)?)),
        (_, Some(HttpResponse::OkResponse(_)) | None) => {
            Ok(Err(Refusal::new(StatusCode::FORBIDDEN, Said::default())))
        }
    }
}

fn grpc_status(headers: &HeaderMap) -> Option<i32> {
    headers.get(GRPC_STATUS)?.to_str().ok()?.parse().ok()
}

/// The one message of the answer.
fn decode(body: &Bytes) -> Result<CheckResponse, CheckError> {
    let malformed = CheckError::Malformed("it is not one message");
    let Some((&[flag, a, b, c, d], message)) = body.split_first_chunk::<PREFIX>() else {
        return Err(malformed);
    };
    if flag != 0 || u32::from_be_bytes([a, b, c, d]) as usize != message.len() {
        return Err(malformed);
    }
    CheckResponse::decode(message).map_err(|_| CheckError::Malformed("it is not a CheckResponse"))
}

fn consent(ok: OkHttpResponse) -> Result<Consent, CheckError> {
    if !ok.query_parameters_to_set.is_empty() || !ok.query_parameters_to_remove.is_empty() {
        // The target was decided on.
        return Err(CheckError::Unsupported("another query"));
    }
    let mut to_service = Changes::default();
    for name in ok.headers_to_remove {
        // Names of pseudo-headers cannot be removed, says the protocol, and are to be ignored.
        if !name.starts_with(':') {
            to_service.push(header_name(&name)?, Change::Remove);
        }
    }
    for option in ok.headers {
        change(option, &mut to_service)?;
    }
    let mut to_client = Changes::default();
    for option in ok.response_headers_to_add {
        change(option, &mut to_client)?;
    }
    Ok(Consent { to_service, to_client })
}

fn refusal(denied: DeniedHttpResponse) -> Result<Refusal, CheckError> {
    let code = denied.status.map_or(0, |status| status.code);
    let status = match u16::try_from(code) {
        Ok(0) => StatusCode::FORBIDDEN,
        Ok(code) => {
            StatusCode::from_u16(code).map_err(|_| CheckError::Malformed("its status is none"))?
        }
        Err(_) => return Err(CheckError::Malformed("its status is none")),
    };
    let mut changes = Changes::default();
    for option in denied.headers {
        change(option, &mut changes)?;
    }
    let mut headers = HeaderMap::new();
    changes.apply(&mut headers);
    Ok(Refusal::new(status, Said { headers, body: Bytes::from(denied.body) }))
}

fn header_name(name: &str) -> Result<HeaderName, CheckError> {
    name.parse().map_err(|_| CheckError::Malformed("a header's name"))
}

/// Unless it says otherwise it replaces what is there: what a client sends under that name is not what it said.
fn change(option: HeaderValueOption, changes: &mut Changes) -> Result<(), CheckError> {
    let action = option.append_action();
    let header = option.header.ok_or(CheckError::Malformed("a header without a name"))?;
    if header.key.starts_with(':') {
        return Err(CheckError::Unsupported("another method, host or path"));
    }
    let value =
        if header.raw_value.is_empty() { header.value.into_bytes() } else { header.raw_value };
    let value = HeaderValue::from_maybe_shared(Bytes::from(value))
        .map_err(|_| CheckError::Malformed("a header"))?;
    let change = match (option.append.map(|append| append.value), action) {
        (Some(true), _) => Change::Append(value),
        (None, HeaderAppendAction::AddIfAbsent) => Change::AddIfAbsent(value),
        (None, HeaderAppendAction::OverwriteIfExists) => Change::ReplaceIfPresent(value),
        _ => Change::Replace(value),
    };
    changes.push(header_name(&header.key)?, change);
    Ok(())
}
