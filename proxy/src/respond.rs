//! The proxy's own answers: the one place that turns errors into responses.
//!
//! HTTP callers get a problem document (RFC 9457) and, for a token, a `WWW-Authenticate` challenge
//! (RFC 6750 section 3); gRPC callers get a status in a trailers-only response; what an external authorizer says to them
//! both is passed on. What is said names
//! the decision, by which an operator finds all about it, and no policy: that is not for outsiders.

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, WWW_AUTHENTICATE};
use http::{HeaderName, HeaderValue, Response, StatusCode, Version};
use http_body_util::Full;

use crate::error::RequestError;

/// Names the decision to the caller.
pub(crate) const DECISION_ID: HeaderName = HeaderName::from_static("x-picket-decision-id");

/// What about the request shapes the answer.
#[derive(Clone, Copy)]
pub(crate) struct Caller<'a> {
    pub(crate) is_grpc: bool,
    pub(crate) version: Version,
    pub(crate) decision_id: &'a str,
}

/// Whether a request is gRPC, by its content type.
pub(crate) fn is_grpc(headers: &http::HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|t| t.as_bytes().starts_with(b"application/grpc"))
}

/// The answer to a request that was refused or failed.
pub(crate) fn to(error: &RequestError, caller: Caller<'_>) -> Response<Full<Bytes>> {
    let said = match error {
        RequestError::Denied(denial) => denial.authorizer.as_ref().and_then(|no| no.said.as_ref()),
        _ => None,
    };
    let mut response = match said {
        _ if caller.is_grpc => grpc(error, caller),
        Some(said) => Response::new(Full::new(said.body.clone())),
        None => problem(error, caller),
    };
    if let Some(said) = said {
        if !caller.is_grpc {
            *response.status_mut() = error.status();
        }
        for name in said.headers.keys().filter(|name| !caller.is_grpc || **name != CONTENT_TYPE) {
            for value in said.headers.get_all(name) {
                response.headers_mut().append(name, value.clone());
            }
        }
    }
    if let RequestError::Token(token) = error {
        let challenge = format!("Bearer error=\"{}\"", token.kind.challenge());
        if let Ok(challenge) = HeaderValue::from_str(&challenge) {
            response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
        }
    }
    if let RequestError::Denied(denial) = error
        && let Some(standing) = denial.standing
    {
        standing.write_refusal(response.headers_mut());
    }
    if let Ok(id) = HeaderValue::from_str(caller.decision_id) {
        response.headers_mut().insert(DECISION_ID, id);
    }
    if matches!(error, RequestError::Malformed(_)) && caller.version < Version::HTTP_2 {
        // What follows on this connection cannot be trusted to be a request.
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// RFC 9457.
fn problem(error: &RequestError, caller: Caller<'_>) -> Response<Full<Bytes>> {
    let status = error.status();
    let body = serde_json::json!({
        "type": "about:blank",
        "title": status.canonical_reason().unwrap_or_default(),
        "status": status.as_u16(),
        "detail": error.to_string(),
        "code": public_code(error),
        "decision": caller.decision_id,
    });
    let mut response = Response::new(Full::new(Bytes::from(body.to_string())));
    *response.status_mut() = status;
    let problem_json = HeaderValue::from_static("application/problem+json");
    response.headers_mut().insert(CONTENT_TYPE, problem_json);
    response
}

/// Which rule or default denied is not the caller's to know; what is wrong with its own request is.
fn public_code(error: &RequestError) -> &'static str {
    match error {
        RequestError::Denied(denial) if denial.standing.is_none() => "denied",
        RequestError::Lost(_) => "denied",
        other => other.code(),
    }
}

/// gRPC over HTTP/2, "Responses": a trailers-only response has its status among the headers.
fn grpc(error: &RequestError, caller: Caller<'_>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::new()));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert("grpc-status", HeaderValue::from(grpc_status(error.status())));
    // Percent-encoding is needed for anything outside printable ASCII; these words have none.
    let message = format!("{error} (decision {})", caller.decision_id);
    if let Ok(message) = HeaderValue::from_str(&message) {
        headers.insert("grpc-message", message);
    }
    response
}

pub(crate) fn grpc_status(status: StatusCode) -> u16 {
    const INVALID_ARGUMENT: u16 = 3;
    const DEADLINE_EXCEEDED: u16 = 4;
    const PERMISSION_DENIED: u16 = 7;
    const RESOURCE_EXHAUSTED: u16 = 8;
    const UNAVAILABLE: u16 = 14;
    const UNAUTHENTICATED: u16 = 16;
    match status {
        StatusCode::BAD_REQUEST => INVALID_ARGUMENT,
        StatusCode::UNAUTHORIZED => UNAUTHENTICATED,
        StatusCode::FORBIDDEN => PERMISSION_DENIED,
        StatusCode::TOO_MANY_REQUESTS => RESOURCE_EXHAUSTED,
        StatusCode::GATEWAY_TIMEOUT => DEADLINE_EXCEEDED,
        // An external authorizer may deny with any of them.
        _ if !status.is_server_error() => PERMISSION_DENIED,
        _ => UNAVAILABLE,
    }
}
