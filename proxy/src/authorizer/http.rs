//! An authorizer that speaks plain HTTP: it gets the head of the request, and 200 is its yes.
//!
//! Specification: Envoy's `ext_authz` filter with `http_service`, as Istio configures it.

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_LENGTH, HOST, LOCATION, WWW_AUTHENTICATE};
use http::uri::{Authority, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, Uri};
use http_body_util::Full;
use picket_policy::authorizer::{HeaderNames, HttpCheck, is_reserved};

use super::client::Reply;
use super::{Change, Changes, CheckError, Consent, Head, Refusal, Said};

/// Names headers of the request that the service shall not get.
const TO_REMOVE: HeaderName = HeaderName::from_static("x-envoy-auth-headers-to-remove");

/// The question: method, host, path and query of the request, and the headers that the authorizer is told.
pub(super) fn request(
    authority: Option<&Authority>,
    check: &HttpCheck,
    head: &Head<'_>,
) -> Result<Request<Full<Bytes>>, CheckError> {
    let target = format!("{}{}", check.path_prefix(), head.target);
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(Scheme::HTTP);
    parts.authority = authority.cloned();
    parts.path_and_query = target.parse().ok();
    let uri = Uri::from_parts(parts).map_err(|_| CheckError::Malformed("no target"))?;
    let mut request = Request::new(Full::default());
    *request.uri_mut() = uri;
    *request.method_mut() = head.method.clone();
    let headers = request.headers_mut();
    for (name, value) in head.headers() {
        let is_told = name == HOST || name == AUTHORIZATION || check.include().contains(&name);
        if is_told && name != CONTENT_LENGTH {
            let value = HeaderValue::from_bytes(&value);
            headers.insert(name, value.map_err(|_| CheckError::Malformed("a header"))?);
        }
    }
    headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    for (name, value) in check.additional() {
        headers.insert(name, value.clone());
    }
    Ok(request)
}

/// What the answer means.
pub(super) fn answer(
    reply: Reply,
    check: &HttpCheck,
) -> Result<Result<Consent, Refusal>, CheckError> {
    let Reply { status, headers, body, .. } = reply;
    if status.is_server_error() {
        return Err(CheckError::Status(status));
    }
    if status != StatusCode::OK {
        let headers = to_denied(headers, check.to_downstream_on_deny());
        return Ok(Err(Refusal::new(status, Said { headers, body })));
    }
    let mut to_service = Changes::default();
    for name in headers.get_all(TO_REMOVE) {
        let names = name.to_str().map_err(|_| CheckError::Malformed("a header's name"))?;
        for name in names.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            let name = name.parse().map_err(|_| CheckError::Malformed("a header's name"))?;
            to_service.push(name, Change::Remove);
        }
    }
    take(&headers, check.to_upstream(), &mut to_service);
    let mut to_client = Changes::default();
    take(&headers, check.to_downstream_on_allow(), &mut to_client);
    Ok(Ok(Consent { to_service, to_client }))
}

/// All values of the headers that are wanted; the first replaces what was there.
fn take(headers: &HeaderMap, wanted: &HeaderNames, changes: &mut Changes) {
    for name in headers.keys().filter(|name| wanted.contains(name)) {
        for (index, value) in headers.get_all(name).iter().enumerate() {
            let (name, value) = (name.clone(), value.clone());
            let change = if index == 0 { Change::Replace(value) } else { Change::Append(value) };
            changes.push(name, change);
        }
    }
}

/// With a list what is on it, and what makes sense of the status; without one everything.
fn to_denied(headers: HeaderMap, wanted: Option<&HeaderNames>) -> HeaderMap {
    let is_wanted = |name: &HeaderName| {
        !is_reserved(name.as_str())
            && wanted.is_none_or(|wanted| {
                wanted.contains(name) || *name == WWW_AUTHENTICATE || *name == LOCATION
            })
    };
    let names: Vec<HeaderName> = headers.keys().filter(|name| is_wanted(name)).cloned().collect();
    let mut told = HeaderMap::with_capacity(names.len());
    for name in names {
        for value in headers.get_all(&name) {
            told.append(name.clone(), value.clone());
        }
    }
    told
}
